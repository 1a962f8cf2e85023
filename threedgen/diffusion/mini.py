"""The mini prior's architecture: the classes of the full-size system at a size that a laptop trains in an hour."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from diffusers import AutoencoderKL
from diffusers.models.attention_processor import Attention
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import nn

from threedgen.config.training import CameraInput, ViewAttention
from threedgen.diffusion.networks.multiview_unet import CAMERA_DIM, MultiViewUNet
from threedgen.diffusion.prior import MultiViewPrior
from threedgen.diffusion.schedule import stable_diffusion_schedule
from threedgen.diffusion.text.encoder import TextConfig, TextEncoder
from threedgen.diffusion.text.words import word_tokenizer

if TYPE_CHECKING:
    from transformers import CLIPVisionModelWithProjection

IMAGE_SIZE = 64  # pixels; the latents are 16 x 16 x 4
LEVELS, VAE_LEVELS = (32, 64, 128), (16, 32, 64)  # channels of the UNet's and of the VAE's
_TEXT_LENGTH = 20
_TEXT_WIDTH = 96
_VISION_WIDTH = 128


def new_mini_vae() -> AutoencoderKL:
    """64 px to 16 x 16 x 4, 0.7 M parameters."""
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=VAE_LEVELS,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=1,  # see _start_as_blur: one group keeps the ratio of colours to the constant
        sample_size=IMAGE_SIZE,
    )
    _start_as_blur(vae)
    return vae


_CARRIED = 8  # channels of the residual stream: +-red, +-green, +-blue, +-1


@torch.no_grad()
def _start_as_blur(vae: AutoencoderKL) -> None:
    """Initialise so that the first three latents are the image, blurred, and the decoder shows them.

    Group normalisation hides how bright an even image is, and from random weights the colour of a background takes
    thousands of steps to find its way through. Eight carried channels take colours through from the start: a
    constant keeps the normalisation's scale nearly the same for every image, and pairs of opposite sign pass SiLU
    unchanged, because silu(x) - silu(-x) = x. All of it stays trainable.

    The posterior starts nearly deterministic (log-variance -6): near 0 its samples would be mostly noise.
    """
    for module in [*vae.encoder.modules(), *vae.decoder.modules()]:
        if isinstance(module, ResnetBlock2D):
            _zero_rows(module.conv2)
            if module.conv_shortcut is not None:
                _carry(module.conv_shortcut)
        elif isinstance(module, (Upsample2D, Downsample2D)):
            _carry(module.conv)
        elif isinstance(module, Attention):
            _zero_rows(module.to_out[0])
    for conv in (vae.encoder.conv_in, vae.decoder.conv_in):
        _zero_rows(conv)
        for i in range(3):
            conv.weight[i, i, 1, 1], conv.weight[3 + i, i, 1, 1] = 1.0, -1.0
        conv.bias[6], conv.bias[7] = 2.0, -2.0
    for conv in (vae.encoder.conv_out, vae.decoder.conv_out):
        conv.weight[:3] *= 0.1
        for i in range(3):
            conv.weight[i, i, 1, 1], conv.weight[i, 3 + i, 1, 1] = 0.3, -0.3
    for conv in (vae.quant_conv, vae.post_quant_conv):
        conv.weight[:3] = torch.eye(3, conv.weight.shape[1])[:, :, None, None]
        conv.bias[:3] = 0.0
    vae.quant_conv.weight[4:] *= 0.1
    vae.quant_conv.bias[4:] = -6.0


def _zero_rows(layer: nn.Conv2d | nn.Linear) -> None:
    layer.weight[:_CARRIED] = 0.0
    if layer.bias is not None:
        layer.bias[:_CARRIED] = 0.0


def _carry(conv: nn.Conv2d) -> None:
    """Pass the carried channels on: as they are, or averaged over 2 x 2 pixels where the layer halves the image."""
    _zero_rows(conv)
    middle = conv.weight.shape[-1] // 2
    for i in range(_CARRIED):
        if conv.stride == (2, 2):
            conv.weight[i, i, :2, :2] = 0.25
        else:
            conv.weight[i, i, middle, middle] = 1.0


def new_mini_prior(
    texts: Iterable[str],
    vae: AutoencoderKL,
    view_attention: ViewAttention = ViewAttention.inflated,
    camera_input: CameraInput = CameraInput.timestep,
    layers_per_block: Sequence[int] = (),
) -> MultiViewPrior:
    """An untrained prior, which knows the words of `texts`, around a trained VAE.

    layers_per_block: residual layers of the levels of 16, 8 and 4 latent pixels; none: one each.

    Weights are drawn from torch's global random state.
    """
    tokenizer = word_tokenizer(texts, _TEXT_LENGTH)
    text_encoder = TextEncoder(
        TextConfig(
            vocab_size=len(tokenizer),
            hidden_size=_TEXT_WIDTH,
            intermediate_size=2 * _TEXT_WIDTH,
            projection_dim=_TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=_TEXT_LENGTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    unet = MultiViewUNet(
        sample_size=IMAGE_SIZE // 4,
        block_out_channels=LEVELS,
        layers_per_block=list(layers_per_block) or 1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4,
        cross_attention_dim=_TEXT_WIDTH,
        use_linear_projection=True,
        class_embed_type="projection",
        projection_class_embeddings_input_dim=CAMERA_DIM,
        view_attention=view_attention,
        camera_input=camera_input,
    )
    # Stable Diffusion's betas. Velocity prediction (Salimans & Ho 2022): with noise prediction a small network's
    # error is divided by sqrt(alpha_bar) = 0.07 at the last timestep, and each view gets colours of its own.
    scheduler = stable_diffusion_schedule("v_prediction")
    return MultiViewPrior(tokenizer, text_encoder, unet, vae, scheduler)


def new_image_encoder(latent_channels: int, latent_size: int, width: int) -> "CLIPVisionModelWithProjection":
    """CLIP's vision tower at mini size, which looks at a picture's latent; its embedding has the text's width.

    Weights are drawn from torch's global random state.
    """
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection  # here: see `load_image_encoder`
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            num_channels=latent_channels,
            image_size=latent_size,
            patch_size=2,
            hidden_size=_VISION_WIDTH,
            intermediate_size=4 * _VISION_WIDTH,
            num_hidden_layers=4,
            num_attention_heads=4,
            projection_dim=width,
            attn_implementation="eager",  # in bfloat16 on a CPU the fused one's gradient takes twice as long
        )
    )
