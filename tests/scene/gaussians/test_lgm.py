"""The way into LGM's network and out of it."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from scipy.spatial.transform import Rotation

from tests.scene.gaussians.in_double import in_double
from threedgen.cameras import orbit, project
from threedgen.config.sampling import QuaternionNorm
from threedgen.config.scene import BackendName
from threedgen.ops.backends import select_backend
from threedgen.scene.gaussians import gaussians_of_channels, lgm_frame, lgm_inputs
from threedgen.scene.gaussians.lgm import activated


def cameras_of(num_objects=2, num_views=3, size=(6, 8)):
    """Objects seen from other elevations, distances and fields of view each."""
    azimuth = [20 + 100 * o + 360 / num_views * v for o in range(num_objects) for v in range(num_views)]
    of_object = torch.arange(num_objects).repeat_interleave(num_views)
    return orbit(azimuth, 10 + 15 * of_object, 2.0 + 0.5 * of_object, 49.1 - 9 * of_object, *size, num_views=num_views)


@pytest.mark.parametrize("norm, name", [("each", "gaussians"), ("all", "gaussians_as_released")])
def test_activations_equal_the_reference(norm, name):
    path = Path(__file__).parents[3].parent / "shared" / "goldens" / "golden_lgm_small.safetensors"
    if not path.exists():
        pytest.skip("the reference implementation's golden numbers are not here")
    golden = load_file(path)
    found = activated(golden["out.channels"], QuaternionNorm(norm))
    torch.testing.assert_close(found, golden[f"out.{name}"], atol=1e-6, rtol=0)


def test_the_first_camera_stands_on_the_z_axis():
    cameras = cameras_of()
    for distance, expected in ((None, [2.0, 2.5]), (1.5, [1.5, 1.5])):
        pose = lgm_frame(cameras, distance) @ cameras.camera_to_world[::3]
        scale = torch.tensor(expected) / torch.tensor([2.0, 2.5])
        for matrix, far, factor in zip(pose, expected, scale, strict=True):
            wanted = torch.diag(torch.tensor([factor, factor, factor, 1.0]))
            wanted[2, 3] = far
            torch.testing.assert_close(matrix, wanted, atol=1e-5, rtol=0)


def test_the_first_of_the_released_cameras_gets_the_reference_rays():
    """By the reference's own formula: direction ((x + .5 - W/2) / f, (H/2 - y - .5) / f, -1) from (0, 0, 1.5)."""
    size, focal = 8, 4 / math.tan(math.radians(49.1) / 2)
    cameras = orbit([70, 160, 250, 340], -20, 1.5, 49.1, size, num_views=4)
    rays = lgm_inputs(torch.zeros(4, 3, size, size), cameras)[0, :, 3:]
    x = (torch.arange(size) + 0.5 - 4) / focal
    direction = torch.stack([x.expand(size, size), -x[:, None].expand(size, size), -torch.ones(size, size)])
    direction = direction / direction.norm(dim=0)
    torch.testing.assert_close(rays[0, 3:], direction, atol=1e-6, rtol=0)
    origin = torch.tensor([0.0, 0.0, 1.5])[:, None, None].expand(3, size, size)
    torch.testing.assert_close(rays[0, :3], torch.linalg.cross(origin, direction, dim=0), atol=1e-5, rtol=0)


