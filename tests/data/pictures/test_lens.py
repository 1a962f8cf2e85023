"""Pictures of bent, off-centre and unsquare lenses against what an ideal camera sees of the same scene.

The forward model is restated here: every pixel of the bent picture is traced back to its direction by solving OpenCV's
equations, and the scene is a function of directions in closed form.
"""

import math

import numpy as np
import pytest
from PIL import Image

from threedgen.core.errors import ConfigError
from threedgen.data.pictures.lens import Lens, Pinhole, lens_of, pinholes, straightened

BENT = {"fl_x": 110.0, "fl_y": 99.0, "w": 120, "h": 80, "cx": 66.0, "cy": 37.0}
BENT |= {"k1": -0.21, "k2": 0.06, "p1": 0.011, "p2": -0.007}


def scene(x, y):
    """[..., 3] in 0..1: what lies in the direction (x, y, 1), smooth."""
    return np.stack([0.5 + 0.5 * np.sin(9 * x + 2), 0.5 + 0.5 * np.cos(11 * y - 5 * x), 0.5 + 0.4 * np.sin(8 * y)], -1)


def directions(words):
    """x, y [H, W] of the pixels' centres."""
    u, v = np.meshgrid(np.arange(words["w"]) + 0.5, np.arange(words["h"]) + 0.5)
    bent_x, bent_y = (u - words["cx"]) / words["fl_x"], (v - words["cy"]) / words["fl_y"]
    k1, k2, p1, p2 = (words.get(name, 0.0) for name in ("k1", "k2", "p1", "p2"))

    def bent(x, y):
        r2 = x**2 + y**2
        x_bent = x * (1 + k1 * r2 + k2 * r2**2) + 2 * p1 * x * y + p2 * (r2 + 2 * x**2)
        y_bent = y * (1 + k1 * r2 + k2 * r2**2) + p1 * (r2 + 2 * y**2) + 2 * p2 * x * y
        return np.stack([x_bent - bent_x, y_bent - bent_y])

    x, y, h = bent_x, bent_y, 1e-6
    for _ in range(20):  # Newton's method, derivatives by differences
        error = bent(x, y)
        (a, c), (b, d) = (bent(x + h, y) - error) / h, (bent(x, y + h) - error) / h
        determinant = a * d - b * c
        x, y = x - (d * error[0] - b * error[1]) / determinant, y - (a * error[1] - c * error[0]) / determinant
    assert np.abs(bent(x, y)).max() < 1e-12
    return x, y


def as_picture(image):
    return Image.fromarray(np.rint(255 * image).astype(np.uint8))


def ideal(pinhole):
    x = (np.arange(pinhole.width) + 0.5 - pinhole.width / 2) / pinhole.focal
    y = (np.arange(pinhole.height) + 0.5 - pinhole.height / 2) / pinhole.focal
    return scene(*np.meshgrid(x, y))


@pytest.fixture(scope="module")
def bent_picture():
    return as_picture(scene(*directions(BENT)))


def test_a_bent_off_centre_picture_becomes_the_ideal_cameras(bent_picture):
    lens = lens_of(BENT, 120, 80, "a.png")
    (pinhole,) = pinholes([lens], 0)
    # wide enough for the farther border on either side, at the finer of the two focal lengths
    assert (pinhole.width, pinhole.height) == (132, round(2 * 43 * 110 / 99))
    assert pinhole.tangent == pytest.approx(max(43 / 99, 66 / 110 * pinhole.height / pinhole.width))
    image, seen = straightened(bent_picture, lens, pinhole)
    error = np.abs(image / 255.0 - ideal(pinhole))[seen]
    assert seen.mean() > 0.8 and not image[~seen].any()
    assert error.mean() < 0.004 and error.max() < 0.06
    without = np.abs(np.asarray(bent_picture.resize((pinhole.width, pinhole.height))) / 255.0 - ideal(pinhole))[seen]
    assert without.mean() > 30 * error.mean()  # what is seen if the lens is ignored


def test_what_is_seen_is_where_the_picture_ends(bent_picture):
    """A white frame of one pixel around a bent picture lies along the border of what is seen."""
    framed = np.zeros((80, 120, 3), np.uint8)
    framed[0], framed[-1], framed[:, 0], framed[:, -1] = 255, 255, 255, 255
    lens = lens_of(BENT, 120, 80, "a.png")
    (pinhole,) = pinholes([lens], 0)
    image, seen = straightened(Image.fromarray(framed), lens, pinhole)
    rows = np.flatnonzero(seen.any(0))  # columns with something
    for column in rows[10:-10:7]:
        shown = np.flatnonzero(seen[:, column])
        for edge, beyond in ((shown[0], shown[0] - 1), (shown[-1], shown[-1] + 1)):
            if 0 < beyond < pinhole.height - 1:
                assert image[edge, column].max() > 100


