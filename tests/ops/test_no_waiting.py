"""In a step of training nothing that a GPU computes is read on the CPU: reading would make it wait.

The kernels run on the CPU, by their emulation. What the step draws there it reads before the first kernel; whatever it
read after that would, on a GPU, be a result. tests/gpu asks the device itself.
"""

from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from threedgen.cameras import mvdream_camera_vectors, orbit
from threedgen.config.guidance import GuidanceConfig
from threedgen.config.scene import GridConfig, SceneConfig
from threedgen.diffusion.conditions import Conditions
from threedgen.diffusion.denoising import Denoised, Guided
from threedgen.diffusion.schedule import NoiseSchedule
from threedgen.guidance.sds import ScoreDistillation
from threedgen.ops.native import cuda, cuda_field
from threedgen.scene.nerf import NeRF

ATEN = torch.ops.aten
WAITING = (ATEN._local_scalar_dense.default, ATEN.nonzero.default, ATEN.masked_select.default, ATEN.equal.default)


class Order(TorchDispatchMode):
    """What happened, in order: "read", or a kernel's name."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in WAITING:
            self.seen.append("read")
        return func(*args, **(kwargs or {}))


class Prior:
    """Latents are the image's mean over 8 x 8 pixels; any noise is as likely as another."""

    schedule = NoiseSchedule(torch.linspace(0.999, 0.01, 1000))

    def denoise(self, noisy, timestep, told):
        alpha, sigma = self.schedule.level(timestep)
        noise = 0.1 * noisy + told.text_of(len(noisy)).mean() + mvdream_camera_vectors(told.cameras).mean()
        return Denoised(noise, (noisy - sigma * noise) / alpha)

    def encode_images(self, images):
        return torch.nn.functional.avg_pool2d(images, 8)

    def decode(self, latents):
        return latents


@pytest.fixture
def scene(device, monkeypatch):
    """A scene that is rendered as on a GPU."""
    grid = GridConfig(num_levels=3, num_features=2, log2_table_size=9, base_resolution=4, max_resolution=16)
    scene = NeRF(SceneConfig(grid=grid, hidden_width=16, samples_per_ray=32, background_random_probability=1.0), 0)
    names = ("render_field", "ray_jitter", "refresh_occupancy")
    as_on_gpu = {name: getattr(cuda_field, name) for name in names}
    scene.ops = replace(scene.ops, march_within=cuda.march_within, **as_on_gpu)
    return scene


@pytest.fixture
def order(monkeypatch):
    order, call = Order(), cuda.call

    def recorded(name, *arguments):
        order.seen.append(name)
        return call(name, *arguments)

    for module in (cuda, cuda_field):
        monkeypatch.setattr(module, "call", recorded)
    return order


def take_a_step(scene, step):
    guidance = ScoreDistillation(Prior(), GuidanceConfig(image_size=32), seed=0)
    cameras = orbit([0, 90, 180, 270], 15, 3.0, 40, 16, num_views=4)
    rgb = scene.render(cameras, generator=torch.Generator().manual_seed(step)).rgb
    text = torch.zeros(1, 3, 8)
    guidance(rgb, Guided(guidance.codec, Conditions(text, cameras, 4), text, 5.0, 0.5), step, 10).loss.backward()
    scene.after_step(scene.config.occupancy_every - 1)


def test_a_step_reads_nothing_that_the_gpu_computed(scene, order):
    take_a_step(scene, 0)  # the first one asks for the number of its samples
    order.seen.clear()
    with order:
        take_a_step(scene, 1)
    first = next(i for i, name in enumerate(order.seen) if name != "read")
    assert order.seen[first] == "tg_ray_jitter" and {"tg_march_find", "tg_march_write"} < set(order.seen)
    assert 0 < first <= 3  # two draws, and how many samples the step before would have had
    assert "read" not in order.seen[first:]
    assert scene.table.grad.abs().sum() > 0


def test_a_march_that_asks_would_be_seen(scene, order):
    scene.ops = replace(
        scene.ops, march_within=None, march=lambda *arguments: cuda.RaySamples(*cuda.march_cuda(*arguments))
    )
    with order:
        take_a_step(scene, 1)
    assert "read" in order.seen[order.seen.index("tg_march_find") :]
