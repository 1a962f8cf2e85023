"""CLIP's tokenizer against ids that OpenCLIP's own tokenizer gave (open_clip_torch 3.3.0, `SimpleTokenizer`)."""

import pytest

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
