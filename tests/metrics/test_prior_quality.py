"""The figures of `benchmarks/prior_quality.py`: true views score perfectly, wrong ones as badly as they were made."""

import math

import numpy as np
import pytest

from threedgen.config.load import load_config
from threedgen.data.miniworld import Spec, build, parse, render


@pytest.fixture(scope="module")
def benchmark(load_benchmark):
    return load_benchmark("prior_quality")


def drawing(turn_deg=0.0, two_faced=False, plain=False):
    """A prior that draws the truth, or the truth with a fault."""

    def views(caption, cameras):
        spec = parse(caption)
        poses = cameras.camera_to_world.numpy().copy()
        c, s = math.cos(math.radians(turn_deg)), math.sin(math.radians(turn_deg))
        poses = np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]) @ poses
        if two_faced:
            behind = poses[:, 0, 3] < 0
            poses[behind] = np.diag([-1.0, -1.0, 1.0, 1.0]) @ poses[behind]
        obj = build(Spec(spec.kind, spec.color) if plain and spec.form == "pattern" else spec)
        return render(obj, poses, cameras.fov_y.numpy(), cameras.height).rgb

    return lambda captions, cameras, stream, step: np.stack([views(caption, cameras) for caption in captions])


def quality(benchmark, sets=6, **faults):
    return benchmark.measure(drawing(**faults), load_config("train-mini.yaml"), 64, sets)


def test_the_truth_is_perfect(benchmark):
    found = quality(benchmark)
    assert (
        found.psnr > 60 and min(found.psnr_by_set.values()) > 60 and found.janus_rate == 0 and found.pattern_rate == 1
    )
    assert found.azimuth_median_deg < 2 and found.azimuth_near == 1
    assert (found.janus_sets, found.pattern_views, found.azimuth_views) == (6, 8, 24)
    assert "| Janus rate | 0.0% | 6 sets |" in benchmark.table(found)


@pytest.mark.slow
def test_faults_are_found(benchmark):
    found = quality(benchmark, two_faced=True, plain=True)
    assert found.janus_rate == 1 and found.pattern_rate == 0 and found.psnr < 30
    assert [*found.psnr_by_set] == [1, 2, 4, 8]  # the same pictures, whatever they are drawn with
    assert [*found.psnr_by_set.values()] == pytest.approx([found.psnr_by_set[1]] * 4) and found.psnr_by_set[1] < 30
    assert 0.3 < found.azimuth_near < 0.7  # the views from behind look as from the front
    turned = quality(benchmark, sets=1, turn_deg=30.0)
    assert turned.azimuth_bias_deg == pytest.approx(30, abs=1) and turned.azimuth_near == 0


def test_a_prior_without_a_word_for_any_pattern_has_no_figure_of_patterns(benchmark):
    config, draw = load_config("train-mini.yaml"), drawing()
    found = benchmark.pattern_verdicts(draw, config, 64, 20, known={"cat", "red"})
    assert found.seen == () and len(benchmark.patterned(config, 10**6, {"dots"})) < 10**6
    figures = dict.fromkeys(benchmark.Quality.__dataclass_fields__, 0.5) | {"psnr_by_set": {}, "pattern_rate": None}
    assert "| named pattern shown |  | 0.5 views |" in benchmark.table(benchmark.Quality(**figures))
