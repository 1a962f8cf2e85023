import math

import numpy as np
import pytest
import torch
import trimesh
from scipy.spatial import ConvexHull

from threedgen.config.export import ExportConfig
from threedgen.core.errors import EmptyMeshError
from threedgen.mesh.isosurface import _depths_along_diagonals, choose_threshold, extract_isosurface


def as_trimesh(vertices, faces):
    return trimesh.Trimesh(vertices, faces, process=False)


def test_a_ball_has_its_volume_and_faces_outwards(analytic):
    surface = as_trimesh(*extract_isosurface(analytic.Field(analytic.ball()), 64))
    assert surface.is_watertight
    assert surface.volume == pytest.approx(4 / 3 * math.pi * 0.4**3, rel=0.02)  # positive: counter-clockwise outside
    assert np.abs(np.linalg.norm(surface.vertices, axis=1) - 0.4).max() < 0.01  # 0.8 of a cell


def test_a_small_object_off_centre_gets_the_whole_grid(analytic):
    center, radius = np.array([0.5, -0.6, 0.3]), 0.15
    field = analytic.Field(analytic.ball(tuple(center), radius, softness=0.003))
    surface = as_trimesh(*extract_isosurface(field, 64, threshold=100.0))
    assert len(surface.faces) > 10_000  # a grid of 64 cells over the whole cube would give a sixteenth
    assert np.abs(np.linalg.norm(surface.vertices - center, axis=1) - radius).max() < 0.003


def test_the_shorter_edges_of_the_box_have_cells_of_the_same_size(analytic):
    lengths = torch.tensor([0.8, 0.2, 0.4])
    field = analytic.Field(lambda p: 200 * torch.sigmoid((1 - (p / lengths).norm(dim=-1)) / 0.02))
    surface = as_trimesh(*extract_isosurface(field, 80, threshold=100.0))
    assert surface.bounds[1] == pytest.approx(lengths.numpy(), abs=0.01)
    assert surface.volume == pytest.approx(4 / 3 * math.pi * 0.8 * 0.2 * 0.4, rel=0.04)


def test_a_surface_that_leaves_the_cube_is_closed_at_its_side(analytic):
    field = analytic.Field(lambda p: 50.0 * (p[:, 2] < 0.0) + 1e-3, radius=0.5)
    surface = as_trimesh(*extract_isosurface(field, 32, threshold=5.0))
    assert surface.is_watertight
    assert surface.volume == pytest.approx(1.0 * 1.0 * 0.5, rel=0.1)
    assert np.abs(surface.vertices).max() < 0.52


def test_the_chosen_surface_has_the_silhouette_of_the_fog(analytic):
    """Fog has no surface of its own: the radius of the half-opaque image is known in closed form."""
    vertices, _ = extract_isosurface(analytic.Field(analytic.fog()), 96)
    radius = np.linalg.norm(vertices, axis=1)
    assert radius.mean() == pytest.approx(analytic.half_opaque_radius(), rel=0.03)


@pytest.mark.parametrize("looking", [(1.0, 0.6, 0.4), (0.3, 1.0, 0.5)])
def test_a_soft_box_has_its_silhouettes_from_aslant(analytic, looking):
    """Silhouettes along the axes, where rays run along its sides, would make it a fifth larger."""
    half = torch.tensor([0.45, 0.35, 0.25])

    def density(p):
        return 30.0 * torch.sigmoid(-(p.abs() - half).amax(-1) / 0.02)

    vertices, _ = extract_isosurface(analytic.Field(density), 96)
    away = np.array(looking) / np.linalg.norm(looking)
    across = np.linalg.svd(away[None])[2][1:]  # two directions of the picture
    x, y, t = torch.meshgrid(*[torch.linspace(-0.8, 0.8, 128)] * 3, indexing="ij")
    axes = torch.from_numpy(np.stack([*across, away])).float()
    depth = density(torch.stack([x, y, t], -1).reshape(-1, 3) @ axes).view(128, 128, 128).sum(-1) * 1.6 / 127
    true_area = (depth > math.log(2)).sum().item() * (1.6 / 127) ** 2
    assert ConvexHull(vertices @ across.T).volume == pytest.approx(true_area, rel=0.04)  # in a plane: its area


