"""Gaussians as the parameters of an optimisation; their number stays what it was."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from threedgen.cameras import Cameras
from threedgen.config.scene import OptimizerConfig, SceneConfig
from threedgen.core.errors import ConfigError
from threedgen.ops.backends import select_backend
from threedgen.ops.optimizer import Optimizer
from threedgen.scene.gaussians.cloud import Gaussians
from threedgen.scene.output import RenderOutput
from threedgen.scene.shading import Shading

_INSIDE = 1e-4  # opacities and colours start no nearer to 0 and 1, where a logit would not move any more
# Learning rates of Kerbl et al. 2023 as multiples of each other: of the scales 0.005, and so on
_RATES = {"positions": 0.032, "quaternions": 0.2, "log_scales": 1.0, "opacity_logits": 10.0, "colors": 0.5}


class LearnedGaussians(nn.Module):
    """A scene whose parameters are valid whatever the optimiser does to them.

    Scales are kept as logarithms, opacities and colours [N, 3] as logits; coefficients of harmonics as they are.
    """

    def __init__(self, start: Gaussians, config: SceneConfig) -> None:
        """start: what they are before the first step, on the device where they are to be optimised."""
        super().__init__()
        self.ops = select_backend(config.backend, start.device)
        self.has_harmonics = start.colors.ndim == 3
        self.positions = nn.Parameter(start.positions.detach().clone())
        self.quaternions = nn.Parameter(start.quaternions.detach().clone())
        self.log_scales = nn.Parameter(start.scales.detach().log())
        self.opacity_logits = nn.Parameter(torch.logit(start.opacities.detach(), _INSIDE))
        colors = start.colors.detach()
        self.colors = nn.Parameter(colors.clone() if self.has_harmonics else torch.logit(colors, _INSIDE))

    @property
    def device(self) -> torch.device:
        return self.positions.device

    def gaussians(self) -> Gaussians:
        """As they are now; gradients go through."""
        return Gaussians(
            positions=self.positions,
            quaternions=self.quaternions,
            scales=self.log_scales.exp(),
            opacities=self.opacity_logits.sigmoid(),
            colors=self.colors if self.has_harmonics else self.colors.sigmoid(),
            ops=self.ops,
        )

    def render(
        self,
        cameras: Cameras,
        *,
        generator: torch.Generator | None = None,
        background: Tensor | None = None,
        shading: Shading | None = None,
        normals: bool = False,
    ) -> RenderOutput:
        """Images of B cameras.

        generator: nothing is drawn. background: a colour [3] in 0..1; None: white. Raises ConfigError for shading and
        normals, which Gaussians do not have.
        """
        if shading is not None or normals:
            raise ConfigError("Gaussians have no normals: neither shading nor a loss on normals can be used with them")
        return self.gaussians().render(cameras, background=background)

    def param_groups(self, config: OptimizerConfig) -> list[dict[str, Any]]:
        """Groups for AdamW: `grid_lr` times what each kind of number takes. Nothing decays: 0 means nothing here."""
        return [
            {"name": name, "params": [self.get_parameter(name)], "lr": config.grid_lr * rate, "weight_decay": 0.0}
            for name, rate in _RATES.items()
        ]

    def after_step(self, step: int, optimizer: Optimizer | None = None) -> None:
        """Nothing: none are added and none removed."""
