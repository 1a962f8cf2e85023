"""Miniworld against itself by other means: pictures against signed distances, distances against sampled surfaces."""

from collections import Counter
from dataclasses import replace
from itertools import islice
from random import Random

import numpy as np
import pytest
from scipy.spatial import cKDTree

from threedgen.cameras import orbit, rays_of
from threedgen.core.errors import ConfigError
from threedgen.data.miniworld import (
    COLORS,
    Spec,
    build,
    draw_training_specs,
    held_out,
    of_kinds,
    parse,
    patterned_specs,
    render,
    training_specs,
    vocabulary,
)
from threedgen.data.miniworld.grammar import BASES, words
from threedgen.data.miniworld.kinds import KINDS
from threedgen.data.miniworld.parts import WORN
from threedgen.data.miniworld.primitives import Primitive, Shape
from threedgen.data.miniworld.textures import MATERIALS, PATTERNS

CAPTIONS = [
    "a red cat with a green face",
    "an orange bear with a blue face",
    "a white rabbit",
    "a blue duck with a black face",
    "a purple cone with a white nose",
    "a red ball on a blue cube",
    "a yellow cone on a black cylinder",
    "a purple elephant wearing a green hat",
    "a red teapot on a wooden table",
    "a brick castle with blue roofs",
]
FACED = [name for name, kind in KINDS.items() if "face" in kind.features]


def _cameras(azimuth_deg, size):
    return orbit(azimuth_deg, 20, 2.4, 40, size)


def _sphere_trace(obj, origins, directions, steps=120):
    """First hits by marching along the signed distance: [N] distances (inf: none)."""
    t = np.zeros(len(origins))
    for _ in range(steps):
        t += obj.signed_distance(origins + t[:, None] * directions)
    end = obj.signed_distance(origins + np.minimum(t, 10)[:, None] * directions)
    return np.where((np.abs(end) < 1e-3) & (t < 5), t, np.inf)


@pytest.mark.parametrize("caption", CAPTIONS)
def test_renderer_agrees_with_signed_distance(caption):
    obj, cameras = build(parse(caption)), _cameras([10, 130, 250], 24)
    picture = render(obj, cameras.camera_to_world.numpy(), cameras.fov_y.numpy(), 24, supersample=1)
    rays = rays_of(cameras)
    traced = _sphere_trace(obj, rays.origins.numpy().astype(float), rays.directions.numpy().astype(float))
    hit, depth = picture.opacity.ravel() > 0, picture.depth.ravel()
    # rays that graze a silhouette may fall either way
    assert np.mean(hit != np.isfinite(traced)) < 0.01
    both = hit & np.isfinite(traced)
    assert both.sum() > 150
    assert np.abs(depth - traced)[both].max() < 5e-3


