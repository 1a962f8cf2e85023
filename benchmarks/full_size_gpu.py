"""Score distillation at full size on a GPU, with random weights of the real shapes in half precision.

    python benchmarks/full_size_gpu.py              # one JSON object: seconds a step by part, memory, gradients

The recipe is mvdream-sd21.yaml: its steps at 64 pixels (two objects' views) and at 256. `render`, `encode`, `unet`
and `backward, optimizer` are times between CUDA events, `step` the clock's. Each size is measured twice, with a march
that waits for the number of samples (`waiting`) and with one that does not, as training has it.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from full_size_cpu import SIZES, new_networks  # beside this file

from threedgen.cameras import CameraSampler
from threedgen.config.load import load_config
from threedgen.config.schema import Config
from threedgen.core.randomness import generator
from threedgen.diffusion.conditions import Conditions
from threedgen.diffusion.denoising import Denoised, Guided
from threedgen.diffusion.prior import MultiViewPrior
from threedgen.diffusion.schedule import stable_diffusion_schedule
from threedgen.guidance.sds import ScoreDistillation
from threedgen.scene.nerf import NeRF
from threedgen.tasks.scene_optimizer import SceneOptimizer

TINY = ["camera.coarse_resolution=8", "camera.resolution=16", "guidance.image_size=64", "scene.samples_per_ray=16"]
LOSS_SCALES = (1.0, 2.0**10, 2.0**16)


class Parts:
    """Seconds of the parts of steps, by events on a GPU and by the clock on a CPU."""

    def __init__(self, device: str) -> None:
        self.on_gpu, self.marks = device == "cuda", defaultdict(list)

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        start = self._now()
        yield
        self.marks[name].append((start, self._now()))

    def _now(self) -> Any:
        if not self.on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, steps: int) -> dict[str, float]:
        """Mean of each part a step."""
        if self.on_gpu:
            torch.cuda.synchronize()
        between = (lambda a, b: a.elapsed_time(b) / 1e3) if self.on_gpu else (lambda a, b: b - a)
        return {name: sum(between(*pair) for pair in pairs) / steps for name, pairs in self.marks.items()}


class TimedPrior:
    """A prior for guidance whose two networks are timed: a codec and a model."""

    def __init__(self, prior: MultiViewPrior, parts: Parts) -> None:
        self.prior, self.parts = prior, parts
        self.schedule, self.decode = prior.schedule, prior.decode

    def encode_images(self, images: Tensor) -> Tensor:
        with self.parts.of("encode"):
            return self.prior.encode_images(images)

    def denoise(self, noisy: Tensor, timestep: Tensor, told: Conditions) -> Denoised:
        with self.parts.of("unet"):
            return self.prior.denoise(noisy, timestep, told)


def random_prior(size: str, device: str, dtype: torch.dtype) -> MultiViewPrior:
    """Without text encoder and tokenizer: distillation has released them when it begins."""
    torch.manual_seed(0)
    with torch.device(device):
        unet, vae = new_networks(size)
    for module in (unet, vae):
        for name, parameter in module.named_parameters():
            if parameter.ndim > 1:  # activations keep their size
                nn.init.normal_(parameter, std=(parameter.numel() / parameter.shape[0]) ** -0.5)
            else:
                nn.init.normal_(parameter, 1.0 if name.endswith("weight") else 0.0, 0.1)
        nn.Module.to(module, dtype)
    prior = MultiViewPrior(None, nn.Identity(), unet, vae, stable_diffusion_schedule())
    prior.alphas_cumprod = prior.alphas_cumprod.to(device)
    return prior.eval().requires_grad_(False)


def steps(config: Config, prior: MultiViewPrior, fine: bool, count: int, waiting: bool, width: int) -> dict[str, Any]:
    """Distil `count` steps of the recipe, after two to warm up; seconds by part and peak memory."""
    device = prior.device.type
    sampler, scene = CameraSampler(config.camera, config.seed), NeRF(config.scene, config.seed, prior.device)
    if waiting:
        scene.ops = replace(scene.ops, march_within=None)
    optimizer = SceneOptimizer(scene, config)
    text = torch.randn(2, 77, width, generator=torch.Generator().manual_seed(0)).to(device)
    first = int(config.camera.coarse_fraction * config.steps) + 1 if fine else 0
    warm_up = 2
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for number in range(warm_up + count):
        if number in (0, warm_up):
            parts = Parts(device)
            timed = TimedPrior(prior, parts)
            guidance = ScoreDistillation(timed, config.guidance, config.seed)
            if device == "cuda":
                torch.cuda.synchronize()
            started = time.perf_counter()
        step = first + number
        cameras = sampler.sample(step, config.steps)
        with parts.of("render"):
            rgb = scene.render(cameras, generator=generator(config.seed, step, "render")).rgb
        told = Conditions(text[:1], cameras, cameras.num_views)
        denoiser = Guided(timed, told, text[1:], config.guidance.guidance_scale, config.guidance.rescale)
        guided = guidance(rgb, denoiser, step, config.steps)
        with parts.of("backward, optimizer"):
            optimizer.step(guided.loss, step)
    found: dict[str, Any] = parts.seconds(count)
    found["step"] = (time.perf_counter() - started) / count
    found |= {"pixels": cameras.height, "views": len(cameras), "waiting": waiting, "finite": bool(rgb.isfinite().all())}
    if device == "cuda":
        found["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
    return found


def half_gradients(prior: MultiViewPrior, size: int) -> list[dict[str, Any]]:
    """What the encoder's gradient loses in half precision, with and without a loss scale, against float32.

    The images are smooth and the latents' gradient is what distillation gives: (latents - x0) / B.
    """
    rng = torch.Generator().manual_seed(0)
    images = torch.nn.functional.interpolate(torch.rand(4, 3, 8, 8, generator=rng), (size, size), mode="bicubic")
    images = images.clamp(0, 1).to(prior.device)
    exact = MultiViewPrior(None, nn.Identity(), nn.Identity(), copy.deepcopy(prior.vae).float(), prior.scheduler)

    def gradient(of: MultiViewPrior, scale: float) -> Tensor:
        leaf = images.clone().requires_grad_()
        latents = of.encode_images(leaf)
        direction = torch.randn(latents.shape, generator=torch.Generator().manual_seed(1)).to(latents) / len(latents)
        (found,) = torch.autograd.grad((latents * direction).sum() * scale, leaf)
        return found.float() / scale

    truth, rows = gradient(exact, 1.0), []
    for scale in LOSS_SCALES:
        found = gradient(prior, scale)
        finite = found.isfinite()
        error = ((found - truth)[finite].norm() / truth[finite].norm()).item() if finite.any() else None
        row = {"loss_scale": scale, "relative_error": error, "finite": finite.float().mean().item()}
        rows.append(row | {"zeros": (found == 0).float().mean().item(), "norm": truth.norm().item()})
    return rows


def measure(device: str, tiny: bool, add: Callable[..., None]) -> None:
    """All figures, each handed to `add(name=value)` as soon as it is there."""
    size, count = ("small", 1) if tiny else ("full", 20)
    dtype = torch.half if device == "cuda" else torch.float
    settings = ["prompt=an astronaut riding a horse", f"runtime.device={device}", *(TINY if tiny else [])]
    config = load_config("mvdream-sd21.yaml", settings)
    started = time.perf_counter()
    prior = random_prior(size, device, dtype)
    add(build_seconds=time.perf_counter() - started, dtype=str(dtype))
    rows, width = [], SIZES[size]["text"]["width"]
    for fine in (False, True):
        for waiting in (True, False):
            rows.append(steps(config, prior, fine, count, waiting, width))
            print(json.dumps(rows[-1]), flush=True)
            add(steps=rows)
    per_step = [min(row["step"] for row in rows if row["pixels"] == pixels) for pixels in {r["pixels"] for r in rows}]
    hours = config.steps * sum(per_step) / len(per_step) / 3600
    peak = max(row.get("peak_gib", 0.0) for row in rows)
    add(hours_of_the_recipe=hours)
    says = ", ".join(f"{row['pixels']} px {1e3 * row['step']:.0f} ms" for row in rows if not row["waiting"])
    add(says=f"{says} a step, {60 * hours:.0f} minutes for {config.steps} steps, {peak:.1f} GiB")
    add(half_gradients=half_gradients(prior, config.guidance.image_size))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small networks, to try the script")
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        print("benchmarks/full_size_gpu.py needs a GPU: torch sees no CUDA device", file=sys.stderr)
        return 3
    found: dict[str, Any] = {}
    measure(given.device, given.tiny, lambda **figures: found.update(figures))
    print(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
