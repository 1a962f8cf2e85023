"""Values that change over a run."""

from __future__ import annotations

import math

from threedgen.config.schema import Schedule, Shape, ShapedSchedule


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
