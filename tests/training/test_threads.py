"""The choice of threads on made-up machines, and that what was chosen is repeated by a run that goes on."""

import random

import pytest
import torch
from torch import nn

from tests.training.test_loop import Recorded, line
from threedgen.core.errors import ThreedgenError
from threedgen.core.threads import most_threads
from threedgen.runs.directory import THREADS
from threedgen.training import threads as module
from threedgen.training.loop import Pace, train
from threedgen.training.threads import Threads, choices, choose

CPU = torch.device("cpu")


def quiet(count):
    """Seconds of a step on a machine of its own; a part of it is never shared."""
    return 0.1 + 0.9 / count


def crowded(cores):
    """The same with a neighbour on one of the cores: as many threads as cores wait for each other."""
    return lambda count: quiet(count) * (7 if count == cores else 1)


def drive(most, seconds, steps, begin=None):
    """The counts of so many steps, which take seconds(step, count), and what all of them took."""
    chooser, counts, total = choose(most, begin or most), [], 0.0
    count = next(chooser)
    for step in range(steps):
        taken = seconds(step, count)
        counts.append(count)
        total += taken
        count = chooser.send(taken)
    return counts, total


def test_the_counts_that_are_compared():
    assert [choices(most) for most in (1, 2, 3, 4, 16)] == [[1], [1, 2], [1, 2, 3], [1, 2, 3, 4], [1, 2, 4, 8, 15, 16]]


def test_on_a_quiet_machine_all_cores_work_and_two_runs_decide_alike():
    noise = random.Random(0)
    runs = [drive(2, lambda step, count: quiet(count) * noise.uniform(0.9, 1.1), 300) for _ in range(2)]
    counts, total = runs[0]
    assert counts == runs[1][0]
    assert counts.count(1) <= 15 and counts[-1] == 2
    assert total < 1.06 * 300 * quiet(2)


def test_with_a_neighbour_a_run_costs_little_more_than_one_thread_alone():
    counts, total = drive(2, lambda step, count: crowded(2)(count), 200)
    assert counts.count(2) < 10
    assert total < 1.2 * 200 * quiet(1) < 0.4 * 200 * crowded(2)(2)


@pytest.mark.parametrize("arrives", [60, 61, 100, 333])
def test_a_neighbour_comes_and_goes(arrives):
    leaves = arrives + 200
    counts, _ = drive(2, lambda step, count: (crowded(2) if arrives <= step < leaves else quiet)(count), 1000)
    assert set(counts[arrives - 5 : arrives]) == {2}
    assert counts[arrives + 12 : leaves].count(2) < 8  # some are tried
    assert counts[-100:].count(2) >= 96


def test_a_neighbour_that_comes_by_and_by_is_noticed():
    def seconds(step, count):
        return quiet(count) * (min(7.0, max(1.0, 1.2 ** (step - 60))) if count == 2 else 1)

    counts, _ = drive(2, seconds, 100)
    assert set(counts[55:60]) == {2} and set(counts[-15:]) == {1}


def test_outliers_change_nothing_for_long():
    noise = random.Random(1)

    def seconds(step, count):
        return quiet(count) * noise.uniform(0.8, 1.3) * (10 if noise.random() < 0.04 else 1)

    counts, _ = drive(2, seconds, 2000)
    assert counts.count(2) > 0.9 * len(counts)


def test_steps_that_become_longer_do_not_change_the_count():
    counts, _ = drive(2, lambda step, count: quiet(count) * (1 if step < 80 else 4), 200)
    assert counts.count(1) <= 20 and set(counts[-20:]) == {2}


@pytest.mark.parametrize(
    ("seconds", "best"),
    [
        (crowded(16), 15),
        (lambda count: max(quiet(4), quiet(count)) * (1 + 0.03 * count), 4),  # what more threads cost
        (lambda count: 1.0, 1),  # as fast with fewer
        (quiet, 15),  # within a twentieth of the fastest
    ],
)
def test_many_cores(seconds, best):
    counts, _ = drive(16, lambda step, count: seconds(count), 200)
    assert max(set(counts[-40:]), key=counts[-40:].count) == best


class Machine:
    """A clock that a step moves on by what it takes with torch's number of threads."""

    def __init__(self, seconds):
        self.now, self.seconds = 0.0, seconds

    def __call__(self):
        return self.now

    def run(self, threads, steps):
        counts = []
        for step in steps:
            with threads.step(step):
                counts.append(torch.get_num_threads())
                self.now += self.seconds(counts[-1])
        return counts


