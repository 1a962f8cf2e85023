"""The variants of the network: what each view may see of the others, where the camera enters, how they are kept."""

import json

import pytest
import torch
from diffusers.models.attention import BasicTransformerBlock
from torch import nn

from tests.diffusion.tiny_unet import CAMERAS, inputs
from tests.diffusion.tiny_unet import TINY as TINY_UNET
from threedgen.cameras import Cameras
from threedgen.config.training import CameraInput, ViewAttention
from threedgen.core.errors import ThreedgenError
from threedgen.diffusion.checkpoints.folders import load_unet
from threedgen.diffusion.conditions import Conditions
from threedgen.diffusion.mini import new_mini_prior, new_mini_vae
from threedgen.diffusion.networks.multiview_unet import MultiViewUNet
from threedgen.diffusion.networks.view_attention import TemporalTransformerBlock
from threedgen.diffusion.prior import MultiViewPrior

TINY = TINY_UNET | {"transformer_layers_per_block": 2}
VARIANTS = [(attention, camera) for attention in ViewAttention for camera in CameraInput]
variants = pytest.mark.parametrize(("attention", "camera_input"), VARIANTS)


def _unet(attention, camera_input):
    """As after some training: the output of what is new is not zero any more."""
    torch.manual_seed(0)
    unet = MultiViewUNet(**TINY, view_attention=attention, camera_input=camera_input).eval()
    for name, parameter in unet.named_parameters():
        if any(layer in name for layer in ("view_attn.to_out", "ray_attn.to_out", "ray_in")):
            assert parameter.count_nonzero() == 0
            nn.init.normal_(parameter, std=0.3)
    return unet


@variants
@torch.no_grad()
def test_views_have_no_order_and_see_only_what_they_may(attention, camera_input):
    unet = _unet(attention, camera_input)
    latents, timestep, text, camera = inputs(8)
    both = unet(latents, timestep, text, camera, 4, CAMERAS)
    order = torch.tensor([2, 0, 3, 1, 4, 5, 6, 7])
    cameras = Cameras.joined([CAMERAS, CAMERAS]).take(order, 4)
    reordered = unet(latents[order], timestep, text[order], camera[order], 4, cameras)
    torch.testing.assert_close(reordered, both[order], atol=1e-5, rtol=1e-4)
    third = torch.tensor(3)
    for changed in ((latents.index_fill(0, third, 0.5), camera), (latents, camera.index_fill(0, third, 0.5))):
        effect = (unet(changed[0], timestep, text, changed[1], 4, CAMERAS) - both).abs().amax((1, 2, 3))
        assert effect[3] > 1e-4 and (effect[4:] == 0).all()  # itself, and no other object
        assert (effect[:3] == 0).all() if attention is ViewAttention.none else (effect[:3] > 1e-6).all()
    assert not torch.allclose(unet(latents, timestep, text, None, 4), both, atol=1e-4)  # the camera says something


@torch.no_grad()
def test_temporal_attention_is_plain_attention_over_the_views_at_each_pixel():
    torch.manual_seed(0)
    block = TemporalTransformerBlock(BasicTransformerBlock(8, 2, 4, cross_attention_dim=12)).eval()
    attn = block.view_attn
    for layer in attn.to_out[:1]:
        nn.init.normal_(layer.weight)
        nn.init.normal_(layer.bias)
    x = torch.randn(6, 5, 8)  # two objects, three views, five pixels
    actual = block._over_views(x, 3)
    expected = torch.empty_like(x)
    for obj in range(2):
        for pixel in range(5):  # softmax(q k / sqrt(d)) v, head by head, over the three views
            views = x[3 * obj : 3 * obj + 3, pixel]
            q, k, v = attn.to_q(views), attn.to_k(views), attn.to_v(views)
            heads = [torch.softmax(q[:, h] @ k[:, h].T / 2.0, -1) @ v[:, h] for h in (slice(0, 4), slice(4, 8))]
            expected[3 * obj : 3 * obj + 3, pixel] = attn.to_out[0](torch.cat(heads, -1))
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_temporal_block_is_the_image_block_with_one_step_between():
    """x + self-attention, then + attention over the views, then what the image block does from there."""
    torch.manual_seed(0)
    image = BasicTransformerBlock(8, 2, 4, cross_attention_dim=12).eval()
    block = TemporalTransformerBlock(image).eval()
    x, text = torch.randn(6, 5, 8), torch.randn(6, 7, 12)
    views = {"num_views": 3}
    assert torch.equal(block(x, None, text, None, None, views), image(x, encoder_hidden_states=text))  # output zero
    nn.init.normal_(block.view_attn.to_out[0].weight)
    one_view = block(x, None, text, None, None, {"num_views": 1})
    assert torch.equal(one_view, image(x, encoder_hidden_states=text))
    after_self = x + image.attn1(image.norm1(x))
    seen = after_self + block._over_views(block.view_norm(after_self), 3)
    after_cross = seen + image.attn2(image.norm2(seen), encoder_hidden_states=text)
    expected = after_cross + image.ff(image.norm3(after_cross))
    torch.testing.assert_close(block(x, None, text, None, None, views), expected)
    assert not torch.allclose(expected, one_view, atol=1e-2)


