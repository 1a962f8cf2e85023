"""What every task that optimises a scene needs: its optimiser, its checkpoints, and going on from them."""

from __future__ import annotations

from torch import Tensor

from threedgen.config.schema import Config
from threedgen.core.schedules import value_at
from threedgen.ops.optimizer import AdamW
from threedgen.runs.checkpoint import (
    flatten_optimizer_state,
    load_latest_checkpoint,
    restore_optimizer_state,
    save_checkpoint,
)
from threedgen.runs.directory import RunDirectory
from threedgen.scene.nerf import NeRF

_PREFIX = "scene."  # of the scene's tensors in a checkpoint


class SceneOptimizer:
    """AdamW on a scene's parameter groups, with the config's learning rates and their schedule."""

    def __init__(self, scene: NeRF, config: Config) -> None:
        self.scene = scene
        self.config = config
        self.adamw = AdamW(
            scene.param_groups(config.optimizer),
            scene.ops,
            betas=config.optimizer.betas,
            eps=config.optimizer.eps,
            weight_decay=config.optimizer.weight_decay,
        )
        self.peak_lr = [group["lr"] for group in self.adamw.param_groups]

    def step(self, loss: Tensor, step: int) -> None:
        """Step 0, 1, ...: against the gradient of `loss`; then the scene's own housekeeping."""
        scale = value_at(self.config.optimizer.lr_scale, step / self.config.steps)
        for group, lr in zip(self.adamw.param_groups, self.peak_lr, strict=True):
            group["lr"] = lr * scale
        self.adamw.zero_grad(set_to_none=True)
        loss.backward()
        self.adamw.step()
        self.scene.after_step(step)

    def save(self, run: RunDirectory, steps_done: int) -> None:
        """Write a checkpoint of the scene and of the optimiser's memory."""
        tensors = {f"{_PREFIX}{name}": value for name, value in self.scene.state_dict().items()}
        save_checkpoint(run.checkpoints, steps_done, tensors | flatten_optimizer_state(self.adamw), {})

    def restore(self, run: RunDirectory) -> int:
        """Load the run's latest checkpoint, if there is one; returns the step to go on from."""
        checkpoint = load_latest_checkpoint(run.checkpoints)
        if checkpoint is None:
            return 0
        tensors = checkpoint.tensors
        self.scene.load_state_dict({k.removeprefix(_PREFIX): v for k, v in tensors.items() if k.startswith(_PREFIX)})
        restore_optimizer_state(self.adamw, tensors)
        print(f"resumed    at step {checkpoint.step}")
        return checkpoint.step
