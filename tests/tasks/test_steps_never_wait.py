"""No step at full size waits for its device: neither for a number of it, nor to send it numbers of its own.

Steps run on the meta device, whose tensors have no numbers: whoever asks for one fails. What a GPU would be sent, it is
sent by `to_device`, from pinned memory. tests/gpu asks the device itself.
"""

import sys
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from threedgen.cameras import orbit
from threedgen.config.load import load_config
from threedgen.config.schedules import Schedule
from threedgen.core.transfer import to_device
from threedgen.diffusion.conditions import Conditions
from threedgen.diffusion.denoising import Guided
from threedgen.diffusion.joint import Joint
from threedgen.diffusion.prior import MultiViewPrior
from threedgen.runs.directory import open_run
from threedgen.tasks import refine
from threedgen.tasks.generate import distilling
from threedgen.tasks.scene_optimizer import SceneOptimizer, Span
from threedgen.tasks.training.batches import Batch
from threedgen.tasks.training.prior_log import TrainingLog
from threedgen.tasks.training.train_prior import _Objective
from threedgen.training.guard import NumberGuard
from threedgen.training.loop import Training, _backward, apply_gradients

ATEN, META = torch.ops.aten, torch.device("meta")
SMALL = [
    "prompt=a cat",
    "camera.coarse_resolution=8",
    "camera.resolution=16",
    "guidance.image_size=16",
    "scene.grid.log2_table_size=10",
    "scene.occupancy_every=1",
    "refine.sets=2",
]


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        if any(leaf.is_meta for leaf in [*given, *tree_leaves(result)] if isinstance(leaf, torch.Tensor)):
            self._check(func, args, given)
        return result

    @staticmethod
    def _check(func, args, given):
        sends = func in (ATEN._to_copy.default, ATEN.copy_.default) and any(not x.is_meta for x in given)
        if sends and not _is_called_by(to_device):
            raise AssertionError(f"{func} sends what is not pinned")
        if func.overloadpacket in (ATEN.index, ATEN.index_put, ATEN.index_put_):
            index = [leaf for leaf in tree_leaves(args[1]) if isinstance(leaf, torch.Tensor)]
            if any(leaf.dtype == torch.bool or not leaf.is_meta for leaf in index):
                raise AssertionError(f"{func} by a mask, or by numbers that are not there")


