"""Small CLIP models with random numbers: transformers' own answer is what ours must be."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel

from threedgen.core.errors import ConfigError, ThreedgenError, WeightsMissingError
from threedgen.metrics.clip_score import CLIPScore

SIZES = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
# pieces of CLIP's vocabulary: <|startoftext|> a photo of a cat <|endoftext|>
PHOTO_OF_A_CAT = [49406, 320, 1125, 539, 320, 2368, 49407]
MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def tiny(folder, **text):
    config = CLIPConfig(
        text_config={**SIZES, **text}, vision_config={**SIZES, "image_size": 32, "patch_size": 8}, projection_dim=8
    )
    torch.manual_seed(0)
    model = CLIPModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip")
    tiny(path)
    return path


def by_transformers(folder, pixels, ids):
    model = CLIPModel.from_pretrained(folder).eval()
    with torch.no_grad():
        out = model(input_ids=torch.tensor([ids]), pixel_values=pixels)
        return out.logits_per_image[:, 0] / model.logit_scale.exp()


def test_cosines_are_those_of_transformers(folder):
    pictures = torch.rand(3, 32, 32, 3)  # of the model's size: nothing is resized
    pixels = (pictures - torch.tensor(MEAN)) / torch.tensor(DEVIATION)
    expected = by_transformers(folder, pixels.movedim(-1, 1), PHOTO_OF_A_CAT)
    score = CLIPScore.from_pretrained(folder)
    found = score.cosines(pictures.numpy(), ["a photo of a cat", "a dog"])
    assert found.shape == (3, 2) and torch.allclose(found[:, 0], expected, atol=1e-5)
    assert not torch.allclose(found[:, 0], found[:, 1], atol=1e-2)
    alone = score.cosines(pictures, ["a dog"])  # what fills up the shorter text is not read
    assert torch.allclose(alone[:, 0], found[:, 1], atol=1e-5)


def test_pictures_of_any_size_and_texts_of_any_length(folder):
    score = CLIPScore.from_pretrained(folder)
    plain = torch.full((1, 20, 50, 3), 0.3)  # one colour is the same in every size
    pixels = (torch.full((1, 32, 32, 3), 0.3) - torch.tensor(MEAN)) / torch.tensor(DEVIATION)
    expected = by_transformers(folder, pixels.movedim(-1, 1), PHOTO_OF_A_CAT)
    assert torch.allclose(score.cosines(plain, ["a photo of a cat"])[:, 0], expected, atol=1e-5)
    long, longer = score.cosines(plain, ["cat " * 75 + "dog", "cat " * 100])[0]
    assert long == longer  # 77 tokens, begin and end among them


def test_the_score_is_the_mean_of_what_is_above_0(folder, monkeypatch):
    score = CLIPScore.from_pretrained(folder)
    monkeypatch.setattr(score, "cosines", lambda images, texts: torch.tensor([[0.3], [-0.5], [0.1]]))
    assert score(torch.rand(3, 32, 32, 3), "a cat") == pytest.approx((30 + 0 + 10) / 3)


def changed(folder, target, change):
    shutil.copytree(folder, target)
    change(target)
    return target


def without_one_tensor(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["visual_projection.weight"]
    save_file(tensors, folder / "model.safetensors")


def of_bert(folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), r"model\.safetensors is missing"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"{}"), "it is cut off"),
        (without_one_tensor, r"1 key missing \(visual_projection\.weight\)"),
        (of_bert, "of type bert, not of CLIP"),
        (lambda folder: (folder / "config.json").write_text("{"), r"config\.json is missing or cannot be read"),
    ],
)
def test_a_folder_that_holds_no_clip(folder, tmp_path, change, said):
    with pytest.raises(ThreedgenError, match=said):
        CLIPScore.from_pretrained(changed(folder, tmp_path / "clip", change))


def test_there_is_no_folder(tmp_path):
    with pytest.raises(WeightsMissingError, match="hf download openai/clip-vit-base-patch32 --local-dir"):
        CLIPScore.from_pretrained(tmp_path / "none")


def test_another_vocabulary_is_refused(tmp_path):
    tiny(tmp_path, vocab_size=50)
    with pytest.raises(ConfigError, match="a vocabulary of 50 pieces, not CLIP's own of 49408"):
        CLIPScore.from_pretrained(tmp_path)
