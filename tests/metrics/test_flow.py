"""The flow of a ball by trigonometry, what hides by geometry, and errors that were put in."""

import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_erosion

from threedgen.cameras import orbit, rays_of
from threedgen.core.errors import ConfigError, ThreedgenError
from threedgen.data.miniworld import build, parse, render
from threedgen.metrics.flow import Flow, flow_around, flow_seen, warped_error
from threedgen.metrics.raft import flow_by, raft_flow

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
        flow_seen(np.zeros((24, 8, 8, 3)), lambda images, others: None, distance)


ROW = 7  # where a patch of 9 x 9 begins in pictures of 24 x 32
COLUMNS = [4, 9, 20, 12]


def patches(columns=COLUMNS):
    """Views of one bright texture on grey, somewhere else in each."""
    views = np.full((len(columns), 24, 32, 3), 0.5, np.float32)
    texture = np.random.default_rng(0).uniform(0.7, 1.0, (9, 9, 3))
    for view, column in zip(views, columns, strict=True):
        view[ROW : ROW + 9, column : column + 9] = texture[:, : 32 - column]
    return views


def follows_the_patch(images, others):
    """The true flow: one for the whole picture, by where the texture is."""

    def column(pictures):
        return ((pictures - 0.5).abs().amax((1, 2)) > 0).float().argmax(1)

    flow = torch.zeros(len(images), 2, *images.shape[-2:])
    flow[:, 0] = (column(others) - column(images))[:, None, None]
    return flow


@pytest.mark.parametrize("distance", [1, 3])
def test_what_moved_is_followed(distance):
    views = patches()
    flow = flow_seen(views, follows_the_patch, distance)
    inner = np.zeros((4, 24, 32), bool)
    for view, column in zip(inner, COLUMNS, strict=True):
        view[ROW + 1 : ROW + 8, column + 1 : column + 8] = True  # the patch without its rim
    assert np.array_equal(flow.silhouette, inner) and np.array_equal(flow.visible, inner)
    assert flow.other.tolist() == [(i + distance) % 4 for i in range(4)]
    found = warped_error(views, flow)
    assert found.rmse == pytest.approx(0, abs=1e-6) and found.coverage == 1
    brighter = views + np.array([0, 0.06, 0, 0])[:, None, None, None]  # its border too: the patch stays the patch
    assert warped_error(brighter, flow).rmse == pytest.approx(0.06 * math.sqrt(2 / 4), abs=1e-6)


@pytest.mark.parametrize(
    ("there", "back", "leads_back"),
    [  # squared ways: what they miss each other by, and what is allowed
        ((0.2, 0.2), (0.2, 0.2), True),  # 0.32 < 0.5
        ((0.3, 0.3), (0.3, 0.3), False),  # 0.72 > 0.5
        ((10, 0), (-8.6, 0), True),  # 1.96 < 0.5 + 0.01 (100 + 73.96)
        ((10, 0), (-8.4, 0), False),  # 2.56 > 0.5 + 0.01 (100 + 70.56)
    ],
)
def test_only_what_leads_back_is_compared(there, back, leads_back):
    ways = iter((there, back))

    def estimate(images, others):
        return torch.tensor(next(ways))[:, None, None].expand(2, 2, 24, 32).float()

    flow = flow_seen(patches([10, 10]), estimate, 1)
    assert torch.equal(flow.visible, flow.silhouette & leads_back) and flow.silhouette.any()


def test_what_leaves_the_picture_is_not_compared():
    flow = flow_seen(patches([12, 26]), follows_the_patch, 1)  # of the second patch only six columns are there
    seen = flow.visible[0].any(0).nonzero().flatten().tolist()
    assert seen == list(range(13, 18)) and flow.silhouette[0].any(0).sum() == 7
    ways = iter((0.6, -0.6))  # so small that no way back would tell
    flow = flow_seen(
        patches([26, 26]), lambda a, b: next(ways) * torch.tensor([1.0, 0])[:, None, None].expand(2, 2, 24, 32), 1
    )
    assert flow.silhouette[0].any(0).nonzero().flatten().tolist() == list(range(27, 32))
    assert flow.visible[0].any(0).nonzero().flatten().tolist() == list(range(27, 31))


def test_a_network_is_asked_for_larger_pictures_and_answers_for_small_ones():
    asked = []

    def network(images, others):
        asked.append((tuple(images.shape), float(images.min()), float(others.max())))
        flow = torch.zeros(1, 2, *images.shape[-2:])
        flow[:, 0], flow[:, 1] = images.shape[-1] / 8, images.shape[-2] / 4  # an eighth to the right, a quarter down
        return [torch.full_like(flow, 99), flow]  # the last answer counts

    estimate = flow_by(network)
    found = estimate(torch.zeros(2, 3, 40, 64), torch.ones(2, 3, 40, 64))
    assert found.shape == (2, 2, 40, 64)
    assert torch.allclose(found[:, 0], torch.tensor(8.0)) and torch.allclose(found[:, 1], torch.tensor(10.0))
    assert asked == [((1, 3, 256, 416), -1.0, 1.0)] * 2  # 409.6 is no multiple of 8
    asked.clear()
    found = estimate(torch.zeros(1, 3, 300, 304), torch.ones(1, 3, 300, 304))
    assert asked[0][0] == (1, 3, 304, 304) and float(found[0, 1, 0, 0]) == pytest.approx(75)


def test_raft_is_not_there(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"none\.pth is not there"):
        raft_flow(tmp_path / "none.pth")
    file = tmp_path / "raft.pth"
    torch.save({"a": torch.zeros(1)}, file)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(ConfigError, match="RAFT is torchvision's, which is not here or does not go with torch"):
        raft_flow(file)


def test_raft_is_what_torchvision_builds_of_the_file(tmp_path, monkeypatch):
    """Torchvision stands beside few builds of torch for a CPU, so a module stands for it."""

    class Still(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.way = torch.nn.Parameter(torch.zeros(2))

        def forward(self, images, others):
            return [self.way[None, :, None, None].expand(len(images), 2, *images.shape[-2:])]

    stand_in = SimpleNamespace(raft_large=lambda weights, progress: Still())
    for name in ("torchvision", "torchvision.models"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace())
    monkeypatch.setitem(sys.modules, "torchvision.models.optical_flow", stand_in)
    torch.save({"way": torch.tensor([4.0, -8.0])}, tmp_path / "raft.pth")
    found = raft_flow(tmp_path / "raft.pth")(torch.rand(1, 3, 64, 64), torch.rand(1, 3, 64, 64))
    assert found[0, :, 5, 6].tolist() == pytest.approx([1, -2])
    torch.save({"way": torch.zeros(3)}, tmp_path / "raft.pth")
    with pytest.raises(ThreedgenError, match=r"1 key of another shape \(way"):
        raft_flow(tmp_path / "raft.pth")
