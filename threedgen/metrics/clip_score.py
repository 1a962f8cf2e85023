"""Do pictures show what a sentence says? CLIP's answer (Radford et al. 2021), where its weights are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from threedgen.core.errors import ConfigError, WeightsMissingError
from threedgen.diffusion.clip_pictures import as_clip_sees
from threedgen.diffusion.text.clip_tokenizer import CONTEXT_LENGTH, PAD_SD1, clip_tokenizer
from threedgen.imaging import to_numpy

if TYPE_CHECKING:
    from transformers import CLIPModel

_AT_ONCE = 32  # pictures


class CLIPScore:
    """Figures of one CLIP model; those of another one (ViT-B/32, ViT-L/14, OpenCLIP's) are on another scale."""

    def __init__(self, model: CLIPModel) -> None:
        """Raises ConfigError for a model that does not read CLIP's own vocabulary."""
        self.model, self.tokenizer = model, clip_tokenizer(PAD_SD1)
        words, expected = model.config.text_config.vocab_size, len(self.tokenizer)
        if words != expected:
            raise ConfigError(f"this CLIP reads a vocabulary of {words} pieces, not CLIP's own of {expected}")

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: torch.device | str = "cpu") -> CLIPScore:
        """folder: of a `CLIPModel` of transformers, such as `hf download openai/clip-vit-base-patch32 --local-dir
        FOLDER` makes. Nothing is fetched.

        Raises WeightsMissingError if it is not there, ThreedgenError if it holds another model or cannot be read.
        """
        if not Path(folder, "config.json").is_file():
            raise WeightsMissingError(
                f"no CLIP model at {folder} (config.json is missing); with a network, run: "
                f"hf download openai/clip-vit-base-patch32 --local-dir {folder}"
            )
        from threedgen.diffusion.checkpoints.folders import load_clip  # here: diffusers comes with it

        return cls(load_clip(Path(folder), torch.float32, device))

    def __call__(self, images: Any, text: str) -> float:
        """CLIP score: the mean over pictures [B, H, W, 3] in 0..1 of 100 max(cosine, 0) (Hessel et al. 2021, with the
        customary factor 100 in place of 2.5)."""
        return float(100 * self.cosines(images, [text]).clamp(min=0).mean())

    @torch.no_grad()
    def cosines(self, images: Any, texts: Sequence[str]) -> Tensor:
        """Between the embeddings of pictures [B, H, W, 3] in 0..1 and of M texts, of which 77 tokens count: [B, M].

        The text that a picture is nearest to is what R-precision counts.
        """
        device, size = self.model.device, self.model.config.vision_config.image_size
        told = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=CONTEXT_LENGTH, return_tensors="pt"
        ).to(device)
        said = normalize(self.model.get_text_features(**told).pooler_output, dim=1)
        pictures = torch.tensor(to_numpy(images), dtype=torch.float32).movedim(-1, 1)
        seen = [
            self.model.get_image_features(as_clip_sees(part.to(device), size)).pooler_output
            for part in pictures.split(_AT_ONCE)
        ]
        return (normalize(torch.cat(seen), dim=1) @ said.T).cpu()
