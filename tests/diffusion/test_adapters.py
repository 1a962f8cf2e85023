"""LoRA folders: what is loaded is what was trained, peft reads the files too, and a missing base is told."""

import json
import shutil

import pytest
import torch

from threedgen.cameras import orbit
from threedgen.core.errors import ThreedgenError, WeightsMissingError
from threedgen.diffusion.checkpoints.adapters import add_adapter, save_adapter
from threedgen.diffusion.checkpoints.locate import locate_weights
from threedgen.diffusion.conditions import Conditions
from threedgen.diffusion.mini import new_mini_prior, new_mini_vae
from threedgen.diffusion.prior import MultiViewPrior
from threedgen.diffusion.start import grow_vocabulary
from threedgen.diffusion.text.prompts import check_prompt

PARTS = ("unet", "text_encoder")


def noise_of(prior, prompt="a [v] cat"):
    rng = torch.Generator().manual_seed(0)
    noisy, cameras = torch.randn(4, 4, 16, 16, generator=rng), orbit([0, 90, 180, 270], 15, 2, 40, 64, num_views=4)
    with torch.no_grad():
        told = Conditions(prior.encode_text([prompt]), cameras, 4)
        return prior.denoise(noisy, torch.full((4,), 500), told).noise


@pytest.fixture(scope="module")
def trained():
    """A prior with an adapter whose matrices are no longer zero, and with a new word."""
    prior = MultiViewPrior.from_pretrained("mini")
    assert grow_vocabulary(prior, ["[v]"]) == ("[v]",)
    before = noise_of(prior)
    torch.manual_seed(0)
    add_adapter(prior, 3, PARTS)
    assert torch.equal(noise_of(prior), before), "an adapter starts as nothing"
    assert all("lora_" in name for name, p in prior.named_parameters() if p.requires_grad)
    with torch.no_grad():
        for name, parameter in prior.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.3)
        prior.text_encoder.get_input_embeddings().weight[-1] += 1.0
    assert (noise_of(prior) - before).abs().max() > 0.05
    return prior


@pytest.fixture(scope="module")
def folder(trained, tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "prior"
    save_adapter(trained, path, "mini", PARTS, has_new_words=True)
    return path


def test_a_loaded_adapter_is_the_trained_prior(trained, folder):
    loaded = MultiViewPrior.from_pretrained(folder.parent)  # a run's folder
    assert (noise_of(loaded) - noise_of(trained)).abs().max() < 1e-4
    check_prompt(loaded.tokenizer, "a [v] cat")
    assert not any(p.requires_grad for p in loaded.parameters())
    name = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    layer, base = trained.unet.get_submodule(name), MultiViewPrior.from_pretrained("mini")
    product = layer.lora_B["default"].weight @ layer.lora_A["default"].weight  # alpha is the rank
    expected = base.unet.get_submodule(name).weight + product
    assert torch.allclose(loaded.unet.get_submodule(name).weight, expected, atol=1e-6)
    old = base.text_encoder.get_input_embeddings().weight
    assert torch.equal(loaded.text_encoder.get_input_embeddings().weight[: len(old)], old)


def test_peft_reads_what_is_saved(trained, folder):
    from peft import PeftModel

    base = MultiViewPrior.from_pretrained("mini")
    base.unet = PeftModel.from_pretrained(base.unet, folder / "unet").merge_and_unload()
    key = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    ours = MultiViewPrior.from_pretrained(folder).unet.state_dict()[key]
    assert torch.allclose(base.unet.state_dict()[key], ours, atol=1e-6)
    assert not torch.allclose(MultiViewPrior.from_pretrained("mini").unet.state_dict()[key], ours, atol=1e-3)


def test_an_adapter_counts_by_alpha_over_its_rank(folder, tmp_path):
    twice = shutil.copytree(folder, tmp_path / "twice")
    config = json.loads((twice / "unet/adapter_config.json").read_text())
    (twice / "unet/adapter_config.json").write_text(json.dumps({**config, "lora_alpha": 2 * config["r"]}))
    name = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.weight"
    weights = [MultiViewPrior.from_pretrained(where).unet.get_parameter(name) for where in ("mini", folder, twice)]
    assert (weights[1] - weights[0]).abs().max() > 0.01
    torch.testing.assert_close(weights[2] - weights[0], 2 * (weights[1] - weights[0]))


def test_the_base_of_an_adapter_must_be_there(folder, tmp_path):
    assert locate_weights(str(folder)) == folder
    copied = tmp_path / "adapter"
    shutil.copytree(folder, copied)
    (copied / "adapter.json").write_text(json.dumps({"base": str(tmp_path / "gone")}))
    with pytest.raises(WeightsMissingError, match="gone"):
        locate_weights(str(copied))
    (copied / "adapter.json").write_text("{}")
    with pytest.raises(WeightsMissingError, match=r"adapter\.json does not name"):
        locate_weights(str(copied))


def test_an_adapter_that_does_not_fit_is_refused(folder, tmp_path):
    small = tmp_path / "small"
    other = new_mini_prior(["a", "cat"], new_mini_vae())
    other.unet = other.unet.from_config(other.unet.config, block_out_channels=(32, 32, 32))
    other.save_pretrained(small)
    copied = tmp_path / "adapter"
    shutil.copytree(folder, copied)
    (copied / "adapter.json").write_text(json.dumps({"base": str(small)}))
    with pytest.raises(ThreedgenError, match="does not fit its base"):
        MultiViewPrior.from_pretrained(copied)
