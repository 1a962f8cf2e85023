"""The 2D model beside a multi-view prior: where it comes from, whether it fits, what it is told."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from threedgen.config.guidance import OWN_2D_MODE, JointConfig, JointMode
from threedgen.config.limits import joint_problem
from threedgen.config.schedules import value_at
from threedgen.core.errors import ConfigError, ThreedgenError
from threedgen.core.randomness import generator
from threedgen.data.miniworld.reading import Reading
from threedgen.diffusion.checkpoints.folders import load_scheduler, load_text_encoder, load_vae, read_config
from threedgen.diffusion.checkpoints.locate import adapter_base, locate_base, locate_part, locate_weights
from threedgen.diffusion.conditions import Conditions
from threedgen.diffusion.denoising import Guided, Model
from threedgen.diffusion.formats.video_unet import is_video_unet
from threedgen.diffusion.joint import Joint, Mix, OnSchedule, matching_timesteps, progress_at
from threedgen.diffusion.prior import MultiViewPrior
from threedgen.diffusion.schedule import NoiseSchedule
from threedgen.diffusion.start import check_is_stable_diffusion
from threedgen.diffusion.text.prompts import read_prompt

_SAME_VAE_DB = 35.0  # of what two decoders make of one latent: rounding to half precision is above it
# of signal and of noise: pure noise is shown to Stable Diffusion as its last timestep, which has 0.07 of signal
_SAME_LEVEL = 0.1


@dataclass(frozen=True)
class ImagePrior:
    """A 2D model that fits a multi-view prior, with the settings of their mixture. Made by `beside`."""

    prior: MultiViewPrior
    config: JointConfig
    schedule: NoiseSchedule  # the multi-view prior's
    notes: tuple[str, ...] = ()  # what fits badly, a line each

    @classmethod
    def beside(cls, multiview: MultiViewPrior, config: JointConfig) -> ImagePrior:
        """The config's 2D model, loaded with the precision and on the device of `multiview`.

        Its VAE is not kept, nor is a text encoder that is the same: two full-size models share them, and its UNet is
        loaded when the others are gone.

        Raises ConfigError, before anything is drawn, for one that cannot be mixed: no 2D mode or inputs of its own,
        another VAE, other latents, a noise schedule or a prediction that cannot be converted; and for settings that
        cannot work. Raises WeightsMissingError if there are no such weights.
        """
        if problem := joint_problem(config):
            raise ConfigError(f"joint.{problem[0]}: {problem[1]}")
        if config.mode is JointMode.consistency and not config.self_camera and not multiview.has_2d_mode:
            raise ConfigError(
                "joint.mode=consistency asks the multi-view prior in 2D mode, which it does not have: "
                "set joint.self_camera=true"
            )
        if config.weights == OWN_2D_MODE:
            if not multiview.has_2d_mode:
                raise ConfigError(f"joint.weights={OWN_2D_MODE}: {_no_2d_mode('the prior')}")
            return cls(multiview, config, multiview.schedule)
        folder = locate_base(config.weights)
        _check_has_2d_mode(folder)
        _check_schedule(folder)
        _check_vae(multiview.vae, folder)
        image = MultiViewPrior.from_pretrained(
            config.weights,
            multiview.unet.dtype,
            multiview.device,
            multiview.vae,
            multiview.text_encoder if _reads_alike(multiview, config.weights) else None,
        )
        image.replays = multiview.replays
        _check_levels(image.schedule, multiview.schedule, config)
        notes: tuple[str, ...] = ()
        if image.image_size != multiview.image_size:
            notes = (
                f"{config.weights} was trained for {image.image_size} px, the multi-view prior for "
                f"{multiview.image_size}: it draws less well there",
            )
        return cls(image, config, multiview.schedule, notes)

    def to(self, device: torch.device | str) -> ImagePrior:
        schedule = replace(self.schedule, alphas_cumprod=self.schedule.alphas_cumprod.to(device))
        return replace(self, prior=self.prior.to(device), schedule=schedule)

    def told(self, prompt: str, negative_prompt: str, allow_unknown_words: bool = False) -> tuple[Mix, tuple[str, ...]]:
        """`mix` for one prompt as it was typed, or the config's own, and a line each on what is worth knowing.

        Raises ConfigError if the 2D model cannot be told it, or if there is none.
        """
        typed = self.config.prompt or prompt
        if not typed.strip():
            raise ConfigError("joint.prompt is empty: the 2D model draws from text, whatever the other is shown")
        reading, negative = Reading(typed), Reading(negative_prompt)
        if not allow_unknown_words:
            reading = read_prompt(self.prior.tokenizer, typed)
            negative = read_prompt(self.prior.tokenizer, negative_prompt, negative=True)
        # what is remarked on a prompt that both models read is said of the other one
        remarks = reading.notes if self.config.prompt else ()
        notes = (*self.notes, f"the 2D model reads: {reading.text}", *remarks)
        return self.mix([reading.text], [negative.text]), notes

    @torch.no_grad()
    def mix(self, prompts: Sequence[str], negative_prompts: Sequence[str]) -> Mix:
        """What puts the 2D model beside the guided multi-view one.

        prompts: one for all objects or one of each; negative_prompts: the same. The text encoder is needed no longer.
        """
        text, negative = self.prior.encode_text(prompts), self.prior.encode_text(negative_prompts)
        model, config = _on_schedule(self.prior.without_text_encoder(), self.schedule), self.config

        def joined(multiview: Guided) -> Joint:
            def of_views(text: Tensor) -> Conditions:
                return Conditions(text, None, multiview.num_views).each_view_alone(False)

            scale = config.guidance_scale or multiview.scale
            image = Guided(model, of_views(text), of_views(negative).text, scale, multiview.rescale, multiview.interval)
            return Joint(multiview, image, config.multiview_weight, config.mode, config.self_camera)

        return joined


def _no_2d_mode(what: str) -> str:
    return f"{what} has no 2D mode: it is a video network, or was trained on sets of views alone"


def _check_has_2d_mode(folder: Path) -> None:
    check_is_stable_diffusion(folder, "it cannot be the 2D model of joint.weights")
    unet = read_config(locate_part(folder, "unet"))
    if is_video_unet(unet) or not unet.get("has_2d_mode", True):
        raise ConfigError(f"joint.weights: {_no_2d_mode(str(folder))}")


def _check_schedule(folder: Path) -> None:
    try:
        load_scheduler(locate_part(folder, "scheduler"))
    except ThreedgenError as error:
        raise ConfigError(f"joint.weights: {error}") from error


def _check_vae(ours: AutoencoderKL, folder: Path) -> None:
    """Raise ConfigError if latents mean something else to the VAE in `folder`."""
    theirs = load_vae(locate_part(folder, "vae"), ours.dtype, ours.device)

    def refuse(what: str, found: object, wanted: object) -> ConfigError:
        return ConfigError(
            f"joint.weights: the VAE of {folder} has {what} {found}, that of the multi-view prior {wanted}; "
            "both models must have the same"
        )

    for what, of in {
        "latent channels:": lambda vae: vae.config.latent_channels,
        "pixels along an edge of a latent:": lambda vae: 2 ** (len(vae.config.block_out_channels) - 1),
        "scaling factor": lambda vae: vae.config.scaling_factor,
        "shift": lambda vae: vae.config.shift_factor or 0.0,
    }.items():
        found, wanted = of(theirs), of(ours)
        if not math.isclose(found, wanted, rel_tol=1e-4):
            raise refuse(what, f"{found:g}", f"{wanted:g}")
    similarity = _psnr_of_decoders(ours, theirs)
    if similarity < _SAME_VAE_DB:
        raise ConfigError(
            f"joint.weights: {folder} has another VAE than the multi-view prior: what the two decode from one latent "
            f"agrees to {similarity:.1f} dB, {_SAME_VAE_DB:g} are needed"
        )


@torch.no_grad()
def _psnr_of_decoders(ours: AutoencoderKL, theirs: AutoencoderKL) -> float:
    """In dB, of pictures in 0..1 from one latent; infinite where the decoders have the same numbers."""
    parts = ("decoder", "post_quant_conv")
    if all(_are_equal(getattr(ours, part), getattr(theirs, part)) for part in parts):
        return math.inf
    noise = torch.randn(1, ours.config.latent_channels, 8, 8, generator=generator(0, 0, "latent to decode"))
    latent = (noise / ours.config.scaling_factor).to(ours.device, ours.dtype)
    one, other = (vae.decode(latent).sample.float().clamp(-1, 1) / 2 for vae in (ours, theirs))
    return -10 * (one - other).square().mean().clamp_min(1e-20).log10().item()


def _are_equal(one: nn.Module | None, other: nn.Module | None) -> bool:
    """Whether two modules have the same numbers under the same names."""
    ours, theirs = (module.state_dict() if module is not None else {} for module in (one, other))
    return ours.keys() == theirs.keys() and all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def _reads_alike(multiview: MultiViewPrior, weights: str) -> bool:
    """Whether other weights have the prior's text encoder and will not change it."""
    folder = locate_weights(weights)
    if multiview.text_encoder is None or adapter_base(folder):
        return False
    theirs = load_text_encoder(locate_part(folder, "text_encoder"), multiview.text_encoder.dtype, multiview.device)
    return _are_equal(theirs, multiview.text_encoder)


def _on_schedule(image: MultiViewPrior, schedule: NoiseSchedule) -> Model:
    """The 2D model, to be asked at the timesteps of `schedule`."""
    if torch.equal(image.alphas_cumprod, schedule.alphas_cumprod):
        return image
    return OnSchedule(image, schedule, matching_timesteps(schedule, image.schedule).cpu())


def _check_levels(own: NoiseSchedule, schedule: NoiseSchedule, config: JointConfig) -> None:
    """Raise ConfigError if the 2D model is asked for a mixture of signal and noise that its schedule has not."""
    timesteps = matching_timesteps(schedule, own)
    every = torch.arange(len(schedule), device=timesteps.device)
    levels = zip(schedule.level(every), own.level(timesteps), strict=True)
    apart = torch.stack([(wanted - found).abs().flatten() for wanted, found in levels]).amax(0).tolist()
    for t, gap in enumerate(apart):
        share = value_at(config.multiview_weight, progress_at(t, schedule)) if config.mode is JointMode.mix else 0.0
        if share < 1 and gap > _SAME_LEVEL:
            raise ConfigError(
                f"joint.weights: the noise schedule of {config.weights} cannot be matched: none of its timesteps is as "
                f"noisy as the multi-view prior's {t}"
            )
