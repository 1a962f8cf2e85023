"""True views of patterned objects are told apart; so are moved patterns, blurred views and plain objects."""

from dataclasses import replace
from random import Random

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from threedgen.cameras import orbit
from threedgen.core.errors import ConfigError
from threedgen.data.miniworld import Spec, build, patterned_specs, render
from threedgen.data.miniworld.textures import PATTERNS, Texture
from threedgen.metrics import named_patterns

SPECS = Random(4).sample(patterned_specs(), 54)
CAPTIONS = [spec.caption for spec in SPECS]
RANDOM = np.random.default_rng(3)
CAMERAS = orbit(RANDOM.uniform(0, 360, 54), RANDOM.uniform(0, 30, 54), 2.5, 40, 64)


def views(specs, change=lambda obj: obj, scale=1.0):
    """One view of each, of jittered sizes."""
    poses, fovs = CAMERAS.camera_to_world.numpy(), CAMERAS.fov_y.numpy()
    objects = [change(build(spec, Random(i), scale)) for i, spec in enumerate(specs)]
    return np.concatenate([render(obj, poses[i : i + 1], fovs[i : i + 1], 64).rgb for i, obj in enumerate(objects)])


@pytest.fixture(scope="module")
def true_views():
    return views(SPECS)


def spoilt(pictures):
    noise = np.random.default_rng(0).normal(0, 0.05, pictures.shape)
    return (gaussian_filter(pictures, (0, 1, 1, 0)) + noise).clip(0, 1)


@pytest.mark.parametrize("change", [lambda x: x, spoilt], ids=["true", "blurred by 1 px and noisy"])
def test_true_views_show_what_is_named(true_views, change):
    verdicts = named_patterns(change(true_views), CAPTIONS, CAMERAS)
    assert verdicts.rate > 0.9
    counts = verdicts.confusion()
    assert all(sum(counts[name].values()) == sum(spec.feature == name for spec in SPECS) >= 4 for name in PATTERNS)


def test_the_pattern_that_is_there_is_seen_whatever_is_named(true_views):
    turned = dict(zip(PATTERNS, [*PATTERNS][1:] + [*PATTERNS][:1], strict=True))
    wrong = [replace(spec, feature=turned[spec.feature]).caption for spec in SPECS]
    verdicts = named_patterns(true_views, wrong, CAMERAS)
    assert verdicts.rate < 0.1
    assert np.mean([seen == spec.feature for seen, spec in zip(verdicts.seen, SPECS, strict=True)]) > 0.9


def test_coarser_patterns_are_told_apart_by_their_scale():
    coarse = views(SPECS, scale=1.6)
    assert named_patterns(coarse, CAPTIONS, CAMERAS, 1.6).rate > 0.9
    assert named_patterns(coarse, CAPTIONS, CAMERAS).rate < 0.75


@pytest.mark.slow
def test_views_are_judged_without_their_cameras(true_views):
    some = slice(0, 12)  # objects are looked at from 72 places each
    assert named_patterns(true_views[some], CAPTIONS[some], None).rate > 0.8
    unlit = views([Spec(spec.kind, spec.feature_color) for spec in SPECS])[some]
    assert named_patterns(unlit, CAPTIONS[some], None).seen.count("none") > 0.85 * 12


def test_a_pattern_may_be_anywhere():
    def moved(obj):
        offset = RANDOM.uniform(0, 1, 3)

        def shifted(texture):
            return Texture(lambda points: texture.covers((points + offset).astype(np.float32)), texture.color)

        primitives = (replace(p, texture=p.texture and shifted(p.texture)) for p in obj.primitives)
        return replace(obj, primitives=tuple(primitives))

    assert named_patterns(views(SPECS, moved), CAPTIONS, CAMERAS).rate > 0.9


@pytest.mark.parametrize("colour", ["color", "feature_color"])
@pytest.mark.parametrize("change", [lambda x: x, spoilt], ids=["true", "blurred by 1 px and noisy"])
def test_plain_objects_show_none(colour, change):
    plain = views([Spec(spec.kind, getattr(spec, colour)) for spec in SPECS])
    assert named_patterns(change(plain), CAPTIONS, CAMERAS).seen.count("none") > 0.85 * len(SPECS)


def test_a_caption_without_a_pattern_is_refused():
    with pytest.raises(ConfigError, match="'a red cat with a green face' names no pattern"):
        named_patterns(np.zeros((1, 64, 64, 3)), ["a red cat with a green face"], CAMERAS[:1])
