"""Gaussians as a scene: against closed forms, the splat op, and themselves seen from elsewhere."""

import math
from dataclasses import replace

import pytest
import torch
from scipy.spatial.transform import Rotation

from tests.scene.gaussians.in_double import in_double
from threedgen.cameras import orbit, rays_of
from threedgen.config.scene import BackendName, OptimizerConfig, SceneConfig
from threedgen.core.errors import ConfigError
from threedgen.ops.optimizer import AdamW
from threedgen.scene.gaussians import Gaussians, LearnedGaussians
from threedgen.scene.protocol import Scene, Shown

RED = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
CONFIG = SceneConfig(backend=BackendName.plain, background_random_probability=0.5)


CAMERAS = in_double(orbit([10, 130], [20, -35], 2.5, 45, height=12, width=16))


def similarity(scale=1.7, turn=(0.7, -0.3, 1.9), move=(0.5, -0.2, 0.9)):
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] = scale * torch.from_numpy(Rotation.from_euler("xyz", turn).as_matrix())
    matrix[:3, 3] = torch.tensor(move, dtype=torch.float64)
    return matrix


def moved(cameras, matrix):
    """Cameras that stand to a transformed scene as `cameras` to the scene itself."""
    scale = torch.linalg.det(matrix[:3, :3]) ** (1 / 3)
    pose = matrix @ cameras.camera_to_world
    pose[:, :3, :3] /= scale
    return replace(cameras, camera_to_world=pose)


def test_one_gaussian_in_front_of_a_camera():
    """Opacity 0.8 on its ray: its colour over the background, and the distance along the ray, not the axis."""
    cameras = in_double(orbit(0, 0, 3.0, 60, height=7))
    rays, pixel = rays_of(cameras), 2 * 7 + 6
    position = rays.origins[pixel] + 2.0 * rays.directions[pixel]
    shape, scales = torch.tensor([[1.0, 0, 0, 0]], dtype=torch.float64), torch.full((1, 3), 0.01, dtype=torch.float64)
    color, opacity = torch.tensor([[0.2, 0.4, 0.6]], dtype=torch.float64), torch.tensor([0.8], dtype=torch.float64)
    scene = Gaussians(position[None], shape, scales, opacity, color)
    for background, behind in ((None, torch.ones(3)), (torch.tensor([0.1, 0.5, 0.9]), torch.tensor([0.1, 0.5, 0.9]))):
        seen = scene.render(cameras, background=background)
        assert seen.rgb.shape == (1, 7, 7, 3) and seen.opacity.shape == seen.depth.shape == (1, 7, 7, 1)
        torch.testing.assert_close(seen.rgb[0, 2, 6], 0.8 * color[0] + 0.2 * behind.double(), atol=1e-6, rtol=0)
        torch.testing.assert_close(seen.rgb[0, 5, 0], behind.double(), atol=1e-7, rtol=0)
    assert float(seen.opacity[0, 2, 6]) == pytest.approx(0.8, abs=1e-6)
    assert float(seen.depth[0, 2, 6]) == pytest.approx(0.8 * 2.0, abs=1e-5)


@pytest.mark.parametrize("num_coefficients", [0, 1, 4, 9, 16])
def test_a_transformed_scene_seen_from_transformed_cameras(cloud, num_coefficients):
    scene, matrix = cloud(num_coefficients=num_coefficients), similarity()
    before = scene.render(CAMERAS, background=RED)
    after = scene.transformed(matrix).render(moved(CAMERAS, matrix), background=RED)
    torch.testing.assert_close(after.rgb, before.rgb, atol=1e-5, rtol=0)
    torch.testing.assert_close(after.depth, 1.7 * before.depth, atol=1e-5, rtol=0)
    assert (scene.render(moved(CAMERAS, matrix), background=RED).rgb - before.rgb).abs().max() > 0.1
    back = scene.transformed(matrix).transformed(torch.linalg.inv(matrix))
    torch.testing.assert_close(back.render(CAMERAS).rgb, scene.render(CAMERAS).rgb, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "linear",
    [torch.diag(torch.tensor([1.0, 1.0, -1.0])), torch.diag(torch.tensor([1.0, 1.1, 1.0])), torch.zeros(3, 3),
     torch.tensor([[1.0, 0.1, 0], [0, 1, 0], [0, 0, 1]]), torch.full((3, 3), math.nan)],
    ids=["mirror", "stretch", "flat", "shear", "nan"],
)  # fmt: skip
def test_other_transforms_are_refused(cloud, linear):
    matrix = torch.eye(4)
    matrix[:3, :3] = linear
    with pytest.raises(ValueError, match="turned, moved and scaled alike in all directions"):
        cloud().transformed(matrix)


