"""Optical flow by RAFT (Teed and Deng 2020), where torchvision and its weights are."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from threedgen.core.errors import ConfigError
from threedgen.diffusion.formats.tensor_files import check_keys, open_tensors
from threedgen.metrics.flow import OpticalFlow

_LEAST_SIZE, _MULTIPLE = 256, 8  # pixels; it was trained on larger pictures, and compares maps of an eighth


def raft_flow(weights: Path, device: torch.device | str = "cpu") -> OpticalFlow:
    """Torchvision's large RAFT. weights: its file, such as `raft_large_C_T_SKHT_V2-ff5fadd5.pth`.

    Raises ConfigError if the file is not there, or torchvision is not or does not go with this torch, and
    ThreedgenError if the file is another network's.
    """
    if not weights.is_file():
        raise ConfigError(f"{weights} is not there (or is no file): RAFT needs weights")
    try:
        from torchvision.models.optical_flow import raft_large
    except (ImportError, OSError, RuntimeError) as error:
        raise ConfigError(
            f"RAFT is torchvision's, which is not here or does not go with torch {torch.__version__} ({error})"
        ) from error
    network, tensors = raft_large(weights=None, progress=False), open_tensors(weights)
    shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    check_keys(tensors, shapes, str(weights))
    network.load_state_dict({key: tensors[key].read() for key in shapes})
    return flow_by(network.to(device).eval().requires_grad_(False), device)


def flow_by(network: nn.Module, device: torch.device | str = "cpu") -> OpticalFlow:
    """Pictures of any size by a network that takes two of -1..1 and answers, as RAFT does, with finer and finer flows.

    They are enlarged to 256 pixels at least, and to multiples of 8, and looked at one pair at a time.
    """

    def estimate(images: Tensor, others: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        scale = max(1.0, _LEAST_SIZE / min(height, width))
        size = [math.ceil(scale * side / _MULTIPLE) * _MULTIPLE for side in (height, width)]
        larger = [
            interpolate(x, size, mode="bilinear", align_corners=False).to(device) * 2 - 1 for x in (images, others)
        ]
        pairs = zip(*(x.split(1) for x in larger), strict=True)
        flow = torch.cat([network(one, other)[-1] for one, other in pairs])
        smaller = interpolate(flow, (height, width), mode="bilinear", align_corners=False)
        return smaller * smaller.new_tensor([width / size[1], height / size[0]])[:, None, None]

    return estimate
