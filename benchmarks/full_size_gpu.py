"""Score distillation at full size on a GPU, with random weights of the real shapes in half precision.

    python benchmarks/full_size_gpu.py              # one JSON object: seconds a step by part, memory, gradients

The recipe is mvdream-sd21.yaml: its steps at 64 pixels (two objects' views) and at 256. `seconds` are times between
CUDA events and `gib` the memory that is allocated at most, both by part; `step` is the clock's. Each size is measured
with a march that waits for the number of samples (`waiting`) and with one that does not, as training has it; then
without CUDA graphs, in bfloat16, without channels-last, with torch's norms, and with the VAE's encoder computed again
for its gradients (`variant`). `reserved_gib` is what torch holds, the graphs' own memory included, of which `gib` knows
nothing.
`full_size_count.py` counts the same parts without a GPU.
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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from full_size_cpu import SIZES, new_networks  # beside this file

from threedgen.cameras import Cameras, CameraSampler
from threedgen.config.load import load_config
from threedgen.config.schema import Config
from threedgen.diffusion.conditions import Conditions
from threedgen.diffusion.denoising import Denoised
from threedgen.diffusion.networks import channels_last
from threedgen.diffusion.prior import MultiViewPrior
from threedgen.diffusion.schedule import stable_diffusion_schedule
from threedgen.scene.nerf import NeRF
from threedgen.scene.output import RenderOutput
from threedgen.tasks.generate import distilling
from threedgen.tasks.scene_optimizer import SceneOptimizer

TINY = ["camera.coarse_resolution=8", "camera.resolution=16", "guidance.image_size=64", "scene.samples_per_ray=16"]
LOSS_SCALES = (1.0, 2.0**10, 2.0**16)


class Parts:
    """Seconds and peak memory of the parts of steps: each instant is of the part that was begun last.

    Seconds are by events on a GPU and by the clock on a CPU, memory is a GPU's.
    """

    def __init__(self, device: str) -> None:
        self.on_gpu, self._part = device == "cuda", ""
        self.marks: dict[str, list[tuple[Any, Any]]] = defaultdict(list)
        self.peaks: dict[str, int] = defaultdict(int)

    def begin(self, part: str) -> None:
        """ "": what follows is of none."""
        now = self._now()
        if self._part:
            self.marks[self._part].append((self._since, now))
            self.peaks[self._part] = max(self.peaks[self._part], self._peak())
        self._part, self._since = part, now

    @contextmanager
    def of(self, part: str) -> Iterator[None]:
        """The block; "guidance" follows."""
        self.begin(part)
        yield
        self.begin("guidance")

    def _now(self) -> Any:
        if not self.on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _peak(self) -> int:
        """Bytes at most since it was asked last."""
        if not self.on_gpu:
            return 0
        peak = torch.cuda.max_memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        return peak

    def seconds(self, steps: int) -> dict[str, float]:
        """Mean of each part a step."""
        if self.on_gpu:
            torch.cuda.synchronize()
        between = (lambda a, b: a.elapsed_time(b) / 1e3) if self.on_gpu else (lambda a, b: b - a)
        return {name: sum(between(*pair) for pair in pairs) / steps for name, pairs in self.marks.items()}


class WatchedPrior:
    """A prior for guidance that tells when its two networks are asked: a codec and a model."""

    def __init__(self, prior: MultiViewPrior, parts: Parts) -> None:
        self.prior, self.parts = prior, parts
        self.schedule, self.decode = prior.schedule, prior.decode

    def encode_images(self, images: Tensor) -> Tensor:
        with self.parts.of("encode"):
            return self.prior.encode_images(images)

    def denoise(self, noisy: Tensor, timestep: Tensor, told: Conditions) -> Denoised:
        with self.parts.of("unet"):
            return self.prior.denoise(noisy, timestep, told)


def watched(config: Config, scene: NeRF, prior: MultiViewPrior, text: Tensor, parts: Parts) -> Callable[[int], Tensor]:
    """The recipe's own step, step -> loss, whose parts are told to `parts`. text: [2, L, C], wanted and not."""
    optimizer, render = SceneOptimizer(scene, config), scene.render

    def watched_render(cameras: Cameras, **options: Any) -> RenderOutput:
        with parts.of("render"):
            output = render(cameras, **options)
        output.rgb.register_hook(lambda gradient: parts.begin("render, backward"))
        return output

    scene.render = watched_render  # type: ignore[method-assign]
    take = distilling(scene, config, WatchedPrior(prior, parts), text[:1], text[1:])  # type: ignore[arg-type]

    def updates(step: int, loss: Tensor) -> bool:
        parts.begin("optimizer")
        return True

    def step(number: int) -> Tensor:
        loss = take(number).loss
        parts.begin("encode, backward")
        optimizer.step(loss, number, updates)
        parts.begin("")
        return loss.detach()

    return step


def first_step(config: Config, fine: bool) -> int:
    """The first of the recipe's steps at the size of its pictures: the coarse one, or the other."""
    sampler = CameraSampler(config.camera, config.seed)
    return next(step for step in range(config.steps) if sampler.coarse(step, config.steps) != fine)


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


