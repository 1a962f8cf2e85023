"""Ablations of score distillation: the same prompts and seeds, with a few settings changed against a baseline."""

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from threedgen.cameras import viewing_cameras
from threedgen.config.evaluation import AblationConfig
from threedgen.config.guidance import GuidanceLoss
from threedgen.config.runtime import RuntimeConfig
from threedgen.config.schedules import Schedule
from threedgen.config.schema import Config, Task
from threedgen.core.files import write_json_atomically
from threedgen.data.miniworld import MiniObject, Spec, held_out
from threedgen.diffusion.prior import MultiViewPrior
from threedgen.imaging import save_strip
from threedgen.runs.checkpoint import has_checkpoint
from threedgen.runs.directory import RunDirectory, open_run
from threedgen.scene.protocol import RayScene
from threedgen.tasks.evaluation.jobs import (
    PICTURE,
    PICTURE_AZIMUTHS,
    PICTURE_ELEVATION,
    SCORE,
    Job,
    Sample,
    measured,
    sample_name,
    with_settings,
)
from threedgen.tasks.evaluation.scoring import compare, face_figures, truth_of, with_num_views
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
from threedgen.tasks.export import render_scene
from threedgen.tasks.generate import optimize
from threedgen.tasks.prompting import encode_prompts, load_prior, read_prompts

PICTURE_SIZE = 96

_BASELINE = Condition("baseline", "baseline")
_AT_30: dict[str, Any] = {"guidance.guidance_scale": 30.0}
_ALWAYS_ANY_TIMESTEP = {
    "guidance.min_timestep": Schedule(0.02, 0.02),
    "guidance.max_timestep": Schedule(0.98, 0.98),
}
_SATURATION = Column("saturation", "saturation", 3, truth="true_saturation")
_CONTRAST = Column("contrast", "contrast", 3, truth="true_contrast")
_COLUMNS = (PSNR, IOU, JANUS, FRONT, _SATURATION, _CONTRAST)

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


def scene_job(condition: Condition, spec: Spec, seed: int, config: Config, folder: Path) -> Job:
    """A caption to be optimised under a condition, in `folder`."""
    one = with_settings(config, condition.settings)
    camera = with_num_views(replace(one.camera, num_views=config.camera.num_views), one.camera.num_views)
    # refinement too draws as many images a round, and fits as many a step
    sets = max(1, one.refine.sets * config.camera.num_views // camera.num_views)
    one = replace(one, camera=camera, refine=replace(one.refine, sets=sets))
    one = replace(one, task=Task.generate, prompt=spec.caption, seed=seed, ablation=AblationConfig())
    return Job(condition.name, one, folder, (Sample(spec, folder),))


def jobs_of(conditions: Sequence[Condition], config: Config, folder: Path) -> list[Job]:
    """All conditions of the first caption, then of the second, ...; caption i has the seed `seed + i` in each."""
    return [
        scene_job(each, spec, config.seed + index, config, folder / each.name / sample_name(index, spec.caption))
        for index, spec in enumerate(held_out()[: config.ablation.prompts])
        for each in conditions
    ]


def measure(table: Table, config: Config, run: RunDirectory, work: Callable[[Job], str] | None = None) -> Measured:
    """Optimise what is not there yet; work: None: `optimize_and_compare`."""
    jobs = jobs_of(table.conditions, config, run.folder / "scenes")
    # the conditions of a caption one after another in one process, which then draws the truth once
    chunk = len(table.conditions)
    return measured(table.name, jobs, work or optimize_and_compare, config, "scenes to optimise", chunk=chunk)


def prior_of(config: Config) -> MultiViewPrior:
    """The config's, loaded once a process: before the clock of a job starts, or the first one's time has it too."""
    return _loaded_prior(config.weights, **asdict(config.runtime))


def optimized(job: Job, run: RunDirectory) -> RayScene:
    """The scene of a job, made in its run."""
    prior = prior_of(job.config)
    config = read_prompts(job.config, prior)
    return optimize(config, run, prior, *encode_prompts(config, prior, job.config))[0]


def optimize_and_compare(job: Job, more: Callable[[RayScene, MiniObject, Config], Figures] = lambda *_: {}) -> str:
    """Optimise, compare with the truth, and keep figures and two pictures; the scene itself is not kept.

    more: further figures of it beside its object. Kept besides: cpu_seconds, of optimising and comparing, and
    optimize_seconds, of the former, both of all threads; loading the prior is not counted. None of a scene that was
    begun by another process.
    """
    config = job.config
    prior_of(config)
    started = time.process_time()
    with open_run(job.folder, config) as run:
        goes_on = has_checkpoint(run.checkpoints)
        scene = optimized(job, run)
        optimize_seconds = time.process_time() - started
        truth = truth_of(config.prompt, config)
        found = compare(scene, truth)
        cameras = viewing_cameras(config.camera, PICTURE_AZIMUTHS, PICTURE_ELEVATION, PICTURE_SIZE)
        save_strip(render_scene(scene, cameras), run.path(PICTURE))
        seconds = time.process_time() - started
        figures: dict[str, float | None] = {
            "psnr": found.psnr,
            "iou": found.iou,
            **face_figures(found.face),
            "saturation": found.saturation,
            "true_saturation": truth.saturation,
            "contrast": found.contrast,
            "true_contrast": truth.contrast,
            "cpu_seconds": None if goes_on else seconds,
            "optimize_seconds": None if goes_on else optimize_seconds,
            **more(scene, truth.object, config),
        }
        shutil.rmtree(run.checkpoints, ignore_errors=True)
        write_json_atomically(run.path(SCORE), figures)
    return f"{found.psnr:.2f} dB, {seconds:.0f} s of a core"


@lru_cache(maxsize=1)
def _loaded_prior(weights: str, **runtime: Any) -> MultiViewPrior:
    return load_prior(Config(weights=weights, runtime=RuntimeConfig(**runtime)))
