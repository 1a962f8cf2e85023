"""More layers for a trained network, which at first answers as it did (Net2Net, Chen, Goodfellow and Shlens 2016)."""

import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from threedgen.diffusion.networks.multiview_unet import MultiViewUNet

_UP_LAYER = re.compile(r"up_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.*)")
# of a new residual or attention layer the last one: at zero it adds nothing
_LAST_OF_NEW_LAYERS = re.compile(r".*\.resnets\.\d+\.conv2|.*\.attentions\.\d+\.proj_out")
_SHORTCUT = re.compile(r"up_blocks\.\d+\.resnets\.\d+\.conv_shortcut")


def layers_of(unet: MultiViewUNet) -> list[int]:
    """Residual layers of each level on the way down, from the finest; on the way up there is one more."""
    layers = unet.config.layers_per_block
    return [layers] * len(unet.config.block_out_channels) if isinstance(layers, int) else list(layers)


def deepened_tensors(unet: MultiViewUNet, layers_per_block: Sequence[int]) -> dict[str, Tensor]:
    """The tensors of `unet` under the names that they have in a network with these layers.

    Down a level new layers come last. Up a level they come behind the first, which alone takes another number of
    channels. So every old layer meets the tensors that it met before, if the new ones pass theirs on: skips of new
    layers equal that of the last old one.

    Raises ValueError for fewer layers than there are, or for another number of levels.
    """
    old = layers_of(unet)
    if len(layers_per_block) != len(old) or any(more < had for more, had in zip(layers_per_block, old, strict=True)):
        raise ValueError(f"its levels have {old} layers, of which there can be more, but not {[*layers_per_block]}")
    added = [more - had for more, had in zip(layers_per_block, old, strict=True)][::-1]
    tensors = {}
    for name, tensor in unet.state_dict().items():
        found = _UP_LAYER.fullmatch(name)
        if found and int(found[3]) > 0:
            block = int(found[1])
            name = f"up_blocks.{block}.{found[2]}.{int(found[3]) + added[block]}.{found[4]}"
        tensors[name] = tensor
    return tensors


@torch.no_grad()
def pass_on(path: str, layer: nn.Module) -> None:
    """Make the layer at `path` of a new residual or attention layer such that what comes in goes out."""
    if _LAST_OF_NEW_LAYERS.fullmatch(path):
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)
    elif _SHORTCUT.fullmatch(path):  # of its inputs the first half is what comes from below, the rest the skip
        weight, bias = layer.weight, layer.bias
        assert isinstance(weight, Tensor) and isinstance(bias, Tensor)
        nn.init.dirac_(weight)
        nn.init.zeros_(bias)
