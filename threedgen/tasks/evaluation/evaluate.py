"""Generate held-out miniworld captions and score them against their ground truth, for several numbers of views."""

import json
import resource
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path

import numpy as np
from PIL import Image

from threedgen.cameras import viewing_cameras
from threedgen.config.schema import Config, Task
from threedgen.core.errors import EmptyMeshError, ThreedgenError
from threedgen.core.files import write_text_atomically
from threedgen.data.miniworld import MiniObject, build, held_out, parse, render
from threedgen.imaging import Row, contact_sheet, save_png
from threedgen.mesh.isosurface import extract_isosurface
from threedgen.metrics.geometry import chamfer_distance, normal_angle, sample_surface_with_normals
from threedgen.metrics.janus import JanusScore
from threedgen.runs.directory import RunDirectory, open_run, slug
from threedgen.scene.protocol import RayScene, Shown
from threedgen.tasks.evaluation.scoring import compare, outcomes, truth_of, with_num_views
from threedgen.tasks.export import SHEET_AZIMUTHS, render_scene
from threedgen.tasks.generate import optimize
from threedgen.tasks.prompting import encode_prompts, load_prior, read_prompts

_SURFACE_POINTS = 20_000


@dataclass(frozen=True)
class Score:
    """One prompt's result. chamfer is in world units (objects are about 1.4 across), normals the mean angle between the
    surfaces' normals in degrees, both None where no surface was found, normals also in a score of before it was there;
    face is None for objects without a feature on the front."""

    prompt: str
    num_views: int
    psnr: float
    ssim: float
    iou: float
    chamfer: float | None
    face: JanusScore | None
    seconds: float
    peak_gib: float
    normals: float | None = None

    @staticmethod
    def from_json(text: str) -> "Score":
        fields = json.loads(text)
        return Score(**{**fields, "face": fields["face"] and JanusScore(**fields["face"])})


@dataclass(frozen=True)
class Job:
    """One caption to be generated with guidance of `num_views` views, below the evaluation's folder."""

    config: Config
    evaluation: Path
    caption: str
    num_views: int

    @property
    def folder(self) -> Path:
        return self.evaluation / f"{self.num_views}-views" / slug(self.caption, max_length=80)


def run(config: Config, run: RunDirectory) -> dict[str, Path]:
    """Score `eval.prompts` held-out captions for every number of views in `eval.views`; prints and saves a table."""
    config = read_prompts(config, load_prior(config))  # what is missing is told before anything is started
    captions = [spec.caption for spec in held_out()[: config.eval.prompts]]
    jobs = [Job(config, run.folder, caption, views) for caption in captions for views in config.eval.views]
    print(f"{len(captions)} prompts with {' and '.join(map(str, config.eval.views))} views", flush=True)
    scores = []
    for outcome in outcomes(score_job, jobs, config):
        score = outcome.result
        if score is None:
            raise ThreedgenError(f"{outcome.job.caption} with {outcome.job.num_views} views: {outcome.error}")
        scores.append(score)
        print(_line(score), flush=True)
        run.events.write("score", **asdict(score))
    results = {"table": run.path("results.md"), "scores": run.path("results.json"), "sheet": run.path("sheet.png")}
    table = markdown_table(scores)
    print(table)
    write_text_atomically(results["table"], table)
    write_text_atomically(results["scores"], "[\n" + ",\n".join(map(to_json, scores)) + "]\n")
    save_png(contact_sheet(_sheet_rows(jobs), "held-out prompts"), results["sheet"])
    return results


def score_job(job: Job) -> Score:
    """Optimise a caption in a run folder of its own and compare; a score that is there is not made again."""
    config = job.config
    camera = with_num_views(config.camera, job.num_views)
    one = replace(config, task=Task.generate, prompt=job.caption, camera=camera)
    with open_run(job.folder, one) as run:
        saved = run.path("score.json")
        if saved.exists():
            return Score.from_json(saved.read_text("utf-8"))
        started = time.monotonic()
        prior = load_prior(one)
        one = read_prompts(one, prior)
        scene, _ = optimize(one, run, prior, *encode_prompts(one, prior))
        score = score_scene(scene, job, time.monotonic() - started)
        save_png(_views(scene, config), run.path("scene.png"))
        write_text_atomically(saved, to_json(score))
    return score


