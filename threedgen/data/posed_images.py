"""Pictures of one object with the cameras that took them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from scipy.ndimage import binary_erosion
from torch import Tensor
from torch.nn.functional import normalize

from threedgen.cameras import Cameras, Rays
from threedgen.core.errors import ConfigError
from threedgen.mesh.types import Array

CAMERAS = "cameras.json"  # beside pictures: what they were taken with


@dataclass(frozen=True)
class PosedImages:
    """N pictures of one size and their cameras, whose azimuths and elevations are those seen from the origin."""

    images: Tensor  # [N, H, W, 3] or, with straight alpha, [N, H, W, 4]; uint8, sRGB
    cameras: Cameras
    names: tuple[str, ...]
    half_edge: float | None = None  # the object lies in [-half_edge, half_edge]^3; None: not known
    seen: Tensor | None = None  # [N, H, W] bool: pixels that show something; None: all do
    photographs: Tensor | None = None  # [N] bool, among pictures with alpha: those that have a background instead
    world: Array | None = None  # [4, 4] from the world of the cameras' file to this one, a rotation; None: the same

    @property
    def has_alpha(self) -> bool:
        return self.images.shape[-1] == 4

    @cached_property
    def cut_out(self) -> Tensor:
        """[N] bool: whether a picture's alpha says what is the object, and all else is empty."""
        everywhere = torch.full((len(self),), self.has_alpha)
        return everywhere if self.photographs is None else everywhere & ~self.photographs

    def __len__(self) -> int:
        return len(self.images)

    @property
    def num_pixels(self) -> int:
        """How many pixels show something."""
        return self.images[..., 0].numel() if self.seen is None else len(self._shown)

    @cached_property
    def _shown(self) -> Tensor:
        """The numbers of the pixels that show something, among all."""
        assert self.seen is not None
        return self.seen.flatten().nonzero()[:, 0]

    def on(self, color: tuple[float, float, float]) -> tuple[Array, Array]:
        """rgb [N, H, W, 3] in 0..1 and opacity [N, H, W, 1]: on a colour with alpha, else as they are, opacity 1."""
        pixels = self.images.numpy() / np.float32(255.0)
        if not self.has_alpha:
            return pixels, np.ones_like(pixels[..., :1])
        rgb, opacity = pixels[..., :3], pixels[..., 3:]
        return rgb * opacity + np.array(color, np.float32) * (1.0 - opacity), opacity

    def select(self, index: Sequence[int]) -> PosedImages:
        """The pictures of these numbers."""
        chosen, cameras = torch.tensor(list(index), dtype=torch.long), self.cameras
        return replace(
            self,
            images=self.images[chosen],
            cameras=cameras_at(cameras.camera_to_world[chosen], cameras.fov_y[chosen], cameras.height, cameras.width),
            names=tuple(self.names[i] for i in index),
            seen=None if self.seen is None else self.seen[chosen],
            photographs=None if self.photographs is None else self.photographs[chosen],
        )

    def moved(self, matrix: Array) -> PosedImages:
        """The same pictures of a world after a similarity transform [4, 4] without rotation."""
        scale = float(matrix[0, 0])
        poses = self.cameras.camera_to_world.clone()
        poses[:, :3, 3] = scale * poses[:, :3, 3] + torch.from_numpy(matrix[:3, 3]).to(poses)
        cameras = cameras_at(poses, self.cameras.fov_y, self.cameras.height, self.cameras.width)
        return replace(self, cameras=cameras, half_edge=self.half_edge and scale * self.half_edge)

    def views_of(self, index: Tensor) -> Tensor:
        """The pictures [R] to which pixels belong, counted as `pixels` does."""
        numbers = index if self.seen is None else self._shown[index]
        return numbers // (self.cameras.height * self.cameras.width)

    def pixels(self, index: Tensor) -> tuple[Rays, Tensor]:
        """The rays through the centres of pixels, and what is there: index [R] -> rays [R, 3], values [R, 3 or 4].

        Pixels are counted camera after camera, row after row, without those that show nothing; the values are 0..1.
        """
        cameras = self.cameras
        height, width = cameras.height, cameras.width
        if self.seen is not None:
            index = self._shown[index]
        view, row, column = index // (height * width), index // width % height, index % width
        focal = 0.5 * height / (0.5 * cameras.fov_y).tan()  # pixels
        x = (column + 0.5 - 0.5 * width) / focal[view]
        y = (0.5 * height - 0.5 - row) / focal[view]
        poses = cameras.camera_to_world[view]
        in_camera = torch.stack([x, y, -torch.ones_like(x)], -1)
        directions = normalize(torch.einsum("rij,rj->ri", poses[:, :3, :3], in_camera), dim=-1)
        values = self.images.view(-1, self.images.shape[-1])[index].float() / 255.0
        return Rays(poses[:, :3, 3], directions), values


