import math

import pytest
import torch

from threedgen.cameras import CameraSampler, mvdream_camera_vectors, orbit, project, rays_of, videomv_camera_vectors
from threedgen.config.scene import CameraConfig


@pytest.mark.parametrize(
    ("key", "azimuths", "elevation"),
    [
        ("cam.get_camera_nf4_el15_az90", [90, 180, 270, 360], 15),
        ("cam.get_camera_nf4_el15_az0_default", [0, 90, 180, 270], 15),
        ("cam.get_camera_nf3_el30_az10_span180", [10, 70, 130], 30),
    ],
)
def test_mvdream_camera_vectors_equal_the_reference(goldens, key, azimuths, elevation):
    cameras = orbit([a - 90 for a in azimuths], elevation, 2.7, 50, height=8)  # MVDream's azimuth is 90 degrees ahead
    torch.testing.assert_close(mvdream_camera_vectors(cameras), goldens[key], atol=2e-6, rtol=0)


def test_mvdream_camera_vectors_normalise_as_the_reference(goldens):
    poses = goldens["cam.normalize_in"].float()
    cameras = orbit([0.0] * len(poses), 0, 1, 40, height=4)
    object.__setattr__(cameras, "camera_to_world", poses.clone())
    torch.testing.assert_close(mvdream_camera_vectors(cameras), goldens["cam.normalize_out"], atol=2e-6, rtol=0)
    torch.testing.assert_close(cameras.camera_to_world, poses)  # the reference overwrites its input; we must not


@pytest.mark.parametrize("seed", range(4))
def test_poses_and_rays_equal_the_reference_sampler(goldens, seed):
    stored = {name: goldens[f"camsample.seed{seed}.{name}"] for name in ("azimuth", "elevation", "fovy", "c2w")}
    stored |= {name: goldens[f"camsample.seed{seed}.{name}"] for name in ("camera_distances", "rays_o", "rays_d")}
    fovy = stored["fovy"] if stored["fovy"].max() > 3.2 else stored["fovy"].rad2deg()
    cameras = orbit(stored["azimuth"], stored["elevation"], stored["camera_distances"], fovy, height=8, num_views=4)
    torch.testing.assert_close(cameras.camera_to_world, stored["c2w"], atol=5e-6, rtol=0)
    rays = rays_of(cameras)
    torch.testing.assert_close(rays.directions.view(8, 8, 8, 3), stored["rays_d"], atol=2e-6, rtol=0)
    torch.testing.assert_close(rays.origins.view(8, 8, 8, 3), stored["rays_o"], atol=5e-6, rtol=0)


@pytest.mark.parametrize("split", ["val", "test"])
def test_evaluation_cameras_equal_the_reference(goldens, split):
    cameras = orbit(goldens[f"cameval.{split}.azimuth_deg"], 15.0, 3.0, 40.0, height=8)
    torch.testing.assert_close(cameras.camera_to_world, goldens[f"cameval.{split}.c2w"], atol=5e-6, rtol=0)
    if split == "val":
        directions = rays_of(cameras).directions.view(4, 8, 8, 3)
        torch.testing.assert_close(directions, goldens["cameval.val.rays_d"], atol=2e-6, rtol=0)


def test_a_point_seen_by_a_pixel_projects_back_to_that_pixel():
    cameras = orbit([20.0, 200.0], [10.0, -30.0], [2.0, 5.0], [60.0, 25.0], height=6, width=10)
    rays = rays_of(cameras)
    points = (rays.origins + 1.7 * rays.directions).view(2, 60, 3)
    in_camera = torch.linalg.inv(cameras.camera_to_world)[:, :3] @ torch.nn.functional.pad(points, (0, 1), value=1.0).mT
    focal = 3.0 / torch.tan(cameras.fov_y / 2)[:, None]
    column = focal * in_camera[:, 0] / -in_camera[:, 2] + 5.0
    row = 3.0 - focal * in_camera[:, 1] / -in_camera[:, 2]
    torch.testing.assert_close(column.view(2, 6, 10), (torch.arange(10) + 0.5).expand(2, 6, 10), atol=1e-4, rtol=0)
    torch.testing.assert_close(row.view(2, 6, 10), (torch.arange(6) + 0.5)[:, None].expand(2, 6, 10), atol=1e-4, rtol=0)


def test_up_in_the_world_is_up_in_the_image():
    top, bottom = rays_of(orbit(30, 20, 3.0, 40, height=2, width=1)).directions
    assert top[2] > bottom[2]


def test_orbit_refuses_poles_and_broken_objects():
    with pytest.raises(ValueError, match="elevation"):
        orbit(0, 90, 1, 40, height=4)
    with pytest.raises(ValueError, match="4 views"):
        orbit([0, 1, 2], 0, 1, 40, height=4, num_views=4)


