"""VideoMV's released checkpoints, `t2v_00333000.pth` and the like: a dictionary of tensors, or one under "state_dict".

| keys | what | becomes |
|---|---|---|
| camera_embedding.*, input_blocks.*, ... | video UNet, text or image to video | `VideoUNet` |
| lgm_big.* (may be absent) | LGM's network, trained on the UNet's noisy x0 | `LGMUNet` in `gaussians/` |

Text encoder, autoencoder and the image encoder are not in the file: they are other people's weights, which the new
folder names as its base.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DDIMScheduler

from threedgen.core.errors import ConfigError, ThreedgenError
from threedgen.core.files import atomic_folder, sha256_of_file
from threedgen.diffusion.checkpoints.folders import UNET_AND_VAE_FILE
from threedgen.diffusion.checkpoints.locate import BASE_FILE, GAUSSIANS, IMAGE_ENCODER, locate_part, locate_weights
from threedgen.diffusion.formats.tensor_files import MatchedTensors, StoredTensor
from threedgen.diffusion.networks.lgm_unet import LGMUNet, match_lgm_unet
from threedgen.diffusion.networks.video_unet import VideoUNet, match_videomv_unet
from threedgen.diffusion.schedule import cosine_schedule, stable_diffusion_schedule

_LGM = "lgm_big."
FIRST_KEY = "input_blocks.0.1.proj_in.weight"  # which tells a video network's file from others


@dataclass(frozen=True)
class VideoMVCheckpoint:
    """The parts of a released file, matched with this package's modules; no weight is read yet."""

    path: Path
    unet: MatchedTensors[VideoUNet]
    gaussians: MatchedTensors[LGMUNet] | None
    scheduler: DDIMScheduler

    @property
    def kind(self) -> str:
        return "image to video" if self.unet.module.config.image_conditioning else "text to video"

    def save(self, folder: Path, base: str, dtype: torch.dtype | None = None) -> None:
        """Write a folder in diffusers' layout, atomically, with sha256 sums; dtype None keeps the file's.

        base: weights that have the parts which this file lacks.
        Raises ConfigError if they have not.
        """
        has_picture = self.unet.module.config.image_conditioning
        where, needed = locate_weights(base), ("tokenizer", "text_encoder", "vae", *[IMAGE_ENCODER] * has_picture)
        if missing := [part for part in needed if not locate_part(where, part).is_dir()]:
            raise ConfigError(f"--with {base} has no {', '.join(missing)}; give weights that have them")
        with atomic_folder(folder) as temporary:
            self.unet.module.save_config(temporary / "unet")
            self.unet.save(temporary / "unet" / UNET_AND_VAE_FILE, dtype)
            if self.gaussians is not None:
                self.gaussians.module.save_config(temporary / GAUSSIANS)
                self.gaussians.save(temporary / GAUSSIANS / UNET_AND_VAE_FILE, dtype)
            self.scheduler.save_pretrained(temporary / "scheduler")
            (temporary / BASE_FILE).write_text(json.dumps({"base": base}) + "\n", "utf-8")
            source = {"file": self.path.name, "sha256": sha256_of_file(self.path), "kind": self.kind}
            (temporary / "source.json").write_text(json.dumps(source, indent=2) + "\n", "utf-8")


def open_videomv(path: Path, tensors: dict[str, StoredTensor]) -> VideoMVCheckpoint:
    """Match every key of a released checkpoint, whose tensors have been opened.

    Raises ThreedgenError if keys are missing, unknown or misshaped.
    """
    lgm = {key.removeprefix(_LGM): tensor for key, tensor in tensors.items() if key.startswith(_LGM)}
    video = {key: tensor for key, tensor in tensors.items() if not key.startswith(_LGM)}
    unet = match_videomv_unet({}, video, str(path))
    if unet.module.config.camera_dim == 0:
        raise ThreedgenError(f"{path}: keys missing (camera_embedding.*): a video model without cameras, not VideoMV's")
    # it was trained with its quaternions read as the released code reads them
    gaussians = match_lgm_unet({"quaternion_norm": "all"}, lgm, f"{path}, {_LGM}*") if lgm else None
    scheduler = cosine_schedule() if unet.module.config.image_conditioning else stable_diffusion_schedule()
    return VideoMVCheckpoint(path, unet, gaussians, scheduler)
