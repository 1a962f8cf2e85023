"""What every scene returns from `render`."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass
class RenderOutput:
    """B images of H x W pixels, row 0 at the top."""

    rgb: Tensor  # [B, H, W, 3] in 0..1, background included
    opacity: Tensor  # [B, H, W, 1] in 0..1, of the object alone
    depth: Tensor  # [B, H, W, 1] sum of weight * distance along the ray, world units; / opacity is the mean distance
    normal: Tensor | None = None  # [B, H, W, 3] unit (0 where nothing is), world axes; without gradients
    facing_away: Tensor | None = None  # [B, H, W, 1] sum of weight * max(0, normal . direction)^2, weights constant

    def opacity_range(self) -> tuple[float, float]:
        """The lowest and the highest opacity of a pixel."""
        lowest, highest = self.opacity.detach().aminmax()
        return lowest.item(), highest.item()
