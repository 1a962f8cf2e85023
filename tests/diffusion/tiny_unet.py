"""The smallest UNet that has every kind of block, and inputs for it."""

import torch

from threedgen.cameras import orbit

CAMERAS = orbit([0, 90, 180, 270], 15, 3, 40, 64, num_views=4)  # for the kinds of attention that know geometry
TINY = {
    "sample_size": 8,
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "attention_head_dim": 2,
    "cross_attention_dim": 12,
    "class_embed_type": "projection",
    "projection_class_embeddings_input_dim": 16,
}


def inputs(count):
    """Latents, timesteps, text and cameras of `count` views."""
    rng = torch.Generator().manual_seed(1)
    latents, text = torch.randn(count, 4, 8, 8, generator=rng), torch.randn(count, 5, 12, generator=rng)
    return latents, torch.full((count,), 300), text, torch.randn(count, 16, generator=rng)
