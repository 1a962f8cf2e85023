"""LGM's network against the reference implementation's numbers, and its files' names."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from threedgen.core.errors import ThreedgenError
from threedgen.diffusion.formats.tensor_files import stored_tensors
from threedgen.diffusion.networks.lgm_unet import PRESETS, LGMUNet, lgm_unet_from_released, match_lgm_unet

PUBLIC_KEYS = Path(__file__).parent / "public_keys" / "lgm_big_keys.json"
SMALL = {"down_channels": [32, 64], "down_attention": [False, True], "up_channels": [32], "up_attention": [True]}


@pytest.fixture(scope="module")
def golden(goldens_folder):
    """Tensors, state_dict and config words."""
    path = goldens_folder / "golden_lgm_small.safetensors"
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        config = json.loads(file.metadata()["config"])
    weights = {k.removeprefix("weights."): v.float() for k, v in tensors.items() if k.startswith("weights.")}
    return tensors, weights, config


@pytest.fixture
def small():
    torch.manual_seed(0)
    return LGMUNet(**SMALL).eval()


@torch.no_grad()
def test_equals_the_reference(golden):
    tensors, weights, config = golden
    for words in (config, {}):
        channels = lgm_unet_from_released(words, weights)(tensors["in.x"])
        torch.testing.assert_close(channels, tensors["out.channels"], atol=1e-4, rtol=0)


def test_the_big_preset_has_the_376_released_keys():
    expected = {key: tuple(shape) for key, shape in json.loads(PUBLIC_KEYS.read_text()).items()}
    with torch.device("meta"):
        unet = LGMUNet(**PRESETS["big"])
        tensors = {key: torch.empty(shape) for key, shape in expected.items()}
    assert len(expected) == 376
    assert {key: tuple(value.shape) for key, value in unet.state_dict().items()} == expected
    matched = match_lgm_unet({}, stored_tensors(tensors), "big").module
    assert all(matched.config[word] == value for word, value in PRESETS["big"].items())
    assert round(sum(p.numel() for p in unet.parameters()) / 1e6, 1) == 415.0


@pytest.mark.parametrize(
    "preset, pixels, splats", [("big", 256, 128), ("small", 256, 64), ("tiny", 256, 64), ("mini", 32, 16)]
)
def test_sizes_of_the_presets(preset, pixels, splats):
    with torch.device("meta"):
        channels = LGMUNet(**PRESETS[preset])(torch.empty(1, 2, 9, pixels, pixels))
    assert channels.shape == (1, 2, 14, splats, splats)


@torch.no_grad()
@pytest.mark.parametrize("num_views", [1, 3, 4])
def test_views_are_a_set_that_sees_itself(small, num_views):
    views = torch.randn(2, num_views, 9, 8, 12, generator=torch.Generator().manual_seed(1))
    whole = small(views)
    assert whole.shape == (2, num_views, 14, 4, 6)
    order = torch.arange(num_views).roll(1)
    torch.testing.assert_close(small(views[:, order]), whole[:, order], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(small(views[1:]), whole[1:], atol=1e-5, rtol=1e-4)  # objects do not see each other
    difference = (small(views[:, :1]) - whole[:, :1]).abs().max()
    assert difference < 1e-5 if num_views == 1 else difference > 1e-2


def test_attention_is_softmax_of_products(small):
    """In bfloat16 training on a CPU another formula is used: gradients of both agree with one written out here."""
    attention = small.unet.mid_block.attns[0].attn
    tokens = torch.randn(2, 24, 64, generator=torch.Generator().manual_seed(1))

    def plain(x):
        q, k, v = ((x @ part.T).unflatten(-1, (16, 4)) for part in attention.qkv.weight.chunk(3))
        scores = torch.einsum("nihc,njhc->nhij", q, k) / math.sqrt(4)
        return torch.einsum("nhij,njhc->nihc", scores.softmax(-1), v).flatten(2) @ attention.proj.weight.T

    results = []
    for form in ("plain", "fused", "bfloat16"):
        x = tokens.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=form == "bfloat16"):
            y = plain(x) + attention.proj.bias if form == "plain" else attention(x)
        y.float().square().sum().backward()
        results.append((y.float(), x.grad))
    for other, tolerance in ((results[1], 1e-5), (results[2], 0.05)):
        for found, expected in zip(other, results[0], strict=True):
            assert (found - expected).norm() < tolerance * expected.norm()


def test_saved_and_read_again(small, tmp_path):
    config = {**SMALL, "quaternion_norm": "all"}
    lgm_unet_from_released(config, small.state_dict()).save_pretrained(tmp_path)
    again = LGMUNet.from_pretrained(tmp_path)
    assert again.config.quaternion_norm == "all" and small.config.quaternion_norm == "each"
    assert all(torch.equal(value, small.state_dict()[key]) for key, value in again.state_dict().items())


@pytest.mark.parametrize(
    "config, change, message",
    [
        ({"skip_scale": 1.0}, {}, "^LGM's state_dict: skip_scale: not a word of LGM's network"),
        ({"quaternion_norm": "none"}, {}, "quaternion_norm='none' must be 'each' or 'all'"),
        ({"pixel_aligned": "yes"}, {}, "pixel_aligned='yes' must be true or false"),
        ({"pixel_aligned": True, "quaternion_norm": "all"}, {}, "and false with quaternion_norm=all"),
        ({"down_channels": [32, 40]}, {}, r"down_channels=\[32, 40\]: one multiple of 32 for each level"),
        ({"down_attention": [True]}, {}, r"down_attention=\[True\]: 2 levels need one each"),
        ({"up_channels": [32] * 3, "up_attention": [True] * 3}, {}, "3 levels up are more than the 2 down"),
        ({}, {"unet.conv_in.bias": None}, r"1 key missing \(unet.conv_in.bias\)"),
        ({}, {"unet.down_blocks.1.nets.0.conv1.weight": None}, r"1 key missing \(unet.down_blocks.1.nets.0.conv1.we"),
        ({}, {"extra": torch.zeros(1)}, r"1 key not known \(extra\)"),
        ({}, {"conv.bias": torch.zeros(3)}, r"1 key of another shape \(conv.bias \[3\] instead of \[14\]\)"),
    ],
)
def test_what_does_not_fit_is_named(small, config, change, message):
    tensors = {k: v for k, v in {**small.state_dict(), **change}.items() if v is not None}
    with pytest.raises(ThreedgenError, match=message) as raised:
        lgm_unet_from_released(config, tensors)
    assert "\n" not in str(raised.value)


def test_no_tensors_at_all():
    with pytest.raises(ThreedgenError, match="neither stated nor to be read off the tensors' shapes"):
        lgm_unet_from_released({}, {})


@pytest.mark.parametrize("shape", [(1, 4, 9, 8, 7), (1, 4, 8, 8, 8), (4, 9, 8, 8), (1, 4, 9, 0, 8)])
def test_inputs_of_other_sizes_are_refused(small, shape):
    with pytest.raises(ValueError, match=r"views are \[N, V, 9, H, W\] with H, W multiples of 2"):
        small(torch.zeros(shape))
