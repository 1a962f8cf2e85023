"""The paper's ablations, measured on held-out captions: a table and a picture each.

Tables are made one after another; every scene and every prior is kept, so the same command goes on where it stopped.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from threedgen.cameras import viewing_cameras
from threedgen.config.evaluation import ABLATION_TABLES, GUIDED_TABLES, RECIPE_TABLES
from threedgen.config.schema import Config
from threedgen.core.errors import ThreedgenError
from threedgen.core.files import write_json_atomically, write_text_atomically
from threedgen.data.exact_views import exact_views
from threedgen.data.miniworld import build, held_out, parse
from threedgen.diffusion.mini import IMAGE_SIZE
from threedgen.imaging import Row, contact_sheet, read_strip, save_png
from threedgen.runs.directory import RunDirectory
from threedgen.tasks.evaluation import guided, guided_assets, priors, recipes, scenes
from threedgen.tasks.evaluation.jobs import PICTURE_AZIMUTHS, PICTURE_ELEVATION
from threedgen.tasks.evaluation.plots import plot
from threedgen.tasks.evaluation.scenes import PICTURE_SIZE
from threedgen.tasks.evaluation.tables import Measured, Table, as_json, markdown

_MEASURES = {
    **{table.name: (table, scenes.measure) for table in scenes.TABLES},
    **{table.name: (table, priors.measure) for table in priors.TABLES},
    guided.TABLE.name: (guided.TABLE, guided.measure),
    guided_assets.TABLE.name: (guided_assets.TABLE, guided_assets.measure),
    **{table.name: (table, recipes.measure) for table in recipes.TABLES},
}


def run(config: Config, run: RunDirectory) -> dict[str, Path]:
    """Make the tables of `ablation.only`, or all; returns results.md, results.json and a picture each.

    Raises ThreedgenError, when all tables are written, if any job failed: the same command tries those again.
    """
    results = {"tables": run.path("results.md"), "figures": run.path("results.json")}
    sections, figures = [_introduction(config)], []
    failures: list[str] = []
    for name in config.ablation.only or ABLATION_TABLES:
        table, measure = _MEASURES[name]
        measured = measure(table, config, run)
        failures += measured.failures
        pictures: dict[str, Path] = {}
        if prompts := _pictured_prompts(table, measured, config):
            pictures[table.name] = run.path(f"{table.name}.png")
            save_png(_picture(table, measured, prompts, config), pictures[table.name])
        if table.plotted:
            pictures[f"{table.name}-plot"] = run.path(f"{table.name}-plot.png")
            save_png(plot(table, measured.scores, *table.plotted), pictures[f"{table.name}-plot"])
        results |= pictures
        section = markdown(table, measured, [picture.name for picture in pictures.values()])
        print(f"\n{section}", flush=True)
        sections.append(section)
        figures.append(as_json(table, measured))
        run.events.write("table", table=table.name, failures=list(measured.failures))
        # after each table: what an interrupted command has made so far can be read
        failed = ["### Failed\n\n" + "".join(f"- {line}\n" for line in failures)] if failures else []
        write_text_atomically(results["tables"], "\n".join([*sections, *failed]))
        write_json_atomically(results["figures"], {"tables": figures, "failures": failures})
    if failures:
        raise ThreedgenError(
            f"{len(failures)} jobs failed, the first is {failures[0]}; the rest is in {results['tables']}, "
            "and the same command tries them again"
        )
    return results


def _introduction(config: Config) -> str:
    asked, prompts = config.ablation.prompts, min(config.ablation.prompts, len(held_out()))
    captions = (
        f"{prompts} held-out captions; of scenes caption i has the seed {config.seed} + i in every row, views come "
        "from the same noise."
    )
    if _is_guided_only(config):
        captions = (
            f"{asked} held-out captions with patterns and at most {asked // 4} without, of scenes {max(1, asked // 8)} "
            "with patterns; views come from the same noise in every row."
        )
    return (
        f"{captions} Brackets: 95 % bootstrap intervals (BCa) of the mean over captions; a number in parentheses says "
        "how many captions have the figure. "
        "Janus: how often the feature that belongs on the front is also seen from behind; front right: how often the "
        "front shows at least half as much of it as the truth. Saturation: mean over the object of the largest minus "
        "the smallest channel; contrast: standard deviation of its brightness.\n\n" + _baselines(config)
    )


def _is_guided_only(config: Config) -> bool:
    return bool(config.ablation.only) and {*config.ablation.only} <= {*GUIDED_TABLES}


def _baselines(config: Config) -> str:
    guidance, camera, train = config.guidance, config.camera, config.train
    kinds = f" ({', '.join(train.kinds)} only)" if train.kinds else ""
    if _is_guided_only(config):
        views = config.views
        return f"Views: {views.num_inference_steps} steps, guidance scale {views.guidance_scale:g}{kinds}.\n"
    scene = (
        f"Baseline of scenes: {config.steps} steps, {camera.num_views} views at once, {camera.resolution} px, guidance "
        f"scale {guidance.guidance_scale:g}, rescale {guidance.rescale:g}."
    )
    if set(config.ablation.only) <= set(RECIPE_TABLES) and config.ablation.only:
        return f"{scene}\n"
    return (
        f"{scene} Priors: {config.ablation.base_steps} steps "
        f"on single pictures, then {config.ablation.prior_steps} steps of each variant{kinds}, pictures of "
        f"{train.image_size or IMAGE_SIZE} px.\n"
    )


def _pictured_prompts(table: Table, measured: Measured, config: Config) -> list[str]:
    """The first prompts that every condition has a picture of, those with the figure that the table is about first."""
    figures_of = next(iter(measured.scores.values()), {})
    fitting = [prompt for prompt, figures in figures_of.items() if figures.get(table.pictured) is not None]
    all_pictures = measured.pictures.values()
    everywhere = [p for p in dict.fromkeys([*fitting, *figures_of]) if all(p in pictures for pictures in all_pictures)]
    return everywhere[: config.ablation.pictured_prompts]


def _picture(table: Table, measured: Measured, prompts: Sequence[str], config: Config) -> Image.Image:
    """A row of views for each condition, then the truth."""
    rows: list[Row] = []
    for condition in table.conditions:
        if pictures := measured.pictures.get(condition.name):
            rows.append((condition.label, np.concatenate([read_strip(pictures[prompt]) for prompt in prompts])))
    cameras = viewing_cameras(config.camera, PICTURE_AZIMUTHS, PICTURE_ELEVATION, PICTURE_SIZE)
    truth = [
        exact_views(build(parse(p), pattern_scale=config.train.pattern_scale), cameras, supersample=4) for p in prompts
    ]
    rows.append(("truth", np.concatenate([each.rgb for each in truth])))
    title = f"{table.title}. From the front and from behind: {', '.join(prompts)}"
    return contact_sheet(rows, title)
