"""The network with the reference implementation's weights gives the reference implementation's numbers."""

import json

import pytest
import torch
from safetensors import safe_open
from torch.nn import functional

from tests.diffusion.original_unet import OriginalUNet
from threedgen.diffusion.conditions import Conditions
from threedgen.diffusion.denoising import Denoised, Guided
from threedgen.diffusion.formats.tensor_files import stored_tensors
from threedgen.diffusion.networks.multiview_unet import match_ldm_unet, multiview_unet_from_ldm
from threedgen.diffusion.sampling import ddim, ddim_timesteps
from threedgen.diffusion.schedule import NoiseSchedule, stable_diffusion_schedule


@pytest.fixture(scope="module")
def config(goldens_folder):
    with safe_open(goldens_folder / "golden_mvunet_small.safetensors", "pt") as file:
        return json.loads(file.metadata()["unet_config"])


@pytest.fixture(scope="module")
def weights(goldens):
    return {key.removeprefix("weights."): value for key, value in goldens.items() if key.startswith("weights.")}


@pytest.fixture(scope="module")
def unet(config, weights):
    return multiview_unet_from_ldm(config, weights)


def _close(actual, expected, atol=1e-4):
    torch.testing.assert_close(actual, expected, atol=atol, rtol=0)


@pytest.mark.parametrize(
    ("key", "objects", "has_camera", "num_views"),
    [
        ("mv_nf4", 8, True, 4),
        ("mv_nf4_first_object_only", 4, True, 4),
        ("nf8", 8, True, 8),
        ("2d_nf1_camera", 8, True, 1),
        ("2d_nf1_nocamera", 8, False, 1),
        ("mv_nf4_8x16", 4, True, 4),
    ],
)
def test_forward_equals_the_reference(goldens, unet, key, objects, has_camera, num_views):
    latents = goldens["in.x_8x16" if key.endswith("8x16") else "in.x"][:objects]
    camera = goldens["in.camera"][:objects] if has_camera else None
    with torch.no_grad():
        actual = unet(latents, goldens["in.t"][:objects], goldens["in.context"][:objects], camera, num_views)
    _close(actual, goldens[f"out.{key}"])


def test_embeddings_equal_the_reference(goldens, unet):
    with torch.no_grad():
        sinusoid = unet.time_proj(goldens["in.t"])
        _close(sinusoid, goldens["out.temb_sinusoid_32"])
        _close(unet.time_embedding(sinusoid), goldens["out.emb_time"])
        _close(unet.class_embedding(goldens["in.camera"]), goldens["out.emb_camera"])


def test_training_gradients_equal_the_reference(goldens, config, weights):
    """Those of seven parameters and of the input, and the norm of all together."""
    unet = multiview_unet_from_ldm(config, weights).train()
    latents = goldens["in.x"].clone().requires_grad_()
    noise = unet(latents, goldens["in.t"], goldens["in.context"], goldens["in.camera"], 4)
    loss = (noise - goldens["in.eps_target"]).square().mean()
    loss.backward()
    _relative(loss.reshape(1), goldens["out.train_mse"])
    _relative(latents.grad, goldens["out.train_grad_x"])
    matched = match_ldm_unet(config, stored_tensors(weights), "weights")
    gradients = {matched.sources[name].key: parameter.grad for name, parameter in unet.named_parameters()}
    golden = {k.removeprefix("out.train_grad."): v for k, v in goldens.items() if k.startswith("out.train_grad.")}
    assert len(golden) == 7
    for key, expected in golden.items():
        _relative(gradients[key], expected)
    total = torch.stack([gradient.norm() for gradient in gradients.values()]).norm()
    _relative(total.reshape(1), goldens["out.train_grad_total_norm"])


def _relative(actual, expected, tolerance=1e-4):
    assert (actual - expected).abs().max() <= tolerance * expected.abs().max()


class _Model:
    """What guidance needs of a model, around the reference's small UNet and its cameras."""

    schedule = NoiseSchedule(stable_diffusion_schedule().alphas_cumprod)

    def __init__(self, unet, camera):
        self.unet, self.camera = unet, camera

    def denoise(self, noisy, timestep, told):
        camera = self.camera.repeat(len(noisy) // len(self.camera), 1)
        noise = self.unet(noisy, timestep, told.text_of(len(noisy)), camera, told.num_views)
        alpha, sigma = self.schedule.level(timestep)
        return Denoised(noise, (noisy - sigma * noise) / alpha)


@pytest.mark.parametrize("steps", [5, 30])
def test_ddim_equals_the_reference_sampler(goldens, unet, steps):
    text, negative, camera, noise = (goldens[f"ddim.{k}"] for k in ("cond_context", "uncond_context", "camera", "x_T"))
    told = Conditions(text[::4], None, 4)
    latents = ddim(Guided(_Model(unet, camera), told, negative[::4], 10.0), noise, ddim_timesteps(steps))
    _relative(latents, goldens[f"ddim.out_S{steps}_cfg10_eta0"], 1e-4)


def test_the_plain_network_is_the_reference(goldens, config, weights):
    original = OriginalUNet(config)
    original.load_state_dict(weights)
    with torch.no_grad():
        noise = original(goldens["in.x"], goldens["in.t"], goldens["in.context"], goldens["in.camera"], 4)
    _close(noise, goldens["out.mv_nf4"])


def test_attention_is_never_written_out_and_only_self_attention_joins_views(unet, goldens, monkeypatch):
    calls, attend = [], functional.scaled_dot_product_attention

    def recording(q, k, v, **kwargs):
        calls.append((q.shape[0], q.shape[2], k.shape[2]))
        return attend(q, k, v, **kwargs)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", recording)
    monkeypatch.setattr(torch.Tensor, "softmax", None)
    monkeypatch.setattr(torch, "baddbmm", None)
    with torch.no_grad():
        unet(goldens["in.x"], goldens["in.t"], goldens["in.context"], goldens["in.camera"], 4)
    joined, per_view = [call for call in calls if call[0] == 2], [call for call in calls if call[0] == 8]
    assert len(joined) == len(per_view) == len(calls) / 2 == 7  # 2 down, 1 middle, 4 up
    assert {call[1:] for call in joined} == {(4 * 64, 4 * 64), (4 * 16, 4 * 16)}
    assert {call[1:] for call in per_view} == {(64, 7), (16, 7)}
