"""A video diffusion network that is told where each frame is seen from (VideoMV, Zuo et al. 2024, section 3.1).

Its spatial layers are Stable Diffusion's, its temporal ones ModelScope's (Wang et al. 2023): convolutions over frames
after every residual block, attention along the frames at each pixel after every spatial attention. The same class is
text to video and, with `image_conditioning`, I2VGen-XL's network (Zhang et al. 2023), which is shown a picture as well.
"""

from collections.abc import Mapping, Sequence

import torch
from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.resnet import TemporalConvLayer
from diffusers.models.transformers.transformer_temporal import TransformerTemporalModel
from diffusers.models.unets.unet_3d_blocks import UNetMidBlock3DCrossAttn, get_down_block, get_up_block
from diffusers.models.unets.unet_i2vgen_xl import I2VGenXLTransformerTemporalEncoder
from torch import Tensor, nn
from torch.nn import functional

from threedgen.diffusion.formats.tensor_files import MatchedTensors, StoredTensor, on_meta, stored_tensors
from threedgen.diffusion.formats.video_unet import video_unet_config, video_unet_sources
from threedgen.diffusion.networks.view_attention import MultiViewAttnProcessor

_EPS = 1e-5


class FrameConvolutions(TemporalConvLayer):
    """diffusers' layer, its 3 x 1 x 1 convolutions computed in two dimensions: frames and pixels.

    That is the same sum, on a CPU in half the time, and where channels come last in memory nothing is copied.
    """

    def forward(self, hidden_states: Tensor, num_frames: int = 1) -> Tensor:
        """[N * F, C, h, w] -> [N * F, C, h, w]."""
        x = hidden_states.unflatten(0, (-1, num_frames)).transpose(1, 2).flatten(3)  # [N, C, F, h * w]
        y = x
        for layers in (self.conv1, self.conv2, self.conv3, self.conv4):
            *before, last = layers
            for layer in before:
                y = layer(y)
            y = functional.conv2d(y, last.weight.squeeze(-1), last.bias, padding=(1, 0))
        return (x + y).transpose(1, 2).flatten(0, 1).unflatten(2, hidden_states.shape[2:])


