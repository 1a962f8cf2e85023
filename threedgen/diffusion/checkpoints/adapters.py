"""Low-rank adapters (LoRA, Hu et al. 2021): a prior as another one and what was added to it.

    adapter.json                        {"base": the weights that it belongs to}
    unet/, text_encoder/                adapter_config.json and adapter_model.safetensors, as peft writes them
    tokenizer/, embedding.safetensors   only if the prior was given words that its base does not have

Training one needs peft; using one needs it not: the products of its matrices are added to the base's weights.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from threedgen.core.errors import ThreedgenError
from threedgen.core.files import atomic_folder
from threedgen.diffusion.checkpoints.locate import ADAPTER_FILE
from threedgen.diffusion.text.clip_tokenizer import load_tokenizer

# the attentions' linear layers, which is where Stable Diffusion's adapters are put
_TARGETS = {"unet": ["to_q", "to_k", "to_v", "to_out.0"], "text_encoder": ["q_proj", "k_proj", "v_proj", "out_proj"]}
_CONFIG, _WEIGHTS, _EMBEDDING = "adapter_config.json", "adapter_model.safetensors", "embedding.safetensors"
_PREFIX = "base_model.model."  # peft's name for the network that an adapter belongs to


class Networks(Protocol):
    """What of a prior an adapter belongs to."""

    tokenizer: Any
    text_encoder: Any
    unet: Any


def add_adapter(prior: Networks, rank: int, parts: tuple[str, ...]) -> None:
    """Put trainable low-rank matrices into the attentions of `parts` ("unet", "text_encoder").

    The second matrix of each pair is zero, so the prior is unchanged until it is trained; the first is drawn from
    torch's global random state.
    """
    from peft import (  # here: it takes seconds, and only training an adapter needs it
        LoraConfig,
        inject_adapter_in_model,
    )

    for part in parts:
        config = LoraConfig(r=rank, lora_alpha=rank, target_modules=_TARGETS[part])
        inject_adapter_in_model(config, getattr(prior, part))


def save_adapter(prior: Networks, folder: Path, base: str, parts: tuple[str, ...], has_new_words: bool) -> None:
    """Write what `add_adapter` added and training made of it, atomically; `base`: the weights of the prior before."""
    from peft import get_peft_model_state_dict

    with atomic_folder(folder) as temporary:
        (temporary / ADAPTER_FILE).write_text(json.dumps({"base": base}, indent=2) + "\n", "utf-8")
        for part in parts:
            module = getattr(prior, part)
            module.peft_config["default"].save_pretrained(temporary / part)
            tensors = {_PREFIX + key: value.contiguous() for key, value in get_peft_model_state_dict(module).items()}
            save_file(tensors, temporary / part / _WEIGHTS)
        if has_new_words:
            prior.tokenizer.save_pretrained(temporary / "tokenizer")
            embedding = prior.text_encoder.get_input_embeddings().weight.detach()
            save_file({"embedding": embedding.contiguous()}, temporary / _EMBEDDING)


@torch.no_grad()
def merge_adapter(prior: Networks, folder: Path) -> None:
    """Add the adapter in `folder` to its base: W becomes W + alpha / rank * B A, computed in float32.

    Raises ThreedgenError if it does not fit the prior.
    """
    for part in _TARGETS:
        if (folder / part).is_dir():
            _merge_part(getattr(prior, part), folder / part)
    if (folder / _EMBEDDING).exists():
        old = prior.text_encoder.get_input_embeddings().weight
        embedding = load_file(folder / _EMBEDDING)["embedding"]
        if embedding.shape[1] != old.shape[1]:
            raise ThreedgenError(f"{folder} does not fit its base: embeddings of {embedding.shape[1]} values")
        prior.tokenizer = load_tokenizer(folder / "tokenizer")
        prior.text_encoder.set_input_embeddings(nn.Embedding.from_pretrained(embedding.to(old)))
        prior.text_encoder.config.vocab_size = len(embedding)


def _merge_part(module: nn.Module, folder: Path) -> None:
    config = json.loads((folder / _CONFIG).read_text("utf-8"))
    tensors = {key.removeprefix(_PREFIX): value for key, value in load_file(folder / _WEIGHTS).items()}
    scale, weights = config["lora_alpha"] / config["r"], dict(module.named_parameters())
    for name in [key.removesuffix(".lora_A.weight") for key in tensors if key.endswith(".lora_A.weight")]:
        down, up = (tensors[f"{name}.lora_{letter}.weight"].float() for letter in "AB")
        weight = weights.get(f"{name}.weight")
        if weight is None or weight.shape != (len(up), down.shape[1]):
            raise ThreedgenError(f"{folder} does not fit its base: {name} is of another size or not there")
        weight.copy_(weight.float() + scale * (up @ down).to(weight.device))
