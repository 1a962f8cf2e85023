"""Pictures of a subject: whatever people have becomes squares of one size, and what is no picture is named."""

import sys
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from threedgen.core.errors import ConfigError
from threedgen.data.subject_images import read_object_picture, read_subject_images

RED, BLUE = (200, 30, 20), (20, 40, 220)


def two_halves(width, height):
    """Red above, blue below."""
    pixels = np.full((height, width, 3), RED, np.uint8)
    pixels[height // 2 :] = BLUE
    return Image.fromarray(pixels)


def is_red_over_blue(image):
    rgb = image[..., :3].astype(int)
    return np.abs(rgb[:12] - RED).max() < 30 and np.abs(rgb[20:] - BLUE).max() < 30


def test_sizes_formats_and_exif_turns_are_evened_out(tmp_path):
    two_halves(100, 60).save(tmp_path / "a.png")
    two_halves(30, 90).save(tmp_path / "b.webp", lossless=True)
    two_halves(20, 20).save(tmp_path / "c.JPG", "JPEG", quality=95)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held turned: to be shown a quarter turn clockwise
    two_halves(64, 64).rotate(90).save(tmp_path / "d.jpeg", exif=exif, quality=95)
    (tmp_path / "notes.txt").write_text("no picture")
    images = read_subject_images(tmp_path, 32)
    assert images.shape == (4, 32, 32, 4) and images.dtype == np.uint8
    assert (images[..., 3] == 255).all()
    assert all(is_red_over_blue(image) for image in images)


def test_a_cut_out_is_kept_whole_and_premultiplied(tmp_path):
    pixels = np.zeros((20, 40, 4), np.uint8)
    pixels[..., :3] = 255  # what transparent pixels hide must not show
    pixels[:, :20] = (*RED, 255)
    pixels[:, 20:30] = (100, 200, 50, 128)
    Image.fromarray(pixels).save(tmp_path / "cut-out.png")
    (image,) = read_subject_images(tmp_path, 40)
    assert (image[:10] == 0).all() and (image[30:] == 0).all()
    assert (image[10:30, :20] == (*RED, 255)).all()
    assert np.abs(image[10:30, 20:30].astype(int) - (50, 100, 25, 128)).max() <= 1
    assert (image[10:30, 30:] == 0).all()


def test_one_damaged_picture_is_named_and_passed_over(tmp_path, capsys):
    for i in range(5):
        two_halves(40, 40).save(tmp_path / f"{i}.png")
    whole = (tmp_path / "3.png").read_bytes()
    (tmp_path / "3.png").write_bytes(whole[: len(whole) // 2])
    assert len(read_subject_images(tmp_path, 32)) == 4
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and str(tmp_path / "3.png") in error and "passed over" in error


def test_nothing_to_learn_from_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="no pictures in that folder"):
        read_subject_images(tmp_path, 32)
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(ConfigError, match="none of its 1 pictures can be used"):
        read_subject_images(tmp_path, 32)
    with pytest.raises(ConfigError, match="is not a folder"):
        read_subject_images(tmp_path / "a.png", 32)


def test_backgrounds_are_removed_only_where_there_is_no_alpha(tmp_path, monkeypatch):
    seen = []

    def remove(picture):
        seen.append(picture.mode)
        result = picture.convert("RGBA")
        result.putalpha(Image.new("L", picture.size, 128))
        return result

    two_halves(32, 32).save(tmp_path / "a.png")
    with_alpha = two_halves(32, 32).convert("RGBA")
    with_alpha.putalpha(Image.new("L", (32, 32), 200))
    with_alpha.save(tmp_path / "b.png")
    monkeypatch.setitem(sys.modules, "rembg", SimpleNamespace(remove=remove))
    images = read_subject_images(tmp_path, 32, remove_background=True)
    assert seen == ["RGB"]
    assert (images[0][..., 3] == 128).all() and (images[1][..., 3] == 200).all()
    assert (read_subject_images(tmp_path, 32)[0][..., 3] == 255).all()
    monkeypatch.setitem(sys.modules, "rembg", None)
    with pytest.raises(ConfigError, match="pip install"):
        read_subject_images(tmp_path, 32, remove_background=True)


def _object(tmp_path, mode="RGBA", box=(10, 20, 40, 30), size=(100, 80)):
    picture = Image.new("RGBA", size, (0, 0, 0, 0))
    picture.paste((200, 30, 60, 255), box)
    path = tmp_path / "object.png"
    picture.convert(mode).save(path)
    return path


def test_an_objects_picture_is_moved_to_the_middle_with_a_border(tmp_path):
    """30 x 10 pixels in a corner: at a border of 0.25 they fill 3/4 of the width, in the middle."""
    rgba = read_object_picture(_object(tmp_path), 64, 0.25, remove_background=False)
    rows, columns = np.nonzero(rgba[..., 3] > 127)
    assert (columns.min(), columns.max()) == (8, 55) and (rows.min(), rows.max()) == (24, 39)
    assert (rgba[32, 32] == (200, 30, 60, 255)).all() and not rgba[0].any()


def test_an_object_at_the_pictures_border_has_nothing_beyond_it(tmp_path):
    rgba = read_object_picture(_object(tmp_path, box=(0, 0, 60, 80)), 32, 0.5, remove_background=False)
    assert rgba[16, 16, 3] == 255 and not rgba[:7].any() and not rgba[:, :7].any()


def _few(path):
    picture = Image.new("RGBA", (90, 90), (0, 0, 0, 0))
    picture.paste((1, 2, 3, 255), (40, 40, 43, 45))
    picture.save(path)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda path: Image.new("RGB", (9, 9)).save(path), "no transparent pixels"),
        (lambda path: Image.new("RGBA", (1, 1), (1, 2, 3, 255)).save(path), "no transparent pixels"),
        (lambda path: Image.new("RGBA", (9, 9), (1, 2, 3, 0)).save(path), "no object in it"),
        (lambda path: Image.new("F", (9, 9)).save(path, "TIFF"), "floating-point"),
        (lambda path: Image.new("RGBA", (9, 9), (1, 2, 3, 255)).resize((20, 9)).save(path), "no transparent pixels"),
        (lambda path: _few(path), "only 3 x 5 pixels"),
        (lambda path: Image.new("CMYK", (9, 9)).save(path, "TIFF"), "no transparent pixels"),
        (
            lambda path: Image.new("RGBA", (9, 9)).save(
                path, save_all=True, append_images=[Image.new("RGBA", (9, 9), (1, 2, 3, 255))]
            ),
            "it has 2 frames",
        ),
        (lambda path: path.write_bytes(b"no picture"), "is no picture"),
        (lambda path: None, "there is no such file"),
    ],
    ids=["opaque", "one pixel", "empty", "float", "a strip", "a few pixels", "cmyk", "animated", "text", "absent"],
)
def test_pictures_without_an_object_are_refused_in_a_line(tmp_path, make, told):
    path = tmp_path / "picture.png"
    make(path)
    with pytest.raises(ConfigError) as raised:
        read_object_picture(path, 32, 0.2, remove_background=False)
    assert told in str(raised.value) and "\n" not in str(raised.value)


