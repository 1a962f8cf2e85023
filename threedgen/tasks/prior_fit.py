"""How well a scene fits the prior: what the prior would still change in the scene's own views.

That a mesh looks like its scene says nothing of the scene. Here the scene's views from the contact sheet's four sides
are noised to three quarters of the prior's schedule, where little of them is left, and the prior denoises them, told
the prompt and the cameras. What it would draw itself comes back much as it was; of anything else it makes something
else.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from threedgen.config.schema import Config
from threedgen.core.randomness import generator
from threedgen.diffusion.conditions import Conditions
from threedgen.diffusion.prior import MultiViewPrior
from threedgen.metrics.image import psnr
from threedgen.runs.directory import RunDirectory
from threedgen.scene.protocol import Scene
from threedgen.tasks.export import PRIOR_FIT
from threedgen.tasks.prompting import sheet_cameras
from threedgen.tasks.refine import redraw

_STRENGTH, _STEPS = 0.75, 20  # of the noise, as a fraction of the schedule; denoising steps of the whole schedule


@torch.no_grad()
def note_prior_fit(
    scene: Scene, config: Config, run: RunDirectory, prior: MultiViewPrior, text: Tensor, negative: Tensor, step: int
) -> None:
    """Measure it for the scene after `step` steps and note it in the run's events, where exports find it.

    text, negative: [1, L, C]. Noted: psnr, dB between the scene's views and what the prior makes of them; codec_psnr,
    dB between the views and themselves encoded and decoded, which no scene exceeds by much; strength; views.
    """
    cameras, _ = sheet_cameras(config, prior)
    seen = scene.render(cameras).rgb.movedim(-1, 1)
    settings = replace(config.refine, num_inference_steps=_STEPS)
    told = Conditions(text, cameras, len(cameras))
    drawn = redraw(seen, told, negative, prior, settings, _STRENGTH, generator(config.seed, step, "prior fit"))
    coded = prior.decode(prior.encode_images(seen))
    fit, codec = (round(psnr(seen.cpu(), other.float().cpu()), 2) for other in (drawn, coded))
    run.events.write(PRIOR_FIT, step=step, psnr=fit, codec_psnr=codec, strength=_STRENGTH, views=len(cameras))
    print(f"prior      {fit:.1f} dB between the scene's views and what the prior makes of them (at most {codec:.1f})")
