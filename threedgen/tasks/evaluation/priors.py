"""Ablations of the prior itself: variants of network and data, trained alike from one 2D start."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import torch

from threedgen.cameras import Cameras, viewing_cameras
from threedgen.config.evaluation import ABLATION_TABLES, AblationConfig
from threedgen.config.scene import CameraConfig
from threedgen.config.schema import Config, Task
from threedgen.config.training import CameraInput, ViewAttention
from threedgen.core.files import write_json_atomically
from threedgen.core.randomness import generator, stable_seed
from threedgen.data.exact_views import exact_views
from threedgen.data.miniworld import COLORS, Rendering, Spec, build, held_out, of_kinds, patterned_specs
from threedgen.diffusion.image_prior import ImagePrior
from threedgen.diffusion.mini import IMAGE_SIZE
from threedgen.diffusion.networks.multiview_unet import MultiViewUNet
from threedgen.diffusion.prior import MultiViewPrior
from threedgen.diffusion.sampling import sample_views
from threedgen.diffusion.text.prompts import read_prompt
from threedgen.imaging import save_strip
from threedgen.metrics.image import GREY, border_color, drawn_silhouette, psnr, silhouette_iou
from threedgen.metrics.janus import janus_score
from threedgen.metrics.pattern import named_patterns
from threedgen.runs.directory import RunDirectory, open_run
from threedgen.tasks.evaluation.jobs import (
    PICTURE,
    PICTURE_ELEVATION,
    SCORE,
    Job,
    Sample,
    measured,
    sample_name,
    with_settings,
)
from threedgen.tasks.evaluation.scoring import LEAST_SHARE, can_fail, face_figures, feature_fraction
from threedgen.tasks.evaluation.tables import (
    FRONT,
    IOU,
    JANUS,
    PSNR,
    Claim,
    Column,
    Condition,
    Figures,
    Measured,
    Table,
)
from threedgen.tasks.prompting import load_prior
from threedgen.tasks.training import train_prior

_AZIMUTHS = ((0.0, 90.0, 180.0, 270.0), (30.0, 120.0, 210.0, 300.0))  # two sets of views of each caption
_FRONT, _BACK, _PICTURED = (0, 4), (2, 6), (4, 6)  # indices into both sets
_CAPTIONS_AT_ONCE = 8
ALL_VIEWS = "all-views.png"  # the eight side by side

_SPREAD = Column("spread", "background spread", 3)
_VIEW_COLUMNS = (PSNR, IOU, JANUS, FRONT, _SPREAD)
_BASELINE = Condition("inflated", "inflated attention, camera on the timestep, with 2D data")

TABLES = (
    Table(
        "attention",
        "Attention across views",
        "Temporal: within a view, then in new layers over the views at each pixel. None: within a view only. "
        "Epipolar: inflated, then in new layers at points along each pixel's ray. SPAD: inflated, along epipolar lines "
        "only, each block told the pixels' rays. "
        "Background spread: the largest distance (RGB, 0 to 1.7) between the backgrounds of two views of a set. "
        "The prior may choose any, but training shows the views of an object on one: 0 is consistent.",
        (
            replace(_BASELINE, label="inflated"),
            Condition("temporal", "temporal", {"train.view_attention": ViewAttention.temporal}),
            Condition("none", "none", {"train.view_attention": ViewAttention.none}),
            Condition("epipolar", "epipolar", {"train.view_attention": ViewAttention.epipolar}),
            Condition("spad", "SPAD", {"train.view_attention": ViewAttention.spad}),
        ),
        _VIEW_COLUMNS,
        (
            Claim("The paper: inflated before temporal attention.", "psnr", ("inflated", "temporal")),
            Claim("Views must see each other to agree.", "spread", ("none", "inflated")),
            Claim("Points on rays add to inflated attention.", "psnr", ("epipolar", "inflated")),
            Claim("So do lines, and rays that are told.", "psnr", ("spad", "inflated")),
        ),
    ),
    Table(
        "camera",
        "Where the camera goes in",
        "Added to the timestep's embedding, or one more token beside the text's.",
        (
            replace(_BASELINE, label="on the timestep"),
            Condition("camera-on-text", "on the text", {"train.camera_input": CameraInput.text}),
        ),
        _VIEW_COLUMNS,
        (Claim("The paper: the timestep before the text.", "psnr", ("inflated", "camera-on-text")),),
    ),
    Table(
        "data",
        "With and without 2D data",
        "The last three columns are of patterned objects (stripes, dots, checks, ...), which only the 2D data shows: "
        "likeness, the second colour's share of the object against the truth's (1 is right), and how often more than "
        "half of that share is there.",
        (
            replace(_BASELINE, label="with 2D data"),
            Condition("without-2d-data", "without", {"train.multiview_probability": 1.0}),
        ),
        (
            *_VIEW_COLUMNS,
            Column("pattern_psnr", "patterned: PSNR dB"),
            Column("pattern_share", "second colour"),
            Column("pattern_shown", "shown", percent=True),
        ),
        (
            Claim(
                "The paper: 2D data keeps what 3D data does not show.", "pattern_shown", ("inflated", "without-2d-data")
            ),
            Claim("And closer to the truth.", "pattern_psnr", ("inflated", "without-2d-data")),
        ),
        pictured="pattern_psnr",
    ),
)


def measure(table: Table, config: Config, run: RunDirectory) -> Measured:
    """Train and sample what is not there yet, for this table and, side by side, for the others that were asked for."""
    start, specs = train_start(config, run), judged_specs(config)
    asked_for = [table, *(other for other in TABLES if other.name in (config.ablation.only or ABLATION_TABLES))]
    conditions = {condition.name: condition for each in asked_for for condition in each.conditions}
    jobs = {name: variant(c, config, run.folder, start, specs) for name, c in conditions.items()}
    mine = [jobs[condition.name] for condition in table.conditions]
    what = "priors to train and judge"
    return measured(table.name, mine, train_and_judge, config, what, beside=list(jobs.values()))


def judged_specs(config: Config, plain: int | None = None) -> tuple[Spec, ...]:
    """Held-out captions, `plain` of them or as many as of the patterned ones that follow, whose second colour is one of
    the palette; of trained kinds."""
    kinds = config.train.kinds
    patterned = [spec for spec in of_kinds(patterned_specs(), kinds) if spec.feature_color in COLORS]
    count = min(config.ablation.prompts, len(patterned))
    chosen = Random(stable_seed(config.seed, 0, "ablated patterns")).sample(patterned, count)
    return (*of_kinds(held_out(), kinds)[: config.ablation.prompts if plain is None else plain], *chosen)


def train_start(config: Config, run: RunDirectory) -> Path:
    """The folder of the 2D network that every variant is inflated from: mini's, trained on single pictures only.

    Its camera's MLP, which nothing has trained, is left out, so that each variant begins with one of its own.
    """
    changed = {"train.multiview_probability": 0.0, "train.steps": config.ablation.base_steps, "train.start_from": ""}
    folder = run.folder / "priors" / "start-2d"
    plain = folder / "prior-2d"
    if not plain.is_dir():
        prior = MultiViewPrior.from_pretrained(trained(_training_config(config, changed), folder))
        prior.unet = _without_camera(prior.unet)
        prior.save_pretrained(plain)
    return plain


def _without_camera(unet: MultiViewUNet) -> MultiViewUNet:
    plain = MultiViewUNet.from_config(unet.config, class_embed_type=None, projection_class_embeddings_input_dim=None)
    tensors = unet.state_dict()
    plain.load_state_dict({key: value for key, value in tensors.items() if not key.startswith("class_embedding.")})
    return plain


def variant(condition: Condition, config: Config, folder: Path, start: Path, specs: Sequence[Spec]) -> Job:
    """A prior to be trained and judged; the job's config is the training's own."""
    changed = {"train.start_from": str(start), "train.steps": config.ablation.prior_steps, **condition.settings}
    return judging(condition.name, _training_config(config, changed), folder / "priors" / condition.name, specs)


def judging(name: str, config: Config, folder: Path, specs: Sequence[Spec]) -> Job:
    """A job in `folder` that is judged by views of `specs`."""
    views = folder / "views"
    samples = (Sample(spec, views / sample_name(index, spec.caption)) for index, spec in enumerate(specs))
    return Job(name, config, folder, tuple(samples))


def _training_config(config: Config, changed: dict[str, object]) -> Config:
    return with_settings(replace(config, task=Task.train_prior, ablation=AblationConfig()), changed)


def trained(config: Config, folder: Path) -> Path:
    """Train in a run folder of its own, going on where it stopped; the finished prior's folder."""
    with open_run(folder, config) as run:
        results = run.finished_results()
        if results is None:
            results = train_prior.run(config, run)
            run.finish(results)
    return results["prior"]