def test_everything_that_is_left_out_is_named_with_its_reason(tmp_path, capsys):
    for i in range(8):  # more than six are as welcome
        two_halves(40, 40).save(tmp_path / f"{i}.{('png', 'tiff', 'avif', 'bmp')[i % 4]}")
    two_halves(15, 40).save(tmp_path / "narrow.png")
    Image.new("RGBA", (40, 40), (200, 0, 0, 0)).save(tmp_path / "glass.png")
    two_halves(40, 40).save(tmp_path / "moving.webp", save_all=True, append_images=[Image.new("RGB", (40, 40))])
    (tmp_path / "._0.png").write_bytes(b"resource fork")
    (tmp_path / "film.mp4").write_bytes(b"film")
    (tmp_path / "more").mkdir()
    (tmp_path / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic and no more")
    images = read_subject_images(tmp_path, 32)
    assert len(images) == 8 and all(is_red_over_blue(image) for image in images)
    told = {
        line.split(str(tmp_path) + "/")[1].split()[0].rstrip(":"): line for line in capsys.readouterr().err.splitlines()
    }
    reasons = {
        "narrow.png": "only 15 x 40 pixels",
        "glass.png": "transparent everywhere",
        "moving.webp": "has 2 frames",
        "._0.png": "hidden",
        "film.mp4": "no picture by its name",
        "more": "is a folder",
        "photo.heic": "pillow-heif" if find_spec("pillow_heif") is None else "no picture",
    }
    assert set(told) == set(reasons)
    assert all(reason in told[name] and "passed over" in told[name] for name, reason in reasons.items())


def test_a_subject_that_the_background_takes_with_it_is_passed_over(tmp_path, monkeypatch, capsys):
    def remove(picture):
        result = picture.convert("RGBA")
        result.putalpha(0 if picture.getpixel((20, 30)) == BLUE else 255)
        return result

    two_halves(40, 40).save(tmp_path / "a.png")
    Image.new("RGB", (40, 40), RED).save(tmp_path / "b.png")
    monkeypatch.setitem(sys.modules, "rembg", SimpleNamespace(remove=remove))
    (image,) = read_subject_images(tmp_path, 32, remove_background=True)
    assert (image == (*RED, 255)).all() and "a.png is transparent everywhere" in capsys.readouterr().err
