"""The CUDA kernels of Gaussian splatting against plain torch. Here they run on the CPU, by the emulation in
cuda_ext/emu; the same tests run on a GPU in tests/gpu."""

import ctypes

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from threedgen.cameras import orbit
from threedgen.ops import native
from threedgen.ops.native import cuda
from threedgen.ops.native.splats import CUDA_KERNELS, _tiles_cpu
from threedgen.ops.native.splats import splat as native_splat
from threedgen.ops.plain.splats import splat as plain_splat

REALS = [torch.float32, torch.float64]
OPS = torch.ops.threedgen
pytestmark = pytest.mark.filterwarnings("ignore:Warning only once for all operators")


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cloud(count, num_coefficients=0, size=0.05):
    """The first five arguments: around the origin, wider than the view; some too opaque, some too transparent."""
    colors = random(count, 3, seed=4).sigmoid()
    if num_coefficients:
        colors = 0.5 * random(count, num_coefficients, 3, seed=5)
    scales = size * torch.exp(0.5 * random(count, 3, seed=2))
    return [0.4 * random(count, 3), random(count, 4, seed=1), scales, (4 * random(count, seed=3)).sigmoid(), colors]


def views(number, height, width):
    cameras = orbit([20 + 90 * v for v in range(number)], 15, 2.0, 45, height=height, width=width)
    return cameras.camera_to_world.double(), cameras.fov_y.double(), height, width


def drawn(splat, gaussians, cameras, device="cpu", real=torch.float64):
    """Images and the gradients of a fixed random weighting of them all, on the CPU."""
    inputs = [x.to(device, real).requires_grad_() for x in gaussians]
    pose, fov_y, *size = cameras
    images = splat(*inputs, pose.to(device, real), fov_y.to(device, real), *size)
    loss = sum((x * random(*x.shape, seed=10 + i).to(x)).sum() for i, x in enumerate(images))
    return [x.detach().cpu() for x in images], [x.cpu() for x in torch.autograd.grad(loss, inputs)]


def assert_equal(found, expected, real):
    """In float64 to rounding. In float32 too, but that an alpha next to a threshold may fall on its other side."""
    tolerance = 1e-11 if real == torch.float64 else 2e-5
    for a, b in zip(found[0], expected[0], strict=True):
        difference = (a.double() - b).abs()
        assert a.dtype == real and a.shape == b.shape
        assert (difference <= tolerance).double().mean() > 0.995
        assert difference.max() < (tolerance if real == torch.float64 else 1e-2)
    for a, b in zip(found[1], expected[1], strict=True):
        assert a.dtype == real and a.isfinite().all()
        assert (a.double() - b).norm() <= 100 * tolerance * b.norm() + tolerance


@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize(
    ("count", "num_views", "height", "width", "num_coefficients"),
    [(0, 2, 3, 5, 0), (1, 1, 1, 1, 4), (33, 2, 7, 13, 1), (150, 1, 9, 17, 9), (150, 3, 8, 8, 16), (200, 2, 16, 11, 0)],
)
def test_equal_plain_torch(device, poisoned, count, num_views, height, width, num_coefficients, real):
    gaussians, cameras = cloud(count, num_coefficients), views(num_views, height, width)
    expected = drawn(plain_splat, gaussians, cameras)
    assert count < 2 or min(image.abs().max() for image in expected[0]) > 0.1
    assert_equal(drawn(native_splat, gaussians, cameras, device, real), expected, real)


def in_front(height, width):
    """A camera at (0, 0, 2) that looks along -z: depths are the same in float32 and in float64."""
    pose = torch.eye(4, dtype=torch.float64)[None].clone()
    pose[0, 2, 3] = 2.0
    return pose, torch.tensor([0.8]).double(), height, width


