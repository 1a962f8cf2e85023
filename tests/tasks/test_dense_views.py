"""True views are nearly perfect, and each fault is seen by the figures that are there to see it."""

import numpy as np
import pytest
import torch

from threedgen.cameras import viewing_cameras
from threedgen.config.load import load_config
from threedgen.core.errors import ThreedgenError
from threedgen.data.miniworld import build, parse
from threedgen.metrics.novel_view import NovelViews
from threedgen.scene.output import RenderOutput
from threedgen.tasks.evaluation.dense_views import calibrated, measure_views, true_views, vae_distance

SIZE, COUNT = 32, 24
CAMERAS = viewing_cameras(load_config("train-mini.yaml").camera, np.arange(COUNT) * 15.0, 15.0, SIZE)
CAT = build(parse("a red cat with a green face"))
TRUE = true_views(CAT, CAMERAS)
SHORT = ["steps=80", "reconstruct.rays_per_step=1024"]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class TrueScene:
    """The best fit that there is, whatever the views."""

    device = torch.device("cpu")

    def render(self, cameras, *, background=None):
        true = true_views(CAT, cameras)
        rgb, opacity, depth = (torch.from_numpy(x).float() for x in (true.rgb, true.opacity, true.depth))
        return RenderOutput(rgb, opacity, depth * opacity)


def fit_truth(images, cameras):
    return TrueScene()


@pytest.fixture(scope="module")
def perfect():
    views = [(np.clip(TRUE.rgb + 1e-4, 0, 1), CAMERAS)]  # the PSNR of equal pictures is infinite
    return NovelViews(fit_truth, {"vae_distance": vae_distance}, views)


@pytest.fixture(scope="module")
def novel():
    return calibrated([CAT], CAMERAS, SHORT)


def test_the_figures_of_true_views(perfect):
    found = measure_views(TRUE.rgb + 1e-3, CAMERAS, perfect, CAT)
    assert found["novel_psnr"] == pytest.approx(60, abs=0.1) and found["novel_ssim"] > 0.999
    assert found["unexplained"] == pytest.approx(1e-3, rel=1e-3) and found["novel_vae_distance"] < 1e-3
    for name in ("flow_1", "flow_6", "flow_1_coverage", "flow_6_coverage"):  # a scene's depth is weighted by opacity
        assert found[f"fitted_{name}"] == pytest.approx(found[name], rel=1e-4)
    assert found["flow_1"] < 0.04 and found["azimuth_deg"] < 1
    assert found["flow_1_coverage"] > 0.5 > 0.3 > found["flow_6_coverage"] > 0


def test_frozen_views_do_not_win(perfect):
    frozen = measure_views(np.repeat(TRUE.rgb[:1], COUNT, 0), CAMERAS, perfect, CAT)
    clean = measure_views(TRUE.rgb + 1e-3, CAMERAS, perfect, CAT)
    assert frozen["azimuth_deg"] == pytest.approx(90, abs=2)  # the median of 0, 15, ... 180
    assert frozen["flow_1"] > 3 * clean["flow_1"] and frozen["flow_6"] > 3 * clean["flow_6"]


def test_what_needs_the_truth_is_not_there_without_it(perfect):
    figures = measure_views(TRUE.rgb + 1e-3, CAMERAS, perfect)
    assert not {"flow_1", "flow_6_coverage", "azimuth_deg"} & figures.keys() and figures["fitted_flow_6"] is not None
    ball = build(parse("a red ball"))  # looks alike from everywhere
    assert measure_views(true_views(ball, CAMERAS).rgb, CAMERAS, perfect, ball)["azimuth_deg"] is None


def test_a_real_fit_judges_the_truth_and_sees_a_colour_of_each_views_own(novel):
    """Views 0, 2, ... are all of one colour, so that those held out are 0.16 off, inside the object, and no object
    explains more of them than the mean of the two colours."""
    shift = 0.08 * (-1.0) ** np.arange(COUNT)[:, None, None, None]
    found = measure_views(np.clip(TRUE.rgb + TRUE.opacity * shift, 0, 1), CAMERAS, novel, CAT)
    assert novel.truth.psnr > 30 and novel.truth.ssim > 0.93
    assert found["novel_psnr"] == pytest.approx(-10 * np.log10(0.16**2 * TRUE.opacity[1::2].mean()), abs=1.5)
    assert found["unexplained"] == pytest.approx(0.08 * TRUE.opacity.mean(), rel=0.35)
    assert found["flow_1"] == pytest.approx(0.16, abs=0.02) and found["flow_6"] < 0.06  # six on has the same colour
    assert found["fitted_flow_1"] == pytest.approx(0.16, abs=0.03)


def test_a_fit_that_is_too_short_may_not_judge():
    with pytest.raises(ThreedgenError, match="cannot judge novel views"):
        calibrated([CAT], CAMERAS, [*SHORT, "steps=5"])


def test_the_vae_distance_grows_with_the_fault():
    noise = np.random.default_rng(0).normal(size=TRUE.rgb.shape)
    faulty = [np.clip(TRUE.rgb + s * noise, 0, 1) for s in (0.0, 0.02, 0.05, 0.1)]
    found = [vae_distance(TRUE.rgb, pictures) for pictures in faulty]
    assert found[0] == 0 and found == sorted(set(found)) and found[-1] > 10 * found[1]
