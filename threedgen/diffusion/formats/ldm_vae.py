"""Stable Diffusion's autoencoder under its original names (the `AutoencoderKL` of the `ldm` packages)."""

import re
from collections.abc import Mapping

from diffusers import AutoencoderKL

from threedgen.core.errors import ThreedgenError
from threedgen.diffusion.formats.tensor_files import MatchedTensors, Source, StoredTensor, on_meta

SCALING_FACTOR = 0.18215  # times a latent of Stable Diffusion's encoder gives standard deviation 1
_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_RENAMED = [
    (r"\bmid_block\.resnets\.0\b", "mid.block_1"),
    (r"\bmid_block\.resnets\.1\b", "mid.block_2"),
    (r"\bdown_blocks\.(\d+)\.resnets\b", r"down.\1.block"),
    (r"\bdown_blocks\.(\d+)\.downsamplers\.0\b", r"down.\1.downsample"),
    (r"\bup_blocks\.(\d+)\.resnets\b", r"up.\1.block"),
    (r"\bup_blocks\.(\d+)\.upsamplers\.0\b", r"up.\1.upsample"),
    (r"\bconv_norm_out\b", "norm_out"),
    (r"\bconv_shortcut\b", "nin_shortcut"),
]


def match_ldm_vae(tensors: Mapping[str, StoredTensor], where: str) -> MatchedTensors:
    """diffusers' autoencoder on the meta device, matched with the original's tensors; its sizes are read off them.

    Raises ThreedgenError for missing, unknown or misshaped keys.
    """
    shapes = {key: tensor.shape for key, tensor in tensors.items()}
    blocks = [
        tuple(map(int, m.groups())) for key in shapes if (m := re.match(r"encoder\.down\.(\d+)\.block\.(\d+)\.", key))
    ]
    ends = ("encoder.conv_in.weight", "decoder.conv_in.weight", "decoder.conv_out.weight")
    if not blocks or (missing := [key for key in ends if key not in shapes]):
        raise ThreedgenError(f"{where}: keys missing ({', '.join(missing) if blocks else 'encoder.down.*'})")
    channels = [_channels(shapes, level, where) for level in range(1 + max(level for level, _ in blocks))]
    with on_meta():
        vae = AutoencoderKL(
            in_channels=shapes["encoder.conv_in.weight"][1],
            out_channels=shapes["decoder.conv_out.weight"][0],
            down_block_types=("DownEncoderBlock2D",) * len(channels),
            up_block_types=("UpDecoderBlock2D",) * len(channels),
            block_out_channels=tuple(channels),
            layers_per_block=1 + max(block for _, block in blocks),
            latent_channels=shapes["decoder.conv_in.weight"][1],
            sample_size=256,
            scaling_factor=SCALING_FACTOR,
        )
    return MatchedTensors(vae, {name: vae_source(name, len(channels)) for name in vae.state_dict()}, tensors, where)


def _channels(shapes: Mapping[str, tuple[int, ...]], level: int, where: str) -> int:
    layer = re.compile(rf"encoder\.down\.{level}\.block\.\d+\.(conv[12]|norm2)\.")
    for key, shape in shapes.items():
        if layer.match(key):
            return shape[0]
    raise ThreedgenError(f"{where}: keys missing (encoder.down.{level}.*)")


def vae_source(name: str, num_levels: int) -> Source:
    """The original's key; it counts the decoder's levels from the image on."""
    part, _, rest = name.partition("mid_block.attentions.0.")
    if rest:
        layer, leaf = rest.rsplit(".", 1)
        is_matrix = leaf == "weight" and layer != "group_norm"
        return Source(f"{part}mid.attn_1.{_ATTENTION[layer]}.{leaf}", unit_axes=2 if is_matrix else 0)
    name = re.sub(r"\bup_blocks\.(\d+)", lambda m: f"up_blocks.{num_levels - 1 - int(m[1])}", name)
    for pattern, replacement in _RENAMED:
        name = re.sub(pattern, replacement, name)
    return Source(name)