@dataclass(frozen=True)
class Variant:
    """What is measured beside the default, and what is there at that."""

    name: str = ""
    dtype: torch.dtype = torch.half
    channels_last: bool = True
    own_norms: bool = True  # where pictures are channels-last
    encodes_again: bool = False  # the encoder's activations, in the backward pass, which no graph can
    replays: bool = True  # the networks' calls as CUDA graphs

    def apply(self, prior: MultiViewPrior) -> None:
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        for module in (prior.unet, prior.vae):
            nn.Module.to(module, self.dtype)
            for layer in module.modules():
                if isinstance(layer, nn.Conv2d):
                    layer.to(memory_format=layout)  # type: ignore[call-overload]
        prior.vae.disable_gradient_checkpointing()
        prior.replays = False  # what was recorded before is forgotten
        prior.replays = self.replays
        if self.encodes_again:
            prior.take_less_memory()

    @contextmanager
    def of(self, prior: MultiViewPrior) -> Iterator[None]:
        """The prior is so in the block."""
        self.apply(prior)
        # convolutions go by what they are given, which the prior lays out, as much as by their weights
        first = [] if self.channels_last else [prior.unet.conv_in, prior.vae.encoder.conv_in]
        hooks = [layer.register_forward_pre_hook(lambda _, given: (given[0].contiguous(),)) for layer in first]
        covered = channels_last.is_covered if self.own_norms else lambda *_: False
        with mock.patch.object(channels_last, "is_covered", covered):
            yield
        for hook in hooks:
            hook.remove()


def steps(config: Config, prior: MultiViewPrior, fine: bool, count: int, waiting: bool, width: int) -> dict[str, Any]:
    """Distil `count` steps of the recipe, after two to warm up; seconds and memory by part."""
    device = prior.device.type
    scene = NeRF(config.scene, config.seed, prior.device)
    if waiting:
        scene.ops = replace(scene.ops, march_within=None)
    parts, warm_up, first = Parts(device), 2, first_step(config, fine)
    text = torch.randn(2, 77, width, generator=torch.Generator().manual_seed(0)).to(device)
    step = watched(config, scene, prior, text, parts)
    for number in range(warm_up + count):
        if number == warm_up:
            if device == "cuda":
                torch.cuda.synchronize()
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            parts.marks.clear()
            parts.peaks.clear()
            started = time.perf_counter()
        loss = step(first + number)
    seconds = parts.seconds(count)
    found: dict[str, Any] = {"step": (time.perf_counter() - started) / count, "seconds": seconds}
    cameras = CameraSampler(config.camera, config.seed).sample(first, config.steps)
    found |= {"pixels": cameras.height, "views": len(cameras), "waiting": waiting, "finite": bool(loss.isfinite())}
    if device == "cuda":
        found["gib"] = {part: peak / 2**30 for part, peak in parts.peaks.items()}
        found["peak_gib"] = max(found["gib"].values())
        found["reserved_gib"] = torch.cuda.memory_reserved() / 2**30  # which only grows from one step to the next
    return found


def half_gradients(prior: MultiViewPrior, size: int) -> list[dict[str, Any]]:
    """What the encoder's gradient loses in float16 and bfloat16, with and without a loss scale, against float32.

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

    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # which keeps no more digits than float16
        truth = gradient(exact, 1.0)
    rows = []
    for dtype, scale in ((dtype, scale) for dtype in (torch.half, torch.bfloat16) for scale in LOSS_SCALES):
        nn.Module.to(prior.vae, dtype)
        found = gradient(prior, scale)
        finite = found.isfinite()
        error = ((found - truth)[finite].norm() / truth[finite].norm()).item() if finite.any() else None
        row = {
            "dtype": str(dtype),
            "loss_scale": scale,
            "relative_error": error,
            "finite": finite.float().mean().item(),
        }
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
    rows, width, usual = [], SIZES[size]["text"]["width"], Variant(dtype=dtype)
    usual.apply(prior)
    for fine in (False, True):
        for waiting in (True, False):
            rows.append(steps(config, prior, fine, count, waiting, width))
            print(json.dumps(rows[-1]), flush=True)
            add(steps=rows)
    measure_variants(config, prior, count, width, usual, add)
    per_step = [min(row["step"] for row in rows if row["pixels"] == pixels) for pixels in {r["pixels"] for r in rows}]
    hours = config.steps * sum(per_step) / len(per_step) / 3600
    peak = max(row.get("peak_gib", 0.0) for row in rows)
    add(hours_of_the_recipe=hours)
    says = ", ".join(f"{row['pixels']} px {1e3 * row['step']:.0f} ms" for row in rows if not row["waiting"])
    add(says=f"{says} a step, {60 * hours:.0f} minutes for {config.steps} steps, {peak:.1f} GiB")
    add(half_gradients=half_gradients(prior, config.guidance.image_size))


def measure_variants(
    config: Config, prior: MultiViewPrior, count: int, width: int, usual: Variant, add: Callable[..., None]
) -> None:
    """Rows as those of `steps`, one thing at a time changed from what is usual, which is there again afterwards."""
    rows: list[dict[str, Any]] = []
    for variant in (
        replace(usual, name="no CUDA graphs", replays=False),
        replace(usual, name="bfloat16", dtype=torch.bfloat16),
        replace(usual, name="not channels-last", channels_last=False),
        replace(usual, name="norms by torch", own_norms=False),
        replace(usual, name="encoder computed again", encodes_again=True),
    ):
        with variant.of(prior):
            for fine in (False, True):
                rows.append({"variant": variant.name, **steps(config, prior, fine, count, False, width)})
                print(json.dumps(rows[-1]), flush=True)
                add(variants=rows)
    usual.apply(prior)


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
