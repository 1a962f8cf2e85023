"""Tables of the recipe itself: what distillation and refinement give for a processor's seconds."""

from typing import Any

from threedgen.config.schedules import Schedule
from threedgen.config.schema import Config
from threedgen.runs.directory import RunDirectory
from threedgen.tasks.evaluation import scenes
from threedgen.tasks.evaluation.jobs import Job
from threedgen.tasks.evaluation.scoring import surface_figures
from threedgen.tasks.evaluation.tables import (
    CHAMFER,
    FRONT,
    IOU,
    JANUS,
    NORMALS,
    PSNR,
    Column,
    Condition,
    Measured,
    Table,
)

_COLUMNS = (PSNR, IOU, CHAMFER, NORMALS, JANUS, FRONT, Column("optimize_seconds", "s of a processor", 1))
_RECIPE = Condition("recipe", "the recipe")
_ONE_LONG_ROUND: dict[str, Any] = {
    "steps": 200,
    "camera.coarse_fraction": 0.4,
    "refine.rounds": 1,
    "refine.coarse_rounds": 0,
    "refine.sets": 16,
    "refine.strength": Schedule(0.75, 0.75),
    "refine.num_inference_steps": 40,
    "refine.steps": 200,
    "refine.lr_scale": Schedule(0.5, 0.05),
    "refine.background_random_probability": 0.0,
    "refine.sparsity_weight": 0.0,
}

TABLES = (
    Table(
        "recipe",
        "A short distillation and three rounds",
        "The recipe, and what it was before: 200 steps of distillation and one round of 30 DDIM steps.",
        (Condition("long", "200 steps, one round", _ONE_LONG_ROUND), _RECIPE),
        _COLUMNS,
    ),
    Table(
        "refinement",
        "Refinement",
        "Strength: how far the first and the last round noise the views, as fractions of the schedule.",
        (
            _RECIPE,
            Condition("rounds-0", "distilled only", {"refine.rounds": 0}),
            Condition("rounds-1", "one round", {"refine.rounds": 1, "refine.coarse_rounds": 0}),
            Condition("rounds-2", "two rounds", {"refine.rounds": 2}),
            Condition("weak", "strength 0.7, 0.3", {"refine.strength": Schedule(0.7, 0.3)}),
            Condition("strong", "strength 1, 0.7", {"refine.strength": Schedule(1.0, 0.7)}),
            Condition("sets-6", "6 sets a round", {"refine.sets": 6}),
            Condition("guidance-1", "guidance scale 1", {"refine.guidance_scale": 1.0}),
            Condition("guidance-4", "guidance scale 4", {"refine.guidance_scale": 4.0}),
            Condition("own-background", "no random colours behind", {"refine.background_random_probability": 0.0}),
        ),
        _COLUMNS,
    ),
)


def measure(table: Table, config: Config, run: RunDirectory) -> Measured:
    """Optimise what is not there yet; the surfaces are compared too."""
    return scenes.measure(table, config, run, _work)


def _work(job: Job) -> str:
    return scenes.optimize_and_compare(job, surface_figures)
