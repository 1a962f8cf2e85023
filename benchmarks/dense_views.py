"""What do the figures of 24 views see? True views of known objects with one fault at a time, in one table.

    .venv/bin/python benchmarks/dense_views.py                       four objects, one thread
    .venv/bin/python benchmarks/dense_views.py --objects 8 --out dense-views.json

clean           miniworld's own pictures, 64 px, 15 degrees apart
hue drift       the hue turned by 0.12 (of a full turn) times the sine of the azimuth: slow, and closed
pose jitter     seen from azimuths and elevations that are off by 4 degrees (normal)
view colour     each view's object with a colour of its own added, 0.05 (normal) for each channel
pixel noise     0.05 (normal) for each value
frozen          24 times the first view

The figures are those of `measure_views` in threedgen/tasks/evaluation/dense_views.py, which measures any views; the
objects are the first held-out captions that tell their azimuth. A second table shows what the VAE distance makes of
faults that have nearly one PSNR.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from skimage.color import hsv2rgb, rgb2hsv

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from threedgen.cameras import Cameras, viewing_cameras  # noqa: E402
from threedgen.config.load import load_config  # noqa: E402
from threedgen.core.errors import ThreedgenError  # noqa: E402
from threedgen.core.files import write_text_atomically  # noqa: E402
from threedgen.core.randomness import generator  # noqa: E402
from threedgen.data.miniworld import MiniObject, build, held_out  # noqa: E402
from threedgen.metrics import psnr, tells_azimuth  # noqa: E402
from threedgen.tasks.evaluation.dense_views import calibrated, measure_views, true_views, vae_distance  # noqa: E402
from threedgen.tasks.evaluation.tables import Figures, Scores, mean_of  # noqa: E402

NUM_VIEWS, ELEVATION, SIZE = 24, 15.0, 64
HUE_TURN, POSE_DEG, COLOR, NOISE = 0.12, 4.0, 0.05, 0.05
COLUMNS = {  # figure, then what stands in brackets behind it: title and digits
    ("novel_psnr", ""): ("novel views: PSNR dB", 2),
    ("novel_ssim", ""): ("SSIM", 3),
    ("novel_vae_distance", ""): ("VAE distance", 4),
    ("unexplained", ""): ("unexplained", 4),
    ("fitted_flow_1", "fitted_flow_1_coverage"): ("fitted flow, 1", 3),
    ("fitted_flow_6", "fitted_flow_6_coverage"): ("6", 3),
    ("flow_1", "flow_1_coverage"): ("true flow, 1", 3),
    ("flow_6", "flow_6_coverage"): ("6", 3),
    ("azimuth_deg", ""): ("azimuth error", 1),
}


def ring(turn_deg: np.ndarray | float = 0.0, rise_deg: np.ndarray | float = 0.0) -> Cameras:
    """The 24 cameras of the prior's training; turn, rise: numbers or [24], added to azimuth and elevation."""
    azimuth = np.arange(NUM_VIEWS) * 360 / NUM_VIEWS + turn_deg
    elevation = np.full(NUM_VIEWS, ELEVATION) + rise_deg
    return viewing_cameras(load_config("train-mini.yaml").camera, azimuth, elevation, SIZE)


def corrupted(obj: MiniObject, seed: int) -> dict[str, np.ndarray]:
    """Name of the fault -> views [24, H, W, 3]."""
    true = true_views(obj, ring())
    hsv = rgb2hsv(true.rgb)
    hsv[..., 0] += HUE_TURN * np.sin(np.arange(NUM_VIEWS) * 2 * np.pi / NUM_VIEWS)[:, None, None]
    views = {
        "clean": true.rgb,
        "hue drift": hsv2rgb(hsv % 1.0),
        "pose jitter": true_views(obj, ring(*(POSE_DEG * normal(seed, "pose", 2, NUM_VIEWS)))).rgb,
        "view colour": true.rgb + true.opacity * COLOR * normal(seed, "colour", NUM_VIEWS, 1, 1, 3),
        "pixel noise": true.rgb + NOISE * normal(seed, "pixels", *true.rgb.shape),
        "frozen": np.repeat(true.rgb[:1], NUM_VIEWS, 0),
    }
    return {name: images.clip(0, 1).astype(np.float32) for name, images in views.items()}


