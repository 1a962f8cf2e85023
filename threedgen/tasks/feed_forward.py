"""Gaussians from a dense prior's views in one pass, and denoising that listens to them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from threedgen.cameras import Cameras
from threedgen.config.sampling import AwareConfig, AwareGuidance, QuaternionNorm
from threedgen.config.schema import Config
from threedgen.core.errors import ConfigError, WeightsMissingError
from threedgen.diffusion.checkpoints.folders import load_gaussians_network
from threedgen.diffusion.checkpoints.locate import GAUSSIANS, locate_part, locate_weights
from threedgen.diffusion.denoising import Denoiser
from threedgen.diffusion.networks.lgm_unet import LGMUNet
from threedgen.diffusion.prior import MultiViewPrior
from threedgen.diffusion.reconstructed import Reconstructed
from threedgen.ops.backends import Backend, select_backend
from threedgen.scene.gaussians import Gaussians, gaussians_of_channels, lgm_inputs


class FeedForward:
    """LGM's network with what is around it: pictures and cameras in, Gaussians in our world out."""

    def __init__(self, network: LGMUNet, input_views: int, ops: Backend | None = None) -> None:
        """input_views: how many of an object's views it is shown; ops: what the Gaussians are drawn with, see
        `Gaussians`."""
        self.network, self.input_views, self.ops = network, input_views, ops

    @classmethod
    def of(cls, config: Config, device: torch.device) -> FeedForward:
        """The config's, frozen. Raises WeightsMissingError if neither it nor the prior has any."""
        own = config.gaussians.weights
        folder = Path(own) if own else locate_part(locate_weights(config.weights), GAUSSIANS)
        folder = folder / GAUSSIANS if (folder / GAUSSIANS).is_dir() else folder  # a run's folder
        if not folder.is_dir():
            raise WeightsMissingError(
                f"no Gaussians at {folder}: give gaussians.weights=FOLDER, made by task train_gaussians or by "
                "importing VideoMV's checkpoint"
            )
        ops = select_backend(config.scene.backend, device)
        return cls(load_gaussians_network(folder, torch.float32, device), config.gaussians.input_views, ops)

    def inputs_of(self, num_views: int, first: int = 0) -> Tensor:
        """Numbers of the evenly spaced views that it is shown, of `num_views`, from number `first` on.

        Raises ConfigError for a number of views that it does not divide.
        """
        if num_views % self.input_views:
            raise ConfigError(
                f"gaussians.input_views={self.input_views} are not evenly spaced ones of {num_views} views: "
                f"take a number that divides {num_views}, or a number of views that {self.input_views} divides"
            )
        return (torch.arange(self.input_views) * (num_views // self.input_views) + first) % num_views

    def __call__(self, images: Tensor, cameras: Cameras) -> list[Gaussians]:
        """The Gaussians of N objects. images: [N * V, 3, H, W] in 0..1, the V input views of each."""
        exactly = torch.autocast(images.device.type, enabled=False)  # rays and positions, whatever the network's type
        with exactly:
            inputs = lgm_inputs(images, cameras).to(self.network.dtype)
        channels = self.network(inputs).float()
        with exactly:
            words = self.network.config
            norm, shown = QuaternionNorm(words.quaternion_norm), images if words.pixel_aligned else None
            return gaussians_of_channels(channels, cameras, norm=norm, ops=self.ops, images=shown)

    def of_views(self, images: Tensor, cameras: Cameras) -> list[Gaussians]:
        """The same from all views [N * V, 3, H, W] of the objects, of which some are chosen."""
        chosen = self.chosen(len(images), cameras.num_views)
        return self(images[chosen.to(images.device)], cameras.take(chosen, self.input_views))

    def shows(self, prior: MultiViewPrior, cameras: Cameras, background: Tensor) -> Callable[[Tensor], Tensor]:
        """A function from x0 [B, 4, h, w], the views of one object or several from the same cameras, to the latents of
        what its Gaussians show to those cameras. background: a colour [3]."""

        def reconstruct(x0: Tensor) -> Tensor:
            all_cameras = Cameras.joined([cameras] * (len(x0) // len(cameras)))
            chosen = self.chosen(len(x0), cameras.num_views)
            scenes = self(prior.decode(x0[chosen.to(x0.device)]), all_cameras.take(chosen, self.input_views))
            rgb = torch.cat([scene.render(cameras, background=background).rgb for scene in scenes])
            return prior.encode_images(rgb.clamp(0, 1).movedim(-1, 1))

        return reconstruct

    def chosen(self, count: int, num_views: int, first: int = 0) -> Tensor:
        """Numbers of the input views among `count` views, `num_views` of each object; see `inputs_of`."""
        starts = torch.arange(0, count, num_views)[:, None]
        return (starts + self.inputs_of(num_views, first)).flatten()


def aware_timesteps(config: AwareConfig, timesteps: list[int]) -> set[int]:
    """Those of the sampler's timesteps at which x0 is replaced.

    Raises ConfigError for a step outside the loop, and for one that is asked for although it comes too early.
    """
    if outside := [step for step in config.steps if step >= len(timesteps)]:
        raise ConfigError(f"aware.steps: there is no step {outside[0]} among the sampler's 0 .. {len(timesteps) - 1}")
    if early := [step for step in config.steps if timesteps[step] > config.max_timestep]:
        raise ConfigError(
            f"aware.steps: step {early[0]} is at timestep {timesteps[early[0]]}, above aware.max_timestep="
            f"{config.max_timestep}, where x0 is a guess"
        )
    chosen = {timesteps[step] for step in config.steps}
    if config.every:
        chosen |= {t for t in timesteps[:: config.every] if t <= config.max_timestep}
    return chosen


def aware(
    denoiser: Denoiser, config: AwareConfig, timesteps: list[int], reconstruct: Callable[[Tensor], Tensor]
) -> Denoiser:
    """The denoiser that the config asks for, around another: a `Guided` one with guidance=latents."""
    chosen = aware_timesteps(config, timesteps)
    if not chosen:
        return denoiser
    return Reconstructed(denoiser, reconstruct, chosen, config.blend, config.guidance is AwareGuidance.before)
