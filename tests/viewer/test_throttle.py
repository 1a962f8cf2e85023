"""The live view's share of wall time, with a clock of its own."""

import numpy as np
import pytest

from threedgen.viewer.throttle import Throttle


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


def simulate(share, steps, costs):
    """Steps of so many seconds, after each of which a piece is wanted that takes the next of `costs` and is expected to
    take what the last one took; the pieces as (begin, end), and the time when all is over."""
    clock = Clock()
    throttle, expected, pieces = Throttle(share, clock), 0.0, []
    costs = iter(costs)
    for seconds in steps:
        clock.now += seconds
        if throttle.allows(expected):
            begun = clock.now
            with throttle.spending():
                clock.now += (expected := next(costs))
            pieces.append((begun, clock.now))
    assert throttle.spent == pytest.approx(sum(end - begin for begin, end in pieces))
    return np.array(pieces), clock.now


@pytest.mark.parametrize("share", [0.1, 0.3])
def test_no_stretch_of_time_holds_more_than_the_share(share):
    random = np.random.default_rng(0)
    steps, costs = random.exponential(0.05, 20_000), random.uniform(0.05, 0.2, 20_000)
    pieces, end = simulate(share, steps, costs)
    total = pieces[:, 1] - pieces[:, 0]
    elapsed = end - 1000.0
    assert 0.8 * share < total.sum() / elapsed <= share + 0.2 / elapsed
    spent = np.concatenate([[0], np.cumsum(total)])
    for first in range(0, len(pieces), 7):  # from the beginning of any piece to the end of any later one
        stretches = pieces[first:, 1] - pieces[first, 0]
        assert (spent[first + 1 :] - spent[first] <= share * stretches + 2 * 0.2).all()


def test_nothing_is_hoarded():
    clock = Clock()
    throttle = Throttle(0.1, clock)
    assert throttle.allows(0.0)
    clock.now += 3600  # nobody looked for an hour
    for wait, allowed in ((0.0, True), (0.0, False), (8.9, False), (0.2, True)):
        clock.now += wait
        assert throttle.allows(1.0) is allowed
        if allowed:
            with throttle.spending():
                clock.now += 1.0


def test_what_took_longer_than_expected_is_earned_later():
    clock = Clock()
    throttle = Throttle(0.5, clock)
    with throttle.spending():
        clock.now += 10
    clock.now += 10.5
    assert not throttle.allows(1.0)
    clock.now += 0.6
    assert throttle.allows(1.0)
    with pytest.raises(ZeroDivisionError), throttle.spending():  # a failure is counted too
        clock.now += 5
        raise ZeroDivisionError
    assert throttle.spent == pytest.approx(15) and not throttle.allows(0.1)
