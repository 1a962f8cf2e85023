"""Captioned pictures as people have them, against what their pixels are by construction; damaged ones; shards."""

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from threedgen.config.schema import Config
from threedgen.core.errors import ConfigError, ThreedgenError
from threedgen.data.training_sources import open_image_source

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def rng():
    return np.random.default_rng(0)


def two_halves(width=8, height=4, left=RED, right=BLUE, mode="RGB"):
    picture = Image.new(mode, (width, height), left)
    picture.paste(right, (width // 2, 0, width, height))
    return picture


def test_captions_come_from_three_kinds_of_files(tmp_path):
    for kind in ("txt", "captions", "metadata"):
        (tmp_path / kind / "deep").mkdir(parents=True)
        two_halves().save(tmp_path / kind / "deep/b.png")
        two_halves().save(tmp_path / kind / "a.jpeg")
        two_halves().save(tmp_path / kind / "unnamed.png")
    (tmp_path / "txt/a.txt").write_text("one\n")
    (tmp_path / "txt/deep/b.txt").write_text("two")
    (tmp_path / "captions/captions.jsonl").write_text(
        '{"file": "deep/b.png", "caption": "two"}\n{"file": "a.jpeg", "caption": "one"}\n'
    )
    (tmp_path / "metadata/metadata.jsonl").write_text(
        '{"file_name": "a.jpeg", "text": "one"}\n{"file_name": "deep/b.png", "text": "two"}\n'
    )
    for kind in ("txt", "captions", "metadata"):
        source = open_image_source(str(tmp_path / kind), Config(), 4)
        assert [source.draw(index, rng()).caption for index in range(len(source))] == ["one", "two"]
        assert list(source.texts()) == ["one", "two"]


def test_captions_as_other_programs_write_them(tmp_path, capsys):
    """A mark at the file's beginning, ends of lines that are none to JSON, and null, which is no caption."""
    for name in ("a", "b", "c"):
        two_halves().save(tmp_path / f"{name}.png")
    lines = ['{"file": "a.png", "caption": "one\u2028and\x85more"}', '{"file": "b.png", "caption": null}']
    (tmp_path / "captions.jsonl").write_bytes(("\ufeff" + "\r\n".join(lines)).encode())
    source = open_image_source(str(tmp_path), Config(), 4)
    assert list(source.texts()) == ["one\u2028and\x85more"]
    assert "1 of 2 pictures have no caption and are left out, b.png first" in capsys.readouterr().err
    (tmp_path / "captions.jsonl").unlink()
    (tmp_path / "c.txt").write_bytes("\ufeffthree".encode())
    assert list(open_image_source(str(tmp_path), Config(), 4).texts()) == ["three"]
    files = [("a.png", encoded(RED)), ("a.json", b'{"caption": null}'), ("b.png", encoded(RED))]
    (tmp_path / "shards").mkdir()
    write_tar(tmp_path / "shards/0.tar", [*files, ("b.txt", "\ufefffour".encode())])
    assert list(open_image_source(str(tmp_path / "shards"), Config(), 4).texts()) == ["four"]


def drawn(tmp_path, picture, size, suffix="png", **options):
    """The picture as a source of one gives it."""
    folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
    folder.mkdir()
    picture.save(folder / f"a.{suffix}", **options)
    (folder / "a.txt").write_text("a picture")
    return open_image_source(str(folder), Config(), size).draw(0, rng()).image


def test_pictures_are_cropped_to_their_middle_turned_and_keep_their_alpha(tmp_path):
    middle = drawn(tmp_path, two_halves(8, 4), 4)  # columns 2..5
    np.testing.assert_array_equal(middle[:, :2], np.broadcast_to((*RED, 255), (4, 2, 4)))
    np.testing.assert_array_equal(middle[:, 2:], np.broadcast_to((*BLUE, 255), (4, 2, 4)))
    turned = Image.Exif()
    turned[0x0112] = 6  # EXIF 2.3: row 0 of the file is the right side of what is shown
    image = drawn(tmp_path, two_halves(8, 4), 4, exif=turned)
    np.testing.assert_array_equal(image[:2], np.broadcast_to((*RED, 255), (2, 4, 4)))
    np.testing.assert_array_equal(image[2:], np.broadcast_to((*BLUE, 255), (2, 4, 4)))
    # area filter, premultiplied: half covered by red, whatever colour hides in the transparent half
    half = drawn(tmp_path, two_halves(4, 4, (*RED, 255), (*GREEN, 0), "RGBA"), 1)
    assert half.shape == (1, 1, 4) and np.abs(half[0, 0].astype(int) - (128, 0, 0, 128)).max() <= 1
    larger = drawn(tmp_path, two_halves(4, 4, (*RED, 255), (*GREEN, 0), "RGBA"), 9)
    assert (larger[..., :3] <= larger[..., 3:]).all() and not larger[..., 1].any()
    palette = two_halves(4, 4).quantize(2)
    image = drawn(tmp_path, palette, 4, transparency=palette.getpixel((0, 0)))
    assert tuple(image[0, 0]) == (0, 0, 0, 0) and tuple(image[0, 3]) == (*BLUE, 255)
    cmyk = drawn(tmp_path, two_halves(16, 16).convert("CMYK"), 16, "jpg")
    assert np.abs(cmyk[8, 2].astype(int) - (*RED, 255)).max() < 12
    grey = drawn(tmp_path, Image.new("L", (5, 3), 77), 2)
    np.testing.assert_array_equal(grey, np.broadcast_to((77, 77, 77, 255), (2, 2, 4)))


def test_a_damaged_picture_is_named_once_and_the_next_stands_for_it(tmp_path, capsys):
    for i, color in enumerate((RED, GREEN, BLUE)):
        Image.new("RGB", (64, 64), color).save(tmp_path / f"{i}.png")
        (tmp_path / f"{i}.txt").write_text(f"picture {i}")
    whole = (tmp_path / "1.png").read_bytes()
    (tmp_path / "1.png").write_bytes(whole[: len(whole) // 2])
    source = open_image_source(str(tmp_path), Config(), 8)
    assert not capsys.readouterr().err
    for _ in range(3):
        assert [source.draw(i, rng()).caption for i in range(3)] == ["picture 0", "picture 2", "picture 2"]
    (warning,) = capsys.readouterr().err.splitlines()
    assert warning.startswith("warning:") and str(tmp_path / "1.png") in warning
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(b"")
    with pytest.raises(ThreedgenError, match="in a row cannot be used"):
        source.draw(0, rng())


def test_what_cannot_be_an_image_source_is_one_clear_line(tmp_path, capsys):
    def error(where):
        with pytest.raises(ConfigError) as caught:
            open_image_source(str(where), Config(), 8)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "no such folder" in error(tmp_path / "none")
    assert "holds no pictures" in error(tmp_path)
    two_halves().save(tmp_path / "a.png")
    assert "have no captions" in error(tmp_path)
    two_halves().save(tmp_path / "b.png")
    (tmp_path / "b.txt").write_text("b")
    assert len(open_image_source(str(tmp_path), Config(), 8)) == 1
    assert "1 of 2 pictures have no caption and are left out, a.png first" in capsys.readouterr().err
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "c.png", "text": "c"}')
    assert "metadata.jsonl:1: c.png is not there" in error(tmp_path)
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png"}')
    assert "metadata.jsonl:1" in error(tmp_path)


def encoded(color, format_name="PNG"):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), color).save(buffer, format_name, lossless=True)
    return buffer.getvalue()


def write_tar(path, files, mode="w"):
    with tarfile.open(path, mode) as tar:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def test_shards_of_pictures_as_others_write_them(tmp_path, capsys):
    """txt or json captions, jpg, png or webp, folders and long names inside, other files beside them."""
    long = "deep/" * 30 + "third"
    files = [("__about__", b"{}"), ("one.png", encoded(RED)), ("one.txt", b"red\n"), ("one.cls", b"7")]
    files += [
        ("two.x.WEBP", b"no picture"),
        ("two.webp", encoded(GREEN, "WEBP")),
        ("two.json", b'{"caption": "green"}'),
    ]
    write_tar(tmp_path / "00000.tar", files)
    files = [(f"{long}.txt", b"blue"), (f"{long}.jpg", encoded(BLUE, "JPEG"))]
    write_tar(tmp_path / "00001.tar", [*files, ("four.txt", b"no picture"), ("five.png", encoded(RED))])
    source = open_image_source(str(tmp_path), Config(), 2)
    drawn_ones = [source.draw(index, rng()) for index in range(len(source))]
    captions = [drawn_one.caption for drawn_one in drawn_ones]
    assert captions == ["red", "green", "blue", "red", "red"]  # the first stands for those without picture and caption
    for drawn_one in drawn_ones:
        color = {"red": RED, "green": GREEN, "blue": BLUE}[drawn_one.caption]
        assert np.abs(drawn_one.image.astype(int) - (*color, 255)).max() <= 2
    assert list(source.texts()) == ["red", "green", "blue", "no picture"]
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 2 and "four: has no picture" in warnings[0] and "five: has no caption" in warnings[1]


def test_a_shard_of_views_is_no_shard_of_pictures_and_the_error_says_so(tmp_path):
    write_tar(tmp_path / "0.tar", [("a.json", json.dumps({"caption": "a"}).encode()), ("a.000.png", encoded(RED))])
    with pytest.raises(ConfigError, match="a: has no picture"):
        open_image_source(str(tmp_path), Config(), 2)
