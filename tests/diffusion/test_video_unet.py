"""The video network with the reference implementation's weights gives the reference implementation's numbers."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import I2VGenXLUNet, UNet3DConditionModel
from diffusers.models.resnet import TemporalConvLayer
from safetensors import safe_open
from safetensors.torch import load_file

from threedgen.core.errors import ThreedgenError
from threedgen.diffusion.checkpoints.folders import load_unet
from threedgen.diffusion.formats.tensor_files import stored_tensors
from threedgen.diffusion.networks.video_unet import (
    FrameConvolutions,
    VideoUNet,
    match_videomv_unet,
    video_unet_from_videomv,
)

PUBLIC_KEYS = Path(__file__).parent / "public_keys"
_LEVELS = {
    "block_out_channels": (8, 16),
    "down_block_types": ("DownBlock3D", "CrossAttnDownBlock3D"),
    "up_block_types": ("CrossAttnUpBlock3D", "UpBlock3D"),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": 6,
    "attention_head_dim": 4,
}


def _golden(folder, kind):
    path = folder / f"golden_videomv_{kind}_small.safetensors"
    with safe_open(path, "pt") as file:
        config = json.loads(file.metadata()["config"])
    tensors = load_file(path)
    weights = {k.removeprefix("weights."): v.float() for k, v in tensors.items() if k.startswith("weights.")}
    return tensors, config, weights


@pytest.fixture(scope="module")
def t2v(goldens_folder):
    return _golden(goldens_folder, "t2v")


@pytest.fixture(scope="module")
def i2v(goldens_folder):
    return _golden(goldens_folder, "i2v")


def _close(actual, expected):
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=0)


def _relative(actual, expected, tolerance=1e-4):
    assert (actual - expected).abs().max() <= tolerance * expected.abs().max()


@torch.no_grad()
def test_text_to_video_equals_the_reference(t2v):
    golden, config, weights = t2v
    unet = video_unet_from_videomv(config, weights)
    x, t, text, camera = (golden[f"in.{name}"] for name in ("x", "t", "context", "camera"))
    _close(unet(x, t, text, camera), golden["out.camera"])
    _close(unet(x, t, text), golden["out.no_camera"])
    _close(unet(x[:, :, :1], t, text, camera[:, :1]), golden["out.one_frame"])
    _close(unet(x[:1], t[:1], text[:1], camera[:1]), golden["out.first_object"])


def test_training_gradients_equal_the_reference(t2v):
    """Those of five parameters and of the input, and the norm of all together."""
    golden, config, weights = t2v
    matched = match_videomv_unet(config, stored_tensors(weights), "weights")
    matched.fill()
    unet, latents = matched.module.eval(), golden["in.x"].clone().requires_grad_()
    output = unet(latents, golden["in.t"], golden["in.context"], golden["in.camera"])
    loss = (output - golden["in.target"]).square().mean()
    loss.backward()
    _relative(loss.reshape(1), golden["out.train_mse"].reshape(1))
    _relative(latents.grad, golden["out.train_grad_x"])
    gradients = {matched.sources[name].key: parameter.grad for name, parameter in unet.named_parameters()}
    expected = {k.removeprefix("out.grad."): v for k, v in golden.items() if k.startswith("out.grad.")}
    assert len(expected) == 5
    for key, value in expected.items():
        _relative(gradients[key].reshape(value.shape), value)
    total = torch.stack([gradient.norm() for gradient in gradients.values()]).norm()
    _relative(total.reshape(1), golden["out.grad_total_norm"].reshape(1))


@torch.no_grad()
def test_image_to_video_equals_the_reference(i2v):
    golden, config, weights = i2v
    unet = video_unet_from_videomv(config, weights)
    x, t, text, camera = (golden[f"in.{name}"] for name in ("x", "t", "context", "camera"))
    picture = {name: golden[f"in.{name}"] for name in ("image_embedding", "local_image", "fps")}
    _close(unet(x, t, text, camera, **picture), golden["out.camera"])
    _close(unet(x, t, text, **picture), golden["out.no_camera"])
    zero = torch.zeros_like(picture["image_embedding"])
    _close(unet(x, t, text, camera, **(picture | {"image_embedding": zero})), golden["out.zero_image"])


def test_words_that_are_left_out_are_read_off_the_shapes(t2v, i2v):
    for _, config, weights in (t2v, i2v):
        stated = video_unet_from_videomv(config, weights).config
        read_off = video_unet_from_videomv({"head_dim": config["head_dim"]}, weights).config
        assert {**stated} == {**read_off}


@pytest.mark.parametrize(("kind", "tensors", "numbers"), [("t2v", 1484, 1_412_895_300), ("i2v", 1513, None)])
def test_every_key_of_the_public_checkpoints_has_its_place(kind, tensors, numbers):
    """On the meta device, with nothing but the file's keys and shapes given."""
    shapes = json.loads((PUBLIC_KEYS / f"videomv_{kind}_keys.json").read_text())
    stored = stored_tensors({key: torch.empty(shape, device="meta") for key, shape in shapes.items()})
    matched = match_videomv_unet({}, stored, "file")
    assert set(matched.used) == set(shapes) and len(shapes) == tensors
    count = sum(parameter.numel() for parameter in matched.module.parameters())
    assert count == sum(torch.Size(shape).numel() for shape in shapes.values())
    assert numbers is None or count == numbers
    assert matched.module.config.image_conditioning == (kind == "i2v")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda w: w.pop("middle_block.2.norm.weight"), "1 key missing (middle_block.2.norm.weight)"),
        (lambda w: w.update(extra=torch.zeros(1)), "1 key not known (extra)"),
        (lambda w: w.update({"out.2.bias": torch.zeros(3)}), "out.2.bias [3] instead of [4]"),
        (lambda w: w.pop("input_blocks.0.1.proj_in.weight"), "not a video network"),
    ],
)
def test_other_tensors_are_refused_by_name(t2v, change, told):
    weights = dict(t2v[2])
    change(weights)
    with pytest.raises(ThreedgenError) as raised:
        video_unet_from_videomv(t2v[1], weights)
    assert told in str(raised.value)


