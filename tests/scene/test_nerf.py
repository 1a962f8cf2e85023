import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from threedgen.cameras import orbit, rays_of
from threedgen.config.scene import BackendName, GridConfig, OptimizerConfig, SceneConfig
from threedgen.scene.nerf import NeRF

CONFIG = SceneConfig(
    grid=GridConfig(num_levels=3, num_features=4, log2_table_size=13, base_resolution=12, max_resolution=48),
    hidden_width=16,
    samples_per_ray=96,
    occupancy_every=4,
    occupancy_warmup=16,
    occupancy_decay=0.8,
)
GREY = torch.tensor([0.5, 0.5, 0.5])


def generator(seed):
    return torch.Generator().manual_seed(seed)


def optimizer_of(scene):
    config = OptimizerConfig(grid_lr=0.02, network_lr=0.01)
    return torch.optim.AdamW(scene.param_groups(config), betas=config.betas, eps=config.eps)


def coloured_sphere(cameras, radius=0.6):
    """Exact images of a sphere on grey whose colour is 0.5 + 0.4 * normal: rgb, silhouette."""
    rays = rays_of(cameras)
    along = -(rays.origins * rays.directions).sum(-1)
    inside = radius**2 - rays.origins.square().sum(-1) + along.square()
    hit = inside > 0
    surface = rays.origins + (along - inside.clamp(min=0).sqrt())[:, None] * rays.directions
    rgb = torch.where(hit[:, None], 0.5 + 0.4 * surface / radius, GREY)
    shape = (len(cameras), cameras.height, cameras.width, -1)
    return rgb.view(shape), hit.view(shape).float()


def cameras_at(azimuth, size=24):
    return orbit([azimuth + 90 * k for k in range(4)], 20.0, 2.6, 40, height=size, num_views=4)


def train(scene, optimizer, steps):
    for step in steps:
        cameras = cameras_at(37.0 * step)
        rgb, _ = coloured_sphere(cameras)
        loss = (scene.render(cameras, generator=generator(step), background=GREY).rgb - rgb).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scene.after_step(step)


def test_fits_a_coloured_sphere():
    scene = NeRF(CONFIG, seed=0)
    train(scene, optimizer_of(scene), range(60))
    cameras = cameras_at(45.0 + 11, size=32)
    rgb, silhouette = coloured_sphere(cameras)
    with torch.no_grad():
        output = scene.render(cameras, background=GREY)
    psnr = -10 * (output.rgb - rgb).square().mean().log10().item()
    opaque = output.opacity > 0.5
    iou = (opaque & (silhouette > 0)).sum() / (opaque | (silhouette > 0)).sum()
    assert psnr > 25 and iou > 0.9
    assert scene.occupancy.occupied.float().mean() < 0.25  # a ball of 0.6 fills 0.11 of the cube


def test_resume_is_exact():
    whole = NeRF(CONFIG, seed=0)
    optimizer = optimizer_of(whole)
    train(whole, optimizer, range(10))
    saved, saved_optimizer = copy.deepcopy(whole.state_dict()), copy.deepcopy(optimizer.state_dict())
    train(whole, optimizer, range(10, 22))

    resumed = NeRF(CONFIG, seed=0)
    resumed.load_state_dict(saved)
    optimizer = optimizer_of(resumed)
    optimizer.load_state_dict(saved_optimizer)
    train(resumed, optimizer, range(10, 22))
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_seed_decides_the_start():
    first, again, other = NeRF(CONFIG, seed=0), NeRF(CONFIG, seed=0), NeRF(CONFIG, seed=1)
    assert torch.equal(first.table, again.table) and not torch.equal(first.table, other.table)
    assert torch.equal(first.background.network[0].weight, again.background.network[0].weight)


