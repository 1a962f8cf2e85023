"""The UNet under its original names: config words and keys, against a plain re-statement of the original network."""

import json
from pathlib import Path

import pytest
import torch

from tests.diffusion.original_unet import OriginalUNet
from threedgen.core.errors import ThreedgenError
from threedgen.diffusion.formats.tensor_files import stored_tensors
from threedgen.diffusion.networks.multiview_unet import match_ldm_unet, multiview_unet_from_ldm

PUBLIC_KEYS = Path(__file__).parent / "public_keys"  # of the public checkpoints: {key: shape}


def _close(actual, expected, atol=1e-4):
    torch.testing.assert_close(actual, expected, atol=atol, rtol=0)


_SMALL = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "channel_mult": [1, 2],
    "num_res_blocks": 1,
    "attention_resolutions": [1],
    "num_heads": 8,
    "use_spatial_transformer": True,
    "transformer_depth": 1,
    "context_dim": 24,
    "use_checkpoint": False,
    "legacy": False,
    "camera_dim": 16,
}
_SD2 = {"num_heads": -1, "num_head_channels": 16, "use_linear_in_transformer": True}
_CONFIGS = {
    "as SD 1.5": {"channel_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attention_resolutions": [4, 2, 1]},
    "as SD 2.1": {"channel_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attention_resolutions": [4, 2, 1], **_SD2},
    "blocks differ by level": {"num_res_blocks": [2, 1, 3], "channel_mult": [1, 3, 2], "attention_resolutions": [2]},
    "attention in the middle only": {"attention_resolutions": []},
    "one level": {"channel_mult": [1]},
    "deep transformers": {"transformer_depth": 2, "context_dim": [24, 24], **_SD2},
    "no camera": {"camera_dim": None},
    "other camera, channels": {"camera_dim": 5, "in_channels": 9, "out_channels": 8, "model_channels": 64},
    "scale and shift": {"use_scale_shift_norm": True},
}


@pytest.mark.parametrize("name", _CONFIGS)
def test_other_configs_equal_the_plain_network(name):
    torch.manual_seed(0)
    config = {**_SMALL, **_CONFIGS[name]}
    original = OriginalUNet(config).eval()
    unet = multiview_unet_from_ldm(config, original.state_dict())
    assert sum(p.numel() for p in unet.parameters()) == sum(p.numel() for p in original.parameters())
    latents, text = torch.randn(4, config["in_channels"], 16, 8), torch.randn(4, 5, 24)
    camera = torch.randn(4, config["camera_dim"]) if config["camera_dim"] else None
    timesteps = torch.tensor([3, 3, 700, 700])
    with torch.no_grad():
        expected = original(latents, timesteps, text, camera, 2)
        _close(unet(latents, timesteps, text, camera, 2), expected)
        assert (original(latents, timesteps, text, camera, 4) - expected).abs().max() > 1e-3  # views matter


def test_words_left_out_are_read_off_the_shapes():
    torch.manual_seed(0)
    config = {**_SMALL, **_CONFIGS["blocks differ by level"]}
    original = OriginalUNet(config).eval()
    unet = multiview_unet_from_ldm({"num_heads": 8}, original.state_dict())
    latents, text, camera = torch.randn(2, 4, 8, 8), torch.randn(2, 5, 24), torch.randn(2, 16)
    timesteps = torch.tensor([40, 40])
    with torch.no_grad():
        _close(unet(latents, timesteps, text, camera, 2), original(latents, timesteps, text, camera, 2))


def test_a_camera_needs_a_network_with_cameras():
    config = {**_SMALL, "camera_dim": None}
    unet = multiview_unet_from_ldm(config, OriginalUNet(config).state_dict())
    with pytest.raises(ValueError, match="without one"):
        unet(torch.zeros(1, 4, 8, 8), torch.tensor([1]), torch.zeros(1, 5, 24), torch.zeros(1, 16), 1)


def test_missing_unknown_and_misshaped_keys_are_named():
    state = dict(OriginalUNet(_SMALL).state_dict())
    gone = sorted(state)[:7]
    damaged = {key: value for key, value in state.items() if key not in gone} | {"extra.weight": torch.zeros(1)}
    damaged["out.2.bias"] = torch.zeros(5)
    with pytest.raises(ThreedgenError) as error:
        multiview_unet_from_ldm(_SMALL, damaged)
    message = str(error.value)
    assert f"7 keys missing ({', '.join(gone[:5])}, ...)" in message and gone[5] not in message
    assert "1 key not known (extra.weight)" in message
    assert "1 key of another shape (out.2.bias [5] instead of [4])" in message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"resblock_updown": True}, "resblock_updown=True is not a network"),
        ({"num_classes": 10}, "num_classes=10"),
        ({"chanel_mult": [1]}, "chanel_mult"),
        ({"num_heads": -1}, "num_heads or num_head_channels must be stated"),
        ({"num_head_channels": 24}, "does not divide"),
        ({"num_res_blocks": [1, 1, 1]}, "num_res_blocks"),
        ({"context_dim": [24, 12]}, "context_dim"),
        ({"disable_self_attentions": [False, True]}, "disable_self_attentions"),
        ({"channel_mult": [1, 4]}, "of another shape"),
    ],
)
def test_words_that_make_another_network_are_refused(words, message):
    with pytest.raises(ThreedgenError, match=message):
        multiview_unet_from_ldm({**_SMALL, **words}, OriginalUNet(_SMALL).state_dict())


@pytest.mark.parametrize(
    ("name", "words", "parameters"),
    [("sd21", {"num_head_channels": 64}, 867_572_164), ("sd15", {"num_heads": 8}, 861_182_404)],
)
def test_the_public_checkpoints_have_exactly_these_keys(name, words, parameters):
    """Keys and shapes only; the module stays on the meta device."""
    file = PUBLIC_KEYS / f"mvdream_{name}_keys.json"
    prefix = "model.diffusion_model."
    shapes = {k.removeprefix(prefix): v for k, v in json.loads(file.read_text()).items() if k.startswith(prefix)}
    tensors = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    matched = match_ldm_unet(words, stored_tensors(tensors), name)
    assert len(shapes) == 690
    assert sum(p.numel() for p in matched.module.parameters()) == parameters
    heads = {"sd21": (5, 10, 20, 20), "sd15": (8, 8, 8, 8)}
    assert matched.module.config.attention_head_dim == heads[name]
