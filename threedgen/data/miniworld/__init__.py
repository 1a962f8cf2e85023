"""Captioned procedural objects whose ground truth is known from every side. Needs numpy only."""

from threedgen.data.miniworld.grammar import COLORS, Spec, held_out, parse, patterned_specs, training_specs, vocabulary
from threedgen.data.miniworld.objects import MiniObject, build
from threedgen.data.miniworld.render import Rendering, render

__all__ = [
    "COLORS",
    "MiniObject",
    "Rendering",
    "Spec",
    "build",
    "held_out",
    "parse",
    "patterned_specs",
    "render",
    "training_specs",
    "vocabulary",
]
