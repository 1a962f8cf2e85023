"""A loss that draws what a ray sees together into one surface (mip-NeRF 360, Barron et al. 2022, equation 15)."""

from __future__ import annotations

from torch import Tensor

from threedgen.ops import RaySamples


def distortion(weights: Tensor, samples: RaySamples) -> Tensor:
    """[R] sum_ij w_i w_j |t_i - t_j| + 1/3 sum_i w_i^2 (length of i), over the samples of each ray, world units.

    weights: [S], each sample's share of its ray; t: the samples' middles. As the samples are sorted, the double sum is
    2 sum_i w_i (t_i W_i - T_i) with W_i = sum_(j<i) w_j and T_i = sum_(j<i) w_j t_j: two running sums (Sun et al.
    2022). Running over all rays at once they are in float64. Differentiable with respect to the weights.
    """
    t, ray = samples.t_mids.double(), samples.ray_indices
    w = weights.double()
    first = samples.offsets[:-1][ray]
    before, t_before = ((x.cumsum(0) - x) for x in (w, w * t))
    pairs = 2.0 * w * (t * (before - before[first]) - (t_before - t_before[first]))
    lengths = (samples.t_ends - samples.t_starts).double()
    per_ray = w.new_zeros(len(samples.offsets) - 1).index_add(0, ray, pairs + w.square() * lengths / 3.0)
    return per_ray.to(weights.dtype)
