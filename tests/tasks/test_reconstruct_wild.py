"""Reconstruction from pictures that are bent, masked, or only partly cut out, against the same from ideal ones."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from scipy.ndimage import map_coordinates

from threedgen.config.load import load_config
from threedgen.config.scene import MaskUse
from threedgen.data.meshes.views import SPHERE, write_views
from threedgen.data.posed_files import read_posed_images
from threedgen.data.posed_images import PosedImages, background_color, cameras_at
from threedgen.metrics.image import silhouette_iou
from threedgen.runs.directory import open_run
from threedgen.scene.nerf import NeRF
from threedgen.tasks import reconstruct

SMALL = ["reconstruct.rays_per_step=1024", "scene.samples_per_ray=64", "scene.occupancy_resolution=32"]
SMALL += ["scene.grid.num_levels=3", "scene.grid.max_resolution=64", "scene.grid.log2_table_size=14", "num_threads=1"]
SIZE, FINE, FOV = 40, 160, 50.0


@pytest.fixture(scope="module")
def views(tmp_path_factory):
    """Fine ideal pictures of a box with six coloured sides, with alpha."""
    folder = tmp_path_factory.mktemp("views")
    box = trimesh.creation.box((0.8, 0.6, 0.5))
    box.visual.face_colors = np.repeat([[220, 40, 30], [30, 180, 60], [40, 60, 220], [230, 200, 40]] * 3, 1, axis=0)
    box.export(folder / "box.ply")
    settings = replace(SPHERE, views=24, size=FINE, supersample=1, fov_deg=(FOV, FOV))
    write_views(folder / "box.ply", folder / "views", "box", settings)
    return read_posed_images(folder / "views")


def write(folder, images, poses, per_frame=None, **words):
    frames = []
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i:03}.png")
        extra = per_frame(i) if per_frame else {}
        frames.append({"file_path": f"{i:03}.png", "transform_matrix": poses[i].tolist(), **extra})
    (folder / "transforms.json").write_text(json.dumps({**words, "frames": frames}))


def fitted(folder, tmp_path, *settings):
    """Held-out PSNR after a few steps, and the scene with the matrix that leads to it."""
    config = load_config("reconstruct-nerf.yaml", [f"data={folder}", "steps=60", *SMALL, *settings])
    posed = read_posed_images(folder, masks=config.reconstruct.masks)
    matrix = np.eye(4)
    training, held_out = reconstruct.split(posed, 8)
    with open_run(tmp_path / f"run-{folder.name}", config) as run:
        scene, _ = reconstruct.optimize(config, run, training, held_out)
        results = reconstruct.write_quality(scene, posed, held_out, background_color(training), matrix, run)
    return json.loads(results["quality"].read_text())["held_out"]["psnr"], scene


def seen_by(image, fov_deg, x, y):
    """What a fine ideal picture [H, W, 4] shows in the directions (x, y, 1): premultiplied, then straight again."""
    height, width = image.shape[:2]
    focal = height / 2 / math.tan(math.radians(fov_deg) / 2)
    place = np.stack([height / 2 + focal * y - 0.5, width / 2 + focal * x - 0.5])
    alpha = image[..., 3:] / 255.0
    planes = np.concatenate([image[..., :3] * alpha, 255.0 * alpha], -1)
    seen = np.stack([map_coordinates(planes[..., c], place, order=1) for c in range(4)], -1)
    seen[..., :3] /= np.maximum(seen[..., 3:] / 255.0, 1e-6)
    return np.rint(seen.clip(0, 255)).astype(np.uint8)


def test_a_bent_off_centre_lens_costs_nothing(views, tmp_path):
    k1, k2, p1, p2 = -0.18, 0.03, 0.006, -0.004
    focal_x, focal_y, center_x, center_y = 44.0, 40.0, 22.5, 18.0
    u, v = np.meshgrid(np.arange(SIZE) + 0.5, np.arange(SIZE) + 0.5)
    bent = (u - center_x) / focal_x, (v - center_y) / focal_y
    x, y = bent
    for _ in range(200):  # x = what is left of the bent place without what bends it
        r2 = x**2 + y**2
        radial = 1 + k1 * r2 + k2 * r2**2
        x, y = (
            (bent[0] - 2 * p1 * x * y - p2 * (r2 + 2 * x**2)) / radial,
            (bent[1] - p1 * (r2 + 2 * y**2) - 2 * p2 * x * y) / radial,
        )
    fine, poses = views.images.numpy(), views.cameras.camera_to_world.numpy()
    plain = (np.arange(SIZE) + 0.5 - SIZE / 2) / 42.0
    for name in ("plain", "bent", "ignored"):
        (tmp_path / name).mkdir()
    write(tmp_path / "plain", [seen_by(i, FOV, *np.meshgrid(plain, plain)) for i in fine], poses, w=40, h=40, fl_x=42)
    pictures = [seen_by(image, FOV, x, y) for image in fine]
    words = {"w": 40, "h": 40, "fl_x": focal_x, "fl_y": focal_y, "cx": center_x, "cy": center_y}
    write(tmp_path / "bent", pictures, poses, **words, k1=k1, k2=k2, p1=p1, p2=p2)
    write(tmp_path / "ignored", pictures, poses, w=40, h=40, fl_x=42)
    found = {name: fitted(tmp_path / name, tmp_path)[0] for name in ("plain", "bent", "ignored")}
    assert found["bent"] > found["plain"] - 1.0, found
    assert found["ignored"] < found["plain"] - 3.0, found


def test_an_object_that_turns_before_a_wall_is_found_by_its_masks(views, tmp_path):
    """The wall stays where it is in every picture, so no scene explains it."""
    fine, poses = views.images.numpy(), views.cameras.camera_to_world.numpy()
    plain = (np.arange(SIZE) + 0.5 - SIZE / 2) / 42.0
    pictures = [seen_by(image, FOV, *np.meshgrid(plain, plain)) for image in fine]
    wall = np.random.default_rng(0).integers(0, 255, (SIZE // 8, SIZE // 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    folder = tmp_path / "turning"
    (folder / "masks").mkdir(parents=True)
    photographs = []
    for i, picture in enumerate(pictures):
        alpha = picture[..., 3:] / 255.0
        photographs.append(np.rint(picture[..., :3] * alpha + wall * (1 - alpha)).astype(np.uint8))
        Image.fromarray(picture[..., 3]).save(folder / f"masks/{i:03}.png")
    write(folder, photographs, poses, w=40, h=40, fl_x=42)

    def found(scene):
        """Its silhouette against the true one in pictures that were not learned, intersection over union."""
        fov_y = torch.full((24,), 2 * math.atan(20 / 42))
        cameras = cameras_at(torch.from_numpy(poses), fov_y, SIZE, SIZE)
        posed = PosedImages(torch.from_numpy(np.stack(pictures)), cameras, ("",) * 24).select([7, 15, 23])
        return silhouette_iou(posed.on((0.5, 0.5, 0.5))[1], reconstruct.render_views(scene, posed, None)[1])

    assert found(fitted(folder, tmp_path)[1]) > 0.85
    (folder / "masks").rename(folder / "unused")
    assert found(fitted(folder, tmp_path / "without")[1]) < 0.7


def test_the_loss_of_pictures_with_and_without_alpha_is_their_own():
    """An empty scene: cut-outs of nothing cost nothing, photographs what the background differs from their colour."""
    images = torch.zeros(4, 8, 8, 4, dtype=torch.uint8)
    images[2:] = torch.tensor([51, 102, 204, 255], dtype=torch.uint8)
    poses = torch.eye(4).repeat(4, 1, 1)
    poses[:, 2, 3] = 3.0
    cameras = cameras_at(poses, torch.full((4,), 0.3), 8, 8)
    posed = PosedImages(images, cameras, ("",) * 4, photographs=torch.tensor([False, False, True, True]))
    config = load_config("reconstruct-nerf.yaml", ["data=unused", *SMALL])
    scene = NeRF(config.scene, seed=0)
    scene.occupancy.occupied.zero_()
    background = background_color(posed)
    torch.testing.assert_close(background, torch.tensor([0.2, 0.4, 0.8]))
    assert reconstruct.losses(scene, posed, background, config, step=0).total == 0
    loss = reconstruct.losses(scene, posed, background + 0.1, config, step=0)
    assert loss.color.item() == pytest.approx(0.01 * 0.5, rel=0.1) and loss.opacity == 0  # of half the rays
    all_cut_out = replace(posed, photographs=None)
    assert reconstruct.losses(scene, all_cut_out, None, config, step=0).opacity.item() == pytest.approx(
        0.5 * config.reconstruct.opacity_weight, rel=0.1
    )


def test_quality_is_measured_where_pictures_show_something(tmp_path):
    """A scene that is empty on grey: right where it is looked at, wrong where a mask says not to."""
    images = torch.full((4, 8, 8, 3), 127, dtype=torch.uint8)
    images[:, :, 4:] = 255
    seen = torch.ones(4, 8, 8, dtype=torch.bool)
    seen[:, :, 4:] = False
    poses = torch.eye(4).repeat(4, 1, 1)
    poses[:, 2, 3] = 3.0
    posed = PosedImages(images, cameras_at(poses, torch.full((4,), 0.3), 8, 8), ("",) * 4, seen=seen)
    torch.testing.assert_close(background_color(posed), torch.full((3,), 127 / 255))
    config = load_config("reconstruct-nerf.yaml", ["data=unused", f"reconstruct.masks={MaskUse.ignored.name}", *SMALL])
    scene = NeRF(config.scene, seed=0)
    scene.occupancy.occupied.zero_()
    with open_run(tmp_path / "run", config) as run:
        results = reconstruct.write_quality(scene, posed, posed, background_color(posed), np.eye(4), run)
    found = json.loads(results["quality"].read_text())["held_out"]
    assert found["psnr"] is None or found["psnr"] > 80  # None: to the last bit
    assert found["ssim"] is None  # no window of 7 x 7 pixels is seen: what is not must not look alike in it


def test_held_out_pictures_have_the_background_of_those_that_were_learned(tmp_path):
    """An object that is cut off by a held-out picture's edge hides there what the background is."""
    images = torch.full((4, 8, 8, 3), 51, dtype=torch.uint8)
    images[3, :, 4:] = 255
    poses = torch.eye(4).repeat(4, 1, 1)
    poses[:, 2, 3] = 3.0
    posed = PosedImages(images, cameras_at(poses, torch.full((4,), 0.3), 8, 8), ("",) * 4)
    training, held_out = reconstruct.split(posed, 4)
    assert background_color(held_out) is None
    scene = NeRF(load_config("reconstruct-nerf.yaml", ["data=unused", *SMALL]).scene, seed=0)
    scene.occupancy.occupied.zero_()
    with open_run(tmp_path / "run", load_config("reconstruct-nerf.yaml", ["data=unused"])) as run:
        results = reconstruct.write_quality(scene, posed, held_out, background_color(training), np.eye(4), run)
    likeness = json.loads(results["quality"].read_text())["held_out"]["psnr"]
    assert likeness == pytest.approx(-10 * math.log10(0.5 * 0.8**2), abs=0.01)  # the half that the scene lacks


def test_a_scene_without_any_error_is_told_in_json(tmp_path, monkeypatch):
    images = torch.full((2, 8, 8, 3), 51, dtype=torch.uint8)
    poses = torch.eye(4).repeat(2, 1, 1)
    posed = PosedImages(images, cameras_at(poses, torch.full((2,), 0.3), 8, 8), ("",) * 2)
    exact = (posed.on(reconstruct.GREY)[0], np.ones((2, 8, 8, 1)))
    monkeypatch.setattr(reconstruct, "render_views", lambda *_: exact)
    with open_run(tmp_path / "run", load_config("reconstruct-nerf.yaml", ["data=unused"])) as run:
        written = reconstruct.write_quality(None, posed, posed, None, np.eye(4), run)["quality"].read_text()
    assert "Infinity" not in written
    assert json.loads(written)["held_out"] == {"pictures": 2, "psnr": None, "ssim": 1.0}
