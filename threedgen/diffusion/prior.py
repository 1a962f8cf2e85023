"""A multi-view diffusion prior as one object: text, images, latents and noise, whatever its size."""

import copy
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from diffusers import AutoencoderKL, DDIMScheduler
from huggingface_hub.utils import disable_progress_bars
from torch import Tensor, nn

from threedgen.cameras import Cameras, mvdream_camera_vectors, videomv_camera_vectors
from threedgen.core.errors import ConfigError, ThreedgenError
from threedgen.core.files import atomic_folder
from threedgen.core.transfer import to_device
from threedgen.diffusion.checkpoints.adapters import merge_adapter
from threedgen.diffusion.checkpoints.folders import (
    load_image_encoder,
    load_scheduler,
    load_text_encoder,
    load_unet,
    load_vae,
    save_part,
)
from threedgen.diffusion.checkpoints.locate import BASE_FILE, IMAGE_ENCODER, adapter_base, locate_part, locate_weights
from threedgen.diffusion.clip_pictures import as_clip_sees
from threedgen.diffusion.conditions import Conditions, Picture
from threedgen.diffusion.denoising import Denoised
from threedgen.diffusion.networks.channels_last import hold_channels_last
from threedgen.diffusion.networks.cuda_graphs import GraphedCalls
from threedgen.diffusion.networks.multiview_unet import MultiViewUNet
from threedgen.diffusion.networks.video_unet import VideoUNet
from threedgen.diffusion.schedule import NoiseSchedule
from threedgen.diffusion.text.clip_tokenizer import load_tokenizer
from threedgen.diffusion.text.encoder import TextEncoder
from threedgen.diffusion.text.word_file import WordFile

if TYPE_CHECKING:
    from transformers import CLIPVisionModelWithProjection, PreTrainedTokenizerFast

_FPS = 8  # frames a second that VideoMV tells its image-to-video network
disable_progress_bars()  # the hub's would stand between the run's own lines


