"""Cameras' files and folders as people have them, read as what they mean or refused with the next step."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from threedgen.cameras import orbit
from threedgen.config.scene import DataConvention, MaskUse
from threedgen.core.errors import ConfigError
from threedgen.data.pictures.conventions import check_convention, inwardness, to_opengl
from threedgen.data.posed_files import read_posed_images
from threedgen.data.posed_images import background_color

CAMERAS = orbit(np.arange(6) * 60, [10, 40, -20, 60, 5, 30], 4.0, 50, height=12, width=18)
POSES = CAMERAS.camera_to_world.double().numpy()
FLIP = np.diag([1.0, -1.0, -1.0, 1.0])


def picture(i, width=18, height=12, channels=4):
    rng = np.random.default_rng(i)
    return rng.integers(0, 255, (height, width, channels), np.uint8)


def write(folder, count=6, names="images/{}.png", per_frame=None, poses=POSES, channels=4, **settings):
    frames = []
    for i in range(count):
        file = folder / names.format(i).replace("\\", "/")
        file.parent.mkdir(exist_ok=True, parents=True)
        Image.fromarray(picture(i, channels=channels)).save(file)
        extra = per_frame(i) if per_frame else {}
        frames.append({"file_path": names.format(i), "transform_matrix": poses[i].tolist(), **extra})
    content = {"camera_angle_y": np.radians(50), "frames": frames, **settings}
    (folder / "transforms.json").write_text(json.dumps(content))


def test_backslashes(tmp_path):
    write(tmp_path, names=".\\images\\{}.png")
    posed = read_posed_images(tmp_path)
    assert all(np.array_equal(posed.images[i], picture(i)) for i in range(6)) and posed.names[2] == "2.png"
    torch.testing.assert_close(posed.cameras.fov_y, CAMERAS.fov_y)


def test_missing_pictures_are_named_and_passed_over_while_most_are_there(tmp_path, capsys):
    write(tmp_path)
    for i in (1, 4, 5):
        (tmp_path / f"images/{i}.png").unlink()
    posed = read_posed_images(tmp_path)
    assert posed.names == ("0.png", "2.png", "3.png")
    torch.testing.assert_close(posed.cameras.camera_to_world, CAMERAS.camera_to_world[[0, 2, 3]])
    (told,) = capsys.readouterr().err.splitlines()
    assert "3 pictures" in told and "images/1.png" in told and "passed over" in told
    (tmp_path / "images/0.png").unlink()
    with pytest.raises(ConfigError, match=r"0\.png: is not there.*4 of 6 pictures are missing"):
        read_posed_images(tmp_path)


def test_two_pictures_are_warned_of(tmp_path, capsys):
    write(tmp_path, count=3)
    read_posed_images(tmp_path)
    assert not capsys.readouterr().err
    write(tmp_path, count=2)
    assert len(read_posed_images(tmp_path)) == 2
    assert "2 pictures are hardly enough" in capsys.readouterr().err


def test_pictures_on_their_side_are_turned_where_the_file_says_so(tmp_path, capsys):
    """Frames 0 and 1 are listed as portraits, as a viewer shows them; the others as their pixels lie."""
    exif = Image.Exif()
    exif[0x0112] = 8
    portraits = (0, 1)
    write(
        tmp_path,
        per_frame=lambda i: {"w": 12, "h": 18} if i in portraits else {"w": 18, "h": 12},
        camera_angle_y=None,
        fl_x=20,
        fl_y=20,
    )
    for i in range(5):
        Image.fromarray(picture(i)).save(tmp_path / f"images/{i}.png", exif=exif)
    posed = read_posed_images(tmp_path)
    assert posed.images.shape == (6, 12, 18, 4)
    assert all(np.array_equal(posed.images[i], picture(i)) for i in (2, 3, 4, 5))
    assert posed.seen.sum((1, 2)).tolist() == [12 * 8] * 2 + [12 * 18] * 4  # a portrait stands in a landscape
    upright = np.asarray(Image.fromarray(np.rot90(picture(0))).resize((8, 12), Image.Resampling.BOX)).astype(int)
    solid = upright[..., 3] > 100
    difference = np.abs(posed.images[0].numpy().astype(int)[:, 5:13] - upright)[solid]
    assert difference[:, :3].mean() < 25 < np.abs(upright[::-1] - upright)[solid][:, :3].mean()
    told = capsys.readouterr().err.splitlines()
    assert "2 pictures (0.png" in told[0] and "turned" in told[0] and len(told) == 2
    assert "3 pictures (2.png, 3.png, 4.png)" in told[1] and "left" in told[1]


def test_pictures_with_and_without_alpha_are_told_apart(tmp_path, capsys):
    write(tmp_path)
    for i in (1, 3):
        flat = np.full((12, 18, 3), (10, 200, 90), np.uint8)
        flat[4:8, 6:12] = 255
        Image.fromarray(flat).save(tmp_path / f"images/{i}.png")
    posed = read_posed_images(tmp_path)
    assert posed.has_alpha and posed.cut_out.tolist() == [True, False, True, False, True, True]
    assert (posed.images[1, ..., 3] == 255).all() and np.array_equal(posed.images[2], picture(2))
    torch.testing.assert_close(background_color(posed), torch.tensor([10, 200, 90]) / 255)
    index = torch.arange(posed.num_pixels)
    assert torch.equal(posed.cut_out[posed.views_of(index)], posed.cut_out.repeat_interleave(12 * 18))
    assert posed.select([3, 0]).cut_out.tolist() == [False, True]
    assert "1.png, 3.png" in capsys.readouterr().err


def masked(folder, name, columns, size=(18, 12), white=255):
    mask = np.zeros((size[1], size[0]), np.uint8)
    mask[:, :columns] = white
    (folder / name).parent.mkdir(exist_ok=True, parents=True)
    Image.fromarray(mask).save(folder / name)


def test_masks_are_alpha_or_what_is_looked_at(tmp_path):
    """As transforms.json names them (1), twice as large (2), beside the pictures by name (0, 3), of ones only (4)."""
    named = {1: "m/first.png", 2: "m\\second.png"}
    write(tmp_path, channels=3, per_frame=lambda i: {"mask_path": named[i]} if i in named else {})
    masked(tmp_path, "masks/0.png", 3)
    masked(tmp_path, "m/first.png", 6)
    masked(tmp_path, "m/second.png", 8, (36, 24))
    masked(tmp_path, "masks/3.png.png", 9)
    Image.fromarray(np.ones((12, 18), np.uint8)).save(tmp_path / "masks/4.png")
    masked(tmp_path, "masks/5.png", 10)
    widths = [3, 6, 4, 9, 18, 10]
    posed = read_posed_images(tmp_path)
    assert posed.has_alpha and posed.seen is None
    for i, width in enumerate(widths):
        assert (posed.images[i, :, :width, 3] == 255).all() and not posed.images[i, :, width + 1 :, 3].any()
        assert np.array_equal(posed.images[i, ..., :3], picture(i, channels=3))

    posed = read_posed_images(tmp_path, masks=MaskUse.ignored)
    assert not posed.has_alpha and posed.seen.sum((1, 2)).tolist() == [12 * width for width in widths]
    assert posed.num_pixels == 12 * sum(widths)
    index = torch.arange(posed.num_pixels)
    rays, values = posed.pixels(index)
    assert torch.equal((values * 255).round().byte(), posed.images[posed.seen])
    view = posed.views_of(index)
    assert torch.equal(view.bincount(), posed.seen.sum((1, 2)))
    assert torch.equal(rays.origins, posed.cameras.camera_to_world[view, :3, 3])
    assert posed.select([2, 0]).num_pixels == 12 * 7


def test_masks_keep_their_folders_apart(tmp_path):
    write(tmp_path, count=4, channels=3, names="images/camera{0}/a.png")
    for i in range(4):
        masked(tmp_path, f"masks/camera{i}/a.png", 2 * i + 2)
    posed = read_posed_images(tmp_path, masks=MaskUse.ignored)
    assert posed.seen.sum((1, 2)).tolist() == [24, 48, 72, 96]


@pytest.mark.parametrize("place", ["masks/{}.png", "masks/one/{}.png", "masks/images/one/{}.png.png"])
def test_the_masks_of_a_single_folder_of_pictures(tmp_path, place):
    write(tmp_path, channels=3, names="images/one/{}.png")
    for i in range(6):
        masked(tmp_path, place.format(i), i + 1)
    posed = read_posed_images(tmp_path, masks=MaskUse.ignored)
    assert posed.seen.sum((1, 2)).tolist() == [12 * (i + 1) for i in range(6)]


def test_masks_of_other_names_are_told(tmp_path, capsys):
    write(tmp_path, channels=3)
    masked(tmp_path, "masks/mask_0.png", 3)
    assert read_posed_images(tmp_path).seen is None
    assert "there is no mask for 6 pictures (0.png, 1.png, 2.png, ...)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda folder: masked(folder, "masks/3.png", 5, (12, 12)), r"3\.png: the mask has 12 x 12 pixels"),
        (lambda folder: masked(folder, "masks/3.png", 0), r"masks leave nothing to look at in 3\.png"),
        (lambda folder: (folder / "masks/3.png").write_bytes(b"?"), r"3\.png is no picture"),
    ],
)
def test_masks_that_cannot_be_used_are_named(tmp_path, spoil, told):
    write(tmp_path, channels=3)
    masked(tmp_path, "masks/0.png", 5)
    spoil(tmp_path)
    with pytest.raises(ConfigError, match=told):
        read_posed_images(tmp_path, masks=MaskUse.ignored)


def test_a_listed_mask_must_be_there(tmp_path):
    write(tmp_path, channels=3, per_frame=lambda i: {"mask_path": "none.png"})
    with pytest.raises(ConfigError, match=r"none\.png: the mask is not there"):
        read_posed_images(tmp_path)


MATRICES = {
    "opengl": POSES,
    "opencv": POSES @ FLIP,
    "opengl_world_to_camera": np.linalg.inv(POSES),
    "opencv_world_to_camera": np.linalg.inv(POSES @ FLIP),
}


@pytest.mark.parametrize("given", MATRICES)
@pytest.mark.parametrize("shift", [(0.0, 0.0, 0.0), (9.0, -4.0, 2.0)])
def test_matrices_of_other_conventions_are_recognised_and_taken(tmp_path, given, shift):
    """Also around an object that is far from the origin."""
    move = np.eye(4)
    move[:3, 3] = shift
    matrices = MATRICES[given] @ np.linalg.inv(move) if "world_to" in given else move @ MATRICES[given]
    np.testing.assert_allclose(to_opengl(matrices, DataConvention[given]), move @ POSES, atol=1e-12)
    write(tmp_path, poses=matrices)
    for asked in DataConvention:
        if asked.name == given:
            posed = read_posed_images(tmp_path, convention=asked)
            expected = torch.from_numpy(move @ POSES).float()
            torch.testing.assert_close(posed.cameras.camera_to_world, expected, atol=1e-5, rtol=1e-5)
        else:
            with pytest.raises(ConfigError, match=f"add data_convention={given}$"):
                read_posed_images(tmp_path, convention=asked)


def test_cameras_that_only_roughly_look_at_something_are_not_doubted():
    rng = np.random.default_rng(0)
    poses = POSES.copy()
    poses[:, :3, 3] += rng.normal(0, 0.8, (6, 3))
    assert 0.5 < inwardness(poses) <= 1.0
    check_convention(poses, DataConvention.opengl, "here")
    side_by_side = np.tile(np.eye(4), (4, 1, 1))
    side_by_side[:, 0, 3] = range(4)
    check_convention(side_by_side, DataConvention.opengl, "here")  # it has no point: `normalization` says so


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (["film.mp4"], "film.mp4 is a video: take pictures out of it"),
        (["images/a.jpg", "images/b.HEIC"], "2 pictures stood is not known: COLMAP finds out .*--image_path {}/images"),
        (["database.db", "images/a.jpg"], "run its mapper"),
        (["notes.txt"], r"transforms_train\.json$"),
    ],
)
def test_folders_without_cameras_are_told_the_next_step(tmp_path, files, told):
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(ConfigError, match=told.format(tmp_path)) as caught:
        read_posed_images(tmp_path)
    assert "holds no cameras.json" in str(caught.value) and "\n" not in str(caught.value)


def test_single_files_are_named_as_what_they_are(tmp_path):
    (tmp_path / "film.MOV").write_bytes(b"")
    with pytest.raises(ConfigError, match="MOV: is a video"):
        read_posed_images(tmp_path / "film.MOV")
    for name in ("scene.zip", "scene.tar.GZ"):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(ConfigError, match="is an archive: unpack it"):
            read_posed_images(tmp_path / name)
    (tmp_path / "a.jpg").write_bytes(b"")
    with pytest.raises(ConfigError, match="is one picture"):
        read_posed_images(tmp_path / "a.jpg")
    write(tmp_path, per_frame=lambda i: {"file_path": "film.MOV"})
    with pytest.raises(ConfigError, match="MOV: is a video"):
        read_posed_images(tmp_path)
