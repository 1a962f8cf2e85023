"""Sampling with a 3D reconstruction in the loop, against the released sampler's numbers and against closed forms."""

from dataclasses import replace

import pytest
import torch
from diffusers import DDIMScheduler
from safetensors.torch import load_file

from threedgen.diffusion.conditions import Conditions
from threedgen.diffusion.denoising import Denoised, Guided
from threedgen.diffusion.reconstructed import Reconstructed
from threedgen.diffusion.sampling import ddim, ddim_timesteps
from threedgen.diffusion.schedule import NoiseSchedule, cosine_schedule, stable_diffusion_schedule

FRAMES = 6
AWARE = (20, 30, 40)  # indices of the loop


@pytest.fixture(scope="module")
def golden(goldens_folder):
    return load_file(goldens_folder / "golden_videomv_sampling.safetensors")


class _Model:
    """The closed form that stands for the network in the golden numbers."""

    def __init__(self, alphas_cumprod, predicts_velocity):
        self.schedule = NoiseSchedule(alphas_cumprod, float(alphas_cumprod[-1]) == 0)
        self.predicts_velocity = predicts_velocity

    def denoise(self, noisy, timestep, told):
        y = told.text_of(len(noisy)).reshape(-1, 1, 1, 1)
        frames = noisy.unflatten(0, (-1, FRAMES)).roll(1, 1).flatten(0, 1)
        output = (0.7 * noisy + 0.3 * y).tanh() + 0.1 * frames
        alpha, sigma = self.schedule.level(timestep)
        if self.predicts_velocity:
            return Denoised(alpha * output + sigma * noisy, alpha * noisy - sigma * output)
        return Denoised(output, (noisy - sigma * output) / alpha)


def _guided(golden, name):
    model = _Model(golden[f"{name}.alphas_cumprod"], name == "i2v")
    told = Conditions(torch.ones(1, 1, 1, dtype=torch.float64), None, FRAMES)
    return Guided(model, told, torch.full((1, 1, 1), -0.5, dtype=torch.float64), {"t2v": 9.0, "i2v": 6.0}[name])


def _shrunk(x0):
    """The golden numbers' reconstruction."""
    frames = x0.unflatten(0, (-1, FRAMES))
    return (0.8 * frames.mean(1, keepdim=True) + 0.1 * frames).flatten(0, 1)


def _noise(golden, name):
    return golden[f"{name}.noise"][0].transpose(0, 1)  # [1, 4, F, h, w] -> [F, 4, h, w]


def _same(actual, expected):
    expected = expected[0].transpose(0, 1)
    assert (actual - expected).abs().max() <= 1e-6 * expected.abs().max()


@pytest.mark.parametrize("name", ["t2v", "i2v"])
def test_sampling_equals_the_released_sampler(golden, name):
    timesteps = ddim_timesteps(50)
    assert timesteps == golden[f"{name}.timesteps"].tolist()
    guided = _guided(golden, name)
    _same(ddim(guided, _noise(golden, name), timesteps), golden[f"{name}.plain"])
    aware = Reconstructed(guided, _shrunk, {timesteps[i] for i in AWARE}, before=False)
    _same(ddim(aware, _noise(golden, name), timesteps), golden[f"{name}.aware"])


def test_schedules_equal_the_released_ones(golden):
    schedules = {"t2v": stable_diffusion_schedule(), "i2v": cosine_schedule()}
    for name, schedule in schedules.items():
        torch.testing.assert_close(
            schedule.alphas_cumprod.double(), golden[f"{name}.alphas_cumprod"], atol=2e-6, rtol=1e-4
        )
    assert schedules["i2v"].alphas_cumprod[-1] == 0 and schedules["i2v"].config.prediction_type == "v_prediction"


@pytest.mark.parametrize("name", ["t2v", "i2v"])
def test_what_comes_back_is_the_replaced_x0_and_the_noise_that_belongs_to_it(golden, name):
    guided, noisy = _guided(golden, name), _noise(golden, name)
    timestep = torch.full((FRAMES,), 381)
    alpha, sigma = guided.schedule.level(timestep)
    x0 = guided(noisy, timestep).x0
    for blend in (0.0, 0.25, 1.0):
        found = Reconstructed(guided, _shrunk, {381}, blend)(noisy, timestep)
        torch.testing.assert_close(found.x0, (1 - blend) * x0 + blend * _shrunk(x0))
        torch.testing.assert_close(alpha * found.x0 + sigma * found.noise, noisy)


def test_at_other_timesteps_it_is_the_denoiser_inside(golden):
    guided, noisy = _guided(golden, "t2v"), _noise(golden, "t2v")
    aware = Reconstructed(guided, lambda x0: 1 / 0, {381})
    found, expected = aware(noisy, torch.full((FRAMES,), 400)), guided(noisy, torch.full((FRAMES,), 400))
    assert torch.equal(found.noise, expected.noise) and torch.equal(found.x0, expected.x0)
    with pytest.raises(ZeroDivisionError):
        aware(noisy, torch.full((FRAMES,), 381))


def test_with_a_perfect_reconstruction_both_orders_of_guidance_agree(golden):
    guided, noisy, timestep = _guided(golden, "i2v"), _noise(golden, "i2v"), torch.full((FRAMES,), 381)
    found = [Reconstructed(guided, lambda x0: x0, {381}, before=before)(noisy, timestep) for before in (True, False)]
    torch.testing.assert_close(found[0].x0, found[1].x0)


def test_where_guidance_does_not_count_the_reconstruction_is_that_of_what_is_wanted_alone(golden):
    noisy, timestep = _noise(golden, "i2v"), torch.full((FRAMES,), 381)
    guided = replace(_guided(golden, "i2v"), interval=(0.5, 1.0))
    wanted = replace(guided, scale=1.0)(noisy, timestep).x0
    for before in (True, False):
        found = Reconstructed(guided, _shrunk, {381}, before=before)(noisy, timestep)
        torch.testing.assert_close(found.x0, _shrunk(wanted))


def test_the_loop_is_diffusers_sampler(golden):
    """`DDIMScheduler` as the reference states it, stepping with the same guided noise."""
    guided = _guided(golden, "t2v")
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="leading", steps_offset=1,
        set_alpha_to_one=False, clip_sample=False,
    )  # fmt: skip
    scheduler.set_timesteps(50)
    latents = _noise(golden, "t2v")
    for t in scheduler.timesteps:
        latents = scheduler.step(guided(latents, t.expand(FRAMES)).noise, t, latents).prev_sample
    expected = ddim(guided, _noise(golden, "t2v"), ddim_timesteps(50))
    assert (latents - expected).abs().max() <= 1e-4 * expected.abs().max()
