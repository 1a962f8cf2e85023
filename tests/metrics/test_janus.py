import numpy as np
import pytest
import torch

from threedgen.cameras import orbit
from threedgen.data.miniworld import COLORS, build, parse, render
from threedgen.metrics import colour_fraction, janus_score


def picture(body, face=None, shade=1.0, size=20):
    """A square body of 10 x 10 pixels on grey; a face of 4 x 5 in it, a fifth of the foreground."""
    rgb, opacity = np.full((1, size, size, 3), 0.5), np.zeros((1, size, size, 1))
    rgb[0, 5:15, 5:15], opacity[0, 5:15, 5:15] = np.array(COLORS[body]) * shade, 1.0
    if face:
        rgb[0, 6:10, 7:12] = np.array(COLORS[face]) * shade
    return rgb, opacity


@pytest.mark.parametrize("shade", [0.6, 0.8, 1.0, 1.1])
@pytest.mark.parametrize("face", COLORS)
@pytest.mark.parametrize("body", COLORS)
def test_the_fraction_is_counted_in_any_light(body, face, shade):
    if body != face:
        rgb, opacity = picture(body, face, shade)
        assert colour_fraction(rgb.clip(0, 1), opacity, face, COLORS) == pytest.approx([0.2])
        assert colour_fraction(torch.from_numpy(rgb), torch.from_numpy(opacity), body, COLORS) == pytest.approx([0.8])


def test_half_covered_pixels_count_without_their_background():
    """Red on grey at 60 % looks orange; it is red."""
    opacity = np.full((1, 4, 4, 1), 0.6)
    for background in ((0.5, 0.5, 0.5), (0.1, 0.9, 0.2)):
        rgb = 0.6 * np.array(COLORS["red"]) + 0.4 * np.broadcast_to(background, (1, 4, 4, 3))
        assert colour_fraction(rgb, opacity, "red", COLORS, background) == [1.0]
        assert colour_fraction(rgb, opacity, "orange", COLORS, background) == [0.0]


def test_eyes_are_no_face():
    rgb, opacity = picture("red")
    rgb[0, 8:10, 8:10] = 0.05
    few = {name: COLORS[name] for name in ("red", "blue", "purple", "green")}
    for name in ("blue", "purple", "green"):
        assert colour_fraction(rgb, opacity, name, few) == [0.0]
    assert colour_fraction(rgb, opacity, "black", COLORS) == pytest.approx([0.04])


def test_nothing_there_and_no_such_colour():
    rgb, opacity = picture("red")
    assert colour_fraction(rgb, 0 * opacity, "red", COLORS) == [0.0]
    with pytest.raises(KeyError, match="mauve"):
        colour_fraction(rgb, opacity, "mauve", COLORS)


def test_the_verdict():
    """Pictures of the front and the back; in truth the face is a fifth of the front and not at the back."""

    def score(front, back):
        fractions = [colour_fraction(*picture("red", face), "green", COLORS) for face in (front, back)]
        return janus_score(*fractions, truth_front=0.2, truth_back=0.0)

    assert not score("green", None).is_janus
    assert score("green", "green").is_janus
    assert not score(None, None).is_janus
    assert score(None, "green").is_janus
    assert score("green", "green").front == pytest.approx(0.2) and score("green", None).back == 0


def test_the_verdict_is_relative_to_the_truth():
    """A rim of the face that the truth shows from behind is none of the optimisation's faults."""
    assert not janus_score([0.3, 0.4], [0.19, 0.21], truth_front=0.35, truth_back=0.1).is_janus
    assert janus_score([0.3, 0.4], [0.22, 0.24], truth_front=0.35, truth_back=0.1).is_janus
    # a stack's base is seen from everywhere
    assert not janus_score(0.4, 0.41, truth_front=0.4, truth_back=0.4).is_janus
    assert not janus_score(0.4, 0.41, truth_front=0.36, truth_back=0.4).is_janus


@pytest.mark.parametrize("caption", ["a red cat with a green face", "a white bear with an orange face"])
def test_the_fraction_of_an_exact_picture_is_what_was_drawn(caption):
    cameras = orbit([0, 30, 150, 180], 15, 2.5, 40, 64)
    truth = render(build(parse(caption)), cameras.camera_to_world.numpy(), cameras.fov_y.numpy(), 64)
    seen = truth.opacity[..., 0] > 0.5
    drawn = (seen & (truth.feature[..., 0] > 0.5)).sum((1, 2)) / seen.sum((1, 2))
    counted = colour_fraction(truth.rgb, truth.opacity, parse(caption).feature_color, COLORS)
    assert counted == pytest.approx(drawn, abs=0.02)
    assert counted[0] > 0.1 and counted[3] < 0.01