class MultiViewPrior(nn.Module):
    """Tokenizer, text encoder, multi-view or video UNet, VAE and noise schedule.

    Images are [B, 3, H, W] in 0..1; latents [B, 4, h, w] are scaled to unit standard deviation; a timestep is an
    integer in 0..999. B counts views, those of one object adjacent. Whatever the weights' dtype, the noise schedule
    and every tensor that a method returns are in float32.

    replays: whether calls of the UNet and of the VAE's encoder on a GPU are CUDA graphs (see `GraphedCalls`). They hold
    memory of their own, and serve one thread on one stream, so who asks the prior says it.

    It is a `denoising.Model`: what its network predicts, and how it is told its cameras, is known here alone.
    """

    alphas_cumprod: Tensor
    _graphs: dict[str, GraphedCalls]

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerFast | WordFile",
        text_encoder: TextEncoder | None,
        unet: MultiViewUNet | VideoUNet,
        vae: AutoencoderKL,
        scheduler: DDIMScheduler,
        image_encoder: "CLIPVisionModelWithProjection | None" = None,
    ) -> None:
        super().__init__()
        self.tokenizer: Any = tokenizer
        self.text_encoder: Any = text_encoder
        self.unet = unet
        self.vae = vae
        self.scheduler = scheduler
        self.image_encoder: Any = image_encoder
        self._predicts_velocity = scheduler.config.prediction_type == "v_prediction"
        self._ends_in_noise = float(scheduler.alphas_cumprod[-1]) == 0
        if self._ends_in_noise and not self._predicts_velocity:
            raise ThreedgenError("a schedule that ends in pure noise needs velocity prediction: noise alone says no x0")
        self.register_buffer("alphas_cumprod", scheduler.alphas_cumprod.clone(), persistent=False)
        for network in (unet, vae):
            hold_channels_last(network)
        self.replays = False

    @classmethod
    def from_pretrained(
        cls,
        weights: str | Path,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        vae: AutoencoderKL | None = None,
        text_encoder: TextEncoder | None = None,
        only_reads: bool = False,
    ) -> Self:
        """Load the bundled mini prior ("mini"), a folder in diffusers' layout, an adapter or a hub id, frozen.

        vae, text_encoder: those that are in memory, used in place of the folder's; an adapter may change the latter.
        only_reads: it will be given no new words and not be saved; its words are then read without transformers, whose
        import takes a third of a second.

        The weights are held in `dtype`. Each tensor is read, converted and moved on its own, so that the peak memory
        is that of the loaded prior. Raises WeightsMissingError if the weights are not there (see `locate_weights`)
        and ThreedgenError if a file is missing or its tensors are not those of its model.
        """
        folder = locate_weights(str(weights))
        if base := adapter_base(folder):
            prior = cls.from_pretrained(base, dtype, device, vae, text_encoder, only_reads)
            merge_adapter(prior, folder)
            return prior
        words = locate_part(folder, "tokenizer")
        prior = cls(
            (WordFile.of_folder(words) if only_reads else None) or load_tokenizer(words),
            text_encoder or load_text_encoder(locate_part(folder, "text_encoder"), dtype, device),
            load_unet(locate_part(folder, "unet"), dtype, device),
            vae or load_vae(locate_part(folder, "vae"), dtype, device),
            load_scheduler(locate_part(folder, "scheduler")),
        )
        if prior.is_shown_a_picture:
            prior.image_encoder = load_image_encoder(locate_part(folder, IMAGE_ENCODER), dtype, device)
        prior.alphas_cumprod = prior.alphas_cumprod.to(device)
        return prior.eval().requires_grad_(False)

    def without_text_encoder(self) -> Self:
        """The same prior, which can no longer read: its text encoder is freed when this one is gone too."""
        parts = (self.tokenizer, None, self.unet, self.vae, self.scheduler, self.image_encoder)
        prior = type(self)(*parts).to(self.device)
        prior.replays = self.replays
        return prior.train(self.training)

    @property
    def replays(self) -> bool:
        return bool(self._graphs)

    @replays.setter
    def replays(self, on: bool) -> None:
        # a model beside another is asked with another number of views; of an encoder's graph backward memory is a part
        self._graphs = {"unet": GraphedCalls(2), "encoder": GraphedCalls(1)} if on else {}

    def take_less_memory(self) -> None:
        """From now on: what the VAE's encoder leaves for its gradient is computed again, and there are no graphs."""
        self.replays = False
        self.vae.enable_gradient_checkpointing()

    def save_pretrained(
        self, folder: str | Path, dtype: torch.dtype = torch.float16, *, base: str = "", file_size: str = "10GB"
    ) -> None:
        """Write a folder in diffusers' layout, atomically, the weights in `dtype`; the model itself is unchanged.

        base: weights that have much of this, bit for bit in `dtype`; that is then left out, and the folder names them:
        whole parts, and tensors of the UNet. file_size: of a part's weights at most; larger ones are written as
        several files.
        """
        names = ("text_encoder", "unet", "vae", *[IMAGE_ENCODER] * self.is_shown_a_picture)
        parts = {name: copy.deepcopy(getattr(self, name)) for name in names}
        for part in parts.values():
            nn.Module.to(part, dtype)  # diffusers' own `to` warns of layers that should stay in float32: none here
        with atomic_folder(Path(folder)) as temporary:
            self.tokenizer.save_pretrained(temporary / "tokenizer")
            self.scheduler.save_pretrained(temporary / "scheduler")
            for name, part in parts.items():
                save_part(part, temporary / name, base, file_size)
            if base:
                (temporary / BASE_FILE).write_text(json.dumps({"base": base}) + "\n", "utf-8")

    @property
    def image_size(self) -> int:
        """Pixels along an edge that the UNet was trained for."""
        return int(self.unet.config.sample_size * 2 ** (len(self.vae.config.block_out_channels) - 1))

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Of one view at that size: channels, rows, columns."""
        edge = self.unet.config.sample_size
        return self.unet.config.in_channels, edge, edge

    @property
    def is_video(self) -> bool:
        """Whether the views of an object are frames to it, which it expects to be neighbours."""
        return isinstance(self.unet, VideoUNet)

    @property
    def has_2d_mode(self) -> bool:
        """Whether it can be asked for a single picture from anywhere, without a camera."""
        return not self.is_video and self.unet.config.has_2d_mode

    def check_knows_cameras(self) -> None:
        """Raise ConfigError for a network that cannot be told any: of a 2D model, or a video model as it was before."""
        layers = self.unet.camera_embedding if isinstance(self.unet, VideoUNet) else self.unet.class_embedding
        if layers is None:
            raise ConfigError(
                "these weights know no cameras, so views of one object cannot be drawn with them: they are a 2D or a "
                "plain video model's; task train_prior makes a prior of such (train.start_from=WEIGHTS)"
            )

    @property
    def is_shown_a_picture(self) -> bool:
        return self.is_video and self.unet.config.image_conditioning

    @property
    def looks_at_pixels(self) -> bool:
        """Whether its image encoder does, as CLIP; otherwise it looks at latents."""
        return self.image_encoder is not None and self.image_encoder.config.num_channels == 3

    @property
    def device(self) -> torch.device:
        return self.alphas_cumprod.device

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """Text embeddings [P, L, C] of P prompts, padded to the tokenizer's length.

        Raises RuntimeError for a prior without text encoder.
        """
        if self.text_encoder is None:
            raise RuntimeError("this prior is without its text encoder")
        if isinstance(self.tokenizer, WordFile):
            ids = self.tokenizer.padded(prompts)
        else:
            length = self.tokenizer.model_max_length
            ids = self.tokenizer(list(prompts), padding="max_length", max_length=length, truncation=True).input_ids
        return self.text_encoder(to_device(torch.tensor(ids), self.device)).last_hidden_state.float()

    def encode_images(self, images: Tensor) -> Tensor:
        """Scaled posterior means: [B, 3, H, W] in 0..1 -> [B, 4, H/f, W/f]. Differentiable."""
        images = (images * 2 - 1).to(_dtype_of(self.vae), memory_format=torch.channels_last)
        mean = self._call("encoder", self.vae, lambda images: self.vae.encode(images).latent_dist.mean, images)
        return mean.float() * self.vae.config.scaling_factor

    def show(self, images: Tensor) -> Picture:
        """Pictures [P, 3, H, W] in 0..1, of the prior's image size, as the network is shown them.

        The image encoder looks at the pixels as CLIP does, or at the latents where it was built for these (the mini
        one). Raises ValueError for a prior that is shown no pictures.
        """
        if self.image_encoder is None:
            raise ValueError("this prior is shown no pictures")
        latents = self.encode_images(images)
        return Picture(self.look(latents, images), latents)

    def look(self, latents: Tensor, images: Tensor | None = None) -> Tensor:
        """The image encoder's embedding [P, C] of latents [P, 4, h, w], or of images [P, 3, H, W] if it takes these."""
        seen = latents
        if self.looks_at_pixels:
            assert images is not None
            seen = as_clip_sees(images, self.image_encoder.config.image_size)
        return self.image_encoder(seen.to(self.image_encoder.dtype)).image_embeds.float()

    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents [B, 4, h, w] -> images [B, 3, H, W] in 0..1."""
        latents = (latents / self.vae.config.scaling_factor).to(_dtype_of(self.vae))
        return (self.vae.decode(latents).sample.float() / 2 + 0.5).clamp(0, 1)

    @property
    def schedule(self) -> NoiseSchedule:
        return NoiseSchedule(self.alphas_cumprod, self._ends_in_noise)

    def denoise(self, noisy: Tensor, timestep: Tensor, told: Conditions) -> Denoised:
        """The noise and the x0 of `noisy` [B, 4, h, w], whatever the network was trained to predict.

        timestep: [B] or [], on the CPU or on the prior's device.
        """
        prediction = self._predict(noisy, timestep, told)
        alpha, sigma = self.schedule.level(timestep)
        if self._predicts_velocity:
            noise = alpha * prediction + sigma * noisy
            if self._ends_in_noise:
                return Denoised(noise, alpha * noisy - sigma * prediction)
        else:
            noise = prediction
        return Denoised(noise, (noisy - sigma * noise) / alpha)

    def losses(self, latents: Tensor, noise: Tensor, timestep: Tensor, told: Conditions) -> Tensor:
        """Mean squared error of the prediction for each view, [B].

        latents, noise: [B, 4, h, w]; timestep: [B], one value for the views of an object. The target is the noise, or
        the velocity alpha * noise - sigma * x0 (Salimans & Ho 2022). Told without cameras it is the 2D part of the
        training (MVDream section 3.2, algorithm 1).
        """
        alpha, sigma = self.schedule.level(timestep)
        prediction = self._predict(alpha * latents + sigma * noise, timestep, told)
        target = alpha * noise - sigma * latents if self._predicts_velocity else noise
        return (prediction - target).square().mean((1, 2, 3))

    def _predict(self, noisy: Tensor, timestep: Tensor, told: Conditions) -> Tensor:
        """What the network says, [B, 4, h, w] in float32. The one place where it is told anything."""
        count, views, dtype = len(noisy), told.num_views, _dtype_of(self.unet)
        timestep = to_device(timestep, self.device)
        latents = noisy.to(dtype, memory_format=torch.channels_last)
        if isinstance(self.unet, MultiViewUNet):
            camera = self._camera_of(mvdream_camera_vectors, told.cameras, count)
            text = told.text_of(count).to(dtype)
            cameras = told.cameras if self.unet.sees_rays else None
            return self._call("unet", self.unet, self.unet, latents, timestep, text, camera, views, cameras).float()
        camera = self._camera_of(videomv_camera_vectors, told.cameras, count)
        shown = self._shown(told.picture, count // views)
        frames = self._call(
            "unet",
            self.unet,
            lambda *given: self.unet(*given[:4], **dict(zip(shown, given[4:], strict=True))),
            latents.unflatten(0, (-1, views)).transpose(1, 2),
            timestep[::views] if timestep.ndim else timestep,
            told.text_of_objects(count // views).to(dtype),
            None if camera is None else camera.unflatten(0, (-1, views)),
            *shown.values(),
        )
        return frames.transpose(1, 2).flatten(0, 1).float()

    def _call(self, name: str, network: nn.Module, compute: Callable[..., Tensor], *inputs: Any) -> Tensor:
        """`compute(*inputs)`, as a graph where calls of this name have any."""
        graphs = self._graphs.get(name)
        return compute(*inputs) if graphs is None else graphs(network, compute, *inputs)

    def _shown(self, picture: Picture | None, objects: int) -> dict[str, Tensor]:
        """Raises ConfigError for a prior that is shown a picture and has none."""
        if picture is None:
            if self.is_shown_a_picture:
                raise ConfigError("these weights draw from a picture, which only task dense_views shows (image=FILE)")
            return {}
        dtype, shown = _dtype_of(self.unet), picture.of_objects(objects)
        return {
            "image_embedding": shown.embedding.to(dtype),
            "local_image": shown.latent.to(dtype).unsqueeze(2),
            "fps": torch.full((objects,), _FPS, device=self.device),
        }

    def _camera_of(self, encode: Callable[[Cameras], Tensor], cameras: Cameras | None, count: int) -> Tensor | None:
        """What the network is told of the cameras of `count` views, [count, 16]."""
        if cameras is None:
            return None
        self.check_knows_cameras()
        vectors = to_device(encode(cameras), self.device).to(_dtype_of(self.unet))
        return vectors.repeat(count // len(vectors), 1)


def _dtype_of(network: nn.Module) -> torch.dtype:
    """Of its weights; to say it, diffusers' own property looks at every module, which takes as long as a layer."""
    return next(network.parameters()).dtype
