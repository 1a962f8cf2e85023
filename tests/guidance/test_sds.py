"""Score distillation against the reference implementation's numbers and against closed forms."""

import pytest
import torch

from threedgen.config.guidance import GuidanceConfig, GuidanceLoss
from threedgen.config.schedules import Schedule
from threedgen.diffusion.conditions import Conditions
from threedgen.diffusion.denoising import Denoised, Guided
from threedgen.diffusion.schedule import NoiseSchedule
from threedgen.guidance.sds import ScoreDistillation, distillation_gradient

BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2


class FixedNoisePrior:
    """A prior whose latents are the pixels and whose noise prediction is given."""

    schedule = NoiseSchedule(torch.cumprod(1 - BETAS, 0).float())

    def __init__(self, noise_prediction):
        self.noise_prediction = noise_prediction

    def denoise(self, noisy, timestep, told):
        noise = self.noise_prediction(noisy) if callable(self.noise_prediction) else self.noise_prediction
        alpha, sigma = self.schedule.level(timestep)
        return Denoised(noise, (noisy - sigma * noise) / alpha)

    def encode_images(self, images):
        return images * 1.0

    def decode(self, latents):
        return latents


def guided(prior, scale=50.0, rescale=0.5, num_views=4):
    text = torch.zeros(1, 7, 32)
    return Guided(prior, Conditions(text, None, num_views), text, scale, rescale)


def _close(actual, expected, tolerance=1e-4):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance * expected.abs().max().item())


@pytest.mark.parametrize("timestep", [25, 600, 975])
@pytest.mark.parametrize("rescale", [0.0, 0.5, 1.0])
def test_reconstruction_loss_meets_the_reference(goldens, timestep, rescale):
    prior = FixedNoisePrior(goldens[f"sds.eps_pred_cond_then_uncond.t{timestep}"])
    gradient, x0 = distillation_gradient(
        guided(prior, rescale=rescale),
        goldens["sds.latents"],
        goldens["sds.noise"],
        torch.full((8,), timestep),
        GuidanceLoss.reconstruction,
    )
    key = f"t{timestep}_rescale{rescale}"
    _close(x0, goldens[f"sds.target.{key}"])
    _close(gradient, goldens[f"sds.grad.{key}"])
    _close(gradient.norm().reshape(1), goldens[f"sds.grad_norm.{key}"])


@pytest.mark.parametrize("loss", list(GuidanceLoss))
def test_loss_has_the_stated_gradient(loss):
    torch.manual_seed(0)
    prior = FixedNoisePrior(lambda noisy: torch.tanh(noisy))
    config = GuidanceConfig(loss=loss, image_size=8)
    rgb = torch.rand(8, 8, 8, 3, requires_grad=True)
    output = ScoreDistillation(prior, config, seed=3)(rgb, guided(prior, 7.5), 10, 100)
    output.loss.backward()
    assert output.timestep.shape == (2,) and output.timestep[0] == output.timestep[1]
    assert rgb.grad.norm().item() == pytest.approx(output.grad_norm.item(), rel=1e-5)


def test_plain_sds_is_the_weighted_noise_residual():
    """Closed form: sigma^2 (uncond + s (cond - uncond) - noise) / B."""
    torch.manual_seed(0)
    cond, uncond, latents, noise = torch.randn(4, 4, 4, 8, 8)
    prior = FixedNoisePrior(torch.cat([cond, uncond]))
    denoiser, timestep = guided(prior, 10.0, 0.0, num_views=1), torch.full((4,), 300)
    gradient, _ = distillation_gradient(denoiser, latents, noise, timestep, GuidanceLoss.sds)
    weight = 1 - torch.cumprod(1 - BETAS, 0)[300].float()
    _close(gradient, weight * (uncond + 10 * (cond - uncond) - noise) / 4, 1e-5)


