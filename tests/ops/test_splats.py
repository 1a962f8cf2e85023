import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from scipy.special import sph_harm_y

from threedgen.cameras import orbit, rays_of
from threedgen.config.scene import BackendName
from threedgen.core.errors import ConfigError
from threedgen.ops import gsplat_backend, native, nerfacc_backend, plain, tinycudann_backend
from threedgen.ops.backends import select_backend
from threedgen.ops.native.splats import splat as native_splat
from threedgen.ops.plain.splats import splat as plain_splat

IDENTITY = torch.tensor([[1.0, 0, 0, 0]], dtype=torch.float64)
AT_ORIGIN = torch.eye(4, dtype=torch.float64)[None]  # looks along -z
FOV = torch.tensor([0.8], dtype=torch.float64)
KERNELS = pytest.mark.skipif(not native.available("cpu"), reason="the native kernels cannot be compiled here")


@pytest.fixture(params=[plain_splat, pytest.param(native_splat, marks=KERNELS)], ids=["plain", "native"])
def splat(request):
    """Each back end; both must behave alike."""
    return request.param


def of(values, dtype=torch.float64):
    return torch.tensor(values, dtype=dtype)


def gaussians(count, num_coefficients=0, dtype=torch.float64, size=0.05, seed=0):
    """The first five arguments: a cloud around the origin, wider than the view of `orbit(..., 2.0, 45)`.

    A tenth of them is more opaque than 0.99, a tenth more transparent than 1 / 255.
    """
    generator = torch.Generator().manual_seed(seed)
    normal = [torch.randn(count, k, generator=generator, dtype=torch.float64) for k in (3, 4, 3, 1)]
    colors = torch.rand(count, 3, generator=generator, dtype=torch.float64)
    if num_coefficients:
        colors = 0.5 * torch.randn(count, num_coefficients, 3, generator=generator, dtype=torch.float64)
    scales = size * torch.exp(0.5 * normal[2])
    every = [0.4 * normal[0], normal[1], scales, torch.sigmoid(4 * normal[3][:, 0]), colors]
    return [x.to(dtype).requires_grad_() for x in every]


def render(splat, inputs, cameras):
    pose, fov_y = cameras.camera_to_world.to(inputs[0].dtype), cameras.fov_y.to(inputs[0].dtype)
    return splat(*inputs, pose, fov_y, cameras.height, cameras.width)


def random_loss(images, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weights = [torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.dtype) for x in images]
    return sum((image * weight).sum() for image, weight in zip(images, weights, strict=True))


def relative_error(found, expected):
    return float((found.double() - expected.double()).norm() / expected.double().norm().clamp(min=1e-12))


# ---- Closed forms


def test_one_round_gaussian_in_the_middle(splat):
    """A Gaussian of standard deviation s at distance 2 has focal * s / 2 pixels, plus 0.3 square pixels."""
    size, s, opacity = 16, 0.1, 0.8
    colour = of([[0.2, 0.6, 1.0]])
    images = splat(of([[0.0, 0, -2]]), 3 * IDENTITY, of([[s, s, s]]), of([opacity]), colour, AT_ORIGIN, FOV, size, size)
    focal = 0.5 * size / math.tan(0.4)
    variance = (focal * s / 2) ** 2 + 0.3
    offsets = torch.arange(size, dtype=torch.float64) + 0.5 - size / 2
    alpha = opacity * torch.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * variance))
    alpha[alpha < 1 / 255] = 0
    assert 0 < (alpha > 0).sum() < alpha.numel()
    torch.testing.assert_close(images.opacity[0], alpha, atol=1e-12, rtol=0)
    torch.testing.assert_close(images.rgb[0], alpha[..., None] * colour, atol=1e-12, rtol=0)
    torch.testing.assert_close(images.depth[0], 2 * alpha, atol=1e-12, rtol=0)


def one_pixel(splat, depths, opacities, colors):
    """Large Gaussians behind one another in the only pixel: alpha is the opacity."""
    n = len(depths)
    means = torch.stack([torch.zeros(n), torch.zeros(n), -of(depths)], -1).double()
    result = splat(
        means, IDENTITY.expand(n, 4), torch.full((n, 3), 0.3).double(), of(opacities), colors, AT_ORIGIN, FOV, 1, 1
    )
    return result.rgb.flatten().tolist(), result.opacity.item(), result.depth.item()


