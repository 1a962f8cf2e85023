"""Does a video start converge faster? (VideoMV, section 4.4.) Three short trainings, the mini network each time.

    .venv/bin/python benchmarks/video_starts.py --out docs/images/video-starts.svg

video start  the 2D start trained for --clip-steps steps on videos without cameras
2D start     `mini`'s spatial layers, the layers over frames new
no start     all layers new

All three then learn 24 views with cameras: the same batches, noise and learning rate, text encoder and VAE frozen. The
loss is that of held-out captions, always with the same noise at the same timesteps. What the video start has learned
before is told in the figure and does not count as steps.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

import numpy as np
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from threedgen.cameras import Cameras, viewing_cameras  # noqa: E402
from threedgen.config.load import load_config  # noqa: E402
from threedgen.config.schema import Config  # noqa: E402
from threedgen.config.training import PriorNetwork  # noqa: E402
from threedgen.core.files import write_text_atomically  # noqa: E402
from threedgen.core.randomness import generator, seeded  # noqa: E402
from threedgen.data.miniworld import build, held_out  # noqa: E402
from threedgen.diffusion.conditions import Conditions  # noqa: E402
from threedgen.diffusion.networks.video_unet import VideoUNet  # noqa: E402
from threedgen.diffusion.prior import MultiViewPrior  # noqa: E402
from threedgen.diffusion.start import start_prior  # noqa: E402
from threedgen.tasks.evaluation.dense_views import true_views  # noqa: E402
from threedgen.tasks.training.batches import TrainingBatches, open_sources  # noqa: E402
from threedgen.tasks.training.latents import encoded  # noqa: E402
from threedgen.tasks.training.train_prior import encode_images  # noqa: E402

VIDEO, IMAGE, NONE = "video start", "2D start", "no start"
COLORS = {VIDEO: "#0072b2", IMAGE: "#d55e00", NONE: "#777777"}
WARMUP = 10
TIMESTEPS = (100, 300, 500, 700, 900)  # of the validation loss
Curve = list[tuple[int, float]]  # steps done, validation loss


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip-steps", type=int, default=300)
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--every", type=int, default=20, help="steps between measurements")
    parser.add_argument("--objects", type=int, default=400, help="that training shows")
    parser.add_argument("--batch", type=int, default=1, help="objects of a step, 24 views each")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--held-out", type=int, default=4, help="captions of the validation loss")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="the figure, and its numbers as JSON beside it")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    settings = [f"seed={given.seed}", f"train.num_objects={given.objects}", f"train.batch_objects={given.batch}"]
    settings += ["train.image_data=", "train.render_workers=1"]
    clips = load_config("train-video-clips-mini.yaml", settings)
    orbits = load_config("train-video-mini.yaml", settings)
    validation = Validation(orbits, given.held_out)

    started = time.monotonic()
    priors = {NONE: new(), IMAGE: start_prior("mini", network=PriorNetwork.video)}
    priors[VIDEO] = start_prior("mini", network=PriorNetwork.video)
    train(priors[VIDEO], clips, given.clip_steps, given.lr)
    curves: dict[str, Curve] = {}
    for name, prior in priors.items():
        curves[name] = curve = []

        def measure(step: int, prior: MultiViewPrior = prior, curve: Curve = curve) -> None:
            curve.append((step, validation(prior)))

        train(prior, orbits, given.steps, given.lr, given.every, measure)
        shown = ", ".join(f"{step}: {loss:.4f}" for step, loss in curve)
        print(f"{name:12} {shown}  ({time.monotonic() - started:.0f} s so far)", flush=True)
    caption = (
        f"Loss of held-out captions after steps of {given.batch * 24} views. Not counted: "
        f"{given.clip_steps} steps on clips before the video start."
    )
    write_text_atomically(given.out, figure(curves, caption))
    write_text_atomically(given.out.with_suffix(".json"), json.dumps(curves) + "\n")
    return 0


def new() -> MultiViewPrior:
    """The video prior of `mini`'s size, none of its UNet's tensors trained."""
    prior = start_prior("mini", network=PriorNetwork.video)
    with seeded(0):
        prior.unet = VideoUNet.from_config(prior.unet.config)
    return prior


class Validation:
    """The loss of held-out captions, with cameras, at TIMESTEPS: lower is better, and comparable between priors."""

    def __init__(self, config: Config, count: int) -> None:
        self._specs = held_out()[:count]
        self._cameras = viewing_cameras(config.camera, [15.0 * k for k in range(24)], 15, 64)
        images = [true_views(build(s, Random(i)), self._cameras).rgb for i, s in enumerate(self._specs)]
        self._images = torch.from_numpy(np.concatenate(images)).movedim(-1, 1)
        self._latents: Tensor | None = None  # every prior here has mini's VAE

    @torch.no_grad()
    def __call__(self, prior: MultiViewPrior) -> float:
        if self._latents is None:
            self._latents = encode_images(prior, self._images)
        latents, count = self._latents, len(self._specs)
        told = Conditions(
            prior.encode_text([spec.caption for spec in self._specs]), Cameras.joined([self._cameras] * count), 24
        )
        losses = []
        for timestep in TIMESTEPS:
            noise = torch.randn(latents.shape, generator=generator(0, timestep, "validation"))
            losses.append(prior.losses(latents, noise, torch.full((len(latents),), timestep), told).mean())
        return float(torch.stack(losses).mean())


def train(
    prior: MultiViewPrior,
    config: Config,
    steps: int,
    lr: float,
    every: int = 0,
    measure: Callable[[int], None] = lambda step: None,
) -> None:
    """Steps of AdamW at a constant rate after a short warm-up, in bfloat16; measured before the first and `every`."""
    prior.text_encoder.requires_grad_(False)
    sources = encoded(
        open_sources(config, prior.image_size),
        lambda images: encode_images(prior, images),
        config.train.background,
        config.seed,
    )
    batches = TrainingBatches(config, sources, prior.latent_shape)
    optimizer = torch.optim.AdamW(prior.unet.parameters(), lr=lr, betas=config.train.betas, fused=True)
    if every:
        measure(0)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, (step + 1) / WARMUP)
        batch = batches.draw(step)
        told = Conditions(prior.encode_text(batch.captions), batch.cameras, batch.num_views)
        with torch.autocast("cpu", torch.bfloat16):
            loss = prior.losses(batch.images.float(), batch.noise, batch.timestep, told).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(prior.unet.parameters(), 1.0)
        optimizer.step()
        if every and (step + 1) % every == 0:
            measure(step + 1)


def figure(curves: dict[str, Curve], caption: str) -> str:
    """Validation loss against steps as an SVG picture, the loss on a logarithmic axis."""
    width, height, left, right, top, bottom = 640, 360, 60, 110, 20, 60
    steps = max(step for curve in curves.values() for step, _ in curve)
    losses = [loss for curve in curves.values() for _, loss in curve]
    low, high = np.log10(min(losses) * 0.95), np.log10(max(losses) * 1.05)

    def place(step: float, loss: float) -> tuple[float, float]:
        x = left + (width - left - right) * step / steps
        return x, top + (height - top - bottom) * (high - np.log10(loss)) / (high - low)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for loss in _marks(10**low, 10**high):
        x, y = place(0, loss)
        parts.append(f'<path d="M{x:.0f} {y:.1f}H{width - right}" stroke="#ddd"/>')
        parts.append(f'<text x="{x - 6:.0f}" y="{y + 4:.1f}" text-anchor="end">{loss:g}</text>')
    for step in range(0, steps + 1, max(1, steps // 4)):
        x, _ = place(step, 10**low)
        parts.append(f'<text x="{x:.0f}" y="{height - bottom + 18}" text-anchor="middle">{step}</text>')
    for name, curve in curves.items():
        points = [place(step, loss) for step, loss in curve]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{COLORS[name]}" stroke-width="2"/>')
        parts.append(
            f'<text x="{points[-1][0] + 6:.0f}" y="{points[-1][1] + 4:.1f}" fill="{COLORS[name]}">{name}</text>'
        )
    parts.append(f'<text x="{left}" y="{height - 12}" font-size="11">{caption}</text></svg>\n')
    return "\n".join(parts)


def _marks(low: float, high: float) -> Sequence[float]:
    """Round numbers between two."""
    return [m * 10.0**e for e in range(-4, 2) for m in (1, 2, 3, 5, 7) if low <= m * 10.0**e <= high]


if __name__ == "__main__":
    sys.exit(main())
