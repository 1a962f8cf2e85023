"""Ablations of score distillation: the same prompts and seeds, with a few settings changed against a baseline."""

import json
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from threedgen.cameras import viewing_cameras
from threedgen.config.evaluation import AblationConfig
from threedgen.config.guidance import GuidanceLoss
from threedgen.config.runtime import RuntimeConfig
from threedgen.config.schedules import Schedule
from threedgen.config.schema import Config, Task
from threedgen.core.files import write_json_atomically
from threedgen.data.miniworld import held_out
from threedgen.diffusion.prior import MultiViewPrior
from threedgen.imaging import save_png
from threedgen.runs.directory import RunDirectory, open_run, slug
from threedgen.tasks.evaluation.scoring import compare, face_figures, outcomes, truth_of, with_num_views
from threedgen.tasks.evaluation.tables import Claim, Column, Condition, Figures, Measured, Table
from threedgen.tasks.export import render_scene
from threedgen.tasks.generate import optimize
from threedgen.tasks.prompting import encode_prompts, load_prior, read_prompts

PICTURE_AZIMUTHS = (30.0, 210.0)  # three-quarter, from the front and from behind
PICTURE_ELEVATION = 15.0
PICTURE_SIZE = 96
SCORE, PICTURE = "score.json", "views.png"

_BASELINE = Condition("baseline", "baseline")
_AT_30: dict[str, Any] = {"guidance.guidance_scale": 30.0}
_ALWAYS_ANY_TIMESTEP = {
    "guidance.min_timestep": Schedule(0.02, 0.02),
    "guidance.max_timestep": Schedule(0.98, 0.98),
}
_PSNR, _IOU = Column("psnr", "PSNR dB"), Column("iou", "IoU", 3)
_JANUS, _FRONT = Column("janus", "Janus", percent=True), Column("front", "front right", percent=True)
_SATURATION = Column("saturation", "saturation", 3, truth="true_saturation")
_CONTRAST = Column("contrast", "contrast", 3, truth="true_contrast")
_COLUMNS = (_PSNR, _IOU, _JANUS, _FRONT, _SATURATION, _CONTRAST)

TABLES = (
    Table(
        "views",
        "Views that the prior sees at once",
        "The same number of images a step; with one view the prior is asked in 2D mode, without cameras.",
        (
            replace(_BASELINE, label="4 views"),
            Condition("views-2", "2 views", {"camera.num_views": 2}),
            Condition("views-1", "1 view", {"camera.num_views": 1}),
        ),
        _COLUMNS,
        (
            Claim("The paper: more views, fewer Janus failures.", "janus", ("views-1", "views-2", "baseline")),
            Claim("More views, closer to the truth.", "psnr", ("baseline", "views-2", "views-1")),
        ),
    ),
    Table(
        "annealing",
        "Timestep annealing",
        "Annealed: the range narrows from 0.98 to 0.02 ... 0.50 over 80 % of the steps. Not: 0.02 ... 0.98 throughout.",
        (replace(_BASELINE, label="annealed"), Condition("not-annealed", "not annealed", _ALWAYS_ANY_TIMESTEP)),
        _COLUMNS,
        (Claim("The paper: annealing gives better shapes.", "psnr", ("baseline", "not-annealed")),),
    ),
    Table(
        "guidance",
        "Guidance scale",
        "With rescale 0.5. The paper takes 50, the mini model the baseline's much lower scale.",
        (
            replace(_BASELINE, label="the baseline's"),
            Condition("guidance-10", "10", {"guidance.guidance_scale": 10.0}),
            Condition("guidance-30", "30", _AT_30),
            Condition("guidance-50", "50", {"guidance.guidance_scale": 50.0}),
        ),
        _COLUMNS,
        (
            Claim(
                "The paper: large scales over-saturate.",
                "saturation",
                ("guidance-50", "guidance-30", "guidance-10", "baseline"),
            ),
        ),
    ),
    Table(
        "rescale",
        "Rescaling of x0",
        "At guidance scale 30, where colours run out of their range.",
        (
            Condition("guidance-30", "rescale 0.5", _AT_30),
            Condition("rescale-0", "rescale 0", {**_AT_30, "guidance.rescale": 0.0}),
            Condition("rescale-1", "rescale 1", {**_AT_30, "guidance.rescale": 1.0}),
        ),
        _COLUMNS,
        (
            Claim(
                "The paper: rescaling takes over-saturation away.",
                "saturation",
                ("rescale-0", "guidance-30", "rescale-1"),
            ),
        ),
    ),
    Table(
        "loss",
        "x0-reconstruction against the plain SDS gradient",
        "At guidance scale 30. Both losses take the same guided noise, so rescaling applies to both: plain SDS is "
        "rescale 0. They weigh timesteps differently: without rescaling the reconstruction is SDS with w = sigma / "
        "alpha, plain SDS has w = sigma^2, much less at high noise; the scene's own losses have the same weights in "
        "every row.",
        (
            Condition("guidance-30", "x0, rescale 0.5", _AT_30),
            Condition("rescale-0", "x0, rescale 0", {**_AT_30, "guidance.rescale": 0.0}),
            Condition("sds", "SDS, rescale 0", {**_AT_30, "guidance.rescale": 0.0, "guidance.loss": GuidanceLoss.sds}),
            Condition("sds-rescaled", "SDS, rescale 0.5", {**_AT_30, "guidance.loss": GuidanceLoss.sds}),
        ),
        _COLUMNS,
        (
            Claim(
                "The paper: x0 with rescaling is less saturated than SDS.",
                "saturation",
                ("sds", "guidance-30"),
            ),
            Claim("And as good or better.", "psnr", ("guidance-30", "sds")),
        ),
    ),
)


