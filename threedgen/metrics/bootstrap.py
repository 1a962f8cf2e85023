"""How far a mean over prompts can be trusted: bootstrap intervals (Efron 1987), also of paired differences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
_RESAMPLES = 9999

Values = Sequence[float] | NDArray[np.floating]


@dataclass(frozen=True)
class Interval:
    """A mean of `count` values, and the ends of its confidence interval; nan where one value has none."""

    mean: float
    low: float
    high: float
    count: int

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


def mean_interval(values: Values, seed: int = 0, confidence: float = CONFIDENCE) -> Interval:
    """The mean of at least one value, with its bias-corrected and accelerated (BCa) interval. Same seed, same interval.

    Values that are all equal give an interval of no width: resampling them shows no other mean, so for rates of
    0 or 1 read `count` beside it. Raises ValueError where there is no value, or one that is not finite.
    """
    sample = np.asarray(values, np.float64)
    if sample.ndim != 1 or not len(sample) or not np.isfinite(sample).all():
        raise ValueError(f"an interval needs finite values in one row, got {sample}")
    mean = float(sample.mean())
    if len(sample) == 1:
        return Interval(mean, math.nan, math.nan, 1)
    if np.ptp(sample) == 0:
        return Interval(mean, mean, mean, len(sample))
    from scipy.stats import bootstrap  # here: half a second, which every export would wait for

    found = bootstrap(
        (sample,),
        np.mean,
        confidence_level=confidence,
        n_resamples=_RESAMPLES,
        method="BCa",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(mean, float(found.low), float(found.high), len(sample))


def paired_difference(values: Values, baseline: Values) -> Interval:
    """The mean of `values - baseline`, entry i of both from the same prompt and seed, with its interval.

    What makes a prompt easy or hard for both drops out, so it is narrower than two intervals side by side suggest.
    """
    return mean_interval(np.asarray(values, np.float64) - np.asarray(baseline, np.float64))
