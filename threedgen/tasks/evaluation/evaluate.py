"""Generate held-out miniworld captions and score them against their ground truth, for several numbers of views."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path

import numpy as np

from threedgen.cameras import SHEET_AZIMUTHS, SHEET_ELEVATION, Cameras, viewing_cameras
from threedgen.config.schema import Config
from threedgen.core.errors import ThreedgenError
from threedgen.core.files import write_json_atomically, write_text_atomically
from threedgen.core.memory import forget_peak, peak_gib
from threedgen.data.exact_views import exact_views
from threedgen.data.miniworld import build, held_out
from threedgen.imaging import Row, contact_sheet, read_strip, save_png, save_strip
from threedgen.runs.checkpoint import has_checkpoint
from threedgen.runs.directory import RunDirectory, open_run
from threedgen.scene.protocol import RayScene
from threedgen.tasks.evaluation.jobs import SCORE, Job, folder_name, measured
from threedgen.tasks.evaluation.scenes import optimized, prior_of, scene_job
from threedgen.tasks.evaluation.scoring import compare, surface_figures, truth_of
from threedgen.tasks.evaluation.tables import (
    CHAMFER,
    IOU,
    NORMALS,
    PSNR,
    Column,
    Condition,
    Figures,
    Scores,
    Table,
    row,
)
from threedgen.tasks.export import render_scene
from threedgen.tasks.prompting import load_prior, read_prompts

_PICTURE = "scene.png"
_LIKENESS = (PSNR, Column("ssim", "SSIM", 3), IOU, CHAMFER, NORMALS)
_COST = (Column("seconds", "s", 0), Column("peak_gib", "GiB", 1))


def run(config: Config, run: RunDirectory) -> dict[str, Path]:
    """Score `eval.prompts` held-out captions for every number of views in `eval.views`; prints and saves a table.

    Raises ThreedgenError, when all the others are scored, if one failed: the same command tries it again.
    """
    config = read_prompts(config, load_prior(config))  # what is missing is told before anything is started
    table = table_of(config.eval.views)
    jobs = list(_jobs(table, config, run.folder))
    found = measured(table.name, jobs, score, config, "scenes to optimise")
    if found.failures:
        more = f"{len(found.failures)} jobs failed, the first is {found.failures[0]}"
        raise ThreedgenError(f"{more}; the same command tries them again")
    figures = [found.scores[job.condition][job.config.prompt] for job in jobs]
    for each in figures:
        run.events.write("score", **each)
    results = {"table": run.path("results.md"), "scores": run.path("results.json"), "sheet": run.path("sheet.png")}
    text = by_prompt(table, found.scores)
    print(text)
    write_text_atomically(results["table"], text)
    write_json_atomically(results["scores"], figures)
    save_png(contact_sheet(_sheet_rows(table, jobs), "held-out prompts"), results["sheet"])
    return results


def table_of(views: Sequence[int]) -> Table:
    """A condition for each number of views; its name is that of a folder too."""
    conditions = (Condition(f"{n}-views", str(n), {"camera.num_views": n}) for n in views)
    return Table("evaluate", "Held-out captions", "", tuple(conditions), (*_LIKENESS, *_COST))


def _jobs(table: Table, config: Config, folder: Path) -> Iterator[Job]:
    """All numbers of views of the first caption, then of the second, ..."""
    for spec in held_out()[: config.eval.prompts]:
        for each in table.conditions:
            yield scene_job(each, spec, config.seed, config, folder / each.name / folder_name(spec.caption))


def score(job: Job) -> str:
    """Optimise a caption in a run folder of its own and compare. Loading the prior is not counted in its seconds."""
    config = job.config
    prior_of(config)
    started = time.monotonic()
    forget_peak()  # of the jobs before in this process
    with open_run(job.folder, config) as run:
        goes_on = has_checkpoint(run.checkpoints)  # how long it took until then is not known
        scene = optimized(job, run)
        seconds = time.monotonic() - started
        figures = figures_of(scene, config, None if goes_on else seconds)
        save_strip(render_scene(scene, _sheet_cameras(config)), run.path(_PICTURE))
        write_json_atomically(run.path(SCORE), figures)
    janus = ", JANUS" if figures["face"] and figures["face"]["is_janus"] else ""
    return f"{figures['psnr']:.2f} dB, IoU {figures['iou']:.3f}, {seconds:.0f} s{janus}"


def figures_of(scene: RayScene, config: Config, seconds: float | None) -> Figures:
    """Scene against the truth of `config.prompt`; see `scoring.compare` and `scoring.surface_figures`.

    Objects are about 1.4 world units across; face, a JanusScore, is None for objects without a feature on the front.
    """
    truth = truth_of(config.prompt, config)
    found = compare(scene, truth)
    return {
        "prompt": config.prompt,
        "num_views": config.camera.num_views,
        "psnr": found.psnr,
        "ssim": found.ssim,
        "iou": found.iou,
        "face": found.face and asdict(found.face),
        "seconds": seconds,
        "peak_gib": peak_gib(),
        **surface_figures(scene, truth.object, config),
    }


def _sheet_cameras(config: Config) -> Cameras:
    return viewing_cameras(config.camera, SHEET_AZIMUTHS, SHEET_ELEVATION, 2 * config.eval.image_size)


def by_prompt(table: Table, scores: Scores) -> str:
    """As markdown: one row a prompt and number of views, then the mean of each number of views.

    A number in parentheses says of how many a mean is where some have no such figure, as a scene without a surface.
    """
    titles = [*(column.title for column in _LIKENESS), "face front / back (truth)", "Janus"]
    lines = [row(["prompt", "views", *titles, *(column.title for column in _COST)])]
    lines.append("|" + "---|" * (4 + len(table.columns)))
    for prompt in scores[table.conditions[0].name]:
        for condition in table.conditions:
            one = scores[condition.name][prompt]
            lines.append(_means(prompt, condition.label, [one], *_face(one)))
    for condition in table.conditions:
        group = list(scores[condition.name].values())
        asked = [figures["face"]["is_janus"] for figures in group if figures["face"] is not None]
        lines.append(_means(f"**mean of {len(group)}**", condition.label, group, "", f"{sum(asked)} of {len(asked)}"))
    return "\n".join(lines) + "\n"


def _face(figures: Figures) -> tuple[str, str]:
    if figures["face"] is None:
        return "", ""
    face = {name: f"{share:.3f}" for name, share in figures["face"].items()}
    shares = "{front} / {back} ({truth_front} / {truth_back})".format_map(face)
    return shares, "yes" if figures["face"]["is_janus"] else "no"


def _means(name: str, views: str, group: Sequence[Figures], face: str, janus: str) -> str:
    def mean(column: Column) -> str:
        values = [figures[column.key] for figures in group if figures.get(column.key) is not None]
        text = column.text(float(np.mean(values))) if values else "–"
        return text if len(values) in (0, len(group)) else f"{text} ({len(values)})"

    return row([name, views, *map(mean, _LIKENESS), face, janus, *map(mean, _COST)])


def _sheet_rows(table: Table, jobs: Sequence[Job]) -> list[Row]:
    """For each caption the scene of every number of views, then the truth."""
    rows: list[Row] = []
    cameras = _sheet_cameras(jobs[0].config)
    labels = {condition.name: condition.label for condition in table.conditions}
    for caption, group in groupby(jobs, key=lambda job: job.config.prompt):
        for job in group:
            views = labels[job.condition]
            rows.append((f"{caption}: {views} view{'' if views == '1' else 's'}", read_strip(job.folder / _PICTURE)))
        (sample,) = job.samples
        rows.append((f"{caption}: truth", exact_views(build(sample.spec), cameras).rgb))
    return rows
