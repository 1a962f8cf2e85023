"""The prior that a run is guided by or samples from."""

import numpy as np
import torch

from threedgen.cameras import mvdream_camera_vectors, viewing_cameras
from threedgen.config.schema import Config
from threedgen.core.randomness import generator
from threedgen.diffusion.prior import MultiViewPrior
from threedgen.diffusion.sampling import sample_views
from threedgen.runs.device import select_device
from threedgen.tasks.export import SHEET_AZIMUTHS, SHEET_ELEVATION


def load_prior(config: Config) -> MultiViewPrior:
    """The config's prior on its device, in half precision on a GPU; its prompts are checked before any work is done."""
    device = select_device(config.runtime)
    dtype = torch.float32 if device.type == "cpu" else torch.float16
    prior = MultiViewPrior.from_pretrained(config.weights, dtype=dtype, device=device)
    if not config.allow_unknown_words:
        for text in (config.prompt, config.negative_prompt):
            prior.check_prompt(text)
    return prior


@torch.no_grad()
def draw_prompt(config: Config, prior: MultiViewPrior) -> np.ndarray:
    """The contact sheet's views of the prompt as the prior alone draws them, [4, H, W, 3] in 0..1."""
    cameras = viewing_cameras(config.camera, SHEET_AZIMUTHS, SHEET_ELEVATION, prior.image_size)
    views = sample_views(
        prior,
        [config.prompt],
        mvdream_camera_vectors(cameras).to(prior.device),
        len(cameras),
        generator(config.seed, 0, "sampled views"),
        negative_prompt=config.negative_prompt,
        num_inference_steps=config.views.num_inference_steps,
        guidance_scale=config.views.guidance_scale,
        rescale=config.views.rescale,
    )
    return views.movedim(1, -1).cpu().numpy()