def stack_of(count, opacity):
    """Gaussians behind one another in the middle, the nearest last, each larger than the image."""
    means = torch.zeros(count, 3, dtype=torch.float64)
    means[:, 2] = torch.linspace(-1.0, 1.0, count)
    ones = torch.ones(count, 3, dtype=torch.float64)
    return [means, random(count, 4), 5 * ones, opacity * ones[:, 0], random(count, 3).sigmoid()]


def odd_ones():
    """Behind the camera, in it, nearer than allowed, off screen, half off; then huge ones, tiny ones, needles, opaque
    and transparent ones, two of each equally near."""
    places = [[0.0, 0, 3], [0, 0, 2], [0, 0, 1.995], [8, 0, 0], [0, 1, 0.5]]
    places += [[0.25 * (i % 3 - 1), 0.125 * (i % 4 - 2), 0.25 * (i % 4)] for i in range(8)] * 2
    sizes = [[0.25, 0.5, 0.25]] * 5
    sizes += ([[50.0] * 3, [1e-4] * 3, [4.0, 1e-3, 1e-3], [0.02, 0.02, 0.1], *[[0.1, 0.3, 0.2]] * 4]) * 2
    opacities = [0.5] * 5 + [0.3, 0.9, 0.5, 0.5, 1.0, 0.995, 1.5 / 255, 0.5 / 255] * 2
    count = len(places)
    numbers = [torch.tensor(x, dtype=torch.float64) for x in (places, sizes, opacities)]
    return [numbers[0], random(count, 4), numbers[1], numbers[2], random(count, 3).sigmoid()]


@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("name", ["a chunk and more", "dark after a chunk", "odd ones"])
def test_hard_cases_equal_plain_torch(device, poisoned, name, real):
    gaussians = {
        "a chunk and more": lambda: stack_of(129, 0.02),  # all of them count, in three batches
        "dark after a chunk": lambda: stack_of(300, 0.15),  # of five batches the last three are left out
        "odd ones": odd_ones,
    }[name]()
    cameras = in_front(11, 10)
    expected = drawn(plain_splat, gaussians, cameras)
    seen = expected[0][1]
    assert {"a chunk and more": seen.max() < 0.95, "dark after a chunk": seen.max() > 0.999}.get(name, seen.max() > 0.9)
    assert_equal(drawn(native_splat, gaussians, cameras, device, real), expected, real)


@pytest.mark.parametrize("real", REALS)
def test_tiles_are_the_cpus_own(device, real):
    """The same splats in the same order, although the one is sorted by tiles and the other filled tile by tile."""
    if not native.available("cpu"):
        pytest.skip(f"the native kernels are not available: {native.why_not('cpu')}")
    inputs = [x.to(device, real) for x in cloud(300, size=0.2)]
    inputs[0][::3] = inputs[0][0]  # equally near
    pose, fov_y, height, width = views(2, 37, 21)
    focal = (0.5 * height / torch.tan(0.5 * fov_y)).to(device, real)
    splats = OPS.splat_project(*inputs, pose.to(device, real), focal, height, width)
    offsets, ids = CUDA_KERNELS["splat_tiles"](splats, height, width)
    expected = _tiles_cpu(splats.cpu(), height, width)
    assert offsets.dtype == torch.int64 and ids.dtype == torch.int32
    assert torch.equal(offsets.cpu(), expected[0]) and torch.equal(ids.cpu(), expected[1])


def test_gradients_on_their_own(device):
    """Large Gaussians, whose alphas are nowhere near a threshold; one is so opaque that its alpha is cut off."""
    gaussians, (pose, fov_y, *size) = cloud(4, 4, size=0.4), views(2, 3, 5)
    gaussians[3] = torch.tensor([0.3, 0.6, 1.0, 0.45]).double()
    inputs = [x.to(device).requires_grad_() for x in gaussians]
    run = lambda *x: tuple(native_splat(*x, pose.to(device), fov_y.to(device), *size))  # noqa: E731
    assert torch.autograd.gradcheck(run, inputs, atol=1e-7, fast_mode=True)


