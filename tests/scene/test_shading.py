import math

import pytest
import torch
from torch.nn.functional import normalize

from threedgen.cameras import orbit
from threedgen.config.scene import GridConfig, SceneConfig, ShadingConfig
from threedgen.scene import regularizers
from threedgen.scene.nerf import NeRF
from threedgen.scene.shading import Shading, draw_shading

CONFIG = SceneConfig(
    grid=GridConfig(num_levels=2, num_features=4, log2_table_size=12, base_resolution=8, max_resolution=16),
    hidden_width=16,
    blob_density=40.0,
    density_scale=20.0,
    samples_per_ray=256,
)


def cameras(size=25):
    return orbit([0.0, 90.0, 180.0, 270.0], 15.0, 2.6, 40, height=size, num_views=4)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def test_a_plane_under_a_lamp():
    """Lambert's law by hand: straight below, at 60 degrees, and behind."""
    lamp = torch.tensor([[0.0, 0.0, 2.0]]).expand(3, 3)
    positions = torch.tensor([[0.0, 0, 0], [2 * math.sqrt(3), 0, 0], [0, 0, 0]])
    normals = torch.tensor([[0.0, 0, 1], [0, 0, 1], [0, 0, -1]])
    rgb = torch.tensor([[0.2, 0.4, 0.8]]).expand(3, 3)
    seen = Shading(lamp, diffuse=0.75, textureless=False).apply(rgb, normals, positions, lamp)
    torch.testing.assert_close(seen, rgb * torch.tensor([[1.0], [0.75 * 0.5 + 0.25], [0.25]]))
    white = Shading(lamp, diffuse=1.0, textureless=True).apply(rgb, normals, positions, lamp)
    torch.testing.assert_close(white, torch.tensor([[1.0], [0.5], [0.0]]).expand(3, 3))


def test_draws_follow_the_stated_probabilities_and_ranges():
    config, seen = ShadingConfig(enabled=True), cameras()
    drawn = [draw_shading(config, seen, generator(seed)) for seed in range(2000)]
    lit = [shading for shading in drawn if shading is not None]
    assert abs(len(lit) / 2000 - 0.75) < 0.04
    assert abs(sum(s.textureless for s in lit) / len(lit) - 0.5) < 0.05
    diffuse = torch.tensor([s.diffuse for s in lit])
    assert abs(diffuse.mean() - 0.5) < 0.03 and abs(diffuse.std() - 1 / math.sqrt(12)) < 0.02
    distance = torch.stack([s.lights for s in lit]).norm(dim=-1)
    assert distance.min() >= 0.8 - 1e-6 and distance.max() <= 1.5 + 1e-6
    torch.testing.assert_close(distance, distance[:, :1].expand(-1, 4))  # the views of an object share it
    still = draw_shading(ShadingConfig(light_position_noise=0.0, diffuse_probability=1.0), seen, generator(0))
    torch.testing.assert_close(normalize(still.lights, dim=-1), normalize(seen.camera_to_world[:, :3, 3], dim=-1))


def test_the_ball_shows_its_normals_and_its_lit_side():
    scene, seen = NeRF(CONFIG, seed=0), cameras()
    with torch.no_grad():
        torch.nn.init.zeros_(scene.table)  # the blob alone: an exact ball
        output = scene.render(seen, background=torch.zeros(3), normals=True)
        toward = normalize(seen.camera_to_world[:, :3, 3], dim=-1)
        torch.testing.assert_close(output.normal[:, 12, 12], toward, atol=2e-2, rtol=0)
        assert (output.normal[output.opacity[..., 0] == 0] == 0).all()
        torch.testing.assert_close(output.rgb, scene.render(seen, background=torch.zeros(3)).rgb, atol=1e-5, rtol=0)

        sun = torch.tensor([[0.0, 100.0, 0.0]]).expand(4, 3)  # on the left of the first camera's picture is -y
        lit = scene.render(seen, background=torch.zeros(3), shading=Shading(sun, diffuse=1.0, textureless=True))
        row = lit.rgb[0, 12, :, 0]
        expected = output.normal[0, 12, :, 1].clamp(min=0) * output.opacity[0, 12, :, 0]
        inside = output.opacity[0, 12, :, 0] > 0.99
        torch.testing.assert_close(row[inside], expected[inside], atol=0.05, rtol=0)
        assert row[inside].max() > 0.75 and row[inside].min() == 0


def test_orientation_counts_what_faces_away_and_teaches_the_shape():
    scene, seen = NeRF(CONFIG, seed=0), cameras()
    with pytest.raises(ValueError, match="normals=True"):
        regularizers.orientation(scene.render(seen))
    with torch.no_grad():
        torch.nn.init.zeros_(scene.table)
        assert regularizers.orientation(scene.render(seen, normals=True)) < 1e-3  # a ball shows its front
        torch.nn.init.normal_(scene.table, std=40.0, generator=generator(0))  # now it has pits
    before = regularizers.orientation(scene.render(seen, normals=True))
    assert before > 0.005
    before.backward()
    assert scene.table.grad.any() and scene.network[0].weight.grad.any()
    with torch.no_grad():
        step = 0.05 * before / scene.table.grad.square().sum()
        scene.table -= step * scene.table.grad
        after = regularizers.orientation(scene.render(seen, normals=True))
    assert after < before


def test_gradients_through_the_light_agree_with_finite_differences():
    scene = NeRF(CONFIG, seed=0).double()
    torch.nn.init.normal_(scene.table, generator=generator(1))
    seen = cameras(5)
    seen = type(seen)(**{k: v.double() if isinstance(v, torch.Tensor) else v for k, v in vars(seen).items()})
    shading = Shading(torch.tensor([[0.5, 0.8, 1.0]]).double().expand(4, 3), diffuse=0.8, textureless=False)

    def loss():
        return scene.render(seen, background=torch.zeros(3).double(), shading=shading).rgb.square().sum()

    weight = scene.network[0].weight
    (gradient,) = torch.autograd.grad(loss(), weight)
    direction = torch.randn(weight.shape, generator=generator(2), dtype=torch.float64)
    with torch.no_grad():
        weight += 1e-6 * direction
        above = loss()
        weight -= 2e-6 * direction
        below = loss()
    torch.testing.assert_close((above - below) / 2e-6, (gradient * direction).sum(), rtol=1e-4, atol=1e-6)