def test_other_words_are_refused_by_name(t2v):
    with pytest.raises(ThreedgenError, match="use_linear is not known"):
        video_unet_from_videomv({**t2v[1], "use_linear": True}, t2v[2])


def test_convolutions_over_frames_are_those_in_three_dimensions():
    rng = torch.Generator().manual_seed(0)
    ours, theirs = FrameConvolutions(8, 8, 0.1, 4).eval(), TemporalConvLayer(8, 8, 0.1, 4).eval()
    theirs.load_state_dict({k: torch.randn(v.shape, generator=rng) for k, v in ours.state_dict().items()})
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2 * 5, 8, 3, 4, generator=rng)
    torch.testing.assert_close(ours(x, 5), theirs(x, 5), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_without_cameras_it_is_diffusers_network_and_at_first_with_them_too():
    """`UNet3DConditionModel`, with which ModelScope's public weights are published, also in sizes that do not halve."""
    torch.manual_seed(0)
    theirs, ours = UNet3DConditionModel(**_LEVELS).eval(), VideoUNet(**_LEVELS).eval()
    new = {k: v for k, v in ours.state_dict().items() if k.startswith("camera_embedding.")}
    shared = {k: torch.randn_like(v) / max(v[0].numel(), 1) ** 0.5 for k, v in theirs.state_dict().items()}
    theirs.load_state_dict(shared)
    ours.load_state_dict(shared | new)
    for edge in (8, 7):
        x, text = torch.randn(2, 4, 3, edge, edge), torch.randn(2, 5, 6)
        timesteps, camera = torch.tensor([7, 700]), torch.randn(2, 3, 16)
        expected = theirs(x, timesteps, text).sample
        torch.testing.assert_close(ours(x, timesteps, text), expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(ours(x, timesteps, text, camera), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("words", [{}, {"num_attention_heads": 64}], ids=["now", "as first published"])
def test_a_folder_of_diffusers_image_to_video_network_is_that_network(words, tmp_path):
    """I2VGenXL's public config.json says num_attention_heads, which diffusers passes over."""
    torch.manual_seed(0)
    theirs = I2VGenXLUNet(sample_size=8, **_LEVELS, **words).eval()
    for parameter in theirs.parameters():
        parameter.normal_(0, max(parameter[0].numel(), 1) ** -0.5)
    theirs.save_pretrained(tmp_path)
    ours = load_unet(tmp_path, torch.float32, "cpu")
    x, text, picture, embedding = (torch.randn(2, *size) for size in ((4, 3, 8, 8), (5, 6), (4, 1, 8, 8), (6,)))
    timesteps, fps = torch.tensor([7, 700]), torch.tensor([8, 8])
    counted = [torch.full_like(picture, number / 2) for number in (1, 2)]  # of frames, what theirs is given made up
    expected = theirs(x, timesteps, fps, torch.cat([picture, *counted], 2), embedding, text).sample
    shown = {"image_embedding": embedding, "local_image": picture, "fps": fps}
    torch.testing.assert_close(ours(x, timesteps, text, **shown), expected, atol=1e-4, rtol=1e-4)


def test_what_it_was_built_without_is_refused():
    unet, x = VideoUNet(**_LEVELS, camera_dim=0), torch.zeros(1, 4, 2, 4, 4)
    with pytest.raises(ValueError, match="built without one"):
        unet(x, torch.tensor(1), torch.zeros(1, 5, 6), torch.zeros(1, 2, 16))
    with pytest.raises(ValueError, match="given together"):
        unet(x, torch.tensor(1), torch.zeros(1, 5, 6), local_image=torch.zeros(1, 4, 1, 4, 4))
