"""NeuS against what planes, spheres and float64 finite differences say."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.functional import normalize

from threedgen.cameras import Rays, orbit, rays_of
from threedgen.config.scene import BackendName, Geometry, GridConfig, OptimizerConfig, SceneConfig, SDFConfig
from threedgen.config.schema import Config
from threedgen.mesh.isosurface import extract_isosurface
from threedgen.ops.optimizer import AdamW
from threedgen.ops.plain.composed import activate, logit_of
from threedgen.scene import regularizers
from threedgen.scene.make import make_scene
from threedgen.scene.nerf import NeRF
from threedgen.scene.neus import NeuS
from threedgen.scene.shading import Shading

CONFIG = SceneConfig(
    geometry=Geometry.sdf,
    grid=GridConfig(num_levels=3, num_features=4, log2_table_size=13, base_resolution=12, max_resolution=48),
    hidden_width=16,
    samples_per_ray=96,
    occupancy_every=4,
    occupancy_warmup=16,
    occupancy_decay=0.8,
    sdf=SDFConfig(sphere_radius=0.6, eikonal_points=1024),
)
BACKENDS = [BackendName.plain, BackendName.native]


def sphere(**changes):
    """A scene that has learned nothing: f = |p| - 0.6 exactly."""
    scene = NeuS(replace(CONFIG, **changes), seed=0)
    nn.init.zeros_(scene.table)
    return scene


def learned(config=CONFIG, seed=3):
    """A bumpy surface, as of a scene in the middle of its optimisation."""
    scene = NeuS(config, seed=0)
    nn.init.uniform_(scene.table, -0.3, 0.3, generator=torch.Generator().manual_seed(seed))
    return scene


def set_sharpness(scene, s):
    with torch.no_grad():
        scene.log_sharpness.fill_(math.log(s * scene.radius))
        scene.occupancy.occupied.fill_(True)


def rays_from(origins, directions):
    return Rays(torch.tensor(origins), normalize(torch.tensor(directions), dim=-1))


def test_make_scene_makes_what_the_config_says():
    made = make_scene(Config(scene=CONFIG), torch.device("cpu"))
    assert type(made) is NeuS
    assert type(make_scene(Config(scene=replace(CONFIG, geometry=Geometry.density)), torch.device("cpu"))) is NeRF


def test_the_logit_is_what_the_activation_was_given():
    layout = sphere().layout
    raw = torch.linspace(-80, 80, 201)
    zero = torch.zeros(201, 3)
    density = activate(raw[:, None].expand(-1, 4), zero, layout)[0]
    expected = raw + layout.blob_density
    torch.testing.assert_close(logit_of(density, layout), expected, atol=2e-6, rtol=2e-6)
    raw = torch.linspace(-80, 80, 201, requires_grad=True)
    logit_of(activate(raw[:, None].expand(-1, 4), zero, layout)[0], layout).sum().backward()
    torch.testing.assert_close(raw.grad, torch.ones(201), atol=1e-5, rtol=0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("radius", [1.0, 5.0])
def test_starts_as_a_sphere(backend, radius):
    scene = sphere(backend=backend, radius=radius)
    points = radius * (2 * torch.rand(500, 3, generator=torch.Generator().manual_seed(0)) - 1)
    expected = points.norm(dim=-1) - 0.6 * radius
    with torch.no_grad():
        torch.testing.assert_close(scene.signed_distance(points), expected, atol=2e-6 * radius, rtol=2e-6)
        s = 20 / radius
        torch.testing.assert_close(scene.field(points)[0], s * torch.sigmoid(-s * expected), atol=2e-4 * s, rtol=0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("angle", [0.0, 40.0, 65.0])
def test_sections_have_the_opacity_of_the_paper_and_the_weights_peak_at_the_surface(backend, angle):
    """A huge sphere is a plane, met at an angle: the weights are differences of Phi, whose sum and middle are known."""
    scene = sphere(backend=backend, sdf=SDFConfig(sphere_radius=0.6), samples_per_ray=200, min_transmittance=0.0)
    s = 150.0
    set_sharpness(scene, s)
    slope = math.cos(math.radians(angle))
    # through the sphere's point (0.6, 0, 0) at this angle to its normal
    direction = torch.tensor([-slope, math.sin(math.radians(angle)), 0.0])
    origin = torch.tensor([0.6, 0.0, 0.0]) - 0.3 * direction
    with torch.no_grad():
        seen, samples = scene.trace(Rays(origin[None], direction[None]))
    distance = [(origin + t[:, None] * direction).norm(dim=-1).double() - 0.6 for t in samples[:2]]
    before, after = (torch.sigmoid(s * x) for x in distance)
    opacity = ((before - after) / before).clamp(min=0)
    passed = torch.cat([torch.ones(1).double(), (1 - opacity).cumprod(0)[:-1]])
    torch.testing.assert_close(seen.weights.double(), passed * opacity, atol=2e-5, rtol=0)
    assert seen.weights.sum() == pytest.approx(1.0, abs=3e-4)
    assert seen.opacity.item() == pytest.approx(1.0, abs=3e-4)
    peak = seen.weights.argmax()
    assert samples.t_starts[peak] - 1e-4 <= 0.3 <= samples.t_ends[peak] + 1e-4  # unbiased: at the surface
    assert seen.depth.item() == pytest.approx(0.3, abs=1.5 / s / slope * 0.3)


def test_a_section_has_the_mean_of_its_ends_colours():
    scene = learned(replace(CONFIG, backend=BackendName.plain, min_transmittance=0.0))
    rays = rays_of(orbit([10.0, 130.0], 20.0, 2.6, 30, height=4))
    with torch.no_grad():
        seen, samples = scene.trace(rays)
        origins, directions = (x[samples.ray_indices] for x in (rays.origins, rays.directions))
        first, second = (scene.field(origins + t[:, None] * directions)[1] for t in samples[:2])
    weighted = seen.weights[:, None] * 0.5 * (first + second)
    expected = torch.zeros(len(rays.origins), 3).index_add(0, samples.ray_indices, weighted)
    assert (first - second).abs().max() > 0.01 and seen.opacity.max() > 0.5
    torch.testing.assert_close(seen.rgb, expected, atol=1e-5, rtol=0)


def test_what_a_ray_sees_does_not_depend_on_the_number_of_samples():
    """Transmittance is a ratio of Phi: coarse sections add up to what fine ones do."""
    seen = []
    for samples in (24, 400):
        scene = sphere(samples_per_ray=samples, backend=BackendName.plain)
        set_sharpness(scene, 12.0)
        seen.append(scene.trace(rays_from([[2.0, 0.3, 0.5]], [[-1.0, 0.0, 0.0]]))[0].opacity.item())
    assert seen[0] == pytest.approx(seen[1], abs=2e-3) and 0.5 < seen[1] < 0.99


def test_sections_that_do_not_join_are_not_taken_for_one():
    """Two occupied slabs with a gap between: the light that the gap would take is not taken."""
    scene = sphere(backend=BackendName.plain, min_transmittance=0.0)
    set_sharpness(scene, 5.0)
    occupied = scene.occupancy.occupied
    occupied[10:22] = False
    seen, samples = scene.trace(rays_from([[2.0, 0.05, 0.05]], [[-1.0, 0.0, 0.0]]))
    distance = [((2.0 - t).square() + 2 * 0.05**2).sqrt() - 0.6 for t in samples[:2]]
    before, after = (torch.sigmoid(5.0 * x) for x in distance)
    assert (samples.t_starts[1:] - samples.t_ends[:-1]).max() > 0.3
    expected = 1 - torch.minimum(after / before, torch.ones(1)).prod()
    assert seen.opacity.item() == pytest.approx(expected.item(), abs=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_true_distance_has_no_eikonal_loss_and_half_of_one_has_a_quarter(backend):
    """Away from its centre, where central differences see the kink of |p|, a sphere's gradient is of length 1."""
    scene = sphere(backend=backend)
    gradients = scene.gradients(step=0)
    assert gradients.shape == (1024, 3)
    assert regularizers.eikonal(scene, 0) < 1e-3
    near = scene.occupancy.occupied.float().mean() < 0.7 and (gradients[:512].norm(dim=-1) - 1).abs().max() < 1e-2
    assert near
    halved = copy.deepcopy(scene)
    halved.signed_distance = lambda positions: 0.5 * scene.signed_distance(positions)
    assert regularizers.eikonal(halved, 0).item() == pytest.approx(0.25, abs=5e-3)
    assert regularizers.eikonal(NeRF(replace(CONFIG, geometry=Geometry.density), seed=0), 0) == 0


