"""Text to images of one object from several sides, as files."""

import json
import math
import time
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from threedgen.config.schema import Config, Task
from threedgen.core.errors import ThreedgenError
from threedgen.core.files import write_text_atomically
from threedgen.data.subject_images import cut_out
from threedgen.diffusion.pipeline import MultiViewPipeline, Views
from threedgen.diffusion.text.prompts import as_asset
from threedgen.imaging import Row, contact_sheet, save_png
from threedgen.runs.directory import RunDirectory
from threedgen.tasks.prompting import load_joint, load_prior, show_notes, show_reading
from threedgen.training.threads import Threads

_VIEWS_A_ROW = 8  # of the contact sheet


def run(config: Config, run: RunDirectory) -> dict[str, Path]:
    """Write one PNG a view, a contact sheet, and cameras.json with the matrices, the angles and the seed."""
    prior = load_prior(config)
    pipeline = MultiViewPipeline(prior, config.camera, joint=load_joint(config.views.joint, prior))
    with Threads(None, config.runtime.threads, prior.device).calls_of(prior.unet):
        views = draw_views(pipeline, config)
    return write_views(views, config, run)


def draw_views(pipeline: MultiViewPipeline, config: Config, image: Tensor | None = None) -> Views:
    """The config's views; how the prompt was read and how long they took is printed. image: see the pipeline."""
    started = time.monotonic()
    views = pipeline(
        config.prompt,
        **config.views.inputs(),
        seed=config.seed,
        negative_prompt=config.negative_prompt,
        allow_unknown_words=config.allow_unknown_words,
        image=image,
    )
    if views.prompt:
        show_reading(as_asset(config.prompt), views.prompt, views.notes)
    else:
        show_notes(views.notes)
    print(f"{time.monotonic() - started:.1f} s for {len(views.images)} views{views.remark}", flush=True)
    return views


def write_views(views: Views, config: Config, run: RunDirectory) -> dict[str, Path]:
    """The files of `run`.

    Raises ThreedgenError, before any is written, if views are to be transparent and their background cannot be told.
    """
    results = {}
    pictures = [_transparent(image, i, config) for i, image in enumerate(views.images)]
    for i, picture in enumerate(pictures):
        results[f"view {i}"] = run.path(f"view-{i}.png")
        save_png(picture, results[f"view {i}"], told(config, views.prompt, views.seed))
    results["views"] = run.path("views.png" if config.task is Task.dense_views else "contact_sheet.png")
    save_png(contact_sheet(_rows(views), config.prompt), results["views"], told(config, views.prompt, views.seed))
    results["cameras"] = run.path("cameras.json")
    write_text_atomically(results["cameras"], json.dumps(describe(views), indent=2) + "\n")
    return results


def told(config: Config, as_read: str, seed: int) -> dict[str, str]:
    """What a picture of views says of itself in its PNG's text."""
    texts = {"prompt": config.prompt, "prompt_as_read": as_read, "negative_prompt": config.negative_prompt}
    return {name: text for name, text in texts.items() if text} | {"seed": f"{seed}", "Software": "threedgen"}


def _transparent(image: Image.Image, number: int, config: Config) -> Image.Image:
    """The view with alpha, if the config wants that."""
    if not config.views.transparent:
        return image
    if config.remove_background:
        return cut_out(image)
    from threedgen.data.flat_background import cut_from_flat  # here: scipy is imported with it

    try:
        return Image.fromarray(cut_from_flat(np.asarray(image)))
    except ThreedgenError as error:
        advice = "remove_background=true asks rembg, views.transparent=false keeps the background"
        raise ThreedgenError(f"views.transparent: view {number}: {error}: {advice}") from error


def describe(views: Views) -> dict[str, object]:
    """What cameras.json holds: plain numbers, see docs/howto/camera-conventions.md."""
    return {
        "prompt_as_read": views.prompt,
        "seed": views.seed,
        "image_size": views.images[0].width,
        "drawn_size": views.drawn_size,
        "elevation_deg": round(math.degrees(views.cameras.elevation[0]), 3),
        "azimuth_deg_mvdream_front_90": views.azimuth_angles,
        "azimuth_deg_threedgen_front_0": [round(math.degrees(azimuth), 3) for azimuth in views.cameras.azimuth],
        "camera_matrices": views.camera_matrices.tolist(),
        "assumed_distance": round(float(views.cameras.distance[0]), 6),
        "assumed_fov_y_deg": round(math.degrees(views.cameras.fov_y[0]), 6),
    }


def _rows(views: Views) -> list[Row]:
    pictures = np.stack([np.asarray(image) for image in views.images])
    return [("", pictures[i : i + _VIEWS_A_ROW]) for i in range(0, len(pictures), _VIEWS_A_ROW)]
