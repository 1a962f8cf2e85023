"""The 2D model beside a prior: a plain Stable Diffusion folder answers as such; what does not fit is refused."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from threedgen import MultiViewPipeline
from threedgen.cameras import viewing_cameras
from threedgen.config.guidance import JointConfig, JointMode
from threedgen.config.scene import CameraConfig
from threedgen.config.schedules import Shape, ShapedSchedule
from threedgen.core.errors import ConfigError, WeightsMissingError
from threedgen.diffusion.checkpoints.locate import BUNDLED_FOLDER
from threedgen.diffusion.conditions import Conditions
from threedgen.diffusion.denoising import Guided
from threedgen.diffusion.image_prior import ImagePrior
from threedgen.diffusion.networks.multiview_unet import MultiViewUNet
from threedgen.diffusion.prior import MultiViewPrior
from threedgen.diffusion.sampling import ddim, ddim_timesteps

CAMERAS = viewing_cameras(CameraConfig(), [0, 90], 15, 64)
HALF = ShapedSchedule(0.5, 0.5)
VAE = "vae/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def prior():
    return MultiViewPrior.from_pretrained("mini")


@pytest.fixture(scope="module")
def sd_folder(full_size_cpu, tmp_path_factory):
    """A 2D Stable Diffusion as its repository has it, of mini's size: the tensors are those of mini's own 2D mode."""
    folder = tmp_path_factory.mktemp("sd") / "sd"
    full_size_cpu.write_image_model(BUNDLED_FOLDER, folder)
    return folder


@pytest.fixture
def copied(sd_folder, tmp_path):
    """A copy to be spoilt."""
    shutil.copytree(sd_folder, tmp_path / "sd")
    return tmp_path / "sd"


def _change(file, **words):
    file.write_text(json.dumps(json.loads(file.read_text()) | words))


def _sampled(prior, config, prompt="a red cat"):
    guided = Guided(
        prior, Conditions(prior.encode_text(["a red cat, 3d asset"]), CAMERAS, 2), prior.encode_text([""]), 3.0
    )
    mix, _ = ImagePrior.beside(prior, config).told(prompt, "")
    noise = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    return ddim(mix(guided), noise, ddim_timesteps(2))


def test_a_plain_stable_diffusion_folder_answers_as_the_network_that_it_holds(prior, sd_folder):
    assert json.loads((sd_folder / "unet/config.json").read_text())["_class_name"] == "UNet2DConditionModel"
    own, folder = (_sampled(prior, JointConfig(weights, multiview_weight=HALF)) for weights in ("own", str(sd_folder)))
    assert torch.equal(own, folder)
    # diffusers' own class, asked by hand, is what is mixed in
    unet = UNet2DConditionModel.from_pretrained(sd_folder / "unet").to(memory_format=torch.channels_last)
    noise, timestep = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0)), torch.full((2,), 501)
    text = prior.encode_text(["a red cat", ""]).repeat_interleave(2, 0)
    with torch.no_grad():
        velocity = unet(torch.cat([noise, noise]), 501, text).sample
    alpha, sigma = prior.schedule.level(timestep)
    wanted, unwanted = (alpha * v + sigma * noise for v in velocity.chunk(2))
    config = JointConfig(str(sd_folder), multiview_weight=ShapedSchedule(0.0, 0.0), guidance_scale=5.0)
    mix, notes = ImagePrior.beside(prior, config).told("a red cat", "")
    told = Conditions(prior.encode_text(["whatever"]), CAMERAS, 2)
    found = mix(Guided(prior, told, prior.encode_text([""]), 3.0))(noise, timestep).noise
    torch.testing.assert_close(found, unwanted + 5 * (wanted - unwanted), atol=1e-4, rtol=1e-4)
    # it is guided where the multi-view model is
    early = Guided(prior, told, prior.encode_text([""]), 3.0, interval=(0.6, 1.0))
    torch.testing.assert_close(mix(early)(noise, timestep).noise, wanted, atol=1e-4, rtol=1e-4)
    assert notes == ("the 2D model reads: a red cat",)


def test_what_is_the_same_is_in_memory_once(prior, sd_folder):
    beside = ImagePrior.beside(prior, JointConfig(str(sd_folder))).prior
    assert beside.vae is prior.vae and beside.text_encoder is prior.text_encoder and beside.unet is not prior.unet
    assert not beside.replays
    prior.replays = True
    replays = ImagePrior.beside(prior, JointConfig(str(sd_folder))).prior.replays
    prior.replays = False
    assert replays


def test_the_text_encoder_that_an_adapter_may_change_is_its_own(prior, tmp_path):
    (tmp_path / "adapter.json").write_text('{"base": "mini"}')
    beside = ImagePrior.beside(prior, JointConfig(str(tmp_path))).prior
    assert beside.text_encoder is not prior.text_encoder and beside.vae is prior.vae


def test_another_text_encoder_reads_for_itself(prior, copied):
    file = copied / "text_encoder/model.safetensors"
    changed = {name: tensor * 1.5 if tensor.ndim == 2 else tensor for name, tensor in load_file(file).items()}
    save_file(changed, file, {"format": "pt"})
    beside = ImagePrior.beside(prior, JointConfig(str(copied))).prior
    assert beside.text_encoder is not prior.text_encoder
    assert not torch.allclose(beside.encode_text(["a red cat"]), prior.encode_text(["a red cat"]), atol=1e-2)
    assert torch.equal(prior.encode_text(["a cat"]), MultiViewPrior.from_pretrained("mini").encode_text(["a cat"]))


def test_it_reads_a_prompt_of_its_own_in_the_pipeline(prior):
    settings = {"num_inference_steps": 2, "image_size": 64, "num_frames": 2, "seed": 0, "guidance_scale": 3}

    def drawn(joint):
        return MultiViewPipeline(prior, joint=joint and ImagePrior.beside(prior, joint))("a red cat", **settings)

    alone = drawn(None)
    plain = drawn(JointConfig("own", multiview_weight=HALF))
    striped = drawn(JointConfig("own", "a red kitty with white stripes", multiview_weight=HALF))
    for one, other in ((alone, plain), (plain, striped)):
        assert (one.drawn - other.drawn).abs().max() > 0.02
    assert alone.notes == () and plain.prompt == striped.prompt == "a red cat, 3d asset"
    assert plain.notes == ("the 2D model reads: a red cat",)
    assert striped.notes == ("the 2D model reads: a red cat with white stripes", "'kitty' is read as cat")
    everything = drawn(JointConfig("own", "a green cube", multiview_weight=ShapedSchedule(1.0, 1.0)))
    assert torch.equal(everything.drawn, alone.drawn)
    # from the settings alone
    again = MultiViewPipeline.from_pretrained("mini", joint=JointConfig("own", multiview_weight=HALF))
    assert torch.equal(again("a red cat", **settings).drawn, plain.drawn)
    with pytest.raises(ConfigError, match="does not know 'zebra'"):
        drawn(JointConfig("own", "a red zebra"))


def test_another_noise_schedule_is_matched(prior, copied):
    """The same levels under other numbers: twice as many timesteps, every second one of them nearly mini's."""
    betas = 1 - (1 - prior.scheduler.betas.double()).sqrt()
    trained = betas.repeat_interleave(2).tolist()
    _change(copied / "scheduler/scheduler_config.json", trained_betas=trained, num_train_timesteps=2000)
    beside = ImagePrior.beside(prior, JointConfig(str(copied), multiview_weight=HALF))
    asked = []
    unet = beside.prior.unet
    unet.register_forward_pre_hook(lambda module, inputs: asked.append(int(inputs[1][0])))
    text = prior.encode_text([""])
    joint = beside.mix(["a red cat"], [""])(Guided(prior, Conditions(text, CAMERAS, 2), text, 3.0))
    joint(torch.zeros(2, 4, 16, 16), torch.full((2,), 300))
    assert asked == [601]  # two of its steps are one of mini's, and both count from 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"_class_name": "FlowMatchEulerDiscreteScheduler", "beta_schedule": None},
            "FlowMatchEulerDiscreteScheduler has no betas",
        ),
        ({"prediction_type": "sample"}, "predicts 'sample', not one of epsilon, v_prediction"),
        ({"beta_start": 1e-7, "beta_end": 1e-6}, "cannot be matched: none of its timesteps is as noisy as the"),
    ],
)
def test_a_schedule_that_cannot_be_converted_is_refused(prior, copied, changes, message):
    _change(copied / "scheduler/scheduler_config.json", **changes)
    if changes.get("beta_schedule", "") is None:
        words = json.loads((copied / "scheduler/scheduler_config.json").read_text())
        del words["beta_schedule"], words["trained_betas"]
        (copied / "scheduler/scheduler_config.json").write_text(json.dumps(words))
    _refused(prior, JointConfig(str(copied)), message)
    if "beta_end" in changes:  # where the multi-view model answers alone no level is needed
        late = ShapedSchedule(1.0, 0.5, 0.99, 1.0, Shape.step)
        ImagePrior.beside(prior, JointConfig(str(copied), multiview_weight=late))