def test_slices_keep_objects_whole():
    cameras = orbit(torch.arange(8.0), 10, 2, 40, height=4, num_views=4)
    assert len(cameras[4:]) == 4 and cameras[4:].num_views == 4
    assert cameras[:3].num_views == 1 and cameras[2:6].num_views == 1
    torch.testing.assert_close(cameras[4:].azimuth, cameras.azimuth[4:])


@pytest.mark.parametrize("num_views", [1, 4])
def test_sampled_views_are_evenly_spaced_and_in_range(num_views):
    config = CameraConfig(num_views=num_views, sets_per_step=3, distance_range=(0.8, 1.0))
    sampler = CameraSampler(config, seed=3)
    drawn = [sampler.sample(step, 50) for step in range(50)]
    for cameras in drawn:
        assert len(cameras) == 3 * num_views and cameras.num_views == num_views
        azimuth = cameras.azimuth.double().rad2deg().view(3, num_views)
        steps = (azimuth[:, 1:] - azimuth[:, :-1]) % 360  # always onwards, never backwards
        torch.testing.assert_close(steps, torch.full_like(steps, 90.0), atol=1e-4, rtol=0)
        for shared in (cameras.elevation, cameras.fov_y, cameras.distance):
            assert (shared.view(3, -1) == shared.view(3, -1)[:, :1]).all()
    elevation = torch.cat([c.elevation for c in drawn]).rad2deg()
    fov = torch.cat([c.fov_y for c in drawn])
    half_height = torch.cat([c.distance for c in drawn]) * torch.tan(fov / 2)
    for values, (low, high) in [
        (elevation, config.elevation_deg_range),
        (fov.rad2deg(), config.fov_y_deg_range),
        (half_height, config.distance_range),
    ]:
        assert values.min() >= low - 1e-4 and values.max() <= high + 1e-4
        assert values.min() < low + 0.1 * (high - low) and values.max() > high - 0.1 * (high - low)  # all of the range
    starts = torch.stack([c.azimuth[0] for c in drawn])
    assert starts.min() < 0.6 and starts.max() > 2 * math.pi - 0.6


def test_cameras_are_a_function_of_seed_and_step():
    sampler = CameraSampler(CameraConfig(), seed=0)
    again = CameraSampler(CameraConfig(), seed=0).sample(7, 10).camera_to_world
    assert torch.equal(sampler.sample(7, 10).camera_to_world, again)
    assert not torch.equal(sampler.sample(8, 10).camera_to_world, again)
    assert not torch.equal(CameraSampler(CameraConfig(), seed=1).sample(7, 10).camera_to_world, again)


def test_resolution_grows_after_the_coarse_part():
    sampler = CameraSampler(CameraConfig(resolution=256, coarse_resolution=64, coarse_fraction=0.5), seed=0)
    assert [sampler.sample(step, 10).height for step in (0, 4, 5, 9)] == [64, 64, 256, 256]
    fewer = CameraConfig(sets_per_step=1, coarse_sets_per_step=2, coarse_fraction=0.5)
    assert [len(CameraSampler(fewer, seed=0).sample(step, 10)) for step in (0, 4, 5, 9)] == [8, 8, 4, 4]


def test_project_is_the_inverse_of_rays():
    cameras = orbit([10, 140, 260], [-20, 5, 40], [2, 3, 4], [30, 40, 60], height=5, width=7)
    rays = rays_of(cameras)
    distance = 0.5 + torch.rand(3, 35, generator=torch.Generator().manual_seed(0))
    points = (rays.origins + distance.reshape(-1, 1) * rays.directions).view(3, 35, 3)
    pixels, away = project(cameras, points)
    row, column = torch.meshgrid(torch.arange(5), torch.arange(7), indexing="ij")
    expected = torch.stack([column, row], -1).view(1, 35, 2) + 0.5
    torch.testing.assert_close(pixels, expected.expand(3, -1, -1), atol=1e-4, rtol=0)
    torch.testing.assert_close(away, distance)
    behind, _ = project(cameras, 3 * cameras.camera_to_world[:, None, :3, 3])
    assert behind.isnan().all()


def test_neighbours_of_a_dense_prior_stand_as_far_apart_as_asked():
    sampler = CameraSampler(CameraConfig(num_views=8, spacing_deg=15, sets_per_step=2), seed=0)
    azimuth = sampler.sample(3, 10).azimuth.rad2deg().reshape(2, 8)
    steps = (azimuth[:, 1:] - azimuth[:, :-1]) % 360
    torch.testing.assert_close(steps, torch.full_like(steps, 15.0), atol=1e-3, rtol=0)


def test_videomv_is_told_the_whole_matrix():
    """A camera on +x at distance 2, level: right is +y, up +z, back +x (reference: frame 0 at azimuth 0)."""
    expected = [0, 0, 1, 2, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1]
    torch.testing.assert_close(
        videomv_camera_vectors(orbit(0, 0, 2.0, 40, 8))[0], torch.tensor(expected, dtype=torch.float32)
    )
