"""Training sources against geometry and colours that are known without them; files as other programs write them."""

import json
import math
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import trimesh

from threedgen import cli
from threedgen.cameras import mvdream_camera_vectors, orbit
from threedgen.config.scene import CameraConfig
from threedgen.config.schema import Config
from threedgen.config.training import TrainConfig
from threedgen.core.errors import ConfigError
from threedgen.core.files import verify_folder
from threedgen.data.captioned_views import CapturedViews
from threedgen.data.training_sources import (
    MiniworldClips,
    MiniworldOrbits,
    MiniworldPhotographs,
    MiniworldViews,
    open_image_source,
    open_view_source,
)

RED, GREEN, BLUE, YELLOW, CYAN = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255)


def rng(seed=0):
    return np.random.default_rng(seed)


def numbered(objects, views):
    """Captures whose pictures are one pixel that tells which object and view it is."""
    image = np.zeros((objects, views, 1, 1, 4), np.uint8)
    image[..., 0] = np.arange(objects).reshape(-1, 1, 1, 1)
    image[..., 1] = np.arange(views).reshape(-1, 1, 1)
    azimuth = np.broadcast_to(20.0 + 360 / views * np.arange(views), (objects, views)).astype(np.float32)
    elevation = image[..., 0, 0, 1].astype(np.float32)  # the number of the view
    cameras = orbit(azimuth.ravel(), elevation.ravel(), 2, 40, 1)
    return CapturedViews(image, cameras, tuple(f"object {i}" for i in range(objects)))


def test_half_of_miniworlds_sets_are_the_even_ones_and_half_are_of_any_views():
    source = MiniworldViews(numbered(3, 8))
    assert len(source) == 3
    drawn = [source.draw(1, rng(i)) for i in range(200)]
    chosen = []
    for views in drawn:
        number, view = views.images.reshape(4, 4)[:, :2].T
        assert (number == 1).all() and len(set(view)) == 4
        np.testing.assert_allclose(views.cameras.elevation.rad2deg(), view, atol=1e-4)
        assert views.cameras.num_views == 4
        assert views.caption == "object 1"
        chosen.append(tuple(map(int, view)))
    even = chosen.count((0, 1, 2, 3))
    assert 80 < even < 120
    others = np.array([views for views in chosen if views != (0, 1, 2, 3)])
    np.testing.assert_allclose(np.bincount(others.ravel(), minlength=8) / others.size, 1 / 8, atol=0.05)


def test_half_of_miniworlds_photographs_are_patterned_and_the_others_show_fronts():
    source = MiniworldPhotographs(numbered(5, 4), numbered(3, 1))
    drawn = [source.draw(index, rng(1000 * turn + index)) for turn in range(300) for index in range(len(source))]
    assert len(source) == 10
    patterned, objects = drawn[::2], drawn[1::2]
    assert all(picture.image[0, 0, 1] == 0 and picture.image[0, 0, 0] < 3 for picture in patterned)
    view = np.array([picture.image[0, 0, 1] for picture in objects])
    # of views at 20, 110, 200, 290 degrees two face the front (20, 290): 0.8 / 2 + 0.2 / 4 for each of them
    share = np.bincount(view, minlength=4) / len(view)
    front = np.array([0.45, 0.05, 0.05, 0.45])
    np.testing.assert_allclose(share, front, atol=0.05)
    counts = np.bincount([int(picture.image[0, 0, 0]) for picture in patterned], minlength=3)
    np.testing.assert_allclose(counts / counts.sum(), 1 / 3, atol=0.05)  # five numbers for three pictures: evenly
    assert all(picture.caption == f"object {picture.image[0, 0, 0]}" for picture in drawn)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.8, 1.0])
def test_any_share_of_the_photographs_may_be_patterned(share):
    source = MiniworldPhotographs(numbered(5, 4), numbered(3, 1), share)
    # one view is all that a patterned object has; of the others this generator picks any but the first
    numbers = {"patterned": [], "objects": []}
    for index in range(len(source)):
        before = len(numbers["patterned"]) + len(numbers["objects"])
        assert before == index
        picture = source.draw(index, FromTheBack())
        numbers["objects" if picture.image[0, 0, 1] else "patterned"].append(int(picture.image[0, 0, 0]))
        assert abs(len(numbers["patterned"]) - share * (index + 1)) < 1
    assert set(range(3)) <= set(numbers["patterned"]) or share == 0
    assert set(range(5)) <= set(numbers["objects"]) or share == 1