def test_cells_are_refreshed_when_due_and_all_of_them_at_first():
    scene, calls = NeRF(replace(CONFIG, occupancy_warmup=9), seed=0), []
    scene._refreshed_opacity = lambda seed, all_cells: (
        calls.append((seed, all_cells)) or scene.occupancy.opacity.clone()
    )
    due = []
    for step in range(18):
        before = len(calls)
        scene.after_step(step)
        due += [step] * (len(calls) - before)
    assert due == [3, 7, 11, 15] and [all_cells for _, all_cells in calls] == [True, True, False, False]
    assert len({seed for seed, _ in calls}) == 4


def test_the_grid_spans_the_cube():
    """A vertex of the table moves the field where it lies in the world and nowhere else."""
    scene = NeRF(replace(CONFIG, radius=2.0, blob_radius=8.0), seed=0)
    corners = torch.tensor([[x, y, z] for z in (-2.0, 2.0) for y in (-2.0, 2.0) for x in (-2.0, 2.0)])
    edge = scene.layout.grid.levels[0].resolution - 1
    rows = [x + (edge + 1) * y + (edge + 1) ** 2 * z for z in (0, edge) for y in (0, edge) for x in (0, edge)]
    nn.init.zeros_(scene.table)
    features = (torch.arange(scene.layout.grid.num_outputs) < scene.layout.grid.num_features).float()
    before = scene.field(corners)[1]
    for corner, row in enumerate(rows):
        with torch.no_grad():
            scene.table.zero_()[row] = 1.0
        expected = before.clone()
        expected[corner] = torch.sigmoid(scene.network(features)[1:])  # all of that vertex's weight
        torch.testing.assert_close(scene.field(corners)[1], expected)


def test_starts_as_a_ball_in_the_middle():
    scene = NeRF(CONFIG, seed=0)
    density, rgb = scene.field(torch.tensor([[0.0, 0, 0], [0.5, 0, 0], [0.9, 0, 0]]))
    density = density.detach()
    assert density[0] == pytest.approx(10.0, abs=0.1) and density[1] == pytest.approx(0.693, abs=0.05)
    assert density[2] < 0.01 and rgb.shape == (3, 3)
    with torch.no_grad():
        opacity = scene.render(cameras_at(0.0)).opacity
    assert opacity[:, 12, 12].min() > 0.9 and opacity[:, 0, 0].max() == 0


def test_shapes_and_ranges():
    scene = NeRF(CONFIG, seed=0)
    cameras = orbit([0, 100, 200], 10, 2.6, 40, height=6, width=9)
    output = scene.render(cameras, generator=generator(0))
    assert output.rgb.shape == (3, 6, 9, 3) and output.opacity.shape == output.depth.shape == (3, 6, 9, 1)
    assert output.normal is None
    assert output.rgb.min() >= 0 and output.rgb.max() <= 1


def test_rendering_without_gradients_in_parts_gives_the_same(monkeypatch):
    scene = NeRF(CONFIG, seed=0)
    whole = scene.render(cameras_at(0.0), generator=generator(3))
    monkeypatch.setattr("threedgen.scene.nerf.RAYS_AT_ONCE", 100)
    with torch.no_grad():
        parts = scene.render(cameras_at(0.0), generator=generator(3))
    torch.testing.assert_close(parts.rgb, whole.rgb)
    torch.testing.assert_close(parts.depth, whole.depth)


def test_low_memory_computes_the_same_gradients_in_parts(monkeypatch):
    monkeypatch.setattr("threedgen.scene.nerf.RAYS_AT_ONCE", 500)
    gradients = []
    for low_memory in (False, True):
        scene = NeRF(CONFIG, seed=0, low_memory=low_memory)
        output = scene.render(cameras_at(0.0), generator=generator(3))
        (output.rgb.square().mean() + output.opacity.mean() + output.depth.mean()).backward()
        gradients.append([p.grad for p in scene.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1])
    for whole, parts in zip(*gradients, strict=True):
        torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("backend", [BackendName.native, BackendName.plain])
