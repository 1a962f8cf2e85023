"""Do views agree on the surface that they show? Each is compared with another one, warped onto it by a known flow.

The flow is that of a depth and the cameras (of the truth, or of a scene that was fitted to the views), or what a
network for optical flow sees, such as RAFT. Neighbours, 15 degrees apart where there are 24, tell noise and jumps; a
slow drift is seen only from farther off (6, 90 degrees).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import grid_sample, max_pool2d

from threedgen.cameras import Cameras, project, rays_of
from threedgen.imaging import to_numpy
from threedgen.metrics.image import border_color, drawn_silhouette

# images [B, 3, H, W] in 0..1, and others -> [B, 2, H, W]: how many pixels right and down each pixel is in the others
OpticalFlow = Callable[[Tensor, Tensor], Tensor]

TOLERANCE = 0.12  # of a depth, in half heights of the view at the origin, which objects nearly fill
_OPAQUE = 0.5
_SAME_WAY, _SAME_PIXEL = 0.01, 0.5  # share of the squared ways, and squared pixels


@dataclass(frozen=True)
class Flow:
    """From each of B views to another one."""

    other: Tensor  # [B] that one's number
    pixels: Tensor  # [B, H, W, 2] (column, row) there of what each pixel shows; a pixel's centre has half numbers
    visible: Tensor  # [B, H, W] whether it is seen there too
    silhouette: Tensor  # [B, H, W] what may be compared: the object without its outermost pixels


@dataclass(frozen=True)
class WarpedError:
    """rmse: root of the mean squared difference over the channels of all visible pixels, nan where there is none;
    coverage: their share of the silhouettes' pixels."""

    rmse: float
    coverage: float


def flow_around(cameras: Cameras, depth: Any, opacity: Any, distance: int) -> Flow:
    """The flow from each view to the one `distance` further on, in a closed ring of B views.

    A pixel is seen there too if the four pixels around its place belong to the silhouette and their interpolated depth
    is that of its point, within `TOLERANCE`. Silhouettes lose one pixel all around (in a square of 3 x 3), where
    colours and depths are a mixture.

    Args:
        cameras: B.
        depth: [B, H, W, 1] mean distance along the unit ray where the object is, world units, as miniworld's
            `Rendering` has it; a scene's is `RenderOutput.depth / opacity`.
        opacity: [B, H, W, 1]; what is above 0.5 is the object.
        distance: 1 .. B - 1.

    Raises ValueError for any other distance, where the ring has no second view.
    """
    count, height, width = len(cameras), cameras.height, cameras.width
    other = _around(count, distance)
    depth, opacity = _images(depth), _images(opacity)  # [B, 1, H, W]
    silhouette = _eroded((opacity > _OPAQUE).float())
    rays = rays_of(cameras)
    points = (rays.origins + depth.reshape(-1, 1) * rays.directions).view(count, -1, 3)
    pixels, away = project(cameras.take(other, 1), points)
    pixels, away = pixels.view(count, height, width, 2), away.view(count, height, width)
    seen_depth, seen_silhouette = _sampled(torch.cat([depth, silhouette], 1)[other], pixels).unbind(1)
    half_height = (cameras.distance * (0.5 * cameras.fov_y).tan())[:, None, None]
    same = (seen_depth - away).abs() < TOLERANCE * half_height
    own = silhouette[:, 0] > 0
    return Flow(other, pixels, own & same & (seen_silhouette > 1 - 1e-4), own)


@torch.no_grad()
def flow_seen(images: Any, estimate: OpticalFlow, distance: int) -> Flow:
    """The flow from each view to the one `distance` further on, in a closed ring of B views, as `estimate` sees it.

    A pixel is seen there too if the flow back from its place leads to where it came from: the squared way between is
    less than 0.01 of the sum of both flows' squares and half a squared pixel (Sundaram et al. 2010).
    Silhouettes are what differs from the view's border, and lose one pixel all around. Nothing is asked of cameras.

    images: [B, H, W, 3] in 0..1. Raises ValueError for a distance that is not 1 .. B - 1.
    """
    other = _around(len(images), distance)
    silhouette = _eroded(_images(drawn_silhouette(images, border_color(images))))[:, 0] > 0
    pictures = _images(images)
    there, back = estimate(pictures, pictures[other]).cpu(), estimate(pictures[other], pictures).cpu()
    rows, columns = torch.meshgrid(*(torch.arange(n) + 0.5 for n in pictures.shape[-2:]), indexing="ij")
    pixels = torch.stack([columns, rows], -1) + there.movedim(1, -1)
    back_again = _sampled(back, pixels)
    allowed = _SAME_WAY * (there.square() + back_again.square()).sum(1) + _SAME_PIXEL
    size = pixels.new_tensor([pictures.shape[-1], pictures.shape[-2]])
    inside = ((pixels > 0) & (pixels < size)).all(-1)
    returns = (there + back_again).square().sum(1) < allowed
    return Flow(other, pixels, silhouette & inside & returns, silhouette)


def _around(count: int, distance: int) -> Tensor:
    """For each of a ring of views the number of the one `distance` further on."""
    if not 1 <= distance < count:
        raise ValueError(f"a ring of {count} views has none at distance {distance}; 1 to {count - 1} are there")
    return torch.arange(count).roll(-distance)


def warped_error(images: Any, flow: Flow) -> WarpedError:
    """Each view against the other one, sampled (bilinearly) where the flow says. images: [B, H, W, 3] in 0..1."""
    images = _images(images)
    squared = (_sampled(images[flow.other], flow.pixels) - images).square().mean(1)[flow.visible]
    rmse = float(squared.double().mean().sqrt()) if len(squared) else math.nan
    return WarpedError(rmse, len(squared) / max(int(flow.silhouette.sum()), 1))


def _images(values: Any) -> Tensor:
    """[B, H, W, C], array or tensor -> [B, C, H, W]"""
    return torch.tensor(to_numpy(values), dtype=torch.float32).movedim(-1, 1)


def _eroded(mask: Tensor) -> Tensor:
    """[B, 1, H, W] of 0 and 1: 1 where all of the 3 x 3 pixels around are."""
    return -max_pool2d(-mask, 3, stride=1, padding=1)


def _sampled(images: Tensor, pixels: Tensor) -> Tensor:
    """[B, C, H, W] at [B, h, w, 2] (column, row), bilinearly -> [B, C, h, w]; 0 outside the image."""
    size = pixels.new_tensor([images.shape[-1], images.shape[-2]])
    places = (2 * pixels / size - 1).nan_to_num(-2.0)
    return grid_sample(images, places, mode="bilinear", padding_mode="zeros", align_corners=False)
