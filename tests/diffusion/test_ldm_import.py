"""Original checkpoints: every key is used or known, what is written is what was in the file, and little memory."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

from threedgen.cameras import mvdream_camera_vectors, orbit
from threedgen.core.errors import ThreedgenError
from threedgen.core.files import verify_folder
from threedgen.diffusion.checkpoints.ldm_import import open_original
from threedgen.diffusion.conditions import Conditions
from threedgen.diffusion.formats.ldm_vae import match_ldm_vae
from threedgen.diffusion.formats.tensor_files import open_tensors, stored_tensors
from threedgen.diffusion.networks.multiview_unet import multiview_unet_from_ldm
from threedgen.diffusion.prior import MultiViewPrior
from threedgen.diffusion.text.prompts import check_prompt

ROOT = Path(__file__).parents[2]
PUBLIC_KEYS = Path(__file__).parent / "public_keys"  # of the public checkpoints: {key: shape}


def _part(tensors, prefix):
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


@pytest.fixture(scope="module")
def imported(original_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("imported") / "weights"
    open_original(original_file).save(folder)
    return folder


def test_vae_equals_the_reference(goldens_folder):
    golden = load_file(goldens_folder / "golden_vae_small.safetensors")
    matched = match_ldm_vae(stored_tensors(_part(golden, "weights.")), "vae")
    matched.fill()
    vae = matched.module.eval()
    with torch.no_grad():
        posterior = vae.encode(golden["in.image_m1_1"]).latent_dist
        decoded = vae.decode(golden["out.mean"]).sample
    for actual, key in ((posterior.mean, "mean"), (posterior.logvar, "logvar"), (posterior.std, "std")):
        torch.testing.assert_close(actual, golden[f"out.{key}"], atol=1e-4, rtol=0)
    torch.testing.assert_close(decoded, golden["out.decode_of_mean"], atol=1e-4, rtol=0)


def test_all_1244_keys_of_the_public_checkpoint_have_their_place(full_size_cpu):
    """The importer's names and shapes, turned round, are those of sd-v2.1-base-4view.pt."""
    file = PUBLIC_KEYS / "mvdream_sd21_keys.json"
    expected = {key: tuple(shape) for key, shape in json.loads(file.read_text()).items()}
    schedule = {key: tuple(value.shape) for key, value in full_size_cpu.schedule_buffers().items()}
    assert full_size_cpu.checkpoint_shapes("full") | schedule == expected and len(expected) == 1244


def test_vae_of_the_second_checkpoint_has_exactly_its_keys():
    shapes = json.loads((PUBLIC_KEYS / "mvdream_sd15_keys.json").read_text())
    tensors = {key: torch.empty(shape, device="meta") for key, shape in _part(shapes, "first_stage_model.").items()}
    vae = match_ldm_vae(stored_tensors(tensors), "vae").module
    assert sum(p.numel() for p in vae.parameters()) == 83_653_863 and len(tensors) == 248


def test_an_imported_prior_computes_what_is_in_the_file(original, imported):
    assert verify_folder(imported)
    prior = MultiViewPrior.from_pretrained(imported)
    rng = torch.Generator().manual_seed(0)
    latents, cameras = torch.randn(4, 4, 8, 8, generator=rng), orbit([0, 90, 180, 270], 15, 2, 40, 64, num_views=4)
    timestep, images = torch.full((4,), 300), torch.rand(1, 3, 64, 64, generator=rng)
    text = prior.encode_text(["a red cat!"])
    unet = multiview_unet_from_ldm({"num_head_channels": 64}, _part(original, "model.diffusion_model."))
    vae = match_ldm_vae(stored_tensors(_part(original, "first_stage_model.")), "vae")
    vae.fill()
    with torch.no_grad():
        expected = unet(latents, timestep, text.expand(4, -1, -1), mvdream_camera_vectors(cameras), 4)
        mean = vae.module.encode(images * 2 - 1).latent_dist.mean
    actual = prior.denoise(latents, timestep, Conditions(text, cameras, 4)).noise
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(prior.encode_images(images), 0.18215 * mean, atol=1e-5, rtol=1e-5)
    # token 0 fills up, and "!" is a token of its own
    embedding = original["cond_stage_model.model.token_embedding.weight"]
    assert prior.tokenizer("a red cat!").input_ids == [49406, 320, 736, 2368, 256, 49407]
    assert torch.equal(prior.text_encoder.get_input_embeddings().weight, embedding)
    assert prior.tokenizer.pad_token_id == 0 and prior.image_size == 256
    torch.testing.assert_close(prior.alphas_cumprod, original["alphas_cumprod"])
    check_prompt(prior.tokenizer, "any zebra on a sofa, <|endoftext|>")  # no word is unknown


