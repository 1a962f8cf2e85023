"""Noise schedules: how much signal and noise a timestep has. Stable Diffusion's, which MVDream keeps."""

from dataclasses import dataclass

from diffusers import DDIMScheduler
from torch import Tensor

from threedgen.core.transfer import to_device


@dataclass(frozen=True)
class NoiseSchedule:
    """noisy = alpha_t * x0 + sigma_t * noise, with alpha_t^2 + sigma_t^2 = 1 (Ho et al. 2020)."""

    alphas_cumprod: Tensor  # [T] alpha_bar = alpha^2, falling
    ends_in_noise: bool = False  # alpha is 0 at the last timestep ("zero terminal SNR", Lin et al. 2023)

    def __len__(self) -> int:
        return len(self.alphas_cumprod)

    def level(self, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """alpha_t = sqrt(alpha_bar_t) and sigma_t = sqrt(1 - alpha_bar_t), each [B, 1, 1, 1].

        timestep: [B] or [], on the CPU or on the schedule's device.
        """
        alpha_bar = self.alphas_cumprod[to_device(timestep, self.alphas_cumprod.device)].reshape(-1, 1, 1, 1)
        return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()


def stable_diffusion_schedule(prediction_type: str = "epsilon") -> DDIMScheduler:
    """Stable Diffusion's betas, with the original DDIM sampler's conventions for first and last step."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction_type,
    )


def cosine_schedule() -> DDIMScheduler:
    """The cosine schedule (Nichol & Dhariwal 2021), rescaled so that it ends in pure noise (Lin et al. 2023), with
    velocity prediction: that of VideoMV's image-to-video network. Its first and last step as above."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="squaredcos_cap_v2",
        rescale_betas_zero_snr=True,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
    )
