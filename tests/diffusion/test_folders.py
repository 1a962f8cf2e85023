"""Folders in diffusers' layout: the UNet in either naming, older names, half precision; nothing silently absent."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel

from threedgen.config.training import PriorNetwork
from threedgen.core.errors import ThreedgenError, WeightsMissingError
from threedgen.diffusion.checkpoints.folders import load_text_encoder, load_unet, load_vae
from threedgen.diffusion.checkpoints.locate import BUNDLED_FOLDER
from threedgen.diffusion.networks.multiview_unet import multiview_unet_from_ldm
from threedgen.diffusion.prior import MultiViewPrior
from threedgen.diffusion.start import start_prior

UNET_FILE = "diffusion_pytorch_model.safetensors"


def _copy(part, tmp_path):
    shutil.copytree(BUNDLED_FOLDER / part, tmp_path / part)
    return tmp_path / part


def _state(module):
    return module.state_dict()


def test_a_unet_under_its_original_names(original, tmp_path):
    """As published in diffusers' layout with the original's class: its config words leave out what is always so."""
    prefix = "model.diffusion_model."
    state = {key.removeprefix(prefix): value for key, value in original.items() if key.startswith(prefix)}
    words = {
        "_class_name": "MultiViewUNetModel",
        "_diffusers_version": "0.25.0",
        "image_size": 32,
        "in_channels": 4,
        "out_channels": 4,
        "model_channels": 64,
        "attention_resolutions": [4, 2, 1],
        "num_res_blocks": 1,
        "channel_mult": [1, 1, 2, 2],
        "num_head_channels": 64,
        "transformer_depth": 1,
        "context_dim": 64,
        "use_checkpoint": False,
        "camera_dim": 16,
        "ip_dim": 0,
        "ip_weight": 1.0,
    }
    (tmp_path / "config.json").write_text(json.dumps(words))
    save_file({key: value.half() for key, value in state.items()}, tmp_path / UNET_FILE)
    unet = load_unet(tmp_path, torch.float32, "cpu")
    expected = multiview_unet_from_ldm(words, {key: value.half().float() for key, value in state.items()})
    rng = torch.Generator().manual_seed(0)
    inputs = torch.randn(4, 4, 8, 8, generator=rng), torch.full((4,), 9), torch.randn(4, 3, 64, generator=rng)
    camera = torch.randn(4, 16, generator=rng)
    with torch.no_grad():
        assert torch.equal(unet(*inputs, camera, 4), expected(*inputs, camera, 4))
    (tmp_path / "config.json").write_text(json.dumps({**words, "ip_dim": 16}))
    with pytest.raises(ThreedgenError, match="ip_dim=16"):
        load_unet(tmp_path, torch.float32, "cpu")


def test_older_names_of_the_autoencoder_s_attention(tmp_path):
    folder = _copy("vae", tmp_path)
    new, old = ("to_q", "to_k", "to_v", "to_out.0"), ("query", "key", "value", "proj_attn")
    tensors = {}
    for key, value in load_file(folder / UNET_FILE).items():
        for a, b in zip(new, old, strict=True):
            key = key.replace(f".attentions.0.{a}.", f".attentions.0.{b}.")
        tensors[key] = value
    save_file(tensors, folder / UNET_FILE)
    ours, theirs = _state(load_vae(folder, torch.float32, "cpu")), _state(MultiViewPrior.from_pretrained("mini").vae)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_half_precision_variants_and_torch_files_are_found(tmp_path):
    unet, text = _copy("unet", tmp_path), _copy("text_encoder", tmp_path)
    (unet / UNET_FILE).rename(unet / "diffusion_pytorch_model.fp16.safetensors")
    prefixed = {f"text_model.{key}": value for key, value in load_file(text / "model.safetensors").items()}
    prefixed["text_model.embeddings.position_ids"] = torch.arange(20)[None]  # as older versions wrote it
    torch.save(prefixed, text / "pytorch_model.bin")
    (text / "model.safetensors").unlink()
    prior = MultiViewPrior.from_pretrained("mini")
    for loaded, module in (
        (load_unet(unet, torch.float32, "cpu"), prior.unet),
        (load_text_encoder(text, torch.float32, "cpu"), prior.text_encoder),
    ):
        expected = _state(module)
        assert _state(loaded).keys() == expected.keys()
        assert all(torch.equal(value, expected[name]) for name, value in _state(loaded).items())


@pytest.mark.parametrize(
    ("part", "load"), [("unet", load_unet), ("vae", load_vae), ("text_encoder", load_text_encoder)]
)
def test_a_missing_tensor_is_an_error_not_a_random_one(tmp_path, part, load):
    folder = _copy(part, tmp_path)
    file = next(folder.glob("*.safetensors"))
    tensors = load_file(file)
    gone = sorted(tensors)[3]
    del tensors[gone]
    save_file(tensors, file)
    with pytest.raises(ThreedgenError, match=f"1 key missing .{gone}."):
        load(folder, torch.float32, "cpu")
    file.unlink()
    with pytest.raises(ThreedgenError, match="is missing"):
        load(folder, torch.float32, "cpu")


def test_a_cut_off_file_is_told(tmp_path):
    folder = _copy("unet", tmp_path)
    content = (folder / UNET_FILE).read_bytes()
    (folder / UNET_FILE).write_bytes(content[: len(content) // 2])
    with pytest.raises(ThreedgenError, match="cut off"):
        load_unet(folder, torch.float32, "cpu")


def test_the_whole_text_encoder_goes_to_the_device():
    encoder = load_text_encoder(BUNDLED_FOLDER / "text_encoder", torch.float32, "meta")
    tensors = [*encoder.named_parameters(), *encoder.named_buffers()]
    assert {name for name, tensor in tensors if not tensor.is_meta} == set()
    assert tensors


def test_weights_in_several_files_and_a_vae_that_lies_with_the_base(tmp_path):
    prior = MultiViewPrior.from_pretrained("mini")
    _change(prior.unet.parameters())
    folder = tmp_path / "several"
    prior.save_pretrained(folder, torch.float16, base="mini", file_size="3MB")
    assert not (folder / "vae").exists() and not (folder / "unet" / UNET_FILE).exists()
    files = list((folder / "unet").glob("*.safetensors"))
    assert len(files) == 3 and max(file.stat().st_size for file in files) <= 3.1e6
    again = MultiViewPrior.from_pretrained(folder)
    for part in ("unet", "vae", "text_encoder"):
        expected = _state(getattr(prior, part))
        found = _state(getattr(again, part)).items()
        assert all(torch.equal(value, expected[name].half().float()) for name, value in found)

    files[0].unlink()
    with pytest.raises(ThreedgenError, match=f"{files[0].name} is missing"):
        load_unet(folder / "unet", torch.float32, "cpu")
    index = folder / "unet" / f"{UNET_FILE}.index.json"
    index.write_text(json.dumps({"weight_map": {"conv_in.weight": "../../other.safetensors"}}))
    with pytest.raises(ThreedgenError, match="no index of files beside it"):
        load_unet(folder / "unet", torch.float32, "cpu")
    (folder / "base.json").write_text("{}")
    with pytest.raises(WeightsMissingError, match=r"base\.json does not name"):
        MultiViewPrior.from_pretrained(folder)


def test_only_what_differs_from_the_base_is_written_and_all_of_it_read(tmp_path):
    """A layer is made wider, another is trained; the text encoder and the VAE are the base's, the tokens stay."""
    prior = start_prior("mini-video", network=PriorNetwork.video, image_conditioning=True)
    _change([prior.unet.conv_in.weight, prior.unet.mid_block.attentions[0].proj_in.bias])
    folder = tmp_path / "child"
    prior.save_pretrained(folder, torch.float16, base="mini-video", file_size="300KB")
    assert {path.name for path in folder.iterdir()} == {
        "base.json", "image_encoder", "manifest.json", "scheduler", "tokenizer", "unet"
    }  # fmt: skip
    own = {key for file in (folder / "unet").glob("*.safetensors") for key in load_file(file)}
    base = MultiViewPrior.from_pretrained("mini-video").unet.state_dict()
    assert own == prior.unet.state_dict().keys() - base.keys() | {
        "conv_in.weight", "mid_block.attentions.0.proj_in.bias"
    }  # fmt: skip
    again = MultiViewPrior.from_pretrained(folder)
    for part in ("unet", "vae", "text_encoder", "image_encoder"):
        expected = _state(getattr(prior, part))
        found = _state(getattr(again, part))
        assert found.keys() == expected.keys()
        assert all(torch.equal(value, expected[name].half().float()) for name, value in found.items())


