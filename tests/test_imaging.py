import io
import re
import subprocess

import numpy as np
import pytest
import torch
from PIL import Image

from threedgen import imaging
from threedgen.imaging import contact_sheet, save_png, save_turntable, save_turntable_gif, tile, to_uint8

RED, BLUE = np.array([0.8, 0.1, 0.1]), np.array([0.1, 0.2, 0.9])


def plain(color, n=1, height=64, width=64):
    return np.broadcast_to(np.asarray(color, np.float32), (n, height, width, 3)).copy()


def boxes(sheet, color):
    """(left, top, right, bottom) of what has a colour on a sheet, and how many pixels."""
    mask = np.abs(np.asarray(sheet, float) / 255 - color).max(-1) < 0.01
    rows, columns = np.nonzero(mask)
    return (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1), mask.sum()


def test_to_uint8_rounds_and_clips():
    values = [-1.0, 0.0, 0.5, 0.999, 2.0, np.nan]
    assert to_uint8(np.array(values)).tolist() == [0, 0, 128, 255, 255, 0]
    assert to_uint8(torch.tensor(values, requires_grad=True)).tolist() == [0, 0, 128, 255, 255, 0]
    assert to_uint8(np.array([7], np.uint8)).tolist() == [7]


def test_png_round_trip(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    for i, form in enumerate([image, image / 255, torch.from_numpy(image) / 255.0, Image.fromarray(image)]):
        save_png(form, tmp_path / f"{i}.png")
        assert np.array_equal(np.asarray(Image.open(tmp_path / f"{i}.png")), image)


def test_text_of_any_language_is_kept_in_a_png(tmp_path):
    text = {"prompt": "a r\u00f6d cat \u732b\nof two lines", "seed": "7"}
    save_png(plain(RED)[0], tmp_path / "a.png", text)
    assert Image.open(tmp_path / "a.png").text == text


def test_a_failed_write_leaves_the_old_picture(tmp_path, monkeypatch):
    save_png(plain(RED)[0], tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk")))
    with pytest.raises(OSError, match="disk"):
        save_png(plain(BLUE)[0], tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes() == before
    assert [f.name for f in tmp_path.iterdir()] == ["a.png"]


def test_tiles_of_two_sizes_fill_the_picture():
    picture = np.asarray(tile([torch.from_numpy(plain(RED, 2, 32, 32)), plain(BLUE, 2, 64, 64)])) / 255
    assert picture.shape == (128, 128, 3)
    assert np.abs(picture[:64] - RED).max() < 0.01 and np.abs(picture[64:] - BLUE).max() < 0.01


def test_a_sheet_shows_all_tiles_at_one_size_and_all_labels():
    sheet = contact_sheet([("first row", plain(RED, 3, 16, 16)), ("second", plain(BLUE, 2, 400, 400))], "A title")
    red, num_red = boxes(sheet, RED)
    blue, num_blue = boxes(sheet, BLUE)
    height = red[3] - red[1]
    assert height == blue[3] - blue[1] == 256
    assert num_red == 3 * height**2 and num_blue == 2 * height**2
    assert red[0] == blue[0] == 32 and sheet.width - red[2] == 32 and sheet.height - blue[3] == 32
    ink = np.asarray(sheet.convert("L")) < 180
    for top, bottom in ((0, red[1]), (red[3], blue[1])):
        assert ink[top:bottom].any()


def test_empty_labels_take_no_space():
    with_label, without = (contact_sheet([(label, plain(RED))]) for label in ("a", ""))
    assert without.size == (160 + 64, 160 + 64) and with_label.height > without.height


@pytest.mark.parametrize("text", ["w" * 500, "a cat " * 80, "line\nbreak\ttab", "猫 🐱 \u202e \x00", ""])
def test_any_text_fits_the_sheet(text):
    sheet = contact_sheet([(text, plain(RED))], text)
    assert sheet.width == 160 + 64
    assert (np.asarray(sheet)[:, -30:] == imaging._PAPER).all()


def test_enlarged_tiles_are_smooth():
    step = plain(RED, 1, 16, 16)
    step[0, :, 8:] = BLUE
    sheet = np.asarray(contact_sheet([("", step)]), float)
    assert np.abs(np.diff(sheet[112, 32:192, 0])).max() < 60  # nearest neighbours would jump by 179


def test_the_turntable_plays_all_frames_in_their_colours(tmp_path):
    x = np.linspace(0, 1, 48, dtype=np.float32)
    frames = np.stack([plain([0.5, 0.5, 0.5], 1, 48, 48)[0] for _ in range(12)])
    for i, frame in enumerate(frames):
        frame[8:40, i : i + 24] = np.stack([x[:24], 1 - x[:24], np.full(24, 0.2)], -1)
    save_turntable_gif(torch.from_numpy(frames), tmp_path / "t.gif", fps=25)
    gif = Image.open(io.BytesIO((tmp_path / "t.gif").read_bytes()))
    assert gif.n_frames == 12 and gif.info["loop"] == 0
    for i, frame in enumerate(frames):
        gif.seek(i)
        assert gif.info["duration"] == 40
        shown = np.asarray(gif.convert("RGB"), float) / 255
        assert np.abs(shown - frame).mean() < 0.02
        assert np.abs(shown[:8] - 0.5).max() < 0.01  # the background is clean, without dots


def wheel(n, height, width):
    """n frames of a coloured bar that goes round once, on grey."""
    y, x = np.mgrid[:height, :width] - np.array([height / 2, width / 2])[:, None, None]
    frames = np.full((n, height, width, 3), 0.5, np.float32)
    for i in range(n):
        angle = 2 * np.pi * i / n
        along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        frames[i][(along > 0) & (along < 28) & (np.abs(across) < 9)] = RED
    return frames


def decoded(path):
    """Frames [N, H, W, 3] uint8, and what ffmpeg says of the file."""
    ffmpeg = imaging.find_ffmpeg()
    about = subprocess.run([ffmpeg, "-i", path], capture_output=True, text=True).stderr
    width, height = map(int, re.search(r"Video:.*?, (\d+)x(\d+)", about).groups())
    command = [ffmpeg, "-v", "error", "-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    data = subprocess.run(command, capture_output=True, check=True).stdout
    return np.frombuffer(data, np.uint8).reshape(-1, height, width, 3), about


needs_ffmpeg = pytest.mark.skipif(imaging.find_ffmpeg() is None, reason="there is no ffmpeg")


@needs_ffmpeg
def test_the_film_has_every_frame_once_in_its_colours(tmp_path):
    frames = wheel(120, 63, 65)  # odd: a row and a column more
    path = save_turntable(frames, tmp_path, fps=24)
    assert path == tmp_path / "turntable.mp4" and [p.name for p in tmp_path.iterdir()] == ["turntable.mp4"]
    shown, about = decoded(path)
    assert shown.shape == (120, 64, 66, 3)
    assert len(np.unique(shown.reshape(120, -1), axis=0)) == 120
    assert np.abs(shown[:, :63, :65] / 255 - frames).mean() < 0.02
    assert np.abs(shown[:, :5, :5] / 255 - 0.5).max() < 0.02
    assert np.abs(shown[:, 63, :5] / 255 - 0.5).max() < 0.02 and np.abs(shown[:, :5, 65] / 255 - 0.5).max() < 0.02
    assert "h264" in about and "yuv420p(tv, bt709" in about and "24 fps" in about


@needs_ffmpeg
def test_an_error_while_the_frames_come_is_the_error_and_leaves_no_film(tmp_path):
    def frames():
        yield from wheel(3, 32, 32)
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        save_turntable(frames(), tmp_path)
    assert not list(tmp_path.iterdir())


@needs_ffmpeg
def test_a_film_that_cannot_be_made_becomes_a_gif(tmp_path, monkeypatch, capsys):
    broken = tmp_path / "ffmpeg"
    broken.write_text("#!/bin/sh\necho Unknown encoder libx264 >&2\nexit 1\n")
    broken.chmod(0o755)
    for found, words in ((None, "there is no ffmpeg"), (str(broken), "Unknown encoder libx264")):
        monkeypatch.setattr(imaging, "find_ffmpeg", lambda found=found: found)
        path = save_turntable(wheel(6, 32, 32), tmp_path)
        assert path.name == "turntable.gif" and Image.open(path).n_frames == 6
        printed = capsys.readouterr().out
        assert words in printed and printed.count("\n") == 1
    assert not (tmp_path / "turntable.mp4").exists()
