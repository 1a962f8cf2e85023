"""Where training starts: step 0 is the 2D model, bit for bit; new words leave the old ones as they were."""

import functools
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from tests.diffusion.tiny_unet import CAMERAS
from threedgen.config.training import CameraInput, ViewAttention
from threedgen.core.errors import ConfigError, ThreedgenError, WeightsMissingError
from threedgen.diffusion.conditions import Conditions
from threedgen.diffusion.formats.ldm_unet import unet_sources
from threedgen.diffusion.networks.multiview_unet import MultiViewUNet
from threedgen.diffusion.prior import MultiViewPrior
from threedgen.diffusion.start import grow_vocabulary, inflate_unet, start_prior
from threedgen.diffusion.text.clip_tokenizer import PAD_SD2, clip_tokenizer
from threedgen.diffusion.text.prompts import check_prompt, unknown_words

PUBLIC_KEYS = Path(__file__).parent / "public_keys"
CAMERA_MLP = {f"class_embedding.linear_{i}.{leaf}" for i in (1, 2) for leaf in ("weight", "bias")}
# Stable Diffusion 2.1's own words, but for the sizes
SD21 = {
    "sample_size": 64,
    "act_fn": "silu",
    "attention_head_dim": [5, 10, 20, 20],
    "block_out_channels": [320, 640, 1280, 1280],
    "center_input_sample": False,
    "cross_attention_dim": 1024,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "downsample_padding": 1,
    "dual_cross_attention": False,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    "use_linear_projection": True,
    "upcast_attention": False,
}
SMALL = {"sample_size": 8, "block_out_channels": [8, 16, 16, 16], "attention_head_dim": [1, 2, 4, 4]}
SMALL |= {"cross_attention_dim": 12, "norm_num_groups": 4, "layers_per_block": 1}


@pytest.fixture(scope="module")
def unet_2d():
    torch.manual_seed(0)
    unet = UNet2DConditionModel(**SD21 | SMALL).eval().requires_grad_(False)
    return unet.to(memory_format=torch.channels_last)  # as a prior holds it: the order of sums is part of the bits


@pytest.fixture(scope="module")
def sd_folder(unet_2d, tmp_path_factory):
    """A small 2D Stable Diffusion 2.1 as its repository has it."""
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("sd")
    unet_2d.save_pretrained(folder / "unet")
    AutoencoderKL(block_out_channels=(8, 8), norm_num_groups=4, down_block_types=("DownEncoderBlock2D",) * 2,
                  up_block_types=("UpDecoderBlock2D",) * 2).save_pretrained(folder / "vae")  # fmt: skip
    words = {"vocab_size": 49408, "hidden_size": 12, "intermediate_size": 24, "projection_dim": 12}
    CLIPTextModel(
        CLIPTextConfig(**words, num_hidden_layers=1, num_attention_heads=2, hidden_act="gelu")
    ).save_pretrained(folder / "text_encoder")
    clip_tokenizer(PAD_SD2).save_pretrained(folder / "tokenizer")
    PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type="v_prediction"
    ).save_pretrained(folder / "scheduler")
    return folder


@pytest.fixture(scope="module")
def started(sd_folder):
    """A start of each variant, made once."""
    return functools.cache(lambda *variant: start_prior(sd_folder, *variant))


def _inputs(count):
    rng = torch.Generator().manual_seed(1)
    latents = torch.randn(count, 4, 8, 8, generator=rng).contiguous(memory_format=torch.channels_last)
    text = torch.randn(count, 5, 12, generator=rng)
    return latents, torch.full((count,), 300), text, torch.randn(count, 16, generator=rng)


VARIANTS = [(attention, camera) for attention in ViewAttention for camera in CameraInput]


