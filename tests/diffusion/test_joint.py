"""Mixtures of two models against the independent reference's numbers, and against either model alone."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from threedgen.cameras import viewing_cameras
from threedgen.config.guidance import GuidanceConfig, JointConfig, JointMode
from threedgen.config.sampling import Sampler
from threedgen.config.scene import CameraConfig
from threedgen.config.schedules import Schedule, Shape, ShapedSchedule
from threedgen.diffusion.conditions import Conditions
from threedgen.diffusion.denoising import Denoised, Guided
from threedgen.diffusion.image_prior import ImagePrior
from threedgen.diffusion.joint import Joint, OnSchedule, matching_timesteps
from threedgen.diffusion.prior import MultiViewPrior
from threedgen.diffusion.reconstructed import Reconstructed
from threedgen.diffusion.sampling import ddim, ddim_timesteps, sample_views
from threedgen.diffusion.schedule import NoiseSchedule
from threedgen.guidance.sds import ScoreDistillation

VIEWS = 4
TIMESTEPS = (34, 595, 991)
NOTHING = torch.zeros(1, 1, 1, dtype=torch.float64)


@pytest.fixture(scope="module")
def golden(goldens_folder):
    return load_file(goldens_folder / "golden_epipolar.safetensors")


def _same(found, expected, tolerance=1e-5):
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()


class _Raw:
    """A network's recorded outputs, by the number of views that it is told of: with the prompt, then without."""

    def __init__(self, alphas_cumprod, kind, outputs):
        self.schedule, self.kind, self.outputs = NoiseSchedule(alphas_cumprod), kind, outputs

    def denoise(self, noisy, timestep, told):
        output = torch.cat(self.outputs[told.num_views])[: len(noisy)]  # of scale 1 only what is wanted is asked for
        alpha, sigma = self.schedule.level(timestep)
        noise = alpha * output + sigma * noisy if self.kind == "v" else output
        return Denoised(noise, (noisy - sigma * noise) / alpha)


def _recorded(golden, t, weight, mode=JointMode.mix, rescale=0.0, cosine=False, multiview_scale=3.0):
    raw = {name: golden[f"mix.t{t}.raw.{name}"] for name in _names(golden, f"mix.t{t}.raw.")}
    sd = golden["schedule.sd_alphas_cumprod"]
    together, alone = ([raw[f"{who}_{how}_v"] for how in ("cond", "uncond")] for who in ("mv", "self"))
    multiview = Guided(
        _Raw(sd, "v", {VIEWS: together, 1: alone}), Conditions(NOTHING, None, VIEWS), NOTHING, multiview_scale, rescale
    )
    if cosine:
        levels = golden["schedule.cosine_alphas_cumprod"]
        image = _Raw(levels, "v", {1: [raw["d2cos_cond_v"], raw["d2cos_uncond_v"]]})
        image = OnSchedule(image, multiview.schedule, matching_timesteps(multiview.schedule, NoiseSchedule(levels)))
    else:
        image = _Raw(sd, "eps", {1: [raw["d2_cond_eps"], raw["d2_uncond_eps"]]})
    return Joint(multiview, Guided(image, Conditions(NOTHING), NOTHING, 5.0), Schedule(weight, weight), mode)


def _names(golden, prefix):
    return [key.removeprefix(prefix) for key in golden if key.startswith(prefix)]


def _asked(golden, t, *settings, **named):
    joint = _recorded(golden, t, *settings, **named)
    return joint(golden[f"mix.t{t}.x"], torch.full((VIEWS,), t))


