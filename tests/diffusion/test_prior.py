"""A prior as a whole: what is saved is what is loaded, what a checkpoint predicts becomes noise, samples are true."""

import copy
import gc
import math
import weakref
from dataclasses import replace

import pytest
import torch
from diffusers import DDIMScheduler

from threedgen.cameras import Cameras, mvdream_camera_vectors, orbit
from threedgen.core.errors import ConfigError, ThreedgenError, WeightsMissingError
from threedgen.data.miniworld import vocabulary
from threedgen.data.miniworld.reading import Reading
from threedgen.diffusion.conditions import Conditions
from threedgen.diffusion.denoising import Denoised, Guided
from threedgen.diffusion.mini import new_mini_prior, new_mini_vae
from threedgen.diffusion.prior import MultiViewPrior
from threedgen.diffusion.sampling import ddim, ddim_timesteps
from threedgen.diffusion.start import grow_vocabulary
from threedgen.diffusion.text.prompts import check_prompt, read_prompt, unknown_words
from threedgen.diffusion.text.word_file import WordFile


@pytest.fixture(scope="module")
def prior():
    torch.manual_seed(0)
    return new_mini_prior(vocabulary(), new_mini_vae()).eval().requires_grad_(False)


def _forward(prior):
    rng = torch.Generator().manual_seed(0)
    latents, cameras = torch.randn(4, 4, 16, 16, generator=rng), orbit([0, 90, 180, 270], 15, 2, 40, 64, num_views=4)
    told = Conditions(prior.encode_text(["a red cat"]), cameras, 4)
    noise = prior.denoise(latents, torch.full((4,), 400), told).noise
    return noise, prior.decode(latents), prior.encode_images(torch.rand(1, 3, 64, 64, generator=rng))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 0.0), (torch.float16, 0.02)])
def test_saved_and_loaded_priors_are_equal(prior, tmp_path, dtype, tolerance):
    prior.save_pretrained(tmp_path / "prior", dtype)
    loaded = MultiViewPrior.from_pretrained(tmp_path / "prior")
    assert loaded.image_size == 64
    assert not any(p.requires_grad for p in loaded.parameters())
    for before, after in zip(_forward(prior), _forward(loaded), strict=True):
        torch.testing.assert_close(after, before, atol=tolerance, rtol=tolerance)
    assert next(prior.parameters()).dtype == torch.float32  # saving halves a copy, not the model


def test_a_prior_that_only_reads_reads_as_with_the_tokenizer_of_transformers():
    whole, reader = (MultiViewPrior.from_pretrained("mini", only_reads=only_reads) for only_reads in (False, True))
    assert isinstance(reader.tokenizer, WordFile) and not isinstance(whole.tokenizer, WordFile)
    long = "a red cat, " * 9
    for prompts in (["a red cat with a green face", "", "A Zebra, 3d asset!", long, "a [v] cat"], [long]):
        assert torch.equal(reader.encode_text(prompts), whole.encode_text(prompts))
    for prior in (whole, reader):  # what was read does not change what is checked
        with pytest.raises(ConfigError, match="38 tokens"):
            check_prompt(prior.tokenizer, long)


def test_weights_in_half_precision_take_and_give_float32():
    """bfloat16 holds 8 bits: results agree to a few percent, and the noise schedule is not rounded at all."""
    full, half = MultiViewPrior.from_pretrained("mini"), MultiViewPrior.from_pretrained("mini", torch.bfloat16)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    assert torch.equal(half.alphas_cumprod, full.alphas_cumprod) and half.alphas_cumprod.dtype == torch.float32
    for actual, expected in zip(_forward(half), _forward(full), strict=True):
        assert actual.dtype == torch.float32
        assert (actual - expected).norm() < 0.05 * expected.norm()
    text = half.encode_text(["a red cat"])
    assert text.dtype == torch.float32
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    half.encode_images(images).sum().backward()
    assert images.grad.dtype == torch.float32 and images.grad.abs().max() > 0


def test_a_prior_without_text_encoder_shares_the_rest_and_says_so():
    whole = MultiViewPrior.from_pretrained("mini")
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    prior, encoder = whole.without_text_encoder(), weakref.ref(whole.text_encoder)
    assert {*map(id, prior.parameters())} == {id(p) for part in (whole.unet, whole.vae) for p in part.parameters()}
    assert torch.equal(prior.encode_images(images), whole.encode_images(images)) and not prior.training
    assert whole.encode_text(["a red cat"]).isfinite().all()  # nothing was taken out of it
    with pytest.raises(RuntimeError, match="without its text encoder"):
        prior.encode_text(["a red cat"])
    del whole
    gc.collect()
    assert encoder() is None  # its memory is free