@torch.no_grad()
def test_a_2d_model_says_that_it_draws_no_views(sd_folder):
    """It answers in 2D mode, where nobody tells a camera."""
    prior = MultiViewPrior.from_pretrained(sd_folder)
    latents, timestep = torch.randn(4, 4, 8, 8), torch.full((4,), 300)
    text = prior.encode_text(["a cat"])
    assert prior.denoise(latents, timestep, Conditions(text)).x0.isfinite().all()
    with pytest.raises(ConfigError, match=r"^these weights know no cameras.*train\.start_from=WEIGHTS\)$"):
        prior.denoise(latents, timestep, Conditions(text, CAMERAS, 4))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("tokenizer/tokenizer.json", None, "tokenizer lacks tokenizer.json, or vocab.json and merges.txt"),
        ("tokenizer/tokenizer.json", "{", "tokenizer holds no tokenizer that can be read"),
        ("tokenizer/tokenizer_config.json", None, "tokenizer lacks tokenizer_config.json"),
        ("scheduler/scheduler_config.json", None, "scheduler_config.json is missing"),
        ("scheduler/scheduler_config.json", '{"_class_name": "FlowMatch"}', "of FlowMatch has no betas"),
        (
            "scheduler/scheduler_config.json",
            '{"beta_schedule": "linear", "prediction_type": "flow"}',
            "predicts 'flow'",
        ),
    ],
)
def test_a_folder_of_which_something_is_not_there_is_one_line(sd_folder, tmp_path, file, content, message):
    """A download that was cut off. Without a vocabulary, transformers would make one of two words."""
    folder = shutil.copytree(sd_folder, tmp_path / "sd")
    (folder / file).unlink() if content is None else (folder / file).write_text(content, "utf-8")
    with pytest.raises(ThreedgenError, match=re.escape(message)) as caught:
        MultiViewPrior.from_pretrained(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("attention", "camera_input"), VARIANTS)
def test_step_0_is_the_2d_model_to_the_last_bit(started, unet_2d, attention, camera_input):
    unet = started(attention, camera_input).unet
    latents, timestep, text, camera = _inputs(4)
    with torch.no_grad():
        expected = unet_2d(latents, timestep, text).sample
        assert torch.equal(unet(latents, timestep, text, None, 1), expected)  # 2D mode
        one_view = unet(latents, timestep, text, camera, 1, CAMERAS)
        several_views = unet(latents, timestep, text, camera, 4, CAMERAS)
    if camera_input is CameraInput.timestep:
        assert torch.equal(one_view, expected)
        assert torch.equal(several_views, expected) == (attention in (ViewAttention.temporal, ViewAttention.none))
    else:  # a token of zeros dilutes the text: the 2D model with that token in its text
        with torch.no_grad():
            diluted = unet_2d(latents, timestep, torch.cat([text, torch.zeros(4, 1, 12)], 1)).sample
        assert torch.equal(one_view, diluted) and not torch.equal(one_view, expected)


@pytest.mark.parametrize(("attention", "camera_input"), VARIANTS)
def test_what_is_new_learns_from_the_first_step_on(started, attention, camera_input):
    """A last layer at zero has a gradient; were the layer before it zero too, it would stay there for ever."""
    prior = started(attention, camera_input)
    latents, timestep, text, camera = _inputs(4)
    prior.unet(latents, timestep, text, camera, 4, CAMERAS).square().mean().backward()
    last = {"class_embedding.linear_2.weight", "class_embedding.linear_2.bias"}
    if attention is ViewAttention.temporal:
        last |= {name for name, _ in prior.unet.named_parameters() if ".view_attn.to_out.0." in name}
        assert len(last) == 2 + 2 * 10  # a transformer block in 3 levels down, the middle, and 2 in 3 levels up
    elif attention is ViewAttention.epipolar:
        last |= {name for name, _ in prior.unet.named_parameters() if name.endswith(".ray_attn.to_out.weight")}
        assert len(last) == 2 + 7  # without those at the finest level
    elif attention is ViewAttention.spad:
        last |= {name for name, _ in prior.unet.named_parameters() if name.endswith(".ray_in.weight")}
        assert len(last) == 2 + 10
    parameters = dict(prior.unet.named_parameters())
    for name in last:
        assert parameters[name].count_nonzero() == 0 and parameters[name].grad.abs().max() > 0
    assert parameters["class_embedding.linear_1.weight"].std() > 0.1  # U(-1/4, 1/4) has 0.144


