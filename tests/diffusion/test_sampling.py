"""Solvers against the exact solution for Gaussian data, for which the best denoiser is known."""

import pytest
import torch

from threedgen.cameras import orbit
from threedgen.config.sampling import Sampler
from threedgen.diffusion.conditions import Conditions
from threedgen.diffusion.denoising import Denoised, Guided, Pinned
from threedgen.diffusion.prior import MultiViewPrior
from threedgen.diffusion.sampling import ddim, ddim_timesteps, sample_views, solve
from threedgen.diffusion.schedule import NoiseSchedule, cosine_schedule, stable_diffusion_schedule

_MEAN, _SPREAD = 0.7, 0.2


class _BestDenoiser:
    """Of x0 ~ N(_MEAN, _SPREAD^2), so that noisy ~ N(alpha _MEAN, alpha^2 _SPREAD^2 + sigma^2)."""

    num_views = 4

    def __init__(self, scheduler):
        levels = scheduler.alphas_cumprod.double()
        self.schedule = NoiseSchedule(levels, float(levels[-1]) == 0)

    def __call__(self, noisy, timestep):
        alpha, sigma = self.schedule.level(timestep)
        x0 = _MEAN + alpha * _SPREAD**2 / (alpha**2 * _SPREAD**2 + sigma**2) * (noisy - alpha * _MEAN)
        return Denoised((noisy - alpha * x0) / sigma, x0)

    def exact(self, noisy, timestep):
        """Along the probability flow a sample stays at its number of standard deviations."""
        alpha, sigma = self.schedule.level(torch.tensor([timestep]))
        return _MEAN + _SPREAD * (noisy - alpha * _MEAN) / (alpha**2 * _SPREAD**2 + sigma**2).sqrt()


@pytest.mark.parametrize("scheduler", [stable_diffusion_schedule(), cosine_schedule()], ids=["sd", "zero snr"])
@pytest.mark.parametrize("sampler", [Sampler.dpm, Sampler.unipc])
def test_a_solver_with_two_thirds_of_the_steps_is_nearer_to_the_truth_than_ddim(sampler, scheduler):
    denoiser = _BestDenoiser(scheduler)
    noisy = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def error(found, first):
        return (found - denoiser.exact(noisy, first)).abs().max().item()

    slow = error(ddim(denoiser, noisy, ddim_timesteps(30)), ddim_timesteps(30)[0])
    fast = error(solve(denoiser, noisy, 20, sampler), 999)
    assert fast < slow, (fast, slow)
    assert error(solve(denoiser, noisy, 40, sampler), 999) < 0.02