def test_points_of_the_eikonal_loss_are_in_occupied_cells_and_another_each_step():
    scene, asked = sphere(), []
    truth = scene.signed_distance
    scene.signed_distance = lambda positions: asked.append(positions) or truth(positions)
    scene.gradients(0), scene.gradients(0), scene.gradients(1)
    assert torch.equal(asked[0], asked[1]) and not torch.equal(asked[0], asked[2])
    assert asked[0].abs().max() <= scene.radius
    middle = asked[0].view(2, 1024, 3, 3).mean((0, 2))[:512] / (1 - scene.gradient_step)  # of the six around a point
    index = ((middle + 1) / 2 * scene.occupancy.resolution).long()
    assert scene.occupancy.occupied[index[:, 0], index[:, 1], index[:, 2]].float().mean() > 0.98  # some on the edge


def test_gradients_are_those_of_finite_differences():
    """Of what rays see, its opacity and the eikonal loss, in float64, by every kind of parameter."""
    scene = learned(replace(CONFIG, backend=BackendName.plain, min_transmittance=0.0)).double()
    set_sharpness(scene, 8.0)
    rays = rays_of(orbit([10.0, 130.0], 20.0, 2.6, 30, height=3))
    rays = Rays(rays.origins.double(), rays.directions.double())
    mix = torch.rand(len(rays.origins), 3, generator=torch.Generator().manual_seed(0)).double()

    def loss():
        seen, _ = scene.trace(rays)
        return (seen.rgb * mix).sum() + seen.opacity.square().sum() + regularizers.eikonal(scene, 0)

    loss().backward()
    parameters = [scene.table, scene.network[0].weight, scene.network[2].weight, scene.log_sharpness]
    for number, parameter in enumerate(parameters):
        direction = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)).double()
        expected, h = (parameter.grad * direction).sum().item(), 1e-6
        sides = []
        with torch.no_grad():
            for sign in (1, -1):
                parameter += sign * h * direction
                sides.append(loss().item())
                parameter -= sign * h * direction
        assert (sides[0] - sides[1]) / (2 * h) == pytest.approx(expected, rel=2e-4, abs=1e-7)


