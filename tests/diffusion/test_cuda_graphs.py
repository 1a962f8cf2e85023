"""Recorded calls against the calls themselves.

What records here is a stand-in for CUDA's graphs: it repeats the operations of one call (torch.fx), so what that took
from the host stays what it was then, and backward reads what the last forward pass left. tests/gpu asks a device.
"""

import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from threedgen.cameras import orbit
from threedgen.config.load import load_config
from threedgen.config.schedules import Schedule
from threedgen.core.randomness import generator
from threedgen.diffusion.conditions import Conditions
from threedgen.diffusion.denoising import Guided
from threedgen.diffusion.joint import Joint
from threedgen.diffusion.networks import cuda_graphs
from threedgen.diffusion.networks.cuda_graphs import GraphedCalls
from threedgen.diffusion.prior import MultiViewPrior
from threedgen.diffusion.sampling import sample_views
from threedgen.guidance.sds import ScoreDistillation


def record(function, samples):
    """As `torch.cuda.make_graphed_callables`."""
    inputs = [x.detach().clone() for x in samples]
    learning = [i for i, x in enumerate(samples) if x.requires_grad and torch.is_grad_enabled()]
    forward = make_fx(lambda *given: function(*given).detach())(*inputs)

    def gradients(direction, *given):
        given = [x.detach().requires_grad_(i in learning) for i, x in enumerate(given)]
        return torch.autograd.grad(function(*given), [given[i] for i in learning], direction)

    backward = make_fx(gradients)(torch.ones_like(forward(*inputs)), *inputs) if learning else None
    output = forward(*inputs)

    class Repeated(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *given):
            for held, new in zip(inputs, given, strict=True):
                held.copy_(new)
            return output.copy_(forward(*inputs)).detach()

        @staticmethod
        def backward(ctx, grad):
            found = iter(backward(grad, *inputs))
            return tuple(next(found) if i in learning else None for i in range(len(inputs)))

    return Repeated.apply


@pytest.fixture(autouse=True)
def recorded(monkeypatch):
    """How often there was something to record."""
    times = []

    def counting(function, samples):
        times.append([tuple(x.shape) for x in samples])
        return record(function, samples)

    monkeypatch.setattr(cuda_graphs, "is_on_gpu", lambda tensor: True)
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", counting)
    return times


class Counted:
    """x, scale, power -> a network's answer; counts how often it is computed."""

    def __init__(self):
        torch.manual_seed(0)
        self.network, self.times = nn.Sequential(nn.Linear(3, 3), nn.Tanh()).requires_grad_(False), 0

    def __call__(self, x, scale, power):
        self.times += 1
        return self.network(x).pow(power) * scale

    def told(self, *given):
        """What it answers, uncounted."""
        x, scale, power = given
        return self.network(x).pow(power) * scale

    def ask(self, calls, x, scale, power=2):
        return calls(self.network, self, x, scale, power)


def inputs(number):
    rng = torch.Generator().manual_seed(number)
    return torch.randn(4, 3, generator=rng), torch.randn(3, generator=rng)


def test_calls_that_are_alike_are_computed_until_they_are_recorded(recorded):
    calls, ask = GraphedCalls(2), Counted()
    for number in range(6):
        assert torch.equal(ask.ask(calls, *inputs(number)), ask.told(*inputs(number), 2))
    assert len(recorded) == 1
    computed = ask.times
    for power in (2, 3, 2, 3, 2, 3):  # two kinds by turns, both kept
        assert torch.equal(ask.ask(calls, *inputs(power), power), ask.told(*inputs(power), power))
    assert len(recorded) == 2
    for number in range(6, 9):
        ask.ask(calls, *inputs(number))
    assert ask.times > computed  # the other kind's
    before = ask.times
    for number, power in ((9, 2), (10, 3)):
        ask.ask(calls, *inputs(number), power)
    assert ask.times == before


def test_only_the_last_kinds_are_kept(recorded):
    calls, ask = GraphedCalls(1), Counted()
    for power in (2, 2, 3, 3, 2, 2):
        ask.ask(calls, *inputs(0), power)
    assert len(recorded) == 3


def test_results_stay_what_they_are():
    calls, ask = GraphedCalls(1), Counted()
    results = [ask.ask(calls, *inputs(number)) for number in range(5)]
    for number, result in enumerate(results):
        assert torch.equal(result, ask.told(*inputs(number), 2))


def gradient(result, x, number):
    direction = torch.randn(result.shape, generator=torch.Generator().manual_seed(number))
    return torch.autograd.grad(result, x, direction)[0]


def test_gradients_are_the_calls_own(recorded):
    """Also of a result that is not differentiated before the next call, and where one is never differentiated."""
    calls, ask = GraphedCalls(1), Counted()
    expected, found, pending = [], [], None
    for number in range(8):
        x, scale = inputs(number)
        x.requires_grad_()
        expected.append(gradient(ask.told(x, scale, 2), x, number))
        result = ask.ask(calls, x, scale)
        if number == 3:
            pending = result, x
        elif number == 5:
            found.insert(3, gradient(*pending, 3))
            found.append(gradient(result, x, number))
            pending = None
        elif number == 6:
            expected.pop()  # forgotten
        else:
            found.append(gradient(result, x, number))
    assert len(recorded) == 1 and len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
    before = ask.times
    x, scale = inputs(9)
    ask.ask(calls, x.requires_grad_(), scale)
    assert ask.times == before  # nobody waits any more