def test_what_is_thin_keeps_its_size(analytic):
    """A slanting rod of four cells across: the blur against grain alone would take an eighth of its width."""
    radius, half_length = 0.04, 0.6
    axis = torch.nn.functional.normalize(torch.tensor([0.9, 0.35, 0.25]), dim=0)

    def density(p):
        along = p @ axis
        beside = (p - along[:, None] * axis).norm(dim=-1) - radius
        return 300 * torch.sigmoid(-torch.maximum(beside, along.abs() - half_length) / 2e-4)

    vertices, _ = extract_isosurface(analytic.Field(density), 60)
    along = vertices @ axis.numpy()
    beside = np.linalg.norm(vertices - along[:, None] * axis.numpy(), axis=1)
    assert beside[np.abs(along) < 0.4].mean() == pytest.approx(radius, rel=0.07)
    assert along.max() == pytest.approx(half_length, abs=0.01)


def test_the_chosen_threshold_of_a_hard_object_lies_between_inside_and_outside():
    density = np.full((32, 32, 32), 0.2, np.float32)
    density[10:20, 8:24, 12:18] = 300.0
    assert 5 < choose_threshold(density, cell=0.05, lowest=0.35, haze=0.35) < 150


def test_thin_fog_in_front_of_an_object_is_left_out(analytic):
    """An opaque ball in a cube of haze: on an axis the haze hides 40 %, the surface must be the ball's."""
    solid = analytic.ball()
    vertices, _ = extract_isosurface(analytic.Field(lambda p: torch.maximum(solid(p), torch.tensor(0.25))), 64)
    assert np.linalg.norm(vertices, axis=1).mean() == pytest.approx(0.4, rel=0.03)


def test_haze_that_hides_a_small_object_along_a_diagonal_is_left_out(analytic):
    """Along a whole diagonal of the cube 0.33 hide two thirds: the ball's surface is what it is without them."""
    solid = analytic.ball(radius=0.2, softness=0.01)  # softly: any threshold would do for a hard one
    hazy = analytic.Field(lambda p: torch.maximum(solid(p), torch.tensor(0.33)))
    radii = [np.linalg.norm(extract_isosurface(field, 64)[0], axis=1).mean() for field in (analytic.Field(solid), hazy)]
    assert radii[1] == pytest.approx(radii[0], rel=0.02)


def test_the_given_threshold_is_used(analytic):
    peak, sigma, threshold = 12.0, 0.25, 3.0
    vertices, _ = extract_isosurface(analytic.Field(analytic.fog(peak, sigma)), 64, threshold)
    expected = sigma * math.sqrt(2 * math.log(peak / threshold))
    assert np.linalg.norm(vertices, axis=1) == pytest.approx(expected, abs=0.005)


def test_floaters_go_and_second_objects_stay(analytic):
    balls = [analytic.ball((-0.4, 0.0, 0.0), 0.3), analytic.ball((0.5, 0, 0), 0.2), analytic.ball((0, 0.6, 0.6), 0.02)]
    field = analytic.Field(lambda p: torch.stack([ball(p) for ball in balls]).amax(0))
    surface = as_trimesh(*extract_isosurface(field, 96))
    assert surface.body_count == 2
    assert surface.volume == pytest.approx(4 / 3 * math.pi * (0.3**3 + 0.2**3), rel=0.02)


