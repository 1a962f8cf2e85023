"""`benchmarks/dense_views.py` puts in the faults that it names, and its table is of the figures that it was given."""

import numpy as np
import pytest

from threedgen.data.miniworld import build, parse
from threedgen.metrics import azimuth_errors

CAT = build(parse("a red cat with a green face"))


@pytest.fixture(scope="module")
def benchmark(load_benchmark):
    return load_benchmark("dense_views")


@pytest.fixture(scope="module")
def faulty(benchmark):
    return benchmark.corrupted(CAT, 0)


def test_the_faults_are_as_large_as_they_are_said_to_be(benchmark, faulty):
    true, inside = faulty["clean"], benchmark.true_views(CAT, benchmark.ring()).opacity[..., 0] == 1
    noise = (faulty["pixel noise"] - true)[~inside]  # on mid grey, so that nothing is clipped
    assert noise.std() == pytest.approx(0.05, rel=0.01)
    body = inside & (true[..., 0] > 0.25) & (true[..., 0] < 0.75)  # nothing is clipped there
    added = [(faulty["view colour"] - true)[view][body[view]][:, 0] for view in range(24)]
    assert max(np.ptp(a) for a in added) < 1e-6 and np.std([a[0] for a in added]) == pytest.approx(0.05, rel=0.3)
    assert (faulty["frozen"] == true[0]).all()
    turned = faulty["hue drift"]
    assert turned[0] == pytest.approx(true[0], abs=1e-6) and turned[12] == pytest.approx(true[12], abs=1e-6)
    assert turned.max(-1) == pytest.approx(true.max(-1), abs=1e-6)  # hue alone, the value stays
    red = inside[6] & (true[6, ..., 0] > 0.6) & (true[6, ..., 1] < 0.2)
    low, high = true[6][red].min(-1), true[6][red].max(-1)  # 0.12 of a turn from red towards yellow: 0.72 of the way
    assert np.median(np.abs(turned[6][red][:, 1] - low - 0.72 * (high - low))) < 0.002
    jitter = azimuth_errors(faulty["pose jitter"], [CAT.spec.caption] * 24, benchmark.ring()).counted
    assert jitter.std() == pytest.approx(4, rel=0.4)


def test_the_table_shows_means_with_coverage_in_brackets(benchmark):
    figures = [{"flow_1": 0.02, "flow_1_coverage": 0.7}, {"flow_1": 0.04, "flow_1_coverage": 0.8}]
    scores = benchmark.by_condition({"a": {"clean": figures[0]}, "b": {"clean": figures[1]}})
    assert "| clean | – | – | – | – | – (–) | – (–) | 0.030 (0.75) | – (–) | – |" in benchmark.table(scores)