@pytest.mark.parametrize("t", TIMESTEPS)
def test_mixtures_are_the_reference_s(golden, t):
    key = f"mix.t{t}"
    noise, x0 = _asked(golden, t, 0.3)
    _same(noise, golden[f"{key}.eps_mix_0.3"])
    _same(x0, golden[f"{key}.x0_mix_0.3"])
    alpha, sigma = NoiseSchedule(golden["schedule.sd_alphas_cumprod"]).level(torch.tensor(t))
    _same(alpha * noise - sigma * x0, golden[f"{key}.v_mix_0.3"])
    _same(_asked(golden, t, 1.0).noise, golden[f"{key}.eps_mv"])
    _same(_asked(golden, t, 0.0).noise, golden[f"{key}.eps_2d"])
    # rescaled once, the four views of the object together
    rescaled = _asked(golden, t, 0.3, rescale=0.5)
    _same(rescaled.x0, golden[f"{key}.x0_mix_0.3_rescale_0.5"])
    _same(alpha * rescaled.x0 + sigma * rescaled.noise, golden[f"{key}.x"])
    # the 2D model on another schedule
    _same(_asked(golden, t, 0.0, cosine=True).noise, golden[f"{key}.eps_2d_cosine"])
    mixed = _asked(golden, t, 0.3, cosine=True)
    _same(mixed.noise, golden[f"{key}.eps_mix_cosine_0.3"])
    _same(alpha * mixed.x0 + sigma * mixed.noise, golden[f"{key}.x"])


@pytest.mark.parametrize("t", TIMESTEPS)
def test_consistency_is_the_reference_s(golden, t):
    key, image = f"mix.t{t}", golden[f"mix.t{t}.eps_2d"]
    for scale, guided in ((3.0, "guided"), (1.0, "cond")):
        noise = _asked(golden, t, 1.5, JointMode.consistency, multiview_scale=scale).noise
        _same(noise, golden[f"{key}.eps_2d_plus_1.5_consis_{guided}"])
        one = _asked(golden, t, 1.0, JointMode.consistency, multiview_scale=scale).noise
        _same(one - image, golden[f"{key}.eps_consis_{guided}"], 2e-5)


@pytest.mark.parametrize("t", TIMESTEPS)
def test_a_sampler_s_step_with_a_mixture_is_the_reference_s(golden, t):
    (key,) = (key for key in golden if key.startswith(f"mix.t{t}.ddim_to_t"))
    following = int(key.partition("ddim_to_t")[2].partition("_")[0])
    # ddim goes on from the second timestep to the end: the first step is what that one starts from
    started = []

    class _Second(Joint):
        def __call__(self, noisy, timestep):
            if int(timestep[0]) == following:
                started.append(noisy)
                return Denoised(noisy, noisy)
            return super().__call__(noisy, timestep)

    joint = _recorded(golden, t, 0.3)
    second = _Second(joint.multiview, joint.image, joint.weight)
    ddim(second, golden[f"mix.t{t}.x"], [t, following])
    _same(started[0], golden[key])


def test_weights_over_the_timesteps_are_the_reference_s(golden):
    ramp = {"from_fraction": 0.2, "to_fraction": 0.8}
    schedules = {
        "constant_0.7": ShapedSchedule(0.7, 0.7),
        "linear_0.5_1": ShapedSchedule(0.5, 1.0),
        "linear_1_0.25": Schedule(1.0, 0.25),
        "linear_0.25_1_from_0.2_to_0.8": ShapedSchedule(0.25, 1.0, **ramp),
        "power2_0.5_1": ShapedSchedule(0.5, 1.0, shape=Shape.power, exponent=2.0),
        "cosine_0_1": ShapedSchedule(0.0, 1.0, shape=Shape.cosine),
        "step_1_then_0.25_at_0.5": ShapedSchedule(1.0, 0.25, shape=Shape.step),
    }
    assert {f"lambda.{name}" for name in schedules} == {f"lambda.{n}" for n in _names(golden, "lambda.")} - {
        "lambda.timesteps"
    }
    timesteps = golden["lambda.timesteps"]
    for name, schedule in schedules.items():
        joint = replace(_recorded(golden, 34, 0.0), weight=schedule)
        _same(torch.tensor(joint._weights(timesteps), dtype=torch.float64).expand(31), golden[f"lambda.{name}"])


@pytest.mark.parametrize("other", ["cosine", "linear"])
def test_timesteps_are_matched_as_in_the_reference(golden, other):
    sd, theirs = (NoiseSchedule(golden[f"schedule.{name}_alphas_cumprod"]) for name in ("sd", other))
    matching, t = matching_timesteps(sd, theirs), golden["schedule.t"]
    assert matching[t].tolist() == golden[f"schedule.{other}_matching_t"].tolist()
    found = theirs.alphas_cumprod[matching[t]]
    _same((found / (1 - found)).log(), golden[f"schedule.{other}_matching_logsnr"])
    assert matching_timesteps(sd, sd).tolist() == list(range(1000))


