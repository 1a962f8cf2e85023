import numpy as np
import torch

from threedgen.scene.background import BackgroundNetwork, spherical_harmonics


def test_spherical_harmonics_are_orthonormal():
    """Over the sphere, by Gauss-Legendre in z and equal steps in azimuth: exact for these polynomials."""
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(8))
    azimuth = torch.arange(16, dtype=torch.float64) * (2 * torch.pi / 16)
    ring = (1 - nodes.square()).sqrt()[:, None]
    directions = torch.stack([ring * azimuth.cos(), ring * azimuth.sin(), nodes[:, None].expand(-1, 16)], -1)
    values = spherical_harmonics(directions.reshape(-1, 3))
    area = (weights[:, None] * (2 * torch.pi / 16)).expand(-1, 16).reshape(-1, 1)
    torch.testing.assert_close(values.mT @ (area * values), torch.eye(9, dtype=torch.float64), atol=1e-12, rtol=0)


def test_network_gives_colours_and_has_no_biases():
    network = BackgroundNetwork(torch.Generator().manual_seed(0))
    rgb = network(torch.nn.functional.normalize(torch.randn(50, 3), dim=-1))
    assert rgb.shape == (50, 3) and rgb.min() > 0 and rgb.max() < 1
    assert [tuple(p.shape) for p in network.parameters()] == [(16, 9), (16, 16), (3, 16)]
