"""Which pixels of two views can show the same point, and what is fetched there, against slow and closed forms."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import normalize

from threedgen.cameras import Cameras, orbit, rays_of
from threedgen.diffusion.networks.epipolar import (
    ViewGeometry,
    epipolar_mask,
    fetch,
    pixel_at_origin,
    pluecker,
    ray_distance,
    ray_points,
    sample_depths,
)

LEVELS = pytest.mark.parametrize(("height", "width"), [(8, 8), (12, 16)])
FOUR = orbit([0, 90, 180, 270], 15, 3, 40, 8, num_views=4)


@pytest.fixture(scope="module")
def goldens(goldens_folder):
    return load_file(goldens_folder / "golden_epipolar.safetensors")


def golden_cameras(goldens, height, width):
    words = {name: goldens[f"cameras.{name}"].float() for name in ("fov_y", "distance")}
    angles = {name: goldens[f"cameras.{name}_deg"].float().deg2rad() for name in ("azimuth", "elevation")}
    return Cameras(goldens["cameras.c2w"].float(), height=height, width=width, num_views=3, **words, **angles)


def close(actual, expected, tolerance):
    torch.testing.assert_close(actual, expected.float(), atol=tolerance, rtol=0)


@LEVELS
def test_rays_and_their_distances_are_the_reference_s(goldens, height, width):
    cameras, level = golden_cameras(goldens, height, width), f"{height}x{width}"
    rays = rays_of(cameras)
    close(rays.origins.view(3, height, width, 3), goldens[f"{level}.ray_origins"], 2e-6)
    close(rays.directions.view(3, height, width, 3), goldens[f"{level}.ray_directions"], 2e-6)
    close(pluecker(rays).view(3, height, width, 6).permute(0, 3, 1, 2), goldens[f"{level}.plucker"], 2e-6)
    origins, directions = rays.origins.view(3, -1, 3), rays.directions.view(3, -1, 3)
    distance, in_front = ray_distance(
        *(ray[:, None, :, None] for ray in (origins, directions)),
        *(ray[None, :, None] for ray in (origins, directions)),
    )
    other = ~torch.eye(3, dtype=torch.bool)
    close(distance[other], goldens[f"{level}.ray_distance"][other], 1e-5)
    assert torch.equal(in_front[other], goldens[f"{level}.both_in_front"][other].bool())


@LEVELS
@pytest.mark.parametrize("width_of_line", ["0.05", "1.5px"])
def test_masks_are_the_reference_s(goldens, height, width, width_of_line):
    cameras, level = golden_cameras(goldens, height, width), f"{height}x{width}"
    close(pixel_at_origin(cameras).expand(3, 3), goldens[f"{level}.pixel_at_origin"], 1e-6)
    tau = 1.5 * pixel_at_origin(cameras) if width_of_line.endswith("px") else float(width_of_line)
    mask, expected = epipolar_mask(cameras, tau), goldens[f"{level}.mask.tau_{width_of_line}"]
    assert mask.dtype == torch.bool and mask.shape == expected.shape
    clear = expected != 2
    assert clear.float().mean() > 0.999 and torch.equal(mask[clear], expected[clear] == 1)


@LEVELS
def test_the_mask_agrees_with_the_lines_in_pixels(goldens, height, width):
    """As far as it can: a ray's distance counts world units where they meet (the reference: 0.79 to 0.85)."""
    cameras, level = golden_cameras(goldens, height, width), f"{height}x{width}"
    mask = epipolar_mask(cameras, 1.5 * pixel_at_origin(cameras))
    drawn = (goldens[f"{level}.line_distance_px"] <= 1.5) & goldens[f"{level}.both_in_front"].bool()
    for i, j in ((0, 1), (1, 0)):
        shared, either = (mask[i, j] & drawn[i, j]).sum(), (mask[i, j] | drawn[i, j]).sum()
        assert (0.79 < shared / either < 0.86) if i == 0 else (0.71 < shared / either < 0.78)