class _Constructors(TorchFunctionMode):
    """What no dispatch shows: numbers of Python that become a tensor there."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func in (torch.tensor, torch.as_tensor, torch.Tensor.new_tensor) and result is not args[0]:
            assert not result.is_meta, f"{func.__name__} sends what is not pinned"
        return result


@contextmanager
def never_waiting():
    """Raises in the block where a GPU would be waited for. Reading a number of the meta device raises by itself."""
    with _Operations(), _Constructors():
        yield


def _is_called_by(function):
    frame = sys._getframe()
    while frame is not None and frame.f_code is not function.__code__:
        frame = frame.f_back
    return frame is not None


@pytest.mark.parametrize(
    "waits",
    [
        lambda far: far.sum().item(),
        lambda far: bool(far[0] > 0),
        lambda far: far.cpu(),
        lambda far: far.nonzero(),
        lambda far: far[far > 0],
        lambda far: far[torch.tensor([0, 1])],
        lambda far: far.index_put_((far > 0,), far[0]),
        lambda far: torch.ones(3).to(far),
        lambda far: torch.tensor([1.0], device=far.device),
        lambda far: far.new_tensor([1.0]),
        lambda far: far.copy_(torch.ones(3)),
        lambda far: torch.repeat_interleave(far, torch.ones(3, dtype=torch.int64, device=far.device)),
    ],
)
def test_what_waits_is_seen(waits):
    with never_waiting(), pytest.raises((AssertionError, RuntimeError)):
        waits(torch.ones(3, device=META))


def test_what_does_not_wait_passes():
    far = torch.ones(3, device=META)
    with never_waiting():
        far + to_device(torch.ones(3), META) * torch.tensor(2.0)
        far[torch.zeros(2, dtype=torch.int64, device=META)]
        torch.full((3,), 2.0, device=META)


@pytest.fixture(scope="module")
def full_size_count(load_benchmark):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
        return load_benchmark("full_size_count")


@pytest.fixture
def guard(tmp_path):
    """Made of a scene's or a network's parameters; there is a checkpoint to go back to."""
    (tmp_path / "kept/step-000001").mkdir(parents=True)

    def made(parameters):
        guard = NumberGuard(parameters, {}, "lr")
        next(guard.attempts(lambda: 0, tmp_path / "kept"))
        return guard

    return made


@pytest.fixture
def optimizer(guard, full_size_count):
    """A function that takes a step of a scene as `fit` does: (scene, config, what a step is, its number)."""

    def step(scene, config, take, number):
        optimizer = SceneOptimizer(scene, config, Span(0, number + 1, Schedule(1.0, 1.0)))
        allows = guard([p for group in optimizer.adamw.param_groups for p in group["params"]]).allows
        with full_size_count.no_kernels(), never_waiting():
            optimizer.step(take(number).loss, number, allows)
        assert scene.table.grad is not None

    return step


@pytest.mark.parametrize("fine", [False, True])
@pytest.mark.parametrize("joint", [False, True])
def test_a_step_of_distillation(full_size_count, optimizer, tiny_prior, fine, joint):
    config = load_config("mvdream-sd21.yaml", [*SMALL, "guidance.rescale=0.5"])
    scene = full_size_count.meta_scene(config, 500)
    prior, text = MultiViewPrior.from_pretrained(tiny_prior).to(META), torch.zeros(1, 20, 16, device=META)

    def mix(guided):
        alone = Conditions(text, None, 1)
        return Joint(guided, Guided(prior, alone, text, 5.0), Schedule(0.2, 0.8))

    take = distilling(scene, config, prior, text, text, mix if joint else None)
    optimizer(scene, config, take, full_size_count.first_step(config, fine))


def test_a_step_of_refinement(full_size_count, optimizer):
    config = load_config("mvdream-sd21.yaml", [*SMALL, "refine.smoothness_weight=1", "refine.opaque_weight=1"])
    scene, cameras = full_size_count.meta_scene(config, 500), orbit([0, 90, 180, 270], 15, 3.0, 40, 16, num_views=4)
    target, behind = torch.zeros(4, 16, 16, 3, device=META), torch.zeros(3)
    fitting = refine._Fitting(scene, config, [cameras] * 2, [target] * 2, [behind] * 2)
    optimizer(scene, config, fitting, 0)


@pytest.mark.parametrize("has_cameras", [False, True])
def test_a_step_of_training(tiny_prior, guard, tmp_path, has_cameras, monkeypatch):
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # there is none for this device
    config = load_config("train-mini.yaml", ["train.log_every=1000"])
    prior = MultiViewPrior.from_pretrained(tiny_prior).to(META)
    prior.unet.requires_grad_(True)
    cameras = orbit([0, 180], 15, 3.0, 40, 16, num_views=2) if has_cameras else None
    images, noise, shown = torch.zeros(2, 3, 16, 16), torch.zeros(2, 4, 4, 4), torch.ones(1 + (not has_cameras))
    batch = Batch(images, ["a cat"] * len(shown), cameras, torch.tensor([10, 10]), noise, shown)
    parameters = list(prior.unet.parameters())
    optimizer = torch.optim.AdamW(parameters)
    job = Training(_Objective(prior), lambda start: None, parameters, optimizer, {}, parts=2)
    watch = guard(parameters)
    with (
        open_run(tmp_path / "run", config) as run,
        TrainingLog(run, config.train, 2, META).begin(0) as log,
        never_waiting(),
    ):
        loss = _backward(job, iter([batch, batch]), log)
        norm = apply_gradients(optimizer, parameters, 1e-3, lambda norm: watch.allows(1, loss, norm))
        log.step(1, loss, norm, 1e-3)
        with pytest.raises(RuntimeError, match="meta"):
            log.finish()
