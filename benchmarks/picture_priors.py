"""Does the image-to-video prior draw the object of its picture? Held-out captions, objects with sizes of their own.

    .venv/bin/python benchmarks/picture_priors.py RUN                    12 captions
    .venv/bin/python benchmarks/picture_priors.py RUN --captions 32 --out picture-priors.json
    .venv/bin/python benchmarks/picture_priors.py RUN --captions 0      only what its image encoder reads

RUN: the folder of a training by configs/train-video-i2v-mini.yaml, or weights.

First, what the image encoder makes of pictures of all held-out captions' objects, from four sides: how often the
caption whose states in the text encoder are nearest to a picture's tokens is the right one, among the held-out ones and
among all; of the latter, how often its kind, its colour and the rest is right.

caption              mini-video told the caption
picture              the prior shown the object from the front, without a word
picture and caption  both
another's picture    as `picture`, with the picture of the next object: what is not followed scores as well as `picture`
picture, plain       as `picture`, not 3D-aware: all others are, as videomv-i2v-mini.yaml has it
picture, pinned      as `picture`, which is the first view then (views.image_pinned)

The 24 views are sampled from the same noise for an object.

Views (VideoMV's table 2), all but the first, which is given: PSNR inside the silhouettes of the truth, of all ("all"),
of those up to 60 degrees from the picture ("near"), of the others ("far"); SSIM and VAE distance to true views. Of all
views, the flow of benchmarks/dense_views.py.
Assets (table 3): the surface of the Gaussians of some of the views against the object's: Chamfer distance in world
units (objects are about 1.4 across), the angle between normals, and IoU of the solids at 64^3 points.

"standard object": what true views of the caption in standard sizes score, the most that a caption tells; "truth": what
views and assets score that are as good as can be. Below: differences with 95 % intervals.
"""

from __future__ import annotations

import argparse
import sys
from functools import cache
from pathlib import Path
from random import Random

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from priors_compared import (  # noqa: E402  # beside this file
    ELEVATION,
    NUM_VIEWS,
    SIZE,
    Condition,
    Figures,
    Found,
    Kept,
    carry_out,
    chosen,
    fingerprint,
    measured,
    parser_of,
    ring,
)

from threedgen.cameras import viewing_cameras  # noqa: E402
from threedgen.config.load import load_config  # noqa: E402
from threedgen.config.schema import Config  # noqa: E402
from threedgen.data.miniworld import Rendering, build, held_out, training_specs  # noqa: E402
from threedgen.data.miniworld.grammar import Spec  # noqa: E402
from threedgen.diffusion.checkpoints.locate import GAUSSIANS, IMAGE_ENCODER  # noqa: E402
from threedgen.diffusion.prior import MultiViewPrior  # noqa: E402
from threedgen.imaging import Row  # noqa: E402
from threedgen.metrics import psnr, ssim  # noqa: E402
from threedgen.tasks.dense_views import dense_pipeline  # noqa: E402
from threedgen.tasks.evaluation.dense_views import figures_beside, true_views, vae_distance  # noqa: E402
from threedgen.tasks.evaluation.scoring import surface_figures  # noqa: E402
from threedgen.tasks.feed_forward import FeedForward  # noqa: E402

CAPTION, PICTURE, BOTH, OTHER, PLAIN, PINNED, STANDARD, TRUTH = (
    "caption",
    "picture",
    "picture and caption",
    "another's picture",
    "picture, plain",
    "picture, pinned",
    "standard object",
    "truth, the first is the picture",
)
COMPARED = [(PICTURE, CAPTION), (BOTH, CAPTION), (PICTURE, OTHER), (BOTH, PICTURE), (PICTURE, PLAIN), (PINNED, PICTURE)]
NEAR_DEG = 60

COLUMNS = {name: (f"{name}, dB", 2) for name in ("all", "near", "far")} | {
    "ssim": ("SSIM", 3),
    "vae_distance": ("VAE distance", 4),
    "flow_1": ("true flow, 1", 3),
    "flow_6": ("6", 3),
    "chamfer": ("Chamfer", 4),
    "normals": ("normals, degrees", 1),
    "volume_iou": ("volume IoU", 3),
}


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--steps", type=int, help="of the sampler (as many as videomv-i2v-mini.yaml has)")
    parser.add_argument("weights", help="of the prior that is shown pictures")
    parser.add_argument("--guidance", type=float, help="its guidance scale (that of videomv-i2v-mini.yaml)")

    def compared(given: argparse.Namespace, kept: Kept) -> tuple[Found, list[Row]]:
        if not given.kept:
            print(reading(given.weights))
        return compare(given, kept)

    return carry_out(parser.parse_args(), compared, COLUMNS, COMPARED)