def test_missing_weights_say_what_to_do(tmp_path):
    (tmp_path / "unet").mkdir()
    with pytest.raises(
        WeightsMissingError, match=r"tokenizer, text_encoder, vae, scheduler/ not found.*weights=FOLDER"
    ):
        MultiViewPrior.from_pretrained(tmp_path)


def test_velocity_and_noise_predictions_agree(prior, monkeypatch):
    """If the network knew x0 and the noise, both parametrisations must return that noise."""
    rng = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 4, 16, 16, generator=rng), torch.randn(2, 4, 16, 16, generator=rng)
    timestep = torch.tensor([50, 900])
    alpha, sigma = prior.schedule.level(timestep)
    noisy = alpha * x0 + sigma * noise
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones(2, 1, 1, 1))
    answers = {"v_prediction": alpha * noise - sigma * x0, "epsilon": noise}
    for kind, answer in answers.items():
        monkeypatch.setattr(prior.unet, "forward", lambda *args, answer=answer: answer)
        monkeypatch.setattr(prior, "_predicts_velocity", kind == "v_prediction")
        told = Conditions(torch.zeros(2, 1, 96))
        actual = prior.denoise(noisy, timestep, told)
        torch.testing.assert_close(actual.noise, noise, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(actual.x0, x0, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(prior.losses(x0, noise, timestep, told), torch.zeros(2))
        assert (prior.losses(x0 + 1, noise, timestep, told) > 0.001).all() == (kind == "v_prediction")


def test_unknown_words_are_named_with_what_is_known(prior):
    check_prompt(prior.tokenizer, "A red Cat with a GREEN face, 3d asset")
    with pytest.raises(ConfigError) as error:
        check_prompt(prior.tokenizer, "a red zebra on a red spoon")
    message = str(error.value)
    assert "'zebra', 'spoon'" in message and "rabbit" in message and "mvdream-sd21.yaml" in message
    assert "\n" not in message
    with pytest.raises(ConfigError, match="shorten"):
        check_prompt(prior.tokenizer, "a red cat " * 10)


def test_a_prompt_is_read_as_a_caption_where_that_is_what_was_learned(prior):
    assert read_prompt(prior.tokenizer, "The kitty is red.").text == "a red cat"
    assert read_prompt(prior.tokenizer, "The kitty is red; 3D asset.").text == "a red cat, 3d asset"
    assert read_prompt(prior.tokenizer, "a red cat, 3d asset") == Reading("a red cat, 3d asset")
    assert read_prompt(prior.tokenizer, "the ugly red cat", negative=True).text == "red cat"
    with pytest.raises(ConfigError, match="one thing is drawn at a time"):
        read_prompt(prior.tokenizer, "two red cats")


def test_a_prompt_with_words_learned_besides_stays_as_it_is(prior):
    named = copy.deepcopy(prior)
    grow_vocabulary(named, ["[v]", "quince"])
    for prompt in ("a [v] cat", "red quince", "a [V] cat wearing hat"):
        assert read_prompt(named.tokenizer, prompt) == Reading(prompt)
    assert read_prompt(named.tokenizer, "a cat in red").text == "a red cat"  # the old words mean what they did
    with pytest.raises(ConfigError, match="does not know 'the'"):
        read_prompt(named.tokenizer, "the [v] cat")


def test_a_prior_of_other_words_reads_no_captions():
    prior = new_mini_prior(["a red cat in the garden"], new_mini_vae())
    assert read_prompt(prior.tokenizer, "the cat in red") == Reading("the cat in red")
    with pytest.raises(ConfigError, match="does not know 'kitty'"):
        read_prompt(prior.tokenizer, "a kitty")
    with pytest.raises(ConfigError, match="reads 20; shorten it"):
        read_prompt(prior.tokenizer, "a red cat " * 7)


@pytest.mark.parametrize(("word", "prompt"), [("purple", "a purple cat"), ("zigzags", "a red cat with white zigzags")])
def test_colours_and_patterns_that_a_prior_has_not_learned_are_replaced(word, prompt):
    prior = new_mini_prior([known for known in vocabulary() if known != word], new_mini_vae())
    reading = read_prompt(prior.tokenizer, prompt)
    assert reading.text != prompt and not unknown_words(prior.tokenizer, reading.text)
    assert f"{word!r} is read as" in reading.notes[0]
    assert read_prompt(prior.tokenizer, "The kitty is red.").text == "a red cat"


def test_a_subject_s_name_is_one_word_where_a_colour_would_be(prior):
    """Otherwise what follows stands at places in the sentence where the text encoder has never met it."""
    named, red = (prior.tokenizer(f"a {word} cat wearing a blue hat").input_ids for word in ("[v]", "red"))
    assert [a == b for a, b in zip(named, red, strict=True)] == [i != 2 for i in range(len(red))]
    assert unknown_words(prior.tokenizer, "a [V] cat, [ v ]") == ["[V]", "[", "v", "]"]


def test_padding_and_case_do_not_matter_but_words_do(prior):
    first, second, other = prior.encode_text(["a red cat", "A RED cat", "a blue cat"])
    torch.testing.assert_close(first, second)
    assert not torch.allclose(first, other)


def test_every_number_of_steps_stays_on_the_schedule():
    for steps in range(1, 501):
        timesteps = ddim_timesteps(steps)
        assert len(timesteps) >= steps and min(timesteps) > 0 and max(timesteps) < 1000
        assert timesteps == sorted(set(timesteps), reverse=True)


def test_ddim_timesteps_are_the_reference_sampler_s(goldens):
    for steps in (25, 30, 50):
        assert ddim_timesteps(steps) == goldens[f"sched.ddim_timesteps_{steps}"].flip(0).tolist()


def test_schedule_is_stable_diffusion_s(goldens, prior):
    torch.testing.assert_close(prior.alphas_cumprod.double(), goldens["sched.alphas_cumprod"], atol=1e-6, rtol=1e-5)


class _GaussianPrior:
    """What knows exactly the data that it denoises: drawn from N(mean, std^2)."""

    num_views = 1

    def __init__(self, schedule, mean, std):
        self.schedule, self.mean, self.std = schedule, mean, std

    def __call__(self, noisy, timestep):
        alpha, sigma = self.schedule.level(timestep)
        variance = alpha**2 * self.std**2 + sigma**2
        x0 = self.mean + alpha * self.std**2 * (noisy - alpha * self.mean) / variance
        return Denoised(sigma * (noisy - alpha * self.mean) / variance, x0)

    def denoise(self, noisy, timestep, told):
        return self(noisy, timestep)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_sampling_draws_from_a_known_distribution(prior, eta):
    """With the exact score of a Gaussian, DDIM must end in that Gaussian (but for the noise left at t = 981)."""
    gaussian, rng = _GaussianPrior(prior.schedule, mean=0.7, std=0.3), torch.Generator().manual_seed(0)
    noise = torch.randn(64, 4, 8, 8, generator=rng)
    latents = ddim(gaussian, noise, ddim_timesteps(200), eta=eta, generator=rng)
    correlation = torch.corrcoef(torch.stack([latents.flatten(), noise.flatten()]))[0, 1]
    assert (correlation > 0.99) if eta == 0 else (correlation < 0.9 - 0.7 * (eta - 0.5))  # noise comes anew
    assert latents.mean().item() == pytest.approx(0.7, abs=0.06)
    assert latents.std().item() == pytest.approx(0.3, rel=0.1)
    assert math.isfinite(latents.abs().max().item())


def test_sampling_with_constant_noise_ends_at_the_schedule_s_first_level(prior):
    """Closed form: x0 never changes, and the last step leaves alpha_0 x0 + sigma_0 noise (set_alpha_to_one=False)."""
    rng = torch.Generator().manual_seed(0)
    start, noise = torch.randn(2, 4, 8, 8, generator=rng), torch.randn(2, 4, 8, 8, generator=rng)
    constant = _GaussianPrior(prior.schedule, 0.0, 1.0)
    constant.denoise = lambda noisy, *_: Denoised(torch.cat([noise, noise]), noisy * 0)
    text = torch.zeros(1, 1, 1)
    latents = ddim(Guided(constant, Conditions(text), text, 7.5), start, ddim_timesteps(50))
    (alpha_981, sigma_981), (alpha_0, sigma_0) = (prior.schedule.level(torch.tensor(t)) for t in (981, 0))
    x0 = (start - sigma_981 * noise) / alpha_981
    torch.testing.assert_close(latents, alpha_0 * x0 + sigma_0 * noise, atol=1e-3, rtol=1e-3)


def test_outside_its_interval_guidance_asks_once_for_what_is_wanted(prior):
    """The interval's ends, 0.3 and 0.8 of 1000 timesteps, are in it."""
    asked = []

    class Told:
        schedule = prior.schedule

        def denoise(self, noisy, timestep, told):
            noise = told.text_of(len(noisy))[..., None] + noisy  # [B, 1, 1, 1]: what each view was told
            asked.append(len(noisy))
            return Denoised(noise, -noise)

    noisy, text = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.full((1, 1, 1), 2.0)
    guided = Guided(Told(), Conditions(text), torch.full((1, 1, 1), 1.0), 5.0, 0.5, interval=(0.3, 0.8))
    always = replace(guided, interval=(0.0, 1.0))
    for t in (300, 800):
        at = torch.full((2,), t)
        assert all(torch.equal(*both) for both in zip(guided(noisy, at), always(noisy, at), strict=True))
    assert set(asked) == {4}
    asked.clear()
    for t in (0, 299, 801, 999):
        answer = Told().denoise(noisy, None, Conditions(text))
        found = replace(guided, rescale=0.0)(noisy, torch.full((2,), t))
        assert all(torch.equal(*both) for both in zip(found, answer, strict=True))
    assert set(asked) == {2}
    mixed = replace(guided, rescale=0.0)(noisy, torch.tensor([299, 300]))
    torch.testing.assert_close(mixed.noise[0], answer.noise[0])
    torch.testing.assert_close(mixed.noise[1], replace(always, rescale=0.0)(noisy, torch.tensor([300, 300])).noise[1])


def test_where_a_schedule_ends_in_noise_x0_is_still_known(prior, monkeypatch):
    """Zero terminal SNR (Lin et al. 2023): alpha is 0 at the last timestep, where x0 is minus the velocity."""
    ending = DDIMScheduler.from_config(prior.scheduler.config, rescale_betas_zero_snr=True)
    assert ending.alphas_cumprod[-1] == 0 or ending.alphas_cumprod[-1] < 1e-7
    ending.alphas_cumprod[-1] = 0
    other = MultiViewPrior(prior.tokenizer, prior.text_encoder, prior.unet, prior.vae, ending)
    gaussian, told = _GaussianPrior(other.schedule, 0.7, 0.3), Conditions(torch.zeros(1, 1, 96))

    def velocity(noisy, timestep, *_):
        alpha, sigma = other.schedule.level(timestep)
        noise, x0 = gaussian(noisy, timestep)
        return alpha * noise - sigma * x0

    monkeypatch.setattr(other.unet, "forward", velocity)
    rng = torch.Generator().manual_seed(0)
    denoiser = Guided(other, told, told.text, scale=3.0, rescale=0.5)
    latents = ddim(denoiser, torch.randn(64, 4, 8, 8, generator=rng), [999, *ddim_timesteps(200)])
    assert latents.mean().item() == pytest.approx(0.7, abs=0.02)  # nothing is left of where it started
    assert latents.std().item() == pytest.approx(0.3, rel=0.1)
    with pytest.raises(ThreedgenError, match="needs velocity prediction"):
        noise_predicting = DDIMScheduler.from_config(ending.config, prediction_type="epsilon")
        noise_predicting.alphas_cumprod[-1] = 0
        MultiViewPrior(prior.tokenizer, prior.text_encoder, prior.unet, prior.vae, noise_predicting)


def test_what_is_told_once_is_told_to_all_views():
    """Two texts of three views each, then as many with the negative one."""
    texts = torch.tensor([1.0, 2.0]).reshape(2, 1, 1)
    told = Conditions(texts, orbit([0, 120, 240], 15, 2, 40, 8, num_views=3), 3)
    assert told.text_of(6).flatten().tolist() == [1, 1, 1, 2, 2, 2]
    both = told.against(torch.full((1, 1, 1), 9.0), 6)
    assert both.text_of(12).flatten().tolist() == [1, 1, 1, 2, 2, 2] + [9] * 6
    assert Conditions(texts[:1]).text_of(3).flatten().tolist() == [1, 1, 1]


def test_the_network_is_told_the_cameras_of_all_objects(prior, monkeypatch):
    seen = []
    monkeypatch.setattr(
        prior.unet, "forward", lambda latents, t, text, camera, views, cameras: seen.append((camera, views)) or latents
    )
    cameras = orbit([0, 90, 180, 270], 15, 2, 40, 64, num_views=4)
    vectors = mvdream_camera_vectors(cameras)
    for given in (cameras, Cameras.joined([cameras, cameras])):  # of one object, of each
        prior.denoise(torch.zeros(8, 4, 16, 16), torch.tensor(5), Conditions(torch.zeros(1, 1, 96), given, 4))
        assert torch.equal(seen[-1][0], torch.cat([vectors, vectors])) and seen[-1][1] == 4
    prior.denoise(torch.zeros(8, 4, 16, 16), torch.tensor(5), Conditions(torch.zeros(1, 1, 96)))
    assert seen[-1] == (None, 1)
