"""The back end `tinycudann`: the field's network by tiny-cuda-nn (Mueller 2021), everything else by our kernels.

Written for the torch bindings of tiny-cuda-nn 1.7 and 2.0: `Network(n_input_dims, n_output_dims, network_config)`, a
module whose flat parameter `params` holds the matrices [outputs, inputs] one after the other in rows, without biases,
the network's inputs and outputs padded to multiples of 16 (its issues 6, 96 and 510 say so). Hidden layers are padded
here, too. It computes in half precision: densities and colours differ from the other back ends' by about a hundredth.
Normals need second derivatives, which its networks do not have, and come from our kernels.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from threedgen.core.errors import ConfigError
from threedgen.ops.native.compositing import composite
from threedgen.ops.native.field import field_with_normals
from threedgen.ops.native.gaussian_field import sum_gaussians
from threedgen.ops.native.hash_grid import hash_grid_encode
from threedgen.ops.native.marching import march, ray_jitter
from threedgen.ops.native.optimizer import adamw_step
from threedgen.ops.native.splats import splat
from threedgen.ops.plain import composed

_PADDING = 16  # rows and columns of every matrix are a multiple of this
_FUSED_WIDTHS = (32, 64, 128)  # hidden widths of FullyFusedMLP; CutlassMLP takes any


def require() -> ModuleType:
    """tinycudann. Raises ConfigError where it cannot be used, which without a CUDA device it says itself."""
    try:
        import tinycudann
    except (ImportError, OSError, RuntimeError) as error:
        raise ConfigError(
            f"scene.backend=tinycudann: tinycudann cannot be imported ({error}); build it from its repository's"
            " bindings/torch, or use scene.backend=native"
        ) from None
    return tinycudann


def mlp(inputs: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """As `ops.plain.composed.mlp`, in half precision."""
    if len(weights) == 1 or len(inputs) == 0:
        return composed.mlp(inputs, weights)  # tinycudann has no network without a hidden layer, and no empty batch
    network = _network(tuple(tuple(weight.shape) for weight in weights), inputs.device)
    flat = torch.cat([_padded(weight).flatten() for weight in weights])
    if flat.shape != network.params.shape:
        raise ConfigError(
            f"scene.backend=tinycudann: its network has {network.params.numel()} parameters where {flat.numel()} were"
            " expected; this version lays them out in a way that is not known here"
        )
    return torch.func.functional_call(network, {"params": flat}, (inputs,)).to(inputs.dtype)


@functools.lru_cache(maxsize=16)
def _network(shapes: tuple[tuple[int, int], ...], device: torch.device) -> Any:
    """Its own parameters are never used: ours take their place in each call."""
    widths = {shape[0] for shape in shapes[:-1]}
    if len(widths) != 1:
        raise ConfigError(f"scene.backend=tinycudann: hidden layers of one width are needed, not {sorted(widths)}")
    width = _multiple(*widths)
    config = {
        "otype": "FullyFusedMLP" if width in _FUSED_WIDTHS else "CutlassMLP",
        "activation": "ReLU",
        "output_activation": "None",
        "n_neurons": width,
        "n_hidden_layers": len(shapes) - 1,
    }
    return require().Network(shapes[0][1], shapes[-1][0], config).to(device)


def _padded(weight: Tensor) -> Tensor:
    """With zeros, which give padded outputs 0 and take nothing from padded inputs, whatever these are."""
    outputs, inputs = weight.shape
    return pad(weight, (0, _multiple(inputs) - inputs, 0, _multiple(outputs) - outputs))


def _multiple(size: int) -> int:
    return -(-size // _PADDING) * _PADDING


PRIMITIVES = composed.Primitives(hash_grid_encode, mlp, composite)

evaluate_field = partial(composed.evaluate_field, PRIMITIVES)
render_field = partial(composed.render_field, PRIMITIVES)
refresh_occupancy = partial(composed.refresh_occupancy, PRIMITIVES)

__all__ = [
    "adamw_step",
    "composite",
    "evaluate_field",
    "field_with_normals",
    "march",
    "mlp",
    "ray_jitter",
    "refresh_occupancy",
    "render_field",
    "require",
    "splat",
    "sum_gaussians",
]