class FromTheBack:
    """Draws the last of what there is."""

    def choice(self, count, p=None):
        return count - 1

    def integers(self, count):
        return count - 1


def test_miniworld_is_opened_by_its_name(tmp_path):
    camera = CameraConfig(fov_y_deg_range=(40.0, 40.0), elevation_deg_range=(10.0, 10.0))
    train = TrainConfig(num_objects=2, num_patterned_images=3, render_workers=1)
    config = Config(output_root=str(tmp_path), camera=camera, train=train)
    views, pictures = open_view_source("miniworld", config, 12), open_image_source("miniworld", config, 12)
    assert (len(views), len(pictures)) == (2, 6)
    first, again = views.draw(1, rng(3)), views.draw(1, rng(3))
    assert first.images.shape == (4, 12, 12, 4) and first.images.dtype == np.uint8
    assert len(first.cameras) == 4 and first.cameras.fov_y.rad2deg().tolist() == pytest.approx([40] * 4)
    np.testing.assert_array_equal(first.images, again.images)
    single = pictures.draw(5, rng(4))
    assert single.image.shape == (12, 12, 4) and (single.image[..., :3] <= single.image[..., 3:]).all()


def test_patterned_pictures_of_which_none_are_shown_are_not_drawn(tmp_path):
    train = TrainConfig(num_objects=2, num_patterned_images=3, render_workers=1, patterned_share=0.0)
    pictures = open_image_source("miniworld", Config(output_root=str(tmp_path), train=train), 12)
    assert len(list(tmp_path.rglob("multiview-*"))) == 1 and not list(tmp_path.rglob("patterned-*"))
    assert len(pictures) == 2
    assert {pictures.draw(index, rng(index)).caption for index in range(2)} == set(pictures.captured.captions)


def world_sides():
    """World direction -> colour of a cube whose file has its front at +z and y upwards (glTF)."""
    return {(1, 0, 0): RED, (-1, 0, 0): GREEN, (0, 1, 0): BLUE, (0, -1, 0): YELLOW, (0, 0, 1): CYAN}


def colored_cube():
    """In file axes +z is world +x, +x is world +y, +y is world +z."""
    file_axis = {(0, 0, 1): RED, (0, 0, -1): GREEN, (1, 0, 0): BLUE, (-1, 0, 0): YELLOW, (0, 1, 0): CYAN}
    cube = trimesh.creation.box()
    normals = [tuple(round(n) for n in normal) for normal in cube.face_normals]
    cube.visual.face_colors = [file_axis.get(normal, (0, 0, 0)) for normal in normals]
    return cube


def render(*arguments):
    return cli.main(["render-meshes", *map(str, arguments)])


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """The same two meshes as folders and as shards; one has a dot in its name and lies deeper."""
    root = tmp_path_factory.mktemp("rendered")
    (root / "meshes/toys").mkdir(parents=True)
    colored_cube().export(root / "meshes/cube.ply")
    colored_cube().apply_transform(np.diag([0.5, 1, 1, 1])).export(root / "meshes/toys/brick.v2.ply")
    lines = ['{"file": "cube.ply", "caption": "a cube"}', '{"file": "toys/brick.v2.ply", "caption": "a brick"}']
    (root / "meshes/captions.jsonl").write_text("\n".join(lines))
    small = ["--size", 24, "--supersample", 2]
    assert render(root / "meshes", root / "views", *small) == 0
    assert render(root / "meshes", root / "shards", *small, "--shards", 1) == 0
    return root


