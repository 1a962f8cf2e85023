"""Shared by the tests of training: a prior of the smallest size that has every part."""

import pytest
import torch
from diffusers import AutoencoderKL
from transformers import CLIPTextConfig, CLIPTextModel

from threedgen.data.miniworld import vocabulary
from threedgen.diffusion.networks.multiview_unet import CAMERA_DIM, MultiViewUNet
from threedgen.diffusion.prior import MultiViewPrior
from threedgen.diffusion.schedule import stable_diffusion_schedule
from threedgen.diffusion.text.words import word_tokenizer


@pytest.fixture(scope="session")
def tiny_prior(tmp_path_factory):
    """The folder of an untrained prior for images of 16 pixels, with noise prediction; its latents are 4 x 4."""
    torch.manual_seed(0)
    tokenizer = word_tokenizer(vocabulary(), 20)
    text_config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        projection_dim=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    unet = MultiViewUNet(
        sample_size=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=2,
        cross_attention_dim=16,
        use_linear_projection=True,
        class_embed_type="projection",
        projection_class_embeddings_input_dim=CAMERA_DIM,
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(4, 4, 4),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=1,
        scaling_factor=2.0,
    )
    scheduler = stable_diffusion_schedule("epsilon")
    folder = tmp_path_factory.mktemp("tiny") / "prior"
    MultiViewPrior(tokenizer, CLIPTextModel(text_config), unet, vae, scheduler).save_pretrained(folder, torch.float32)
    return folder