@LEVELS
def test_points_and_what_is_fetched_there_are_the_reference_s(goldens, height, width):
    cameras, level = golden_cameras(goldens, height, width), f"{height}x{width}"
    depths = sample_depths(cameras, 5)
    close(depths, goldens[f"{level}.depths"], 1e-6)
    found = ray_points(cameras, depths)
    close(found.points[0].view(3, height, width, 5, 3), goldens[f"{level}.points"], 2e-6)
    inside, in_front = (goldens[f"{level}.{name}"].bool() for name in ("inside", "in_front"))
    from_to = found.pixels[0].transpose(0, 1).reshape(3, 3, height, width, 5, 2)
    close(from_to[inside], goldens[f"{level}.project_xy"][inside], 1e-5)
    assert torch.equal((from_to != 0).any(-1), in_front) and not in_front.all()
    own = torch.eye(3, dtype=torch.bool)[:, :, None, None, None]
    assert torch.equal(found.visible[0].transpose(0, 1).reshape(inside.shape), inside | own)
    place = goldens[f"{level}.project_xy"].float().transpose(0, 1).flatten(1, 4)
    for pixels, where, tolerance in ((place, in_front, 1e-5), (found.pixels[0].flatten(1, 3), inside, 2e-5)):
        seen = fetch(goldens[f"{level}.features"], pixels)
        seen = seen.reshape(3, 4, 3, height, width, 5).permute(2, 0, 3, 4, 5, 1)
        close(seen[where], goldens[f"{level}.fetched_border"][where], tolerance)


@pytest.mark.parametrize("azimuth", [20, 90, 180])
def test_the_mask_holds_what_a_walk_along_the_ray_comes_near(azimuth):
    """Without the formula for two lines: points close together on a ray, and the other rays' distances from them."""
    cameras = orbit([0, azimuth], [15, -10], 3, 40, 8, 10)
    tau = 1.5 * float(pixel_at_origin(cameras)[1])
    mask = epipolar_mask(cameras, tau)[0, 1]
    origins, directions = (
        ray.double().view(2, 80, 3) for ray in (rays_of(cameras).origins, rays_of(cameras).directions)
    )
    steps = torch.linspace(1e-3, 30, 3000, dtype=torch.float64)
    checked = 0
    for pixel in range(80):
        points = origins[0, pixel] + steps[:, None] * directions[0, pixel] - origins[1, 0]
        ahead = points @ directions[1].T  # [steps, 80], where each point's foot is on the other rays
        away = (points.square().sum(-1)[:, None] - ahead.square()).clamp(min=0).sqrt()
        nearest, index = away.min(0)
        foot = ahead.gather(0, index[None])[0]
        found = (nearest < tau) & (foot > 0)
        clear = ((nearest - tau).abs() > 1e-3) & (foot.abs() > 0.1) & (index > 0) & (index < 2999)
        assert torch.equal(mask[pixel][clear], found[clear])
        assert not mask[pixel][(foot < -0.1) | (index == 0)].any()  # behind one of the cameras
        checked += int(clear.sum())
    assert checked > 3000 and 0.05 < mask.float().mean() < 0.5


def test_a_view_sees_itself_and_a_wider_line_more_of_the_others():
    masks = [epipolar_mask(FOUR, k * pixel_at_origin(FOUR)) for k in (0.0, 0.5, 1.5, 5.0)]
    own = torch.eye(4, dtype=torch.bool)
    for narrow, wide in pairwise(masks):
        assert narrow[own].all() and (wide | ~narrow).all() and narrow.sum() < wide.sum()
    shares = [mask[~own].float().mean() for mask in masks]
    assert shares[0] < 0.02 and 0.2 < shares[2] < 0.35  # the reference: 27 % for three cameras at 8 x 8
    assert torch.equal(masks[2], masks[2].permute(1, 0, 3, 2))  # cameras alike: who asks does not matter


def test_views_in_another_order_and_cameras_moved_together_have_the_same_mask():
    cameras = orbit([10, 95, 200, 300], [15, -5, 40, 0], [3, 2.5, 4, 3], [40, 50, 30, 40], 8, 6)
    tau = 1.5 * pixel_at_origin(cameras)
    mask = epipolar_mask(cameras, tau)
    order = torch.tensor([2, 0, 3, 1])
    assert torch.equal(epipolar_mask(cameras.take(order, 4), tau[order]), mask[order][:, order])
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)))[0]
    motion = torch.eye(4)
    motion[:3, :3], motion[:3, 3] = rotation * rotation.det(), torch.tensor([1.0, -2.0, 0.5])
    moved = replace(cameras, camera_to_world=motion @ cameras.camera_to_world)
    assert (epipolar_mask(moved, tau) != mask).sum() <= 2  # at tau itself, rounding decides
    assert not torch.equal(pluecker(rays_of(moved)), pluecker(rays_of(cameras)))