def of_one_psnr(obj: MiniObject, seed: int) -> dict[str, dict[str, float]]:
    """Fault -> PSNR and VAE distance of true views that have it."""
    true = true_views(obj, ring()).rgb
    faults = {
        "noise": true + 0.05 * normal(seed, "pixels", *true.shape),
        "blur": gaussian_filter(true, (0, 2.0, 2.0, 0)),
        "tint of the whole picture": true + np.array([0.05, -0.05, 0.05]),
        "moved by a pixel": np.roll(true, 1, 2),
    }
    pictures = {name: images.clip(0, 1).astype(np.float32) for name, images in faults.items()}
    return {name: {"psnr": psnr(true, p), "distance": vae_distance(true, p)} for name, p in pictures.items()}


def normal(seed: int, stream: str, *shape: int) -> np.ndarray:
    return torch.randn(shape, generator=generator(seed, 0, stream)).numpy()


def table(scores: Scores) -> str:
    """Markdown: means over the objects, coverage in brackets."""
    lines = ["| | " + " | ".join(title for title, _ in COLUMNS.values()) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for condition in scores:
        cells = []
        for (key, share), (_, digits) in COLUMNS.items():
            text = shown(scores, condition, key, digits)
            cells.append(f"{text} ({shown(scores, condition, share, 2)})" if share else text)
        lines.append(f"| {condition} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def distance_table(scores: Scores) -> str:
    lines = ["| fault | PSNR dB | VAE distance |", "|---|---|---|"]
    lines += [
        f"| {name} | {shown(scores, name, 'psnr', 2)} | {shown(scores, name, 'distance', 4)} |" for name in scores
    ]
    return "\n".join(lines)


def shown(scores: Scores, condition: str, figure: str, digits: int) -> str:
    mean = mean_of(scores, condition, figure)
    return "–" if mean is None else f"{mean.mean:.{digits}f}"


def by_condition(of_objects: Mapping[str, Mapping[str, Figures]]) -> dict[str, dict[str, Figures]]:
    """caption -> condition -> figures, turned to condition -> caption -> figures."""
    conditions = next(iter(of_objects.values()))
    return {name: {caption: found[name] for caption, found in of_objects.items()} for name in conditions}


def measure(objects: Sequence[MiniObject]) -> dict[str, dict[str, Figures]]:
    """condition -> caption -> figures. Raises ThreedgenError if the fit is not good enough for true views."""
    cameras = ring()
    novel = calibrated(objects, cameras)
    found = {}
    for i, obj in enumerate(objects):
        faulty = corrupted(obj, i)
        found[obj.spec.caption] = {name: measure_views(views, cameras, novel, obj) for name, views in faulty.items()}
        print(f"{obj.spec.caption}: done", file=sys.stderr, flush=True)
    return by_condition(found)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, default=4, help="held-out captions (4)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="also write every figure to this JSON file")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    objects = [build(spec) for spec in islice(filter(lambda s: tells_azimuth(s.caption), held_out()), given.objects)]
    started = time.monotonic()
    try:
        scores = measure(objects)
    except ThreedgenError as error:
        print(f"{Path(__file__).name}: {error}", file=sys.stderr)
        return error.exit_status
    distances = by_condition({obj.spec.caption: of_one_psnr(obj, i) for i, obj in enumerate(objects)})
    print(
        f"{len(objects)} objects, {time.monotonic() - started:.0f} s\n\n{table(scores)}\n\n{distance_table(distances)}"
    )
    if given.out:
        write_text_atomically(given.out, json.dumps({"views": scores, "distances": distances}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
