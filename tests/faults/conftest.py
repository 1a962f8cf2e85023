"""Shared by the tests of what happens to runs: a scene of a few numbers, whose steps take no time."""

import signal

import pytest
import torch
from torch import nn

from threedgen.config.load import load_config
from threedgen.runs.directory import open_run
from threedgen.tasks.scene_optimizer import SceneStep, fit


class Backend:
    """AdamW's step as torch has it."""

    @staticmethod
    def adamw_step(param, grad, exp_avg, exp_avg_sq, step, lr, beta1, beta2, eps, weight_decay):
        param.mul_(1 - lr * weight_decay)
        exp_avg.lerp_(grad, 1 - beta1)
        exp_avg_sq.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        bias1, bias2 = 1 - beta1**step, 1 - beta2**step
        param.addcdiv_(exp_avg, (exp_avg_sq.sqrt() / bias2**0.5).add_(eps), value=-lr / bias1)


class ToyScene(nn.Module):
    """Two numbers that are drawn to other ones in each step. `events` says what else happens: {step: what}."""

    ops, device = Backend(), torch.device("cpu")

    def __init__(self, events=None):
        super().__init__()
        self.table, self.bias = nn.Parameter(torch.tensor([1.0, 2.0])), nn.Parameter(torch.tensor([0.5]))
        self.events, self.seen, self.opacity = events or {}, [], (0.0, 1.0)

    def param_groups(self, config):
        return [{"params": [self.table], "lr": 0.1}, {"params": [self.bias], "lr": 0.01}]

    def after_step(self, step, optimizer):
        self.seen.append(step)

    def take(self, step):
        target = torch.tensor([float(step % 3), 1.0])
        loss = (self.table - target).square().sum() + (self.bias * (step + 1) % 1.7).sum().square()
        if step in self.events:
            loss = self.events[step](self, loss)
        picture = torch.zeros(1, 4, 4, 3)
        return SceneStep(loss, lambda: (loss.item(), {}), lambda: picture, lambda: self.opacity)


def same_state(a, b):
    """Whether two scenes are the same to the last bit."""
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.fixture
def toy(tmp_path):
    """toy(name, events, steps, every) optimises a toy in the run `name` of the test's folder, and gives it back.

    Other arguments are those of `fit`.

    toy.scene: its class; toy.same(a, b): whether two are the same to the last bit.
    """

    def run_toy(name, events=None, steps=30, every=10, scene=None, **options):
        config = load_config(None, [f"steps={steps}", f"checkpoint_every={every}", "preview_every=1000000"])
        scene = scene or ToyScene(events)
        with open_run(tmp_path / name, config) as run:
            fit(scene, config, run, "toy", scene.take, **options)
        return scene

    run_toy.scene, run_toy.same = ToyScene, same_state
    return run_toy


@pytest.fixture(autouse=True)
def handlers():
    """Whatever a test does, what handled signals before handles them after."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    after = {number: signal.getsignal(number) for number in before}
    for number, handler in before.items():
        signal.signal(number, handler)
    assert after == before
