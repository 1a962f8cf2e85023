"""Bootstrap intervals against what is known of normal and of equal values."""

import math

import numpy as np
import pytest

from threedgen.metrics.bootstrap import Interval, mean_interval, paired_difference


def test_normal_values_give_the_closed_form():
    """mean +- 1.96 s / sqrt(n), up to the resampling's own noise."""
    values = np.random.default_rng(3).normal(5.0, 2.0, 400)
    found, half = mean_interval(values), 1.96 * values.std(ddof=1) / math.sqrt(400)
    assert found.mean == pytest.approx(values.mean()) and found.count == 400
    assert found.low == pytest.approx(values.mean() - half, abs=0.08 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.08 * half)
    narrow = mean_interval(values, confidence=0.5)
    assert narrow.high - narrow.low == pytest.approx(2 * 0.6745 / 1.96 * half, rel=0.08)


def test_skewed_values_give_a_skewed_interval():
    """BCa leans towards the long tail, as the mean's own distribution does; mean +- does not."""
    found = mean_interval(np.random.default_rng(0).exponential(1.0, 30))
    assert found.high - found.mean > 1.1 * (found.mean - found.low)


def test_the_same_seed_gives_the_same_interval():
    values = np.random.default_rng(1).normal(size=20)
    assert mean_interval(values, seed=4) == mean_interval(values, seed=4) != mean_interval(values, seed=5)


def test_pairing_takes_out_what_prompts_share():
    random = np.random.default_rng(2)
    prompts = random.normal(24.0, 3.0, 32)
    a, b = prompts + random.normal(0, 0.2, 32), prompts + 1.0 + random.normal(0, 0.2, 32)
    paired, single = paired_difference(b, a), mean_interval(a)
    assert paired.mean == pytest.approx(b.mean() - a.mean())
    assert paired.excludes_zero and paired.low < 1.0 < paired.high
    assert paired.high - paired.low < 0.2 * (single.high - single.low)
    shuffled = paired_difference(b, random.permutation(a))
    assert shuffled.high - shuffled.low > 5 * (paired.high - paired.low)


def test_few_and_equal_values():
    assert mean_interval([1.0, 1.0, 1.0]) == Interval(1.0, 1.0, 1.0, 3)
    one = mean_interval([2.5])
    assert one.mean == 2.5 and one.count == 1 and math.isnan(one.low) and not one.excludes_zero
    for bad in ([], [1.0, math.nan]):
        with pytest.raises(ValueError, match="finite"):
            mean_interval(bad)
    rate = mean_interval([0.0] * 31 + [1.0])
    assert 0 <= rate.low < rate.mean == 1 / 32 < rate.high < 0.2