@torch.no_grad()
def test_the_camera_s_token_stands_after_the_text():
    """Given by hand to a network without camera input, it gives the same."""
    unet = _unet(ViewAttention.inflated, CameraInput.text)
    latents, timestep, text, camera = inputs(4)
    mlp = unet.class_embedding
    token = mlp.linear_2(torch.nn.functional.silu(mlp.linear_1(camera)))
    by_hand = unet(latents, timestep, torch.cat([text, token[:, None]], 1), None, 4)
    torch.testing.assert_close(unet(latents, timestep, text, camera, 4), by_hand)


@variants
def test_all_layers_learn_and_checkpoints_of_activations_change_no_gradient(attention, camera_input):
    unet = _unet(attention, camera_input)
    latents, timestep, text, camera = inputs(8)
    gradients, calls = [], []
    for recompute in (False, True):
        if recompute:
            unet.enable_gradient_checkpointing()
        block = unet.mid_block.attentions[0].transformer_blocks[0]
        hook = block.register_forward_pre_hook(lambda *_: calls.append(None))
        unet.zero_grad()
        unet(latents, timestep, text, camera, 4, CAMERAS).square().mean().backward()
        hook.remove()
        gradients.append({name: parameter.grad.clone() for name, parameter in unet.named_parameters()})
    assert len(calls) == 1 + 2  # it did compute again
    for name, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], expected, atol=1e-9, rtol=1e-5)
        assert expected.abs().max() > 0, name


@variants
def test_a_variant_is_kept_with_its_weights(attention, camera_input, tmp_path):
    unet = _unet(attention, camera_input)
    unet.save_pretrained(tmp_path)
    words = json.loads((tmp_path / "config.json").read_text())
    assert (words["view_attention"], words["camera_input"]) == (attention.value, camera_input.value)
    latents, timestep, text, camera = inputs(4)
    with torch.no_grad():
        expected = unet(latents, timestep, text, camera, 4, CAMERAS)
        for loaded in (load_unet(tmp_path, torch.float32, "cpu"), MultiViewUNet.from_pretrained(tmp_path)):
            assert torch.equal(loaded.eval()(latents, timestep, text, camera, 4, CAMERAS), expected)
    (tmp_path / "config.json").write_text(json.dumps(words | {"view_attention": "sideways"}))
    with pytest.raises(ThreedgenError, match="'sideways' is not a valid ViewAttention"):
        load_unet(tmp_path, torch.float32, "cpu")


def test_variants_add_only_their_own_tensors():
    names = {variant: set(_unet(*variant).state_dict()) for variant in VARIANTS}
    usual = names[ViewAttention.inflated, CameraInput.timestep]
    torch.manual_seed(0)
    assert set(MultiViewUNet(**TINY).state_dict()) == usual
    for (attention, _), found in names.items():
        added = found - usual
        assert usual <= found
        if attention is ViewAttention.temporal:
            blocks = {name.split(".view_")[0] for name in added}
            assert len(blocks) == 2 * 4 and len(added) == 7 * len(blocks)  # depth 2; 1 down, 1 middle, 2 up
            assert all(".view_norm." in name or ".view_attn." in name for name in added)
        elif attention is ViewAttention.epipolar:
            blocks = {name.split(".epipolar")[0] for name in added}
            # the middle alone: the others are at the finest level
            assert len(blocks) == 2 and len(added) == (2 + 1 + 2 * 4) * 2
        elif attention is ViewAttention.spad:
            assert len(added) == 2 * 4 and all(name.endswith(".ray_in.weight") for name in added)
        else:
            assert not added


@variants
def test_mini_priors_of_every_variant_go_through_a_folder(attention, camera_input, tmp_path):
    torch.manual_seed(0)
    prior = new_mini_prior(["red", "cat"], new_mini_vae(), attention, camera_input)
    prior.save_pretrained(tmp_path / "prior", torch.float32)
    loaded = MultiViewPrior.from_pretrained(tmp_path / "prior")
    words = loaded.unet.config
    assert (words.view_attention, words.camera_input) == (attention.value, camera_input.value)
    latents = torch.randn(4, 4, 16, 16)
    with torch.no_grad():
        told = Conditions(prior.encode_text(["red cat"]), CAMERAS, 4)
        expected = prior.denoise(latents, torch.tensor(9), told).noise
        assert torch.equal(loaded.denoise(latents, torch.tensor(9), told).noise, expected)
