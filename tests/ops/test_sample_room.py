"""Room for samples from the steps before: enough, not much more, and asked for without waiting."""

import itertools

import pytest
import torch

from threedgen.ops.sample_room import MAX_RAYS, SampleRoom
from threedgen.ops.types import RaySamples


class Marching:
    """Rays that have `count` samples together; remembers the capacities that it was given."""

    def __init__(self):
        self.count, self.exact, self.capacities = 0, 0, []

    def march(self, origins):
        self.exact += 1
        return self._samples(self.count, len(origins))

    def march_within(self, capacity, origins):
        self.capacities.append(capacity)
        return self._samples(capacity, len(origins)), torch.tensor(self.count)

    def _samples(self, count, num_rays):
        offsets = torch.full((num_rays + 1,), min(count, self.count))
        return RaySamples(torch.zeros(count), torch.zeros(count), torch.zeros(count, dtype=torch.long), offsets)


@pytest.fixture
def marching():
    return Marching()


@pytest.fixture
def step(marching):
    """A function that marches `num_rays` rays with so many samples and returns how many had room."""
    room = SampleRoom()

    def run(count, num_rays=1000):
        marching.count = count
        return len(room.march(marching.march, marching.march_within, torch.zeros(num_rays, 3)).t_starts)

    return run


def test_only_the_first_march_asks(marching, step):
    assert step(32_000) == 32_000
    for count in (32_100, 31_000, 33_000):
        assert count <= step(count) < 1.2 * count
    assert marching.exact == 1


def test_room_grows_a_step_after_it_was_too_small(marching, step):
    step(32_000)
    assert step(64_000) == 36_000  # what is over is lost for once
    assert step(64_000) == 72_000


def test_room_shrinks_slowly(step):
    step(32_000)
    rooms = [step(16_000) for _ in range(100)]
    assert all(0.97 <= after / before <= 1 for before, after in itertools.pairwise(rooms))
    assert rooms[-1] == 18_000


def test_room_goes_with_the_number_of_rays(step):
    step(32_000, 1000)
    assert step(16 * 32_000, 16_000) == 16 * 36_000


def test_many_rays_are_asked(marching, step):
    step(32_000)
    assert step(70_000, MAX_RAYS) > 70_000 and marching.exact == 1
    assert step(70_000, MAX_RAYS + 1) == 70_000 and marching.exact == 2


def test_no_rays_and_rays_that_meet_nothing(marching, step):
    assert step(0, 0) == 0
    assert step(0) == 0  # still nothing known: the first rays are asked
    assert step(500) == 1024 and step(5000) == 1024 and step(5000) == 5625
    assert marching.exact == 2
