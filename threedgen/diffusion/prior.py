"""A multi-view diffusion prior as one object: text, images, latents and noise, whatever its size."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import torch
from diffusers import AutoencoderKL, DDIMScheduler
from torch import Tensor, nn
from transformers import AutoTokenizer, CLIPTextModel, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from threedgen.core.errors import ConfigError, WeightsMissingError
from threedgen.core.files import atomic_folder
from threedgen.diffusion.multiview_unet import MultiViewUNet

BUNDLED = "mini"
ASSET_SUFFIX = ", 3d asset"  # how MVDream marks captions of 3D data
_BUNDLED_FOLDER = Path(__file__).parent / "weights" / "mini"
disable_progress_bar()  # transformers' bars for loading and saving would stand between the run's own lines
_PARTS = ("tokenizer", "text_encoder", "unet", "vae", "scheduler")


class MultiViewPrior(nn.Module):
    """Tokenizer, text encoder, multi-view UNet, VAE and noise schedule.

    Images are [B, 3, H, W] in 0..1; latents [B, 4, h, w] are scaled to unit standard deviation; a timestep is an
    integer in 0..999. B counts views, those of one object adjacent.
    """

    alphas_cumprod: Tensor

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        text_encoder: CLIPTextModel,
        unet: MultiViewUNet,
        vae: AutoencoderKL,
        scheduler: DDIMScheduler,
    ) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.text_encoder = text_encoder
        self.unet = unet
        self.vae = vae
        self.scheduler = scheduler
        self.register_buffer("alphas_cumprod", scheduler.alphas_cumprod.clone(), persistent=False)
        unet.to(memory_format=torch.channels_last)  # faster convolutions
        vae.to(memory_format=torch.channels_last)

    @classmethod
    def from_pretrained(cls, weights: str | Path) -> Self:
        """Load the bundled mini prior ("mini") or a folder in diffusers' layout, frozen and in float32.

        Raises WeightsMissingError if the folder, or a part of it, is not there.
        """
        folder = _BUNDLED_FOLDER if str(weights) == BUNDLED else Path(weights)
        missing = [part for part in _PARTS if not (folder / part).is_dir()]
        if missing:
            raise WeightsMissingError(
                f"no weights at {folder}: {', '.join(missing)}/ not found; "
                f"give a folder in diffusers' layout with weights=FOLDER, or weights={BUNDLED} for the bundled model"
            )
        prior = cls(
            AutoTokenizer.from_pretrained(folder / "tokenizer"),
            CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32),
            MultiViewUNet.from_pretrained(folder / "unet", torch_dtype=torch.float32, low_cpu_mem_usage=False),
            AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32, low_cpu_mem_usage=False),
            DDIMScheduler.from_pretrained(folder / "scheduler"),
        )
        return prior.eval().requires_grad_(False)

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype = torch.float16) -> None:
        """Write a folder in diffusers' layout, atomically, the weights in `dtype`; the model itself is unchanged."""
        with atomic_folder(Path(folder)) as temporary:
            self.tokenizer.save_pretrained(temporary / "tokenizer")
            self.scheduler.save_pretrained(temporary / "scheduler")
            for name in ("text_encoder", "unet", "vae"):
                part = copy.deepcopy(getattr(self, name))
                nn.Module.to(part, dtype)  # diffusers' own `to` warns of layers that should stay in float32: none here
                part.save_pretrained(temporary / name)

    @property
    def image_size(self) -> int:
        """Pixels along an edge that the UNet was trained for."""
        return int(self.unet.config.sample_size * 2 ** (len(self.vae.config.block_out_channels) - 1))

    @property
    def device(self) -> torch.device:
        return self.alphas_cumprod.device

    def unknown_words(self, prompt: str) -> list[str]:
        """The words that the tokenizer has no token for, in order."""
        encoding = self.tokenizer(prompt, return_offsets_mapping=True, return_special_tokens_mask=True)
        columns = zip(encoding.input_ids, encoding.offset_mapping, encoding.special_tokens_mask, strict=True)
        unknown = self.tokenizer.unk_token_id
        return [prompt[start:end] for token, (start, end), special in columns if token == unknown and not special]

    def check_prompt(self, prompt: str) -> None:
        """Raise ConfigError if a word-level tokenizer does not know a word, or if the prompt would be cut off."""
        vocabulary = self.tokenizer.get_vocab()
        if unknown := self.unknown_words(prompt):
            known = sorted(word for word in vocabulary if not word.startswith("<"))
            raise ConfigError(
                f"the mini prior does not know {', '.join(map(repr, dict.fromkeys(unknown)))}; it knows: "
                f"{' '.join(known)}. For any other prompt use --config mvdream-sd21.yaml "
                "(full-size weights), or set allow_unknown_words=true to go on"
            )
        tokens, limit = len(self.tokenizer(prompt).input_ids), self.tokenizer.model_max_length
        if tokens > limit:
            raise ConfigError(f"the prompt has {tokens} tokens, the model reads {limit}; shorten it")

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """Text embeddings [P, L, C] of P prompts, padded to the tokenizer's length."""
        tokens = self.tokenizer(
            list(prompts),
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        return self.text_encoder(tokens.input_ids.to(self.device)).last_hidden_state

    def encode_images(self, images: Tensor) -> Tensor:
        """Scaled posterior means: [B, 3, H, W] in 0..1 -> [B, 4, H/f, W/f]. Differentiable."""
        images = (images * 2 - 1).contiguous(memory_format=torch.channels_last)
        return self.vae.encode(images).latent_dist.mean * self.vae.config.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents [B, 4, h, w] -> images [B, 3, H, W] in 0..1."""
        return (self.vae.decode(latents / self.vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)

    def noise_level(self, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """alpha_t = sqrt(alpha_bar_t) and sigma_t = sqrt(1 - alpha_bar_t), each [B, 1, 1, 1]. timestep: [B] or []."""
        alpha_bar = self.alphas_cumprod[timestep].reshape(-1, 1, 1, 1)
        return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()

    def predict_noise(
        self, noisy: Tensor, timestep: Tensor, text: Tensor, camera: Tensor | None, num_views: int
    ) -> Tensor:
        """The noise in `noisy` [B, 4, h, w], whatever the network was trained to predict.

        timestep: [B] or []; text: [B, L, C]; camera: [B, 16] or None for 2D mode (then num_views is 1).
        """
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        prediction = self.unet(noisy, timestep, text, camera, num_views)
        if self.scheduler.config.prediction_type == "epsilon":
            return prediction
        alpha, sigma = self.noise_level(timestep)  # v = alpha * noise - sigma * x0
        return alpha * prediction + sigma * noisy
