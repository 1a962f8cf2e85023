"""Norms that keep the layout stand in for torch's without a trace: parameters, names, and on a CPU every bit."""

import copy
import re

import pytest
import torch
from diffusers import AutoencoderKL
from torch import nn

from tests.diffusion.tiny_unet import TINY, inputs
from threedgen.diffusion.networks.channels_last import GroupNorm, hold_channels_last
from threedgen.diffusion.networks.multiview_unet import MultiViewUNet

VAE = {"block_out_channels": (16, 32), "norm_num_groups": 4, "layers_per_block": 1}
VAE |= {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}


def _random(network):
    for i, (_, parameter) in enumerate(sorted(network.named_parameters())):
        rng = torch.Generator().manual_seed(i)
        nn.init.normal_(parameter, 0.2, 0.1 if parameter.ndim == 1 else parameter[0].numel() ** -0.5, generator=rng)
    return network.eval()


def _answers(name, network):
    rng = torch.Generator().manual_seed(0)
    if name == "unet":
        latents, timesteps, text, camera = inputs(4)
        return [network(latents.contiguous(memory_format=torch.channels_last), timesteps, text, camera)]
    images = torch.rand(2, 3, 16, 16, generator=rng).contiguous(memory_format=torch.channels_last)
    latents = network.encode(images).latent_dist.mean
    return [latents, network.decode(latents).sample]


@pytest.mark.parametrize("name", ["unet", "vae"])
def test_on_a_cpu_nothing_changes(name):
    network = _random(MultiViewUNet(**TINY) if name == "unet" else AutoencoderKL(**VAE))
    before = copy.deepcopy(network)
    for layer in before.modules():
        if isinstance(layer, nn.Conv2d):
            layer.to(memory_format=torch.channels_last)
    parameters = dict(network.named_parameters())
    for _ in range(2):  # the second time there is nothing left to do
        hold_channels_last(network)
        held = dict(network.named_parameters())
        assert held.keys() == parameters.keys() and all(held[key] is parameters[key] for key in held)
        for found, expected in zip(_answers(name, network), _answers(name, before), strict=True):
            assert torch.equal(found, expected)
    norms = [module for module in network.modules() if isinstance(module, nn.GroupNorm)]
    assert all(isinstance(norm, GroupNorm) for norm in norms)
    # all but those before attention
    before_attention = sum(bool(re.search(r"attentions\.\d\.(group_)?norm\.weight", key)) for key in parameters)
    assert sum(norm.silu for norm in norms) == len(norms) - before_attention > 5
