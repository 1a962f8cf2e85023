"""A step of distillation at full size by part, counted without a GPU: TFLOP, GB that are moved, GiB.

    python benchmarks/full_size_count.py                          # mvdream-sd21.yaml at 64 and at 256 px, as a table
    python benchmarks/full_size_count.py runtime.memory=low       # the recipe with other settings

The recipe's own step is taken on the meta device, whose tensors have a size and no numbers: networks of the real
shapes, half precision as on a GPU, the kernels' results without the kernels. Of each operation its products and the
bytes that it reads and writes are counted. Operations are those that move any: a processor has to launch a kernel for
each, or two; with CUDA graphs only for those outside of UNet and encoder. Memory is what is alive at once, weights
included, without cuDNN's workspace, torch's caching and the driver's own. The UNet's attention has no matrix, as with
fused kernels; that of the VAE's encoder, which is asked for gradients, counts with it. The march is done on the CPU
to know how many samples there are. What takes the field's kernels their time is not counted here but by `gpu.py
--count`. Convolutions give channels-last, as cuDNN does for such weights. torch's GroupNorm, which knows no channels-
last on CUDA (pytorch issue 111824) nor here, copies what it is given into the other layout; "GB of copies" is what
comes on top where what follows changes its result back. With `--torch-norms` it is torch's everywhere.

Milliseconds are an estimate, not a measurement: of each operation the longer of its products at the stated 989
TFLOP/s and its bytes at the stated 3.35 TB/s of an H100 (SXM), added up: no card comes near that. `full_size_gpu.py`
measures the same parts on a card.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from full_size_cpu import SIZES, new_networks  # beside this file
from full_size_gpu import Parts, first_step, watched
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import flop_registry
from video_memory import GIB, Counting, FusedAttention

from threedgen.cameras import CameraSampler, rays_of
from threedgen.config.load import load_config
from threedgen.config.runtime import MemoryUse
from threedgen.config.schema import Config
from threedgen.diffusion.networks import channels_last
from threedgen.diffusion.prior import MultiViewPrior
from threedgen.diffusion.schedule import stable_diffusion_schedule
from threedgen.ops import RaySamples
from threedgen.ops.native import cuda, cuda_field, group_norm
from threedgen.scene.nerf import NeRF

TFLOPS, TB_PER_S = 989.0, 3.35  # of an H100 (SXM) by its data sheet: half precision without sparsity, memory
META = torch.device("meta")
NORMS = (torch.ops.aten.native_group_norm, torch.ops.aten.native_group_norm_backward)
CONVOLUTIONS = (torch.ops.aten.convolution, torch.ops.aten.convolution_backward)


@dataclass
class Cost:
    operations: int = 0  # that are no views
    flop: float = 0.0
    moved: float = 0.0  # bytes
    copied: float = 0.0  # bytes besides, where a norm changes the layout
    seconds: float = 0.0  # of an estimate
    peak: int = 0  # bytes


class CountedParts(Counting, Parts):
    """Counts what the operations of each part cost."""

    def __init__(self) -> None:
        Counting.__init__(self)
        self.costs: dict[str, Cost] = defaultdict(Cost)
        self._part = ""

    def begin(self, part: str) -> None:
        self.costs[self._part].peak = max(self.costs[self._part].peak, self.peak)
        self._part, self.peak = part, self.alive

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = super().__torch_dispatch__(_as_cudnn(func), types, args, kwargs)
        cost = self.costs[self._part]
        flop, moved = _flop(func, args, kwargs or {}, result), _moved((args, kwargs), result)
        cost.operations += moved > 0
        cost.flop += flop
        cost.moved += moved
        if func.overloadpacket in NORMS:
            cost.copied += 2 * args[0].numel() * args[0].element_size()  # its result, read and written
        cost.seconds += max(flop / (TFLOPS * 1e12), moved / (TB_PER_S * 1e12))
        return result


def _as_cudnn(func: Any) -> Any:
    """A convolution whose results are channels-last; the meta device's are not."""
    if func.overloadpacket not in CONVOLUTIONS:
        return func

    def channels_last(leaf: Any) -> Any:
        is_picture = isinstance(leaf, Tensor) and leaf.ndim == 4
        return torch.empty_like(leaf, memory_format=torch.channels_last) if is_picture else leaf

    return lambda *args, **kwargs: tree_map(channels_last, func(*args, **kwargs))


def _flop(func: Any, args: Any, kwargs: Any, result: Any) -> float:
    """Multiplications and additions of an operation's products."""
    if func in (torch.ops.threedgen.evaluate_field.default, torch.ops.threedgen.evaluate_field_backward.default):
        weights, positions = args[1], args[4]
        of_layers = [2 * len(positions) * weight.numel() for weight in weights]
        # backward: hidden numbers again, then the gradients of inputs and of weights
        return (
            sum(of_layers) if func is torch.ops.threedgen.evaluate_field.default else of_layers[0] + 2 * sum(of_layers)
        )
    count = flop_registry.get(func.overloadpacket)
    return count(*args, **kwargs, out_val=result) if count else 0.0