@pytest.mark.parametrize("spoilt", ["of the file", "of the list", "unknown", "misshaped", "no list", "no base"])
def test_tensors_that_neither_base_nor_child_has_are_told_in_a_line(tmp_path, spoilt):
    prior = MultiViewPrior.from_pretrained("mini")
    _change([prior.unet.conv_in.bias, prior.unet.conv_out.bias])
    prior.save_pretrained(tmp_path / "child", base="mini")
    folder = tmp_path / "child" / "unet"
    own, words = load_file(folder / UNET_FILE), json.loads((folder / "base.json").read_text())
    said = "1 key missing .conv_in.weight."
    if spoilt == "of the file":
        del own["conv_in.bias"]
        said = "1 key missing .conv_in.bias."
    elif spoilt == "of the list":
        words["shared"].remove("conv_in.weight")
    elif spoilt == "unknown":
        own["conv_in.scale"] = own["conv_in.bias"].clone()
        said = "1 key not known .conv_in.scale."
    elif spoilt == "misshaped":
        own["conv_in.bias"] = own["conv_in.bias"][:-1].clone()
        said = "1 key of another shape .conv_in.bias"
    elif spoilt == "no list":
        del words["shared"]
        said = "does not name the tensors that are shared with mini"
    else:
        words["base"] = "weights/nowhere"
        said = "no weights at weights/nowhere"
    save_file(own, folder / UNET_FILE)
    (folder / "base.json").write_text(json.dumps(words))
    with pytest.raises(ThreedgenError, match=said) as error:
        MultiViewPrior.from_pretrained(tmp_path / "child")
    assert "\n" not in str(error.value)


