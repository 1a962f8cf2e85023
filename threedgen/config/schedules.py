"""Values that change over a run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

from threedgen.config.setting import setting


@dataclass
class Schedule:
    """A value that moves linearly from `start` to `end` between two fractions of the run, constant outside."""

    start: float = 0.0
    end: float = 0.0
    from_fraction: float = 0.0
    to_fraction: float = 1.0


class Shape(Enum):
    """How a schedule goes from its start to its end; p is how far it is between its two fractions, 0 .. 1."""

    linear = "linear"  # p
    power = "power"  # p ** exponent
    cosine = "cosine"  # (1 - cos(pi p)) / 2
    step = "step"  # 0, from the middle on 1


@dataclass
class ShapedSchedule(Schedule):
    """A `Schedule` that need not be linear in between."""

    shape: Shape = Shape.linear
    exponent: float = setting(2.0, 0.01, 100)  # of shape power


def value_at(schedule: Schedule, fraction: float) -> float:
    """The schedule's value at `fraction` of the run (0 first step, 1 last): linear between its ends, or as its shape
    says, constant outside.

    A schedule with `from_fraction == to_fraction` is a step: `start` before that point, `end` from it on.

    Example:
        >>> value_at(Schedule(start=1.0, end=0.0, from_fraction=0.0, to_fraction=0.5), 0.25)
        0.5
    """
    if fraction >= schedule.to_fraction:
        return schedule.end
    if fraction <= schedule.from_fraction:
        return schedule.start
    progress = (fraction - schedule.from_fraction) / (schedule.to_fraction - schedule.from_fraction)
    if isinstance(schedule, ShapedSchedule):
        progress = _shaped(schedule, progress)
    return schedule.start + (schedule.end - schedule.start) * progress


def _shaped(schedule: ShapedSchedule, progress: float) -> float:
    match schedule.shape:
        case Shape.linear:
            return progress
        case Shape.power:
            return progress**schedule.exponent
        case Shape.cosine:
            return (1 - math.cos(math.pi * progress)) / 2
        case Shape.step:
            return float(progress >= 0.5)
