"""Does an asset show the texture that only the 2D model knows? Two roads to it, with and without guided sampling."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch

from threedgen.cameras import Cameras
from threedgen.config.load import load_config
from threedgen.config.schema import Config
from threedgen.core.randomness import generator
from threedgen.diffusion.image_prior import ImagePrior
from threedgen.metrics.image import GREY
from threedgen.runs.directory import RunDirectory, open_run
from threedgen.scene.protocol import Shown
from threedgen.tasks.evaluation.dense_views import quick_fit
from threedgen.tasks.evaluation.guided import JUDGED, MIXTURES, mixtures, ring_of, weight
from threedgen.tasks.evaluation.jobs import Job, folder_name, measured
from threedgen.tasks.evaluation.priors import Draw, drawing, judge_all, judged_specs, negative_of
from threedgen.tasks.evaluation.tables import Claim, Column, Condition, Measured, Table
from threedgen.tasks.generate import optimize
from threedgen.tasks.prompting import encode_prompts, load_prior

_ALONE, _GUIDED = weight(1.0, 1.0), weight(1.0, 0.0)
TABLE = Table(
    "joint-assets",
    "Guided sampling in 3D",
    "The same two models. Distilled: guided-mini.yaml, most of which is refinement. Fitted: a scene fitted to 24 views "
    "that are drawn together. Guided: the multi-view model's weight falls from 1 to 0. The figures are of the scenes' "
    "own pictures from eight sides, as in the table before.",
    (
        Condition("distilled-multiview", "distilled", _ALONE),
        Condition("distilled-guided", "distilled, guided", _GUIDED),
        Condition("fitted-multiview", "fitted", _ALONE),
        Condition("fitted-guided", "fitted, guided", _GUIDED),
    ),
    (
        Column("pattern_named", "named pattern", percent=True),
        Column("pattern_share", "second colour"),
        Column("pattern_psnr", "PSNR dB"),
        Column("pattern_iou", "IoU", 3),
    ),
    (
        Claim("Distilled assets gain the pattern.", "pattern_named", ("distilled-guided", "distilled-multiview")),
        Claim("Fitted ones do.", "pattern_named", ("fitted-guided", "fitted-multiview")),
        Claim("The second road keeps more of it.", "pattern_named", ("fitted-guided", "distilled-guided")),
    ),
    pictured="pattern_named",
)


def measure(table: Table, config: Config, run: RunDirectory) -> Measured:
    """Of the first patterned captions of the table of views, an eighth of them."""
    few = replace(config, ablation=replace(config.ablation, prompts=max(1, config.ablation.prompts // 8)))
    specs = judged_specs(few, 0)
    return measured(table.name, mixtures(table, config, run, specs), make_and_judge, config, MIXTURES)


def make_and_judge(job: Job) -> str:
    """Make an asset of every caption along the road that the job's name begins with, and judge its pictures."""
    road = job.condition.split("-")[0]
    make = {"distilled": _distiller, "fitted": _fitter}[road](job)
    judge_all(job, _pictures_of(make))
    return JUDGED


def _pictures_of(make: Callable[[str, int], Shown]) -> Draw:
    """Draws by rendering: the scene of a caption, made once, from wherever it is asked for."""
    made: dict[str, Shown] = {}

    @torch.no_grad()
    def draw(captions: Sequence[str], cameras: Cameras, noise: torch.Generator) -> np.ndarray:
        for caption in captions:
            if caption not in made:
                with torch.enable_grad():
                    made[caption] = make(caption, len(made))
        grey = torch.tensor(GREY)
        return np.stack([made[c].render(cameras, background=grey).rgb.cpu().numpy() for c in captions])

    return draw


def _distiller(job: Job) -> Callable[[str, int], Shown]:
    """Caption and its number -> a scene by score distillation, in a run folder below the job's."""
    config = job.config
    prior = load_prior(config)
    recipe = replace(load_config("guided-mini.yaml", ["checkpoint_every=10000"]), runtime=config.runtime)
    joint, negative = config.views.joint, negative_of(config, prior)
    guidance, views = replace(recipe.guidance, joint=joint), replace(recipe.views, joint=joint)

    def make(caption: str, number: int) -> Shown:
        own = replace(
            recipe, prompt=caption, weights=config.weights, seed=config.seed + number, guidance=guidance, views=views,
            output_root=config.output_root, preview_every=10000, negative_prompt=negative,
        )  # fmt: skip
        with open_run(job.folder / "runs" / folder_name(caption), own) as run:
            scene, _ = optimize(own, run, prior, *encode_prompts(own, prior))
        return scene

    return make


def _fitter(job: Job) -> Callable[[str, int], Shown]:
    """Caption and its number -> a scene fitted to views that are drawn together."""
    config = job.config
    prior = load_prior(config)
    draw = drawing(prior, config, ImagePrior.beside(prior, config.views.joint))
    fit = quick_fit([f"runtime.device={config.runtime.device.name}"])
    ring = ring_of(config, prior.image_size)

    def make(caption: str, number: int) -> Shown:
        with torch.no_grad():
            (views,) = draw([caption], ring, generator(config.seed, number, "dense ablated views"))
        return fit(views, ring)

    return make
