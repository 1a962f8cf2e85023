"""Pictures as CLIP's image encoders take them (Radford et al. 2021)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from threedgen.core.transfer import to_device

# of the pictures that CLIP was trained on: red, green, blue
_MEAN, _DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def as_clip_sees(images: Tensor, size: int) -> Tensor:
    """[B, 3, H, W] in 0..1 -> [B, 3, size, size], each channel with CLIP's mean and deviation."""
    resized = interpolate(images, (size, size), mode="bicubic", align_corners=False, antialias=True)
    mean, deviation = to_device(torch.tensor((_MEAN, _DEVIATION)), resized.device)[:, :, None, None]
    return (resized.clamp(0, 1) - mean) / deviation