def test_what_nobody_sees_is_filled(analytic):
    """A hollow ball, and a bent shaft from outside to its hollow, wider than five cells: no straight look gets in."""
    outer, inner = analytic.ball(radius=0.5), analytic.ball(radius=0.25)

    def density(p):
        x, y, z = p.unbind(1)
        shaft = ((x - 0.1 * torch.sin(12 * z)).abs() < 0.045) & (y.abs() < 0.045) & (z > 0.2)
        return (outer(p) - inner(p)).clamp_min(0.01).where(~shaft, torch.tensor(0.01))

    surface = as_trimesh(*extract_isosurface(analytic.Field(density), 64))
    assert surface.body_count == 1
    assert surface.volume == pytest.approx(4 / 3 * math.pi * 0.5**3, rel=0.03)


@pytest.mark.parametrize(
    ("axis", "lid", "is_filled"),
    [
        *((axis, lid, lid == 1.0) for axis in range(3) for lid in (0.0, 0.05, 1.0)),
        (2, 0.3, True),  # at a side it would be seen from around
    ],
)
def test_a_box_is_filled_under_a_thin_lid_and_not_where_it_is_open(analytic, axis, lid, is_filled):
    """lid: its optical depth straight on. Of a box of edge 1 the hollow is 0.216, what is above it 0.072."""

    def density(p):
        across = torch.cat([p[:, :axis], p[:, axis + 1 :]], 1).abs().amax(1)
        walls = torch.where((across < 0.3) & (p[:, axis].abs() < 0.3), 0.0, 60.0)
        box = torch.where((across < 0.3) & (p[:, axis] > 0.3), lid / 0.2, walls)
        return torch.where(p.abs().amax(1) < 0.5, box, 0.0)

    surface = as_trimesh(*extract_isosurface(analytic.Field(density), 64))
    assert surface.is_watertight and surface.body_count == 1
    assert surface.volume > 0.92 if is_filled else 0.69 < surface.volume < 0.78


def test_depths_along_diagonals_are_those_of_a_slow_loop():
    depth = np.random.default_rng(0).random((5, 6, 3)).astype(np.float32)
    found = list(_depths_along_diagonals(depth))
    for (step_x, step_y), before in zip([(1, 1), (1, -1), (-1, 1), (-1, -1)], found, strict=True):
        for x, y in np.ndindex(5, 6):
            behind = [(x - k * step_x, y - k * step_y) for k in range(1, 6)]
            expected = sum(depth[a, b] * math.sqrt(2) for a, b in behind if 0 <= a < 5 and 0 <= b < 6)
            assert before[x, y] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("turn", [1, -1])
@pytest.mark.parametrize("is_closed", [False, True])
def test_what_is_under_a_thin_lid_stays_open_if_it_is_seen_from_around(analytic, turn, is_closed):
    """A box of edge 1 with a trench along a diagonal of its upper half, below thin fog: 0.175 of the box."""

    def density(p):
        x, y, z = p.unbind(1)
        trench = ((x - turn * y).abs() < 0.25) & (z > 0.0)
        if is_closed:
            trench &= torch.maximum(x.abs(), y.abs()) < 0.4
        box = torch.where(trench, torch.where(z > 0.4, 5.0, 0.0), 60.0)
        return torch.where(p.abs().amax(1) < 0.5, box, 0.0)

    surface = as_trimesh(*extract_isosurface(analytic.Field(density), 64))
    assert surface.volume > 0.95 if is_closed else 0.8 < surface.volume < 0.9


@pytest.mark.parametrize(
    ("density", "threshold", "words"),
    [
        (0.0, 0.0, "largest density 0)"),
        (0.01, 0.0, "largest density 0.01"),
        (0.3, 0.0, "export.threshold"),
        (5.0, 7.0, "largest density 5)"),
    ],
)
def test_an_empty_scene_is_refused_with_its_density(analytic, density, threshold, words):
    field = analytic.Field(lambda p: torch.full((len(p),), density))
    with pytest.raises(EmptyMeshError, match=r"largest density") as caught:
        analytic.extract_mesh(field, ExportConfig(resolution=16, threshold=threshold, texture_size=16))
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert caught.value.exit_status == 4