def train_and_judge(job: Job) -> str:
    """Train the variant and keep the figures and pictures of every caption."""
    config = replace(job.config, weights=str(trained(job.config, job.folder)))
    judge_all(job, drawing(load_prior(config), config))
    return "trained and judged"


# captions, the cameras of one object and what noise is drawn from -> views [captions, V, H, W, 3]
Draw = Callable[[Sequence[str], Cameras, torch.Generator], np.ndarray]


def negative_of(config: Config, prior: MultiViewPrior) -> str:
    """The negative prompt as a prior is told it. Raises ConfigError if it cannot be."""
    if config.allow_unknown_words or not config.negative_prompt:
        return config.negative_prompt
    return read_prompt(prior.tokenizer, config.negative_prompt, negative=True).text


def drawing(prior: MultiViewPrior, config: Config, joint: ImagePrior | None = None) -> Draw:
    """Draws as the config's `views` and negative prompt say, steps, sampler and guidance; joint: beside the prior."""
    negative, of_image = negative_of(config, prior), negative_of(config, joint.prior) if joint else ""

    def draw(captions: Sequence[str], cameras: Cameras, generator: torch.Generator) -> np.ndarray:
        views = sample_views(
            prior,
            captions,
            replace(cameras, height=prior.image_size, width=prior.image_size),
            generator,
            negative_prompt=negative,
            **config.views.sampling(),
            mix=joint.mix(captions, [of_image]) if joint else None,
        )
        return views.unflatten(0, (len(captions), len(cameras))).movedim(2, -1).cpu().numpy()

    return draw


