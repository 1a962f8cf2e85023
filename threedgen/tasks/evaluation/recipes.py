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
QUICK: dict[str, Any] = {  # what configs/mvdream-mini-quick.yaml changes of the recipe that it extends
    "steps": 30,
    "camera.coarse_fraction": 1.0,
    "refine.rounds": 3,
    "refine.coarse_rounds": 1,
    "refine.sets": 12,
    "refine.strength": Schedule(0.9, 0.5),
    "refine.num_inference_steps": 8,
    "refine.steps": 120,
    "refine.rays_per_step": 4096,
    "refine.lr_scale": Schedule(1.0, 0.05),
    "refine.background_random_probability": 0.75,
    "refine.sparsity_weight": 0.0012,
}


def _changed(name: str, label: str, **settings: Any) -> Condition:
    """The quick recipe with settings of its refinement changed."""
    return Condition(name, label, QUICK | {f"refine.{key}": value for key, value in settings.items()})


TABLES = (
    Table(
        "recipe",
        "A long distillation or short rounds",
        "The mini recipe, and the quick one, which distils 30 steps and draws views in three rounds of few DDIM steps.",
        (Condition("recipe", "the recipe"), Condition("quick", "quick", QUICK)),
        _COLUMNS,
    ),
    Table(
        "refinement",
        "Refinement",
        "Of the quick recipe. Strength: how far the first and the last round noise the views, as fractions of the "
        "schedule.",
        (
            Condition("quick", "quick", QUICK),
            _changed("rounds-0", "distilled only", rounds=0),
            _changed("rounds-1", "one round", rounds=1, coarse_rounds=0),
            _changed("rounds-2", "two rounds", rounds=2),
            _changed("weak", "strength 0.7, 0.3", strength=Schedule(0.7, 0.3)),
            _changed("strong", "strength 1, 0.7", strength=Schedule(1.0, 0.7)),
            _changed("sets-6", "6 sets a round", sets=6),
            _changed("whole", "whole sets a step", rays_per_step=0),
            _changed("steps-16", "16 DDIM steps of the whole schedule", num_inference_steps=16),
            _changed("guidance-1", "guidance scale 1", guidance_scale=1.0),
            _changed("guidance-4", "guidance scale 4", guidance_scale=4.0),
            _changed("range-0", "guidance over the whole schedule", guidance_range=(0.0, 1.0)),
            _changed("range-0.45", "guidance above 0.45 of the schedule", guidance_range=(0.45, 1.0)),
            _changed(
                "squares",
                "squared differences",
                huber=0.0,
                opaque_weight=0.005,
                smoothness_weight=0.005,
                sparsity_weight=0.004,
            ),
            _changed("own-background", "no random colours behind", background_random_probability=0.0),
        ),
        _COLUMNS,
    ),
)


def measure(table: Table, config: Config, run: RunDirectory) -> Measured:
    """Optimise what is not there yet; the surfaces are compared too."""
    return scenes.measure(table, config, run, _work)


def _work(job: Job) -> str:
    return scenes.optimize_and_compare(job, surface_figures)
