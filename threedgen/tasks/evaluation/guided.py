"""The study of guided sampling: a multi-view prior that has seen no pattern, and a 2D one that draws them, mixed."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from threedgen.cameras import Cameras
from threedgen.config.guidance import JointConfig, JointMode
from threedgen.config.load import load_config
from threedgen.config.schedules import Shape, ShapedSchedule
from threedgen.config.schema import Config, Task
from threedgen.core.randomness import generator
from threedgen.data.miniworld import Spec, build
from threedgen.diffusion.image_prior import ImagePrior
from threedgen.imaging import read_strip
from threedgen.metrics.distribution import require_torchmetrics, set_distance
from threedgen.metrics.image import GREY, border_color
from threedgen.runs.directory import RunDirectory
from threedgen.tasks.evaluation.dense_views import calibrated, encoder_stage
from threedgen.tasks.evaluation.jobs import Job, measured, with_settings
from threedgen.tasks.evaluation.plots import require_matplotlib
from threedgen.tasks.evaluation.priors import (
    ALL_VIEWS,
    cameras_at,
    drawing,
    judge_all,
    judged_specs,
    judged_truth,
    judging,
    trained,
)
from threedgen.tasks.evaluation.tables import IOU, JANUS, Claim, Column, Condition, Figures, Measured, Table
from threedgen.tasks.prompting import load_prior

MULTIVIEW_RECIPE, IMAGE_RECIPE = "train-plain-mini.yaml", "train-patterned-mini.yaml"
MIXTURES, JUDGED = "mixtures to draw and judge", "drawn and judged"
_DENSE_VIEWS = 24  # drawn together to see whether they agree
_DENSE_CAPTIONS, _CALIBRATED_WITH = 6, 2  # the first patterned ones


def weight(start: float, end: float, shape: Shape = Shape.linear) -> dict[str, Any]:
    return {"views.joint.multiview_weight": ShapedSchedule(start, end, shape=shape)}


_NAMED = Column("pattern_named", "named pattern", percent=True)
_PATTERN_IOU = Column("pattern_iou", "its IoU", 3)
TABLE = Table(
    "joint",
    "Guided sampling: a 2D model beside the multi-view one",
    "The multi-view model has never seen a pattern; the 2D model draws them. Weight: the multi-view model's share, "
    "constant or from the noisiest step to the last. Patterned captions: how often a view shows the named pattern, "
    "outline, likeness, the second colour's share of the object against the truth's, the largest distance of two "
    "views' backgrounds, and novel views by a scene fitted to half of 24 views drawn together; then plain captions "
    "with a part that belongs on the front. Fréchet and kernel distance: of all patterned views from true ones on the "
    "same backgrounds, in features of the mini VAE's encoder, scaled by their spread over the true views, so not FID.",
    (
        Condition("multiview", "multi-view alone", weight(1.0, 1.0)),
        Condition("weight-0.75", "0.75", weight(0.75, 0.75)),
        Condition("weight-0.5", "0.5", weight(0.5, 0.5)),
        Condition("weight-0.25", "0.25", weight(0.25, 0.25)),
        Condition("growing-0.25", "growing, 0.25 to 1", weight(0.25, 1.0)),
        Condition("growing-0", "growing, 0 to 1", weight(0.0, 1.0)),
        Condition("falling-0.25", "falling, 1 to 0.25", weight(1.0, 0.25)),
        Condition("falling-0", "falling, 1 to 0", weight(1.0, 0.0)),
        Condition("step", "1, from the middle on 0", weight(1.0, 0.0, Shape.step)),
        # a view alone is told its camera: the multi-view model, trained on sets only, has no 2D mode
        Condition(
            "consistency-camera",
            "2D + difference",
            {**weight(1.0, 1.0), "views.joint.mode": JointMode.consistency, "views.joint.self_camera": True},
        ),
        Condition("image", "2D alone", weight(0.0, 0.0)),
    ),
    (
        _NAMED,
        _PATTERN_IOU,
        Column("pattern_psnr", "PSNR dB"),
        Column("pattern_share", "second colour"),
        Column("pattern_spread", "spread", 3),
        Column("novel_psnr", "novel views dB", truth="true_novel_psnr"),
        Column("psnr", "plain: PSNR dB"),
        IOU,
        JANUS,
    ),
    (
        Claim(
            "The report: mixing comes closer to the 2D model's pictures.", "pattern_named", ("falling-0", "multiview")
        ),
        Claim(
            "The report: views agree almost as well as the multi-view model's.",
            "novel_psnr",
            ("multiview", "falling-0"),
        ),
        Claim("The report: a growing weight keeps more of the shape.", "pattern_iou", ("growing-0", "falling-0")),
        Claim("And a falling one more of the pattern.", "pattern_named", ("falling-0", "growing-0")),
        Claim("2D alone knows the pattern and no camera.", "pattern_iou", ("multiview", "image")),
    ),
    pictured="pattern_named",
    set_columns=(Column("frechet", "Fréchet"), Column("kernel", "kernel", 3)),
    plotted=("pattern_iou", "pattern_named"),
)


def measure(table: Table, config: Config, run: RunDirectory) -> Measured:
    """The table of views, distances of sets included. Raises ConfigError, before anything is trained or drawn, if what
    these or the plot are made with is not installed."""
    require_torchmetrics()
    require_matplotlib()
    jobs = mixtures(table, config, run, judged_specs(config, config.ablation.prompts // 4))
    found = measured(table.name, jobs, draw_and_judge, config, MIXTURES)
    return replace(found, of_sets={job.condition: distances(job) for job in jobs if job.is_done})


def mixtures(table: Table, config: Config, run: RunDirectory, specs: Sequence[Spec]) -> list[Job]:
    """A job for each of the table's conditions, in the table's folder; trains the two priors where none are given."""
    multiview = config.ablation.multiview_weights or _trained_by(MULTIVIEW_RECIPE, config, run)
    image = config.ablation.image_weights or _trained_by(IMAGE_RECIPE, config, run)
    joint = JointConfig(weights=str(image))
    base = replace(config, task=Task.sample_views, weights=str(multiview), views=replace(config.views, joint=joint))
    folder = run.folder / table.name
    return [judging(c.name, with_settings(base, c.settings), folder / c.name, specs) for c in table.conditions]


def _trained_by(recipe: str, config: Config, run: RunDirectory) -> Path:
    own = load_config(recipe, [f"output_root={config.output_root}", f"seed={config.seed}"])
    return trained(replace(own, runtime=config.runtime), run.folder / "priors" / Path(recipe).stem)


def ring_of(config: Config, size: int) -> Cameras:
    """Those of views that are drawn together to see whether they agree."""
    return cameras_at(config.camera, list(np.arange(_DENSE_VIEWS) * 360 / _DENSE_VIEWS), size)


def draw_and_judge(job: Job) -> str:
    """Draw every caption from the config's weights and `views.joint`, keep figures and pictures; of some patterned
    captions also as many views as tell whether they are of one object."""
    config = job.config
    prior = load_prior(config)
    draw = drawing(prior, config, ImagePrior.beside(prior, config.views.joint))
    ring = ring_of(config, prior.image_size)
    specs = [sample.spec for sample in job.samples]
    dense = [i for i, spec in enumerate(specs) if spec.form == "pattern"][:_DENSE_CAPTIONS]
    known = [build(specs[i], pattern_scale=config.train.pattern_scale) for i in dense[:_CALIBRATED_WITH]]
    novel = calibrated(known, ring, [f"runtime.device={config.runtime.device.name}"])

    def agreement(index: int) -> Figures:
        if index not in dense:
            return {}
        noise = generator(config.seed, index, "dense ablated views")
        (around,) = draw([specs[index].caption], ring, noise)
        return {"novel_psnr": novel(around, ring).psnr, "true_novel_psnr": novel.truth.psnr}

    judge_all(job, draw, agreement)
    return JUDGED


def distances(job: Job) -> Figures:
    """Of all patterned views from true ones on the same backgrounds; none of as few as there are features."""
    drawn, true = [], []
    for spec, folder in job.samples:
        if spec.form == "pattern":
            views = read_strip(folder / ALL_VIEWS).astype(np.float32) / 255
            _, truth = judged_truth(spec, job.config.camera, views.shape[1], job.config.train.pattern_scale)
            drawn.append(views)
            true.append(truth.rgb + (1 - truth.opacity) * (border_color(views)[:, None, None] - np.array(GREY)))
    if not true:
        return {}
    all_true = np.concatenate(true)
    with torch.no_grad():  # each feature counts as much as another: over the true views its mean is 0, its spread 1
        known = torch.from_numpy(all_true).float().movedim(-1, 1)
        means = torch.cat([encoder_stage(part).mean((2, 3)) for part in known.split(64)])
        if len(means) <= means.shape[1]:
            return {}
        middle, spread = means.mean(0)[:, None, None], means.std(0)[:, None, None]
    found = set_distance(np.concatenate(drawn), all_true, lambda images: (encoder_stage(images) - middle) / spread)
    return {"frechet": found.frechet, "kernel": found.kernel}
