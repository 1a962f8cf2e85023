"""3D Gaussians as a scene that renders like any other."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from threedgen.cameras import Cameras
from threedgen.config.scene import BackendName
from threedgen.core.randomness import generator
from threedgen.core.transfer import to_device
from threedgen.ops.backends import Backend, select_backend
from threedgen.ops.plain.splats import spherical_harmonics
from threedgen.ops.splats import degree_of, focal_length
from threedgen.scene.gaussians.field import GaussianField
from threedgen.scene.output import RenderOutput

_SAME = 1e-4  # relative: how far a matrix may be from a rotation times a number


@dataclass(frozen=True, eq=False)
class Gaussians:
    """N Gaussians, by the rules of `ops.splats`. Whatever the tensors were computed from gets gradients."""

    positions: Tensor  # [N, 3] world units
    quaternions: Tensor  # [N, 4] w, x, y, z of the rotation from a Gaussian's axes to the world's; any length but 0
    scales: Tensor  # [N, 3] > 0, standard deviations along a Gaussian's axes, world units
    opacities: Tensor  # [N] in 0..1
    colors: Tensor  # [N, 3] in 0..1, or [N, 1, 4, 9 or 16, 3] coefficients of spherical harmonics
    ops: Backend | None = None  # what they are drawn with; None: `auto` for their device

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def device(self) -> torch.device:
        return self.positions.device

    @cached_property
    def _ops(self) -> Backend:
        return self.ops or select_backend(BackendName.auto, self.device)

    def render(self, cameras: Cameras, *, background: Tensor | None = None) -> RenderOutput:
        """Images of B cameras. background: a colour [3] in 0..1; None: white."""
        cameras = cameras.to(self.device)
        seen = self._ops.splat(
            self.positions, self.quaternions, self.scales, self.opacities, self.colors,
            cameras.camera_to_world, cameras.fov_y, cameras.height, cameras.width,
        )  # fmt: skip
        behind = torch.ones_like(self.positions[:0].sum(0)) if background is None else background
        opacity = seen.opacity[..., None]
        rgb = seen.rgb + (1.0 - opacity) * to_device(behind, self.device)
        depth = seen.depth * _length_per_depth(cameras).to(seen.depth)
        return RenderOutput(rgb, opacity, depth[..., None])

    @cached_property
    def _field(self) -> GaussianField:
        rgb = self.colors if self.colors.ndim == 2 else 0.5 + spherical_harmonics(self.positions, 0) * self.colors[:, 0]
        tensors = self.positions, self.quaternions, self.scales, self.opacities, rgb.clamp(0.0, 1.0)
        return GaussianField(self._ops, *(tensor.detach() for tensor in tensors))

    @property
    def radius(self) -> float:
        """Half the edge of the cube around the origin that holds all of them, world units."""
        return self._field.radius

    def field(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """World positions [M, 3] -> density [M] per world unit, rgb [M, 3] in 0..1, without gradients."""
        return self._field(positions)

    def transformed(self, matrix: Tensor) -> Gaussians:
        """The Gaussians after a rotation, a uniform scaling and a move: [4, 4], new position = matrix @ position.

        What depends on the direction of view, in the harmonics, turns with them. Raises ValueError for a matrix that
        does anything else, such as mirroring.
        """
        linear, move = matrix[:3, :3].detach().double().cpu(), matrix[:3, 3].to(self.positions)
        determinant = torch.linalg.det(linear)
        scale = determinant.abs() ** (1 / 3)
        rotation = linear / scale
        # not written as "off > _SAME": the matrix may hold nan
        if not (determinant > 0 and (rotation @ rotation.T - torch.eye(3)).abs().max() < _SAME):
            raise ValueError("Gaussians can be turned, moved and scaled alike in all directions; this matrix does more")
        x, y, z, w = Rotation.from_matrix(rotation.numpy()).as_quat().tolist()
        turn = self.quaternions.new_tensor([[w, -x, -y, -z], [x, w, -z, y], [y, z, w, -x], [z, -y, x, w]])
        colors = self.colors
        if degree := degree_of(colors):
            turned = _turn_of_harmonics(rotation, degree).to(colors)
            colors = torch.einsum("jk,nkc->njc", turned, colors)
        return replace(
            self,
            positions=self.positions @ linear.to(self.positions).T + move,
            quaternions=self.quaternions @ turn.T,
            scales=self.scales * float(scale),
            colors=colors,
        )


def _length_per_depth(cameras: Cameras) -> Tensor:
    """[B, H, W] distance along each pixel's ray for a unit of depth along its camera's axis."""
    focal = focal_length(cameras.fov_y, cameras.height)[:, None, None]
    x = torch.arange(cameras.width, device=focal.device) + 0.5 - 0.5 * cameras.width
    y = torch.arange(cameras.height, device=focal.device) + 0.5 - 0.5 * cameras.height
    return (1.0 + (x / focal).square() + (y[:, None] / focal).square()).sqrt()


def _turn_of_harmonics(rotation: Tensor, degree: int) -> Tensor:
    """[K, K] what turns coefficients into those of the turned function f(rotation^-1 direction).

    Turned harmonics are sums of harmonics, so as many directions as there are of them, and more, say which.
    """
    around = torch.randn(64, 3, dtype=torch.float64, generator=generator(0, 0, "harmonics"))
    directions = torch.nn.functional.normalize(around, dim=-1)
    after, before = (spherical_harmonics(d, degree) for d in (directions, directions @ rotation))
    return torch.linalg.lstsq(after, before).solution
