"""How different do pictures look to a network? LPIPS where its weights are, and its form with features at hand."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from threedgen.core.errors import ConfigError, ThreedgenError
from threedgen.diffusion.formats.tensor_files import MatchedTensors, Source, StoredTensor, check_keys, open_tensors
from threedgen.imaging import to_numpy

Features = Callable[[Tensor], Tensor]  # images [B, 3, H, W] in 0..1 -> [B, C, h, w]
_HEADS = "functional/image/lpips_models"  # in torchmetrics' package
_LEAST_SIZE = 32  # pixels; of less the last layers leave nothing


@torch.no_grad()
def feature_distance(a: Any, b: Any, features: Features) -> float:
    """Mean squared distance between the unit feature vectors of two sets of pictures: 0 for equal ones, 4 at most.

    Zhang et al. 2018, equation 1, for one layer and with every channel's weight 1: LPIPS learns these from what people
    saw, of another network, so figures are comparable only where `features` is the same. a, b: [B, H, W, 3] in 0..1.
    """
    unit_a, unit_b = (normalize(features(_planes(images)), dim=1) for images in (a, b))
    return float((unit_a - unit_b).square().sum(1).mean())


class LPIPS(nn.Module):
    """Learned perceptual distance, version 0.1 (Zhang et al. 2018, equation 1), of AlexNet's or VGG16's five stages.

    Differentiable, so it is a loss too: images [B, 3, H, W] in 0..1, twice -> [B].
    """

    _mean: Tensor
    _deviation: Tensor

    def __init__(self, net: str) -> None:
        """net: "alex" or "vgg", without weights; `from_files` reads them."""
        super().__init__()
        build, self._stages, widths = _BACKBONES[net]
        self.features = build()
        self.heads = nn.ParameterList(torch.zeros(width) for width in widths)
        # ImageNet's means and deviations as LPIPS has them, turned from -1..1 to 0..1
        for name, values, offset in (("_mean", (-0.030, -0.088, -0.188), 1), ("_deviation", (0.458, 0.448, 0.450), 0)):
            numbers = (torch.tensor(values) + offset) / 2
            self.register_buffer(name, numbers[:, None, None], persistent=False)

    @classmethod
    def from_files(cls, backbone: Path, heads: Path | None = None) -> LPIPS:
        """backbone: torchvision's `alexnet-owt-7be5be79.pth` or `vgg16-397923af.pth`, or the same as `.safetensors`;
        heads: LPIPS' own weights for it, `alex.pth` or `vgg.pth` of lpips 0.1 or (None) those that torchmetrics brings.

        Raises ConfigError where a file, or torchmetrics, is not there, ThreedgenError where one is another network's.
        """
        tensors = _tensors_of(backbone)
        net = _SIZES.get(tensors["features.0.weight"].shape if "features.0.weight" in tensors else ())
        if net is None:
            raise ThreedgenError(f"{backbone} is neither torchvision's AlexNet nor its VGG16")
        heads = heads or _heads_of_torchmetrics(net)
        found = cls(net)
        own = {key: tensor for key, tensor in tensors.items() if key.startswith("features.")}
        sources = {name: Source(f"features.{name}") for name in found.features.state_dict()}
        MatchedTensors(found.features, sources, own, str(backbone)).fill(torch.float32)
        learned = {key: tensor for key, tensor in _tensors_of(heads).items() if key.startswith("lin")}
        shapes = {f"lin{i}.model.1.weight": (1, len(head), 1, 1) for i, head in enumerate(found.heads)}
        check_keys(learned, shapes, str(heads))
        for head, key in zip(found.heads, shapes, strict=True):
            head.data = learned[key].read().float().flatten()
        return found.eval().requires_grad_(False)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Raises ValueError for pictures of fewer than 32 pixels."""
        if min(a.shape[-2:]) < _LEAST_SIZE:
            raise ValueError(f"LPIPS needs pictures of {_LEAST_SIZE} pixels, got {a.shape[-1]} x {a.shape[-2]}")
        seen_a, seen_b = ((images - self._mean) / self._deviation for images in (a, b))
        total, first = a.new_zeros(len(a)), 0
        for last, head in zip(self._stages, self.heads, strict=True):
            seen_a, seen_b = (self.features[first:last](seen) for seen in (seen_a, seen_b))
            squared = (normalize(seen_a, dim=1, eps=1e-10) - normalize(seen_b, dim=1, eps=1e-10)).square()
            total, first = total + torch.einsum("bchw,c->bhw", squared, head).mean((1, 2)), last
        return total

    @torch.no_grad()
    def distance(self, a: Any, b: Any) -> float:
        """The mean over pictures [B, H, W, 3] in 0..1, which are looked at one by one."""
        device = self._mean.device
        pairs = zip(_planes(a).split(1), _planes(b).split(1), strict=True)
        return float(torch.cat([self(one.to(device), other.to(device)) for one, other in pairs]).mean())


def _planes(images: Any) -> Tensor:
    """[B, H, W, 3] -> [B, 3, H, W]"""
    return torch.tensor(to_numpy(images), dtype=torch.float32).movedim(-1, 1)


def _alexnet() -> nn.Sequential:
    """Krizhevsky 2014, the layers before the classifier, under torchvision's names."""
    return nn.Sequential(
        *(nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()),
    )


def _vgg16() -> nn.Sequential:
    """Simonyan and Zisserman 2014, configuration D, the layers before the classifier, under torchvision's names."""
    layers: list[nn.Module] = []
    before = 3
    for width, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
            before = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers[:-1])


# how each is built, how many of its layers there are up to each stage's end, and how many channels then
_BACKBONES: dict[str, tuple[Callable[[], nn.Sequential], tuple[int, ...], tuple[int, ...]]] = {
    "alex": (_alexnet, (2, 5, 8, 10, 12), (64, 192, 384, 256, 256)),
    "vgg": (_vgg16, (4, 9, 16, 23, 30), (64, 128, 256, 512, 512)),
}
_SIZES: dict[tuple[int, ...], str] = {(64, 3, 11, 11): "alex", (64, 3, 3, 3): "vgg"}  # of the first layer's weights


def _tensors_of(file: Path) -> dict[str, StoredTensor]:
    if not file.is_file():
        raise ConfigError(f"{file} is not there (or is no file): LPIPS needs weights")
    return open_tensors(file)


def _heads_of_torchmetrics(net: str) -> Path:
    found = find_spec("torchmetrics")
    if found is None or found.origin is None:
        raise ConfigError("LPIPS' own weights come with torchmetrics, which is not installed: pip install torchmetrics")
    return Path(found.origin).parent / _HEADS / f"{net}.pth"