@pytest.mark.parametrize("shape", list(Shape))
def test_signed_distance_is_euclidean(shape):
    rotation = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
    half_size = np.array([0.3, 0.3, 0.5]) if shape in (Shape.cylinder, Shape.cone) else np.array([0.2, 0.5, 0.35])
    solid = Primitive(shape, np.array([0.1, -0.2, 0.05]), half_size, rotation, np.ones(3), "body")
    rng = np.random.default_rng(0)
    # independent truth: the nearest of many surface points, found by casting rays from far outside at the centre's ball
    outward = rng.normal(size=(60_000, 3))
    outward /= np.linalg.norm(outward, axis=-1, keepdims=True)
    surface = np.concatenate(
        [origin + t[np.isfinite(t), None] * d[np.isfinite(t)] for origin, d, t in _casts(solid, outward, rng)]
    )
    points = rng.uniform(-0.8, 0.8, (300, 3))
    nearest = cKDTree(surface).query(points)[0]
    distance = solid.signed_distance(points)
    assert np.abs(np.abs(distance) - nearest).max() < 0.02
    # and the surface itself is at distance zero, with the gradient of the distance as its normal
    on_surface = surface[:: len(surface) // 200]
    assert np.abs(solid.signed_distance(on_surface)).max() < 1e-5
    normals = solid.normals(on_surface)
    assert np.all(solid.signed_distance(on_surface + 1e-3 * normals) > 0)
    assert np.mean(solid.signed_distance(on_surface - 1e-3 * normals) < 0) > 0.98  # a rim has no one normal


@pytest.mark.parametrize("shape", list(Shape))
def test_small_solids_have_the_normals_of_their_surface_in_single_precision_too(shape):
    """As pictures have them: an ear of a cat is a tenth across and seen from almost three units away."""
    half_size = np.array([0.08, 0.08, 0.14]) if shape in (Shape.cylinder, Shape.cone) else np.array([0.05, 0.1, 0.14])
    solid = Primitive(shape, np.array([0.3, -0.2, 0.6]), half_size, np.eye(3), np.ones(3), "body")
    single = replace(solid, **{name: getattr(solid, name).astype("f4") for name in ("center", "half_size", "rotation")})
    rng = np.random.default_rng(1)
    for origin, directions, distances in islice(_casts(solid, rng.normal(size=(20_000, 3)), rng), 3):
        hit = np.isfinite(distances)
        rays = origin.astype("f4"), directions.astype("f4")[hit]
        nearest = single.intersect(*rays)
        points = rays[0] + nearest[:, None] * rays[1]
        exact = solid.normals(origin + distances[hit, None] * directions[hit])
        found = single.normals(points[np.isfinite(nearest)])
        assert np.mean(np.sum(found * exact[np.isfinite(nearest)], -1) < 0.99) < 2e-3  # edges fall either way


def _casts(solid, outward, rng):
    for _ in range(8):
        origin = rng.normal(size=3)
        origin *= 3 / np.linalg.norm(origin)
        target = solid.center + solid.bounding_radius * outward * rng.uniform(0, 1, (len(outward), 1))
        directions = target - origin
        directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
        yield origin, directions, solid.intersect(origin, directions)


@pytest.mark.parametrize("kind", FACED)
def test_face_is_on_the_front_only(kind):
    obj = build(parse(f"a red {kind} with a green face"))
    cameras = _cameras([0, 180], 64)
    picture = render(obj, cameras.camera_to_world.numpy(), cameras.fov_y.numpy(), 64)
    front, back = picture.feature.sum((1, 2, 3)) / picture.opacity.sum((1, 2, 3))
    assert front > 0.06
    assert back == 0
    green = np.array(COLORS["green"])
    face = picture.rgb[0][picture.feature[0, ..., 0] == 1]
    assert np.linalg.norm(face / face.max(-1, keepdims=True) - green / green.max(), axis=-1).max() < 0.05


def test_supersampling_converges_and_background_shows():
    obj, cameras = build(parse(CAPTIONS[0])), _cameras([30], 32)
    matrices, fov = cameras.camera_to_world.numpy(), cameras.fov_y.numpy()
    fine = render(obj, matrices, fov, 32, supersample=8)
    usual = render(obj, matrices, fov, 32, supersample=2)
    single = render(obj, matrices, fov, 32, supersample=1)
    assert np.abs(usual.rgb - fine.rgb).mean() < 0.7 * np.abs(single.rgb - fine.rgb).mean()
    blue = render(obj, matrices, fov, 32, background=(0.0, 0.0, 1.0))
    black = render(obj, matrices, fov, 32, background=(0.0, 0.0, 0.0))
    np.testing.assert_allclose(blue.rgb[..., 2:], black.rgb[..., 2:] + 1 - black.opacity, atol=1e-6)


def test_mesh_lies_on_the_surface():
    obj = build(parse(CAPTIONS[2]))
    vertices, faces = obj.mesh(48)
    assert len(faces) > 1000
    assert np.abs(obj.signed_distance(vertices)).max() < 0.02
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    volume = np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6
    inside = np.random.default_rng(0).uniform(-1, 1, (50_000, 3))
    assert volume == pytest.approx(8 * np.mean(obj.signed_distance(inside) < 0), rel=0.08)  # outward winding, too


def test_sizes_jitter_little_and_objects_fit_the_ball():
    rng = Random(0)
    for spec in training_specs()[::400]:
        vertices, _ = build(spec, rng).mesh(32)
        assert np.linalg.norm(vertices, axis=-1).max() < 0.84
    first, second = (build(parse(CAPTIONS[0]), Random(seed)).mesh(32)[0] for seed in (1, 2))
    assert len(first) != len(second)


def test_held_out_captions_are_never_trained_on():
    held = {spec.caption for spec in held_out()}
    assert len(held) == len(held_out()) >= 60
    assert held.isdisjoint(spec.caption for spec in training_specs())
    assert held.isdisjoint(spec.caption for spec in patterned_specs())
    assert {spec.kind for spec in held_out()} == {spec.kind for spec in training_specs()}
    # every word of a held-out caption is learned from other captions
    learned = {word for spec in training_specs() for word in words(spec.caption)}
    assert {word for caption in held for word in words(caption)} <= learned <= set(vocabulary())


def test_captions_round_trip_and_others_are_refused():
    specs = (*training_specs(), *patterned_specs(), *held_out())
    for spec in specs:
        assert parse(spec.caption) == spec
    assert {word for spec in specs for word in words(spec.caption)} == {*vocabulary()} - {",", "3d", "asset"}
    assert parse("A  Red CAT") == parse("a red cat")
    with pytest.raises(ConfigError, match="zebra"):
        parse("a red zebra")
    with pytest.raises(ConfigError):
        parse("cat red a")
    with pytest.raises(ConfigError):
        parse("a red")


def test_patterns_show_both_colours_on_the_body_alone():
    cameras = _cameras([20], 64)
    for caption in ("a red cat with white stripes", "a red cat with white dots"):
        picture = render(build(parse(caption)), cameras.camera_to_world.numpy(), cameras.fov_y.numpy(), 64)
        inside = picture.rgb[picture.opacity[..., 0] == 1]
        white = (inside.min(-1) > 0.5).mean()
        assert 0.1 < white < 0.7
    assert all(spec.feature in PATTERNS for spec in patterned_specs())


def test_patterns_and_materials_cover_about_half_of_space_and_each_its_own():
    points = np.random.default_rng(0).uniform(-0.75, 0.75, (20_000, 3))
    covers = [*PATTERNS.values(), *(material.covers for material in MATERIALS.values())]
    masks = np.stack([cover(points) for cover in covers])
    assert np.all((masks.mean(1) > 0.1) & (masks.mean(1) < 0.7))
    agreement = [np.mean(a == b) for i, a in enumerate(masks) for b in masks[:i]]
    assert max(agreement) < 0.75


def test_material_shows_its_two_colours():
    cameras = _cameras([20], 64)
    picture = render(
        build(parse("a wooden cube")), cameras.camera_to_world.numpy(), cameras.fov_y.numpy(), 64, supersample=1
    )
    inside = picture.rgb[picture.opacity[..., 0] == 1]
    hue = inside / inside.max(-1, keepdims=True)
    for color in (MATERIALS["wooden"].first, MATERIALS["wooden"].second):
        of_color = np.linalg.norm(hue - np.array(color) / max(color), axis=-1) < 0.01
        assert 0.1 < of_color.mean() < 0.95


@pytest.mark.parametrize(("name", "kind"), KINDS.items())
def test_every_feature_of_a_kind_is_seen_and_stays_in_the_ball(name, kind):
    """Also with what it wears and on what it can stand."""
    specs = [Spec(name, "red", feature, "blue") for feature in kind.features]
    specs += [Spec(name, "red", clothing, "blue") for clothing in WORN if kind.head]
    specs += [Spec(name, "red", base, "blue") for base in BASES if kind.small]
    cameras = _cameras([0, 90, 180, 270], 48)
    for spec in specs or [Spec(name, "red")]:
        obj = build(spec)
        picture = render(obj, cameras.camera_to_world.numpy(), cameras.fov_y.numpy(), 48)
        assert not specs or picture.feature.sum() > 0.005 * picture.opacity.sum(), spec.caption
        corners = np.concatenate([_bounding_corners(p) for p in obj.primitives])
        assert corners[:, 2].max() < 0.84
        radius = np.linalg.norm(obj.mesh(32)[0], axis=-1).max()
        assert 0.4 < radius < 0.82, spec.caption


def _bounding_corners(primitive):
    signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
    return primitive.center + signs * primitive.half_extent()


@pytest.mark.parametrize("shape", list(Shape))
def test_half_extent_is_the_box_of_sampled_surface_points(shape):
    rotation = np.linalg.qr(np.random.default_rng(5).normal(size=(3, 3)))[0]
    half_size = np.array([0.3, 0.3, 0.5]) if shape in (Shape.cylinder, Shape.cone) else np.array([0.2, 0.5, 0.35])
    solid = Primitive(shape, np.zeros(3), half_size, rotation, np.ones(3), "body")
    unit = np.random.default_rng(0).normal(size=(20_000, 3))
    unit /= np.linalg.norm(unit, axis=-1, keepdims=True)
    origin = np.array([0.0, 0.0, 1e-3])
    # from inside: the exit is where the signed distance changes sign along each direction
    low, high = np.zeros(len(unit)), np.full(len(unit), 2.0)
    for _ in range(20):
        middle = (low + high) / 2
        inside = solid.signed_distance(origin + middle[:, None] * unit) < 0
        low, high = np.where(inside, middle, low), np.where(inside, high, middle)
    extent = np.abs(origin + low[:, None] * unit).max(0)
    slack = 0.35 if shape is Shape.cone else 0.0  # the box of its cylinder: a cone has only one broad end
    assert np.all(solid.half_extent() >= extent - 0.01)
    assert np.all(solid.half_extent() <= extent * (1 + slack) + 0.02)


def test_a_thing_on_a_base_touches_it_and_stands_above_it():
    for caption in ("a red teapot on a blue cylinder", "a red mushroom on a wooden table", "a red cat on a blue cube"):
        for rng in (None, Random(3)):
            obj = build(parse(caption), rng)
            boxes = {part: [] for part in ("feature", "other")}
            for p in obj.primitives:
                boxes["feature" if p.part == "feature" else "other"].append(_bounding_corners(p)[:, 2])
            top, bottom = np.max(boxes["feature"]), np.min(np.concatenate(boxes["other"]))
            assert -0.03 < bottom - top < 0  # sinks in a little
            assert np.max(np.concatenate(boxes["other"])) > top + 0.3


def test_training_shows_every_kind_and_every_form():
    specs = draw_training_specs(Random(0), 4000)
    shares = Counter(spec.kind for spec in specs)
    assert set(shares) == set(KINDS)
    assert shares["cat"] > 1.1 * shares["cube"]  # animals have the most to learn
    forms = Counter(spec.form for spec in specs)
    assert set(forms) == {"plain", "material", "with", "on", "wearing"}
    assert min(forms.values()) > 0.04 * len(specs)
    assert forms["on"] > 0.1 * len(specs)
    assert specs == draw_training_specs(Random(0), 4000) != draw_training_specs(Random(1), 4000)


def test_training_can_be_of_some_kinds_only():
    drawn = draw_training_specs(Random(0), 200, ["cat", "mug"])
    assert {spec.kind for spec in drawn} == {"cat", "mug"}
    assert {spec.kind for spec in of_kinds(held_out(), ["duck"])} == {"duck"}
    assert of_kinds(held_out(), ()) == held_out()
    with pytest.raises(ConfigError, match=r"train.kinds: there is no 'catt' in miniworld; it has cat, bear"):
        draw_training_specs(Random(0), 1, ["cat", "catt"])
