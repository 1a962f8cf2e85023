"""Less memory for a step, at the price of time: only where a GPU's does not suffice."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import torch

from threedgen.config.runtime import MemoryUse, RuntimeConfig
from threedgen.core.errors import ThreedgenError
from threedgen.scene.protocol import RayScene

if TYPE_CHECKING:
    from threedgen.diffusion.prior import MultiViewPrior

T = TypeVar("T")


def saving(config: RuntimeConfig, scene: RayScene, prior: MultiViewPrior) -> Callable[[], bool]:
    """What makes steps take less memory from now on: parts of them are computed again for their gradients.

    It returns whether that changes anything: not twice, and not where the config says how much a step may take.
    """

    def save() -> bool:
        if scene.low_memory or config.memory is not MemoryUse.auto:
            return False
        scene.low_memory = True
        prior.take_less_memory()
        return True

    return save


def within_memory(compute: Callable[[], T], save: Callable[[], bool], tell: Callable[[str], None]) -> T:
    """What `compute` gives, at the second attempt if the first does not fit and `save` makes it take less.

    compute: leaves nothing behind where it fails; tell: is told of the second attempt. Raises ThreedgenError where it
    does not fit.
    """
    try:
        return compute()
    except torch.OutOfMemoryError as error:
        if not save():
            raise ThreedgenError(
                f"the GPU's memory does not hold a step ({str(error).splitlines()[0]}): take a smaller "
                "camera.resolution, or a smaller camera.coarse_resolution or camera.coarse_sets_per_step"
            ) from error
    if torch.cuda.is_initialized():  # what failed is no longer referred to here
        torch.cuda.empty_cache()
    tell("a step does not fit into the GPU's memory: from now on as with runtime.memory=low, which takes longer")
    return within_memory(compute, lambda: False, tell)
