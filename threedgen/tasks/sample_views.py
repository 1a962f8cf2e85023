"""Text to images of one object from several sides, with the inputs of MVDream's public API."""

import json
import math
import time
from pathlib import Path

from threedgen.cameras import Cameras, mvdream_camera_vectors, viewing_cameras
from threedgen.config.schema import Config
from threedgen.core.files import write_text_atomically
from threedgen.core.randomness import generator
from threedgen.diffusion.prior import ASSET_SUFFIX
from threedgen.diffusion.sampling import sample_views
from threedgen.imaging import contact_sheet, save_png
from threedgen.runs.directory import RunDirectory
from threedgen.tasks.generate import load_prior


def run(config: Config, run: RunDirectory) -> dict[str, Path]:
    """Write one PNG a view, a contact sheet, and cameras.json with the matrices and angles."""
    views, prior, started = config.views, load_prior(config), time.monotonic()
    cameras = view_cameras(config)
    camera = mvdream_camera_vectors(cameras).to(prior.device) if len(cameras) > 1 else None
    prompt = config.prompt if config.prompt.endswith(ASSET_SUFFIX) or camera is None else config.prompt + ASSET_SUFFIX
    images = sample_views(
        prior,
        [prompt],
        camera,
        len(cameras),
        generator(config.seed, 0, "sampled views"),
        negative_prompt=config.negative_prompt,
        num_inference_steps=views.num_inference_steps,
        guidance_scale=views.guidance_scale,
        rescale=views.rescale,
        image_size=views.image_size,
    )
    pictures = images.movedim(1, -1).cpu().numpy()
    print(f"{time.monotonic() - started:.1f} s for {len(cameras)} views")
    results = {}
    for i, picture in enumerate(pictures):
        results[f"view {i}"] = run.path(f"view-{i}.png")
        save_png(picture, results[f"view {i}"])
    results["sheet"] = run.path("contact_sheet.png")
    save_png(contact_sheet([("", pictures)], config.prompt), results["sheet"])
    results["cameras"] = run.path("cameras.json")
    write_text_atomically(results["cameras"], json.dumps(_describe(cameras, config), indent=2) + "\n")
    return results


def view_cameras(config: Config) -> Cameras:
    """The API's cameras: azimuth = start + span * i / num_frames, where MVDream counts 90 degrees as the front."""
    views = config.views
    azimuth = [
        views.camera_azimuth - 90 + views.camera_azimuth_span * i / views.num_frames for i in range(views.num_frames)
    ]
    return viewing_cameras(config.camera, azimuth, views.camera_elevation, views.image_size)


def _describe(cameras: Cameras, config: Config) -> dict[str, object]:
    return {
        "prompt": config.prompt,
        "seed": config.seed,
        "fov_y_deg": math.degrees(cameras.fov_y[0]),
        "azimuth_deg": [round(math.degrees(a), 6) for a in cameras.azimuth],
        "elevation_deg": config.views.camera_elevation,
        "camera_to_world": cameras.camera_to_world.tolist(),
    }
