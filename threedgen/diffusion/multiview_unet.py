"""Stable Diffusion's UNet, seeing all views of an object at once (MVDream, Shi et al. 2023, section 3.1)."""

import functools
from collections.abc import Mapping

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor

from threedgen.diffusion.ldm_unet import unet_config, unet_sources, words_of_shapes
from threedgen.diffusion.tensor_files import MatchedTensors, StoredTensor, stored_tensors

CAMERA_DIM = 16  # a flattened 4x4 camera-to-world matrix


class MultiViewAttnProcessor:
    """Self-attention over the tokens of all views of an object; cross-attention to the text stays per view."""

    def __init__(self) -> None:
        self._attend = AttnProcessor2_0()

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        num_views: int = 1,
    ) -> Tensor:
        """hidden_states: [B, L, C] with B = objects * num_views -> [B, L, C]."""
        if encoder_hidden_states is not None:
            return self._attend(attn, hidden_states, encoder_hidden_states, attention_mask)
        b, length, channels = hidden_states.shape
        inflated = hidden_states.reshape(b // num_views, num_views * length, channels)
        return self._attend(attn, inflated, None, attention_mask).reshape(b, length, channels)


class MultiViewUNet(UNet2DConditionModel):
    """`UNet2DConditionModel` whose `attn1` runs over all views and whose camera joins the timestep embedding.

    Built with `class_embed_type="projection"` and `projection_class_embeddings_input_dim=16`, it has exactly the
    tensors of MVDream's network; the class embedding is the camera's MLP.
    """

    # diffusers reads the signature when it loads a config
    @functools.wraps(UNet2DConditionModel.__init__)  # type: ignore[misc]
    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.set_attn_processor(MultiViewAttnProcessor())

    def get_class_embed(self, sample: Tensor, class_labels: Tensor | None) -> Tensor | None:
        # No camera: nothing is added (2D mode). The parent would refuse, and MLP(0) is not zero.
        if class_labels is None:
            return None
        if self.class_embedding is None:
            raise ValueError("a camera is given, but the network was built without one")
        return super().get_class_embed(sample=sample, class_labels=class_labels)

    def forward(
        self,
        latents: Tensor,
        timesteps: Tensor,
        text: Tensor,
        camera: Tensor | None = None,
        num_views: int = 4,
    ) -> Tensor:
        """Predict the noise (or velocity, as the checkpoint was trained).

        latents: [B, 4, h, w], the views of an object adjacent, B = objects * num_views; timesteps: [B] or [];
        text: [B, L, C]; camera: [B, 16] (see `cameras.mvdream_camera_vectors`) or None for 2D mode.
        Returns [B, 4, h, w]. Raises ValueError if B is not a multiple of num_views.
        """
        if len(latents) % num_views:
            raise ValueError(f"{len(latents)} latents are not whole objects of {num_views} views")
        output = super().forward(
            latents,
            timesteps,
            encoder_hidden_states=text,
            class_labels=camera,
            cross_attention_kwargs={"num_views": num_views},
        )
        return output.sample


def multiview_unet_from_ldm(config: Mapping[str, object], state_dict: Mapping[str, Tensor]) -> MultiViewUNet:
    """The network of the original `MultiViewUNetModel`'s config words and state_dict, of any size.

    config: model_channels, channel_mult, num_res_blocks (one for all levels or one each), attention_resolutions,
    num_head_channels or num_heads, context_dim, camera_dim, transformer_depth, use_linear_in_transformer, ...; of
    the words that are left out, those that show in the tensors' shapes are read off there. The number of heads
    never shows. state_dict: the original's keys; its tensors become the parameters without a copy, in their dtype.

    Raises ThreedgenError for a word that would make another network, and for missing, unknown or misshaped keys.
    """
    unet = match_ldm_unet(config, stored_tensors(state_dict), "the UNet's state_dict")
    unet.fill()
    return unet.module.eval()


def match_ldm_unet(
    config: Mapping[str, object], tensors: Mapping[str, StoredTensor], where: str
) -> MatchedTensors[MultiViewUNet]:
    """As `multiview_unet_from_ldm`, with nothing read yet and the network on the meta device."""
    words = words_of_shapes({key: tensor.shape for key, tensor in tensors.items()}) | dict(config)
    diffusers_config = unet_config(words, where)
    with torch.device("meta"):
        unet = MultiViewUNet(**diffusers_config)
    return MatchedTensors(unet, unet_sources(unet), tensors, where)