def _moved(given: Any, result: Any) -> int:
    """Bytes of what an operation reads and writes; 0 for a view."""
    read, written = ([leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)] for tree in (given, result))
    itself, held = {id(tensor) for tensor in read}, {tensor.untyped_storage()._cdata for tensor in read}
    if written and all(x.untyped_storage()._cdata in held and id(x) not in itself for x in written):
        return 0
    return sum(tensor.numel() * tensor.element_size() for tensor in [*read, *written])


class KnownRoom:
    """Stands in for `SampleRoom` where no number can be asked for."""

    def __init__(self, num_samples: int) -> None:
        self.num_samples = num_samples

    def march(self, march: Any, march_within: Any, *arguments: Any) -> RaySamples:
        return march_within(self.num_samples, *arguments)[0]


@contextmanager
def no_kernels(own_norms: bool = True) -> Iterator[None]:
    """In the block our CUDA kernels are not called; what they would fill is there. Norms are ours, or torch's."""

    def nothing(*_: Any) -> None:
        return None

    def never(*_: Any) -> bool:
        return False

    covered = mock.patch.object(channels_last, "is_covered", group_norm.fits if own_norms else never)
    with mock.patch.object(cuda, "call", nothing), mock.patch.object(cuda_field, "call", nothing), covered:
        yield


def meta_scene(config: Config, num_samples: int) -> NeRF:
    """The recipe's scene without numbers, rendered as on a GPU with so many samples."""
    scene = NeRF(config.scene, config.seed).to(META)
    names = ("render_field", "ray_jitter", "refresh_occupancy")
    as_on_gpu = {name: getattr(cuda_field, name) for name in names}
    scene.ops = replace(scene.ops, march_within=cuda.march_within, **as_on_gpu)
    scene.room = KnownRoom(num_samples)  # type: ignore[assignment]
    return scene


def meta_prior(size: str, dtype: torch.dtype) -> MultiViewPrior:
    """Networks of the real shapes without numbers; text encoder and tokenizer are freed before distillation begins."""
    with META:
        unet, vae = (nn.Module.to(network, dtype) for network in new_networks(size))
    prior = MultiViewPrior(None, nn.Identity(), unet, vae, stable_diffusion_schedule())  # type: ignore[arg-type]
    return prior.to(META).eval().requires_grad_(False)


def samples_of(config: Config, step: int) -> int:
    """Samples of a step's rays in the scene as it begins."""
    scene = NeRF(config.scene, config.seed)
    cameras = CameraSampler(config.camera, config.seed).sample(step, config.steps)
    rays = rays_of(cameras)
    with torch.no_grad():
        return len(scene._march(rays.origins, rays.directions, None).t_starts)


def count(
    config: Config, step: int, size: str = "full", dtype: torch.dtype = torch.half, own_norms: bool = True
) -> CountedParts:
    """The cost of a step by part; weights and what the optimiser keeps are alive throughout."""
    with no_kernels(own_norms), FusedAttention():
        prior, scene = meta_prior(size, dtype), meta_scene(config, samples_of(config, step))
        if config.runtime.memory is MemoryUse.low:
            prior.vae.enable_gradient_checkpointing()
        parts = CountedParts()
        take = watched(config, scene, prior, torch.empty(2, 77, SIZES[size]["text"]["width"], device=META), parts)
        with parts:
            take(step)  # the optimiser's memory is made
            parts.costs.clear()
            take(step)
    held = sum(p.numel() * p.element_size() for module in (prior, scene) for p in module.parameters())
    for cost in parts.costs.values():
        cost.peak += held
    del parts.costs[""]
    return parts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", help="of the recipe: key=value")
    parser.add_argument("--dtype", choices=("float16", "bfloat16", "float32"), default="float16")
    parser.add_argument("--torch-norms", action="store_true", help="norms by torch, not by our kernels")
    given = parser.parse_args()
    torch.set_num_threads(1)
    config = load_config("mvdream-sd21.yaml", ["prompt=an astronaut riding a horse", *given.settings])
    for fine in (False, True):
        step = first_step(config, fine)
        cameras = CameraSampler(config.camera, config.seed).sample(step, config.steps)
        print(f"{len(cameras)} x {cameras.height} x {cameras.width} px, {samples_of(config, step):,} samples")
        print("| part | operations | TFLOP | GB | GB of copies | GiB at most | ms, estimated |")
        print("|---|---|---|---|---|---|---|")
        costs = count(config, step, dtype=getattr(torch, given.dtype), own_norms=not given.torch_norms).costs
        fields = ("operations", "flop", "moved", "copied", "seconds")
        total = Cost(*(sum(getattr(cost, name) for cost in costs.values()) for name in fields))
        total.peak = max(cost.peak for cost in costs.values())
        for part, cost in (costs | {"all": total}).items():
            counted = f"{cost.moved / 1e9:.1f} | {cost.copied / 1e9:.1f} | {cost.peak / GIB:.2f}"
            print(f"| {part} | {cost.operations} | {cost.flop / 1e12:.2f} | {counted} | {1e3 * cost.seconds:.1f} |")
        print()


if __name__ == "__main__":
    main()
