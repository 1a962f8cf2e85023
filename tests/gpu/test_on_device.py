"""What only a GPU can show: streams, CUDA graphs, no waiting, determinism, and that the emulation is true to it."""

import ctypes
import math
import subprocess
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("torch sees no CUDA device", allow_module_level=True)

from threedgen.cameras import CameraSampler, orbit, rays_of
from threedgen.config.load import load_config
from threedgen.config.scene import GridConfig
from threedgen.core.randomness import generator
from threedgen.diffusion.conditions import Conditions
from threedgen.diffusion.denoising import Guided
from threedgen.diffusion.prior import MultiViewPrior
from threedgen.diffusion.sampling import sample_views
from threedgen.guidance.sds import ScoreDistillation
from threedgen.ops import plain
from threedgen.ops.grid import HashGrid
from threedgen.ops.native import build, cuda, cuda_field
from threedgen.ops.splats import focal_length
from threedgen.ops.types import FieldLayout
from threedgen.scene.nerf import NeRF
from threedgen.tasks.scene_optimizer import SceneOptimizer

LAYOUT = FieldLayout(HashGrid.from_config(GridConfig(8, 2, 14, 16, 256)), 1.0, 10.0, 0.5, 1.0)
STEP = 0.02


@pytest.fixture
def step(device):
    """A function from a table to (loss, the table's gradient), on 4 views of 32 x 32; it never waits for the GPU."""
    rng = torch.Generator().manual_seed(0)
    rays = rays_of(orbit([0, 90, 180, 270], 15, 3.0, 40, 32).to(device))
    centres = (torch.arange(32) + 0.5) / 16 - 1
    occupied = (torch.cartesian_prod(centres, centres, centres).norm(dim=-1) < 0.6).view(32, 32, 32).to(device)
    weights = [(torch.randn(shape, generator=rng) * 0.3).to(device) for shape in ((16, 16), (4, 16))]
    target = torch.rand(len(rays.origins), 3, generator=rng).to(device)
    wanted = int(cuda.march_within(0, rays.origins, rays.directions, occupied, 1.0, STEP)[1])
    assert wanted > 20_000

    def run(table):
        samples, _ = cuda.march_within(wanted + 1000, rays.origins, rays.directions, occupied, 1.0, STEP)
        seen = cuda_field.render_field(table, weights, LAYOUT, rays.origins, rays.directions, samples, 1e-4)
        loss = (seen.rgb - target).square().sum() + seen.weights.square().sum()
        return loss.detach(), torch.autograd.grad(loss, table)[0]

    return run


def tables(device):
    """Two of them."""
    shape, rng = (LAYOUT.grid.num_rows, 2), torch.Generator().manual_seed(1)
    return [torch.randn(shape, generator=rng).to(device).requires_grad_() for _ in range(2)]


def assert_same_step(found, expected):
    """Equal up to the order in which gradients were summed."""
    torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=0)
    assert (found[1] - expected[1]).norm() <= 1e-5 * expected[1].norm()


def test_no_kernel_waits_for_the_gpu(device, step):
    table, _ = tables(device)
    step(table)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(table)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("replays", [False, True])
