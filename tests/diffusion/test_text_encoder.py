"""Our text encoder against transformers' own, which reads and writes the same files."""

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from transformers import CLIPTextConfig, CLIPTextModel

from threedgen.core.errors import ThreedgenError
from threedgen.diffusion.checkpoints.folders import load_text_encoder
from threedgen.diffusion.text.encoder import TextConfig, TextEncoder

SIZES = {"vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3}
SIZES |= {"num_attention_heads": 4, "max_position_embeddings": 12, "projection_dim": 32}


@pytest.mark.parametrize("hidden_act", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("length", [12, 5])
def test_it_says_what_transformers_says_of_the_same_file(hidden_act, length, tmp_path):
    torch.manual_seed(0)
    theirs = CLIPTextModel(CLIPTextConfig(**SIZES, hidden_act=hidden_act, layer_norm_eps=1e-3)).eval()
    for parameter in theirs.parameters():  # their biases begin at 0, their scales at 1
        parameter.data += 0.2 * torch.randn_like(parameter)
    theirs.save_pretrained(tmp_path)
    ours = load_text_encoder(tmp_path, torch.float32, "cpu")
    tokens = torch.randint(60, (3, length))
    with torch.no_grad():
        torch.testing.assert_close(
            ours(tokens).last_hidden_state, theirs(tokens).last_hidden_state, atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize("size", ["10GB", "8KB"])
def test_transformers_reads_what_it_writes(size, tmp_path):
    torch.manual_seed(0)
    ours = TextEncoder(TextConfig(**SIZES, hidden_act="gelu", eos_token_id=7)).half()
    ours.save_pretrained(tmp_path, max_shard_size=size)
    theirs, report = CLIPTextModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert theirs.dtype == torch.float16 and theirs.config.eos_token_id == 7 and theirs.config.hidden_act == "gelu"
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(tensor, ours.state_dict()[name]), name
    again = load_text_encoder(tmp_path, torch.float16, "cpu")
    assert again.config == ours.config
    assert torch.equal(again.embeddings.token_embedding.weight, ours.embeddings.token_embedding.weight)


def test_it_begins_as_transformers_begins():
    """The spread of every weight, over so many numbers that chance moves it by a hundredth."""
    sizes = SIZES | {"vocab_size": 2000, "hidden_size": 256, "intermediate_size": 512, "max_position_embeddings": 77}
    torch.manual_seed(0)
    theirs = CLIPTextModel(CLIPTextConfig(**sizes)).state_dict()
    ours = TextEncoder(TextConfig(**sizes)).state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert tensor.shape == theirs[name].shape
        assert float(tensor.mean()) == pytest.approx(float(theirs[name].mean()), abs=2e-3), name
        if tensor.dim() > 1:
            assert float(tensor.std()) == pytest.approx(float(theirs[name].std()), rel=0.03), name


def test_no_token_sees_a_later_one():
    torch.manual_seed(0)
    encoder = TextEncoder(TextConfig(**SIZES)).eval()
    tokens = torch.randint(60, (1, 12))
    other = tokens.clone()
    other[0, 7] = (tokens[0, 7] + 1) % 60
    one, two = (encoder(t).last_hidden_state[0] for t in (tokens, other))
    torch.testing.assert_close(one[:7], two[:7], atol=0, rtol=0)
    assert (one[7:] - two[7:]).abs().amax(1).min() > 1e-4
    with pytest.raises(ValueError, match="13 tokens"):
        encoder(torch.zeros(1, 13, dtype=torch.long))


def test_an_adapter_of_rank_one_is_found_in_every_projection():
    encoder = TextEncoder(TextConfig(**SIZES))
    inject_adapter_in_model(LoraConfig(r=1, target_modules=["q_proj", "k_proj", "v_proj", "out_proj"]), encoder)
    assert sum("lora_A" in name for name, _ in encoder.named_parameters()) == 4 * SIZES["num_hidden_layers"]


@pytest.mark.parametrize(
    ("odd", "told"),
    [({"hidden_act": "relu"}, "relu"), ({"num_attention_heads": 5}, "5 heads of 32"), ({"vocab_size": 0}, "above 0")],
)
def test_configs_of_no_text_encoder_are_refused(odd, told):
    with pytest.raises(ThreedgenError, match=told):
        TextConfig.of_words({**SIZES, **odd}, "folder")
