import pytest
import torch

from threedgen.config.scene import BackendName
from threedgen.ops.backends import select_backend
from threedgen.scene.gaussians import Gaussians


@pytest.fixture
def cloud():
    """Makes clouds of a few large Gaussians around the origin, drawn by plain torch in float64."""

    def make(count=12, num_coefficients=0, size=0.15, dtype=torch.float64, seed=0):
        generator = torch.Generator().manual_seed(seed)
        normal = [torch.randn(count, k, generator=generator, dtype=torch.float64) for k in (3, 4, 3, 1)]
        colors = torch.rand(count, 3, generator=generator, dtype=torch.float64)
        if num_coefficients:
            colors = 0.5 * torch.randn(count, num_coefficients, 3, generator=generator, dtype=torch.float64)
        scales = size * torch.exp(0.4 * normal[2])
        every = [0.4 * normal[0], normal[1], scales, 0.05 + 0.9 * torch.sigmoid(normal[3][:, 0]), colors]
        return Gaussians(*(x.to(dtype) for x in every), select_backend(BackendName.plain))

    return make