def test_a_step_of_distillation_never_waits(device, replays):
    """The main job's own step: cameras, render, guidance by the mini prior, AdamW, refreshed occupancy."""
    config = load_config("mvdream-mini.yaml", ["prompt=a red cat"])
    prior = MultiViewPrior.from_pretrained("mini", torch.half, device)
    prior.replays = replays
    text = prior.encode_text(["a red cat", ""])
    guidance = ScoreDistillation(prior, config.guidance, 0)
    sampler, scene = CameraSampler(config.camera, 0), NeRF(config.scene, 0, device)
    optimizer = SceneOptimizer(scene, config)

    def take(step):
        cameras = sampler.sample(step, config.steps)
        rgb = scene.render(cameras, generator=generator(0, step, "render")).rgb
        told = Conditions(text[:1], cameras, cameras.num_views)
        denoiser = Guided(prior, told, text[1:], config.guidance.guidance_scale, config.guidance.rescale)
        optimizer.step(guidance(rgb, denoiser, step, config.steps).loss, step)

    for step in range(3):
        take(step)
    torch.cuda.set_sync_debug_mode("error")
    try:
        take(config.scene.occupancy_every - 1)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_recorded_networks_are_the_networks(device):
    """Of steps whose timesteps, cameras and pictures differ: their losses and gradients, and views that are drawn."""
    config = load_config("mvdream-mini.yaml", ["prompt=a red cat"])
    prior = MultiViewPrior.from_pretrained("mini", torch.half, device)
    text, guidance = prior.encode_text(["a red cat", ""]), ScoreDistillation(prior, config.guidance, 0)

    def take(step):
        cameras = orbit([10 * step + 90 * k for k in range(4)], 15, 3.0, 40, 32, num_views=4)
        rgb = torch.rand(4, 32, 32, 3, generator=generator(0, step, "views")).to(device).requires_grad_()
        denoiser = Guided(prior, Conditions(text[:1], cameras, 4), text[1:], 5.0, 0.5)
        loss = guidance(rgb, denoiser, step, config.steps).loss
        return loss.detach(), *torch.autograd.grad(loss, rgb)

    def draw():
        cameras = orbit([0, 90, 180, 270], 15, 3.0, 40, 32, num_views=4)
        return sample_views(prior, ["a red cat"], cameras, generator(0, 0, "views"), num_inference_steps=8)

    expected = [*map(take, range(4))], draw()
    prior.replays = True
    found = [*map(take, range(4))], draw()
    assert all(kind.graph for calls in prior._graphs.values() for kind in calls._kinds.values())
    for one, other in zip(found[0], expected[0], strict=True):
        torch.testing.assert_close(one[0], other[0], rtol=1e-2, atol=0)
        assert (one[1] - other[1]).norm() <= 2e-2 * other[1].norm()
    assert (found[1] - expected[1]).abs().mean() < 5e-3


def test_a_step_in_a_cuda_graph(device, step):
    first, second = tables(device)
    expected = step(second)
    held = first.detach().clone().requires_grad_()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step(held)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = step(held)
    with torch.no_grad():
        held.copy_(second)
    for _ in range(2):
        for tensor in found:
            tensor.fill_(math.nan)
        graph.replay()
        torch.cuda.synchronize()
        assert_same_step(found, expected)


def test_kernels_run_on_the_callers_stream(device, step):
    """The side stream changes the table late: kernels on another stream would still see the old one."""
    first, second = tables(device)
    expected = step(second)
    held = first.detach().clone().requires_grad_()
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        torch.cuda._sleep(200_000_000)
        with torch.no_grad():
            held.copy_(second)
        found = step(held)
    side.synchronize()
    assert_same_step(found, expected)


def test_deterministic_steps_are_the_same_bits(device, step):
    table, _ = tables(device)
    plain = step(table)
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        runs = [step(table) for _ in range(4)]
    finally:
        torch.use_deterministic_algorithms(False)
    for loss, gradient in runs[1:]:
        assert torch.equal(loss, runs[0][0]) and torch.equal(gradient, runs[0][1])
    # such a step takes the kernels in float32, the other one those in half precision
    torch.testing.assert_close(plain[0], runs[0][0], rtol=2e-3, atol=0)
    assert (plain[1] - runs[0][1]).norm() <= 2e-2 * runs[0][1].norm()


def test_many_samples_in_one_row(device):
    """A million gradients for 8 rows: nothing is lost under contention."""
    grid = HashGrid.from_config(GridConfig(1, 2, 4, 2, 2))
    positions = torch.rand(1 << 20, 3, generator=torch.Generator().manual_seed(0)).to(device)
    grad = torch.ones(1 << 20, 2, device=device)
    table = torch.zeros(grid.num_rows, 2, device=device)
    # a quarter of a million numbers added to one by one lose 3e-4 to rounding; the deterministic sum is of integers
    for deterministic, rtol in ((False, 2e-3), (True, 1e-4)):
        found = cuda.grad_of_table(grad, positions, None, table, grid.layout, deterministic=deterministic)
        torch.testing.assert_close(found.double().sum().item(), 2.0**21, rtol=rtol, atol=0)


