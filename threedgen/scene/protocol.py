"""What is optimised, as the tasks see it: whatever shows itself to cameras and has parameters."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from threedgen.cameras import Cameras, Rays
from threedgen.config.scene import OptimizerConfig
from threedgen.mesh.types import DistanceField, RadianceField
from threedgen.ops.backends import Backend
from threedgen.ops.optimizer import Optimizer
from threedgen.ops.types import Composite, RaySamples
from threedgen.scene.output import RenderOutput
from threedgen.scene.shading import Shading


class Shown(Protocol):
    """What can be looked at: a scene, or the truth in its place."""

    @property
    def device(self) -> torch.device: ...

    def render(self, cameras: Cameras, *, background: Tensor | None = None) -> RenderOutput: ...


class Solid(Shown, RadianceField, Protocol):
    """What can be looked at and has a field: what export makes a mesh of."""


class Scene(Protocol):
    """What can be optimised by its pictures; made by `scene.make.make_scene`."""

    ops: Backend  # whose AdamW is the fastest for its tensors

    @property
    def device(self) -> torch.device: ...

    def render(
        self,
        cameras: Cameras,
        *,
        generator: torch.Generator | None = None,
        background: Tensor | None = None,
        shading: Shading | None = None,
        normals: bool = False,
    ) -> RenderOutput: ...

    def param_groups(self, config: OptimizerConfig) -> list[dict[str, Any]]:
        """Groups for AdamW, each with its learning rate."""

    def after_step(self, step: int, optimizer: Optimizer) -> None:
        """Its own housekeeping after each optimiser step 0, 1, ...; the optimiser's memory may have to follow."""

    def state_dict(self) -> Mapping[str, Tensor]: ...

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> Any: ...


class RayScene(Scene, RadianceField, Protocol):
    """One that single rays can be sent into, and that has a field: what reconstruction and export need."""

    low_memory: bool  # large images are rendered part by part, and a part once more for its gradients

    def trace(self, rays: Rays, jitter: Tensor | None = None) -> tuple[Composite, RaySamples]:
        """What R rays see, without any background, and their samples. jitter: [R], see `ops.ray_jitter`."""

    def background(self, directions: Tensor) -> Tensor:
        """Directions [R, 3] of unit length -> rgb [R, 3] in 0..1."""

    @property
    def step_size(self) -> float:
        """Distance between the samples of a ray, world units."""

    def draw_points(self, number: int, margin: float, generator: torch.Generator) -> Tensor:
        """[number, 3] positions in the cube, `margin` from its faces, half of them where the scene is not empty."""


@runtime_checkable
class DistanceScene(RayScene, DistanceField, Protocol):
    """One whose field is a signed distance, as far as `regularizers.eikonal` makes it one."""

    def gradients(self, step: int) -> Tensor:
        """[N, 3] of the distance at random points of its own for this step."""
