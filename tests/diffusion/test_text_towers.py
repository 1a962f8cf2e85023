"""OpenCLIP's text tower against a plain re-statement of its module, with torch's own attention.

Source of the statement: open_clip_torch 3.3.0, `TextTransformer` and `ResidualAttentionBlock` (MIT), and the
`FrozenOpenCLIPEmbedder` of Stable Diffusion 2 with layer="penultimate": all blocks but the last, then the final norm.
"""

import pytest
import torch
from torch import nn

from threedgen.core.errors import ThreedgenError
from threedgen.diffusion.formats.tensor_files import stored_tensors
from threedgen.diffusion.formats.text_towers import match_clip_text, match_open_clip_text

WIDTH, LAYERS, VOCABULARY, LENGTH = 128, 4, 50, 9


class _Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attn = nn.MultiheadAttention(WIDTH, WIDTH // 64, batch_first=True)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(WIDTH, 4 * WIDTH), "c_proj": nn.Linear(4 * WIDTH, WIDTH)})

    def forward(self, x):
        later = torch.full((LENGTH, LENGTH), -torch.inf).triu(1)
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=later)[0]
        return x + self.mlp["c_proj"](nn.functional.gelu(self.mlp["c_fc"](self.ln_2(x))))


class _OpenClipText(nn.Module):
    def __init__(self):
        super().__init__()
        self.token_embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.positional_embedding = nn.Parameter(torch.empty(LENGTH, WIDTH))
        self.transformer = nn.ModuleDict({"resblocks": nn.ModuleList(_Block() for _ in range(LAYERS))})
        self.ln_final = nn.LayerNorm(WIDTH)
        self.text_projection = nn.Parameter(torch.empty(WIDTH, WIDTH))
        self.logit_scale = nn.Parameter(torch.zeros(()))
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.5)

    def penultimate(self, tokens):
        x = self.token_embedding(tokens) + self.positional_embedding
        for block in self.transformer["resblocks"][:-1]:
            x = block(x)
        return self.ln_final(x)


@pytest.fixture(scope="module")
def open_clip():
    torch.manual_seed(0)
    return _OpenClipText().eval().requires_grad_(False)


def test_penultimate_block_of_open_clip(open_clip):
    matched = match_open_clip_text(stored_tensors(open_clip.state_dict()), "text")
    matched.fill()
    tokens = torch.randint(VOCABULARY, (3, LENGTH), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        actual = matched.module.eval()(tokens).last_hidden_state
    torch.testing.assert_close(actual, open_clip.penultimate(tokens), atol=1e-4, rtol=0)
    assert matched.module.config.num_hidden_layers == LAYERS - 1


def test_real_size_is_open_clip_vit_h(full_size_cpu):
    """354,032,641 parameters in the file (its published count), heads of 64 channels."""
    prefix = "cond_stage_model.model."
    shapes = {k.removeprefix(prefix): v for k, v in full_size_cpu.checkpoint_shapes("full").items() if prefix in k}
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == 354_032_641
    tensors = stored_tensors({key: torch.empty(shape, device="meta") for key, shape in shapes.items()})
    config = match_open_clip_text(tensors, "text").module.config
    assert (config.num_hidden_layers, config.num_attention_heads, config.hidden_act) == (23, 16, "gelu")


@pytest.mark.parametrize("gone", ["ln_final.bias", "transformer.resblocks.3.attn.in_proj_weight", "text_projection"])
def test_a_missing_key_is_named(open_clip, gone):
    state = {key: value for key, value in open_clip.state_dict().items() if key != gone}
    with pytest.raises(ThreedgenError, match=f"1 key missing .{gone}."):
        match_open_clip_text(stored_tensors(state), "text")


def test_nothing_of_a_text_encoder_is_told():
    for match in (match_clip_text, match_open_clip_text):
        with pytest.raises(ThreedgenError, match="no text encoder"):
            match({}, "text")