def _refused(prior, config, message):
    with pytest.raises(ConfigError) as caught:
        ImagePrior.beside(prior, config)
    assert message in str(caught.value) and "\n" not in str(caught.value), str(caught.value)


def _spoil_decoder(folder, amount):
    tensors, rng = load_file(folder / VAE), torch.Generator().manual_seed(0)
    for name, tensor in tensors.items():
        if name.startswith("decoder") and tensor.ndim == 4:
            tensors[name] = tensor + amount * tensor.std() * torch.randn(tensor.shape, generator=rng)
    save_file(tensors, folder / VAE, {"format": "pt"})


def test_another_vae_is_refused_and_one_that_was_rounded_is_not(prior, copied):
    _spoil_decoder(copied, 2**-10)
    ImagePrior.beside(prior, JointConfig(str(copied)))
    _spoil_decoder(copied, 0.3)
    _refused(prior, JointConfig(str(copied)), "has another VAE than the multi-view prior: what the two decode from one")


def test_a_vae_with_another_scale_or_other_latents_is_refused(prior, copied):
    _change(copied / "vae/config.json", scaling_factor=0.18215)
    _refused(prior, JointConfig(str(copied)), "has scaling factor 0.18215, that of the multi-view prior 0.828572")
    _change(copied / "vae/config.json", scaling_factor=prior.vae.config.scaling_factor, shift_factor=0.1)
    _refused(prior, JointConfig(str(copied)), "has shift 0.1, that of the multi-view prior 0;")
    for channels, levels, message in (
        (16, 3, "has latent channels: 16, that of the multi-view prior 4;"),
        (4, 2, "has pixels along an edge of a latent: 2, that of the multi-view prior 4;"),
    ):
        shutil.rmtree(copied / "vae")
        AutoencoderKL(
            block_out_channels=(4,) * levels, down_block_types=("DownEncoderBlock2D",) * levels, norm_num_groups=1,
            up_block_types=("UpDecoderBlock2D",) * levels, latent_channels=channels,
        ).save_pretrained(copied / "vae")  # fmt: skip
        _refused(prior, JointConfig(str(copied)), message)