def test_the_same_bits_in_any_order_of_the_threads(device):
    """No gradient is summed in the order in which threads come by."""
    results = []
    for backwards in (False, True):
        if device.type == "cpu":
            cuda._load()[0].tg_emulate_backwards(ctypes.c_int64(backwards))
        results.append(drawn(native_splat, cloud(150, 4, size=0.2), views(2, 17, 9), device, torch.float32))
    for a, b in zip(*([*images, *grads] for images, grads in results), strict=True):
        assert torch.equal(a, b)


class Reads(TorchDispatchMode):
    """Counts what would be read on the CPU of what a device computed."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        names = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "repeat_interleave")
        self.count += func.overloadpacket.__name__ in names
        return func(*args, **(kwargs or {}))


def test_one_number_is_waited_for(device):
    """The kernels themselves are called: inside an op nothing would be seen."""
    inputs, (pose, fov_y, height, width) = [x.to(device) for x in cloud(30, 4)], views(2, 9, 9)
    kernels, gaussians = CUDA_KERNELS, (*inputs[:3], inputs[4])
    cameras = pose.to(device), fov_y.to(device)
    with Reads() as reads:
        splats = kernels["splat_project"](*inputs, *cameras, height, width)
    assert reads.count == 0
    with Reads() as reads:
        tiles = kernels["splat_tiles"](splats, height, width)
    assert reads.count == 1
    with Reads() as reads:
        images = kernels["splat_blend"](splats, *tiles, height, width)
        grad = kernels["splat_blend_backward"](splats, *tiles, *images, *images)
        kernels["splat_project_backward"](*gaussians, *cameras, grad, height, width)
    assert reads.count == 0


def test_splats_that_begin_in_the_middle_of_another_tensor(device):
    """Splats are read 16 bytes at a time, which needs an address that is a multiple of 16."""
    inputs, (pose, fov_y, height, width) = cloud(20), views(1, 9, 9)
    focal = 0.5 * height / torch.tan(0.5 * fov_y)
    arguments = [x.float().to(device) for x in (*inputs, pose, focal)]
    splats = OPS.splat_project(*arguments, height, width)
    shifted = torch.cat([torch.zeros(1, device=device), splats.flatten()])[1:].view(splats.shape)
    assert shifted.data_ptr() % 16 != 0
    tiles = OPS.splat_tiles(splats, height, width)
    images = OPS.splat_blend(splats, *tiles, height, width)
    for a, b in zip(OPS.splat_blend(shifted, *tiles, height, width), images, strict=True):
        assert torch.equal(a, b)
    gradients = [OPS.splat_blend_backward(x, *tiles, *images, *images) for x in (splats, shifted)]
    assert torch.equal(*gradients)


def test_every_op_has_a_cuda_kernel():
    for name in CUDA_KERNELS:
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"threedgen::{name}", "CUDA"), name


def test_fakes_are_as_the_kernels(device):
    inputs, (pose, fov_y, height, width) = [x.to(device) for x in cloud(9, 4)], views(2, 9, 10)
    arguments = (*inputs, pose.to(device), fov_y.to(device), height, width)
    check = lambda op, *args: torch.library.opcheck(op.default, args, test_utils="test_faketensor")  # noqa: E731
    check(OPS.splat_project, *arguments)
    splats = OPS.splat_project(*arguments)
    check(OPS.splat_tiles, splats, height, width)
    tiles = OPS.splat_tiles(splats, height, width)
    check(OPS.splat_blend, splats, *tiles, height, width)
    images = OPS.splat_blend(splats, *tiles, height, width)
    check(OPS.splat_blend_backward, splats, *tiles, *images, *images)
    grad = OPS.splat_blend_backward(splats, *tiles, *images, *images)
    check(OPS.splat_project_backward, *inputs[:3], inputs[4], *arguments[5:7], grad, height, width)
