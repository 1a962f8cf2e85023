"""Picture files of every kind against the colours that were put into them."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from threedgen.core.errors import ThreedgenError
from threedgen.data.pictures.decoding import open_picture, stored

RAMP = np.arange(0, 240, 10).reshape(4, 6)  # eight bits


def png(samples, color_type):
    """A PNG file with sixteen bits a sample, [H, W, C], put together by hand: Pillow writes none in colour."""
    height, width, _ = samples.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)

    def chunk(kind, content):
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    header = struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


@pytest.mark.parametrize(
    ("channels", "color_type", "mode"), [(1, 0, "RGB"), (2, 4, "RGBA"), (3, 2, "RGB"), (4, 6, "RGBA")]
)
def test_sixteen_bits_become_eight(channels, color_type, mode):
    eight = np.stack([RAMP + i for i in range(channels)], -1)
    picture = open_picture(png(eight * 257, color_type), "a.png")
    assert picture.mode == mode
    expected = eight if channels > 2 else np.concatenate([eight[..., :1].repeat(3, -1), eight[..., 1:]], -1)
    assert np.abs(np.asarray(picture).astype(int) - expected).max() == 0


def test_sixteen_bits_of_tiff_become_eight(tmp_path):
    Image.fromarray((RAMP * 257 + 90).astype(np.uint16)).save(tmp_path / "a.tiff")
    picture = open_picture((tmp_path / "a.tiff").read_bytes(), "a")
    assert np.array_equal(np.asarray(picture), RAMP[..., None].repeat(3, -1))


def test_transparency_of_palettes_is_alpha(tmp_path):
    picture = Image.fromarray((RAMP > 100).astype(np.uint8), "P")
    picture.putpalette([255, 0, 0, 0, 0, 255])
    picture.save(tmp_path / "a.png", transparency=0)
    read = np.asarray(open_picture((tmp_path / "a.png").read_bytes(), "a"))
    assert np.array_equal(read[..., 3], np.where(RAMP > 100, 255, 0)) and (read[RAMP > 100] == (0, 0, 255, 255)).all()


def profile(name, swapped=False):
    """sRGB's under another name; swapped: its red and green are each other's."""
    content = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    content = content.replace("sRGB".encode("utf-16-be"), name.encode("utf-16-be"))
    if swapped:
        content = content.replace(b"rXYZ", b"????").replace(b"gXYZ", b"rXYZ").replace(b"????", b"gXYZ")
    return content


@pytest.mark.parametrize("alpha", [(), (77,)])
def test_colours_of_another_profile_become_srgb(tmp_path, alpha):
    picture, there = Image.new("RGBA" if alpha else "RGB", (4, 4), (255, 30, 0, *alpha)), tmp_path / "a.png"
    for icc, expected in (
        (profile("odd!", swapped=True), (30, 255, 0)),
        (profile("sRGB", swapped=True), (255, 30, 0)),  # by its name it is sRGB's: every bit stays
        (profile("odd!", swapped=True)[:500], (255, 30, 0)),  # cut off
        (b"no profile", (255, 30, 0)),
    ):
        picture.save(there, icc_profile=icc)
        assert open_picture(there.read_bytes(), "a").getpixel((2, 2)) == (*expected, *alpha)


def test_a_profile_of_greys_says_nothing_of_rgb(tmp_path):
    grey = profile("odd!", swapped=True).replace(b"RGB ", b"GRAY")
    Image.fromarray(RAMP.astype(np.uint8)).save(tmp_path / "a.png", icc_profile=grey)
    assert np.array_equal(open_picture((tmp_path / "a.png").read_bytes(), "a"), RAMP[..., None].repeat(3, -1))


def test_a_picture_on_its_side_is_turned_or_left(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown a quarter turn clockwise
    Image.fromarray(RAMP.astype(np.uint8)).save(tmp_path / "a.png", exif=exif)
    found = stored(tmp_path / "a.png")
    assert found == (6, 4, 6) and found.on_its_side
    data = (tmp_path / "a.png").read_bytes()
    assert np.array_equal(np.asarray(open_picture(data, "a"))[..., 0], np.rot90(RAMP, -1))
    assert np.array_equal(np.asarray(open_picture(data, "a", turned=False))[..., 0], RAMP)


def test_animations_are_refused_where_one_picture_is_meant(tmp_path):
    first, second = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    first.save(tmp_path / "a.webp", save_all=True, append_images=[second], lossless=True)
    data = (tmp_path / "a.webp").read_bytes()
    with pytest.raises(ThreedgenError, match=r"^a\.webp: it has 2 frames"):
        open_picture(data, "a.webp")
    assert open_picture(data, "a.webp", still=False).getpixel((3, 3)) == (255, 0, 0)
    # telephones put a second picture behind the first: brightness for better screens, or what the other lens saw
    first.save(tmp_path / "b.mpo", save_all=True, append_images=[second])
    assert open_picture((tmp_path / "b.mpo").read_bytes(), "b.jpg").getpixel((3, 3))[0] > 250


def test_heic(tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif")
    pixels = np.zeros((64, 96, 3), np.uint8)
    pixels[:32] = (200, 30, 20)
    pixels[32:] = (20, 40, 220)
    pillow_heif.from_pillow(Image.fromarray(pixels)).save(tmp_path / "a.heic", quality=95)
    assert stored(tmp_path / "a.heic")[:2] == (96, 64)
    read = np.asarray(open_picture((tmp_path / "a.heic").read_bytes(), "a"))
    assert read.shape == pixels.shape and np.abs(read.astype(int) - pixels)[[4, 20, 44, 60]].max() < 12


def test_heic_without_the_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    with pytest.raises(ThreedgenError, match=r"^b\.jpg: HEIC needs pillow-heif \(pip install pillow-heif\)"):
        open_picture(b"\0\0\0\x18ftypheic\0\0\0\0", "b.jpg")  # whatever its name is


@pytest.mark.parametrize("data", [b"", b"no picture", b"\x89PNG\r\n\x1a\n", png(RAMP[..., None] * 257, 0)[:60]])
def test_damage_is_one_line(data, tmp_path):
    with pytest.raises(ThreedgenError, match=r"^a\.png is no picture, or a damaged one"):
        open_picture(data, "a.png")
