"""CLIP's tokenizer against ids that OpenCLIP's own tokenizer gave (open_clip_torch 3.3.0, `SimpleTokenizer`)."""

import json

import pytest
from transformers import AutoTokenizer

from threedgen.diffusion.text.clip_tokenizer import PAD_SD1, PAD_SD2, clip_tokenizer, load_tokenizer

OPEN_CLIP_IDS = {
    "a photo of a cat": [320, 1125, 539, 320, 2368],
    "a <b> & c": [320, 283, 321, 285, 261, 322],
    "it's 3D!! héllo 猫 🐱  x": [585, 568, 274, 323, 748, 71, 3459, 19293, 163, 234, 360, 22979, 343],
    "a cat! wow": [320, 2368, 256, 2781],
}


@pytest.fixture(scope="module", params=[PAD_SD1, PAD_SD2])
def tokenizer(request):
    return clip_tokenizer(request.param)


@pytest.mark.parametrize("text", OPEN_CLIP_IDS)
def test_ids_are_clip_s(tokenizer, text):
    assert tokenizer(text).input_ids == [49406, *OPEN_CLIP_IDS[text], 49407]


def test_prompts_are_filled_up_to_77_tokens(tokenizer):
    ids = tokenizer(["a cat!"], padding="max_length", max_length=tokenizer.model_max_length).input_ids[0]
    pad = {PAD_SD1: 49407, PAD_SD2: 0}[tokenizer.pad_token]
    assert ids == [49406, 320, 2368, 256, 49407] + [pad] * 72


def test_a_saved_tokenizer_is_the_same(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    for text in OPEN_CLIP_IDS:
        padded = [t([text], padding="max_length", max_length=77).input_ids for t in (tokenizer, loaded)]
        assert padded[0] == padded[1]


def _token(text, **words):
    return {"content": text, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False} | words


@pytest.mark.parametrize("layout", ["special_tokens_map", "added_tokens", "tokenizer.json"])
def test_a_folder_of_stable_diffusion_2_pads_with_a_piece_that_prompts_may_hold(layout, tmp_path):
    """As Stability published it, whose tokenizer_config.json says something else; as transformers wrote it later."""
    own = clip_tokenizer(PAD_SD2)
    model = json.loads(own.backend_tokenizer.to_str())["model"]
    (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"]), "utf-8")
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]), "utf-8")
    start, end = "<|startoftext|>", "<|endoftext|>"
    words = {"bos_token": start, "eos_token": end, "unk_token": end, "pad_token": PAD_SD2}
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, **words}
    if layout == "special_tokens_map":
        names = {name: _token(text) for name, text in words.items() if text != PAD_SD2}
        (tmp_path / "special_tokens_map.json").write_text(json.dumps(names | {"pad_token": PAD_SD2}), "utf-8")
        config["pad_token"] = end
    else:
        numbered = {"0": PAD_SD2, "49406": start, "49407": end}
        config["added_tokens_decoder"] = {number: _token(text, special=True) for number, text in numbered.items()}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    if layout == "tokenizer.json":
        AutoTokenizer.from_pretrained(tmp_path).save_pretrained(tmp_path / "saved")
        tmp_path = tmp_path / "saved"
    loaded = load_tokenizer(tmp_path)
    for text in OPEN_CLIP_IDS:
        padded = [t([text], padding="max_length", max_length=77).input_ids for t in (own, loaded)]
        assert padded[0] == padded[1]