def test_what_is_written_is_diffusers_layout(imported):
    """transformers' and diffusers' own loaders find every tensor."""
    assert {p.name for p in imported.iterdir()} >= {"unet", "vae", "text_encoder", "tokenizer", "scheduler"}
    text, report = CLIPTextModel.from_pretrained(imported / "text_encoder", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert text.config.num_hidden_layers == 2
    assert not list(imported.rglob("*.bin")) and not list(imported.rglob("*.pt"))


def test_half_precision_is_the_rounded_file(original, original_file, tmp_path):
    open_original(original_file).save(tmp_path / "half", torch.float16)
    written = load_file(tmp_path / "half" / "unet" / "diffusion_pytorch_model.safetensors")
    assert {value.dtype for value in written.values()} == {torch.float16}
    expected = original["model.diffusion_model.middle_block.1.proj_in.weight"].half()
    assert torch.equal(written["mid_block.attentions.0.proj_in.weight"], expected)


def test_safetensors_files_and_wrapped_dictionaries_are_read_too(original, original_file, imported, tmp_path):
    save_file(original, tmp_path / "flat.safetensors")
    torch.save({"state_dict": original, "epoch": 3}, tmp_path / "wrapped.ckpt")
    for name in ("flat.safetensors", "wrapped.ckpt"):
        folder = tmp_path / name.split(".")[0]
        open_original(tmp_path / name).save(folder)
        for part in ("unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model"):
            ours, theirs = ((f / f"{part}.safetensors").read_bytes() for f in (folder, imported))
            assert ours == theirs


def _as_sd15(original):
    """The same sizes in the layout of sd-v1.5-4view.pt: 1 x 1 convolutions, CLIP's text encoder."""
    tensors = {key: value for key, value in original.items() if not key.startswith("cond_stage_model.")}
    for key in tensors:
        if ".proj_in.weight" in key or (".1.proj_out.weight" in key and "diffusion_model" in key):
            tensors[key] = tensors[key][:, :, None, None]
    torch.manual_seed(0)
    config = CLIPTextConfig(
        hidden_size=64, intermediate_size=256, num_hidden_layers=2, num_attention_heads=1, hidden_act="quick_gelu"
    )
    text = CLIPTextModel(config).eval()
    prefix = "cond_stage_model.transformer.text_model."
    tensors |= {prefix + key: value for key, value in text.state_dict().items()}
    return tensors | {prefix + "embeddings.position_ids": torch.arange(77)[None]}, text


def test_the_second_checkpoint_s_layout(original, tmp_path):
    tensors, text = _as_sd15(original)
    torch.save(tensors, tmp_path / "sd15.pt")
    checkpoint = open_original(tmp_path / "sd15.pt")
    assert checkpoint.base == "Stable Diffusion 1.5" and checkpoint.num_unused == 13
    checkpoint.save(tmp_path / "sd15")
    prior = MultiViewPrior.from_pretrained(tmp_path / "sd15")
    assert set(prior.unet.config.attention_head_dim) == {8} and not prior.unet.config.use_linear_projection
    tokens = prior.tokenizer(["a cat"], padding="max_length", return_tensors="pt").input_ids
    assert tokens[0, :6].tolist() == [49406, 320, 2368, 49407, 49407, 49407]
    with torch.no_grad():
        expected = text(tokens).last_hidden_state
    torch.testing.assert_close(prior.encode_text(["a cat"]), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("prefix", ["model.diffusion_model.", "first_stage_model.", "cond_stage_model.model.", ""])
def test_damaged_files_name_the_first_five_keys(original, tmp_path, prefix):
    keys = sorted(key for key in original if key.startswith(prefix) and (prefix or "." not in key))
    gone = keys[-7:]
    torch.save({key: value for key, value in original.items() if key not in gone}, tmp_path / "gone.pt")
    with pytest.raises(ThreedgenError) as error:
        open_original(tmp_path / "gone.pt")
    assert f"7 keys missing ({', '.join(key.removeprefix(prefix) for key in gone[:5])}, ...)" in str(error.value)
    torch.save(original | {prefix + "more": torch.zeros(2)}, tmp_path / "more.pt")
    with pytest.raises(ThreedgenError, match=r"1 key not known \(more\)"):
        open_original(tmp_path / "more.pt")


def test_misshaped_keys_are_told_with_both_shapes(original, tmp_path):
    key = "cond_stage_model.model.transformer.resblocks.1.attn.in_proj_bias"
    torch.save(original | {key: torch.zeros(64)}, tmp_path / "bad.pt")
    with pytest.raises(ThreedgenError, match=r"in_proj_bias \[64\] instead of \[192\]"):
        open_original(tmp_path / "bad.pt")


def test_weights_in_whole_numbers_are_told(original, tmp_path):
    key = "model.diffusion_model.out.2.bias"
    torch.save(original | {key: torch.zeros(4, dtype=torch.int8)}, tmp_path / "int8.pt")
    with pytest.raises(ThreedgenError, match=r"1 key of a number type that weights do not have \(out\.2\.bias\)"):
        open_original(tmp_path / "int8.pt")


def test_another_model_s_file_is_told(tmp_path):
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pt")
    with pytest.raises(ThreedgenError, match="no MVDream checkpoint"):
        open_original(tmp_path / "other.pt")


def test_values_beyond_half_precision_are_refused_and_nothing_is_left(original, tmp_path):
    key = "model.diffusion_model.out.2.bias"
    torch.save(original | {key: torch.full((4,), 1e6)}, tmp_path / "large.pt")
    with pytest.raises(ThreedgenError, match=r"out\.2\.bias has values beyond float16"):
        open_original(tmp_path / "large.pt").save(tmp_path / "half", torch.float16)
    assert [path.name for path in tmp_path.iterdir()] == ["large.pt"]


def test_another_noise_schedule_is_noticed(original, tmp_path):
    torch.save(original | {"alphas_cumprod": torch.linspace(1, 0, 1000)}, tmp_path / "linear.pt")
    assert not open_original(tmp_path / "linear.pt").has_standard_schedule


_PEAK = """
import sys, torch
from pathlib import Path
from threedgen.diffusion.checkpoints.ldm_import import open_original
from threedgen.diffusion.prior import MultiViewPrior

def memory(word):  # VmRSS: now; VmHWM: at most since the last reset
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(word))

def beyond_start(work):
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    before = memory("VmRSS")
    work()
    return memory("VmHWM") - before

small, file, folder = map(Path, sys.argv[1:4])
open_original(small).save(folder / "warm-up", torch.float16)  # what is loaded at the first use is not counted
MultiViewPrior.from_pretrained(folder / "warm-up")
for dtype in (torch.float16, None):
    weights = folder / str(dtype)
    print(beyond_start(lambda: open_original(file).save(weights, dtype)) / file.stat().st_size)
    print(beyond_start(lambda: MultiViewPrior.from_pretrained(weights, dtype or torch.float32)) / file.stat().st_size)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is measured through Linux's /proc")
def test_peak_memory_stays_within_1_3_times_the_file(full_size_cpu, original_file, tmp_path):
    """In a process of its own, with a file of 220 MB in which the UNet has its real share."""
    sizes = {"unet": {"model_channels": 128, "channel_mult": [1, 2, 2, 2], "num_res_blocks": 1}}
    sizes |= {"vae": {"channels": [32, 64, 64, 64], "num_res_blocks": 1}, "text": {"width": 256, "layers": 8}}
    full_size_cpu.SIZES["medium"] = sizes
    torch.save(full_size_cpu.random_checkpoint("medium"), tmp_path / "medium.pt")
    command = [sys.executable, "-c", _PEAK, original_file, tmp_path / "medium.pt", tmp_path]
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True, cwd=ROOT)
    half_imported, half_loaded, imported, loaded = map(float, result.stdout.split())
    assert half_imported < 1.3 and imported < 1.3, (half_imported, imported)
    assert half_loaded < 0.65 and loaded < 1.3, (half_loaded, loaded)


def test_tensors_are_read_one_by_one(imported):
    """Opening a file reads its header, not its content."""
    tensors = open_tensors(imported / "unet" / "diffusion_pytorch_model.safetensors")
    with safe_open(imported / "unet" / "diffusion_pytorch_model.safetensors", "pt") as file:
        assert set(tensors) == set(file.keys())
        assert torch.equal(tensors["conv_in.weight"].read(), file.get_tensor("conv_in.weight"))