# ---------------------------------------------------------------- with the bundled prior

PROMPTS, TYPED, UNWANTED = ["a red cat, 3d asset", "a blue cube, 3d asset"], ["a red cat", "a blue cube"], "green"
CAMERAS = viewing_cameras(CameraConfig(), [0, 120, 240], 15, 64)


@pytest.fixture(scope="module")
def prior():
    return MultiViewPrior.from_pretrained("mini")


class _Counting:
    """A model that counts what it is asked: how often in 2D mode, how often with cameras."""

    def __init__(self, model):
        self.model, self.schedule, self.asked = model, model.schedule, []

    def denoise(self, noisy, timestep, told):
        self.asked.append("2d" if told.cameras is None else "3d")
        return self.model.denoise(noisy, timestep, told)


def _joint(prior, weight, mode=JointMode.mix, self_camera=False, rescale=0.5, cameras=CAMERAS, scales=(3.0, 5.0)):
    """Two objects; the multi-view and the 2D model are one network that is asked in its two modes."""
    text, plain, unwanted = (prior.encode_text(texts) for texts in (PROMPTS, TYPED, [UNWANTED]))
    model = _Counting(prior)
    told = Conditions(text, cameras, len(cameras))
    multiview = Guided(model, told, unwanted, scales[0], rescale)
    image = Guided(model, Conditions(plain.repeat_interleave(len(cameras), 0)), unwanted, scales[1], rescale)
    return Joint(multiview, image, weight, mode, self_camera)


def _noise(count, seed=0):
    return torch.randn(count, 4, 16, 16, generator=torch.Generator().manual_seed(seed))


CONSTANT = Schedule(0.3, 0.3)
ONE, NONE = Schedule(1.0, 1.0), Schedule(0.0, 0.0)


@pytest.mark.parametrize(("weight", "kind"), [(ONE, "3d"), (NONE, "2d")])
def test_with_all_the_weight_on_one_model_sampling_is_its_own_to_the_bit_and_the_other_is_not_asked(
    prior, weight, kind
):
    joint, timesteps = _joint(prior, weight), ddim_timesteps(3)
    alone = joint.multiview if kind == "3d" else joint.image
    expected = ddim(alone, _noise(6), timesteps)
    joint.multiview.model.asked.clear()
    assert torch.equal(ddim(joint, _noise(6), timesteps), expected)
    assert joint.multiview.model.asked == [kind] * len(timesteps)


def test_where_a_falling_weight_is_1_or_0_the_answer_is_one_model_s_to_the_bit(prior):
    joint = _joint(prior, ShapedSchedule(1.0, 0.0, 0.25, 0.75))
    for t, alone in ((900, joint.multiview), (751, joint.multiview), (249, joint.image), (1, joint.image)):
        timestep = torch.full((6,), t)
        found, expected = joint(_noise(6), timestep), alone(_noise(6), timestep)
        assert torch.equal(found.noise, expected.noise) and torch.equal(found.x0, expected.x0)
    joint.multiview.model.asked.clear()
    joint(_noise(6), torch.full((6,), 500))
    assert joint.multiview.model.asked == ["3d", "2d"]