def test_a_vae_that_is_not_the_base_s_is_written(tmp_path):
    prior = MultiViewPrior.from_pretrained("mini")
    _change([prior.vae.decoder.conv_out.bias])
    prior.save_pretrained(tmp_path / "other", base="mini")
    assert not (tmp_path / "other/unet").exists()
    again = MultiViewPrior.from_pretrained(tmp_path / "other")
    expected = prior.vae.decoder.conv_out.bias.half().float()
    assert torch.equal(again.vae.decoder.conv_out.bias, expected)


@torch.no_grad()
def _change(parameters):
    for parameter in parameters:
        parameter += 0.01


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
@pytest.mark.parametrize("variant", [None, "fp16"])
def test_several_files_as_the_libraries_name_them(part, variant, tmp_path):
    """Written by diffusers and transformers themselves, with and without a variant."""
    module = getattr(MultiViewPrior.from_pretrained("mini"), part).half()
    if part == "text_encoder":
        module = CLIPTextModel.from_pretrained(BUNDLED_FOLDER / part, dtype=torch.float16)
    module.save_pretrained(tmp_path, max_shard_size={"unet": "2MB", "vae": "500KB"}.get(part, "100KB"), variant=variant)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert len([name for name in names if name.endswith(".safetensors")]) > 1, names
    assert any("index" in name and (variant or "index") in name for name in names), names
    load = {"unet": load_unet, "vae": load_vae, "text_encoder": load_text_encoder}[part]
    again, expected = _state(load(tmp_path, torch.float16, "cpu")), _state(module)
    assert all(torch.equal(value, again[name]) for name, value in expected.items() if name in again)
    assert set(again) <= set(expected)


