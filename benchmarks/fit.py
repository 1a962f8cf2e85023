"""How fast a scene learns: a known textured object from 160 views of 64 px, PSNR on 8 others after so many seconds.

    python benchmarks/fit.py                       # 5, 15 and 60 seconds, 1 thread
    python benchmarks/fit.py --threads 2 --seconds 5 15 --json fit.json

The object is a striped box with rounded corners, a ball on it and a ring around it; its pictures are sphere traced.
Each step sees 4 of the views on one random colour. Seconds are the optimisation's own, without the measurements.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from threedgen.cameras import Cameras, orbit, rays_of
from threedgen.config.scene import BackendName, GridConfig, OptimizerConfig, SceneConfig
from threedgen.metrics.image import psnr
from threedgen.ops.optimizer import AdamW
from threedgen.scene.nerf import NeRF

SIZE, SCALE = 64, 0.5  # pixels; the object was laid out in a cube of edge 1, the scene's has edge 2
SCENE = SceneConfig(
    grid=GridConfig(num_levels=4, num_features=8, log2_table_size=15, max_resolution=128),
    hidden_width=32,
    blob_density=3.0,
    density_scale=10.0,
    samples_per_ray=220,
    min_transmittance=1e-3,
    occupancy_resolution=64,
    occupancy_every=8,
    occupancy_warmup=96,
    occupancy_decay=0.8,
)
RATES = OptimizerConfig(grid_lr=0.02, network_lr=0.01)


def distance(p: Tensor) -> Tensor:
    """Signed distance [N] of points [N, 3]."""
    ball = (p - p.new_tensor([0, 0, 0.16])).norm(dim=-1) - 0.13
    outside = (p - p.new_tensor([0, 0, -0.12])).abs() - p.new_tensor([0.16, 0.12, 0.14])
    box = outside.clamp(min=0).norm(dim=-1) + outside.amax(-1).clamp(max=0) - 0.02
    around = torch.stack([p[:, :2].norm(dim=-1) - 0.24, p[:, 2] - 0.02], -1).norm(dim=-1) - 0.035
    return torch.minimum(torch.minimum(ball, box), around)


def colour(p: Tensor) -> Tensor:
    """[N, 3]: stripes in z, checks in xy, a slow wave in x."""
    stripes = (torch.sin(p[:, 2] * 60) > 0).float()
    checks = (torch.floor((p[:, 0] + 0.5) * 14) + torch.floor((p[:, 1] + 0.5) * 14)) % 2
    return torch.stack([0.2 + 0.7 * stripes, 0.3 + 0.5 * checks, 0.5 + 0.4 * torch.sin(p[:, 0] * 9)], -1).clamp(0, 1)


def pictures(cameras: Cameras) -> tuple[Tensor, Tensor]:
    """The exact colours [B, H, W, 3] (black outside) and silhouettes [B, H, W, 1]."""
    rays = rays_of(cameras)
    origins, directions = rays.origins * SCALE, rays.directions
    t = origins.norm(dim=-1) - 0.6
    for _ in range(80):
        t = t + 0.95 * distance(origins + t[:, None] * directions)
    points = origins + t[:, None] * directions
    hit = (distance(points).abs() < 2e-3) & (t < 5)
    rgb = torch.where(hit[:, None], colour(points), torch.zeros(1))
    return rgb.view(len(cameras), SIZE, SIZE, 3), hit.view(len(cameras), SIZE, SIZE, 1).float()


def views(count: int, seed: int) -> Cameras:
    generator = torch.Generator().manual_seed(seed)
    azimuth, elevation = torch.rand(2, count, generator=generator) * torch.tensor([[360.0], [60.0]])
    return orbit(azimuth, elevation - 15, 3.2, 45, SIZE)


def fit(seconds: list[float], backend: BackendName) -> list[dict[str, float]]:
    """One row for each of the ascending times: seconds, steps done, PSNR on the held-out views."""
    train, held_out = views(160, 1), views(8, 99)
    rgb, silhouette = pictures(train)
    exact, exact_silhouette = pictures(held_out)
    exact = exact + 1 - exact_silhouette
    scene = NeRF(SceneConfig(**{**vars(SCENE), "backend": backend}), seed=0)
    optimizer = AdamW(scene.param_groups(RATES), scene.ops, betas=(0.9, 0.99), eps=1e-15)
    base = [group["lr"] for group in optimizer.param_groups]
    generator = torch.Generator().manual_seed(0)
    rows, spent, step = [], 0.0, 0
    while len(rows) < len(seconds):
        started = time.perf_counter()
        chosen = torch.randint(160, (4,), generator=generator)
        seen = orbit(*(x[chosen].rad2deg() for x in (train.azimuth, train.elevation)), 3.2, 45, SIZE)
        background = torch.rand(3, generator=generator)
        output = scene.render(seen, generator=generator, background=background)
        wanted = rgb[chosen] + (1 - silhouette[chosen]) * background
        done = spent / seconds[-1]
        for group, rate in zip(optimizer.param_groups, base, strict=True):
            group["lr"] = rate * (1 if done < 0.6 else 0.33 if done < 0.85 else 0.1)
        optimizer.zero_grad()
        (output.rgb - wanted).square().mean().backward()
        optimizer.step()
        scene.after_step(step)
        step += 1
        spent += time.perf_counter() - started
        if spent >= seconds[len(rows)]:
            with torch.no_grad():
                shown = scene.render(held_out, background=torch.ones(3)).rgb
            value = float(psnr(np.asarray(shown), np.asarray(exact)))
            rows.append({"seconds": round(spent, 1), "steps": step, "psnr": round(value, 2)})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, nargs="+", default=[5, 15, 60])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--backend", type=BackendName, default=BackendName.auto, choices=list(BackendName))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = [row for limit in sorted(arguments.seconds) for row in fit([limit], arguments.backend)]
    for row in rows:
        print(f"{row['seconds']:6.1f} s  {row['steps']:6d} steps  {row['psnr']:.2f} dB", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps({"threads": arguments.threads, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
