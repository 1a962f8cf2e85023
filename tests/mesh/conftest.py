"""Analytic fields: what a scene looks like to mesh extraction, with everything known in closed form."""

import math
from types import SimpleNamespace

import pytest
import torch

from tests.mesh.gltf_validator import ValidatorMissing, validate
from threedgen.config.export import ExportConfig
from threedgen.mesh import extract_surface, make_rasterizer, paint


class Field:
    """density(positions [N, 3]) -> [N]; coloured by position: `color_at`."""

    def __init__(self, density, radius=1.0):
        self.density = density
        self.radius = radius

    def field(self, positions):
        assert positions.abs().max() <= self.radius + 1e-6, "asked outside the scene's cube"
        assert not torch.is_grad_enabled()
        return self.density(positions), color_at(positions)


def color_at(positions):
    """Different on every side: no mirrored or turned texture can pass for it."""
    return (positions * torch.tensor([0.8, 0.9, 1.0]) + torch.tensor([0.55, 0.5, 0.45])).clamp(0, 1)


def ball(center=(0.0, 0.0, 0.0), radius=0.4, inside=200.0, softness=0.0002):
    """Density `inside` within, 0 without, half of it exactly on the sphere.

    Soft edges look larger than half the density: grazing rays gather much of the tail. This one is hard.
    """
    middle = torch.tensor(center)
    return lambda p: inside * torch.sigmoid((radius - (p - middle).norm(dim=-1)) / softness)


def fog(peak=12.0, sigma=0.25):
    """A Gaussian; the optical depth of a ray at distance b is peak sigma sqrt(2 pi) exp(-b^2 / 2 sigma^2)."""
    return lambda p: peak * torch.exp(-p.square().sum(-1) / (2 * sigma**2))


def half_opaque_radius(peak=12.0, sigma=0.25):
    """Where the fog's orthographic silhouette ends: optical depth log 2."""
    return sigma * math.sqrt(2 * math.log(peak * sigma * math.sqrt(2 * math.pi) / math.log(2)))


def extract_mesh(field, config, rasterizer=None):
    """From the field to the coloured mesh, as `tasks/export.py` does it."""
    return paint(field, extract_surface(field, config), config, rasterizer or make_rasterizer(config.rasterizer))


@pytest.fixture(scope="session")
def analytic():
    return SimpleNamespace(
        Field=Field,
        color_at=color_at,
        ball=ball,
        fog=fog,
        half_opaque_radius=half_opaque_radius,
        extract_mesh=extract_mesh,
    )


@pytest.fixture(scope="session")
def ball_mesh():
    """The ball of radius 0.4, textured; fine enough that it is simplified too."""
    return extract_mesh(Field(ball()), ExportConfig(resolution=66, texture_size=256, faces=8000))


@pytest.fixture(scope="session")
def glb_issues():
    """Function of .glb files that returns all that the Khronos validator finds in them, hints too."""

    def issues(*glbs):
        try:
            reports = validate(*glbs)
        except ValidatorMissing as missing:
            pytest.skip(str(missing))
        assert all(report["mimeType"] == "model/gltf-binary" for report in reports)
        return [message for report in reports for message in report["issues"]["messages"]]

    return issues
