"""MVDream's UNet under its original names: the config words and state_dict keys of `MultiViewUNetModel`.

The original class is the latent-diffusion UNet (Rombach et al. 2022) of the `ldm` packages.
"""

import re
from collections.abc import Mapping, Sequence

from diffusers import UNet2DConditionModel

from threedgen.core.errors import ThreedgenError
from threedgen.diffusion.formats.tensor_files import Source

# Words that leave the outputs as they are: sizes told elsewhere, memory, number formats, and `legacy` and
# `num_heads_upsample`, which the original reads only for the attention without text that it does not use here.
_NEUTRAL = {"image_size", "use_checkpoint", "use_fp16", "use_bf16", "legacy", "num_heads_upsample"}
_NEUTRAL |= {"use_new_attention_order", "adm_in_channels", "ip_weight"}
# Words that would make another network, with the value at which they do not. No multi-view checkpoint uses them, and
# the original itself fails on several views without self-attention.
_FIXED: dict[str, object] = {
    "dims": 2,
    "conv_resample": True,
    "use_spatial_transformer": True,
    "resblock_updown": False,
    "disable_middle_self_attn": False,
    "num_classes": None,
    "n_embed": None,
    "num_attention_blocks": None,
    "ip_dim": 0,
}
_READ = {"in_channels", "out_channels", "model_channels", "channel_mult", "num_res_blocks", "attention_resolutions"}
_READ |= {"num_heads", "num_head_channels", "transformer_depth", "context_dim", "camera_dim", "dropout"}
_READ |= {"use_linear_in_transformer", "use_scale_shift_norm", "disable_self_attentions"}

_RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1"}
_RESNET |= {"norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}
ENDS = {"conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2"}
ENDS |= {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2"}
ENDS |= {"class_embedding.linear_1": "camera_embed.0", "class_embedding.linear_2": "camera_embed.2"}


def words_of_shapes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, object]:
    """The config words that show in the tensors' shapes; those that cannot be read are left out."""
    words: dict[str, object] = {}
    for word, key, axis in (  # a second place for what the rest depends on, so that one missing key can be named
        ("model_channels", "input_blocks.0.0.bias", 0),
        ("model_channels", "input_blocks.0.0.weight", 0),
        ("in_channels", "input_blocks.0.0.weight", 1),
        ("out_channels", "out.2.bias", 0),
        ("out_channels", "out.2.weight", 0),
        ("camera_dim", "camera_embed.0.weight", 1),
    ):
        if key in shapes:
            words[word] = shapes[key][axis]
    for key, shape in shapes.items():
        if key.endswith("attn2.to_k.weight"):
            words["context_dim"] = shape[1]
        if key.endswith("proj_in.weight"):
            words["use_linear_in_transformer"] = len(shape) == 2
    depths = [int(m[1]) for key in shapes if (m := re.search(r"\.transformer_blocks\.(\d+)\.", key))]
    if depths:
        words["transformer_depth"] = max(depths) + 1
    channels, num_res_blocks, attention = levels_of_shapes(shapes)
    base = words.get("model_channels")
    if isinstance(base, int) and all(channels):
        words["channel_mult"] = [width // base for width in channels]
        words["num_res_blocks"] = num_res_blocks
        words["attention_resolutions"] = attention
    return words


def levels_of_shapes(shapes: Mapping[str, tuple[int, ...]]) -> tuple[list[int], list[int], list[int]]:
    """Per level of the way down: channels and number of residual blocks; and the levels' factors with attention."""
    channels, num_res_blocks, attention = [0], [0], []
    numbers = {int(m[1]) for key in shapes if (m := re.match(r"input_blocks\.(\d+)\.", key))}
    for number in sorted(numbers - {0}):
        own = {key: shape for key, shape in shapes.items() if key.startswith(f"input_blocks.{number}.")}
        if any(".op." in key for key in own):
            channels.append(0)
            num_res_blocks.append(0)
            continue
        widths = [shape[0] for key, shape in own.items() if ".0.in_layers.2." in key or ".0.out_layers." in key]
        channels[-1] = channels[-1] or (widths or [0])[0]
        num_res_blocks[-1] += 1
        factor = 2 ** (len(channels) - 1)
        if factor not in attention and any(key.startswith(f"input_blocks.{number}.1.") for key in own):
            attention.append(factor)
    return channels, num_res_blocks, attention


def unet_config(words: Mapping[str, object], where: str) -> dict[str, object]:
    """diffusers' config words for the original's.

    Raises ThreedgenError for a word that would make another network, and for words that are lacking.
    """
    for word, value in words.items():
        is_known = word in _READ or word in _NEUTRAL or word.startswith("_")
        if not is_known and (word not in _FIXED or value != _FIXED[word]):
            raise ThreedgenError(f"{where}: {word}={value!r} is not a network that this package builds")
    if any(_sequence(words.get("disable_self_attentions") or ())):
        raise ThreedgenError(f"{where}: without self-attention (disable_self_attentions) views cannot see each other")
    needed = ("model_channels", "channel_mult", "num_res_blocks", "attention_resolutions", "context_dim")
    if unknown := [word for word in needed if words.get(word) is None]:
        raise ThreedgenError(f"{where}: {', '.join(unknown)} neither stated nor to be read off the tensors' shapes")
    base, multiples = words["model_channels"], _sequence(words["channel_mult"])
    channels = [base * multiple for multiple in multiples]
    blocks = words["num_res_blocks"]
    blocks_per_level = [blocks] * len(channels) if isinstance(blocks, int) else _sequence(blocks)
    if len(blocks_per_level) != len(channels):
        raise ThreedgenError(f"{where}: num_res_blocks={blocks!r} is not one number per level of {list(multiples)}")
    context = set(_sequence(words["context_dim"]))
    if len(context) > 1:
        raise ThreedgenError(f"{where}: context_dim={words['context_dim']!r}: one text serves all blocks")
    resolutions = _sequence(words["attention_resolutions"])
    has_attention = [2**level in resolutions for level in range(len(channels))]
    camera_dim = words.get("camera_dim")
    return {
        "sample_size": 32,  # 256 pixels, what both public checkpoints were trained at
        "in_channels": words.get("in_channels", 4),
        "out_channels": words.get("out_channels", 4),
        "block_out_channels": tuple(channels),
        "layers_per_block": tuple(blocks_per_level),
        "down_block_types": tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in has_attention),
        "up_block_types": tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(has_attention)),
        "attention_head_dim": tuple(_num_heads(words, width, where) for width in channels),  # diffusers' misnomer
        "cross_attention_dim": context.pop(),
        "transformer_layers_per_block": words.get("transformer_depth", 1),
        "use_linear_projection": bool(words.get("use_linear_in_transformer", False)),
        "resnet_time_scale_shift": "scale_shift" if words.get("use_scale_shift_norm") else "default",
        "dropout": words.get("dropout", 0.0),
        "class_embed_type": None if camera_dim is None else "projection",
        "projection_class_embeddings_input_dim": camera_dim,
    }