def test_the_start_is_the_same_in_every_process_and_leaves_the_random_state_alone(started, sd_folder):
    first = started(ViewAttention.temporal, CameraInput.timestep).unet.state_dict()
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    second = start_prior(sd_folder, ViewAttention.temporal).unet.state_dict()
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_rest_of_the_folder_is_kept(started, sd_folder, tmp_path):
    prior = started(ViewAttention.inflated, CameraInput.timestep)
    loaded = MultiViewPrior.from_pretrained(sd_folder)
    assert prior.scheduler.config.prediction_type == "v_prediction"
    for part in ("text_encoder", "vae"):
        ours, theirs = getattr(prior, part).state_dict(), getattr(loaded, part).state_dict()
        assert all(torch.equal(ours[name], value) for name, value in theirs.items())
    frozen = {name.partition(".")[0] for name, p in prior.named_parameters() if not p.requires_grad}
    assert frozen == {"vae"}
    prior.save_pretrained(tmp_path / "prior", torch.float32)
    again = start_prior(tmp_path / "prior")  # now a multi-view prior: nothing is added
    state = prior.unet.state_dict()
    assert again.unet.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in again.unet.state_dict().items())
    assert start_prior(sd_folder, dtype=torch.bfloat16).unet.class_embedding.linear_1.weight.dtype == torch.bfloat16


def test_a_multiview_prior_goes_on_but_loses_no_layer(tmp_path):
    mini, started = MultiViewPrior.from_pretrained("mini"), start_prior("mini", ViewAttention.temporal)
    latents, text, camera = (
        torch.randn(4, 4, 16, 16),
        torch.randn(4, 5, mini.unet.config.cross_attention_dim),
        torch.randn(4, 16),
    )
    within = start_prior("mini", ViewAttention.none).unet
    with torch.no_grad():
        expected = mini.unet(latents, torch.tensor(9), text, camera, 1)  # each view alone
        assert torch.equal(started.unet(latents, torch.tensor(9), text, camera, 4), expected)
        assert torch.equal(within(latents, torch.tensor(9), text, camera, 4), expected)
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter.json").write_text('{"base": "mini"}')  # without layers: mini itself
    adapted = start_prior(tmp_path / "adapter").unet.state_dict()
    assert all(torch.equal(adapted[name], value) for name, value in mini.unet.state_dict().items())
    started.save_pretrained(tmp_path / "temporal")
    with pytest.raises(ConfigError, match=r"trained with view_attention=temporal, .*view_attention=inflated"):
        start_prior(tmp_path / "temporal")
    with pytest.raises(ConfigError, match="view_attention=spad, camera_input=timestep would drop"):
        start_prior(tmp_path / "temporal", ViewAttention.spad)
    with pytest.raises(ConfigError, match="camera_input=text would drop"):
        start_prior("mini", camera_input=CameraInput.text)


def test_what_is_no_stable_diffusion_is_told_before_it_is_loaded(sd_folder, tmp_path):
    folder = tmp_path / "other"
    shutil.copytree(sd_folder, folder)
    config = json.loads((folder / "unet" / "config.json").read_text())
    for words, said in (
        ({"addition_embed_type": "text_time"}, 'unet: addition_embed_type="text_time"'),  # XL
        ({"in_channels": 9}, "unet: in_channels=9"),  # inpainting
        (
            {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 2048},
            "class_embed_type",
        ),  # unCLIP
    ):
        (folder / "unet" / "config.json").write_text(json.dumps(config | words))
        (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink(missing_ok=True)
        with pytest.raises(ConfigError, match=said) as error:
            start_prior(folder)
        assert "\n" not in str(error.value)
    shutil.rmtree(folder / "vae")
    with pytest.raises(WeightsMissingError, match="vae/ not found"):
        start_prior(folder)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("sd21", {}),
        ("sd15", {"attention_head_dim": 8, "cross_attention_dim": 768, "use_linear_projection": False}),
    ],
)
def test_at_full_size_only_the_camera_s_mlp_is_added(name, words):
    """Names and shapes against those of the public multi-view checkpoints; nothing has values."""
    with torch.device("meta"):
        unet = MultiViewUNet(**SD21 | words)
    inflated = inflate_unet(unet, ViewAttention.inflated, CameraInput.timestep)
    assert inflated.state_dict().keys() - unet.state_dict().keys() == CAMERA_MLP
    assert unet.state_dict().keys() < inflated.state_dict().keys()
    listed = json.loads((PUBLIC_KEYS / f"mvdream_{name}_keys.json").read_text())
    inflated.register_to_config(layers_per_block=[2] * 4)
    sources = unet_sources(inflated)
    shapes = {f"model.diffusion_model.{sources[k].key}": list(v.shape) for k, v in inflated.state_dict().items()}
    assert shapes == {key: shape for key, shape in listed.items() if key.startswith("model.diffusion_model.")}


