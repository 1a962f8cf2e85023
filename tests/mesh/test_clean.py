import numpy as np
import pytest
import trimesh

from threedgen.mesh.clean import is_closed, keep_large_components, merge_by_position, separate_sheets, simplify, smooth


def test_faces_are_closed_only_if_every_edge_has_two():
    box = trimesh.creation.box()
    assert is_closed(box.faces)
    assert not is_closed(box.faces[1:])
    assert not is_closed(np.concatenate([box.faces[1:], box.faces[:1, ::-1]]))
    assert not is_closed(np.concatenate([box.faces, box.faces]))


def test_components_are_measured_against_the_largest():
    large, small = trimesh.creation.icosphere(4), trimesh.creation.icosphere(1)  # 5120 and 80 faces
    tiny = trimesh.creation.box()  # 12
    vertices = np.concatenate([small.vertices, large.vertices, tiny.vertices])
    faces = np.concatenate([small.faces, large.faces + 42, tiny.faces + 42 + len(large.vertices)])
    kept_vertices, kept_faces = keep_large_components(vertices, faces)
    assert len(kept_faces) == 5120 + 80
    assert np.array_equal(kept_vertices[kept_faces], vertices[faces[:5200]])


def lumpy_tori():
    """A closed surface of 30 000 faces with noise and 10 handles: simplifying it tears."""
    random = np.random.default_rng(0)
    tori = [trimesh.creation.torus(0.4, 0.01 + 0.004 * i, major_sections=60, minor_sections=25) for i in range(10)]
    for i, torus in enumerate(tori):
        torus.vertices += random.normal(scale=0.003, size=torus.vertices.shape) + np.array([0, 0, 0.3 * i])
    return trimesh.util.concatenate(tori)


def test_simplified_surfaces_stay_closed_and_in_place():
    mesh = lumpy_tori()
    assert is_closed(mesh.faces)
    for target in (4000, 8000):
        vertices, faces = simplify(mesh.vertices, mesh.faces, target)
        assert 0.9 * target < len(faces) < 1.8 * target
        assert trimesh.Trimesh(vertices, faces, process=True).is_watertight  # after merging by position
    assert trimesh.Trimesh(vertices, faces).volume == pytest.approx(mesh.volume, rel=0.04)
    assert simplify(vertices, faces, len(faces))[1] is faces


@pytest.mark.parametrize("target", [1, 2, 3, 5])
def test_the_fewest_faces_that_are_left_are_a_solid(target):
    ball = trimesh.creation.icosphere(3)
    vertices, faces = simplify(ball.vertices, ball.faces, target)
    assert is_closed(faces) and 4 <= len(faces) <= 8
    assert trimesh.Trimesh(vertices, faces).volume > 0.1


def test_sheets_that_touch_along_an_edge_are_pulled_apart():
    corners = np.array([[0, 0, 0], [0, 0, 1], [1, 0, 0.5], [1, 1, 0.5], [-1, 0, 0.5], [-1, -1, 0.5]], float)
    one = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])  # two tetrahedra on the edge 0-1
    both = np.concatenate([one, np.where(one > 1, one + 2, one)])
    assert not is_closed(both)
    vertices, faces = separate_sheets(corners, both)
    assert is_closed(faces)
    merged = trimesh.Trimesh(vertices, faces, process=True)
    assert merged.is_watertight and merged.body_count == 2
    assert merged.volume == pytest.approx(trimesh.Trimesh(corners, both).volume, rel=0.05)
    assert (np.abs(merged.bounds) < 1 + 1e-9).all()


def blocks(seed):
    """The surface of random cubes in a grid of 5^3, vertices shared: they touch along edges and in corners a lot."""
    solid = np.pad(np.random.default_rng(seed).random((5, 5, 5)) < 0.5, 1)
    faces = []
    for cell in np.argwhere(solid):
        for axis in range(3):
            for side in (0, 1):
                step = np.eye(3, dtype=int)[axis]
                if not solid[tuple(cell + (2 * side - 1) * step)]:
                    u, v = np.eye(3, dtype=int)[(axis + 1) % 3], np.eye(3, dtype=int)[(axis + 2) % 3]
                    corner = cell + side * step
                    quad = [corner, corner + u, corner + u + v, corner + v][:: 2 * side - 1]
                    faces += [[quad[0], quad[1], quad[2]], [quad[0], quad[2], quad[3]]]
    vertices, index = np.unique(np.array(faces).reshape(-1, 3), axis=0, return_inverse=True)
    return vertices.astype(float), index.reshape(-1, 3), np.count_nonzero(solid)


