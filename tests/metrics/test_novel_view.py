"""Fits whose faults are known: who is asked for what, what it scores, and who may not judge."""

import math
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from threedgen.cameras import Cameras, orbit
from threedgen.core.errors import ThreedgenError
from threedgen.metrics import psnr, ssim
from threedgen.metrics.novel_view import NovelViews

CAMERAS = orbit(np.arange(24) * 15.0, 15.0, 2.5, 40, 16, num_views=24)
VIEWS = np.random.default_rng(0).uniform(0.3, 0.7, (24, 16, 16, 3)).astype(np.float32)
ERRORS = np.where(np.arange(24) % 4 == 1, 0.03, 0.01)[:, None, None, None]  # of views 1, 5, ... and of all others


@dataclass
class WithErrors:
    """Shows the views of `VIEWS`, found by their azimuths, with an error each."""

    errors: np.ndarray
    calls: list

    def fit(self, images: np.ndarray, cameras: Cameras):
        weight = torch.ones(1, requires_grad=True)
        weight.square().backward()  # a fit needs gradients
        self.calls.append((images, cameras))
        return self

    def render(self, cameras: Cameras):
        numbers = (cameras.azimuth.rad2deg() / 15).round().long().numpy()
        assert not torch.is_grad_enabled()
        return SimpleNamespace(rgb=torch.from_numpy(VIEWS[numbers] + self.errors[numbers]))


def measure(errors=ERRORS, distance=lambda a, b: 7.0, sets=((VIEWS, CAMERAS),)):
    fitted = WithErrors(np.asarray(errors), [])
    return NovelViews(fitted.fit, {"own": distance}, sets), fitted.calls


def test_every_second_view_is_learned_from_and_the_others_are_measured():
    novel, calls = measure()
    score = novel(torch.from_numpy(VIEWS), CAMERAS)
    for images, cameras in calls:
        assert np.array_equal(images, VIEWS[::2]) and torch.equal(cameras.azimuth, CAMERAS.azimuth[::2])
    # means over pictures: half of those held out have 0.03, half 0.01
    assert score.psnr == pytest.approx((-20 * math.log10(0.03) - 20 * math.log10(0.01)) / 2, abs=1e-3)
    shown = VIEWS + ERRORS
    assert score.ssim == pytest.approx(np.mean([ssim(a, b) for a, b in zip(shown[1::2], VIEWS[1::2], strict=True)]))
    assert novel.truth == score and len(calls) == 2


def test_the_distance_is_given_what_was_shown_and_what_was_held_out():
    novel, _ = measure(distance=psnr)
    squared = (0.03**2 + 0.01**2) / 2
    assert novel.truth.distances["own"] == pytest.approx(-10 * math.log10(squared), abs=1e-3)


def test_the_truth_is_the_mean_of_its_sets():
    wrong = VIEWS.copy()
    wrong[1::2] += 0.02  # 0.03 becomes 0.01, 0.01 becomes 0.01
    novel, _ = measure(sets=[(VIEWS, CAMERAS), (wrong, CAMERAS)])
    each = [-10 * math.log10(0.03 * 0.01), -10 * math.log10(0.01 * 0.01)]
    assert novel.truth.psnr == pytest.approx(sum(each) / 2, abs=1e-3)


@pytest.mark.parametrize("error, allowed", [(0.0315, True), (0.0318, False), (math.nan, False)])
def test_a_fit_that_does_not_reach_30_db_on_the_truth_may_not_judge(error, allowed):
    errors = np.full((24, 1, 1, 1), error)
    if allowed:
        assert measure(errors)[0].truth.psnr > 30
    else:
        with pytest.raises(ThreedgenError, match=r"cannot judge novel views.* dB on those held out, 30 are needed"):
            measure(errors)


def test_views_are_like_those_of_the_calibration():
    novel, _ = measure()
    with pytest.raises(ThreedgenError, match="calibrated with 24 views of 16 x 16 pixels, not with 12 views of 16 x 8"):
        novel(VIEWS[::2, :8], CAMERAS[::2])
    with pytest.raises(ValueError, match="got none"):
        measure(sets=())
    with pytest.raises(ValueError, match=r"sets of one shape, got .*8, 16, 3.*16, 16, 3"):
        measure(sets=[(VIEWS, CAMERAS), (VIEWS[:, :8], CAMERAS)])
