"""COLMAP's models, written by pycolmap from cameras that are known, in both of its formats."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from threedgen.cameras import orbit
from threedgen.config.scene import DataConvention
from threedgen.core.errors import ConfigError
from threedgen.data.posed_files import read_posed_images

COUNT = 6
CAMERAS = orbit(np.arange(COUNT) * 60, 25.0, 4.0, 40, height=48, width=64)
POSES = CAMERAS.camera_to_world.double().numpy()
FOCAL = 24 / np.tan(np.radians(20))
LENSES = {
    "SIMPLE_PINHOLE": [FOCAL, 32, 24],
    "PINHOLE": [FOCAL, 1.2 * FOCAL, 32, 24],
    "SIMPLE_RADIAL": [FOCAL, 32, 24, 0.1],
    "OPENCV": [FOCAL, 1.1 * FOCAL, 30, 25, -0.1, 0.02, 0.004, -0.003],
}


def write_model(folder, model="SIMPLE_PINHOLE", text=False, tilt=None):
    """In COLMAP's world: `tilt` [4, 4] applied to ours. Returns the camera."""
    pycolmap = pytest.importorskip("pycolmap")
    written = pycolmap.Reconstruction()
    camera = pycolmap.Camera(model=model, width=64, height=48, params=LENSES[model], camera_id=1)
    written.add_camera_with_trivial_rig(camera)
    (folder / "images").mkdir(exist_ok=True)
    for i, pose in enumerate(np.eye(4) @ POSES if tilt is None else tilt @ POSES):
        name = f"{COUNT - i:02}.jpg"  # not in the order of their numbers
        world_to_camera = np.linalg.inv(pose @ np.diag([1.0, -1.0, -1.0, 1.0]))
        image = pycolmap.Image(name=name, camera_id=1, image_id=i + 1)
        written.add_image_with_trivial_frame(image, pycolmap.Rigid3d(world_to_camera[:3]))
        Image.fromarray(np.full((48, 64, 3), 40 * i, np.uint8)).save(folder / "images" / name, quality=95)
    place = folder / "sparse/0"
    place.mkdir(exist_ok=True, parents=True)
    (written.write_text if text else written.write_binary)(str(place))
    return camera


def in_order(tensor):
    """As the names of the files have it."""
    return tensor.flip(0)


@pytest.mark.parametrize("text", [False, True])
def test_a_model_is_read_as_the_cameras_that_it_was_made_of(tmp_path, text, monkeypatch):
    write_model(tmp_path, text=text)
    for place in (tmp_path, tmp_path / "sparse/0", tmp_path / "sparse/0" / f"cameras.{'txt' if text else 'bin'}"):
        posed = read_posed_images(place)
        torch.testing.assert_close(
            posed.cameras.camera_to_world, in_order(CAMERAS.camera_to_world), atol=1e-5, rtol=1e-5
        )
        torch.testing.assert_close(posed.cameras.fov_y, CAMERAS.fov_y)
        assert posed.names == tuple(f"{i:02}.jpg" for i in range(1, COUNT + 1))
        assert (posed.images.float().mean((1, 2, 3)) - in_order(torch.arange(COUNT) * 40.0)).abs().max() < 2
    monkeypatch.chdir(tmp_path / "sparse")
    assert len(read_posed_images("0")) == COUNT
    with pytest.raises(ConfigError, match="COLMAP's models have one meaning"):
        read_posed_images(tmp_path, convention=DataConvention.opencv)


def test_upwards_is_where_the_cameras_tops_are(tmp_path):
    """COLMAP's world stands on its head: what is read stands upright again, and says how it was turned."""
    angle = np.radians(160)
    tilt = np.eye(4)
    tilt[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    write_model(tmp_path, tilt=tilt)
    posed = read_posed_images(tmp_path)
    torch.testing.assert_close(posed.cameras.elevation, CAMERAS.elevation, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        posed.cameras.camera_to_world.double(),
        torch.from_numpy(posed.world @ tilt @ POSES).flip(0),
        atol=1e-5,
        rtol=1e-5,
    )


@pytest.mark.parametrize("model", LENSES)
def test_lenses_are_those_of_pycolmap(tmp_path, model):
    """A white pixel where pycolmap projects a point of the object lies, once straightened, where our camera has it."""
    camera = write_model(tmp_path, model)
    point = np.array([0.35, 0.2, -1.0])  # of each camera, OpenGL's axes
    u, v = camera.img_from_cam(np.array([[0.35, -0.2, 1.0]]))[0]
    picture = np.zeros((48, 64), np.float64)
    rows, columns = np.mgrid[:48, :64] + 0.5
    picture = 255 * np.exp(-((columns - u) ** 2 + (rows - v) ** 2) / 8)
    for file in (tmp_path / "images").iterdir():
        Image.fromarray(picture.astype(np.uint8)).convert("RGB").save(file, quality=100)
    posed = read_posed_images(tmp_path)
    cameras = posed.cameras
    image = posed.images[0, ..., 0].double().numpy()
    rows, columns = np.mgrid[: cameras.height, : cameras.width] + 0.5
    focal = 0.5 * cameras.height / np.tan(cameras.fov_y[0].item() / 2)
    seen = np.array([(columns * image).sum(), (rows * image).sum()]) / image.sum()
    expected = cameras.width / 2 + focal * point[0], cameras.height / 2 - focal * point[1]
    np.testing.assert_allclose(seen, expected, atol=0.2)


def test_what_is_damaged_or_incomplete_is_one_line(tmp_path, monkeypatch):
    write_model(tmp_path)
    images = tmp_path / "sparse/0/images.bin"
    whole = images.read_bytes()
    images.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigError, match=r"sparse/0: is no model of COLMAP's, or a damaged one") as caught:
        read_posed_images(tmp_path)
    assert "\n" not in str(caught.value)
    images.write_bytes(whole)
    (tmp_path / "images").rename(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=r"its pictures \(01\.jpg, \.\.\.\) are not beside it"):
        read_posed_images(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "pycolmap", None)
    with pytest.raises(ConfigError, match=r"pip install pycolmap"):
        read_posed_images(tmp_path)


def test_without_pycolmap_the_package_is_named(tmp_path, monkeypatch):
    (tmp_path / "sparse/0").mkdir(parents=True)
    for name in ("cameras.txt", "images.txt"):
        (tmp_path / "sparse/0" / name).write_text("# text\n")
    monkeypatch.setitem(__import__("sys").modules, "pycolmap", None)
    with pytest.raises(ConfigError, match=r"sparse/0: COLMAP's model needs pycolmap \(pip install pycolmap\)"):
        read_posed_images(tmp_path)
    (tmp_path / "transforms.json").write_text(json.dumps({"frames": []}))
    with pytest.raises(ConfigError, match="lists no pictures"):  # what is there as JSON goes first
        read_posed_images(tmp_path)
