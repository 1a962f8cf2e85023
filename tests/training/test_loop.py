"""The training loop on objectives whose steps can be computed by hand; its rates and average in closed form."""

from dataclasses import replace
from functools import partial
from itertools import count, pairwise
from types import TracebackType

import pytest
import torch
from torch import nn

from threedgen.core.errors import ThreedgenError
from threedgen.runs.budget import Budget
from threedgen.runs.events import EventLog, read_events
from threedgen.training import loop
from threedgen.training.average import MovingAverage
from threedgen.training.log import StepLog
from threedgen.training.loop import Losses, Pace, Training, learning_rate, states, train


class Recorded:
    """A log that remembers what it was told."""

    def __init__(self):
        self.started, self.added, self.steps, self.finished = [], [], [], 0

    def __call__(self, start):
        self.started.append(start)
        return self

    def __enter__(self):
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None):
        pass

    def add(self, batch, losses):
        self.added.append((batch, losses.total.item()))

    def step(self, done, loss, grad_norm, lr):
        self.steps.append((done, float(loss), float(grad_norm), lr))

    def finish(self):
        self.finished += 1


@pytest.mark.parametrize(("bfloat16", "hardware", "said"), [(True, False, 1), (True, True, 0), (False, False, 0)])
def test_bfloat16_is_told_where_the_processor_emulates_it(bfloat16, hardware, said, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": hardware})
    *_, job = line(steps=0)
    job = replace(job, bfloat16=bfloat16)
    train(job, Pace(0, 1e-3), tmp_path, Recorded())
    assert capsys.readouterr().out.count("bfloat16: train.precision=float32 is faster") == said


def line(parts=1, momentum=0.0, info=None, steps=6):
    """Half the square of weight - target, whose gradient is weight - target; targets are the numbers of the parts."""
    module = nn.Linear(1, 1, bias=False)
    nn.init.constant_(module.weight, 0.5)

    def objective(target):
        error = module.weight[0, 0] - target
        return Losses(0.5 * error.square(), {"error": error})

    def batches(start):
        yield from (float(step * parts + part) / 10 for step in range(start, steps) for part in range(parts))

    average = MovingAverage(module, 0.9)
    saved = states({"line": module, "average": average.module})
    optimizer = torch.optim.SGD(module.parameters(), momentum=momentum, lr=1.0)
    job = Training(objective, batches, list(module.parameters()), optimizer, saved, average, parts, info=info or {})
    return module, average, job


@pytest.mark.parametrize("parts", [1, 2])
def test_every_step_is_the_mean_of_its_parts_against_the_gradient(tmp_path, parts):
    (module, average, job), log = line(parts), Recorded()
    train(job, Pace(6, lr=0.25), tmp_path, log)
    weight, mean, expected = 0.5, 0.5, []
    for step in range(6):
        targets = [(step * parts + part) / 10 for part in range(parts)]
        gradient = sum(weight - target for target in targets) / parts
        expected.append((step + 1, sum(0.5 * (weight - t) ** 2 for t in targets) / parts, abs(gradient), 0.25))
        weight -= 0.25 * gradient
        decay = min(0.9, (1 + step) / (10 + step))
        mean = decay * mean + (1 - decay) * weight
    assert log.started == [0] and log.finished == 1
    assert [target for target, _ in log.added] == pytest.approx([i / 10 for i in range(6 * parts)])
    for told, right in zip(log.steps, expected, strict=True):
        assert told == pytest.approx(right, rel=1e-5)
    assert module.weight.item() == pytest.approx(weight, rel=1e-5)
    assert average.module.weight.item() == pytest.approx(mean, rel=1e-5)


def test_a_long_gradient_is_shortened_to_one_and_its_length_told(tmp_path):
    module, _, job = line(steps=1)
    nn.init.constant_(module.weight, 50.0)
    log = Recorded()
    train(job, Pace(1, lr=0.25), tmp_path, log)
    assert log.steps[0][2] == pytest.approx(50) and module.weight.item() == pytest.approx(50 - 0.25)


def test_a_stopped_training_goes_on_to_the_same_bits(tmp_path):
    pace, after = Pace(6, lr=0.25, warmup_steps=3, decay_fraction=0.5, checkpoint_every=2), []

    def stop(done):
        after.append(done)
        if done == 5:
            raise KeyboardInterrupt

    straight = line(momentum=0.5)
    train(straight[2], pace, tmp_path / "straight", Recorded())
    with pytest.raises(KeyboardInterrupt):
        train(line(momentum=0.5)[2], pace, tmp_path / "stopped", Recorded(), stop)
    again, log = line(momentum=0.5), Recorded()
    train(again[2], pace, tmp_path / "stopped", log, after.append)
    assert log.started == [4] and after == [1, 2, 3, 4, 5, 5, 6]
    for first, second in zip(straight[:2], (again[0], again[1]), strict=True):
        module, other = (getattr(x, "module", x) for x in (first, second))
        assert torch.equal(module.weight, other.weight)


def test_what_the_clock_ends_is_looked_at_too(tmp_path, monkeypatch, capsys):
    """Every look at the clock is a second later, and in the last of five steps a bit flips: it is done again."""
    seconds, flipped = count(), []
    monkeypatch.setattr(loop, "Budget", partial(Budget, clock=lambda: next(seconds)))
    module, average, job = line(steps=100)

    def objective(target):
        losses = job.objective(target)
        if target == 0.4 and not flipped:
            flipped.append(target)
            module.weight.data.fill_(float("nan"))
        return losses

    log, expected = Recorded(), line(steps=5)
    pace = Pace(100, lr=0.25, minutes=5 / 60, checkpoint_every=2)
    train(replace(job, objective=objective), pace, tmp_path / "clock", log)
    assert "step 5: the parameter line.weight is not finite; back to the last checkpoint" in capsys.readouterr().err
    assert [done for done, *_ in log.steps] == [1, 2, 3, 4, 5, 5]
    train(expected[2], Pace(5, lr=0.25), tmp_path / "steps", Recorded())
    assert torch.equal(module.weight, expected[0].weight)
    assert torch.equal(average.module.weight, expected[1].module.weight)


def test_what_a_checkpoint_depends_on_must_not_change(tmp_path):
    pace = Pace(2, lr=0.1, checkpoint_every=1)
    train(line(info={"the words": "a"}, steps=2)[2], pace, tmp_path, Recorded())
    with pytest.raises(ThreedgenError, match="the words changed since this was saved"):
        train(line(info={"the words": "b"}, steps=2)[2], pace, tmp_path, Recorded())
    _, _, job = line(info={"the words": "a"}, steps=2)
    for other in ({**job.saved, "more": torch.zeros(1)}, {n: t for n, t in job.saved.items() if "line" in n}):
        with pytest.raises(ThreedgenError, match="cannot go on: --fresh begins anew"):
            loop.restore_training(tmp_path, job.optimizer, other, job.info)


def test_the_log_of_steps_tells_every_tenth_and_the_last(tmp_path, capsys):
    _, _, job = line(steps=25)
    with EventLog(tmp_path / "events.jsonl") as events:
        train(job, Pace(25, lr=0.1), tmp_path / "checkpoints", lambda start: StepLog(events, "line", 25, "line_step"))
    found = list(read_events(tmp_path / "events.jsonl"))
    assert [(event["event"], event["step"]) for event in found] == [("line_step", n) for n in (10, 20, 25)]
    for event in found:
        assert event["loss"] == pytest.approx(0.5 * event["error"] ** 2, rel=1e-5)
        assert event["grad_norm"] == pytest.approx(min(abs(event["error"]), 9), rel=1e-5)
    assert "line 25/25 100%" in capsys.readouterr().err


def test_learning_rate_warms_up_holds_and_decays():
    rates = [learning_rate(step, 1 - step / 1000, 2.0, 100, 0.6) for step in range(1000)]
    assert rates[0] == pytest.approx(0.02) and rates[99] == pytest.approx(2.0)
    assert rates[100:400] == pytest.approx([2.0] * 300)
    assert rates[700] == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(0.02)
    assert all(b <= a for a, b in pairwise(rates[400:]))


def test_moving_average_follows_the_formula():
    module = nn.Linear(1, 1, bias=False)
    module.weight.data.fill_(0.0)
    average = MovingAverage(module, decay=0.9)
    expected = 0.0
    module.weight.data.fill_(1.0)
    for step in range(200):
        average.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay)
        assert average.module.weight.item() == pytest.approx(expected, rel=1e-5)