def test_front_to_back_whatever_the_order_in_memory(splat):
    red, green, blue = torch.eye(3, dtype=torch.float64)
    expected = pytest.approx([0.5, 0.125, 0.375 * 0.2])
    rgb, opacity, depth = one_pixel(splat, [1, 2, 3], [0.5, 0.25, 0.2], torch.stack([red, green, blue]))
    assert rgb == expected and opacity == pytest.approx(0.7) and depth == pytest.approx(0.5 + 0.25 + 3 * 0.075)
    rgb, *_ = one_pixel(splat, [3, 1, 2], [0.2, 0.5, 0.25], torch.stack([blue, red, green]))
    assert rgb == expected
    rgb, *_ = one_pixel(splat, [2, 2, 2], [0.5, 0.25, 0.2], torch.stack([red, green, blue]))
    assert rgb == expected  # of equally near ones the first


def test_the_rules_at_their_thresholds(splat):
    white = torch.ones(5, 3, dtype=torch.float64)
    assert one_pixel(splat, [1], [1.0], white[:1])[1] == pytest.approx(0.99, abs=1e-12)
    assert one_pixel(splat, [1], [0.9 / 255], white[:1])[1] == 0
    assert one_pixel(splat, [1], [1.1 / 255], white[:1])[1] == pytest.approx(1.1 / 255)
    assert one_pixel(splat, [0.0099], [0.5], white[:1])[1] == 0
    assert one_pixel(splat, [0.0101], [0.5], white[:1])[1] == pytest.approx(0.5)
    # 0.05^3 = 1.25e-4 is left; the fourth would leave less than 1e-4, and the fifth does not come back
    opacity = one_pixel(splat, [1, 2, 3, 4, 5], [0.95, 0.95, 0.95, 0.95, 0.1], white)[1]
    assert opacity == pytest.approx(1 - 0.05**3, abs=1e-12)


def test_behind_the_camera_there_is_nothing(splat):
    inputs = gaussians(50, 4)
    with torch.no_grad():
        inputs[0][:, 2] = 1 + inputs[0][:, 2].abs()  # the camera looks along -z
    images = splat(*inputs, AT_ORIGIN, FOV, 9, 9)
    assert not any(image.any() for image in images)
    random_loss(images).backward()
    assert not any(x.grad.any() for x in inputs)


@pytest.mark.parametrize("outside", [False, True])
def test_footprint_is_the_projections_derivative(splat, outside):
    """Against scipy's rotation and a numeric derivative of the pinhole projection; `outside`: taken at the margin."""
    cameras = orbit([25], 30, 2.0, 50, height=12, width=10)
    pose = cameras.camera_to_world[0].double().numpy()
    fov_y = float(cameras.fov_y)
    focal = 0.5 * cameras.height / math.tan(fov_y / 2)

    def project(point):
        right, up, back = pose[:3, :3].T @ (point - pose[:3, 3])
        return np.array([focal * right / -back + cameras.width / 2, -focal * up / -back + cameras.height / 2])

    to_the_right = 1.8 if outside else 0.3
    mean = pose[:3, :3] @ [to_the_right, 0.2, 0.0]
    quaternion, scales = np.array([0.3, -0.5, 1.1, 0.4]), np.array([0.9, 0.2, 0.4])
    at = mean
    if outside:  # at 1.3 half images from the middle instead, at the same depth
        at = mean + pose[:3, 0] * (1.3 * cameras.width / 2 / focal * 2.0 - to_the_right)
    step = 1e-5
    derivative = np.stack([(project(at + d) - project(at - d)) / (2 * step) for d in step * np.eye(3)], -1)
    rotation = Rotation.from_quat(quaternion[[1, 2, 3, 0]]).as_matrix()
    covariance = derivative @ rotation @ np.diag(scales**2) @ rotation.T @ derivative.T + 0.3 * np.eye(2)
    x, y = np.meshgrid(np.arange(cameras.width) + 0.5, np.arange(cameras.height) + 0.5)
    offset = np.stack([x, y], -1) - project(mean)
    alpha = 0.9 * np.exp(-0.5 * np.einsum("hwi,ij,hwj->hw", offset, np.linalg.inv(covariance), offset))
    alpha[alpha < 1 / 255] = 0
    assert alpha.max() > 0.05

    one = of(mean)[None], of(quaternion)[None], of(scales)[None], of([0.9]), of([[1.0] * 3])
    images = render(splat, one, cameras)
    torch.testing.assert_close(images.opacity[0], torch.from_numpy(alpha), atol=1e-7, rtol=0)