def _num_heads(words: Mapping[str, object], channels: int, where: str) -> int:
    width, count = (int(words.get(word) or -1) for word in ("num_head_channels", "num_heads"))  # type: ignore[call-overload]
    if width != -1:
        if channels % width:
            raise ThreedgenError(f"{where}: num_head_channels={width} does not divide {channels} channels")
        return channels // width
    if count == -1:
        raise ThreedgenError(f"{where}: num_heads or num_head_channels must be stated, no tensor's shape shows it")
    return count


def _sequence(value: object) -> Sequence:
    return value if isinstance(value, Sequence) else [value]


def unet_sources(unet: UNet2DConditionModel) -> dict[str, Source]:
    """The original's key for each name of the network."""
    has_attention = [kind == "CrossAttnUpBlock2D" for kind in unet.config.up_block_types]
    prefixes = block_prefixes(unet.config.layers_per_block, has_attention) | ENDS
    return {name: Source(original_key(name, prefixes)) for name in unet.state_dict()}


def original_key(name: str, prefixes: Mapping[str, str]) -> str:
    """The key of a diffusers name under the first of `prefixes` (diffusers' -> the original's) that it begins with."""
    block = next(prefix for prefix in prefixes if name.startswith(prefix + "."))
    rest = name[len(block) + 1 :]
    if ".resnets." in block:
        layer, _, leaf = rest.partition(".")
        rest = f"{_RESNET[layer]}.{leaf}"
    return f"{prefixes[block]}.{rest}"


def block_prefixes(
    blocks_per_level: Sequence[int], has_attention: Sequence[bool], is_video: bool = False
) -> dict[str, str]:
    """`down_blocks.1.resnets.0` -> `input_blocks.4.0` and so on: the original counts blocks through all levels.

    has_attention: of the levels on the way up. A video network's blocks hold convolutions over frames inside their
    first layer and attention over frames as the third.
    """
    prefixes: dict[str, str] = {}
    last = len(blocks_per_level) - 1

    def add(theirs: str, ours: str, i: int) -> None:
        prefixes[f"{ours}.resnets.{i}"] = f"{theirs}.0"
        prefixes[f"{ours}.attentions.{i}"] = f"{theirs}.1"
        if is_video:
            prefixes[f"{ours}.temp_convs.{i}"] = f"{theirs}.0.temopral_conv"  # spelt so
            prefixes[f"{ours}.temp_attentions.{i}"] = f"{theirs}.2"

    number = 1
    for level, count in enumerate(blocks_per_level):
        for i in range(count):
            add(f"input_blocks.{number}", f"down_blocks.{level}", i)
            number += 1
        if level < last:
            prefixes[f"down_blocks.{level}.downsamplers.0.conv"] = f"input_blocks.{number}{'' if is_video else '.0'}.op"
            number += 1
    add("middle_block", "mid_block", 0)
    second = 3 if is_video else 2
    prefixes["mid_block.resnets.1"] = f"middle_block.{second}"
    prefixes["mid_block.temp_convs.1"] = f"middle_block.{second}.temopral_conv"
    number = 0
    for up, count in enumerate(reversed(blocks_per_level)):
        for i in range(count + 1):
            add(f"output_blocks.{number}", f"up_blocks.{up}", i)
            number += 1
        if up < last:
            layer = second if has_attention[up] else 1
            prefixes[f"up_blocks.{up}.upsamplers.0.conv"] = f"output_blocks.{number - 1}.{layer}.conv"
    return prefixes