def test_four_views_are_orthogonal_at_one_elevation_and_show_what_their_cameras_say(rendered):
    source = open_view_source(str(rendered / "views"), Config(), 24)
    assert len(source) == 2
    elevations, azimuths, checked = set(), set(), 0
    for seed in range(60):
        views = source.draw(0, rng(seed))
        assert views.caption == "a cube" and views.images.shape == (4, 24, 24, 4)
        assert (views.cameras.fov_y == views.cameras.fov_y[0]).all() and views.cameras.num_views == 4
        assert all(value.dtype == torch.float32 for value in vars(views.cameras).values() if torch.is_tensor(value))
        pose = mvdream_camera_vectors(views.cameras).numpy().reshape(4, 4, 4)
        np.testing.assert_array_equal(pose[:, 3], np.tile([0, 0, 0, 1], (4, 1)))
        position, back = pose[:, :3, 3], pose[:, :3, 2]
        np.testing.assert_allclose(np.linalg.norm(position, axis=1), 1, atol=1e-5)
        np.testing.assert_allclose(position, back, atol=1e-5)  # it looks at the origin
        np.testing.assert_allclose(position[:, 2], position[0, 2], atol=1e-5)
        flat = position[:, :2] / np.linalg.norm(position[:, :2], axis=1, keepdims=True)
        np.testing.assert_allclose(
            flat @ flat.T, [[1, 0, -1, 0], [0, 1, 0, -1], [-1, 0, 1, 0], [0, -1, 0, 1]], atol=1e-4
        )
        elevations.add(round(math.degrees(math.asin(position[0, 2])), 2))
        azimuths.add(round(math.degrees(math.atan2(position[0, 1], position[0, 0])) / 11.25) % 32)
        for direction, image in zip(position, views.images, strict=True):
            # the ray through the middle enters the cube by the side that lies most in its direction
            axis = np.abs(direction).argmax()
            if np.sort(np.abs(direction))[-2] < 0.8 * abs(direction[axis]):
                side = tuple(int(np.sign(direction[axis])) * (np.arange(3) == axis))
                assert tuple(image[12, 12]) == (*world_sides()[side], 255)
                checked += 1
    assert len(elevations) == 2 and all(0 <= elevation <= 30 for elevation in elevations)  # of the two passes
    assert len(azimuths) > 20 and checked > 100


def test_shards_and_folders_give_the_same(rendered):
    folder = open_view_source(str(rendered / "views"), Config(), 16)
    for where in ("shards", "shards/*.tar", "shards/{00000..00001}.tar"):
        shards = open_view_source(str(rendered / where), Config(), 16)
        assert len(shards) == 2
        for index in range(2):
            one, other = folder.draw(index, rng(index)), shards.draw(index, rng(index))
            np.testing.assert_array_equal(one.images, other.images)
            assert torch.equal(one.cameras.camera_to_world, other.cameras.camera_to_world)
            assert one.caption == other.caption == ("a cube", "a brick")[index]


@pytest.mark.parametrize("where", ["views", "shards"])
def test_what_is_drawn_depends_on_index_and_generator_alone(rendered, where):
    source = open_view_source(str(rendered / where), Config(), 8)
    jobs = [(index, seed) for index in range(2) for seed in range(6)]
    draws = [source.draw(index, rng(seed)).images for index, seed in jobs]
    assert len({images.tobytes() for images in draws}) > 8
    copy = pickle.loads(pickle.dumps(source))
    with ThreadPoolExecutor(4) as pool:
        threaded = list(pool.map(lambda job: source.draw(job[0], rng(job[1])).images, reversed(jobs)))
    for images, other, (index, seed) in zip(draws, reversed(threaded), jobs, strict=True):
        np.testing.assert_array_equal(images, other)
        np.testing.assert_array_equal(images, copy.draw(index, rng(seed)).images)


def test_texts_are_the_captions_that_can_be_read(rendered, tmp_path):
    for where in ("views", "shards"):
        assert list(open_view_source(str(rendered / where), Config(), 8).texts()) == ["a cube", "a brick"]
    shutil.copytree(rendered / "views", tmp_path / "views")
    source = open_view_source(str(tmp_path / "views"), Config(), 8)
    (tmp_path / "views/cube/cameras.json").write_text("{")
    assert list(source.texts()) == ["a brick"]


