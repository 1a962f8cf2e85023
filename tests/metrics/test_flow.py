"""The flow of a ball by trigonometry, what hides by geometry, and errors that were put in."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_erosion

from threedgen.cameras import orbit, rays_of
from threedgen.data.miniworld import build, parse, render
from threedgen.metrics.flow import Flow, flow_around, warped_error

COUNT, SIZE, DISTANCE, FOV = 24, 33, 2.5, 40.0  # an odd size: the middle row lies in the plane of the orbit
CAMERAS = orbit(np.arange(COUNT) * 360 / COUNT, 0.0, DISTANCE, FOV, SIZE, num_views=COUNT)
RADIUS = 0.7


def hit(cameras, center, radius):
    """Distance along each ray to a ball [B, H, W, 1], inf where it is missed."""
    rays = rays_of(cameras)
    origins, directions = rays.origins.double().numpy() - center, rays.directions.double().numpy()
    b = (origins * directions).sum(1)
    inside = b**2 - (origins**2).sum(1) + radius**2
    t = np.where(inside > 0, -b - np.sqrt(np.maximum(inside, 0)), np.inf)
    return t.reshape(len(cameras), cameras.height, cameras.width, 1)


def surface(*balls, cameras=CAMERAS):
    """Depth and opacity of balls (center, radius), and the points [B, H, W, 3]."""
    t = np.min([hit(cameras, np.array(center), radius) for center, radius in balls], 0)
    opacity, depth = np.isfinite(t).astype(float), np.where(np.isfinite(t), t, 0)
    rays = rays_of(cameras)
    shape = (*depth.shape[:3], 3)
    return depth, opacity, (rays.origins.numpy().reshape(shape) + depth * rays.directions.numpy().reshape(shape))


BALL = surface(((0, 0, 0), RADIUS))


@pytest.mark.parametrize("distance", [1, 3, 23])
def test_the_flow_of_a_ball_by_trigonometry(distance):
    flow = flow_around(CAMERAS, *BALL[:2], distance)
    focal, turn = 0.5 * SIZE / math.tan(math.radians(FOV / 2)), math.radians(15 * distance)
    view, row, checked = 5, SIZE // 2, 0
    for column in range(SIZE):
        if not flow.silhouette[view, row, column]:
            continue
        off_axis = math.atan((column + 0.5 - SIZE / 2) / focal)
        # law of sines in the triangle of camera, centre and surface point: the longitude that the pixel shows
        longitude = math.asin(DISTANCE * math.sin(off_axis) / RADIUS) - off_axis - turn
        there = math.atan2(RADIUS * math.sin(longitude), DISTANCE - RADIUS * math.cos(longitude))
        expected = SIZE / 2 + focal * math.tan(there)
        assert flow.pixels[view, row, column].tolist() == pytest.approx([expected, SIZE / 2], abs=1e-3)
        beyond = abs(math.remainder(longitude, math.tau)) - math.acos(RADIUS / DISTANCE)  # the horizon
        if not -0.55 < beyond < 0.35:  # neither lost at the rim, nor just behind the horizon, within the tolerance
            assert bool(flow.visible[view, row, column]) == (beyond < 0)
            checked += 1
    assert checked >= 10 and flow.other[view] == (view + distance) % COUNT


def test_what_hides_behind_something_is_not_compared():
    """A point is hidden where the way to the other camera goes through a ball, more than a pixel inside its outline and
    far in front of the point."""
    big, small = ((0, 0, 0), 0.35), ((0.75, 0, 0), 0.15)
    depth, opacity, points = surface(big, small)
    flow = flow_around(CAMERAS, depth, opacity, 1)
    eyes = CAMERAS.camera_to_world[flow.other, :3, 3].double().numpy()[:, None, None]
    reach = np.linalg.norm(points - eyes, axis=-1)
    hidden, shadowed = np.zeros(reach.shape, bool), np.zeros(reach.shape, bool)
    for center, radius in (big, small):
        along = ((eyes - center) * (points - eyes)).sum(-1) / reach
        passing = along**2 - ((eyes - np.array(center)) ** 2).sum(-1)  # minus the squared distance from the centre
        entry = -along - np.sqrt(np.maximum(passing + radius**2, 0))
        hidden |= (passing + (radius - 0.05) ** 2 > 0) & (entry < reach - 0.15)
        shadowed |= (passing + (radius + 0.05) ** 2 > 0) & (entry < reach - 0.02)
    visible, silhouette = flow.visible.numpy(), flow.silhouette.numpy()
    assert (hidden & silhouette).sum() > 20 and not (hidden & visible).any()
    assert visible.sum() > 0.6 * (silhouette & ~shadowed).sum()  # the rims of the small balls are lost


def test_silhouettes_lose_one_pixel_all_around():
    cat = views_of("a red cat")
    flow = flow_around(CAMERAS, cat.depth, cat.opacity, 1)
    for own, opacity in zip(flow.silhouette.numpy(), cat.opacity[..., 0], strict=True):
        assert (own == binary_erosion(opacity > 0.5, np.ones((3, 3)), border_value=1)).all()


@pytest.mark.parametrize("distance", [1, 6])
def test_a_colour_of_each_views_own_is_the_error(distance):
    depth, opacity, _ = surface(((0, 0, 0), RADIUS), ((0.3, 0.3, 0.5), 0.3))
    colors = np.random.default_rng(0).random((COUNT, 1, 1, 3))
    flow = flow_around(CAMERAS, depth, opacity, distance)
    found = warped_error(np.broadcast_to(colors, (COUNT, SIZE, SIZE, 3)), flow)
    each = flow.visible.numpy().sum((1, 2))
    squared = ((colors - np.roll(colors, -distance, 0)) ** 2).mean((1, 2, 3))
    assert found.rmse == pytest.approx(math.sqrt((each * squared).sum() / each.sum()), rel=1e-5)
    assert found.coverage == pytest.approx(each.sum() / flow.silhouette.sum().item())
    assert warped_error(torch.full((COUNT, SIZE, SIZE, 3), 0.3), flow).rmse == pytest.approx(0, abs=1e-6)


def test_a_texture_moves_with_the_flow_and_a_shift_adds_to_it():
    depth, opacity, points = BALL
    texture = 0.5 + 0.4 * np.sin(3 * points) * opacity
    flow = flow_around(CAMERAS, depth, opacity, 1)
    floor = warped_error(texture, flow).rmse
    assert floor < 0.01  # of bilinear sampling
    shift = 0.1 * (-1.0) ** np.arange(COUNT)[:, None, None, None]
    assert warped_error(texture + shift, flow).rmse == pytest.approx(math.hypot(floor, 0.2), abs=2e-3)
    assert warped_error(np.roll(texture, 1, 2), flow).rmse > 5 * floor
    assert warped_error(np.repeat(texture[:1], COUNT, 0), flow).rmse > 5 * floor


def test_sampling_against_loops():
    random = np.random.default_rng(1)
    images, pixels = random.random((2, 6, 7, 3)), 1 + random.random((2, 6, 7, 2)) * [4.9, 3.9]
    visible = random.random((2, 6, 7)) < 0.5
    flow = Flow(torch.tensor([1, 0]), torch.tensor(pixels).float(), torch.tensor(visible), torch.ones(2, 6, 7).bool())
    squares = []
    for b, row, column in np.argwhere(visible):
        x, y = pixels[b, row, column] - 0.5
        left, top = int(x), int(y)
        u, v = x - left, y - top
        corners = images[1 - b, top : top + 2, left : left + 2]
        there = (corners * np.outer([1 - v, v], [1 - u, u])[..., None]).sum((0, 1))
        squares.append((there - images[b, row, column]) ** 2)
    found = warped_error(images, flow)
    assert found.rmse == pytest.approx(math.sqrt(np.mean(squares)), rel=1e-5)
    assert found.coverage == pytest.approx(visible.mean())


def test_opposite_sides_share_nothing():
    flow = flow_around(CAMERAS, *BALL[:2], 12)
    found = warped_error(np.zeros((COUNT, SIZE, SIZE, 3)), flow)
    assert math.isnan(found.rmse) and found.coverage == 0


def views_of(caption):
    return render(build(parse(caption)), CAMERAS.camera_to_world.numpy(), CAMERAS.fov_y.numpy(), SIZE)


def test_true_views_agree_and_frozen_ones_do_not():
    cat = views_of("a red cat with a green face")
    near, far = (flow_around(CAMERAS, cat.depth, cat.opacity, distance) for distance in (1, 6))
    frozen = np.repeat(cat.rgb[:1], COUNT, 0)
    assert warped_error(cat.rgb, near).rmse < 0.03 < 0.1 < warped_error(frozen, near).rmse
    assert warped_error(cat.rgb, far).rmse < 0.06 < 0.15 < warped_error(frozen, far).rmse
    assert warped_error(cat.rgb, near).coverage > 0.55 > 0.3 > warped_error(cat.rgb, far).coverage > 0.01


@pytest.mark.parametrize("distance", [0, 24, -1])
def test_there_is_no_such_distance(distance):
    with pytest.raises(ValueError, match="a ring of 24 views has none at distance"):
        flow_around(CAMERAS, *BALL[:2], distance)