@pytest.mark.parametrize("scheduler", [stable_diffusion_schedule(), cosine_schedule()], ids=["sd", "zero snr"])
def test_trailing_steps_begin_at_the_end_of_the_schedule_and_come_nearer_than_leading_ones(scheduler):
    assert ddim_timesteps(6, Sampler.ddim_trailing) == [999, 832, 666, 499, 332, 166]
    for steps in range(1, 501):
        timesteps = ddim_timesteps(steps, Sampler.ddim_trailing)
        assert (len(timesteps), timesteps[0]) == (steps, 999) and timesteps[-1] > 0
        assert timesteps == sorted(set(timesteps), reverse=True)
    # to noise that holds nothing of a sample the answer is the mean, whatever it is: 876 is not there yet
    denoiser, found = _BestDenoiser(scheduler), {}
    for sampler in (Sampler.ddim, Sampler.ddim_trailing):
        noisy = torch.randn(64, 4, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        found[sampler] = ddim(denoiser, noisy, ddim_timesteps(8, sampler))
        assert len(ddim_timesteps(8, sampler)) == 8
    off = {sampler: abs(views.mean().item() - _MEAN) for sampler, views in found.items()}
    assert off[Sampler.ddim_trailing] < off[Sampler.ddim] / 1.5, off


@torch.no_grad()
@pytest.mark.parametrize("sampler", [Sampler.ddim, Sampler.ddim_trailing])
def test_views_are_guided_and_rescaled_as_is_asked(sampler):
    prior, cameras = MultiViewPrior.from_pretrained("mini"), orbit([0, 180], 15, 2, 40, 64, num_views=2)
    how = {"negative_prompt": "a blue dog", "num_inference_steps": 2, "guidance_scale": 3.0, "rescale": 0.6}
    how["guidance_range"] = (0.6, 1.0)  # the first step alone
    found = sample_views(prior, ["a red cat"], cameras, torch.Generator().manual_seed(5), sampler=sampler, **how)
    text, negative = prior.encode_text(["a red cat"]), prior.encode_text(["a blue dog"])
    edge = prior.unet.config.sample_size
    noise = torch.randn(2, 4, edge, edge, generator=torch.Generator().manual_seed(5))
    guided = Guided(prior, Conditions(text, cameras, 2), negative, 3.0, 0.6, (0.6, 1.0))
    expected = ddim(guided, noise, ddim_timesteps(2, sampler))
    torch.testing.assert_close(found, prior.decode(expected))


class _BestOfPairs:
    """Of pairs of views, each as of `_BestDenoiser`, whose correlation is known."""

    num_views, correlation = 2, 0.9

    def __init__(self):
        levels = cosine_schedule().alphas_cumprod.double()
        self.schedule = NoiseSchedule(levels, float(levels[-1]) == 0)

    def __call__(self, noisy, timestep):
        alpha, sigma = (level.flatten()[0] for level in self.schedule.level(timestep))
        own = _SPREAD**2 * torch.tensor([[1.0, self.correlation], [self.correlation, 1.0]], dtype=torch.float64)
        gain = alpha * own @ torch.linalg.inv(alpha**2 * own + sigma**2 * torch.eye(2, dtype=torch.float64))
        x0 = _MEAN + torch.einsum("uv,pv...->pu...", gain, noisy.unflatten(0, (-1, 2)) - alpha * _MEAN).flatten(0, 1)
        return Denoised((noisy - alpha * x0) / sigma, x0)


@pytest.mark.parametrize("sampler", Sampler)
def test_a_pinned_view_is_what_it_was_said_to_be_and_the_other_follows_it(sampler):
    noisy = torch.randn(400, 4, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    known = torch.full((1, 4, 2, 2), _MEAN + 2 * _SPREAD, dtype=torch.float64)
    denoiser = Pinned(_BestOfPairs(), known)

    def sampled(denoiser):
        if sampler.looks_back:
            return solve(denoiser, noisy, 40, sampler).unflatten(0, (-1, 2)).unbind(1)
        return ddim(denoiser, noisy, ddim_timesteps(40, sampler)).unflatten(0, (-1, 2)).unbind(1)

    first, other = sampled(denoiser)
    torch.testing.assert_close(first, known.expand_as(first), atol=0.03, rtol=0)
    # told without noise the other would be off by 0.9 * 2 * _SPREAD in the mean; through noise it hears of it late
    off = [(view.mean().item() - _MEAN) / (0.9 * 2 * _SPREAD) for view in (sampled(_BestOfPairs())[1], other)]
    assert abs(off[0]) < 0.05 and 0.4 < off[1] < 1.0
    assert 0.4 < other.std().item() / _SPREAD < 0.9
    found = denoiser(noisy, torch.full((400,), 500))
    alpha, sigma = denoiser.schedule.level(torch.full((400,), 500))
    torch.testing.assert_close(alpha * found.x0 + sigma * found.noise, noisy)


def test_a_solver_and_a_replaced_x0_do_not_go_together():
    prior = MultiViewPrior.from_pretrained("mini")
    with pytest.raises(ValueError, match="look back"):
        sample_views(prior, ["a cat"], None, torch.Generator(), sampler=Sampler.dpm, around=lambda guided, t: guided)
