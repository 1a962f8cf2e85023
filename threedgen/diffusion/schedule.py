"""The noise schedule of Stable Diffusion, which MVDream keeps."""

from diffusers import DDIMScheduler


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
