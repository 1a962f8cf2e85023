"""Which prior draws 24 views that are one object? The orderings of VideoMV's table 1, on miniworld's held-out captions.

    .venv/bin/python benchmarks/dense_priors.py                      12 captions
    .venv/bin/python benchmarks/dense_priors.py --captions 64 --out dense-priors.json

truth           miniworld's own pictures: what is to be had
four views      the mini prior, which was trained on sets of four, asked for all 24 cameras at once
video           mini-video
3D-aware        mini-video, x0 replaced at steps 10, 15 and 20 of 25 (configs/videomv-mini.yaml)

All from the same noise for a caption. Views: PSNR inside the silhouettes against the caption's object. The other
figures are those of benchmarks/dense_views.py. Below: differences of the mean with 95 % intervals over captions.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from priors_compared import Found, carry_out, parser_of  # noqa: E402  # beside this file

from threedgen.config.load import load_config  # noqa: E402
from threedgen.config.sampling import AwareConfig  # noqa: E402
from threedgen.config.schema import Config  # noqa: E402
from threedgen.data.miniworld import build, held_out  # noqa: E402
from threedgen.diffusion.pipeline import MultiViewPipeline, Views  # noqa: E402
from threedgen.diffusion.prior import MultiViewPrior  # noqa: E402
from threedgen.imaging import Row  # noqa: E402
from threedgen.metrics import tells_azimuth  # noqa: E402
from threedgen.tasks.dense_views import dense_pipeline  # noqa: E402
from threedgen.tasks.evaluation.dense_views import calibrated, measure_views, true_views  # noqa: E402
from threedgen.tasks.feed_forward import FeedForward  # noqa: E402
from threedgen.tasks.training.samples import psnr_inside  # noqa: E402

TRUTH, FOUR, VIDEO, AWARE = "truth", "four views", "video", "3D-aware"
COLUMNS = {
    "views_psnr": ("views: PSNR dB", 2),
    "novel_psnr": ("novel views: PSNR dB", 2),
    "novel_ssim": ("SSIM", 3),
    "novel_vae_distance": ("VAE distance", 4),
    "flow_1": ("true flow, 1", 3),
    "flow_6": ("6", 3),
    "azimuth_deg": ("azimuth error", 1),
}
COMPARED = [(VIDEO, FOUR), (AWARE, VIDEO)]


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--weights", default="mini-video")
    return carry_out(parser.parse_args(), lambda given: compare(given.captions, given.weights), COLUMNS, COMPARED)


def compare(count: int, weights: str) -> tuple[Found, list[Row]]:
    config = load_config("videomv-mini.yaml", [f"weights={weights}"])
    draw = pipelines(config)
    specs = list(islice((spec for spec in held_out() if tells_azimuth(spec.caption)), count))
    found: Found = {name: [] for name in (TRUTH, *draw)}
    rows: list[Row] = []
    novel = None
    for number, spec in enumerate(specs):
        obj, views = build(spec), {name: made(spec.caption, number) for name, made in draw.items()}
        cameras = views[VIDEO].drawn_cameras
        truth = true_views(obj, cameras)
        if novel is None:
            novel = calibrated([build(each) for each in specs[:4]], cameras)
        shown = {TRUTH: truth.rgb} | {name: each.drawn.movedim(1, -1).numpy() for name, each in views.items()}
        for name, images in shown.items():
            inside = None if name == TRUTH else psnr_inside(images, truth)
            found[name].append({"views_psnr": inside, **measure_views(images, cameras, novel, obj)})
            rows.append((f"{spec.caption}: {name}", images[::3]))
        print(f"{number + 1} of {len(specs)}: {spec.caption}", file=sys.stderr, flush=True)
    return found, rows


def pipelines(config: Config) -> dict[str, Callable[[str, int], Views]]:
    """Name -> (caption, seed) -> views."""
    video = MultiViewPrior.from_pretrained(config.weights)
    forward = FeedForward.of(config, video.device)
    made = {
        FOUR: MultiViewPipeline(MultiViewPrior.from_pretrained("mini"), config.camera),
        VIDEO: dense_pipeline(video, forward, replace(config, aware=AwareConfig())),
        AWARE: dense_pipeline(video, forward, config),
    }

    def drawn_by(pipeline: MultiViewPipeline) -> Callable[[str, int], Views]:
        return lambda caption, seed: pipeline(caption, **config.views.inputs(), seed=seed)

    return {name: drawn_by(pipeline) for name, pipeline in made.items()}


if __name__ == "__main__":
    sys.exit(main())