def _in_two(folder, index_name, pattern):
    """The UNet's tensors in two files with an index of that name; the index and the files."""
    tensors = load_file(folder / UNET_FILE)
    (folder / UNET_FILE).unlink()
    names, files = sorted(tensors), [pattern.format(1), pattern.format(2)]
    shards = [{name: tensors[name] for name in names[i::2]} for i in range(2)]
    for file, shard in zip(files, shards, strict=True):
        save_file(shard, folder / file)
    index = {name: file for file, shard in zip(files, shards, strict=True) for name in shard}
    (folder / index_name).write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return index, files


@pytest.mark.parametrize(
    ("index_name", "pattern"),
    [
        ("diffusion_pytorch_model.safetensors.index.json", "diffusion_pytorch_model-{:05}-of-00002.safetensors"),
        (
            "diffusion_pytorch_model.safetensors.index.fp16.json",
            "diffusion_pytorch_model.fp16-{:05}-of-00002.safetensors",
        ),
        (
            "diffusion_pytorch_model.fp16.safetensors.index.json",
            "diffusion_pytorch_model-{:05}-of-00002.fp16.safetensors",
        ),
    ],
)
def test_several_files_under_every_name_of_their_index(index_name, pattern, tmp_path):
    folder = _copy("unet", tmp_path)
    expected = _state(load_unet(folder, torch.float32, "cpu"))
    _in_two(folder, index_name, pattern)
    again = _state(load_unet(folder, torch.float32, "cpu"))
    assert again.keys() == expected.keys() and all(torch.equal(again[name], expected[name]) for name in expected)


INDEX = f"{UNET_FILE}.index.json"


def _without_a_shard(folder, index, files):
    (folder / files[1]).unlink()


def _with_a_tensor_in_no_file(folder, index, files):
    shard = load_file(folder / files[0])
    del shard["conv_in.weight" if "conv_in.weight" in shard else sorted(shard)[0]]
    save_file(shard, folder / files[0])


def _with_a_tensor_in_no_index(folder, index, files):
    del index[sorted(index)[0]]
    (folder / INDEX).write_text(json.dumps({"weight_map": index}))


def _with_a_tensor_in_two_files(folder, index, files):
    first, second = (load_file(folder / file) for file in files)
    name = sorted(first)[0]
    save_file({**second, name: first[name] + 1}, folder / files[1])


def _with_an_index_that_is_cut_off(folder, index, files):
    (folder / INDEX).write_text((folder / INDEX).read_text()[:100])


def _leading_to(place):
    def spoil(folder, index, files):
        index[sorted(index)[0]] = place
        (folder / INDEX).write_text(json.dumps({"weight_map": index}))

    return spoil


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (_without_a_shard, "00002-of-2.safetensors is missing, although"),
        (_with_a_tensor_in_no_file, r"00001-of-2.safetensors: 1 key in .*, but not in it \("),
        (_with_a_tensor_in_no_index, r"00001-of-2.safetensors: 1 key in it, but not so in .* \("),
        (_with_a_tensor_in_two_files, r"00002-of-2.safetensors: 1 key in it, but not so in .* \("),
        (_with_an_index_that_is_cut_off, "index.json is missing or cannot be read"),
        *(
            (_leading_to(place), "is no index of files beside it")
            for place in ("../a.safetensors", "/a", "", 3, "..", "a\\b")
        ),
    ],
)
def test_an_index_that_is_not_true_is_one_line(spoil, told, tmp_path):
    folder = _copy("unet", tmp_path)
    spoil(folder, *_in_two(folder, INDEX, "{:05}-of-2.safetensors"))
    with pytest.raises(ThreedgenError, match=told) as caught:
        load_unet(folder, torch.float32, "cpu")
    assert "\n" not in str(caught.value)
