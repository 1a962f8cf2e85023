"""Stable Diffusion's UNet, seeing all views of an object at once (MVDream, Shi et al. 2023, section 3.1)."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from threedgen.cameras import Cameras
from threedgen.config.training import CameraInput, ViewAttention
from threedgen.diffusion.formats.ldm_unet import unet_config, unet_sources, words_of_shapes
from threedgen.diffusion.formats.tensor_files import MatchedTensors, StoredTensor, on_meta, stored_tensors
from threedgen.diffusion.networks.epipolar import ViewGeometry
from threedgen.diffusion.networks.epipolar_blocks import add_epipolar_consistency, add_rays
from threedgen.diffusion.networks.view_attention import (
    MultiViewAttnProcessor,
    TemporalTransformerBlock,
    replace_blocks,
)

CAMERA_DIM = 16  # a flattened 4x4 camera-to-world matrix


def _with_signature_of(parent: Callable) -> Callable[[Callable], Callable]:
    """State the parent's parameters in place of *args and **kwargs: diffusers reads a network's signature."""

    def decorate(init: Callable) -> Callable:
        own = [p for p in inspect.signature(init).parameters.values() if p.kind is inspect.Parameter.KEYWORD_ONLY]
        parameters = [*inspect.signature(parent).parameters.values(), *own]
        init.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return init

    return decorate


class MultiViewUNet(UNet2DConditionModel):
    """`UNet2DConditionModel` that sees all views of an object and takes a camera for each.

    Built with `class_embed_type="projection"` and `projection_class_embeddings_input_dim=16`, it has exactly the
    tensors of MVDream's network; the class embedding is the camera's MLP. Its variants are those that MVDream is
    compared with in its paper's ablations; the config keeps which one a network is:

    view_attention: "inflated", self-attention over the tokens of all views; "temporal", within a view, followed by
    new layers that attend to the same pixel of all views; "none", within a view; "epipolar", inflated, followed below
    the finest level by new layers that look at points on each pixel's ray (`EpipolarConsistency`); "spad", inflated,
    but to what lies along the epipolar lines, every transformer block told the pixels' rays.
    camera_input: "timestep", the MLP's output is added to the timestep's embedding; "text", it is one more token
    after those of the text. Even a token of zeros takes its share of the cross-attention, because its score is 0 and
    not minus infinity: with Z the sum of exp(score) over the text's tokens, what the text gives is multiplied by
    Z / (Z + 1).

    In 2D mode (one view, camera None) every variant is the 2D network: there is nothing to see and no token. Without
    cameras the last two kinds are "inflated"; with one view "epipolar" is too, and "spad" but for the rays.
    has_2d_mode: whether it was last trained in that mode too, and so can be asked in it.
    """

    @_with_signature_of(UNet2DConditionModel.__init__)
    def __init__(
        self,
        *args,
        view_attention: str | ViewAttention = ViewAttention.inflated,
        camera_input: str | CameraInput = CameraInput.timestep,
        has_2d_mode: bool = True,
        **kwargs,
    ) -> None:
        super().__init__(*args, **kwargs)
        attention, camera = ViewAttention(view_attention), CameraInput(camera_input)
        self.register_to_config(view_attention=attention.value, camera_input=camera.value, has_2d_mode=has_2d_mode)
        if attention is ViewAttention.inflated:
            self.set_attn_processor(MultiViewAttnProcessor())
        elif attention is ViewAttention.temporal:
            replace_blocks(self, TemporalTransformerBlock)
        elif attention is ViewAttention.epipolar:
            self.set_attn_processor(MultiViewAttnProcessor())
            add_epipolar_consistency(self)
        elif attention is ViewAttention.spad:
            self.set_attn_processor(MultiViewAttnProcessor(along_lines=True))
            add_rays(self)
        if camera is CameraInput.text and self.class_embedding is not None:
            hidden = self.class_embedding.linear_2.in_features
            self.class_embedding.linear_2 = nn.Linear(hidden, self.config.cross_attention_dim)

    @property
    def sees_rays(self) -> bool:
        """Whether its attention between the views knows their geometry."""
        return self.config.view_attention in (ViewAttention.epipolar.value, ViewAttention.spad.value)

    def get_class_embed(self, sample: Tensor, class_labels: Tensor | None) -> Tensor | None:
        # No camera: nothing is added (2D mode). The parent would refuse, and MLP(0) is not zero.
        return None if class_labels is None else super().get_class_embed(sample=sample, class_labels=class_labels)

    def forward(
        self,
        latents: Tensor,
        timesteps: Tensor,
        text: Tensor,
        camera: Tensor | None = None,
        num_views: int = 4,
        cameras: Cameras | None = None,
    ) -> Tensor:
        """Predict the noise (or velocity, as the checkpoint was trained).

        latents: [B, 4, h, w], the views of an object adjacent, B = objects * num_views; timesteps: [B] or [];
        text: [B, L, C]; camera: [B, 16] (see `cameras.mvdream_camera_vectors`) or None for 2D mode; cameras: what
        `camera` was made of, for B views, or fewer objects that are told again: of two kinds of view_attention.
        Returns [B, 4, h, w]. Raises ValueError if B is not a multiple of num_views, for a camera that the network was
        built without, and for cameras that are missing or do not fit.
        """
        if len(latents) % num_views:
            raise ValueError(f"{len(latents)} latents are not whole objects of {num_views} views")
        if camera is not None and self.class_embedding is None:
            raise ValueError("a camera is given, but the network was built without one")
        if camera is not None and cameras is None and self.sees_rays:
            raise ValueError(f"view_attention={self.config.view_attention} needs the cameras themselves")
        if camera is not None and self.config.camera_input == CameraInput.text.value:
            token = self.class_embedding(camera).to(text.dtype)
            text, camera = torch.cat([text, token[:, None]], 1), None
        told: dict[str, Any] = {"num_views": num_views}
        if self.sees_rays and cameras is not None:
            size = latents.shape[-2], latents.shape[-1]
            told["geometry"] = ViewGeometry(cameras.to(latents.device), num_views, len(latents), size)
        output = super().forward(
            latents,
            timesteps,
            encoder_hidden_states=text,
            class_labels=camera,
            cross_attention_kwargs=told if self.config.view_attention != ViewAttention.none.value else None,
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
    with on_meta():
        unet = MultiViewUNet(**diffusers_config)
    return MatchedTensors(unet, unet_sources(unet), tensors, where)