def test_a_gaussian_on_a_pixels_ray_is_brightest_there(splat):
    cameras = orbit([0, 130], [10, -50], 2.0, 45, height=11, width=17)
    rays = rays_of(cameras)
    for camera, row, column in ((0, 2, 3), (1, 9, 14)):
        ray = (camera * 11 + row) * 17 + column
        mean = (rays.origins[ray] + 1.7 * rays.directions[ray])[None].double()
        images = render(splat, (mean, IDENTITY, of([[0.01] * 3]), of([0.7]), of([[1.0] * 3])), cameras)
        assert divmod(int(images.opacity[camera].argmax()), 17) == (row, column)
        assert images.opacity[camera, row, column] == pytest.approx(0.7, abs=1e-5)


def test_spherical_harmonics_are_scipys(splat):
    """Y_lm of scipy are complex: sqrt(2) times the real part for m > 0, the imaginary part of Y_l|m| for m < 0."""
    cameras = orbit([0, 80, 170, 260, 340], [0, 70, -40, 20, -75], 2.0, 45, height=1)
    direction = -torch.nn.functional.normalize(cameras.camera_to_world[:, :3, 3].double(), dim=-1).numpy()
    polar, azimuth = np.arccos(direction[:, 2]), np.arctan2(direction[:, 1], direction[:, 0])
    orders = [(degree, m) for degree in range(4) for m in range(-degree, degree + 1)]
    for k, (degree, m) in enumerate(orders):
        y = sph_harm_y(degree, abs(m), polar, azimuth)
        expected = y.real if m == 0 else math.sqrt(2) * (y.real if m > 0 else y.imag)
        for num_coefficients in [n for n in (1, 4, 9, 16) if n > k]:
            colors = torch.zeros(1, num_coefficients, 3, dtype=torch.float64)
            colors[0, k] = of([0.5, -0.25, 0.0])
            inputs = torch.zeros(1, 3).double(), IDENTITY, of([[0.3] * 3]), of([0.5]), colors
            found = render(splat, inputs, cameras).rgb[:, 0, 0] / 0.5 - 0.5
            torch.testing.assert_close(found[:, 0], torch.from_numpy(0.5 * expected), atol=1e-6, rtol=0)
            torch.testing.assert_close(found[:, 1], -0.5 * found[:, 0], atol=1e-12, rtol=0)
            assert found[:, 2].abs().max() < 1e-12


def test_colours_of_harmonics_are_never_negative(splat):
    colors = of([[[-3.0, 0.0, 3.0]]]).requires_grad_()
    images = splat(of([[0.0, 0, -1]]), IDENTITY, of([[0.3] * 3]), of([0.5]), colors, AT_ORIGIN, FOV, 1, 1)
    y0 = 0.5 / math.sqrt(math.pi)
    assert images.rgb.flatten().tolist() == pytest.approx([0, 0.25, 0.5 * (0.5 + 3 * y0)])
    images.rgb.sum().backward()
    assert colors.grad.flatten().tolist() == pytest.approx([0, 0.5 * y0, 0.5 * y0])


# ---- Gradients and invariances


@pytest.mark.parametrize("num_coefficients", [0, 4, 16])
def test_gradients(splat, num_coefficients):
    """Large Gaussians, whose alphas are nowhere near a threshold; one is so opaque that its alpha is cut off."""
    inputs = gaussians(4, num_coefficients, size=0.4)
    with torch.no_grad():
        inputs[3].copy_(of([0.3, 0.6, 1.0, 0.45]))
    cameras = orbit([10, 200], [20, -35], 2.0, 45, height=3, width=5)
    assert torch.autograd.gradcheck(lambda *x: tuple(render(splat, x, cameras)), inputs, atol=1e-7)


