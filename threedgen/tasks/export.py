"""Turn an optimised scene into files: textured mesh, turntable, contact sheet, report."""

import json
import time
from pathlib import Path

import numpy as np
import torch

from threedgen.cameras import Cameras, mvdream_camera_vectors, viewing_cameras
from threedgen.config.schema import Config
from threedgen.core.errors import ConfigError
from threedgen.core.files import write_text_atomically
from threedgen.core.randomness import generator
from threedgen.data.miniworld import build, parse, render
from threedgen.diffusion.prior import MultiViewPrior
from threedgen.diffusion.sampling import sample_views
from threedgen.imaging import Row, contact_sheet, save_png, save_turntable_gif
from threedgen.mesh import extract_mesh, render_mesh, write_glb, write_obj
from threedgen.metrics.image import psnr
from threedgen.runs.directory import RunDirectory
from threedgen.scene.nerf import NeRF

SHEET_AZIMUTHS = (20.0, 110.0, 200.0, 290.0)
_ELEVATION = 15.0
_GREY = (0.5, 0.5, 0.5)
_FRAMES_PER_SECOND = 20


def export_scene(scene: NeRF, prior: MultiViewPrior, config: Config, run: RunDirectory) -> dict[str, Path]:
    """Write everything that the user gets; raises EmptyMeshError, before any asset is written, if there is nothing."""
    started = time.monotonic()
    mesh = extract_mesh(scene, config.export)
    results = {"glb": run.path("asset.glb"), "obj": run.path("asset.obj")}
    write_glb(mesh, results["glb"])
    write_obj(mesh, results["obj"])
    mesh_seconds = time.monotonic() - started

    results["turntable"] = run.path("turntable.gif")
    azimuth = np.linspace(0, 360, config.export.turntable_frames, endpoint=False)
    frames = viewing_cameras(config.camera, azimuth, _ELEVATION, config.export.image_size)
    save_turntable_gif(render_mesh(mesh, frames, _GREY)[0], results["turntable"], _FRAMES_PER_SECOND)

    results["sheet"] = run.path("contact_sheet.png")
    cameras = viewing_cameras(config.camera, SHEET_AZIMUTHS, _ELEVATION, config.export.image_size)
    scene_rgb, mesh_rgb = render_scene(scene, cameras), render_mesh(mesh, cameras, _GREY)[0]
    rows: list[Row] = [("sampled views", _sampled_views(prior, config))]
    rows += [("optimised scene", scene_rgb), ("textured mesh", mesh_rgb), *_ground_truth(config.prompt, cameras)]
    save_png(contact_sheet(rows, config.prompt), results["sheet"])

    results["report"] = run.path("report.json")
    report = {
        "prompt": config.prompt,
        "seed": config.seed,
        "vertices": len(mesh.vertices),
        "faces": len(mesh.faces),
        "texture_size": mesh.texture.shape[0],
        "mesh_vs_scene_psnr": round(float(psnr(scene_rgb, mesh_rgb)), 2),
        "seconds": {"mesh": round(mesh_seconds, 1), "export": round(time.monotonic() - started, 1)},
    }
    write_text_atomically(results["report"], json.dumps(report, indent=2) + "\n")
    print(f"mesh       {report['faces']} faces, {report['mesh_vs_scene_psnr']} dB against the scene's own views")
    return results


@torch.no_grad()
def render_scene(scene: NeRF, cameras: Cameras) -> np.ndarray:
    """[B, H, W, 3] on mid grey."""
    return scene.render(cameras, background=torch.tensor(_GREY, device=scene.device)).rgb.cpu().numpy()


def _sampled_views(prior: MultiViewPrior, config: Config) -> np.ndarray:
    """What the prior alone makes of the prompt, [4, H, W, 3] at the sheet's azimuths."""
    cameras = viewing_cameras(config.camera, SHEET_AZIMUTHS, _ELEVATION, prior.image_size)
    views = sample_views(
        prior,
        [config.prompt],
        mvdream_camera_vectors(cameras).to(prior.device),
        len(cameras),
        generator(config.seed, 0, "sampled views"),
        negative_prompt=config.negative_prompt,
        num_inference_steps=config.views.num_inference_steps,
        guidance_scale=config.views.guidance_scale,
        rescale=config.views.rescale,
    )
    return views.movedim(1, -1).cpu().numpy()


def _ground_truth(prompt: str, cameras: Cameras) -> list[Row]:
    """A row of exact pictures if the prompt names a miniworld object, otherwise none."""
    try:
        spec = parse(prompt)
    except ConfigError:
        return []
    matrices, fov_y = cameras.camera_to_world.numpy(), cameras.fov_y.numpy()
    return [("ground truth", render(build(spec), matrices, fov_y, cameras.height, _GREY).rgb)]