def test_offsets_beyond_32_bits(device):
    """2^31 features: an index of 32 bits would wrap around. Takes 17 GB."""
    if torch.cuda.mem_get_info()[0] < 24 << 30:
        pytest.skip("less than 24 GB of GPU memory are free")
    grid = HashGrid.from_config(GridConfig(16, 8, 6, 4, 16))
    positions = torch.rand((1 << 24) + 5, 3, generator=torch.Generator().manual_seed(0))
    table = torch.randn(grid.num_rows, 8, generator=torch.Generator().manual_seed(1))
    features = torch.ops.threedgen.hash_grid_encode(positions.to(device), table.to(device), grid.layout)
    expected = plain.hash_grid_encode(positions[-100:], table, grid)
    torch.testing.assert_close(features[-100:].cpu(), expected, atol=1e-5, rtol=1e-5)


def test_splats_wait_only_for_the_number_of_their_tiles(device):
    cameras = orbit([0, 90], 15, 2.0, 45, 33).to(device)
    rng = torch.Generator().manual_seed(0)
    numbers = [torch.randn(5000, k, generator=rng).to(device) for k in (3, 4, 3, 1, 3)]
    inputs = [0.3 * numbers[0], numbers[1], 0.02 * numbers[2].exp(), numbers[3][:, 0].sigmoid(), numbers[4].sigmoid()]
    inputs = [x.requires_grad_() for x in inputs]
    ops = torch.ops.threedgen

    def project():
        focal = focal_length(cameras.fov_y, cameras.height)
        return ops.splat_project(*inputs, cameras.camera_to_world, focal, cameras.height, cameras.width)

    tiles = ops.splat_tiles(project().detach(), cameras.height, cameras.width)
    torch.cuda.set_sync_debug_mode("error")
    try:
        with pytest.raises(RuntimeError, match="synchroniz"):
            ops.splat_tiles(project().detach(), cameras.height, cameras.width)
        images = ops.splat_blend(project(), *tiles, cameras.height, cameras.width)
        torch.autograd.grad(sum(image.sum() for image in images), inputs)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", ["probe_exchange", "probe_exchange_in_halves", "probe_sum"])
def test_the_emulation_is_true_to_the_device(device, tmp_path, name):
    folder = Path(__file__).parents[1] / "ops"
    sources = [str(folder / "emulator_probe.cu"), str(build.source_folder() / "cuda" / "library.cu")]
    includes = [f"-I{build.source_folder() / part}" for part in ("cuda", "include")]
    flags = ["-std=c++17", "-shared", *includes]
    major, minor = torch.cuda.get_device_capability()
    on_gpu = [build.nvcc(), *flags, "-Xcompiler=-fPIC", f"-arch=sm_{major}{minor}"]
    emulated = ["g++", *flags, "-fPIC", "-x", "c++"]
    outputs = []
    for command, place in ((on_gpu, device), (emulated, torch.device("cpu"))):
        library = tmp_path / f"{place.type}.so"
        subprocess.run([*command, *sources, "-o", str(library)], check=True)
        values = torch.randn(640, generator=torch.Generator().manual_seed(0)).to(place)
        out = torch.zeros(384, device=place)
        sizes = {"probe_exchange": [64], "probe_exchange_in_halves": [], "probe_sum": [5, 128]}[name]
        pointers = [ctypes.c_void_p(x.data_ptr()) for x in (values, out)]
        torch.cuda.synchronize()
        assert getattr(ctypes.CDLL(str(library)), name)(*map(ctypes.c_int64, sizes), *pointers) == 0
        torch.cuda.synchronize()
        outputs.append(out.cpu())
    torch.testing.assert_close(*outputs)
