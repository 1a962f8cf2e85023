"""What do feed-forward Gaussians show of an object? Made of 4, 6, 8 or 12 of its 24 views, on held-out captions.

    .venv/bin/python benchmarks/gaussians.py --captions 8
    .venv/bin/python benchmarks/gaussians.py --weights outputs/train-gaussians-mini/RUN

True views: miniworld's own pictures go in. Drawn: those of configs/videomv-mini-quick.yaml; the caption's number is
the seed. PSNR inside the true silhouettes, dB: over eight views that are in no row's input, and over the row's input
views themselves; for drawn views both are against the object of the caption.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from priors_compared import chosen, ring  # noqa: E402  # beside this file

from threedgen.config.load import load_config  # noqa: E402
from threedgen.core.errors import ThreedgenError  # noqa: E402
from threedgen.data.miniworld import Rendering, build  # noqa: E402
from threedgen.diffusion.pipeline import MultiViewPipeline  # noqa: E402
from threedgen.metrics import psnr  # noqa: E402
from threedgen.tasks.evaluation.dense_views import true_views  # noqa: E402
from threedgen.tasks.feed_forward import FeedForward  # noqa: E402

RECIPE = "videomv-mini-quick.yaml"
INPUT_VIEWS = 4, 6, 8, 12
NEVER_SHOWN = torch.tensor([1, 5, 7, 11, 13, 17, 19, 23])  # 15 degrees from an input view, or more


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captions", type=int, default=8)
    parser.add_argument("--weights", default="", help="a folder with LGM's network; without: the bundled one")
    given = parser.parse_args()
    torch.set_num_threads(1)
    config = load_config(RECIPE)
    cameras, pipeline = ring(config), MultiViewPipeline.from_pretrained(config.weights)
    found: dict[str, list[tuple[float, float]]] = {}
    for number, spec in enumerate(chosen(given.captions)):
        truth = true_views(build(spec), cameras)
        drawn = pipeline(spec.caption, **config.views.inputs(), seed=number).drawn
        true = torch.as_tensor(truth.rgb).float().movedim(-1, 1)
        for count in INPUT_VIEWS:
            settings = [f"gaussians.input_views={count}", f"gaussians.weights={given.weights}"]
            try:
                forward = FeedForward.of(load_config(RECIPE, settings), pipeline.prior.device)
            except ThreedgenError as error:
                parser.error(str(error))
            for kind, views in (("true", true), ("drawn", drawn)):
                found.setdefault(f"{count} {kind} views", []).append(figures(forward, views, truth))
    print("| Gaussians of | other views | its own |\n|---|---|---|")
    for name, pairs in found.items():
        print(f"| {name} | " + " | ".join(f"{mean:.2f}" for mean in np.mean(pairs, 0)) + " |")
    return 0


@torch.no_grad()
def figures(forward: FeedForward, views: Tensor, truth: Rendering) -> tuple[float, float]:
    cameras = ring(load_config(RECIPE))
    (scene,) = forward.of_views(views, cameras)
    shown = scene.render(cameras, background=torch.full((3,), 0.5)).rgb.numpy()
    inside = truth.opacity[..., 0] > 0.5

    def of(numbers: Tensor) -> float:
        mask = inside[numbers]
        return psnr(shown[numbers][mask], truth.rgb[numbers][mask])

    return of(NEVER_SHOWN), of(forward.inputs_of(len(views)))


if __name__ == "__main__":
    sys.exit(main())