def test_gradients_through_move_and_render(cloud):
    """Finite differences, from the numbers of Gaussians to a loss on all outputs."""
    scene = cloud(3, 4, size=0.4)
    numbers = [getattr(scene, name) for name in ("positions", "quaternions", "scales", "opacities", "colors")]
    cameras = in_double(orbit([10, 200], [20, -35], 2.5, 45, height=3, width=4))

    def outputs(*numbers):
        seen = Gaussians(*numbers, scene.ops).transformed(similarity(1.1, move=(0.1, 0, 0))).render(cameras)
        return seen.rgb, seen.opacity, seen.depth

    assert torch.autograd.gradcheck(outputs, [x.requires_grad_() for x in numbers], atol=1e-7)


# ---- As parameters


def test_learned_gaussians_start_as_they_were(cloud):
    for num_coefficients in (0, 4):
        start = cloud(num_coefficients=num_coefficients)
        scene = LearnedGaussians(start, CONFIG)
        shown: Shown = scene
        fitted: Scene = scene
        expected = start.render(CAMERAS, background=RED)
        for found in (shown.render(CAMERAS, background=RED), fitted.render(CAMERAS, background=RED)):
            torch.testing.assert_close(found.rgb, expected.rgb, atol=1e-6, rtol=0)


def test_learned_gaussians_fit_other_ones(cloud):
    """And stay valid: scales positive, opacities and colours between 0 and 1."""
    target, scene = cloud(seed=1).render(CAMERAS, background=RED).rgb, LearnedGaussians(cloud(), CONFIG)
    config = OptimizerConfig(grid_lr=0.08)
    optimizer = AdamW(scene.param_groups(config), scene.ops, betas=config.betas, eps=config.eps)
    losses = []
    for step in range(80):
        loss = (scene.render(CAMERAS, background=RED).rgb - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scene.after_step(step, optimizer)
        losses.append(float(loss.detach()))
    now = scene.gaussians()
    assert losses[-1] < 0.1 * losses[0]
    assert (now.scales > 0).all() and ((now.opacities > 0) & (now.opacities < 1)).all()
    assert ((now.colors > 0) & (now.colors < 1)).all() and len(now) == 12

    again = LearnedGaussians(cloud(seed=2), CONFIG)
    again.load_state_dict(scene.state_dict())
    assert torch.equal(again.render(CAMERAS).rgb, scene.render(CAMERAS).rgb)


def test_opaque_and_black_ones_can_be_learned_from(cloud):
    start = replace(cloud(1), opacities=torch.ones(1).double(), colors=torch.tensor([[0.0, 1.0, 0.5]]).double())
    scene = LearnedGaussians(start, CONFIG)
    scene.render(CAMERAS).rgb.square().sum().backward()
    assert all(p.isfinite().all() and p.grad.isfinite().all() for p in scene.parameters())
    assert scene.colors.grad.abs().min() > 0


def test_every_parameter_is_in_one_group_without_decay(cloud):
    scene = LearnedGaussians(cloud(), CONFIG)
    groups = scene.param_groups(OptimizerConfig(grid_lr=0.005))
    rates = {group["name"]: group["lr"] for group in groups}
    assert rates == pytest.approx(  # of the paper's code, for a scene of radius 1
        {"positions": 1.6e-4, "quaternions": 0.001, "log_scales": 0.005, "opacity_logits": 0.05, "colors": 0.0025}
    )
    listed = [id(p) for group in groups for p in group["params"]]
    assert sorted(listed) == sorted(id(p) for p in scene.parameters())
    assert all(group["weight_decay"] == 0 for group in groups)


def test_backgrounds(cloud):
    scene, corner = LearnedGaussians(cloud(), CONFIG), in_double(orbit([0, 90], 0, 4.0, 60, height=2))
    corner.camera_to_world[:, 2, 3] += 500  # past everything
    assert (scene.render(corner).rgb == 1).all()
    assert (scene.render(corner, background=RED).rgb == RED).all()


def test_normals_are_refused(cloud):
    with pytest.raises(ConfigError, match="Gaussians have no normals"):
        LearnedGaussians(cloud(), CONFIG).render(CAMERAS, normals=True)