def test_networks_with_other_inputs_or_no_2d_mode_are_refused(prior, copied):
    _refused(prior, JointConfig("mini-video"), "has no 2D mode: it is a video network, or was trained on sets of views")
    config = copied / "unet/config.json"
    for words, message in (
        ({"in_channels": 9}, "it cannot be the 2D model of joint.weights: unet: in_channels=9"),
        ({"in_channels": 4, "addition_embed_type": "text_time"}, 'unet: addition_embed_type="text_time"'),
        ({"addition_embed_type": None, "class_embed_type": "timestep"}, 'unet: class_embed_type="timestep"'),
        ({"class_embed_type": None, "has_2d_mode": False}, "has no 2D mode: it is a video network, or was trained on"),
    ):
        _change(config, **words)
        _refused(prior, JointConfig(str(copied)), message)


def test_a_prior_without_2d_mode_is_neither_its_own_2d_model_nor_asked_for_a_view_alone(prior, sd_folder, tmp_path):
    unet = MultiViewUNet.from_config(prior.unet.config, has_2d_mode=False)
    unet.load_state_dict(prior.unet.state_dict())
    views_only = MultiViewPrior(prior.tokenizer, prior.text_encoder, unet, prior.vae, prior.scheduler)
    views_only.save_pretrained(tmp_path / "views-only")
    views_only = MultiViewPrior.from_pretrained(tmp_path / "views-only")
    assert prior.has_2d_mode and not views_only.has_2d_mode
    _refused(views_only, JointConfig("own"), "joint.weights=own: the prior has no 2D mode")
    consistency = JointConfig(str(sd_folder), mode=JointMode.consistency)
    _refused(views_only, consistency, "set joint.self_camera=true")
    for config in (JointConfig(str(sd_folder)), replace(consistency, self_camera=True)):
        ImagePrior.beside(views_only, config)


def test_settings_from_python_are_checked_too(prior):
    for weight in (-0.1, 1.1, float("nan")):
        config = JointConfig("own", multiview_weight=ShapedSchedule(0.5, weight))
        _refused(prior, config, "joint.multiview_weight.end: must be between 0 and 1 with mode=mix")
    ImagePrior.beside(prior, JointConfig("own", mode=JointMode.consistency, multiview_weight=ShapedSchedule(0.5, 1.1)))
    _refused(prior, JointConfig("own", self_camera=True), "joint.self_camera: only mode=consistency")
    with pytest.raises(WeightsMissingError, match="no weights at"):
        ImagePrior.beside(prior, JointConfig("weights/nowhere"))


def test_another_native_size_is_only_remarked_upon(prior, copied):
    _change(copied / "unet/config.json", sample_size=32)
    _, notes = ImagePrior.beside(prior, JointConfig(str(copied))).told("a red cat", "")
    assert notes[0].endswith("was trained for 128 px, the multi-view prior for 64: it draws less well there")