# --- words ---

CAPTIONS = ["a red cat with a green face", "a blue cone on a white cylinder, 3d asset", ""]


def test_new_words_leave_old_captions_alone_and_are_told_apart(tmp_path):
    prior, before = MultiViewPrior.from_pretrained("mini"), MultiViewPrior.from_pretrained("mini")
    with torch.no_grad():
        old_text = before.encode_text(CAPTIONS)
    old_weight, old_ids = before.text_encoder.get_input_embeddings().weight, before.tokenizer.get_vocab()
    n, words = len(old_ids), ("velvet", "zeppelin", "quince", "@", "pot")
    assert grow_vocabulary(prior, ["velvet", "Zeppelin", "red", "zeppelin", "a quince@pot"]) == words
    weight, ids = prior.text_encoder.get_input_embeddings().weight, prior.tokenizer.get_vocab()
    assert {word: ids[word] for word in old_ids} == old_ids
    assert [ids[word] for word in words] == list(range(n, n + 5))
    assert torch.equal(weight[:n], old_weight)
    assert prior.text_encoder.config.vocab_size == len(weight) == len(prior.tokenizer) == n + 5
    distance = (weight[n:] - old_weight.mean(0)).norm(dim=1) / (old_weight - old_weight.mean(0)).norm(dim=1).mean()
    assert ((distance > 0.05) & (distance < 0.2)).all()
    assert torch.pdist(weight[n:]).min() > 0.05 * torch.pdist(old_weight).mean()
    with torch.no_grad():
        assert torch.equal(prior.encode_text(CAPTIONS), old_text)
        new_text = prior.encode_text(["a velvet zeppelin"])
    check_prompt(prior.tokenizer, "a velvet Zeppelin")
    assert unknown_words(prior.tokenizer, "a tartan zeppelin") == ["tartan"]
    assert grow_vocabulary(prior, ["velvet", "cat"]) == ()
    prior.save_pretrained(tmp_path / "grown", torch.float32)
    loaded = MultiViewPrior.from_pretrained(tmp_path / "grown")
    with torch.no_grad():
        assert torch.equal(loaded.encode_text(CAPTIONS), old_text)
        assert torch.equal(loaded.encode_text(["a velvet zeppelin"]), new_text)


def test_a_word_s_embedding_does_not_depend_on_the_others_and_learns():
    one, other = start_prior("mini"), start_prior("mini")
    grow_vocabulary(one, ["quince", "zeppelin"])
    grow_vocabulary(other, ["zeppelin"])
    new, same = one.text_encoder.get_input_embeddings().weight, other.text_encoder.get_input_embeddings().weight
    assert torch.equal(new[-1], same[-1]) and not torch.equal(new[-1], new[-2])
    grow_vocabulary(other, [f"no{i}" for i in range(400)])
    many = other.text_encoder.get_input_embeddings().weight[-400:]
    assert (many.mean(0) - same.mean(0)).norm() < 0.01 * same.std(0).norm()  # 0.1 / sqrt(400), and some
    one.encode_text(["a zeppelin"]).square().sum().backward()
    assert new.grad[-1].abs().max() > 0 and new.grad[-2].abs().max() == 0


def test_a_tokenizer_of_pieces_needs_no_words(started):
    prior = started(ViewAttention.inflated, CameraInput.timestep)
    assert grow_vocabulary(prior, (pytest.fail("the captions are not even read") for _ in range(1))) == ()
    assert len(prior.text_encoder.get_input_embeddings().weight) == 49408