@pytest.mark.parametrize("distance", [None, 1.5])
def test_rays_hit_their_pixels_again(distance):
    """A point on each ray, brought back to our world, is projected by the camera to the centre of the ray's pixel."""
    cameras = cameras_of()
    rays = lgm_inputs(torch.zeros(6, 3, 6, 8), cameras, distance)[:, :, 3:].flatten(0, 1).double()
    moment, direction = rays.movedim(1, -1).reshape(6, -1, 6).split(3, -1)
    torch.testing.assert_close(direction.norm(dim=-1), torch.ones(6, 48).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close((moment * direction).sum(-1), torch.zeros(6, 48).double(), atol=1e-6, rtol=0)
    nearest = torch.linalg.cross(direction, moment)  # of the ray's line to the origin
    to_world = torch.linalg.inv(lgm_frame(cameras, distance)).double().repeat_interleave(3, 0)
    to_camera = torch.linalg.inv(cameras.camera_to_world.double()) @ to_world
    at = torch.einsum("bij,bnj->bni", to_camera[:, :3, :3], nearest) + to_camera[:, None, :3, 3]
    focal = (3 / (0.5 * cameras.fov_y.double()).tan())[:, None]
    column, row = focal * at[..., 0] / -at[..., 2] + 4, focal * -at[..., 1] / -at[..., 2] + 3
    assert (at[..., 2] < 0).all()
    y, x = torch.meshgrid(torch.arange(6) + 0.5, torch.arange(8) + 0.5, indexing="ij")
    torch.testing.assert_close(column, x.flatten().double().expand(6, -1), atol=1e-4, rtol=0)
    torch.testing.assert_close(row, y.flatten().double().expand(6, -1), atol=1e-4, rtol=0)


def test_colours_are_normalised_and_stay_with_their_cameras():
    images = torch.rand(6, 3, 6, 8, generator=torch.Generator().manual_seed(0))
    colors = lgm_inputs(images, cameras_of())[:, :, :3]
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = (images[4, :, 2, 3] - mean) / deviation
    torch.testing.assert_close(colors[1, 1, :, 2, 3], expected)


@pytest.mark.parametrize("shape", [(5, 3, 6, 8), (6, 3, 8, 6), (6, 4, 6, 8), (2, 3, 3, 6, 8)])
def test_pictures_of_other_cameras_are_refused(shape):
    with pytest.raises(ValueError, match=r"6 cameras, 3 an object, need pictures \[6, 3, 6, 8\], not"):
        lgm_inputs(torch.zeros(shape), cameras_of())


def channels_of(num_objects, spread=0.3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    channels = torch.randn(num_objects, 3, 14, 2, 2, generator=generator, dtype=torch.float64)
    channels[:, :, :3] *= spread
    channels[:, :, 4:7] += 1.0
    return channels


@pytest.mark.parametrize("distance", [None, 1.5])
def test_gaussians_seen_in_our_world_and_in_lgms_frame(distance):
    """What the first camera sees in our world is what one at (0, 0, distance) sees of the network's own numbers."""
    cameras, channels = in_double(cameras_of()), channels_of(2)
    ops = select_backend(BackendName.plain)
    scenes = gaussians_of_channels(channels, cameras, distance, ops=ops)
    for index, (scene, numbers) in enumerate(zip(scenes, activated(channels), strict=True)):
        first = cameras[3 * index : 3 * index + 1]
        pose = torch.eye(4, dtype=torch.float64)[None]
        pose[:, 2, 3] = distance or first.distance
        parts = numbers[:, :3], numbers[:, 7:11], numbers[:, 4:7], numbers[:, 3], numbers[:, 11:]
        expected = ops.splat(*parts, pose, first.fov_y, 6, 8)
        seen = scene.render(first, background=torch.zeros(3))
        assert seen.opacity.max() > 0.5
        torch.testing.assert_close(seen.rgb, expected.rgb, atol=1e-6, rtol=0)


@pytest.mark.parametrize("aligned", [False, True])
def test_gradients_reach_the_channels(aligned):
    channels, images = channels_of(1).requires_grad_(), torch.full((3, 3, 6, 8), 0.5) if aligned else None
    scene = gaussians_of_channels(channels, cameras_of(1), images=images)[0]
    scene.render(cameras_of(1, 1)).rgb.square().sum().backward()
    assert channels.grad.abs().amax((0, 1, 3, 4)).min() > 0


@pytest.mark.parametrize("distance", [None, 1.5])
def test_an_answer_of_zeros_is_billboards(distance):
    """Each on its own pixel's ray where that passes the origin, found by a search, in the colour of its pixels."""
    cameras, images = cameras_of(), torch.rand(6, 3, 6, 8, generator=torch.Generator().manual_seed(0))
    scenes = gaussians_of_channels(torch.zeros(2, 3, 14, 3, 4), cameras, distance, images=images)
    pooled = images.unflatten(-2, (3, 2)).unflatten(-1, (4, 2)).mean((-3, -1)).clamp(0.02, 0.98)
    for index, scene in enumerate(scenes):
        places, sizes = [], []
        for camera in range(3 * index, 3 * index + 3):
            pose, half = cameras.camera_to_world[camera], math.tan(cameras.fov_y[camera] / 2)
            for row in range(3):
                for column in range(4):
                    ray = torch.tensor([(column - 1.5) / 1.5 * half, (1 - row) / 1.5 * half, -1.0])
                    steps = torch.linspace(0, 4, 40001)[:, None]
                    points = pose[:3, 3] + steps * (pose[:3, :3] @ (ray / ray.norm()))
                    places.append(points[points.norm(dim=-1).argmin()])
                    sizes.append(math.log(2) * 2 * half * cameras.distance[camera] / 3)
        torch.testing.assert_close(scene.positions, torch.stack(places), atol=1e-3, rtol=0)
        torch.testing.assert_close(scene.scales, torch.tensor(sizes)[:, None].expand(36, 3), atol=1e-5, rtol=1e-5)
        own = pooled[3 * index : 3 * index + 3].movedim(1, -1).reshape(-1, 3)
        torch.testing.assert_close(scene.colors, own, atol=1e-5, rtol=0)
        assert (scene.opacities == 0.5).all()


def test_answers_move_gaussians_along_their_rays_and_aside():
    cameras, images = in_double(cameras_of(1)), torch.full((3, 3, 6, 8), 0.25).double()
    channels = torch.zeros(1, 3, 14, 3, 4).double()
    channels[:, :, 0] = torch.linspace(-1, 1, 36).double().view(3, 3, 4)
    (along,) = gaussians_of_channels(channels, cameras, images=images)
    seen, far = project(replace(cameras, height=3, width=4), along.positions.view(3, 12, 3))
    row, column = torch.meshgrid(torch.arange(3) + 0.5, torch.arange(4) + 0.5, indexing="ij")
    centres = torch.stack([column, row], -1).view(12, 2).double()
    torch.testing.assert_close(seen, centres.expand(3, 12, 2), atol=1e-6, rtol=0)  # on their rays, wherever there
    (flat,) = gaussians_of_channels(0 * channels, cameras, images=images)
    moved = far - project(cameras, flat.positions.view(3, 12, 3))[1]
    torch.testing.assert_close(moved, channels[0, :, 0].view(3, 12).tanh(), atol=1e-6, rtol=0)  # half of 2.0
    channels[:, :, :3] = torch.tensor([0, 9.0, -9])[:, None, None]  # a pixel right, and one down
    channels[:, :, 11:] = 1.0
    (aside,) = gaussians_of_channels(channels, cameras, images=images)
    edge = 4 * math.tan(math.radians(49.1) / 2) / 3
    for camera in range(3):
        right, up = cameras.camera_to_world[camera, :3, :2].T
        shift = (aside.positions - flat.positions)[12 * camera : 12 * camera + 12]
        torch.testing.assert_close(shift, (edge * (right - up)).expand(12, 3), atol=1e-6, rtol=0)
    assert aside.colors.double() == pytest.approx(1 / (1 + 3 / math.e))  # odds of 1 : 3, times e


def test_videomvs_rotations_are_its_rasterisers():
    """The covariance is that of the matrix as the rasteriser makes it, without normalising the quaternion."""
    channels, cameras = channels_of(1), orbit(0, 0, 1.0, 40, 8)
    channels[0, 0, 4:11, 0, 0] = torch.tensor([1.0, 2, 3, 0, 0, 0, 0])  # many quaternions are next to nothing
    cameras = replace(cameras, camera_to_world=torch.eye(4)[None].double(), distance=torch.ones(1).double())
    cameras.camera_to_world[:, 2, 3] = 1  # LGM's frame is the world
    (scene,) = gaussians_of_channels(channels, replace(cameras, num_views=1), norm=QuaternionNorm.all)
    numbers = activated(channels, QuaternionNorm.all)[0]
    for gaussian in range(12):
        w, x, y, z = numbers[gaussian, 7:11].tolist()
        matrix = torch.tensor(
            [[1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
             [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
             [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)]], dtype=torch.float64
        )  # fmt: skip
        axes = matrix * numbers[gaussian, 4:7]
        turn = torch.from_numpy(Rotation.from_quat(scene.quaternions[gaussian, [1, 2, 3, 0]].numpy()).as_matrix())
        found = turn * scene.scales[gaussian]
        torch.testing.assert_close(found @ found.T, axes @ axes.T, atol=1e-9, rtol=0)
    with pytest.raises(ValueError, match="can be used, but not trained"):
        gaussians_of_channels(channels.requires_grad_(), cameras, norm=QuaternionNorm.all)