def test_every_back_end_renders_the_same_scene(backend):
    """Against plain torch in float64; the native kernels keep features in half precision: 1e-3 of them."""
    scene, exact = (NeRF(replace(CONFIG, backend=b), seed=0) for b in (backend, BackendName.plain))
    for each in (scene, exact):
        nn.init.normal_(each.table, generator=generator(1))
    exact.double()
    cameras = cameras_at(10.0)
    output = scene.render(cameras, background=GREY)
    double = replace(cameras, camera_to_world=cameras.camera_to_world.double(), fov_y=cameras.fov_y.double())
    expected = exact.render(double, background=GREY.double())
    different = 0.002 if backend is BackendName.native else 2e-4
    for name in ("rgb", "opacity", "depth"):
        error = (getattr(output, name) - getattr(expected, name)).abs()
        assert error.mean() < different / 10, name
        assert error.quantile(0.999) < 5 * different, name  # a sample on a cell's border may count on one side only


def test_evaluation_is_deterministic_and_training_is_a_function_of_the_generator():
    scene = NeRF(CONFIG, seed=0)
    cameras = cameras_at(0.0)
    assert torch.equal(scene.render(cameras).rgb, scene.render(cameras).rgb)
    first, again, other = (scene.render(cameras, generator=generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.rgb, again.rgb) and not torch.equal(first.opacity, other.opacity)


def test_a_colour_stands_in_for_the_background_network():
    scene = NeRF(CONFIG, seed=0)
    corner = orbit(0, 0, 2.6, 90, height=2)  # rays past the object
    network = scene.background(rays_of(corner).directions)
    torch.testing.assert_close(scene.render(corner, generator=generator(0)).rgb.view(4, 3), network)
    given = scene.render(corner, generator=generator(0), background=torch.tensor([0.1, 0.2, 0.3])).rgb
    torch.testing.assert_close(given.view(4, 3), torch.tensor([0.1, 0.2, 0.3]).expand(4, 3))


def test_an_empty_scene_renders_its_background_and_has_zero_gradients():
    scene = NeRF(CONFIG, seed=0)
    scene.occupancy.occupied.zero_()
    output = scene.render(cameras_at(0.0), generator=generator(0), background=GREY)
    assert (output.rgb == 0.5).all() and not output.opacity.any() and not output.depth.any()
    (output.rgb.sum() + output.opacity.sum()).backward()
    assert not scene.table.grad.any() and all(not p.grad.any() for p in scene.network.parameters())


def test_parameter_groups_cover_every_parameter_once():
    scene = NeRF(CONFIG, seed=0)
    groups = scene.param_groups(OptimizerConfig(grid_lr=0.3, network_lr=0.2, background_lr=0.1))
    assert [(g["name"], g["lr"]) for g in groups] == [("grid", 0.3), ("network", 0.2), ("background", 0.1)]
    listed = [id(p) for group in groups for p in group["params"]]
    assert sorted(listed) == sorted(id(p) for p in scene.parameters())


def test_gradient_of_the_render_agrees_with_finite_differences():
    scene = NeRF(CONFIG, seed=0).double()
    nn.init.normal_(scene.table, generator=generator(9))  # away from the kinks of ReLU that meet at 0
    cameras = orbit(30, 10, 2.6, 40, height=5)
    cameras = replace(cameras, camera_to_world=cameras.camera_to_world.double(), fov_y=cameras.fov_y.double())
    weights = [scene.network[0].weight, scene.table]

    def loss():
        return scene.render(cameras, background=torch.tensor([0.2, 0.4, 0.6]).double()).rgb.square().sum()

    gradients = torch.autograd.grad(loss(), weights)
    for seed, (weight, gradient) in enumerate(zip(weights, gradients, strict=True)):
        direction = torch.randn(weight.shape, generator=generator(seed), dtype=torch.float64)
        with torch.no_grad():
            weight += 1e-6 * direction
            above = loss()
            weight -= 2e-6 * direction
            below = loss()
            weight += 1e-6 * direction
        torch.testing.assert_close((above - below) / 2e-6, (gradient * direction).sum(), rtol=1e-4, atol=1e-6)