def test_smaller_pictures_average_and_keep_what_transparent_pixels_hide(bent_picture):
    lens = lens_of(BENT, 120, 80, "a.png")
    (pinhole,) = pinholes([lens], 44)
    assert (pinhole.width, max(pinhole.height, 44)) == (44, 44)
    image, seen = straightened(bent_picture, lens, pinhole)
    assert np.abs(image / 255.0 - ideal(pinhole))[seen].mean() < 0.02
    cut_out = np.zeros((80, 120, 4), np.uint8)
    cut_out[..., 1] = 255  # green, hidden
    cut_out[:40] = (255, 0, 0, 255)
    image, seen = straightened(Image.fromarray(cut_out), lens, pinhole)
    covered = image[..., 3] > 8  # colours of fewer are too coarse to compare
    assert (image[covered][:, 0] > 240).all() and (image[covered][:, 1] < 12).all()
    assert 0.35 < image[..., 3][seen].mean() / 255 < 0.65


def test_an_ordinary_picture_is_not_touched(bent_picture):
    words = {"fl_x": 100.0, "fl_y": 100.05, "w": 240, "h": 160, "cx": 120.3, "cy": 80.0, "k1": 1e-5}
    lens = lens_of(words, 120, 80, "a.png")  # the picture was made half as large
    assert lens.focal_x == 50.0 and lens.center_x == 60.15
    (pinhole,) = pinholes([lens], 0)
    image, seen = straightened(bent_picture, lens, pinhole)
    assert seen is None and np.array_equal(image, np.asarray(bent_picture))
    assert pinhole[:2] == (120, 80) and 40 / pinhole.tangent == pytest.approx(50, rel=0.01)


def test_pictures_of_different_sizes_become_the_commonest():
    """A landscape twice, a portrait and a larger landscape of other cameras: all show the scene where it is."""
    shapes = [(90, 60, 80.0), (90, 60, 80.0), (60, 90, 80.0), (180, 120, 130.0)]
    lenses = [Lens(w, h, f, f, w / 2, h / 2) for w, h, f in shapes]
    became = pinholes(lenses, 0)
    assert {pinhole[:2] for pinhole in became} == {(90, 60)}
    for lens, pinhole, (width, height, focal) in zip(lenses, became, shapes, strict=True):
        words = {"w": width, "h": height, "fl_x": focal, "fl_y": focal, "cx": width / 2, "cy": height / 2}
        x = (np.arange(width) + 0.5 - width / 2) / focal
        y = (np.arange(height) + 0.5 - height / 2) / focal
        image, seen = straightened(as_picture(scene(*np.meshgrid(x, y))), lens, pinhole)
        shows = np.ones(image.shape[:2], bool) if seen is None else seen
        assert np.abs(image / 255.0 - ideal(pinhole))[shows].mean() < 0.012, words
        assert (seen is None) == (width > height)
    portrait = became[2]
    assert portrait.tangent == pytest.approx(45 / 80)  # its whole height


def test_beyond_the_turning_point_of_the_polynomial_nothing_is_seen():
    """r (1 - 0.8 r^2) grows up to r = 0.645 and then returns: the same pixels would be seen again."""
    lens = Lens(100, 100, 60.0, 60.0, 50.0, 50.0, k1=-0.8)
    pinhole = Pinhole(100, 100, 50 / 60)
    _, seen = straightened(Image.new("RGB", (100, 100), "white"), lens, pinhole)
    x, y = np.meshgrid((np.arange(100) - 49.5) / 60, (np.arange(100) - 49.5) / 60)
    turning = 1 / math.sqrt(3 * 0.8)
    assert np.array_equal(seen, np.hypot(x, y) < turning)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ({}, "neither camera_angle_x nor fl_x"),
        ({"fl_x": 9}, "neither camera_angle_x nor fl_x"),
        ({"fl_x": 9, "w": 60, "h": 90}, r"width / height is 1.500, its camera's 0.667"),
        ({"fl_x": -9, "w": 90, "h": 60}, "focal lengths of -9"),
        ({"camera_angle_x": 1, "cx": 400, "w": 90, "h": 60}, "principal point 400, 30 lies outside"),
        ({"camera_angle_x": 1, "k4": 0.1}, r"not read \(k4\)"),
        ({"camera_angle_x": 1, "camera_model": "OPENCV_FISHEYE"}, "OPENCV_FISHEYE is not supported"),
        ({"camera_angle_x": 1, "is_fisheye": True}, "is_fisheye is not supported"),
        ({"camera_angle_x": 1, "w": 0, "h": 60}, "0 x 60 pixels"),
    ],
)
def test_lenses_that_cannot_be_known_are_one_line(words, told):
    with pytest.raises(ConfigError, match=rf"a\.png: .*{told}") as caught:
        lens_of(words, 90, 60, "a.png")
    assert "\n" not in str(caught.value)


def test_angles_and_focal_lengths_say_the_same():
    expected = Lens(90, 60, 75.0, 75.0, 45.0, 30.0)
    for words in (
        {"camera_angle_x": 2 * math.atan(45 / 75)},
        {"camera_angle_y": 2 * math.atan(30 / 75)},
        {"fl_x": 150, "w": 180},
        {"fl_y": 150, "w": 180, "h": 120, "cx": 90},
        {"fl_x": 150, "w": 180, "h": 120, "camera_angle_x": 3.0},
    ):
        if "w" in words:
            words["h"] = 120
        np.testing.assert_allclose(lens_of(words, 90, 60, "a.png"), expected, err_msg=str(words))
