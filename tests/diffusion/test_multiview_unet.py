"""The multi-view UNet against plain attention, against its parent class, and against itself object by object."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention

from tests.diffusion.tiny_unet import TINY, inputs
from threedgen.diffusion.networks.multiview_unet import MultiViewUNet
from threedgen.diffusion.networks.view_attention import MultiViewAttnProcessor


@pytest.fixture(scope="module")
def unet():
    torch.manual_seed(0)
    return MultiViewUNet(**TINY).eval().requires_grad_(False)


def test_self_attention_runs_over_the_tokens_of_all_views():
    torch.manual_seed(0)
    attn = Attention(query_dim=8, heads=2, dim_head=4).eval()
    x = torch.randn(6, 5, 8)  # two objects, three views, five tokens
    with torch.no_grad():
        actual = MultiViewAttnProcessor()(attn, x, num_views=3)
        expected = torch.empty_like(x)
        for obj in range(2):  # softmax(q k / sqrt(d)) v, head by head, over the object's fifteen tokens
            tokens = x[3 * obj : 3 * obj + 3].reshape(15, 8)
            q, k, v = attn.to_q(tokens), attn.to_k(tokens), attn.to_v(tokens)
            heads = [torch.softmax(q[:, h] @ k[:, h].T / 2.0, -1) @ v[:, h] for h in (slice(0, 4), slice(4, 8))]
            expected[3 * obj : 3 * obj + 3] = attn.to_out[0](torch.cat(heads, -1)).reshape(3, 5, 8)
    torch.testing.assert_close(actual, expected, atol=1e-6, rtol=1e-5)


def test_one_view_is_the_parent_network(unet):
    parent = UNet2DConditionModel(**TINY).eval()
    parent.load_state_dict(unet.state_dict())
    latents, timestep, text, camera = inputs(3)
    with torch.no_grad():
        expected = parent(latents, timestep, text, class_labels=camera).sample
    torch.testing.assert_close(unet(latents, timestep, text, camera, 1), expected, atol=1e-6, rtol=1e-5)


def test_views_of_an_object_see_each_other_and_no_other_object(unet):
    latents, timestep, text, camera = inputs(8)
    both = unet(latents, timestep, text, camera, 4)
    alone = unet(latents[:4], timestep[:4], text[:4], camera[:4], 4)
    torch.testing.assert_close(both[:4], alone, atol=1e-6, rtol=1e-5)
    changed = latents.clone()
    changed[3] += 1
    effect = (unet(changed, timestep, text, camera, 4) - both).abs().amax((1, 2, 3))
    assert (effect[:4] > 1e-5).all() and (effect[4:] == 0).all()
    order = torch.tensor([2, 0, 3, 1, 4, 5, 6, 7])
    torch.testing.assert_close(
        unet(latents[order], timestep, text[order], camera[order], 4), both[order], atol=1e-5, rtol=1e-4
    )


def test_without_a_camera_nothing_is_added_to_the_timestep(unet):
    latents, timestep, text, camera = inputs(2)
    without = unet(latents, timestep, text, None, 1)
    silent = MultiViewUNet(**TINY).eval()
    silent.load_state_dict(unet.state_dict())
    for name in ("linear_2.weight", "linear_2.bias"):
        silent.class_embedding.get_parameter(name).data.zero_()
    with torch.no_grad():
        torch.testing.assert_close(silent(latents, timestep, text, camera, 1), without)
    assert not torch.allclose(unet(latents, timestep, text, camera, 1), without)


def test_part_of_an_object_is_refused(unet):
    with pytest.raises(ValueError, match="6 latents"):
        unet(*inputs(6), 4)