@pytest.mark.parametrize("output", ["rgb", "opacity", "depth"])
def test_a_loss_on_one_output_alone(splat, output):
    inputs = gaussians(20)
    cameras = orbit([10, 200], [20, -35], 2.0, 45, height=9, width=9)
    getattr(render(splat, inputs, cameras), output).sum().backward()
    found = [x.grad for x in inputs]
    for x in inputs:
        x.grad = None
    images = render(plain_splat, inputs, cameras)
    (random_loss(images) * 0 + getattr(images, output).sum()).backward()
    for grad, x in zip(found, inputs, strict=True):
        torch.testing.assert_close(grad, x.grad, atol=1e-10, rtol=1e-10)


def test_the_order_in_memory_does_not_matter(splat):
    cameras = orbit([10, 200], [20, -35], 2.0, 45, height=20, width=20)
    inputs = gaussians(120, 4)
    images = render(splat, inputs, cameras)
    random_loss(images).backward()
    order = torch.randperm(120, generator=torch.Generator().manual_seed(1))
    others = [x.detach()[order].requires_grad_() for x in inputs]
    random_loss(render(splat, others, cameras)).backward()
    for a, b in zip(images, render(splat, others, cameras), strict=True):
        torch.testing.assert_close(a, b, atol=1e-11, rtol=0)
    for a, b in zip(inputs, others, strict=True):
        torch.testing.assert_close(a.grad[order], b.grad, atol=1e-9, rtol=1e-9)


