"""How much of fog and of blur does one step of denoising undo, by timestep? On held-out captions, with the mini prior.

    .venv/bin/python benchmarks/fog.py

Four true views of an object are seen through 30 % of the background's grey, or blurred (means of 4 x 4 pixels), noised,
denoised once with the recipe's guidance, and decoded. Undone: the share of the way back to the true views, inside the
silhouettes; 1 is all of it, more is too much. So much does score distillation tell a half transparent or unsharp scene
at a timestep.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from threedgen.cameras import viewing_cameras
from threedgen.config.load import load_config
from threedgen.core.randomness import generator
from threedgen.data.exact_views import exact_views
from threedgen.data.miniworld import build, held_out
from threedgen.diffusion.conditions import Conditions
from threedgen.diffusion.prior import MultiViewPrior

TIMESTEPS = 50, 150, 300, 450, 600, 750, 900
FOG, BLUR = 0.3, 4


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captions", type=int, default=8)
    given = parser.parse_args()
    torch.set_num_threads(1)
    config = load_config("mvdream-mini.yaml")
    prior, scale = MultiViewPrior.from_pretrained(config.weights), config.guidance.guidance_scale
    cameras = viewing_cameras(config.camera, [0, 90, 180, 270], 15, prior.image_size)
    undone: dict[tuple[str, int], list[float]] = defaultdict(list)
    for number, spec in enumerate(held_out()[: given.captions]):
        truth = exact_views(build(spec), cameras, supersample=4)
        true = torch.as_tensor(truth.rgb).float().movedim(-1, 1)
        inside = torch.as_tensor(truth.opacity[..., 0] > 0.9)
        told = [Conditions(prior.encode_text([text]), cameras, len(cameras)) for text in (spec.caption, "")]
        spoiled = {
            "fog": (1 - FOG) * true + FOG * 0.5,
            "blur": interpolate(avg_pool2d(true, BLUR), scale_factor=BLUR, mode="bilinear"),
        }
        for kind, seen in spoiled.items():
            for timestep in TIMESTEPS:
                noise = generator(number, timestep, "fog")
                undone[kind, timestep].append(share_undone(prior, seen, true, inside, timestep, told, scale, noise))
    print("| timestep | fog undone | blur undone |\n|---|---|---|")
    for timestep in TIMESTEPS:
        print(f"| {timestep} | " + " | ".join(f"{np.mean(undone[kind, timestep]):.2f}" for kind in spoiled) + " |")
    return 0


@torch.no_grad()
def share_undone(
    prior: MultiViewPrior,
    seen: Tensor,
    true: Tensor,
    inside: Tensor,
    timestep: int,
    told: list[Conditions],
    scale: float,
    noise: torch.Generator,
) -> float:
    latents = prior.encode_images(seen)
    at = torch.full((len(latents),), timestep)
    alpha, sigma = prior.schedule.level(at)
    noisy = alpha * latents + sigma * torch.randn(latents.shape, generator=noise)
    conditional, unconditional = (prior.denoise(noisy, at, each).x0 for each in told)
    before, after = prior.decode(latents), prior.decode(unconditional + scale * (conditional - unconditional))
    way, gone = ((views - before).movedim(1, -1)[inside] for views in (true, after))
    return ((way * gone).sum() / way.square().sum()).item()


if __name__ == "__main__":
    sys.exit(main())
