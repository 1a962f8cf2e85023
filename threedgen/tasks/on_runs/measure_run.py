"""`launch.py measure RUN`: what a run drew, judged without a ground truth, where it has none."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from threedgen.cameras import Cameras, orbit
from threedgen.config.load import load_config
from threedgen.config.schema import Config
from threedgen.core.arguments import ArgumentParser, program
from threedgen.core.errors import ConfigError
from threedgen.core.files import write_json_atomically
from threedgen.data.meshes.files import read_mesh
from threedgen.data.meshes.views import HALF_EDGE, normalize
from threedgen.data.miniworld import build, parse
from threedgen.data.posed_files import read_posed_images
from threedgen.data.posed_images import CAMERAS, PosedImages
from threedgen.mesh.render import render_mesh
from threedgen.metrics.clip_score import CLIPScore
from threedgen.metrics.image import GREY
from threedgen.metrics.novel_view import NovelViews
from threedgen.metrics.perceptual import LPIPS
from threedgen.metrics.raft import raft_flow
from threedgen.runs.device import select_device
from threedgen.tasks.evaluation.dense_views import (
    fitted_figures,
    measure_views,
    novel_scores,
    quick_fit,
    seen_flow_figures,
    true_views,
    vae_distance,
)
from threedgen.tasks.evaluation.tables import row
from threedgen.tasks.on_runs.run_verb import config_of

_DESCRIPTION = """\
Measures the views and the asset of a run and writes RUN/measured.json. Of 24 or more views all around, an even number:
novel views         a scene is fitted to every second view and compared with the others
unexplained         how far all views are from a scene that is fitted to all of them
fitted flow         colours of two views, one warped onto the other by that scene's depth, neighbours and six apart
all at 64 pixels, beside what true views of known objects get from the same cameras. With weights that are not ours:
--clip   CLIP score of the views, and of the asset from 24 sides on white, with the run's prompt
--lpips  LPIPS of the novel views
--raft   flow as RAFT sees it, of the views as they are"""
# objects whose true views are measured beside the run's: held-out captions that tell their azimuth
_KNOWN = (
    *("a black bear with a white face", "a white cat with a yellow face"),
    *("a blue duck with a green face", "a red rabbit with a green face"),
)
_FIT_SIZE, _LEAST_RING = 64, 24  # half of fewer views do not say what the others show
_HALF_HEIGHT = 0.9  # world units that a view shows above the origin, in which known objects have the size they should
_ASSET_VIEWS, _ASSET_ELEVATION, _ASSET_SIZE, _WHITE = 24, 15.0, 224, (1.0, 1.0, 1.0)
_ASSET_FOV_Y_DEG, _ASSET_ROOM = 40.0, 1.3  # room: the height that is seen, as a multiple of the asset's longest edge
_UNEVEN = 0.01  # of the angle between neighbours
_MEASURED = "measured.json"
_TITLES = {
    "clip_score": ("CLIP score", 2),
    "novel_psnr": ("novel views: PSNR dB", 2),
    "novel_ssim": ("SSIM", 3),
    "novel_lpips": ("LPIPS", 4),
    "novel_vae_distance": ("VAE distance", 4),
    "unexplained": ("unexplained", 4),
    "fitted_flow_1": ("fitted flow, neighbours", 3),
    "fitted_flow_6": ("six apart", 3),
    "seen_flow_1": ("RAFT's flow, neighbours", 3),
    "seen_flow_6": ("six apart", 3),
    "asset_clip_score": ("asset: CLIP score", 2),
}


@dataclass(frozen=True)
class Judges:
    """Weights that are not ours, each a file or folder; None: such figures are left out."""

    clip: Path | None = None
    lpips: Path | None = None
    raft: Path | None = None


@dataclass(frozen=True)
class Measured:
    figures: Mapping[str, float | None]
    of_true_views: Mapping[str, float | None]  # those that depend on the fit: what true views of known objects get


def main(arguments: Sequence[str]) -> int:
    """Carry out `measure RUN [options]`; returns the exit status."""
    parser = ArgumentParser(
        prog=f"{program()} measure", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a run that drew views or made an asset")
    parser.add_argument("--prompt", default="", help="what CLIP compares with (default: the run's own)")
    parser.add_argument("--clip", type=Path, metavar="FOLDER", help="a CLIP model in transformers' layout")
    parser.add_argument("--lpips", type=Path, metavar="FILE", help="torchvision's AlexNet or VGG16")
    parser.add_argument("--raft", type=Path, metavar="FILE", help="torchvision's RAFT (large)")
    given = parser.parse_args(arguments)
    config = load_config(config_of("measure", given.run))
    if config.runtime.threads > 0:
        torch.set_num_threads(config.runtime.threads)
    found = measure_run(given.run, config, given.prompt, Judges(given.clip, given.lpips, given.raft))
    target = given.run / _MEASURED
    write_json_atomically(target, {"figures": found.figures, "of_true_views": found.of_true_views})
    print(f"{_table(found)}\nmeasured   {target}")
    return 0


def measure_run(folder: Path, config: Config, prompt: str, judges: Judges) -> Measured:
    """Of the run in `folder`; prompt: instead of the config's, if not empty.

    Raises ConfigError if there is nothing to measure, or no prompt for CLIP, or weights are not there, and
    ThreedgenError if files or weights cannot be read or the fit cannot judge views from such cameras.
    """
    prompt = (prompt or config.prompt).strip()
    views = read_posed_images(folder) if (folder / CAMERAS).is_file() else None
    asset = folder / "asset.glb"
    has_ring, has_asset = views is not None and is_ring(views.cameras), asset.is_file()
    if judges.clip and not prompt:
        raise ConfigError(f"measure {folder}: the run has no prompt that CLIP could compare with: add --prompt TEXT")
    if not has_ring and not (judges.clip and (views or has_asset)):
        raise ConfigError(
            f"measure {folder}: without --clip FOLDER only {_LEAST_RING} or more views all around are measured"
        )
    if not has_ring and (judges.lpips or judges.raft):
        raise ConfigError(f"measure {folder}: --lpips and --raft are for {_LEAST_RING} or more views all around")
    device = select_device(config.runtime)
    clip = CLIPScore.from_pretrained(judges.clip, device) if judges.clip else None
    lpips = {"lpips": LPIPS.from_files(judges.lpips).to(device).distance} if judges.lpips else {}
    optical_flow = raft_flow(judges.raft, device) if judges.raft else None

    figures: dict[str, float | None] = {}
    of_true: dict[str, float | None] = {}
    pictures = None if views is None else views.on(GREY)[0]
    if clip and pictures is not None:
        figures["clip_score"] = clip(pictures, prompt)
    if has_ring:
        small = _at_known_scale(read_posed_images(folder, max_size=_FIT_SIZE))
        print(f"fitting    {2 * len(_KNOWN) + 2} scenes to views of {_FIT_SIZE} pixels", flush=True)
        known = [(true_views(build(parse(caption)), small.cameras).rgb, small.cameras) for caption in _KNOWN]
        fit = quick_fit([f"runtime.device={config.runtime.device.name}"])
        novel = NovelViews(fit, {"vae_distance": vae_distance, **lpips}, known)
        fitted = [fitted_figures(true, cameras, fit) for true, cameras in known]
        of_true = novel_scores(novel.truth) | {key: _mean([each[key] for each in fitted]) for key in fitted[0]}
        figures |= measure_views(small.on(GREY)[0], small.cameras, novel)
        if optical_flow:
            figures |= seen_flow_figures(pictures, optical_flow)
    if clip and has_asset:
        figures["asset_clip_score"] = clip(_sides(asset), prompt)
    return Measured(figures, of_true)


def is_ring(cameras: Cameras) -> bool:
    """Whether they are 24 or more, an even number, at even angles all around in the order in which they stand."""
    count = len(cameras)
    turns = (cameras.azimuth.roll(-1) - cameras.azimuth).remainder(2 * math.pi) * count / (2 * math.pi)
    return count >= _LEAST_RING and count % 2 == 0 and bool((turns - 1).abs().max() < _UNEVEN)


def _at_known_scale(views: PosedImages) -> PosedImages:
    """The same pictures in a world of such a scale that they show as much of it as the mini model's."""
    cameras = views.cameras
    scale = _HALF_HEIGHT / float((cameras.distance * (cameras.fov_y / 2).tan()).mean())
    return views.moved(np.diag([scale, scale, scale, 1.0]))


def _sides(asset: Path) -> np.ndarray:
    """The asset, wherever it stands and however large it is, from all around on white, [V, H, W, 3]."""
    mesh, _ = normalize(read_mesh(asset)[0], up="y")
    around = np.arange(_ASSET_VIEWS) * 360 / _ASSET_VIEWS
    distance = _ASSET_ROOM * HALF_EDGE / math.tan(math.radians(_ASSET_FOV_Y_DEG) / 2)
    return render_mesh(mesh, orbit(around, _ASSET_ELEVATION, distance, _ASSET_FOV_Y_DEG, _ASSET_SIZE), _WHITE)[0]


def _mean(values: Sequence[float | None]) -> float | None:
    """Of those that are there."""
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def _table(found: Measured) -> str:
    """As markdown."""
    lines = [row(["", "this run", "true views"]), "|---|---|---|"]
    for key, (title, digits) in _TITLES.items():
        if key in found.figures:
            of = (found.figures[key], found.of_true_views.get(key))
            lines.append(row([title, *("–" if value is None else f"{value:.{digits}f}" for value in of)]))
    return "\n".join(lines)
