"""The original multi-view network, plainly: re-stated from its published description, with no line in common with the
package's. `test_reference_unet.py` checks it on the reference implementation's numbers."""

import math

import torch
from torch import nn
from torch.nn import functional


def _attend(q, k, v, heads):
    """softmax(q k^T / sqrt(d)) v with the whole score matrix."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


class _Attention(nn.Module):
    def __init__(self, width, context, heads):
        super().__init__()
        self.heads = heads
        self.to_q, self.to_k, self.to_v = (nn.Linear(n, width, bias=False) for n in (width, context, context))
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x, context):
        return self.to_out[0](_attend(self.to_q(x), self.to_k(context), self.to_v(context), self.heads))


class _Gate(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.proj = nn.Linear(width, 8 * width)

    def forward(self, x):
        value, gate = self.proj(x).chunk(2, -1)
        return value * functional.gelu(gate)


class _FeedForward(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.net = nn.ModuleList([_Gate(width), nn.Identity(), nn.Linear(4 * width, width)])

    def forward(self, x):
        return self.net[2](self.net[0](x))


class _Block(nn.Module):
    def __init__(self, width, context, heads):
        super().__init__()
        self.attn1, self.attn2 = _Attention(width, width, heads), _Attention(width, context, heads)
        self.ff = _FeedForward(width)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))

    def forward(self, x, text, num_views):
        joint = x.reshape(len(x) // num_views, -1, x.shape[-1])  # all views of an object
        normed = self.norm1(joint)
        x = (self.attn1(normed, normed) + joint).reshape(x.shape)
        x = self.attn2(self.norm2(x), text) + x
        return self.ff(self.norm3(x)) + x


class _Transformer(nn.Module):
    def __init__(self, width, context, heads, depth, linear):
        super().__init__()
        self.norm = nn.GroupNorm(32, width, eps=1e-6)
        self.linear = linear
        self.proj_in, self.proj_out = (nn.Linear(width, width) if linear else nn.Conv2d(width, width, 1) for _ in "io")
        self.transformer_blocks = nn.ModuleList(_Block(width, context, heads) for _ in range(depth))

    def forward(self, x, text, num_views):
        h, w = x.shape[-2:]
        y = self.norm(x)
        y = self.proj_in(y.flatten(2).mT) if self.linear else self.proj_in(y).flatten(2).mT
        for block in self.transformer_blocks:
            y = block(y, text, num_views)
        y = self.proj_out(y).mT.unflatten(2, (h, w)) if self.linear else self.proj_out(y.mT.unflatten(2, (h, w)))
        return x + y


class _ResBlock(nn.Module):
    def __init__(self, before, after, embedding, scale_shift):
        super().__init__()
        self.scale_shift = scale_shift
        self.in_layers = nn.Sequential(nn.GroupNorm(32, before), nn.SiLU(), nn.Conv2d(before, after, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, after * (2 if scale_shift else 1)))
        out = nn.GroupNorm(32, after), nn.SiLU(), nn.Identity(), nn.Conv2d(after, after, 3, padding=1)
        self.out_layers = nn.Sequential(*out)
        self.skip_connection = nn.Identity() if before == after else nn.Conv2d(before, after, 1)

    def forward(self, x, embedding):
        y, e = self.in_layers(x), self.emb_layers(embedding)[:, :, None, None]
        if self.scale_shift:
            scale, shift = e.chunk(2, 1)
            return self.skip_connection(x) + self.out_layers[1:](self.out_layers[0](y) * (1 + scale) + shift)
        return self.skip_connection(x) + self.out_layers(y + e)


class _Down(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.op = nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, x):
        return self.op(x)


class _Up(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x):
        return self.conv(functional.interpolate(x, scale_factor=2, mode="nearest"))


class OriginalUNet(nn.Module):
    """`MultiViewUNetModel` from its config words."""

    def __init__(self, c):
        super().__init__()
        base, multiples, blocks = c["model_channels"], c["channel_mult"], c["num_res_blocks"]
        blocks = [blocks] * len(multiples) if isinstance(blocks, int) else blocks
        embedding, self.base = 4 * base, base
        context = c["context_dim"] if isinstance(c["context_dim"], int) else c["context_dim"][0]

        def transformer(width):
            heads = width // c["num_head_channels"] if c.get("num_head_channels", -1) != -1 else c["num_heads"]
            depth = c.get("transformer_depth", 1)
            return _Transformer(width, context, heads, depth, c.get("use_linear_in_transformer", False))

        def resblock(before, after):
            return _ResBlock(before, after, embedding, c.get("use_scale_shift_norm", False))

        def mlp(width):
            return nn.Sequential(nn.Linear(width, embedding), nn.SiLU(), nn.Linear(embedding, embedding))

        self.time_embed = mlp(base)
        if c.get("camera_dim"):
            self.camera_embed = mlp(c["camera_dim"])
        self.input_blocks = nn.ModuleList([nn.ModuleList([nn.Conv2d(c["in_channels"], base, 3, padding=1)])])
        self.output_blocks = nn.ModuleList()
        skips, width = [base], base
        for level, multiple in enumerate(multiples):
            for _ in range(blocks[level]):
                layers = [resblock(width, multiple * base)]
                width = multiple * base
                if 2**level in c["attention_resolutions"]:
                    layers.append(transformer(width))
                self.input_blocks.append(nn.ModuleList(layers))
                skips.append(width)
            if level < len(multiples) - 1:
                self.input_blocks.append(nn.ModuleList([_Down(width)]))
                skips.append(width)
        self.middle_block = nn.ModuleList([resblock(width, width), transformer(width), resblock(width, width)])
        for level in reversed(range(len(multiples))):
            for i in range(blocks[level] + 1):
                layers = [resblock(width + skips.pop(), multiples[level] * base)]
                width = multiples[level] * base
                if 2**level in c["attention_resolutions"]:
                    layers.append(transformer(width))
                if level and i == blocks[level]:
                    layers.append(_Up(width))
                self.output_blocks.append(nn.ModuleList(layers))
        self.out = nn.Sequential(nn.GroupNorm(32, width), nn.SiLU(), nn.Conv2d(base, c["out_channels"], 3, padding=1))

    def forward(self, x, timesteps, text, camera=None, num_views=1):
        frequencies = torch.exp(-math.log(10000) * torch.arange(self.base // 2) / (self.base // 2))
        angles = timesteps[:, None] * frequencies
        embedding = self.time_embed(torch.cat([angles.cos(), angles.sin()], -1))
        if camera is not None:
            embedding = embedding + self.camera_embed(camera)

        def run(layers, x):
            for layer in layers:
                if isinstance(layer, _ResBlock):
                    x = layer(x, embedding)
                else:
                    x = layer(x, text, num_views) if isinstance(layer, _Transformer) else layer(x)
            return x

        skips = []
        for layers in self.input_blocks:
            x = run(layers, x)
            skips.append(x)
        x = run(self.middle_block, x)
        for layers in self.output_blocks:
            x = run(layers, torch.cat([x, skips.pop()], 1))
        return self.out(x)
