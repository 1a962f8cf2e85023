"""The study of guided sampling: a multi-view prior that has seen no pattern, and a 2D one that draws them, mixed."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from threedgen.cameras import Cameras
from threedgen.config.load import load_config
from threedgen.config.schema import Config, JointConfig, JointMode, Shape, ShapedSchedule, Task
from threedgen.core.randomness import generator
from threedgen.data.miniworld import Spec, build
from threedgen.diffusion.image_prior import ImagePrior
from threedgen.metrics.distribution import set_distance
from threedgen.metrics.image import GREY, border_color
from threedgen.runs.directory import RunDirectory
from threedgen.tasks.evaluation.dense_views import calibrated, encoder_stage
from threedgen.tasks.evaluation.priors import (
    ALL_VIEWS,
    Variant,
    cameras_at,
    drawing,
    judge_all,
    judged_specs,
    judged_truth,
    trained,
)
from threedgen.tasks.evaluation.scenes import SCORE, collect, with_settings
from threedgen.tasks.evaluation.scoring import outcomes
from threedgen.tasks.evaluation.tables import Claim, Column, Condition, Figures, Measured, Table
from threedgen.tasks.prompting import load_prior

MULTIVIEW_RECIPE, IMAGE_RECIPE = "train-plain-mini.yaml", "train-patterned-mini.yaml"
_DENSE_VIEWS = 24  # drawn together to see whether they agree
_DENSE_CAPTIONS, _CALIBRATED_WITH = 6, 2  # the first patterned ones


def weight(start: float, end: float, shape: Shape = Shape.linear) -> dict[str, Any]:
    return {"views.joint.multiview_weight": ShapedSchedule(start, end, shape=shape)}


def _consistency(self_camera: bool) -> dict[str, Any]:
    return {
        **weight(1.0, 1.0),
        "views.joint.mode": JointMode.consistency,
        "views.joint.self_camera": self_camera,
    }


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
        Condition("consistency", "2D + difference", _consistency(False)),
        Condition("consistency-camera", "2D + difference, camera in both", _consistency(True)),
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
        Column("iou", "IoU", 3),
        Column("janus", "Janus", percent=True),
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
    """The table of views, distances of sets included."""
    specs = judged_specs(config, config.ablation.prompts // 4)
    jobs = mixtures(table, config, run, specs)
    measured = judged(table, config, jobs, draw_and_judge)
    done = [job for job in jobs if all((job.sample(i) / SCORE).exists() for i in range(len(specs)))]
    return replace(measured, of_sets={job.name: distances(job) for job in done})


def mixtures(table: Table, config: Config, run: RunDirectory, specs: Sequence[Spec]) -> list[Variant]:
    """A job for each of the table's conditions, in the table's folder; trains the two priors where none are given."""
    multiview = config.ablation.multiview_weights or _trained_by(MULTIVIEW_RECIPE, config, run)
    image = config.ablation.image_weights or _trained_by(IMAGE_RECIPE, config, run)
    joint = JointConfig(weights=str(image))
    base = replace(config, task=Task.sample_views, weights=str(multiview), views=replace(config.views, joint=joint))
    folder = run.folder / table.name
    return [Variant(c.name, with_settings(base, c.settings), folder / c.name, tuple(specs)) for c in table.conditions]


def judged(table: Table, config: Config, jobs: Sequence[Variant], work: Callable[[Variant], None]) -> Measured:
    """Do the jobs that are not done yet, and read what all of them have found."""
    todo = [job for job in jobs if not all((job.sample(i) / SCORE).exists() for i in range(len(job.specs)))]
    print(f"{table.name}: {len(todo)} mixtures to draw and judge, {len(jobs) - len(todo)} there", flush=True)
    failures = []
    for outcome in outcomes(work, todo, config):
        if outcome.error:
            failures.append(f"{table.name}: {outcome.job.name}: {outcome.error}")
        print(f"{table.name}: {outcome.job.name}: {outcome.error or 'drawn and judged'}", flush=True)
    samples = [(job.name, spec.caption, job.sample(i)) for job in jobs for i, spec in enumerate(job.specs)]
    return collect(samples, failures)


def _trained_by(recipe: str, config: Config, run: RunDirectory) -> Path:
    settings = [f"output_root={config.output_root}", f"seed={config.seed}", f"runtime.threads={config.runtime.threads}"]
    return trained(load_config(recipe, settings), run.folder / "priors" / Path(recipe).stem)


def ring_of(config: Config, size: int) -> Cameras:
    """Those of views that are drawn together to see whether they agree."""
    return cameras_at(config.camera, list(np.arange(_DENSE_VIEWS) * 360 / _DENSE_VIEWS), size)


def draw_and_judge(job: Variant) -> None:
    """Draw every caption from the config's weights and `views.joint`, keep figures and pictures; of some patterned
    captions also as many views as tell whether they are of one object."""
    config = job.config
    prior = load_prior(config)
    draw = drawing(prior, config, ImagePrior.beside(prior, config.views.joint))
    ring = ring_of(config, prior.image_size)
    dense = [i for i, spec in enumerate(job.specs) if spec.form == "pattern"][:_DENSE_CAPTIONS]
    known = [build(job.specs[i], pattern_scale=config.train.pattern_scale) for i in dense[:_CALIBRATED_WITH]]
    novel = calibrated(known, ring)

    def agreement(index: int) -> Figures:
        if index not in dense:
            return {}
        noise = generator(config.seed, index, "dense ablated views")
        (around,) = draw([job.specs[index].caption], ring, noise)
        return {"novel_psnr": novel(around, ring).psnr, "true_novel_psnr": novel.truth.psnr}

    judge_all(job, draw, agreement)


def distances(job: Variant) -> Figures:
    """Of all patterned views from true ones on the same backgrounds."""
    drawn, true = [], []
    for i, spec in enumerate(job.specs):
        if spec.form == "pattern":
            picture = np.asarray(Image.open(job.sample(i) / ALL_VIEWS), np.float32) / 255
            views = np.stack(np.split(picture, picture.shape[1] // picture.shape[0], axis=1))
            _, truth = judged_truth(spec, job.config.camera, len(picture), job.config.train.pattern_scale)
            drawn.append(views)
            true.append(truth.rgb + (1 - truth.opacity) * (border_color(views)[:, None, None] - np.array(GREY)))
    all_true = np.concatenate(true)
    with torch.no_grad():  # each feature counts as much as another: over the true views its mean is 0, its spread 1
        known = torch.from_numpy(all_true).float().movedim(-1, 1)
        means = torch.cat([encoder_stage(part).mean((2, 3)) for part in known.split(64)])
        middle, spread = means.mean(0)[:, None, None], means.std(0)[:, None, None]
    found = set_distance(np.concatenate(drawn), all_true, lambda images: (encoder_stage(images) - middle) / spread)
    return {"frechet": found.frechet, "kernel": found.kernel}