@pytest.mark.parametrize("seed", range(6))
def test_whatever_touches_itself_becomes_closed_and_keeps_its_volume(seed):
    vertices, faces, volume = blocks(seed)
    assert not is_closed(faces)
    apart, new_faces = separate_sheets(vertices, faces)
    assert is_closed(new_faces)
    again = merge_by_position(apart, new_faces)
    assert is_closed(again[1]) and len(again[1]) == len(new_faces)
    assert trimesh.Trimesh(apart, new_faces, process=False).volume == pytest.approx(volume, rel=0.05)


def test_faces_back_to_back_vanish():
    box = trimesh.creation.box()
    fin = np.array([[0, 1, 8], [1, 0, 8]])  # a flat fin on an edge of the box
    vertices = np.concatenate([box.vertices, [[2.0, 2.0, 2.0]]])
    apart, faces = separate_sheets(vertices, np.concatenate([box.faces, fin]))
    assert is_closed(faces) and len(faces) == 12
    assert np.abs(apart).max() == 0.5


def test_merging_by_position_drops_what_has_no_area_left():
    vertices = np.array([[0, 0, 0], [1, 0, 0], [1e-50, 0, 0], [0, 1, 0]])
    merged, faces = merge_by_position(vertices, np.array([[0, 1, 3], [2, 1, 3], [0, 2, 3]]))
    assert len(merged) == 3 and len(faces) == 2


def test_smoothing_takes_the_grain_and_leaves_size_and_thin_parts():
    """A thin noisy rod: averaging alone would shrink it to a thread."""
    rod = trimesh.creation.capsule(height=2.0, radius=0.1, count=[24, 24])
    rod = rod.subdivide()
    noise = np.random.default_rng(0).normal(scale=0.004, size=len(rod.vertices))
    noisy = rod.vertices + noise[:, None] * rod.vertex_normals
    smoothed = smooth(noisy, rod.faces, 10)

    def roughness(vertices):
        return np.median(np.abs(trimesh.Trimesh(vertices, rod.faces, process=False).face_adjacency_angles))

    assert roughness(smoothed) < 0.6 * roughness(noisy)
    volume = trimesh.Trimesh(smoothed, rod.faces, process=False).volume
    assert volume == pytest.approx(rod.volume, rel=0.03)
    assert smooth(noisy, rod.faces, 0) is noisy


def ellipsoid(subdivisions, center=(0.0, 0.0, 0.0)):
    ball = trimesh.creation.icosphere(subdivisions)
    return trimesh.Trimesh(ball.vertices * [1.5, 1.0, 0.7] + center, ball.faces, process=False)


@pytest.mark.parametrize("iterations", [12, 100, 1000])
def test_few_faces_and_many_iterations_leave_each_part_its_volume_and_place(iterations):
    parts = [ellipsoid(2), ellipsoid(1, (5.0, 0.0, 1.0))]
    both = trimesh.util.concatenate(parts)
    smoothed = smooth(both.vertices, both.faces, iterations)
    for part, after in zip(parts, np.split(smoothed, [len(parts[0].vertices)]), strict=True):
        assert trimesh.Trimesh(after, part.faces, process=False).volume == pytest.approx(part.volume, rel=1e-9)
        assert np.abs(after.mean(0) - part.vertices.mean(0)).max() < 0.05
        assert np.ptp(after, axis=0).max() < 1.1 * 3.0


def test_no_wave_grows():
    """Bumps of a size at which 1000 of Taubin's own steps would double them."""
    ball = trimesh.creation.icosphere(4)
    x, y, z = ball.vertices.T
    bumps = 0.05 * np.cos(7 * np.arctan2(y, x)) * (1 - z**2) ** 3.5  # a spherical harmonic of degree 7
    smoothed = smooth(ball.vertices * (1 + bumps)[:, None], ball.faces, 1000)
    heights = np.linalg.norm(smoothed, axis=1) - 1
    assert abs(heights @ bumps) < 1.02 * (bumps @ bumps)