def test_back_ends_agree():
    seen = []
    for backend in BACKENDS:
        scene = learned(replace(CONFIG, backend=backend))
        output = scene.render(orbit([30.0, 200.0], 15.0, 2.6, 40, height=12), normals=True)
        (output.rgb.square().mean() + output.opacity.mean() + 0.1 * regularizers.eikonal(scene, 0)).backward()
        seen.append([output.rgb, output.opacity, scene.table.grad, scene.log_sharpness.grad])
    for reference, native in zip(*seen, strict=True):
        torch.testing.assert_close(native, reference, atol=0.02 * reference.abs().max().item(), rtol=0.02)


def test_normals_are_the_gradient_and_lights_fall_on_them():
    scene, cameras = sphere(samples_per_ray=256), orbit([0.0, 90.0], 15.0, 2.6, 40, height=25)
    set_sharpness(scene, 100.0)
    with torch.no_grad():
        plain = scene.render(cameras, background=torch.zeros(3))
        output = scene.render(cameras, background=torch.zeros(3), normals=True)
        torch.testing.assert_close(output.rgb, plain.rgb, atol=1e-5, rtol=0)
        inside = output.opacity[..., 0] > 0.99
        rays = rays_of(cameras)
        points = (rays.origins + output.depth.view(-1, 1) * rays.directions).view(2, 25, 25, 3)
        expected = normalize(points, dim=-1)
        torch.testing.assert_close(output.normal[inside], expected[inside], atol=0.05, rtol=0)
        assert inside.sum() > 200
        sun = torch.tensor([[0.0, 100.0, 0.0]]).expand(2, 3)
        lit = scene.render(cameras, background=torch.zeros(3), shading=Shading(sun, diffuse=1.0, textureless=True))
        lambert = expected[..., 1].clamp(min=0)
        torch.testing.assert_close(lit.rgb[..., 0][inside], lambert[inside], atol=0.06, rtol=0)


