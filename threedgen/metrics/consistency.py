"""How much of the views can no single object explain?"""

from __future__ import annotations

from typing import Any

import numpy as np

from threedgen.imaging import to_numpy


def unexplained(images: Any, shown: Any) -> float:
    """Mean absolute difference between views and what a scene fitted to all of them shows there, both [N, H, W, 3].

    The residual of a fit, as far as the scene is stiff: one that is flexible enough explains any views, so its cells
    should be no finer than the views' pixels.
    """
    return float(np.abs(to_numpy(shown) - to_numpy(images)).mean())
