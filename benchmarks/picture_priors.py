"""Does the image-to-video prior draw the object of its picture? Held-out captions, objects with sizes of their own.

    .venv/bin/python benchmarks/picture_priors.py RUN                    12 captions
    .venv/bin/python benchmarks/picture_priors.py RUN --captions 32 --out picture-priors.json

RUN: the folder of a training by configs/train-video-i2v-mini.yaml.

caption              mini-video told the caption
picture              the prior shown the object from the front, without a word
picture and caption  both
another's picture    as `picture`, with the picture of the next object: what is not followed scores as well as `picture`

The 24 views are sampled from the same noise for an object. PSNR inside the silhouettes of the truth: of all views
("all"), of those up to 60 degrees from the picture ("near"), of the others ("far"). "standard object": what true views
of the caption in standard sizes score, the most that a caption tells. Below: differences with 95 % intervals.
"""

from __future__ import annotations

import argparse
import sys
from itertools import islice
from pathlib import Path
from random import Random

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from priors_compared import Found, carry_out, parser_of  # noqa: E402  # beside this file

from threedgen.cameras import Cameras, viewing_cameras  # noqa: E402
from threedgen.config.load import load_config  # noqa: E402
from threedgen.config.schema import Config  # noqa: E402
from threedgen.data.miniworld import Rendering, build, held_out  # noqa: E402
from threedgen.diffusion.prior import MultiViewPrior  # noqa: E402
from threedgen.imaging import Row  # noqa: E402
from threedgen.metrics import psnr, tells_azimuth  # noqa: E402
from threedgen.tasks.evaluation.dense_views import true_views  # noqa: E402
from threedgen.tasks.training.samples import sampled_sets  # noqa: E402

CAPTION, PICTURE, BOTH, OTHER, STANDARD = (
    "caption",
    "picture",
    "picture and caption",
    "another's picture",
    "standard object",
)
COMPARED = [(PICTURE, CAPTION), (BOTH, CAPTION), (PICTURE, OTHER), (BOTH, PICTURE)]
NUM_VIEWS, SIZE, ELEVATION, NEAR_DEG = 24, 64, 15.0, 60

COLUMNS = {name: (f"{name}, dB", 2) for name in ("all", "near", "far")}


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("weights", help="of the prior that is shown pictures")
    parser.add_argument("--guidance", type=float, help="its guidance scale (that of videomv-i2v-mini.yaml)")

    def compared(given: argparse.Namespace) -> tuple[Found, list[Row]]:
        return compare(given.captions, given.weights, given.guidance)

    return carry_out(parser.parse_args(), compared, COLUMNS, COMPARED)


def compare(count: int, weights: str, guidance: float | None) -> tuple[Found, list[Row]]:
    settings = [f"weights={weights}"] + ([] if guidance is None else [f"views.guidance_scale={guidance}"])
    config, of_text = load_config("videomv-i2v-mini.yaml", settings), load_config("videomv-mini.yaml")
    shown, told = (MultiViewPrior.from_pretrained(each.weights) for each in (config, of_text))
    cameras = ring(config)
    specs = list(islice((spec for spec in held_out() if tells_azimuth(spec.caption)), count))
    truths = [true_views(build(spec, Random(number)), cameras) for number, spec in enumerate(specs)]
    fronts = torch.from_numpy(np.stack([truth.rgb[0] for truth in truths])).movedim(-1, 1)
    found: Found = {name: [] for name in (CAPTION, PICTURE, BOTH, OTHER, STANDARD)}
    rows: list[Row] = []
    for number, (spec, truth) in enumerate(zip(specs, truths, strict=True)):
        own, other = fronts[[number]], fronts[[(number + 1) % len(specs)]]
        drawn = {
            CAPTION: sampled_sets(told, of_text, [spec.caption], cameras, step=number)[0],
            PICTURE: sampled_sets(shown, config, [""], cameras, step=number, pictures=own)[0],
            BOTH: sampled_sets(shown, config, [spec.caption], cameras, step=number, pictures=own)[0],
            OTHER: sampled_sets(shown, config, [""], cameras, step=number, pictures=other)[0],
            STANDARD: true_views(build(spec), cameras).rgb,
        }
        for name, views in drawn.items():
            found[name].append(figures(views, truth))
            rows.append((f"{spec.caption}: {name}", views[::3]))
        rows.append((f"{spec.caption}: truth, the first is the picture", truth.rgb[::3]))
        print(f"{number + 1} of {len(specs)}: {spec.caption}", file=sys.stderr, flush=True)
    return found, rows


def ring(config: Config) -> Cameras:
    """24 cameras, the first at the front."""
    azimuths = [360 / NUM_VIEWS * k for k in range(NUM_VIEWS)]
    return viewing_cameras(config.camera, azimuths, ELEVATION, SIZE)


def figures(views: np.ndarray, truth: Rendering) -> dict[str, float | None]:
    """PSNR in dB inside the silhouettes of [V, H, W, 3]."""
    turn = np.arange(NUM_VIEWS) * 360 / NUM_VIEWS
    near = np.minimum(turn, 360 - turn) <= NEAR_DEG
    inside = truth.opacity[..., 0] > 0.5
    chosen = {"all": np.full(NUM_VIEWS, True), "near": near, "far": ~near}
    return {name: psnr(views[c][inside[c]], truth.rgb[c][inside[c]]) for name, c in chosen.items()}


if __name__ == "__main__":
    sys.exit(main())