@pytest.mark.parametrize("s", [20.0, 300.0])
def test_occupied_cells_are_those_that_rays_see(s):
    """Around a known sphere: no light is lost to the cells that are left out, and the inside is left out."""
    scene, cameras = sphere(samples_per_ray=400), orbit([25.0], 20.0, 2.6, 40, height=32)
    with torch.no_grad():
        set_sharpness(scene, s)
        whole = scene.render(cameras, background=torch.zeros(3))
        scene.occupancy.opacity.zero_()
        scene.occupancy.update(scene._refreshed_opacity(7, all_cells=True))
        part = scene.render(cameras, background=torch.zeros(3))
    assert (whole.opacity - part.opacity).abs().max() < 0.03
    occupied = scene.occupancy.occupied
    assert occupied.float().mean() < (0.75 if s == 20.0 else 0.2)
    assert s == 20.0 or not occupied[15:17, 15:17, 15:17].any()


PEAK_RATES = [0.02, 0.01, 0.001, 0.05]  # of grid, network, background and sharpness
MIDDLE, RADIUS = torch.tensor([0.1, -0.15, 0.05]), 0.42


def coloured(cameras, behind):
    """Exact images on a colour [3] of a sphere that the scene does not start as, coloured 0.5 + 0.4 * normal."""
    rays = rays_of(cameras)
    origins = rays.origins - MIDDLE
    along = -(origins * rays.directions).sum(-1)
    inside = RADIUS**2 - origins.square().sum(-1) + along.square()
    normal = (origins + (along - inside.clamp(min=0).sqrt())[:, None] * rays.directions) / RADIUS
    rgb = torch.where((inside > 0)[:, None], 0.5 + 0.4 * normal, behind)
    return rgb.view(len(cameras), cameras.height, cameras.width, 3)


def views(first):
    """Four of sixteen."""
    azimuths = [22.5 * (first % 16) + 90.0 * k for k in range(4)]
    return orbit(azimuths, 40.0 * (first % 4) - 60.0, 2.6, 40, height=24, num_views=4)


def train(scene, optimizer, steps):
    for step in steps:
        cameras = views(step % 16)
        generator = torch.Generator().manual_seed(step)
        behind = torch.rand(3, generator=generator)
        seen = scene.render(cameras, generator=generator, background=behind).rgb
        loss = (seen - coloured(cameras, behind)).square().mean() + 0.1 * regularizers.eikonal(scene, step)
        for group, peak in zip(optimizer.param_groups, PEAK_RATES, strict=False):
            group["lr"] = peak * (1.0 - 0.009 * step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scene.after_step(step)


def optimizer_of(scene):
    config = OptimizerConfig()
    return AdamW(scene.param_groups(config), scene.ops, betas=config.betas, eps=config.eps, weight_decay=0.01)


def surface_errors(scene):
    """Mean distance of the mesh's vertices from the true sphere, and mean angle of its faces to it, degrees."""
    vertices, faces = extract_isosurface(scene, 48)
    outward = (torch.from_numpy(vertices[faces]).mean(1) - MIDDLE).numpy()
    corners = torch.from_numpy(vertices[faces])
    normals = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    areas = normals.norm(dim=-1)
    cosine = (normalize(normals, dim=-1) * normalize(torch.from_numpy(outward), dim=-1)).sum(-1).clamp(-1, 1)
    angle = (cosine.arccos().rad2deg() * areas).sum() / areas.sum()
    off = (torch.from_numpy(vertices) - MIDDLE).norm(dim=-1) - RADIUS
    return off.abs().mean().item(), angle.item()


def test_sixteen_views_give_the_surface_and_smoother_than_a_density_does():
    scene = NeuS(CONFIG, seed=0)
    train(scene, optimizer_of(scene), range(100))
    off, angle = surface_errors(scene)
    assert off < 0.03 * RADIUS and angle < 13.0
    density = NeRF(replace(CONFIG, geometry=Geometry.density, blob_density=3.0, density_scale=10.0), seed=0)
    train(density, optimizer_of(density), range(100))
    assert angle < 0.7 * surface_errors(density)[1]


def test_resume_is_exact():
    whole = NeuS(CONFIG, seed=0)
    optimizer = optimizer_of(whole)
    train(whole, optimizer, range(6))
    saved, saved_optimizer = copy.deepcopy(whole.state_dict()), copy.deepcopy(optimizer.state_dict())
    train(whole, optimizer, range(6, 14))
    resumed = NeuS(CONFIG, seed=0)
    resumed.load_state_dict(saved)
    optimizer = optimizer_of(resumed)
    optimizer.load_state_dict(saved_optimizer)
    train(resumed, optimizer, range(6, 14))
    assert "log_sharpness" in saved and saved["log_sharpness"] != whole.log_sharpness
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
