"""VideoMV's checkpoints become folders: every key has its place, what is computed is what was in the file."""

import json

import pytest
import torch
from diffusers import UNet3DConditionModel

from threedgen.core.errors import ConfigError, ThreedgenError
from threedgen.core.files import verify_folder
from threedgen.diffusion.checkpoints.folders import load_unet
from threedgen.diffusion.formats.video_unet import video_unet_sources
from threedgen.diffusion.networks.lgm_unet import LGMUNet
from threedgen.diffusion.networks.video_unet import VideoUNet, video_unet_from_videomv
from threedgen.diffusion.prior import MultiViewPrior
from threedgen.diffusion.start import video_unet_of
from threedgen.tasks.tools.weights import import_weights

_LEVELS = {
    "block_out_channels": (64, 128),
    "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"),
    "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D"),
    "layers_per_block": 1,
    "cross_attention_dim": 96,
}


def _released(**words):
    """Random tensors under the released names."""
    unet = VideoUNet(**_LEVELS, entry_heads=2, **words)
    rng, state = torch.Generator().manual_seed(0), unet.state_dict()
    tensors: dict[str, list] = {}
    for name, source in video_unet_sources(unet).items():
        value = torch.randn(state[name].shape, generator=rng) / max(state[name][0].numel(), 1) ** 0.5
        tensors.setdefault(source.key, []).append(value.reshape(*value.shape, *(1,) * source.unit_axes))
    return {key: torch.cat(values) for key, values in tensors.items()}


@pytest.fixture(scope="module")
def text_to_video():
    return _released()


def _file(tmp_path, tensors):
    torch.save({"state_dict": tensors, "step": 333000}, tmp_path / "t2v.pth")
    return tmp_path / "t2v.pth"


def _asked(unet, **more):
    rng = torch.Generator().manual_seed(1)
    x, text = torch.randn(1, 4, 3, 8, 8, generator=rng), torch.randn(1, 5, 96, generator=rng)
    camera = torch.randn(1, 3, 16, generator=rng)
    with torch.no_grad():
        return unet.eval()(x, torch.tensor([300]), text, camera, **more)


def test_text_to_video_with_its_gaussians(text_to_video, tmp_path, capsys):
    lgm = LGMUNet([32, 32], [False, True], [32], [True])
    file = _file(tmp_path, text_to_video | {f"lgm_big.{k}": v for k, v in lgm.state_dict().items()})
    import_weights(file, tmp_path / "videomv", base="mini")
    assert "text to video" in capsys.readouterr().out and verify_folder(tmp_path / "videomv")
    prior = MultiViewPrior.from_pretrained(tmp_path / "videomv")
    expected = video_unet_from_videomv({}, text_to_video)
    assert all(torch.equal(value, expected.state_dict()[name]) for name, value in prior.unet.state_dict().items())
    torch.testing.assert_close(_asked(prior.unet), _asked(expected), atol=1e-5, rtol=1e-5)
    assert prior.scheduler.config.prediction_type == "epsilon"
    config = json.loads((tmp_path / "videomv" / "gaussians" / "config.json").read_text())
    assert config["quaternion_norm"] == "all" and config["up_channels"] == [32]
    # the step beside the tensors is passed over, what stands for the other parts is the base's
    assert not (tmp_path / "videomv" / "vae").exists() and prior.image_size == 128


def test_image_to_video_needs_a_base_with_an_image_encoder(tmp_path):
    file = _file(tmp_path, _released(image_conditioning=True))
    with pytest.raises(ConfigError, match="--with mini has no image_encoder"):
        import_weights(file, tmp_path / "videomv", base="mini")
    assert not (tmp_path / "videomv").exists()


@pytest.mark.parametrize(
    ("change", "base", "told"),
    [
        (lambda t: t, None, "name weights that have the text encoder"),
        (lambda t: {k: v for k, v in t.items() if "camera" not in k}, "mini", "keys missing (camera_embedding.*)"),
        (lambda t: t | {"lgm_big.unet.conv_in.bias": torch.zeros(32)}, "mini", "lgm_big.*"),
        (lambda t: t | {"other": torch.zeros(1)}, "mini", "1 key not known (other)"),
    ],
)
def test_what_is_not_videomv_is_refused(text_to_video, tmp_path, change, base, told):
    file = _file(tmp_path, change(text_to_video))
    with pytest.raises(ThreedgenError) as raised:
        import_weights(file, tmp_path / "videomv", base=base)
    assert told in str(raised.value) and not (tmp_path / "videomv").exists()


def test_mvdream_needs_no_base(original_file, tmp_path):
    with pytest.raises(ConfigError, match="is no checkpoint of VideoMV"):
        import_weights(original_file, tmp_path / "new", base="mini")


@torch.no_grad()
def test_modelscope_in_diffusers_layout_is_where_training_can_start(tmp_path):
    theirs = UNet3DConditionModel(**_LEVELS, attention_head_dim=64)
    theirs.save_pretrained(tmp_path)
    unet = video_unet_of(load_unet(tmp_path, torch.float32, "cpu"))
    rng = torch.Generator().manual_seed(1)
    x, text = torch.randn(1, 4, 3, 8, 8, generator=rng), torch.randn(1, 5, 96, generator=rng)
    expected = theirs.eval()(x, torch.tensor([300]), text).sample
    torch.testing.assert_close(_asked(unet), expected, atol=1e-4, rtol=1e-4)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"act_fn": "gelu"}))
    with pytest.raises(ThreedgenError, match="act_fn='gelu'"):
        load_unet(tmp_path, torch.float32, "cpu")
