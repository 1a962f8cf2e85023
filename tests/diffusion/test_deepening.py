"""Networks with more layers: at first the same answer, and then something to learn in every new layer."""

import pytest
import torch

from threedgen.config.training import CameraInput, ViewAttention
from threedgen.diffusion.mini import new_mini_prior, new_mini_vae
from threedgen.diffusion.networks.deepening import layers_of
from threedgen.diffusion.start import inflate_unet, video_unet_of

AS_IT_IS = ViewAttention.inflated, CameraInput.timestep


@pytest.fixture
def unet():
    torch.manual_seed(0)
    unet = new_mini_prior(["a red cat"], new_mini_vae()).unet
    shake(unet)  # no layer is zero in a trained network
    return unet.eval()


@torch.no_grad()
def shake(network):
    generator = torch.Generator().manual_seed(1)
    for parameter in network.parameters():
        parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))


def told():
    generator = torch.Generator().manual_seed(0)
    latents, text = torch.randn(4, 4, 16, 16, generator=generator), torch.randn(4, 20, 96, generator=generator)
    return latents, torch.tensor([10, 300, 600, 990]), text, torch.randn(4, 16, generator=generator), 4


@pytest.mark.parametrize("layers", [(1, 1, 1), (3, 1, 1), (1, 2, 1), (1, 1, 3), (2, 3, 2)])
def test_a_deeper_network_answers_as_before(unet, layers):
    with torch.no_grad():
        before = unet(*told())
        deeper = inflate_unet(unet, *AS_IT_IS, layers)
        assert layers_of(deeper) == list(layers)
        torch.testing.assert_close(deeper(*told()), before, rtol=1e-5, atol=1e-5)
        shake(deeper)
        before = deeper(*told())
        deepest = inflate_unet(deeper, *AS_IT_IS, [count + 1 for count in layers])
        torch.testing.assert_close(deepest(*told()), before, rtol=1e-5, atol=1e-5)


def test_new_layers_learn_from_the_first_step_on(unet):
    deeper = inflate_unet(unet, *AS_IT_IS, (2, 2, 2))
    deeper(*told()).pow(2).mean().backward()
    still = [name for name, p in deeper.named_parameters() if name.endswith(("conv2.weight", "proj_out.weight"))]
    still = [name for name in still if not deeper.get_parameter(name).any()]
    assert len(still) == 3 + 3 + 2 + 2  # residual layers down and up, attentions down and up
    assert all(deeper.get_parameter(name).grad.any() for name in still)


def test_a_deeper_network_becomes_a_video_network(unet):
    """One frame without a camera is what the image network gives."""
    latents, timestep, text, _, _ = told()
    deeper = inflate_unet(unet, *AS_IT_IS, (2, 1, 2))
    shake(deeper)
    with torch.no_grad():
        expected = deeper(latents[:1], timestep[:1], text[:1], None, 1)
        found = video_unet_of(deeper)(latents[:1, :, None], timestep[:1], text[:1])
    torch.testing.assert_close(found[:, :, 0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layers", [(1, 1), (0, 1, 1), (1, 1, 1, 1)])
def test_layers_cannot_become_fewer(unet, layers):
    with pytest.raises(ValueError, match=r"\[1, 1, 1\] layers"):
        inflate_unet(unet, *AS_IT_IS, layers)