@pytest.fixture
def four(monkeypatch):
    """Four cores, whatever there are; torch has its threads back afterwards."""
    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def test_what_was_taken_is_taken_again(four, tmp_path):
    machine = Machine(crowded(4))
    first = machine.run(Threads(tmp_path, 0, CPU, machine), range(137))
    assert set(first) == {2, 3, 4}
    with open(tmp_path / THREADS, "a") as file:
        file.write("13")  # the writer was killed here
    torch.set_num_threads(4)
    other = Machine(quiet)  # the neighbour is gone
    again = Threads(tmp_path, 0, CPU, other)
    again.resume(100)
    assert torch.get_num_threads() == first[99]
    later = other.run(again, range(100, 300))
    assert later[:30] == first[100:130]  # as far as steps are reported
    assert later[-1] == 4
    # and once more, from further back
    third = Threads(tmp_path, 0, CPU, other)
    third.resume(50)
    assert other.run(third, range(50, 300)) == first[50:130] + later[30:]


def test_a_scene_goes_on_from_its_last_count(four, tmp_path):
    """What comes between two spans of steps is computed with it."""
    machine = Machine(crowded(4))
    first = machine.run(Threads(tmp_path, 0, CPU, machine), range(105))
    torch.set_num_threads(4)
    Threads(tmp_path, 0, CPU, machine).resume(105)
    assert torch.get_num_threads() == first[-1] == 3


def test_nothing_is_chosen_where_it_is_fixed_or_useless(four, tmp_path, monkeypatch):
    machine, fixed = Machine(quiet), torch.get_num_threads()
    for case in (Threads(tmp_path, 2, CPU, machine), Threads(tmp_path, 0, torch.device("cuda"), machine)):
        assert set(machine.run(case, range(20))) == {fixed}
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert set(machine.run(Threads(tmp_path, 0, CPU, machine), range(20))) == {fixed}
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert most_threads() == 1
    assert set(machine.run(Threads(tmp_path, 0, CPU, machine), range(20))) == {fixed}
    assert not list(tmp_path.iterdir())


def test_calls_of_a_module_are_steps(four, tmp_path):
    machine, taken = Machine(crowded(4)), []

    class Layer(nn.Module):
        def forward(self, x):
            taken.append(torch.get_num_threads())
            machine.now += machine.seconds(taken[-1])
            if x is None:
                raise ThreedgenError("no input")
            return x

    layer = Layer()
    with Threads(None, 0, CPU, machine).calls_of(layer):
        for _ in range(40):
            layer(torch.zeros(1))
    assert taken.count(4) == 2 and set(taken[-10:]) == {3}
    torch.set_num_threads(4)
    layer(torch.zeros(1))
    assert taken[-1] == 4  # nobody counts any more
    with pytest.raises(ThreedgenError, match="no input"), Threads(None, 0, CPU, machine).calls_of(layer):
        layer(None)
    assert not list(tmp_path.iterdir())


def test_a_training_that_goes_on_repeats_its_counts(four, tmp_path, monkeypatch):
    """Of the steps after the checkpoint that it goes on from, the neighbour being gone; its loss depends on them."""
    machine = Machine(crowded(4))
    monkeypatch.setattr(module.Threads.__init__, "__defaults__", (machine,))

    def job():
        made = line(steps=40)
        objective = made[2].objective

        def timed(target):
            machine.now += machine.seconds(torch.get_num_threads())
            return objective(target + 0.01 * torch.get_num_threads())

        object.__setattr__(made[2], "objective", timed)
        return made

    def stop(done):
        if done == 30:
            raise KeyboardInterrupt

    pace, logs = Pace(40, lr=0.25, checkpoint_every=8), (Recorded(), Recorded())
    with pytest.raises(KeyboardInterrupt):
        train(job()[2], pace, tmp_path, logs[0], stop)
    torch.set_num_threads(4)
    machine.seconds = quiet
    train(job()[2], pace, tmp_path, logs[1])
    assert logs[1].started == [24]
    assert logs[1].steps[:6] == logs[0].steps[24:]
    assert len({round(loss, 6) for _, loss, *_ in logs[0].steps}) > 1