def score_scene(scene: RayScene, job: Job, seconds: float) -> Score:
    """Scene against truth; see `scoring.compare`."""
    truth = truth_of(job.caption, job.config)
    found = compare(scene, truth)
    surface = _surface(scene, truth.object, job.config)
    return Score(
        prompt=job.caption,
        num_views=job.num_views,
        psnr=found.psnr,
        ssim=found.ssim,
        iou=found.iou,
        chamfer=surface and surface[0],
        normals=surface and surface[1],
        face=found.face,
        seconds=seconds,
        peak_gib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    )


def _surface(scene: RayScene, truth: MiniObject, config: Config) -> tuple[float, float] | None:
    """Chamfer distance and angle of the normals; None where there is no surface."""
    try:
        vertices, faces = extract_isosurface(scene, config.export.resolution, config.export.threshold)
    except EmptyMeshError:
        return None
    made, true = (
        sample_surface_with_normals(v, f, _SURFACE_POINTS, seed=0) for v, f in ((vertices, faces), truth.mesh())
    )
    return chamfer_distance(made[0], true[0]), normal_angle(*made, *true)


def _views(scene: Shown, config: Config) -> np.ndarray:
    """Four pictures side by side, [H, 4 W, 3]."""
    cameras = viewing_cameras(config.camera, SHEET_AZIMUTHS, 15.0, 2 * config.eval.image_size)
    return np.concatenate(list(render_scene(scene, cameras)), 1)


def to_json(score: Score) -> str:
    return json.dumps(asdict(score), indent=2) + "\n"


def _line(score: Score) -> str:
    janus = "  JANUS" if score.face and score.face.is_janus else ""
    quality = f"{score.psnr:6.2f} dB  IoU {score.iou:.3f}"
    return f"{quality}  {score.num_views} views  {score.seconds:.0f} s  {score.prompt}{janus}"


def markdown_table(scores: Sequence[Score]) -> str:
    """One row a prompt and number of views, then the mean of each number of views."""
    lines = [
        "| prompt | views | PSNR dB | SSIM | IoU | Chamfer | normals | face front / back (truth) | Janus | s | GiB |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for score in scores:
        face, janus = "", ""
        if score.face is not None:
            f = score.face
            face = f"{f.front:.3f} / {f.back:.3f} ({f.truth_front:.3f} / {f.truth_back:.3f})"
            janus = "yes" if f.is_janus else "no"
        lines.append(_row(score.prompt, [score], face, janus))
    for views in dict.fromkeys(score.num_views for score in scores):
        group = [score for score in scores if score.num_views == views]
        asked = [score.face.is_janus for score in group if score.face is not None]
        lines.append(_row(f"**mean of {len(group)}**", group, "", f"{sum(asked)} of {len(asked)}"))
    return "\n".join(lines) + "\n"


def _row(name: str, scores: Sequence[Score], face: str, janus: str) -> str:
    def mean(field: str) -> float:
        values = [getattr(score, field) for score in scores if getattr(score, field) is not None]
        return float(np.mean(values)) if values else float("nan")

    return (
        f"| {name} | {scores[0].num_views} | {mean('psnr'):.2f} | {mean('ssim'):.3f} | {mean('iou'):.3f} "
        f"| {mean('chamfer'):.4f} | {mean('normals'):.1f}° | {face} | {janus} "
        f"| {mean('seconds'):.0f} | {mean('peak_gib'):.1f} |"
    )


def _sheet_rows(jobs: Sequence[Job]) -> list[Row]:
    """For each caption the scene of every number of views, then the truth."""
    config = jobs[0].config
    rows: list[Row] = []
    cameras = viewing_cameras(config.camera, SHEET_AZIMUTHS, 15.0, 2 * config.eval.image_size)
    for caption, group in groupby(jobs, key=lambda job: job.caption):
        for job in group:
            picture = np.asarray(Image.open(job.folder / "scene.png"))
            views = np.stack(np.split(picture, len(SHEET_AZIMUTHS), axis=1)) / 255
            plural = "s" if job.num_views > 1 else ""
            rows.append((f"{caption}: {job.num_views} view{plural}", views))
        truth = render(build(parse(caption)), cameras.camera_to_world.numpy(), cameras.fov_y.numpy(), cameras.height)
        rows.append((f"{caption}: truth", truth.rgb))
    return rows