def test_objects_at_different_timesteps_have_different_weights(prior):
    joint = _joint(prior, Schedule(1.0, 0.0), rescale=0.0)
    timestep = torch.tensor([800, 800, 800, 200, 200, 200])
    a, b = joint.multiview(_noise(6), timestep).noise, joint.image(_noise(6), timestep).noise
    found = joint(_noise(6), timestep).noise
    torch.testing.assert_close(found[:3], 0.8 * a[:3] + 0.2 * b[:3], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[3:], 0.2 * a[3:] + 0.8 * b[3:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["3d", "2d"])
def test_distillation_with_all_the_weight_on_one_model_is_its_own_to_the_bit(prior, kind):
    joint = _joint(prior, ONE if kind == "3d" else NONE)
    guidance = ScoreDistillation(prior, GuidanceConfig(image_size=64), seed=3)
    found = []
    for denoiser in (joint, joint.multiview if kind == "3d" else joint.image):
        rgb = torch.rand(6, 64, 64, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
        # a picture is an object of its own to the 2D model: the timestep is one for all in both cases
        guidance(rgb, denoiser, 2, 10).loss.backward()
        found.append(rgb.grad)
    assert torch.equal(*found) and found[0].abs().max() > 0


@pytest.mark.parametrize("self_camera", [False, True])
def test_a_single_view_has_nothing_to_agree_on(prior, self_camera):
    """eps_consis is 0: what is left is the 2D model."""
    one = CAMERAS[:1]
    joint = _joint(prior, Schedule(1.5, 1.5), JointMode.consistency, self_camera, cameras=one)
    timestep = torch.full((2,), 500)
    found, expected = joint(_noise(2), timestep), joint.image(_noise(2), timestep)
    assert torch.equal(found.noise, expected.noise) and torch.equal(found.x0, expected.x0)
    if self_camera:  # and would be, were it computed
        together, alone = joint.multiview.unscaled(_noise(2), timestep)[0], joint.alone.unscaled(_noise(2), timestep)[0]
        assert torch.equal(together.noise, alone.noise)


def test_the_own_2d_mode_and_a_self_term_without_camera_make_consistency_a_mixture(prior):
    """guided.md 0.4: the same network, texts and scale: the 2D term and the self term are one, and weights add up."""
    for weight in (0.4, 1.0):
        mixture = _joint(prior, Schedule(weight, weight), scales=(3.0, 3.0))
        text = mixture.multiview.told.text.repeat_interleave(3, 0)
        image = replace(mixture.image, told=Conditions(text))
        mixture = replace(mixture, image=image)
        consistency = replace(mixture, mode=JointMode.consistency)
        timestep = torch.full((6,), 600)
        found, expected = consistency(_noise(6), timestep), mixture(_noise(6), timestep)
        torch.testing.assert_close(found.x0, expected.x0, atol=2e-5, rtol=1e-5)
        with_camera = replace(consistency, self_camera=True)(_noise(6), timestep)
        assert (with_camera.x0 - expected.x0).abs().max() > 1e-2


def test_a_view_alone_is_told_its_own_object_s_text_and_its_own_camera(prior):
    """Each view asked by itself, one after another, is the slow way to the same."""
    joint = _joint(prior, CONSTANT, JointMode.consistency, self_camera=True, rescale=0.0)
    negative = prior.encode_text(["green", "red"])
    joint = replace(joint, multiview=replace(joint.multiview, negative_text=negative))
    noisy, timestep = _noise(6), torch.full((6,), 400)
    found = joint.alone(noisy, timestep).noise
    for view in range(6):
        text = joint.multiview.told.text[view // 3 : view // 3 + 1]
        one = Guided(prior, Conditions(text, CAMERAS[view % 3 : view % 3 + 1]), negative[view // 3][None], 3.0)
        torch.testing.assert_close(one(noisy[view : view + 1], timestep[:1]).noise[0], found[view], atol=1e-5, rtol=0)


def test_sampling_mixes_with_any_sampler(prior):
    def drawn(sampler, mix=None):
        settings = {"num_inference_steps": 2, "sampler": sampler, "mix": mix}
        return sample_views(prior, PROMPTS[:1], CAMERAS[:2], torch.Generator().manual_seed(0), **settings)

    half, whole = (
        ImagePrior.beside(prior, JointConfig("own", multiview_weight=ShapedSchedule(weight, weight))).mix(
            TYPED[:1], [""]
        )
        for weight in (0.5, 1.0)
    )
    for sampler in Sampler:
        alone = drawn(sampler)
        assert torch.equal(drawn(sampler, whole), alone)
        assert (drawn(sampler, half) - alone).abs().max() > 0.05


def test_a_reconstruction_is_shown_the_mixture(prior):
    joint, timestep, seen = _joint(prior, CONSTANT, cameras=CAMERAS[:1]), torch.full((2,), 300), []
    expected = joint(_noise(2), timestep).x0
    found = Reconstructed(joint, lambda x0: seen.append(x0) or x0 + 1, {300})(_noise(2), timestep)
    assert torch.equal(seen[0], expected)
    torch.testing.assert_close(found.x0, expected + 1)