def test_unrescaled_reconstruction_is_sds_weighted_by_sigma_over_alpha():
    torch.manual_seed(0)
    prior = FixedNoisePrior(torch.randn(8, 4, 8, 8))
    latents, noise = torch.randn(4, 4, 8, 8), torch.randn(4, 4, 8, 8)
    run = (guided(prior, 7.5, 0.0), latents, noise, torch.full((4,), 700))
    reconstruction, _ = distillation_gradient(*run, GuidanceLoss.reconstruction)
    sds, _ = distillation_gradient(*run, GuidanceLoss.sds)
    alpha, sigma = prior.schedule.level(torch.tensor(700))
    _close(reconstruction, sds / (alpha * sigma), 1e-5)


def test_timesteps_stay_in_the_annealed_range_and_reach_both_ends():
    config = GuidanceConfig(min_timestep=Schedule(0.98, 0.02, 0.0, 0.8), max_timestep=Schedule(0.98, 0.5, 0.0, 0.8))
    guidance = ScoreDistillation(FixedNoisePrior(None), config, seed=0)
    drawn = torch.stack([guidance._draw_timestep(1, step, 10000, 1000)[0] for step in range(10000)])
    assert drawn[0] == 980
    # the reference's own values of the range at these steps (its scalar schedule C)
    for step, low, high in ((1000, 860, 919), (4000, 500, 740), (8000, 20, 500), (9999, 20, 500)):
        window = drawn[max(0, step - 30) : step + 1]
        assert low <= drawn[step] <= high
        assert window.min() >= low and window.max() <= high + 3
    late = drawn[8000:]
    assert late.min() <= 24 and late.max() >= 496
    narrow = GuidanceConfig(min_timestep=Schedule(0.25, 0.25), max_timestep=Schedule(0.252, 0.252))
    guidance = ScoreDistillation(FixedNoisePrior(None), narrow, seed=0)
    assert {int(guidance._draw_timestep(1, step, 50, 1000)[0]) for step in range(50)} == {250, 251, 252}


def test_noise_is_normal_and_drawn_for_seed_and_step():
    """And pictures of another size are taken at the config's: at half of it every pixel is the mean of four."""
    seen = []
    prior = FixedNoisePrior(lambda noisy: seen.append(noisy) or noisy)
    rgb = torch.rand(4, 64, 64, 3, generator=torch.Generator().manual_seed(1))
    level = Schedule(0.05, 0.05)
    config = GuidanceConfig(image_size=32, min_timestep=level, max_timestep=level)
    latents, noises = rgb.view(4, 32, 2, 32, 2, 3).mean((2, 4)).movedim(-1, 1), []
    for seed, step in ((3, 10), (3, 10), (3, 11), (4, 10)):
        guidance = ScoreDistillation(prior, config, seed)
        alpha, sigma = prior.schedule.level(guidance(rgb, guided(prior, 1.0), step, 100).timestep)
        noises.append((seen.pop() - alpha * latents) / sigma)
        assert abs(noises[-1].mean()) < 0.05 and noises[-1].std() == pytest.approx(1, abs=0.05)
    first, again, *others = noises
    _close(first, again)
    assert all(torch.corrcoef(torch.stack([first, other]).flatten(1))[0, 1].abs() < 0.05 for other in others)


def test_gradient_clip_shortens_but_does_not_turn():
    torch.manual_seed(0)
    prior = FixedNoisePrior(lambda noisy: torch.tanh(noisy))
    gradients = []
    for limit in (0.0, 3.0):
        rgb = torch.rand(4, 8, 8, 3, generator=torch.Generator().manual_seed(1), requires_grad=True)
        config = GuidanceConfig(image_size=8, gradient_clip=limit)
        ScoreDistillation(prior, config, seed=3)(rgb, guided(prior), 10, 100).loss.backward()
        gradients.append(rgb.grad.flatten(1))
    free, clipped = gradients
    assert (free.norm(dim=1) * 4 > 3.0).all()
    torch.testing.assert_close(clipped.norm(dim=1) * 4, torch.full((4,), 3.0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(torch.cosine_similarity(free, clipped), torch.ones(4))
