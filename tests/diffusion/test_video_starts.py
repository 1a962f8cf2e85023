"""`benchmarks/video_starts.py`: where its three trainings begin, and where its figure puts their losses."""

import re

import pytest
import torch

from threedgen.config.load import load_config
from threedgen.diffusion.prior import MultiViewPrior


@pytest.fixture(scope="module")
def benchmark(load_benchmark):
    return load_benchmark("video_starts")


@pytest.mark.slow
def test_no_start_has_none_of_minis_tensors_and_a_prior_that_knows_more_has_the_lower_loss(benchmark):
    validation = benchmark.Validation(load_config("train-video-mini.yaml"), 1)
    new, trained = benchmark.new(), MultiViewPrior.from_pretrained("mini-video")
    theirs = MultiViewPrior.from_pretrained("mini").unet.state_dict()
    matrices = {name: t for name, t in new.unet.state_dict().items() if t.ndim > 1 and name in theirs}
    assert len(matrices) > 50 and not any(torch.equal(t, theirs[name]) for name, t in matrices.items())
    assert validation(trained) < 0.5 * validation(new)
    assert validation(trained) == validation(trained)


def test_the_figure_is_to_scale(benchmark):
    curves = {benchmark.VIDEO: [(0, 0.1), (10, 0.01)], benchmark.NONE: [(0, 1.0), (20, 0.1)]}
    svg = benchmark.figure(curves, "caption")
    lines = [[tuple(map(float, point.split(","))) for point in line.split()]
             for line in re.findall(r'polyline points="([^"]+)"', svg)]  # fmt: skip
    (first, last), (other, end) = lines
    assert first[0] == other[0] and last[0] - first[0] == pytest.approx((end[0] - other[0]) / 2, abs=0.2)
    assert first[1] == end[1]  # 0.1 twice
    assert last[1] - first[1] == pytest.approx(first[1] - other[1], abs=0.2)  # a tenth is a tenth: logarithmic
