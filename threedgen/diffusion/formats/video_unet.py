"""VideoMV's UNet under its released names: the config words and state_dict keys of `UNetSD_T2VBase`, `UNetSD_I2VGen`.

Both are ModelScope's video networks with one layer more, the cameras' MLP.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from threedgen.core.errors import ThreedgenError
from threedgen.diffusion.formats.ldm_unet import ENDS, block_prefixes, levels_of_shapes, original_key
from threedgen.diffusion.formats.tensor_files import Source

if TYPE_CHECKING:
    from diffusers import ModelMixin

HEAD_DIM = 64  # of all released networks; no tensor's shape shows it
_ENTRY = "input_blocks.0.1"  # attention over frames right after the first layer
_IMAGE_LAYERS = {
    "image_latents_proj_in": "local_image_concat",
    "image_latents_context_embedding": "local_image_embedding",
    "image_latents_temporal_encoder.norm1": "local_temporal_encoder.layers.0.0.norm",
    "image_latents_temporal_encoder.attn1.to_out.0": "local_temporal_encoder.layers.0.0.fn.to_out.0",
    "image_latents_temporal_encoder.ff.net.0.proj": "local_temporal_encoder.layers.0.1.net.0.0",
    "image_latents_temporal_encoder.ff.net.2": "local_temporal_encoder.layers.0.1.net.2",
}
_STACKED = "image_latents_temporal_encoder.attn1.to_"
_SAME_NAMES = ("camera_embedding", "context_embedding", "fps_embedding")
_IMAGE_GAIN = 2.0  # the released forward adds the picture's features twice, and was trained so
_READ = {"dim", "dim_mult", "num_res_blocks", "attn_scales", "head_dim", "num_heads", "context_dim", "camera_dim"}
_READ |= {"concat_dim", "in_dim", "out_dim"}


def video_unet_config(
    words: Mapping[str, object], shapes: Mapping[str, tuple[int, ...]], where: str
) -> dict[str, object]:
    """The config words of `VideoUNet` for the released ones, those that are left out read off the tensors' shapes.

    Raises ThreedgenError for a word that would make another network, and where the shapes are of another one.
    """
    if unknown := [word for word in words if word not in _READ]:
        raise ThreedgenError(f"{where}: {', '.join(unknown)} is not known of a network that this package builds")
    first, entry = "input_blocks.0.0.weight", f"{_ENTRY}.proj_in.weight"
    if missing := [key for key in (first, entry, "out.2.weight") if key not in shapes]:
        raise ThreedgenError(f"{where}: not a video network of VideoMV's, keys missing ({', '.join(missing)})")
    is_pictured = "local_image_concat.0.weight" in shapes
    channels, num_res_blocks, attention = levels_of_shapes(shapes)
    told: dict[str, Any] = {
        "dim": shapes[first][0],
        "dim_mult": [width // shapes[first][0] for width in channels],
        "num_res_blocks": num_res_blocks[0],
        "attn_scales": [1 / factor for factor in attention],
        "head_dim": HEAD_DIM,
        "context_dim": _context_width(shapes),
        "camera_dim": shapes.get("camera_embedding.0.weight", (0, 0))[1],
        "in_dim": shapes[first][1] // (2 if is_pictured else 1),
        "out_dim": shapes["out.2.weight"][0],
        **words,
    }
    widths = [told["dim"] * multiple for multiple in told["dim_mult"]]
    has_attention = [1 / 2**level in told["attn_scales"] for level in range(len(widths))]
    return {
        "sample_size": 32,  # 256 pixels, what the released networks were trained at
        "in_channels": told["in_dim"],
        "out_channels": told["out_dim"],
        "down_block_types": ["CrossAttnDownBlock3D" if a else "DownBlock3D" for a in has_attention],
        "up_block_types": ["CrossAttnUpBlock3D" if a else "UpBlock3D" for a in reversed(has_attention)],
        "block_out_channels": widths,
        "layers_per_block": told["num_res_blocks"],
        "cross_attention_dim": told["context_dim"],
        "attention_head_dim": told["head_dim"],
        "conv_in_channels": told["dim"],
        "entry_heads": told.get("num_heads", shapes[entry][0] // told["head_dim"]),
        "camera_dim": told["camera_dim"],
        "image_conditioning": is_pictured,
        "image_gain": _IMAGE_GAIN if is_pictured else 1.0,
    }


def _context_width(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Of the text's embeddings: what the spatial attentions, second in their blocks, take keys from."""
    end = ".1.transformer_blocks.0.attn2.to_k.weight"
    return next((s[1] for key, s in shapes.items() if key.endswith(end) and not key.startswith(_ENTRY)), 0)


# the classes of diffusers' whose folders are read, with what a network of theirs is here
_DIFFUSERS: dict[str, dict[str, object]] = {
    "UNet3DConditionModel": {"camera_dim": 0},  # ModelScope's text to video
    # its first version wrote the width of a head as their number, which diffusers does not read any more either
    "I2VGenXLUNet": {"camera_dim": 0, "image_conditioning": True, "num_attention_heads": None},
}
_DIFFUSERS_FIXED = {"downsample_padding": 1, "mid_block_scale_factor": 1, "act_fn": "silu", "norm_eps": 1e-5}
_DIFFUSERS_FIXED |= {"num_attention_heads": None, "time_cond_proj_dim": None}


def is_video_unet(config: Mapping[str, object]) -> bool:
    """Whether a folder's config.json is of a video network, ours or diffusers'."""
    return config.get("_class_name") in ("VideoUNet", *_DIFFUSERS)


def own_words(config: Mapping[str, object], where: str) -> dict[str, object]:
    """The words of `VideoUNet` for what is in a folder's config.json.

    Raises ThreedgenError for a word that would make another network.
    """
    words = {word: value for word, value in config.items() if not word.startswith("_")}
    words |= _DIFFUSERS.get(str(config.get("_class_name")), {})
    for word, value in _DIFFUSERS_FIXED.items():
        if words.pop(word, value) != value:
            raise ThreedgenError(f"{where}: {word}={config[word]!r} is not a network that this package builds")
    return words


def video_unet_sources(unet: ModelMixin) -> dict[str, Source]:
    """The released key for each name of the network (`VideoUNet`)."""
    config = unet.config
    has_attention = [kind == "CrossAttnUpBlock3D" for kind in config.up_block_types]
    blocks: Sequence[int] = [config.layers_per_block] * len(config.block_out_channels)
    prefixes = {**block_prefixes(blocks, has_attention, is_video=True), **ENDS, "transformer_in": _ENTRY}
    prefixes |= {**_IMAGE_LAYERS, **{name: name for name in _SAME_NAMES}}
    sources = {}
    for name in unet.state_dict():
        if name.startswith(_STACKED) and name[len(_STACKED)] in "qkv":
            third = "qkv".index(name[len(_STACKED)])
            sources[name] = Source("local_temporal_encoder.layers.0.0.fn.to_qkv.weight", third)
            continue
        is_over_frames = name.startswith("transformer_in.") or ".temp_attentions." in name
        is_convolution = is_over_frames and name.endswith(("proj_in.weight", "proj_out.weight"))
        sources[name] = Source(original_key(name, prefixes), unit_axes=1 if is_convolution else 0)
    return sources