class VideoUNet(ModelMixin, ConfigMixin):
    """Frames of an object as a video; the words of its config are those of diffusers' `UNet3DConditionModel`, and

    conv_in_channels: of the first layer, where the first level has another number (0: it has the same).
    entry_heads, entry_head_dim: heads of the attention over frames right after the first layer, and their width (0:
    that of the other attentions, which then is one number).
    camera_dim: of the numbers that each frame's camera is told in; 0: the network knows no cameras. Their MLP's last
    layer is zero at the start, so that a network just made is the video model.
    image_conditioning: whether a picture is shown to it. `image_gain`: times its features are added before the frames
    (VideoMV's released network adds them twice); `image_context_size`: latent pixels along an edge that the picture's
    local tokens are made of, (size / 4)^2 of them; `image_tokens`: how many its embedding is made into.

    attention_head_dim is the width of a head, one number or one a level. (That is what diffusers' 3D networks make of
    it; in its 2D networks the same word is the number of heads.)
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int = 32,
        in_channels: int = 4,
        out_channels: int = 4,
        down_block_types: Sequence[str] = ("CrossAttnDownBlock3D",) * 3 + ("DownBlock3D",),
        up_block_types: Sequence[str] = ("UpBlock3D",) + ("CrossAttnUpBlock3D",) * 3,
        block_out_channels: Sequence[int] = (320, 640, 1280, 1280),
        layers_per_block: int | Sequence[int] = 2,
        norm_num_groups: int = 32,
        cross_attention_dim: int = 1024,
        attention_head_dim: int | Sequence[int] = 64,
        conv_in_channels: int = 0,
        entry_heads: int = 8,
        entry_head_dim: int = 0,
        camera_dim: int = 16,
        image_conditioning: bool = False,
        image_gain: float = 1.0,
        image_context_size: int = 32,
        image_tokens: int = 4,
    ) -> None:
        super().__init__()
        widths, levels = list(block_out_channels), len(block_out_channels)
        layers = [layers_per_block] * levels if isinstance(layers_per_block, int) else list(layers_per_block)
        entry = conv_in_channels or widths[0]
        one_width = isinstance(attention_head_dim, int)
        head_dims = [attention_head_dim] * levels if one_width else list(attention_head_dim)  # type: ignore[arg-type]
        embedding = 4 * entry
        shared = {
            "temb_channels": embedding,
            "resnet_eps": _EPS,
            "resnet_act_fn": "silu",
            "resnet_groups": norm_num_groups,
            "cross_attention_dim": cross_attention_dim,
        }
        self.time_proj = Timesteps(entry, True, 0)
        self.time_embedding = TimestepEmbedding(entry, embedding)
        self.camera_embedding = _mlp(camera_dim, embedding, embedding, ends_at_zero=True) if camera_dim else None
        if image_conditioning:
            self._add_image_layers(in_channels, embedding, cross_attention_dim, image_context_size, image_tokens)
        self.conv_in = nn.Conv2d(in_channels * (2 if image_conditioning else 1), entry, 3, padding=1)
        self.transformer_in = TransformerTemporalModel(
            entry_heads, entry_head_dim or head_dims[0], entry, norm_num_groups=norm_num_groups
        )
        self.down_blocks = nn.ModuleList(
            get_down_block(
                kind,
                num_layers=count,
                in_channels=before,
                out_channels=width,
                add_downsample=level < levels - 1,
                num_attention_heads=head_dim,
                downsample_padding=1,
                **shared,
            )
            for level, (kind, count, before, width, head_dim) in enumerate(
                zip(down_block_types, layers, [entry, *widths], widths, head_dims, strict=False)
            )
        )
        self.mid_block = UNetMidBlock3DCrossAttn(in_channels=widths[-1], num_attention_heads=head_dims[-1], **shared)
        self.up_blocks = nn.ModuleList(
            get_up_block(
                kind,
                num_layers=count + 1,
                in_channels=skip,
                out_channels=width,
                prev_output_channel=before,
                add_upsample=level > 0,
                num_attention_heads=head_dim,
                **shared,
            )
            for kind, count, level, skip, width, before, head_dim in zip(
                up_block_types,
                layers[::-1],
                reversed(range(levels)),
                [*widths[-2::-1], entry],
                widths[::-1],
                [widths[-1], *widths[::-1]],
                head_dims[::-1],
                strict=False,
            )
        )
        self.conv_norm_out = nn.GroupNorm(norm_num_groups, widths[0], eps=_EPS)
        self.conv_out = nn.Conv2d(widths[0], out_channels, 3, padding=1)
        for block in (*self.down_blocks, self.mid_block, *self.up_blocks):
            # without the original's dropout: a step is a function of its number, and draws nothing from a global state
            convolutions = [(layer.in_dim, layer.out_dim, 0.0, norm_num_groups) for layer in block.temp_convs]
            block.temp_convs = nn.ModuleList(FrameConvolutions(*sizes) for sizes in convolutions)
        for module in self.modules():
            if isinstance(module, Attention):
                module.set_processor(MultiViewAttnProcessor())

    def _add_image_layers(self, channels: int, embedding: int, context: int, context_size: int, tokens: int) -> None:
        """I2VGen-XL's, under diffusers' names: three ways in which the picture reaches the network."""
        self.image_latents_proj_in = nn.Sequential(
            nn.Conv2d(channels, 4 * channels, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(4 * channels, 4 * channels, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(4 * channels, channels, 3, padding=1),
        )
        self.image_latents_temporal_encoder = I2VGenXLTransformerTemporalEncoder(
            channels,
            num_attention_heads=2,
            attention_head_dim=channels,
            activation_fn="gelu",
            ff_inner_dim=4 * channels,
        )
        self.image_latents_context_embedding = nn.Sequential(
            nn.Conv2d(channels, 8 * channels, 3, padding=1),
            nn.SiLU(),
            nn.AdaptiveAvgPool2d(context_size),
            nn.Conv2d(8 * channels, 16 * channels, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(16 * channels, context, 3, stride=2, padding=1),
        )
        self.context_embedding = _mlp(context, embedding, tokens * context)
        self.fps_embedding = _mlp(embedding // 4, embedding, embedding)

    def forward(
        self,
        latents: Tensor,
        timesteps: Tensor,
        text: Tensor,
        camera: Tensor | None = None,
        *,
        image_embedding: Tensor | None = None,
        local_image: Tensor | None = None,
        fps: Tensor | None = None,
    ) -> Tensor:
        """Predict the noise (or velocity, as the checkpoint was trained) of F frames of each of N objects.

        latents: [N, 4, F, h, w]; timesteps: [N] or []; text: [N, L, C]; camera: [N, F, 16], or None, and then nothing
        is added for it. One frame is the 2D mode. With `image_conditioning`, and only then, also image_embedding
        [N, C] (zeros: what guidance leads away from), local_image [N, 4, 1, h, w], the latent of the picture, and fps
        [N], frames a second. Returns [N, 4, F, h, w].

        Raises ValueError for a camera or a picture that the network was built without, and for one that is lacking.
        """
        n, _, frames, _, _ = latents.shape
        pictured = image_embedding is not None and local_image is not None and fps is not None
        if pictured != self.config.image_conditioning or (local_image is None) != (fps is None):
            raise ValueError(
                "image_embedding, local_image and fps are given together, to a network with image_conditioning only"
            )
        embedding = self.time_embedding(self.time_proj(timesteps.expand(n)).to(latents.dtype))
        if pictured:
            assert image_embedding is not None and local_image is not None and fps is not None
            embedding = embedding + self.fps_embedding(self.time_proj(fps.expand(n)).to(latents.dtype))
            text = torch.cat([text, self._tokens(image_embedding, local_image)], 1)
            planes = self.config.image_gain * self._planes(local_image, frames)
            latents = torch.cat([latents, planes], 1)
        embedding = embedding.repeat_interleave(frames, 0)
        if camera is not None:
            if self.camera_embedding is None:
                raise ValueError("a camera is given, but the network was built without one")
            embedding = embedding + self.camera_embedding(camera.flatten(0, 1))
        text = text.repeat_interleave(frames, 0)

        x = latents.transpose(1, 2).flatten(0, 1).contiguous(memory_format=torch.channels_last)
        x = self.transformer_in(self.conv_in(x), num_frames=frames, return_dict=False)[0]
        skips = [x]
        for block in self.down_blocks:
            told = {"encoder_hidden_states": text} if hasattr(block, "attentions") else {}
            x, outputs = block(x, embedding, num_frames=frames, **told)
            skips += outputs
        x = self.mid_block(x, embedding, encoder_hidden_states=text, num_frames=frames)
        for block in self.up_blocks:
            count = len(block.resnets)  # type: ignore[arg-type]
            told = {"encoder_hidden_states": text} if hasattr(block, "attentions") else {}
            own, skips = tuple(skips[-count:]), skips[:-count]
            upsample_size = skips[-1].shape[2:] if skips else None  # also of odd sizes, which halving rounds up
            x = block(x, own, embedding, upsample_size=upsample_size, num_frames=frames, **told)
        x = self.conv_out(functional.silu(self.conv_norm_out(x)))
        return x.unflatten(0, (n, frames)).transpose(1, 2)

    def _tokens(self, image_embedding: Tensor, local_image: Tensor) -> Tensor:
        """What the text is followed by: [N, (image_context_size / 4)^2 + image_tokens, C]."""
        local = self.image_latents_context_embedding(local_image.squeeze(2)).flatten(2).transpose(1, 2)
        return torch.cat([local, self.picture_tokens(image_embedding)], 1)

    def picture_tokens(self, image_embedding: Tensor) -> Tensor:
        """Those of the whole picture: [N, C] -> [N, image_tokens, C]."""
        return self.context_embedding(image_embedding).unflatten(1, (self.config.image_tokens, -1))

    def _planes(self, local_image: Tensor, frames: int) -> Tensor:
        """[N, 4, F, h, w]: the picture first, then planes that count the frames, through a layer over all of them."""
        n, channels, _, height, width = local_image.shape
        counted = torch.arange(1, frames, device=local_image.device, dtype=local_image.dtype) / max(frames - 1, 1)
        planes = counted.reshape(1, 1, -1, 1, 1).expand(n, channels, -1, height, width)
        x = torch.cat([local_image, planes], 2).transpose(1, 2)  # [N, F, 4, h, w]
        x = self.image_latents_proj_in(x.flatten(0, 1)).unflatten(0, (n, frames))
        x = self.image_latents_temporal_encoder(x.permute(0, 3, 4, 1, 2).flatten(0, 2))  # [N * h * w, F, 4]
        return x.unflatten(0, (n, height, width)).permute(0, 4, 3, 1, 2)


def _mlp(inputs: int, hidden: int, outputs: int, ends_at_zero: bool = False) -> nn.Sequential:
    last = nn.Linear(hidden, outputs)
    if ends_at_zero:
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(inputs, hidden), nn.SiLU(), last)


def video_unet_from_videomv(config: Mapping[str, object], state_dict: Mapping[str, Tensor]) -> VideoUNet:
    """The network of VideoMV's released config words and state_dict, of any size, text or image to video by its keys.

    config: dim, dim_mult, num_res_blocks, attn_scales, head_dim, num_heads (of the first attention over frames), ...;
    of the words that are left out, all but head_dim are read off the tensors' shapes. state_dict: the released keys;
    its tensors become the parameters without a copy, in their dtype.

    Raises ThreedgenError for a word that would make another network, and for missing, unknown or misshaped keys.
    """
    unet = match_videomv_unet(config, stored_tensors(state_dict), "the video UNet's state_dict")
    unet.fill()
    return unet.module.eval()


def match_videomv_unet(
    config: Mapping[str, object], tensors: Mapping[str, StoredTensor], where: str
) -> MatchedTensors[VideoUNet]:
    """As `video_unet_from_videomv`, with nothing read yet and the network on the meta device."""
    words = video_unet_config(config, {key: tensor.shape for key, tensor in tensors.items()}, where)
    with on_meta():
        unet = VideoUNet(**words)
    return MatchedTensors(unet, video_unet_sources(unet), tensors, where)
