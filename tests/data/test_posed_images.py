"""Posed pictures from every layout against rays and cameras whose numbers are known."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from threedgen.cameras import orbit, rays_of
from threedgen.core.errors import ConfigError
from threedgen.data.posed_files import read_posed_images
from threedgen.data.posed_images import PosedImages, background_color, cameras_at, normalization

CAMERAS = orbit([0, 100, 200, 300], [10, 40, -20, 60], 4.0, 50, height=6, width=9)
POSES = CAMERAS.camera_to_world.double().numpy()
FOV_X = 2 * math.atan(math.tan(math.radians(25)) * 9 / 6)


def pictures(n=4, channels=4, height=6, width=9):
    return np.random.default_rng(0).integers(0, 255, (n, height, width, channels), np.uint8)


def save(folder, images, names):
    for image, name in zip(images, names, strict=True):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image).save(path)


def synthetic(folder, **settings):
    """A folder as of NeRF's synthetic scenes, with changed settings; None takes one away."""
    images = pictures()
    save(folder, images, [f"train/r_{i}.png" for i in range(4)])
    frames = [{"file_path": f"./train/r_{i}", "transform_matrix": POSES[i].tolist()} for i in range(4)]
    content = {"camera_angle_x": FOV_X, "frames": frames, **settings}
    content = {name: value for name, value in content.items() if value is not None}
    (folder / "transforms_train.json").write_text(json.dumps(content))
    return images


def test_the_rays_of_single_pixels_are_those_of_the_whole_pictures():
    images = pictures()
    posed = PosedImages(torch.from_numpy(images), CAMERAS, ("",) * 4)
    index = torch.randperm(posed.num_pixels, generator=torch.Generator().manual_seed(0))
    rays, values = posed.pixels(index)
    whole = rays_of(CAMERAS)
    torch.testing.assert_close(rays.directions, whole.directions[index])
    torch.testing.assert_close(rays.origins, whole.origins[index])
    assert np.array_equal((values * 255).round().numpy(), images.reshape(-1, 4)[index])


def test_synthetic_scenes_are_read(tmp_path):
    images = synthetic(tmp_path)
    posed = read_posed_images(tmp_path)
    assert np.array_equal(posed.images, images) and posed.has_alpha and posed.half_edge is None
    torch.testing.assert_close(posed.cameras.camera_to_world, CAMERAS.camera_to_world)
    torch.testing.assert_close(posed.cameras.fov_y, CAMERAS.fov_y)
    torch.testing.assert_close(posed.cameras.distance, CAMERAS.distance)
    torch.testing.assert_close(posed.cameras.elevation, CAMERAS.elevation)
    path = tmp_path / "transforms_train.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())  # as Windows' editors save it
    assert np.array_equal(read_posed_images(tmp_path).images, images)


def test_nerfstudio_intrinsics_are_read(tmp_path):
    focal = 0.5 * 60 / math.tan(math.radians(25))  # of the pictures before they were made ten times smaller
    synthetic(
        tmp_path, camera_angle_x=None, camera_model="OPENCV", fl_x=focal, fl_y=focal, w=90, h=60, cx=45, cy=30, k1=0
    )
    torch.testing.assert_close(read_posed_images(tmp_path).cameras.fov_y, CAMERAS.fov_y)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"k4": 0.02}, r"not read \(k4\)"),
        ({"fl_x": 9, "fl_y": 9, "w": 6, "h": 9}, "width / height is 1.500, its camera's 0.667"),
        ({"camera_model": "OPENCV_FISHEYE"}, "OPENCV_FISHEYE is not supported"),
        ({"camera_angle_x": None}, "neither camera_angle_x nor fl_x"),
        ({"camera_angle_x": 0}, "focal lengths of inf and inf pixels"),
        ({"frames": []}, "lists no pictures"),
        ({"frames": None}, "'frames' is missing"),
        (
            {"frames": [{"file_path": "train/r_0", "transform_matrix": np.diag([2, 1, 1, 1]).tolist()}]},
            "not a rotation",
        ),
        ({"frames": [{"file_path": "train/r_9", "transform_matrix": POSES[0].tolist()}]}, "r_9: is not there"),
    ],
)
def test_what_cannot_be_used_is_one_line(tmp_path, settings, message):
    synthetic(tmp_path, **settings)
    with pytest.raises(ConfigError, match=message) as caught:
        read_posed_images(tmp_path)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_a_camera_without_a_size_is_one_line_for_a_picture_on_its_side_too(tmp_path):
    synthetic(tmp_path, fl_x=9, fl_y=9, w=0, h=0)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it by 90 degrees
    picture = Image.open(tmp_path / "train/r_0.png")
    picture.save(tmp_path / "train/r_0.png", exif=exif)
    with pytest.raises(ConfigError, match="its camera has 0 x 0 pixels"):
        read_posed_images(tmp_path)


def test_damaged_and_uneven_files_are_named(tmp_path):
    with pytest.raises(ConfigError, match="no such folder"):
        read_posed_images(tmp_path / "none")
    with pytest.raises(ConfigError, match=r"holds no cameras.json"):
        read_posed_images(tmp_path)
    synthetic(tmp_path)
    (tmp_path / "train/r_2.png").write_bytes(b"\x89PNG but no more")
    with pytest.raises(ConfigError, match=r"r_2.png is no picture"):
        read_posed_images(tmp_path)
    (tmp_path / "transforms_train.json").write_text("{")
    with pytest.raises(ConfigError, match=r"transforms_train.json: cannot be read"):
        read_posed_images(tmp_path)


