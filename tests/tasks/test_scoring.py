"""Which objects can fail to have one front; jobs in processes: one that fails takes no other with it."""

import math
from dataclasses import replace

import numpy as np
import pytest

from threedgen.config.load import load_config
from threedgen.config.scene import CameraConfig
from threedgen.tasks.evaluation.jobs import outcomes
from threedgen.tasks.evaluation.scoring import can_fail, feature_fraction, truth_of, with_num_views

CONFIG = load_config("eval-mini.yaml", ["eval.num_cameras=2", "eval.image_size=48"])
FRONT = slice(0, 3)  # of the six pictures from in front and behind


@pytest.mark.parametrize(
    ("caption", "has_front"),
    [
        ("a red cat with a green face", True),
        ("a blue cone with a red nose", True),
        ("a wooden house with a white door", True),
        ("a white table with black legs", False),  # as much from behind
        ("a red cone on a blue cylinder", False),
        ("a red cat", False),
        ("a red ball on a wooden cube", False),  # no plain colour to count
    ],
)
def test_what_only_the_front_shows_can_fail(caption, has_front):
    truth = truth_of(caption, CONFIG)
    pictures = truth.front_and_back_pictures
    share = feature_fraction(truth.object.spec, pictures.rgb, pictures.opacity)
    assert can_fail(share[FRONT], share[3:]) is has_front


def test_wood_is_not_taken_for_orange():
    truth = truth_of("a wooden cat with an orange face", CONFIG)
    pictures, spec = truth.front_and_back_pictures, truth.object.spec
    share = feature_fraction(spec, pictures.rgb, pictures.opacity)
    assert share[FRONT].min() > 0.02 and share[3:].max() < 0.01
    plain = replace(spec, color="red", feature_color="brown")  # wood is brown where nobody knows of wood
    as_if_plain = feature_fraction(plain, pictures.rgb, pictures.opacity)
    assert as_if_plain[3:].max() > 0.1


def test_strong_colours_are_told_from_weak_ones():
    red, stone = truth_of("a red cube", CONFIG), truth_of("a stone cube", CONFIG)
    assert red.saturation > 0.5 > 0.1 > stone.saturation
    assert stone.contrast > 0.05


def test_as_many_images_a_step_whatever_the_number_of_views():
    camera = CameraConfig(num_views=4, sets_per_step=2, coarse_sets_per_step=3)
    for views in (1, 2, 4):
        changed = with_num_views(camera, views)
        assert changed.num_views * changed.sets_per_step == 8
        assert changed.num_views * changed.coarse_sets_per_step == 12
    assert with_num_views(camera, 16).sets_per_step == 1
    assert with_num_views(CameraConfig(num_views=4), 2).coarse_sets_per_step == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_a_failed_job_takes_no_other_with_it(workers):
    config = replace(CONFIG, eval=replace(CONFIG.eval, workers=workers))
    found = list(outcomes(math.sqrt, [4.0, -1.0, 9.0], config))
    assert [outcome.job for outcome in found] == [4.0, -1.0, 9.0]
    assert [outcome.result for outcome in found] == [2.0, None, 3.0]
    assert found[1].error.startswith("ValueError: ") and not found[0].error


def test_truths_are_drawn_once():
    assert truth_of("a red cube", CONFIG) is truth_of("a red cube", CONFIG)
    other = replace(CONFIG, eval=replace(CONFIG.eval, num_cameras=3))
    assert len(truth_of("a red cube", other).cameras) == 3
    assert np.isfinite(truth_of("a red cube", other).pictures.rgb).all()
