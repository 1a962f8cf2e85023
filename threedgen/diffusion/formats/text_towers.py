"""Text encoders: CLIP's under its usual names, and OpenCLIP's, whose second-last block Stable Diffusion 2 reads."""

import re
from collections.abc import Mapping

from threedgen.core.errors import ThreedgenError
from threedgen.diffusion.formats.tensor_files import MatchedTensors, Source, StoredTensor, on_meta
from threedgen.diffusion.text.encoder import TextConfig, TextEncoder

PREFIX = "text_model."  # in the files of CLIPTextModel, though not in every version's module
_POSITIONS = "embeddings.position_ids"  # 0, 1, 2, ...: older versions wrote them out
_HEAD_WIDTH = 64  # in CLIP and OpenCLIP, whatever the size
_START_ID, _END_ID = 49406, 49407
_OPEN_CLIP_ENDS = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}
_OPEN_CLIP_LAYERS = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def new_text_encoder(config: TextConfig) -> TextEncoder:
    """A text encoder whose parameters are on the meta device."""
    with on_meta():
        return TextEncoder(config)


def match_clip_text(
    tensors: Mapping[str, StoredTensor], where: str, config: TextConfig | None = None
) -> MatchedTensors:
    """CLIP's text encoder under the names of `TextEncoder`; without a config, CLIP's own, of the tensors' sizes.

    Raises ThreedgenError for missing, unknown or misshaped keys.
    """
    prefix = PREFIX if any(key.startswith(PREFIX) for key in tensors) else ""
    if config is None:
        sizes = ("embeddings.token_embedding", "embeddings.position_embedding", "encoder.layers.0.mlp.fc1")
        layers = _count(tensors, rf"{re.escape(prefix)}encoder\.layers\.(\d+)\.")
        config = _clip_config(tensors, [f"{prefix}{layer}.weight" for layer in sizes], layers, "quick_gelu", where)
    model = new_text_encoder(config)
    positions = prefix + _POSITIONS
    unused = {positions: (1, config.max_position_embeddings)} if positions in tensors else {}
    return MatchedTensors(model, {name: Source(prefix + name) for name in model.state_dict()}, tensors, where, unused)


def match_open_clip_text(tensors: Mapping[str, StoredTensor], where: str) -> MatchedTensors:
    """OpenCLIP's text tower as a `TextEncoder` that ends at its second-last block, followed by the final norm.

    That is what Stable Diffusion 2 was trained on; the last block, the projection and the logit scale are not used.
    Raises ThreedgenError for missing, unknown or misshaped keys.
    """
    layers = _count(tensors, r"transformer\.resblocks\.(\d+)\.")
    sizes = ["token_embedding.weight", "positional_embedding", "transformer.resblocks.0.mlp.c_fc.weight"]
    model = new_text_encoder(_clip_config(tensors, sizes, layers - 1, "gelu", where))
    sources = {name: open_clip_source(name) for name in model.state_dict()}
    width = model.config.hidden_size
    unused: dict[str, tuple[int, ...]] = {"text_projection": (width, width), "logit_scale": ()}
    for name, value in model.encoder.layers.get_submodule("0").state_dict().items():  # the last block is like the first
        source = open_clip_source(f"encoder.layers.{layers - 1}.{name}")
        unused[source.key] = source.stored_shape(value.shape)
    return MatchedTensors(model, sources, tensors, where, unused)


def _clip_config(
    tensors: Mapping[str, StoredTensor], keys: list[str], num_layers: int, activation: str, where: str
) -> TextConfig:
    """keys: of token embedding [vocabulary, width], position embedding [length, width], MLP layer [hidden, width]."""
    if num_layers < 1 or (missing := [key for key in keys if key not in tensors]):
        raise ThreedgenError(
            f"{where}: no text encoder, keys missing ({', '.join(keys if num_layers < 1 else missing)})"
        )
    (vocabulary, width), (length, _), (hidden, _) = (tensors[key].shape for key in keys)
    return TextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=hidden,
        num_hidden_layers=num_layers,
        num_attention_heads=width // _HEAD_WIDTH,
        max_position_embeddings=length,
        hidden_act=activation,
        projection_dim=width,
        bos_token_id=_START_ID,
        eos_token_id=_END_ID,
    )


def open_clip_source(name: str) -> Source:
    """OpenCLIP's key for a name of `TextEncoder`."""
    if name in _OPEN_CLIP_ENDS:
        return Source(_OPEN_CLIP_ENDS[name])
    match = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
    assert match, name
    number, layer, leaf = match.groups()
    block = f"transformer.resblocks.{number}"
    if layer in _OPEN_CLIP_LAYERS:
        return Source(f"{block}.{_OPEN_CLIP_LAYERS[layer]}.{leaf}")
    return Source(f"{block}.attn.in_proj_{leaf}", "qkv".index(layer.removeprefix("self_attn.")[0]))


def _count(tensors: Mapping[str, StoredTensor], pattern: str) -> int:
    """One more than the highest number that `pattern` finds in the keys."""
    return 1 + max((int(m[1]) for key in tensors if (m := re.match(pattern, key))), default=-1)
