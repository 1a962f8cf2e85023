"""The prior that a run is guided by or samples from."""

import torch

from threedgen.config.schema import Config
from threedgen.diffusion.prior import MultiViewPrior
from threedgen.runs.device import select_device


def load_prior(config: Config) -> MultiViewPrior:
    """The config's prior on its device, in half precision on a GPU; its prompts are checked before any work is done."""
    device = select_device(config.runtime)
    dtype = torch.float32 if device.type == "cpu" else torch.float16
    prior = MultiViewPrior.from_pretrained(config.weights, dtype=dtype, device=device)
    if not config.allow_unknown_words:
        for text in (config.prompt, config.negative_prompt):
            prior.check_prompt(text)
    return prior
