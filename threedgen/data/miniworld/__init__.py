"""Captioned procedural objects whose ground truth is known from every side. Needs numpy only."""

from threedgen.data.miniworld.grammar import (
    COLORS,
    Spec,
    draw_training_specs,
    held_out,
    held_out_patterned,
    of_kinds,
    parse,
    patterned_specs,
    training_patterned_specs,
    training_specs,
    vocabulary,
)
from threedgen.data.miniworld.objects import MiniObject, build
from threedgen.data.miniworld.render import Rendering, render

__all__ = [
    "COLORS",
    "MiniObject",
    "Rendering",
    "Spec",
    "build",
    "draw_training_specs",
    "held_out",
    "held_out_patterned",
    "of_kinds",
    "parse",
    "patterned_specs",
    "render",
    "training_patterned_specs",
    "training_specs",
    "vocabulary",
]