def test_what_cannot_be_a_view_source_is_one_clear_line(rendered, tmp_path, capsys):
    def error(where, num_views=4):
        with pytest.raises(ConfigError) as caught:
            open_view_source(str(where), Config(camera=CameraConfig(num_views=num_views)), 8)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "no such folder" in error(tmp_path / "none")
    assert "holds no views; launch.py render-meshes" in error(rendered / "meshes")
    for where in ("views", "shards"):
        assert "32 views in a ring are not 5 times a whole number" in error(rendered / where, 5)
    assert render(rendered / "meshes/cube.ply", tmp_path / "sphere", "--size", 8, "--cameras", "sphere") == 0
    assert "render it with --cameras orbit" in error(tmp_path / "sphere")
    trimesh.creation.box().export(tmp_path / "box.ply")
    small = ["--size", 8, "--supersample", 1]
    assert render(tmp_path / "box.ply", tmp_path / "box", *small) == 0
    assert "has no caption; add it to captions.jsonl" in error(tmp_path / "box")
    # and what it says helps, without rendering again
    picture = tmp_path / "box/box/000.png"
    content = picture.read_bytes()
    (tmp_path / "captions.jsonl").write_text('{"file": "box.ply", "caption": "a box"}')
    assert render(tmp_path / "box.ply", tmp_path / "box", *small) == 0
    assert "0 rendered, 1 there already" in capsys.readouterr().out
    assert open_view_source(str(tmp_path / "box"), Config(), 8).draw(0, rng()).caption == "a box"
    assert picture.read_bytes() == content and verify_folder(tmp_path / "box/box")
    described = json.loads((tmp_path / "box/box/cameras.json").read_text())
    described["views"] = described["views"][::-1]
    (tmp_path / "box/box/cameras.json").write_text(json.dumps(described))
    assert "not evenly around the object" in error(tmp_path / "box")


@pytest.mark.parametrize("word", ["file", "camera_to_world", "fov_y_deg"])
def test_views_of_another_renderer_that_lack_a_word_are_one_clear_line(rendered, tmp_path, word):
    shutil.copytree(rendered / "views/cube", tmp_path / "views/cube")
    described = json.loads((tmp_path / "views/cube/cameras.json").read_text())
    for view in described["views"]:
        del view[word]
    (tmp_path / "views/cube/cameras.json").write_text(json.dumps(described))
    with pytest.raises(ConfigError, match=f"cube: a view has no {word}"):
        open_view_source(str(tmp_path / "views"), Config(), 8)


def test_a_damaged_object_is_named_once_and_another_stands_for_it(rendered, tmp_path, capsys):
    shutil.copytree(rendered / "views", tmp_path / "views")
    for picture in (tmp_path / "views/cube").glob("*.png"):
        picture.write_bytes(picture.read_bytes()[:60])
    source = open_view_source(str(tmp_path / "views"), Config(), 8)
    capsys.readouterr()
    for seed in range(5):
        assert source.draw(0, rng(seed)).caption == "a brick"
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) <= 1  # told when it was opened, or now
    again = open_view_source(str(tmp_path / "views"), Config(), 8)
    np.testing.assert_array_equal(again.draw(0, rng(3)).images, source.draw(0, rng(3)).images)
    shutil.rmtree(tmp_path / "views/toys")
    with pytest.raises(ConfigError, match="is no picture, or a damaged one"):
        open_view_source(str(tmp_path / "views"), Config(), 8)


def _numbered(num_objects, frames):
    """Objects whose pictures say their own number and their frame's."""
    images = np.zeros((num_objects, frames, 1, 1, 4), np.uint8)
    images[..., 0] = np.arange(num_objects)[:, None, None, None]
    images[..., 1] = np.arange(frames)[:, None, None]
    azimuth = (np.arange(frames) * 360 / frames + 7 * np.arange(num_objects)[:, None]).ravel()
    cameras = orbit(azimuth, 15, 2, 40, 1, num_views=frames)
    return CapturedViews(images, cameras, tuple(f"object {i}" for i in range(num_objects)))


def test_an_orbit_begins_anywhere_and_goes_on_in_order_its_cameras_with_it():
    source, rng = MiniworldOrbits(_numbered(3, 8)), np.random.default_rng(0)
    begun = set()
    for _ in range(60):
        drawn = source.draw(2, rng)
        frames = drawn.images[:, 0, 0, 1].astype(int)
        assert (drawn.images[..., 0] == 2).all() and drawn.caption == "object 2"
        assert (np.diff(frames) % 8 == 1).all()
        azimuth = np.degrees(drawn.cameras.azimuth.numpy())
        assert np.allclose((azimuth - 14 - 45 * frames + 180) % 360, 180, atol=1e-3)
        begun.add(frames[0])
    assert begun == set(range(8))


def test_a_clip_is_shown_forwards_or_backwards_and_without_cameras():
    source, rng = MiniworldClips(_numbered(2, 5)), np.random.default_rng(0)
    shown = {tuple(source.draw(1, rng).images[:, 0, 0, 1].tolist()) for _ in range(20)}
    assert shown == {(0, 1, 2, 3, 4), (4, 3, 2, 1, 0)} and source.draw(1, rng).cameras is None
