"""The original MVDream checkpoints, `sd-v2.1-base-4view.pt` and `sd-v1.5-4view.pt`: one flat dictionary of tensors.

| keys | what | becomes |
|---|---|---|
| model.diffusion_model.* | multi-view UNet | `MultiViewUNet` |
| first_stage_model.* | KL autoencoder | diffusers' `AutoencoderKL` |
| cond_stage_model.model.* | OpenCLIP's text tower (2.1) | `TextEncoder`, without the last block |
| cond_stage_model.transformer.* | CLIP's text tower (1.5) | `TextEncoder` |
| betas, alphas_cumprod, ... | noise schedule | `DDIMScheduler` states the same |
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from diffusers import DDIMScheduler, ModelMixin

from threedgen.core.errors import ThreedgenError
from threedgen.core.files import atomic_folder, sha256_of_file
from threedgen.diffusion.checkpoints.folders import TEXT_ENCODER_FILE, UNET_AND_VAE_FILE
from threedgen.diffusion.formats.ldm_unet import words_of_shapes
from threedgen.diffusion.formats.ldm_vae import match_ldm_vae
from threedgen.diffusion.formats.tensor_files import MatchedTensors, StoredTensor, check_keys, open_tensors
from threedgen.diffusion.formats.text_towers import PREFIX, match_clip_text, match_open_clip_text
from threedgen.diffusion.networks.multiview_unet import CAMERA_DIM, match_ldm_unet
from threedgen.diffusion.schedule import stable_diffusion_schedule
from threedgen.diffusion.text.clip_tokenizer import PAD_SD1, PAD_SD2, clip_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_UNET, _VAE = "model.diffusion_model.", "first_stage_model."
_OPEN_CLIP, _CLIP = "cond_stage_model.model.", "cond_stage_model.transformer."
_SCHEDULE = {"betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod"}
_SCHEDULE |= {"log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod"}
_SCHEDULE |= {"posterior_variance", "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2"}


@dataclass(frozen=True)
class OriginalCheckpoint:
    """The parts of an original file, matched with this package's modules; no weight is read yet."""

    path: Path
    base: str  # "Stable Diffusion 2.1" or "Stable Diffusion 1.5"
    unet: MatchedTensors
    vae: MatchedTensors
    text_encoder: MatchedTensors
    tokenizer: "PreTrainedTokenizerFast"
    scheduler: DDIMScheduler
    has_standard_schedule: bool
    num_tensors: int

    @property
    def num_unused(self) -> int:
        """Known tensors that no part needs: the schedule's, and the text tower's last block and projection."""
        parts = (self.unet, self.vae, self.text_encoder)
        return self.num_tensors - sum(len(part.used) for part in parts)

    def save(self, folder: Path, dtype: torch.dtype | None = None) -> None:
        """Write a folder in diffusers' layout, atomically, with sha256 sums; dtype None keeps the file's."""
        with atomic_folder(folder) as temporary:
            self._save_part("unet", self.unet, temporary, dtype)
            self._save_part("vae", self.vae, temporary, dtype)
            self._save_part("text_encoder", self.text_encoder, temporary, dtype)
            self.tokenizer.save_pretrained(temporary / "tokenizer")
            self.scheduler.save_pretrained(temporary / "scheduler")
            source = {"file": self.path.name, "sha256": sha256_of_file(self.path), "base": self.base}
            (temporary / "source.json").write_text(json.dumps(source, indent=2) + "\n", "utf-8")

    @staticmethod
    def _save_part(name: str, part: MatchedTensors, folder: Path, dtype: torch.dtype | None) -> None:
        if isinstance(part.module, ModelMixin):
            part.module.save_config(folder / name)
            part.save(folder / name / UNET_AND_VAE_FILE, dtype)
        else:
            part.module.config.save_pretrained(folder / name)
            part.save(folder / name / TEXT_ENCODER_FILE, dtype, PREFIX)


def open_original(path: Path, tensors: Mapping[str, StoredTensor] | None = None) -> OriginalCheckpoint:
    """Open an original checkpoint (.pt, .ckpt or .safetensors) and check every one of its keys.

    tensors: the file's, if it has been opened.
    Raises ThreedgenError if the file cannot be read, or if keys are missing, unknown or misshaped.
    """
    tensors = open_tensors(path) if tensors is None else tensors
    parts: dict[str, dict[str, StoredTensor]] = {prefix: {} for prefix in (_UNET, _VAE, _OPEN_CLIP, _CLIP, "")}
    for key, tensor in tensors.items():
        prefix = next(prefix for prefix in parts if key.startswith(prefix))
        parts[prefix][key[len(prefix) :]] = tensor
    if not parts[_UNET]:
        raise ThreedgenError(f"{path} is no MVDream checkpoint: none of its {len(tensors)} keys begins with {_UNET}")
    # Stable Diffusion 2 has linear projections and heads of 64 channels, 1 has 1 x 1 convolutions and 8 heads
    words = words_of_shapes({key: tensor.shape for key, tensor in parts[_UNET].items()})
    is_sd2 = bool(words.get("use_linear_in_transformer", True))
    heads = {"num_head_channels": 64} if is_sd2 else {"num_heads": 8}
    unet = match_ldm_unet({**heads, "camera_dim": CAMERA_DIM}, parts[_UNET], f"{path}, {_UNET}*")
    vae = match_ldm_vae(parts[_VAE], f"{path}, {_VAE}*")
    text_prefix, match_text = (_OPEN_CLIP, match_open_clip_text) if is_sd2 else (_CLIP, match_clip_text)
    text_encoder = match_text(parts[text_prefix], f"{path}, {text_prefix}*")
    # what belongs to no part: the schedule, and nothing else
    other = parts[""] | {_CLIP + key: tensor for key, tensor in parts[_CLIP].items() if is_sd2}
    other |= {_OPEN_CLIP + key: tensor for key, tensor in parts[_OPEN_CLIP].items() if not is_sd2}
    scheduler = stable_diffusion_schedule()
    check_keys(other, dict.fromkeys(_SCHEDULE, tuple(scheduler.betas.shape)), str(path))
    return OriginalCheckpoint(
        path,
        "Stable Diffusion 2.1" if is_sd2 else "Stable Diffusion 1.5",
        unet,
        vae,
        text_encoder,
        clip_tokenizer(PAD_SD2 if is_sd2 else PAD_SD1),
        scheduler,
        _is_schedule(other["alphas_cumprod"], scheduler),
        len(tensors),
    )


def _is_schedule(alphas_cumprod: StoredTensor, scheduler: DDIMScheduler) -> bool:
    return torch.allclose(alphas_cumprod.read().float(), scheduler.alphas_cumprod, atol=1e-6, rtol=1e-4)