def judge_all(job: Job, draw: Draw, further: Callable[[int], Figures] = lambda index: {}) -> None:
    """Draw every caption, four views at a time, from noise that is the same for every variant, and keep its figures
    and pictures. further: more figures of caption `index`."""
    config = job.config
    for first in range(0, len(job.samples), _CAPTIONS_AT_ONCE):
        some = job.samples[first : first + _CAPTIONS_AT_ONCE]
        captions = [sample.spec.caption for sample in some]
        sets = [
            draw(captions, cameras_at(config.camera, four), generator(config.seed, first, f"ablated views {k}"))
            for k, four in enumerate(_AZIMUTHS)
        ]
        for index, (sample, of_caption) in enumerate(zip(some, np.concatenate(sets, 1), strict=True), first):
            sample.folder.mkdir(parents=True, exist_ok=True)
            save_strip(of_caption[list(_PICTURED)], sample.folder / PICTURE)
            save_strip(of_caption, sample.folder / ALL_VIEWS)
            figures = judge(sample.spec, of_caption, config.camera, config.train.pattern_scale)
            write_json_atomically(sample.folder / SCORE, {**figures, **further(index)})


def cameras_at(camera: CameraConfig, azimuths: Sequence[float], size: int = IMAGE_SIZE) -> Cameras:
    """Those that a caption is judged from."""
    return viewing_cameras(camera, azimuths, PICTURE_ELEVATION, size)


def judged_truth(spec: Spec, camera: CameraConfig, size: int, pattern_scale: float) -> tuple[Cameras, Rendering]:
    """The eight cameras of `_AZIMUTHS`, and what is to be seen there."""
    cameras = cameras_at(camera, [a for four in _AZIMUTHS for a in four], size)
    return cameras, exact_views(build(spec, pattern_scale=pattern_scale), cameras)


def judge(spec: Spec, views: np.ndarray, camera: CameraConfig, pattern_scale: float = 1.0) -> dict[str, float | None]:
    """Figures of eight views [8, H, W, 3] from `_AZIMUTHS`, against the truth from the same cameras.

    A sample may choose any background: colours count inside the truth's silhouettes, and outlines are compared as what
    differs from the background, in the views and in the truth on the views' own background.
    """
    _, truth = judged_truth(spec, camera, views.shape[1], pattern_scale)
    silhouette = (truth.opacity > 0.5).astype(np.float64)
    inside = silhouette[..., 0] > 0
    likeness = psnr(views[inside], truth.rgb[inside])
    shares = feature_fraction(spec, views, silhouette)
    true_shares = feature_fraction(spec, truth.rgb, truth.opacity)
    if spec.form == "pattern":
        share, true_share = float(shares.mean()), float(true_shares.mean())
        return {
            "pattern_psnr": likeness,
            # shading can make one colour of the palette another: then its share says nothing
            "pattern_share": share / true_share if true_share > LEAST_SHARE else None,
            "pattern_shown": float(share > 0.5 * true_share) if true_share > LEAST_SHARE else None,
            "pattern_named": named_patterns(views, [spec.caption] * len(views), None, pattern_scale).rate,
            "pattern_iou": _outline_iou(views, truth),
            "pattern_spread": _background_spread(views),
        }
    front, back, true_front, true_back = (x[list(i)] for x in (shares, true_shares) for i in (_FRONT, _BACK))
    face = janus_score(front, back, true_front, true_back) if can_fail(true_front, true_back) else None
    return {
        "psnr": likeness,
        "iou": _outline_iou(views, truth),
        "spread": _background_spread(views),
        **face_figures(face),
    }


def _background_spread(views: np.ndarray) -> float:
    """The largest distance between the backgrounds of two views of a set, mean over the sets of `_AZIMUTHS`."""
    colors = border_color(views).reshape(len(_AZIMUTHS), -1, 3)
    distances = np.linalg.norm(colors[:, :, None] - colors[:, None], axis=-1)
    return float(distances.max((1, 2)).mean())


def _outline_iou(views: np.ndarray, truth: Rendering) -> float:
    background = border_color(views)
    true_views = truth.rgb + (1 - truth.opacity) * (background[:, None, None] - np.array(GREY))
    return silhouette_iou(drawn_silhouette(views, background), drawn_silhouette(true_views, background))