def test_a_surface_smaller_than_a_cell_is_refused(analytic):
    field = analytic.Field(analytic.ball(radius=0.002, inside=1e4))
    with pytest.raises(EmptyMeshError, match="smaller than a grid cell"):
        extract_isosurface(field, 8, threshold=100.0)


class DistanceField:
    """distance(positions [N, 3]) -> [N]; its density is of no use, so that nothing can lean on it."""

    def __init__(self, distance, radius=1.0):
        self.signed_distance, self.radius = distance, radius

    def field(self, positions):
        raise AssertionError("the surface of a distance asks for no density")


def test_the_surface_of_a_distance_is_where_it_is_0():
    """A ball of a true distance, off the centre: far below a cell off, and smooth. A hollow in it is filled."""
    middle, radius = torch.tensor([0.3, -0.2, 0.1]), 0.45
    outside = lambda p: (p - middle).norm(dim=-1) - radius  # noqa: E731
    hollow = lambda p: torch.maximum(outside(p), 0.2 - (p - middle).norm(dim=-1))  # noqa: E731
    for distance in (outside, hollow):
        surface = as_trimesh(*extract_isosurface(DistanceField(distance), 48, threshold=0.0))
        assert surface.is_watertight and surface.volume == pytest.approx(4 / 3 * math.pi * radius**3, rel=0.004)
        off = np.linalg.norm(surface.vertices - middle.numpy(), axis=1) - radius
        assert np.abs(off).max() < 0.02 * (2 * radius / 48)
        outward = surface.triangles_center - middle.numpy()
        cosine = (surface.face_normals * outward).sum(1) / np.linalg.norm(outward, axis=1)
        assert np.degrees(np.arccos(cosine.min())) < 4.0


def test_what_of_a_distance_is_thinner_than_a_coarse_cell_is_found():
    """A plate of a third of a coarse cell that lies between its samples, and a half space that leaves the cube."""
    plate = DistanceField(lambda p: torch.maximum((p[:, 2] - 0.0156).abs() - 0.005, p[:, :2].abs().amax(1) - 0.2))
    surface = as_trimesh(*extract_isosurface(plate, 128))
    assert surface.is_watertight and surface.volume == pytest.approx(0.4 * 0.4 * 0.01, rel=0.05)
    surface = as_trimesh(*extract_isosurface(DistanceField(lambda p: p[:, 2], radius=0.5), 32))
    assert surface.is_watertight and surface.volume == pytest.approx(0.5, rel=0.1)
    assert np.abs(surface.vertices).max() < 0.52


@pytest.mark.parametrize("least, words", [(0.5, "smallest 0.5"), (0.001, "smallest 0.001"), (math.nan, "not a number")])
def test_a_distance_without_an_inside_is_refused(least, words):
    with pytest.raises(EmptyMeshError, match=words) as caught:
        extract_isosurface(DistanceField(lambda p: torch.full((len(p),), least)), 16)
    assert "\n" not in str(caught.value)


def test_an_inside_of_a_single_point_is_refused():
    """So little below 0 in one sample that in the numbers of files the surface around it is a point."""
    point = torch.full((3,), 0.3125)  # of the coarse grid, and of a fine one of 8 cells around it
    outside = lambda p: torch.where((p - point).norm(dim=-1) < 0.01, -1e-9, 1.0)  # noqa: E731
    with pytest.raises(EmptyMeshError, match="is a point"):
        extract_isosurface(DistanceField(outside), 8)


def test_a_broken_scene_is_refused(analytic):
    field = analytic.Field(lambda p: torch.full((len(p),), math.nan))
    with pytest.raises(EmptyMeshError, match="not a number"):
        analytic.extract_mesh(field, ExportConfig(resolution=16, texture_size=16))