def test_sampled_views_are_read(tmp_path):
    """The layout of task sample_views: positions of unit length, one assumed distance and field of view."""
    save(tmp_path, pictures(4, 3, 6, 6), [f"view-{i}.png" for i in range(4)])
    unit = POSES.copy()
    unit[:, :3, 3] /= 4.0
    content = {"camera_matrices": unit.tolist(), "assumed_distance": 4.0, "assumed_fov_y_deg": 50.0}
    (tmp_path / "cameras.json").write_text(json.dumps(content))
    posed = read_posed_images(tmp_path)
    torch.testing.assert_close(posed.cameras.camera_to_world, CAMERAS.camera_to_world)
    torch.testing.assert_close(posed.cameras.fov_y, CAMERAS.fov_y)
    assert not posed.has_alpha


def test_a_folder_with_one_folder_of_pictures_stands_for_it(tmp_path):
    (tmp_path / "cup").mkdir()
    synthetic(tmp_path / "cup")
    assert len(read_posed_images(tmp_path)) == 4
    (tmp_path / "mug").mkdir()
    synthetic(tmp_path / "mug")
    with pytest.raises(ConfigError, match=rf"did you mean {tmp_path}/cup\?"):
        read_posed_images(tmp_path)


def test_smaller_pictures_do_not_show_what_was_transparent(tmp_path):
    """Red in one half, and green under alpha 0 in the other: the average is red, half covered."""
    image = np.zeros((6, 9, 4), np.uint8)
    image[:, :, 1] = 255
    image[::2] = (255, 0, 0, 255)
    synthetic(tmp_path)
    save(tmp_path, [image] * 4, [f"train/r_{i}.png" for i in range(4)])
    posed = read_posed_images(tmp_path, max_size=3)
    assert posed.images.shape == (4, 2, 3, 4)
    opacity = posed.images[..., 3] / 255.0
    assert opacity.mean() == pytest.approx(0.5, abs=0.01)
    assert (posed.images[..., 0] == 255).all() and not posed.images[..., 1].any()
    assert read_posed_images(tmp_path, max_size=9).images.shape == (4, 6, 9, 4)


def test_alpha_that_says_nothing_is_dropped(tmp_path):
    images = synthetic(tmp_path)
    images[..., 3] = 255
    save(tmp_path, images, [f"train/r_{i}.png" for i in range(4)])
    posed = read_posed_images(tmp_path)
    assert not posed.has_alpha and np.array_equal(posed.images, images[..., :3])


def looking_at(center, distance=5.0, fov_deg=40.0):
    """Pictures from all around a point."""
    cameras = orbit(np.arange(8) * 45, np.resize([-30, 10, 50], 8), distance, fov_deg, height=6, width=9)
    poses = cameras.camera_to_world.clone()
    poses[:, :3, 3] += torch.tensor(center)
    return PosedImages(torch.from_numpy(pictures(8)), cameras_at(poses, cameras.fov_y, 6, 9), ("",) * 8)


def test_the_point_that_all_cameras_look_at_becomes_the_origin():
    center, radius = [3.0, -7.0, 2.0], 0.6
    posed = looking_at(center)
    matrix = normalization(posed, radius)
    scale = radius / (5.0 * math.tan(math.radians(20)))  # the view's half height there becomes the radius
    expected = np.diag([scale, scale, scale, 1.0])
    expected[:3, 3] = -scale * np.array(center)
    np.testing.assert_allclose(matrix, expected, atol=1e-5)
    # a point of the world and its camera move together: it stays in the same direction
    index = torch.arange(posed.num_pixels)
    (before, _), (after, _) = posed.pixels(index), posed.moved(matrix).pixels(index)
    torch.testing.assert_close(before.directions, after.directions)
    points = before.origins + 4.0 * before.directions
    moved = points @ torch.tensor(matrix[:3, :3]).float() + torch.tensor(matrix[:3, 3]).float()
    torch.testing.assert_close(moved, after.origins + 4.0 * scale * after.directions, atol=1e-5, rtol=1e-5)


def test_known_objects_stay_and_a_given_scale_is_used():
    posed = looking_at([1.0, 0.0, 0.0])
    known = PosedImages(posed.images, posed.cameras, posed.names, half_edge=0.5)
    assert np.array_equal(normalization(known, 0.55), np.eye(4))
    assert normalization(known, 0.25)[0, 0] != 1.0  # it would not fit
    assert np.array_equal(normalization(posed, 0.55, scale=0.3), np.diag([0.3, 0.3, 0.3, 1.0]))


def test_cameras_that_show_no_object_are_refused():
    cameras = orbit([10.0] * 4, 20.0, [2.0, 3.0, 4.0, 5.0], 40, height=6, width=9)
    with pytest.raises(ConfigError, match="one direction only"):
        normalization(PosedImages(torch.from_numpy(pictures()), cameras, ("",) * 4), 0.5)
    outward = looking_at([0.0, 0.0, 0.0])
    poses = outward.cameras.camera_to_world.clone()
    poses[:, :3, [0, 2]] *= -1.0  # turned round
    turned = PosedImages(outward.images, cameras_at(poses, outward.cameras.fov_y, 6, 9), outward.names)
    with pytest.raises(ConfigError, match="away from each other"):
        normalization(turned, 0.5)


def test_one_background_colour_is_found_and_two_are_not():
    images = pictures(4, 3)
    images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1] = ((250, 251, 249),) * 4
    posed = PosedImages(torch.from_numpy(images), CAMERAS, ("",) * 4)
    torch.testing.assert_close(background_color(posed), torch.tensor([250, 251, 249]) / 255.0)
    images[2:, 0], images[2:, -1] = ((20, 20, 20),) * 2
    assert background_color(PosedImages(torch.from_numpy(images), CAMERAS, ("",) * 4)) is None
    assert background_color(PosedImages(torch.from_numpy(pictures()), CAMERAS, ("",) * 4)) is None