def test_moving_scene_and_camera_together_changes_nothing(splat):
    inputs = [x.detach() for x in gaussians(60)]
    cameras = orbit([10, 200], [20, -35], 2.0, 45, height=20, width=20)
    pose, fov_y = cameras.camera_to_world.double(), cameras.fov_y.double()
    images = splat(*inputs, pose, fov_y, 20, 20)
    turn = Rotation.from_euler("xyz", [0.7, -0.3, 1.9])
    move = torch.eye(4, dtype=torch.float64)
    move[:3, :3], move[:3, 3] = torch.from_numpy(turn.as_matrix()), of([3.0, -1.0, 0.5])
    turned = turn * Rotation.from_quat(inputs[1].numpy()[:, [1, 2, 3, 0]])
    inputs[0] = inputs[0] @ move[:3, :3].T + move[:3, 3]
    inputs[1] = torch.from_numpy(turned.as_quat()[:, [3, 0, 1, 2]].copy())
    # float32 poses are rotations to 1e-7
    for a, b in zip(images, splat(*inputs, move @ pose, fov_y, 20, 20), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


# ---- The kernels against plain torch


@KERNELS
@pytest.mark.parametrize("height, width", [(1, 1), (7, 13), (64, 64), (65, 63)])
@pytest.mark.parametrize("count", [0, 1, 257])
@pytest.mark.parametrize("num_views, num_coefficients", [(1, 0), (4, 0), (1, 1), (1, 4), (1, 9), (4, 16)])
def test_kernels_equal_plain_torch(height, width, count, num_views, num_coefficients):
    """In float64 to rounding. In float32 too, but that an alpha next to a threshold may fall on its other side."""
    cameras = orbit([20 + 90 * v for v in range(num_views)], 15, 2.0, 45, height=height, width=width)
    expected = gaussians(count, num_coefficients)
    images = render(plain_splat, expected, cameras)
    random_loss(images).backward()
    for dtype, tolerance in ((torch.float64, 1e-11), (torch.float32, 2e-5)):
        inputs = gaussians(count, num_coefficients, dtype)
        found = render(native_splat, inputs, cameras)
        random_loss(found).backward()
        for a, b in zip(found, images, strict=True):
            difference = (a.double() - b).abs()
            assert a.dtype == dtype and a.shape == b.shape
            assert (difference < tolerance).double().mean() > 0.999
            assert difference.max() < (1e-2 if dtype is torch.float32 else tolerance)
        for a, b in zip(inputs, expected, strict=True):
            assert relative_error(a.grad, b.grad) < 100 * tolerance


@KERNELS
def test_float32_survives_needles():
    """Footprints of 1 : 1000 and more along the diagonal; the plain formula of the determinant cancels to noise."""
    half = math.pi / 8
    quaternion = [math.cos(half), 0, 0, math.sin(half)]  # 45 degrees about the line of sight
    means = [[0.4 * i - 0.6, 0.2 * i - 0.4, -2.0 - 0.1 * i] for i in range(4)]
    scales = [[20.0, 1e-4, 1e-4], [5.0, 1e-3, 1e-3], [1e-4, 50.0, 1e-4], [2.0, 0.02, 1e-5]]
    images = []
    for splat, dtype in ((native_splat, torch.float32), (plain_splat, torch.float32), (plain_splat, None)):
        dtype = dtype or torch.float64
        inputs = [of(x, dtype) for x in (means, [quaternion] * 4, scales, [0.5] * 4, torch.eye(4, 3).tolist())]
        images.append(splat(*inputs, AT_ORIGIN.to(dtype), FOV.to(dtype), 64, 64).rgb.double())
    assert images[2].max() > 0.4
    assert (images[0] - images[2]).abs().max() < 5e-3
    assert (images[1] - images[2]).abs().max() < 5e-3


@KERNELS
@pytest.mark.parametrize("num_views", [1, 3])
def test_bitwise_the_same_from_run_to_run_and_for_any_number_of_threads(threads, num_views):
    cameras = orbit([20 + 90 * v for v in range(num_views)], 15, 2.0, 45, height=65, width=63)
    results = []
    for num_threads in (1, 2, 3, 2, 1):
        threads(num_threads)
        inputs = gaussians(3000, 9, torch.float32)
        images = render(native_splat, inputs, cameras)
        random_loss(images).backward()
        results.append([*images, *[x.grad for x in inputs]])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@KERNELS
def test_the_ops_are_registered_properly():
    means, quaternions, scales, opacities, colors = gaussians(9, 4)
    cameras = orbit([20, 110], 15, 2.0, 45, height=9, width=10)
    pose, focal = cameras.camera_to_world.double(), of([12.0, 12.0])
    ops = torch.ops.threedgen
    arguments = (means, quaternions, scales, opacities, colors, pose, focal, 9, 10)
    torch.library.opcheck(ops.splat_project.default, arguments)
    splats = ops.splat_project(*arguments).detach()
    torch.library.opcheck(ops.splat_tiles.default, (splats, 9, 10))
    offsets, ids = ops.splat_tiles(splats, 9, 10)
    torch.library.opcheck(ops.splat_blend.default, (splats.requires_grad_(), offsets, ids, 9, 10))
    images = ops.splat_blend(splats.detach(), offsets, ids, 9, 10)
    arguments = (splats.detach(), offsets, ids, *images, *images)
    torch.library.opcheck(ops.splat_blend_backward.default, arguments)
    grad = ops.splat_blend_backward(*arguments)
    inputs = [x.detach() for x in (means, quaternions, scales, colors)]
    torch.library.opcheck(ops.splat_project_backward.default, (*inputs, pose, focal, grad, 9, 10))


# ---- Arguments, gsplat


@pytest.mark.parametrize(
    "change, message",
    [
        ({"quaternions": torch.zeros(2, 3)}, r"quaternions must be \[2, 4\], not \[2, 3\]"),
        ({"opacities": torch.zeros(2, 1)}, r"opacities must be \[2\]"),
        ({"colors": torch.zeros(2, 5, 3)}, r"colors must be \[2, 3\] or \[2, 1, 4, 9 or 16, 3\], not \[2, 5, 3\]"),
        ({"scales": torch.ones(2, 3).double()}, "scales are torch.float64, the means torch.float32"),
        ({"fov_y": torch.ones(2)}, r"must be \[B, 4, 4\] and \[B\] with B >= 1, not \[1, 4, 4\] and \[2\]"),
        ({"camera_to_world": torch.zeros(0, 4, 4), "fov_y": torch.zeros(0)}, "B >= 1"),
        ({"height": 0}, "an image of 0 x 8 pixels has none"),
        ({"opacities": torch.zeros(2, device="meta")}, "opacities is on meta, the means are on cpu"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(splat, change, message):
    fitting = {
        "means": torch.zeros(2, 3), "quaternions": torch.ones(2, 4), "scales": torch.ones(2, 3),
        "opacities": torch.ones(2), "colors": torch.ones(2, 3), "camera_to_world": torch.eye(4)[None],
        "fov_y": torch.ones(1), "height": 8, "width": 8,
    }  # fmt: skip
    splat(**fitting)
    with pytest.raises(ValueError, match=message):
        splat(**fitting | change)


def rasterization(  # gsplat 1.5.3's documented parameters, as far as they concern pinhole cameras
    means, quats, scales, opacities, colors, viewmats, Ks, width, height, near_plane=0.01, far_plane=1e10,
    radius_clip=0.0, eps2d=0.3, sh_degree=None, packed=True, tile_size=16, backgrounds=None, render_mode="RGB",
    rasterize_mode="classic", camera_model="pinhole",
):  # fmt: skip
    """A stand-in: world-to-camera matrices with OpenCV's axes, intrinsics, colours with the depth behind them."""
    num_views = len(viewmats)
    assert viewmats.shape == (num_views, 4, 4) and Ks.shape == (num_views, 3, 3) and viewmats.dtype == means.dtype
    assert render_mode == "RGB+D" and (near_plane, eps2d) == (0.01, 0.3)
    assert colors.ndim == (2 if sh_degree is None else 3)
    assert sh_degree is None or (sh_degree + 1) ** 2 == colors.shape[1]
    focal = Ks[:, 1, 1]
    middle = torch.tensor([width / 2, height / 2]).expand(num_views, 2)
    assert torch.equal(Ks[:, :2, 2], middle) and torch.equal(Ks[:, 0, 0], focal) and (Ks[:, 2, 2] == 1).all()
    to_world = torch.linalg.inv(viewmats) @ torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))
    fov_y = 2 * torch.atan(0.5 * height / focal)
    rgb, opacity, depth = plain_splat(means, quats, scales, opacities, colors, to_world, fov_y, height, width)
    return torch.cat([rgb, depth[..., None]], -1), opacity[..., None], {}


@pytest.mark.parametrize("num_coefficients", [0, 1, 16])
def test_gsplat_is_given_what_it_documents(monkeypatch, num_coefficients):
    monkeypatch.setitem(sys.modules, "gsplat", SimpleNamespace(rasterization=rasterization))
    cameras = orbit([20, 110], 15, 2.0, 45, height=9, width=10)
    inputs = gaussians(30, num_coefficients, torch.float32)
    for a, b in zip(render(gsplat_backend.splat, inputs, cameras), render(plain_splat, inputs, cameras), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="gsplat computes in float32"):
        render(gsplat_backend.splat, gaussians(3), cameras)


def test_gsplat_missing_is_one_clear_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "gsplat", None)
    with pytest.raises(ConfigError, match=r"gsplat cannot be imported .*pip install gsplat, or use the native ops"):
        render(gsplat_backend.splat, gaussians(3, dtype=torch.float32), orbit(0, 0, 2.0, 45, height=4))


@KERNELS
def test_every_back_end_of_a_scene_has_splats(monkeypatch):
    """Those without any of their own take the kernels'; gsplat's are taken where gsplat is asked for."""
    assert select_backend(BackendName.plain).splat is plain_splat
    assert select_backend(BackendName.native).splat is native_splat
    assert nerfacc_backend.splat is tinycudann_backend.splat is native_splat

    monkeypatch.setattr(native, "available", lambda device: True)
    for name in (BackendName.auto, BackendName.native):
        chosen = select_backend(name, "cuda")
        assert chosen.splat is native_splat and chosen.march_within is native.march_within

    monkeypatch.setitem(sys.modules, "gsplat", SimpleNamespace(rasterization=rasterization))
    chosen = select_backend(BackendName.gsplat, "cuda")
    assert (chosen.name, chosen.splat, chosen.march) == ("gsplat", gsplat_backend.splat, native.march)
    monkeypatch.setattr(native, "available", lambda device: False)
    chosen = select_backend(BackendName.gsplat, "cuda")
    assert (chosen.splat, chosen.march, chosen.march_within) == (gsplat_backend.splat, plain.march, None)
    with pytest.raises(ConfigError, match=r"scene\.backend=gsplat needs a CUDA device"):
        select_backend(BackendName.gsplat, "cpu")
    monkeypatch.setitem(sys.modules, "gsplat", None)
    with pytest.raises(ConfigError, match="gsplat cannot be imported"):
        select_backend(BackendName.gsplat, "cuda")
