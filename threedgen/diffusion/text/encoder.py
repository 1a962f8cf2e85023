"""CLIP's text encoder (Radford et al. 2021), under the names of transformers' `CLIPTextModel`, whose files it shares.

A class of its own, because that one brings all that transformers can train and distribute: seconds of every start.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import save_torch_state_dict
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from threedgen.core.errors import ThreedgenError

MODEL_TYPE = "clip_text_model"


def quick_gelu(x: Tensor) -> Tensor:
    """x sigmoid(1.702 x), which stands for GELU in CLIP's own weights."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"quick_gelu": quick_gelu, "gelu": gelu}


@dataclass
class TextConfig:
    """The words of `config.json`, with transformers' own values for those that a file leaves out."""

    vocab_size: int = 49408
    hidden_size: int = 512
    intermediate_size: int = 2048
    projection_dim: int = 512
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    max_position_embeddings: int = 77
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    bos_token_id: int = 49406
    eos_token_id: int = 49407
    pad_token_id: int = 1

    @classmethod
    def of_words(cls, words: dict[str, Any], where: str) -> TextConfig:
        """Of the words of a `config.json`; the others, which say nothing of the network, are passed over.

        Raises ThreedgenError for another network, or sizes that none can have.
        """
        known = {entry.name: entry for entry in fields(cls)}
        config = cls(**{name: value for name, value in words.items() if name in known and value is not None})
        sizes = [name for name, entry in known.items() if entry.type == "int" and not name.endswith("_id")]
        if not all(isinstance(size := getattr(config, name), int) and size > 0 for name in sizes):
            raise ThreedgenError(f"{where}: config.json is not of a text encoder: sizes are whole numbers above 0")
        if config.hidden_size % config.num_attention_heads:
            raise ThreedgenError(f"{where}: config.json: {config.num_attention_heads} heads of {config.hidden_size}")
        if config.hidden_act not in ACTIVATIONS:
            raise ThreedgenError(f"{where}: config.json: hidden_act {config.hidden_act!r} is not of CLIP")
        return config

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write `config.json` as transformers reads it."""
        words = {"architectures": ["CLIPTextModel"], "model_type": MODEL_TYPE, **asdict(self)}
        if dtype is not None:
            words["dtype"] = str(dtype).removeprefix("torch.")
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / "config.json").write_text(json.dumps(dict(sorted(words.items())), indent=2) + "\n", "utf-8")


class Encoded(NamedTuple):
    last_hidden_state: Tensor  # [B, L, C]


class TextEncoder(nn.Module):
    """Token ids [B, L] -> `Encoded`: blocks of causal attention over the prompt, and a last normalisation."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = _Embeddings(config)
        self.encoder = _Blocks(config)
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self._draw()

    @torch.no_grad()
    def _draw(self) -> None:
        """Weights as CLIP's begin (section 2.4 and its code): attention and MLP narrower with width and depth."""
        width, depth = self.config.hidden_size**-0.5, (2 * self.config.num_hidden_layers) ** -0.5
        spread = {"token_embedding": 0.02, "position_embedding": 0.02, "out_proj": width}
        spread |= {"q_proj": width * depth, "k_proj": width * depth, "v_proj": width * depth}
        spread |= {"fc1": (2 * self.config.hidden_size) ** -0.5, "fc2": width * depth}
        for name, layer in self.named_modules():
            if isinstance(layer, (nn.Linear, nn.Embedding)):
                layer.weight.normal_(0, spread[name.rpartition(".")[2]])
            if isinstance(layer, nn.Linear):
                layer.bias.zero_()

    @property
    def dtype(self) -> torch.dtype:
        return self.final_layer_norm.weight.dtype

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embeddings.token_embedding

    def set_input_embeddings(self, embedding: nn.Embedding) -> None:
        self.embeddings.token_embedding = embedding

    def forward(self, input_ids: Tensor) -> Encoded:
        """Raises ValueError for more tokens than there are positions."""
        return Encoded(self.final_layer_norm(self.encoder(self.embeddings(input_ids))))

    def save_pretrained(self, folder: str | Path, max_shard_size: str = "10GB") -> None:
        """Write a folder that transformers reads too."""
        self.config.save_pretrained(folder, self.dtype)
        state = {name: tensor.cpu() for name, tensor in self.state_dict().items()}
        pattern = "model{suffix}.safetensors"
        save_torch_state_dict(state, folder, filename_pattern=pattern, max_shard_size=max_shard_size)


class _Embeddings(nn.Module):
    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embedding = nn.Embedding(config.max_position_embeddings, config.hidden_size)

    def forward(self, input_ids: Tensor) -> Tensor:
        length, longest = input_ids.shape[1], self.position_embedding.num_embeddings
        if length > longest:
            raise ValueError(f"{length} tokens, but the text encoder reads {longest}")
        return self.token_embedding(input_ids) + self.position_embedding.weight[:length]


class _Blocks(nn.Module):
    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList([_Block(config) for _ in range(config.num_hidden_layers)])

    def forward(self, x: Tensor) -> Tensor:
        for block in self.layers:
            x = block(x)
        return x


class _Block(nn.Module):
    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.self_attn = _Attention(config.hidden_size, config.num_attention_heads)
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.mlp = _MLP(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.k_proj, self.v_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.q_proj, self.out_proj = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        attended = scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.out_proj(attended.transpose(1, 2).flatten(2))


class _MLP(nn.Module):
    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[config.hidden_act]
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.activation(self.fc1(x)))