def test_calls_with_a_gradient_are_of_another_kind(recorded):
    calls, ask = GraphedCalls(2), Counted()
    for number in range(8):
        x, scale = inputs(number)
        learns = number in (2, 5, 6)
        with torch.set_grad_enabled(number != 3):  # of which nothing is learnt then
            result = ask.ask(calls, x.requires_grad_(learns or number == 3), scale)
        assert result.requires_grad == learns
        if learns:
            assert torch.equal(gradient(result, x, number), gradient(ask.told(x, scale, 2), x, number))
    assert len(recorded) == 2


def test_nothing_is_differentiated_twice():
    calls, ask = GraphedCalls(1), Counted()
    x, scale = inputs(0)
    for _ in range(3):
        result = ask.ask(calls, x.requires_grad_(), scale).sum()
        result.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="differentiated once: set"):
        result.backward()


@pytest.mark.parametrize("fails", ["raises", "differs", "gradient differs", "gives nan"])
def test_what_cannot_be_recorded_is_computed(monkeypatch, capsys, fails):
    def fail(function, samples):
        if fails == "raises":
            raise torch.OutOfMemoryError("CUDA out of memory.\nmore of it")
        if fails == "gradient differs":
            return record(lambda x, scale: function(x, scale) + 0.05 * (x - x.detach()), samples)
        return record(lambda *given: function(*given) * {"differs": 1.1, "gives nan": torch.nan}[fails], samples)

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", fail)
    calls, ask = GraphedCalls(1), Counted()
    for number in range(6):
        x, scale = inputs(number)
        result = ask.ask(calls, x.requires_grad_(), scale)
        assert torch.equal(result, ask.told(x, scale, 2))
        assert torch.equal(gradient(result, x, number), gradient(ask.told(x, scale, 2), x, number))
    says = capsys.readouterr().err.splitlines()
    why = "CUDA out of memory." if fails == "raises" else "a recorded call does not give what the call gives"
    assert says == [f"warning: without CUDA graphs, which takes longer: {why}"]


def test_weights_that_moved_are_recorded_again(recorded):
    calls, ask = GraphedCalls(1), Counted()
    for turn in range(2):
        for number in range(3):
            assert torch.equal(ask.ask(calls, *inputs(number)), ask.told(*inputs(number), 2))
        assert len(recorded) == turn + 1
        for weight in ask.network.parameters():
            weight.data = 2 * weight.data


def test_what_learns_is_not_recorded(recorded):
    calls, ask = GraphedCalls(1), Counted()
    ask.network[0].weight.requires_grad_(True)
    for number in range(3):
        assert ask.ask(calls, *inputs(number)).requires_grad
    assert not recorded


def views(count, first):
    return orbit([first + 360 / count * k for k in range(count)], 15, 3.0, 40, 32, num_views=count)


@pytest.fixture(scope="module")
def prior():
    return MultiViewPrior.from_pretrained("mini")


@pytest.mark.parametrize("joint", [False, True])
def test_distillation_is_the_same(prior, recorded, joint):
    """Timesteps, cameras, texts and pictures differ from step to step."""
    config = load_config("mvdream-mini.yaml", ["prompt=a cat"])
    texts = prior.encode_text(["a red cat with a green face", "a blue cube", ""])
    guidance = ScoreDistillation(prior, config.guidance, 0)

    def take(step):
        rgb = torch.rand(4, 32, 32, 3, generator=generator(0, step, "views")).requires_grad_()
        text, cameras = texts[step % 2 : step % 2 + 1], views(4, 10.0 * step)
        denoiser = Guided(prior, Conditions(text, cameras, 4), texts[2:], 5.0, 0.5)
        if joint:
            denoiser = Joint(denoiser, Guided(prior, Conditions(text, None, 1), texts[2:], 3.0), Schedule(0.5, 0.5))
        output = guidance(rgb, denoiser, step, config.steps)
        output.loss.backward()
        return output.loss.detach(), rgb.grad, output.preview()

    expected = [take(step) for step in range(4)]
    assert not recorded
    prior.replays = True
    found = [take(step) for step in range(4)]
    assert len(recorded) == (3 if joint else 2)
    for one, other in zip(found, expected, strict=True):
        assert all(torch.equal(*pair) for pair in zip(one, other, strict=True))
    prior.take_less_memory()
    assert not prior.replays
    take(4)
    prior.vae.disable_gradient_checkpointing()


@pytest.mark.parametrize("weights", ["mini", "mini-video", "mini-video-i2v"])
def test_views_are_the_same(recorded, weights):
    prior = MultiViewPrior.from_pretrained(weights)
    cameras, picture = views(4, 0.0), None
    if prior.is_shown_a_picture:
        with torch.no_grad():
            picture = prior.show(torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)))

    def draw():
        noise = generator(0, 0, "views")
        return sample_views(prior, ["a red cat"], cameras, noise, num_inference_steps=4, picture=picture)

    expected = draw()
    prior.replays = True
    assert torch.equal(draw(), expected) and len(recorded) == 1
    assert prior.without_text_encoder().replays