@dataclass(frozen=True)
class Job:
    """One caption to be optimised under one condition; `config` is the whole setting of it, seed included."""

    condition: str
    config: Config
    folder: Path

    @property
    def score(self) -> Path:
        return self.folder / SCORE


def jobs_of(conditions: Sequence[Condition], config: Config, folder: Path) -> list[Job]:
    """All conditions of the first caption, then of the second, ...; caption i has the seed `seed + i` in each."""
    jobs = []
    for index, spec in enumerate(held_out()[: config.ablation.prompts]):
        for condition in conditions:
            one = with_settings(config, condition.settings)
            camera = with_num_views(config.camera, one.camera.num_views)
            one = replace(one, task=Task.generate, prompt=spec.caption, seed=config.seed + index, camera=camera)
            one = replace(one, ablation=AblationConfig())
            jobs.append(Job(condition.name, one, folder / condition.name / sample_name(index, spec.caption)))
    return jobs


def sample_name(index: int, caption: str) -> str:
    return f"{index:03d}-{slug(caption, max_length=80)}"


def measure(table: Table, config: Config, run: RunDirectory) -> Measured:
    """Optimise what is not there yet."""
    jobs = jobs_of(table.conditions, config, run.folder / "scenes")
    todo = [job for job in jobs if not job.score.exists()]
    print(f"{table.name}: {len(todo)} scenes to optimise, {len(jobs) - len(todo)} there", flush=True)
    failures = []
    # the conditions of a caption one after another in one process, which then draws the truth once
    for outcome in outcomes(optimize_and_compare, todo, config, chunk=len(table.conditions)):
        name = f"{table.name}: {outcome.job.condition}: {outcome.job.config.prompt}"
        if outcome.result is None:
            failures.append(f"{name}: {outcome.error}")
            print(failures[-1], flush=True)
        else:
            found = outcome.result
            print(f"{name}: {found['psnr']:.2f} dB, {found['cpu_seconds']:.0f} s of a core", flush=True)
    samples = [(job.condition, job.config.prompt, job.folder) for job in jobs]
    return collect(samples, failures)


def collect(samples: Iterable[tuple[str, str, Path]], failures: Sequence[str]) -> Measured:
    """Read what is there of (condition, prompt, folder with its score and picture)."""
    scores: dict[str, dict[str, Figures]] = {}
    pictures: dict[str, dict[str, Path]] = {}
    for condition, prompt, folder in samples:
        if (folder / SCORE).exists():
            scores.setdefault(condition, {})[prompt] = json.loads((folder / SCORE).read_text("utf-8"))
            pictures.setdefault(condition, {})[prompt] = folder / PICTURE
    return Measured(scores, pictures, tuple(failures))


def optimize_and_compare(job: Job) -> Figures:
    """Optimise, compare with the truth, and keep figures and two pictures; the scene itself is not kept."""
    started = time.process_time()
    config = job.config
    with open_run(job.folder, config) as run:
        prior = _loaded_prior(config.weights, **asdict(config.runtime))
        as_read = read_prompts(config, prior)
        scene, _ = optimize(as_read, run, prior, *encode_prompts(as_read, prior))
        truth = truth_of(config.prompt, config)
        found = compare(scene, truth)
        cameras = viewing_cameras(config.camera, PICTURE_AZIMUTHS, PICTURE_ELEVATION, PICTURE_SIZE)
        save_png(np.concatenate(list(render_scene(scene, cameras)), 1), run.path(PICTURE))
        figures: dict[str, float | None] = {
            "psnr": found.psnr,
            "iou": found.iou,
            **face_figures(found.face),
            "saturation": found.saturation,
            "true_saturation": truth.saturation,
            "contrast": found.contrast,
            "true_contrast": truth.contrast,
            "cpu_seconds": time.process_time() - started,
        }
        shutil.rmtree(run.checkpoints, ignore_errors=True)
        write_json_atomically(job.score, figures)
    return figures


@lru_cache(maxsize=1)
def _loaded_prior(weights: str, **runtime: Any) -> MultiViewPrior:
    return load_prior(Config(weights=weights, runtime=RuntimeConfig(**runtime)))


T = TypeVar("T")


def with_settings(config: T, settings: Mapping[str, Any]) -> T:
    """The config dataclass with {dotted key: value} changed."""
    for key, value in settings.items():
        name, _, rest = key.partition(".")
        changed = with_settings(getattr(config, name), {rest: value}) if rest else value
        config = replace(config, **{name: changed})  # type: ignore[type-var]
    return config