def test_parallel_rays_lie_side_by_side_where_both_go():
    ahead, aside = torch.tensor([1.0, 0, 0]), torch.tensor([0, 0.3, 0.4])
    for forward, direction, expected in (
        (2.0, ahead, True),  # the same way: from the one that is in front on
        (-2.0, ahead, True),
        (2.0, -ahead, True),  # towards each other
        (-2.0, -ahead, False),  # away from each other
    ):
        origin = torch.tensor([forward, 0, 0]) + aside
        distance, in_front = ray_distance(torch.zeros(3), ahead, origin, direction)
        assert distance == pytest.approx(0.5) and bool(in_front) is expected
    opposite = orbit([0, 180], 0, 3, 40, 8)  # each ray has one of the other view that is parallel to it
    mask = epipolar_mask(opposite, 10.0)[0, 1].view(8, 8, 8, 8)
    assert all(mask[row, column, 7 - row, column] for row in range(8) for column in range(8))


def test_a_fetched_colour_is_the_true_one_where_both_views_see_the_point():
    """A sphere of radius 0.8 whose colour is a smooth function of the place, drawn by its closed form."""
    cameras = orbit([0, 40], [15, 5], [2.8, 3.2], [40, 36], 96, 80, num_views=2)
    rays = rays_of(cameras)
    origins, directions = rays.origins.view(2, -1, 3), rays.directions.view(2, -1, 3)
    along = (origins * directions).sum(-1)
    inside_root = along.square() - origins.square().sum(-1) + 0.8**2
    hit = inside_root > 0
    depths = -along - inside_root.clamp(min=0).sqrt()

    def colour(point):
        return 0.5 + 0.5 * torch.sin(2 * point + torch.tensor([0.0, 1.0, 2.0]))

    pictures = colour(origins + depths[..., None] * directions) * hit[..., None]
    found = ray_points(cameras, depths[..., None])
    for of, by in ((0, 1), (1, 0)):
        point = found.points[0, of, :, 0]
        true = colour(point)
        towards = normalize(cameras.camera_to_world[by, :3, 3] - point, dim=-1)
        seen = hit[of] & ((normalize(point, dim=-1) * towards).sum(-1) > 0.3) & found.visible[0, by, of, :, 0]
        assert seen.sum() > 500
        fetched = fetch(pictures[by].mT.reshape(1, 3, 96, 80), found.pixels[0, by, of].transpose(0, 1))[0].mT
        assert (fetched - true)[seen].abs().max() < 0.01
        shifted = fetch(pictures[by].mT.reshape(1, 3, 96, 80), found.pixels[0, by, of].transpose(0, 1) + 1)[0].mT
        assert (shifted - true)[seen].abs().max() > 0.02  # a pixel makes a difference


def test_a_level_is_made_from_the_cameras_once_and_told_again_to_more_objects():
    sets = Cameras.joined([FOUR, orbit([20, 110, 200, 290], -5, 4, 30, 8, num_views=4)])
    geometry = ViewGeometry(replace(sets, height=64, width=64), 4, 16, (12, 10))
    level = geometry.level(30)
    assert level is geometry.level(30) and level.mask is level.mask and level.size == (6, 5)
    assert geometry.level(9).size == (3, 3)
    assert level.mask.shape == (4, 120, 120) and level.rays.shape == (16, 30, 6)
    for i in range(4):
        cameras = replace(sets[4 * (i % 2) : 4 * (i % 2) + 4], height=6, width=5)
        expected = epipolar_mask(cameras, 1.5 * pixel_at_origin(cameras))
        assert torch.equal(level.mask[i].view(4, 30, 4, 30).transpose(1, 2), expected)
        assert torch.equal(level.rays[4 * i : 4 * i + 4], pluecker(rays_of(cameras)).view(4, 30, 6))
        alone = ray_points(cameras, sample_depths(cameras, 8))
        torch.testing.assert_close(level.samples.pixels[i], alone.pixels[0])
        assert torch.equal(level.samples.visible[i], alone.visible[0])
    with torch.autocast("cpu", torch.bfloat16):  # whose axes would have three digits
        again = ViewGeometry(replace(sets, height=64, width=64), 4, 16, (12, 10)).level(30)
        assert torch.equal(again.mask, level.mask) and torch.equal(again.rays, level.rays)
        assert torch.equal(again.samples.pixels, level.samples.pixels)
    for views, count in ((3, 8), (4, 12)):
        with pytest.raises(ValueError, match="8 cameras cannot be told"):
            ViewGeometry(sets, views, count, (12, 10))
