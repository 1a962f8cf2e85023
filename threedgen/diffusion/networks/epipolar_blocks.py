"""Transformer blocks whose views find each other by epipolar geometry: points on rays, and SPAD's rays and lines."""

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from torch import Tensor, nn

from threedgen.diffusion.networks.epipolar import RayPoints, ViewGeometry, fetch
from threedgen.diffusion.networks.view_attention import ViewTransformerBlock, replace_blocks

_OCTAVES = 4


class EpipolarConsistency(nn.Module):
    """The Epipolar Consistency Block: a pixel asks what all views see at points along its ray.

    Of the report "Distillation-free text-to-3D via guided multi-view diffusion", in one definite form: each point of a
    ray attends to the features of all views at its projections, then the pixel attends to the points of its ray. A
    point's position, absolute in the world's axes, is added to its query; views have no order. The output starts at
    zero.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.point_in = nn.Linear(6 * _OCTAVES, dim, bias=False)
        self.point_attn, self.ray_attn = _Attention(dim, heads), _Attention(dim, heads)
        nn.init.zeros_(self.ray_attn.to_out.weight)

    def forward(self, x: Tensor, samples: RayPoints, size: tuple[int, int]) -> Tensor:
        """x: [P * V, L, C], the tokens of a level of `size`, height and width -> what is to be added, alike."""
        tokens = self.point_tokens(x, samples, size)
        return self.ray_attn.over(x.flatten(0, 1)[:, None], tokens.flatten(0, 2)).reshape(x.shape)

    def point_tokens(self, x: Tensor, samples: RayPoints, size: tuple[int, int]) -> Tensor:
        """What all views see at the points, [P, V, L, M, C]."""
        objects, views = samples.points.shape[:2]
        attn, shape = self.point_attn, (*samples.points.shape[:-1], x.shape[-1])
        asked = x.reshape(objects, views, -1, 1, shape[-1]) + self.point_in(_positions(samples.points).to(x.dtype))
        query = _heads_first(attn.to_q(asked).flatten(1, 3), attn.heads)  # [P, heads, C / heads, S], S = V * L * M
        # projecting and then fetching is fetching and then projecting, for M * V times less work
        maps = torch.cat([attn.to_k(x), attn.to_v(x)], -1).mT.unflatten(-1, size)
        seen = fetch(maps, samples.pixels.flatten(2, 4).flatten(0, 1))
        keys, values = seen.reshape(objects, views, 2, *query.shape[1:]).unbind(2)
        scores = (query[:, None] * keys).sum(3) / query.shape[2] ** 0.5  # [P, V, heads, S]
        scores = scores.masked_fill(~samples.visible.flatten(2, 4)[:, :, None], -torch.inf)
        tokens = (scores.softmax(1).unsqueeze(3) * values).sum(1)  # [P, heads, C / heads, S]
        return attn.to_out(tokens.flatten(1, 2).mT).reshape(shape)


class _Attention(nn.Module):
    """The projections of an attention with heads, without biases."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q, self.to_k, self.to_v, self.to_out = (nn.Linear(dim, dim, bias=False) for _ in range(4))

    def over(self, query: Tensor, tokens: Tensor) -> Tensor:
        """Of queries [B, N, C] to tokens [B, M, C] -> [B, N, C]; for few of each, without a fused kernel."""
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1))
            for layer, x in ((self.to_q, query), (self.to_k, tokens), (self.to_v, tokens))
        )
        weights = torch.einsum("bnhc,bmhc->bhnm", q, k).div(q.shape[-1] ** 0.5).softmax(-1)
        return self.to_out(torch.einsum("bhnm,bmhc->bnhc", weights, v).flatten(2))


def _heads_first(x: Tensor, heads: int) -> Tensor:
    """[B, S, C] -> [B, heads, C / heads, S]."""
    return x.mT.unflatten(1, (heads, -1))


def _positions(points: Tensor) -> Tensor:
    """sin and cos of 1, 2, 4 and 8 radians for each world unit: [..., 3] -> [..., 24]."""
    return torch.cat([wave(2**octave * points) for octave in range(_OCTAVES) for wave in (torch.sin, torch.cos)], -1)


class EpipolarTransformerBlock(ViewTransformerBlock):
    """diffusers' transformer block with the Epipolar Consistency Block after a self-attention over all views."""

    def __init__(self, block: BasicTransformerBlock) -> None:
        super().__init__(block)
        self.epipolar_norm = nn.LayerNorm(block.dim)
        self.epipolar = EpipolarConsistency(block.dim, block.attn1.heads)

    def _join(self, x: Tensor, num_views: int, geometry: ViewGeometry | None) -> Tensor:
        if geometry is None or num_views == 1:
            return x
        level = geometry.level(x.shape[1])
        return x + self.epipolar(self.epipolar_norm(x), level.samples, level.size)


class RayTransformerBlock(ViewTransformerBlock):
    """diffusers' transformer block that is told the ray of each token, as SPAD's (Kant et al. 2024).

    SPAD gives the Pluecker coordinates to the projection before the block as six more channels: their columns of it
    are this layer, which starts at zero. Its self-attention keeps to the epipolar lines, see `MultiViewAttnProcessor`.
    """

    def __init__(self, block: BasicTransformerBlock) -> None:
        super().__init__(block)
        self.ray_in = nn.Linear(6, block.dim, bias=False)
        nn.init.zeros_(self.ray_in.weight)

    def _enter(self, x: Tensor, geometry: ViewGeometry | None) -> Tensor:
        return x if geometry is None else x + self.ray_in(geometry.level(x.shape[1]).rays.to(x.dtype))


def add_epipolar_consistency(unet: UNet2DConditionModel) -> None:
    """Give the transformer blocks below the finest level the Epipolar Consistency Block.

    At the finest level the features of all views at all points would take most of the memory: with Stable Diffusion's
    32 x 32 latents the block is at 16 x 16 and coarser levels, with the mini prior's 16 x 16 at 8 x 8 and 4 x 4.
    """
    replace_blocks(unet, EpipolarTransformerBlock, from_level=1)


def add_rays(unet: UNet2DConditionModel) -> None:
    """Tell every transformer block the rays of its tokens."""
    replace_blocks(unet, RayTransformerBlock)
