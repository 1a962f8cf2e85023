"""A step that does not fit into a GPU's memory is taken again in less, once and for all; then it is one line.

What torch raises is raised by the steps themselves.
"""

import pytest
import torch

from threedgen.config.runtime import MemoryUse, RuntimeConfig
from threedgen.config.scene import SceneConfig
from threedgen.config.schema import Config
from threedgen.core.errors import ThreedgenError
from threedgen.diffusion.prior import MultiViewPrior
from threedgen.scene.nerf import NeRF
from threedgen.tasks.memory import saving
from threedgen.tasks.prompting import load_prior

FULL = "CUDA out of memory. Tried to allocate 2.00 GiB.\nSee documentation"


class Forward(torch.autograd.Function):
    """The identity, whose gradient needs too much."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise torch.OutOfMemoryError(FULL)


class Saver:
    """Counts how often it is asked; from the first time on everything fits, if it `helps`."""

    def __init__(self, can, helps=True):
        self.can, self.helps, self.asked = can, helps, 0

    def __call__(self):
        self.asked += 1
        return self.can

    @property
    def fits(self):
        return self.asked > 0 and self.helps


@pytest.mark.parametrize("in_backward", [False, True])
def test_it_is_taken_again_and_the_run_is_the_same(toy, in_backward, capsys):
    saver = Saver(can=True)

    def full(scene, loss):
        if saver.fits:
            return loss
        if not in_backward:
            raise torch.OutOfMemoryError(FULL)
        return Forward.apply(loss)

    found = toy("found", {7: full, 20: full}, save=saver)
    assert found.seen == [*range(30)] and saver.asked == 1
    assert toy.same(found, toy("straight"))
    assert capsys.readouterr().err.count("warning: a step does not fit into the GPU's memory") == 1


@pytest.mark.parametrize(("can", "asked"), [(False, 1), (True, 1)])
def test_what_never_fits_is_one_line(toy, can, asked):
    saver = Saver(can, helps=False)

    def full(scene, loss):
        raise torch.OutOfMemoryError(FULL)

    with pytest.raises(ThreedgenError, match=r"does not hold a step \(.*2\.00 GiB\.\): take a smaller") as error:
        toy("found", {7: full}, save=saver)
    assert "\n" not in str(error.value) and saver.asked == asked


@pytest.mark.parametrize("graphs", [True, False])
@pytest.mark.parametrize("memory", MemoryUse)
def test_a_prior_is_loaded_with_the_memory_that_it_may_take(memory, graphs):
    prior = load_prior(Config(weights="mini", runtime=RuntimeConfig(memory=memory, cuda_graphs=graphs)))
    saves = memory is MemoryUse.low
    assert prior.vae.encoder.gradient_checkpointing == saves and prior.replays == (graphs and not saves)


def test_only_what_may_be_saved_is_saved_once():
    prior = MultiViewPrior.from_pretrained("mini")
    for memory in MemoryUse:
        scene = NeRF(SceneConfig(), 0, low_memory=memory is MemoryUse.low)
        prior.vae.disable_gradient_checkpointing()
        save = saving(RuntimeConfig(memory=memory), scene, prior)
        assert [save(), save()] == [memory is MemoryUse.auto, False]
        assert prior.vae.encoder.gradient_checkpointing == (memory is MemoryUse.auto)
        assert scene.low_memory == (memory is not MemoryUse.normal)
