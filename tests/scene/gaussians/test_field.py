"""Gaussians as a field: against the plain sum, the light that splats let through, and spheres made of them."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from threedgen.cameras import orbit
from threedgen.config.export import ExportConfig, MeshColors
from threedgen.config.scene import BackendName
from threedgen.core.errors import EmptyMeshError
from threedgen.mesh import describe_mesh, extract_surface, make_rasterizer, paint
from threedgen.ops.backends import select_backend
from threedgen.scene.gaussians import Gaussians


@pytest.mark.parametrize("backend", [BackendName.plain, BackendName.auto])
@pytest.mark.parametrize("cells", [1, 8, 128])
def test_equals_the_sum_over_all(cloud, monkeypatch, cells, backend):
    """Over all Gaussians within three standard deviations, however coarse the cells are."""
    monkeypatch.setattr("threedgen.scene.gaussians.field._ENTRIES", cells**3)
    monkeypatch.setattr("threedgen.scene.gaussians.field._FINEST", cells)
    monkeypatch.setattr("threedgen.ops.plain.gaussian_field._PAIRS_AT_ONCE", 50)
    scene = replace(cloud(40, size=0.08), ops=select_backend(backend))
    scene.opacities[:4] = torch.tensor([0.001, 0.003, 0.999, 1.0])  # two that are never drawn, two cut off at 0.99
    positions = torch.cat([scene.positions, 0.6 * torch.randn(300, 3, generator=torch.Generator().manual_seed(1))])
    density, light = np.zeros(len(positions)), np.zeros((len(positions), 3))
    for i in range(2, 40):
        turn = Rotation.from_quat(scene.quaternions[i, [1, 2, 3, 0]].numpy()).as_matrix()
        scale, opacity = scene.scales[i].numpy(), min(float(scene.opacities[i]), 0.99)
        away = (positions - scene.positions[i]).numpy()
        square = np.einsum("pi,ij,pj->p", away, np.linalg.inv(turn @ np.diag(scale**2) @ turn.T), away)
        densest = -math.log(1 - opacity) / (math.sqrt(2 * math.pi) * scale.min())
        share = np.where(square < 9, densest * np.exp(-square / 2), 0)
        density, light = density + share, light + share[:, None] * scene.colors[i].numpy()
    found, rgb = scene.field(positions)
    np.testing.assert_allclose(found.numpy(), density, atol=1e-9 * density.max())
    near = density > 0
    assert 50 < near.sum() < len(positions) - 50
    np.testing.assert_allclose(rgb.numpy()[near], light[near] / density[near, None], atol=1e-6)
    assert (rgb[torch.from_numpy(~near)] == 0.5).all()


def test_light_through_the_thinnest_axis_is_dimmed_by_the_opacity():
    turn = Rotation.from_euler("xyz", [0.3, 0.8, -0.4])
    quaternion = torch.from_numpy(turn.as_quat()[[3, 0, 1, 2]]).float()[None]
    scales = torch.tensor([[0.3, 0.05, 0.2]])
    scene = Gaussians(torch.zeros(1, 3), quaternion, scales, torch.tensor([0.7]), torch.ones(1, 3))
    along = torch.linspace(-0.3, 0.3, 2001)
    density, _ = scene.field(along[:, None] * torch.from_numpy(turn.as_matrix()[:, 1]).float())
    passed = math.exp(-float(torch.trapezoid(density, along)))
    assert passed == pytest.approx(0.3, abs=0.003)  # 0.3 % of the density lies beyond three deviations


def test_the_cube_holds_them_all(cloud):
    scene = cloud(1)
    assert scene.transformed(torch.diag(torch.tensor([2.0, 2, 2, 1]))).radius == pytest.approx(2 * scene.radius)
    round_one = replace(scene, positions=torch.tensor([[0.1, -0.5, 0.2]]), scales=torch.full((1, 3), 0.1))
    assert round_one.radius == pytest.approx(0.8)


def test_harmonics_count_by_what_is_the_same_from_all_sides(cloud):
    scene = cloud(1, 4)
    expected = (0.5 + 0.5 / math.sqrt(math.pi) * scene.colors[0, 0]).clamp(0, 1)
    torch.testing.assert_close(scene.field(scene.positions)[1][0], expected, atol=1e-6, rtol=0)


def sphere(count, size, opacity, radius=0.6, solid=False):
    """Flat Gaussians on a sphere, or round ones in a ball; the colour is 0.5 + 0.4 * normal."""
    z = 1 - 2 * (torch.arange(count) + 0.5) / count
    around = torch.arange(count) * math.pi * (3 - math.sqrt(5))
    ring = (1 - z * z).sqrt()
    normal = torch.stack([ring * around.cos(), ring * around.sin(), z], -1)
    turn = torch.nn.functional.normalize(torch.stack([1 + z, -normal[:, 1], normal[:, 0], 0 * z], -1), dim=-1)
    inwards = torch.rand(count, 1, generator=torch.Generator().manual_seed(0)) ** (1 / 3) if solid else 1.0
    scales = size * torch.tensor([1.0, 1.0, 1.0 if solid else 0.3]).expand(count, 3)
    ops = select_backend(BackendName.auto)
    return Gaussians(radius * inwards * normal, turn, scales, torch.full((count,), opacity), 0.5 + 0.4 * normal, ops)


@pytest.mark.parametrize("solid", [False, True])
def test_a_sphere_becomes_a_closed_mesh_of_its_size_and_colour(solid):
    scene = sphere(3000, 0.03, 0.4, solid=True) if solid else sphere(2000, 0.03, 0.7)
    config = ExportConfig(resolution=32, colors=MeshColors.vertex, faces=0)
    surface = extract_surface(scene, config)
    rasterizer = make_rasterizer(config.rasterizer)
    mesh = paint(scene, surface, config, rasterizer)
    report = describe_mesh(mesh, rasterizer)
    assert report["watertight"] and report["components"] == 1
    radius = np.linalg.norm(surface.vertices, axis=1)
    assert radius.mean() == pytest.approx(0.6, rel=0.05) and radius.std() < 0.02
    error = np.abs(mesh.colors / 255 - (0.5 + 0.4 * surface.vertices / radius[:, None]))
    assert error.mean() < 0.02 and error.max() < 0.15
    # as large as the splats look
    far = orbit(0, 0, 40.0, 2.0, height=128)
    pixel = 40.0 * 2 * math.tan(math.radians(1)) / 128
    seen = float((scene.render(far).opacity > 0.5).sum()) * pixel**2
    assert radius.mean() == pytest.approx(math.sqrt(seen / math.pi), rel=0.03)


def test_no_surface_is_said(cloud):
    for scene in (cloud(0), replace(cloud(), opacities=torch.full((12,), 0.001).double())):
        with pytest.raises(EmptyMeshError):
            extract_surface(scene, ExportConfig(resolution=16))