@torch.no_grad()
def reading(weights: str) -> str:
    """A table of the captions that are nearest to what the image encoder makes of pictures of held-out objects."""
    config = load_config("videomv-i2v-mini.yaml", [f"weights={weights}"])
    prior = MultiViewPrior.from_pretrained(config.weights)
    own, rest = held_out(), training_specs()
    states = torch.cat([prior.encode_text([s.caption for s in some]) for some in chunks([*own, *rest], 256)]).flatten(1)
    azimuths = [0.0, 60.0, 120.0, 180.0]
    right: dict[str, list[bool]] = {}
    for number, spec in enumerate(own):
        cameras = viewing_cameras(config.camera, azimuths, ELEVATION, SIZE)
        pictures = torch.from_numpy(true_views(build(spec, Random(number)), cameras).rgb).movedim(-1, 1)
        tokens = prior.unet.picture_tokens(prior.show(pictures).embedding).flatten(1)
        distances = torch.cdist(tokens, states)
        among_own, among_all = distances[:, : len(own)].argmin(1).tolist(), distances.argmin(1).tolist()
        for azimuth, one, other in zip(azimuths, among_own, among_all, strict=True):
            read = (*own, *rest)[other]
            answers = {"of the held-out": one == number, "of all": read == spec, "kind": read.kind == spec.kind}
            answers |= {"colour": read.color == spec.color}
            answers |= {"feature": (read.feature, read.feature_color) == (spec.feature, spec.feature_color)}
            for name, answer in answers.items():
                right.setdefault(f"{name} {azimuth:g}", []).append(answer)
    names = list(dict.fromkeys(name.rpartition(" ")[0] for name in right))
    lines = ["| picture from | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for azimuth in azimuths:
        cells = [f"{np.mean(right[f'{name} {azimuth:g}']):.0%}" for name in names]
        lines.append(f"| {azimuth:g}° | " + " | ".join(cells) + " |")
    return "\n".join(lines) + f"\n{len(own)} held-out captions, {len(own) + len(rest)} in all\n"


def chunks(specs: list[Spec], size: int) -> list[list[Spec]]:
    return [specs[i : i + size] for i in range(0, len(specs), size)]


def compare(given: argparse.Namespace, kept: Kept) -> tuple[Found, list[Row]]:
    sampling = [] if given.steps is None else [f"views.num_inference_steps={given.steps}"]
    guidance = [] if given.guidance is None else [f"views.guidance_scale={given.guidance}"]
    config, plain, pinned = (
        load_config("videomv-i2v-mini.yaml", [f"weights={given.weights}", *sampling, *guidance, *change])
        for change in ((), ("aware.every=0",), ("views.image_pinned=true",))
    )
    of_text = load_config("videomv-mini.yaml", sampling)
    cameras, specs = ring(config), chosen(given.captions + 1)  # the last one is another's only, if there are as many

    @cache
    def prior(weights: str) -> MultiViewPrior:
        return MultiViewPrior.from_pretrained(weights)

    forward = cache(lambda: FeedForward.of(of_text, torch.device("cpu")))

    @cache
    def truth(number: int) -> Rendering:
        return true_views(build(specs[number], Random(number)), cameras)

    def drawn(its: Config, has_caption: bool, shown: int | None = None) -> Condition:
        """shown: whose picture, counted from the caption's own; None: a prior that is shown none."""

        def draw(number: int, caption: str) -> np.ndarray:
            picture = None
            if shown is not None:
                picture = torch.from_numpy(truth((number + shown) % len(specs)).rgb[0]).movedim(-1, 0)
            pipeline = dense_pipeline(prior(its.weights), forward(), its)
            views = pipeline(caption if has_caption else "", **its.views.inputs(), seed=number, image=picture)
            return views.drawn.movedim(1, -1).float().numpy()

        views = its.views.inputs() | {"sampler": its.views.sampler.name}
        of = {"prior": fingerprint(its.weights), "caption": has_caption, "picture": shown, "views": views}
        if its.aware.every:
            of["aware"] = {"gaussians": fingerprint(of_text.weights, GAUSSIANS), "blend": its.aware.blend}
        if shown is not None:
            of["image_encoder"] = fingerprint(its.weights, IMAGE_ENCODER)
        return Condition(of, draw)

    rows = {CAPTION: drawn(of_text, True), PICTURE: drawn(config, False, 0), BOTH: drawn(config, True, 0)}
    rows |= {OTHER: drawn(config, False, 1), PLAIN: drawn(plain, False, 0), PINNED: drawn(pinned, False, 0)}
    rows[STANDARD] = Condition(
        {"truth": STANDARD, "measured": "all but the first"},
        lambda number, caption: true_views(build(specs[number]), cameras).rgb,
    )
    rows[TRUTH] = Condition({"truth": TRUTH}, lambda number, caption: truth(number).rgb)

    def scored(name: str, number: int, views: np.ndarray) -> Figures:
        its, true = build(specs[number], Random(number)), truth(number)
        likeness = dict.fromkeys(COLUMNS) if name == TRUTH else figures(views, true)
        images = torch.from_numpy(views).movedim(-1, 1)
        surface = surface_figures(forward().of_views(images, cameras)[0], its, of_text)
        beside = figures_beside(true, specs[number].caption, views, cameras)
        return {**likeness, **{key: beside[key] for key in ("flow_1", "flow_6")}, **surface}

    return measured(rows, specs[: given.captions], scored, kept, given.kept)


def figures(views: np.ndarray, truth: Rendering) -> dict[str, float | None]:
    """Of views [V, H, W, 3] but the first, beside true ones: PSNR in dB inside the silhouettes, SSIM and VAE distance
    of the whole."""
    turn = np.arange(1, NUM_VIEWS) * 360 / NUM_VIEWS
    near = np.minimum(turn, 360 - turn) <= NEAR_DEG
    views, true, inside = views[1:], truth.rgb[1:], truth.opacity[1:, ..., 0] > 0.5
    chosen = {"all": np.full(NUM_VIEWS - 1, True), "near": near, "far": ~near}
    found = {name: psnr(views[c][inside[c]], true[c][inside[c]]) for name, c in chosen.items()}
    return {**found, "ssim": ssim(views, true), "vae_distance": vae_distance(views, true)}


if __name__ == "__main__":
    sys.exit(main())