def normalization(posed: PosedImages, radius: float, scale: float = 0.0) -> Array:
    """[4, 4] that puts the object of the pictures into the cube [-radius, radius]^3: a scale and a shift.

    scale > 0: that scale and no shift. Otherwise: an object whose place is known (`half_edge`) and fits stays as it
    is; else the point nearest to all the cameras' axes (least squares) goes to the origin, and half the height of
    the median view there becomes `radius`, as the object is thought to fill the pictures.

    Raises:
        ConfigError: the cameras all look the same way, or stand in the point that they look at.
    """
    matrix = np.eye(4)
    if scale > 0:
        matrix[:3, :3] *= scale
        return matrix
    if posed.half_edge is not None and posed.half_edge <= radius:
        return matrix
    poses = posed.cameras.camera_to_world.double().numpy()
    origins, back = poses[:, :3, 3], poses[:, :3, 2]
    center = nearest_to_axes(poses)
    if center is None:
        raise ConfigError("the cameras look in one direction only: pictures from several sides are needed")
    depth = ((origins - center) * back).sum(1)
    half_height = float(np.median(depth * np.tan(posed.cameras.fov_y.double().numpy() / 2)))
    if half_height <= 0:
        raise ConfigError("the cameras look away from each other: pictures of one object, seen from around, are needed")
    matrix[:3, :3] *= radius / half_height
    matrix[:3, 3] = -radius / half_height * center
    return matrix


def nearest_to_axes(poses: Array) -> Array | None:
    """The point [3] nearest to the axes of cameras [N, 4, 4] (least squares); None if they are all but parallel."""
    origins, back = poses[:, :3, 3], poses[:, :3, 2]
    across = np.eye(3) - back[:, :, None] * back[:, None, :]  # what of a vector is not along the axis
    if np.linalg.eigvalsh(across.mean(0))[0] < 1e-4:
        return None
    return np.linalg.solve(across.sum(0), np.einsum("nij,nj->i", across, origins))


def background_color(posed: PosedImages) -> Tensor | None:
    """The colour [3] in 0..1 that nearly all pixels on the edges of the pictures without alpha have; None: they differ,
    or all pictures have alpha."""
    chosen = ~posed.cut_out
    if not chosen.any():
        return None
    images = posed.images[chosen][..., :3]
    if posed.seen is None:
        edges = torch.cat([images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]], 1).reshape(-1, 3).float()
    else:
        seen = posed.seen[chosen].numpy()
        inner = np.stack([binary_erosion(each, np.ones((3, 3))) for each in seen])
        edges = images[torch.from_numpy(seen & ~inner)].float()
    color = edges.median(0).values
    same = ((edges - color).abs() <= 8).all(-1).float().mean()
    return color / 255.0 if same > 0.9 else None


def cameras_at(poses: Tensor, fov_y: Tensor, height: int, width: int) -> Cameras:
    """Cameras with these matrices [N, 4, 4] and fields of view [N]; angles and distances are those from the origin."""
    position = poses[:, :3, 3]
    distance = position.norm(dim=-1)
    return Cameras(
        camera_to_world=poses,
        fov_y=fov_y,
        height=height,
        width=width,
        azimuth=torch.atan2(position[:, 1], position[:, 0]),
        elevation=torch.asin((position[:, 2] / distance.clamp(min=1e-12)).clamp(-1.0, 1.0)),
        distance=distance,
    )
