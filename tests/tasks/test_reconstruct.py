"""Pictures of shapes that are known go in, and the shapes must come out; a stopped run goes on exactly."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from threedgen import cli
from threedgen.config.load import load_config
from threedgen.core.randomness import generator
from threedgen.data.meshes.views import SPHERE, write_views
from threedgen.data.posed_files import read_posed_images
from threedgen.data.posed_images import PosedImages, cameras_at
from threedgen.imaging import to_uint8
from threedgen.runs.directory import open_run
from threedgen.runs.events import read_events
from threedgen.scene.distortion import distortion
from threedgen.scene.nerf import NeRF
from threedgen.scene.neus import NeuS
from threedgen.scene.regularizers import eikonal, smoothness
from threedgen.tasks import reconstruct

ROOT = Path(__file__).parent.parent.parent
SMALL = ["reconstruct.rays_per_step=1024", "scene.samples_per_ray=96", "scene.occupancy_resolution=32"]
SMALL += ["scene.grid.num_levels=3", "scene.grid.max_resolution=64", "scene.grid.log2_table_size=14", "num_threads=1"]
EXPORT = ["export.resolution=48", "export.colors=vertex", "export.turntable_frames=2", "export.image_size=32"]


@pytest.fixture(scope="module")
def benchmark(load_benchmark):
    """benchmarks/reconstruct.py: the shapes, and the comparison of what came out with what went in."""
    module = load_benchmark("reconstruct")
    module.NUM_VIEWS, module.SIZE, module.NUM_POINTS = 6, 64, 10_000
    return module


@pytest.fixture(scope="module")
def shapes(benchmark, tmp_path_factory):
    return {path.stem: path for path in benchmark.write_shapes(tmp_path_factory.mktemp("shapes"))}


def config_for(data, *settings):
    return load_config("reconstruct-nerf.yaml", [f"data={data}", *SMALL, *EXPORT, *settings])


def views_of(shape, folder, **settings):
    write_views(shape, folder, shape.stem, replace(SPHERE, **{"views": 40, "size": 40, "supersample": 2, **settings}))
    return folder


@pytest.mark.parametrize(
    "name, least_psnr, least_iou, largest_chamfer",
    [("horse", 32, 0.9, 0.013), ("knot", 27, 0.95, 0.012), ("vase", 24, 0.96, 0.025)],
)
def test_known_shapes_come_back(benchmark, shapes, tmp_path, name, least_psnr, least_iou, largest_chamfer):
    """A silhouette of scikit-image blown up, a knotted tube, a hollow vase with a photograph on it."""
    config = config_for(views_of(shapes[name], tmp_path / "views"), "steps=100")
    with open_run(tmp_path / "run", config) as run:
        results = reconstruct.run(config, run)
    quality = json.loads(results["quality"].read_text())
    assert quality["held_out"]["pictures"] == 5 and quality["held_out"]["psnr"] > least_psnr
    scores, _ = benchmark.compare_meshes(shapes[name], results["glb"], np.array(quality["scene_from_data"]))
    assert scores["iou"] > least_iou and scores["chamfer"] < largest_chamfer and scores["psnr"] > least_psnr - 2
    assert json.loads(results["report"].read_text())["watertight"]
    assert results["held out"].stat().st_size > 1000


def test_the_benchmark_goes_on_where_nothing_is_held_out(benchmark, tmp_path, monkeypatch):
    results = {name: tmp_path / f"{name}.json" for name in ("quality", "report", "glb")}
    results["quality"].write_text(json.dumps({"held_out": None, "scene_from_data": np.eye(4).tolist()}))
    results["report"].write_text(json.dumps({"mesh_vs_scene_psnr": 30.0, "watertight": True, "faces": 12}))
    scores = {"chamfer": 0.01, "normals": 5.0, "iou": 0.9, "psnr": 20.0, "ssim": 0.9}
    monkeypatch.setattr(benchmark, "write_views", lambda *_: None)
    monkeypatch.setattr(benchmark.reconstruct, "run", lambda config, run: results)
    monkeypatch.setattr(benchmark, "compare_meshes", lambda *_: (scores, [("", np.zeros((1, 8, 8, 3)))]))
    found = benchmark.measure(tmp_path / "box.ply", 64, tmp_path, ["reconstruct.held_out_every=0"])
    assert "| box | 64 | 0.0100 | 5.0° | 0.900 | 20.00 | 0.900 |  | 12 | yes |" in benchmark.table([found])


def test_the_command_reconstructs_from_transforms_without_alpha(tmp_path, capsys):
    """A red box far from the origin on white photographs: found, normalised, and as large as it was."""
    box = trimesh.creation.box((1.0, 1.0, 0.5))
    box.visual.face_colors = [200, 30, 40]
    box.export(tmp_path / "box.ply")
    posed = read_posed_images(views_of(tmp_path / "box.ply", tmp_path / "views", views=32, size=40))
    frames, shift, scale = [], np.array([20.0, -8.0, 3.0]), 4.0
    for i, (image, pose) in enumerate(zip(posed.on((1.0, 1.0, 1.0))[0], posed.cameras.camera_to_world, strict=True)):
        pose = pose.double().numpy()
        pose[:3, 3] = scale * pose[:3, 3] + shift
        Image.fromarray(to_uint8(image)).save(tmp_path / f"{i}.jpg", quality=95)
        focal = 20 / np.tan(posed.cameras.fov_y[i].item() / 2)
        frames.append({"file_path": f"{i}.jpg", "transform_matrix": pose.tolist(), "fl_x": focal, "fl_y": focal})
    (tmp_path / "transforms.json").write_text(json.dumps({"w": 40, "h": 40, "frames": frames}))
    command = ["--config", "reconstruct-nerf.yaml", f"data={tmp_path}/transforms.json", f"output_root={tmp_path}/out"]
    assert cli.main([*command, *SMALL, *EXPORT, "steps=120"]) == 0
    printed = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    quality = json.loads(Path(printed["quality"]).read_text())
    matrix = np.array(quality["scene_from_data"])
    mesh = trimesh.load(printed["glb"], force="mesh")
    center = mesh.bounds.mean(0)[[2, 0, 1]]  # y up to z up
    assert mesh.volume / (matrix[0, 0] * scale) ** 3 == pytest.approx(0.5, rel=0.15)
    np.testing.assert_allclose((center - matrix[:3, 3]) / matrix[0, 0], shift, atol=0.1)
    assert quality["held_out"]["psnr"] > 20 and not quality["has_alpha"]


@pytest.mark.parametrize("geometry", ["density", "sdf"])
def test_a_stopped_run_resumes_to_the_same_scene(geometry, shapes, tmp_path, monkeypatch):
    settings = ["steps=8", "checkpoint_every=4", "scene.occupancy_every=3", "reconstruct.rays_per_step=256"]
    settings += [f"scene.geometry={geometry}"]
    config = config_for(views_of(shapes["knot"], tmp_path / "views", views=9, size=16), *settings)
    training, held_out = reconstruct.split(read_posed_images(config.data), config.reconstruct.held_out_every)
    assert (len(training), len(held_out)) == (8, 1) and held_out.names == ("007.png",)

    def fit(name):
        with open_run(tmp_path / name, config) as run:
            return reconstruct.optimize(config, run, training, held_out)[0]

    straight, whole = fit("straight"), reconstruct.losses

    def stop_at_six(scene, training, background, config, step):
        if step == 6:
            raise KeyboardInterrupt
        return whole(scene, training, background, config, step)

    monkeypatch.setattr(reconstruct, "losses", stop_at_six)
    with pytest.raises(KeyboardInterrupt):
        fit("stopped")
    monkeypatch.undo()
    resumed = fit("stopped")
    for (name, a), (_, b) in zip(straight.state_dict().items(), resumed.state_dict().items(), strict=True):
        assert torch.equal(a, b), name
    steps = [event["step"] for event in read_events(tmp_path / "straight/events.jsonl") if event["event"] == "step"]
    assert steps == [8]


def test_little_memory_is_asked_of_the_scene(shapes, tmp_path):
    views = views_of(shapes["knot"], tmp_path / "views", views=8, size=16)
    config = config_for(views, "steps=1", "runtime.memory=low", "reconstruct.rays_per_step=16")
    with open_run(tmp_path / "run", config) as run:
        assert reconstruct.optimize(config, run, *reconstruct.split(read_posed_images(views), 0))[0].low_memory


def test_rays_see_what_pictures_show(shapes, tmp_path):
    """`trace` through a picture's pixels is the scene's own picture."""
    posed = read_posed_images(views_of(shapes["knot"], tmp_path / "views", views=2, size=16))
    scene = NeRF(config_for(tmp_path / "views").scene, seed=0)
    rays, _ = posed.pixels(torch.arange(posed.num_pixels))
    color = torch.tensor([0.2, 0.5, 0.9])
    with torch.no_grad():
        seen, _ = scene.trace(rays)
        expected = scene.render(posed.cameras, background=color)
    rgb = seen.rgb + (1 - seen.opacity[:, None]) * color
    torch.testing.assert_close(rgb, expected.rgb.view(-1, 3), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(seen.opacity, expected.opacity.flatten(), atol=1e-4, rtol=1e-4)
    assert 0.01 < seen.opacity.mean() < 0.99


def test_the_loss_of_transparent_pictures_asks_for_empty_space():
    """With alpha 0 everywhere, only a scene without density has no loss; a scene that hides the background has one."""
    posed_size, poses = (4, 8, 8, 4), torch.eye(4).repeat(4, 1, 1)
    poses[:, 2, 3] = 3.0
    posed = PosedImages(
        torch.zeros(posed_size, dtype=torch.uint8), cameras_at(poses, torch.full((4,), 0.3), 8, 8), ("",) * 4
    )
    config = config_for("unused")
    scene = NeRF(config.scene, seed=0)
    loss = reconstruct.losses(scene, posed, None, config, step=0)
    assert loss.color > 1e-3 and loss.opacity > 1e-5
    smooth = replace(config, reconstruct=replace(config.reconstruct, smoothness_weight=1e8))
    more = reconstruct.losses(scene, posed, None, smooth, step=0).total.item() - loss.total.item()
    assert more > 0 and more == pytest.approx(1e8 * smoothness(scene, generator(0, 0, "smoothness")).item(), rel=1e-3)
    scene.occupancy.occupied.zero_()
    assert reconstruct.losses(scene, posed, None, config, step=0).total == 0


def test_fog_and_the_slopes_of_a_distance_are_weighed_as_the_step_says():
    poses = torch.eye(4).repeat(4, 1, 1)
    poses[:, 2, 3] = 3.0
    images = torch.randint(256, (4, 8, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    posed = PosedImages(images, cameras_at(poses, torch.full((4,), 0.3), 8, 8), ("",) * 4)
    settings = [
        "scene.geometry=sdf",
        "steps=8",
        "seed=3",
        "reconstruct.rays_per_step=64",
        "reconstruct.eikonal_weight=3",
    ]
    settings += ["reconstruct.distortion={start: 1, end: 5, to_fraction: 1}"]
    config = config_for("unused", *settings)
    scene = NeuS(config.scene, seed=0)
    torch.nn.init.normal_(scene.table, std=0.1, generator=torch.Generator().manual_seed(0))  # no longer a true distance
    scene.ops = replace(scene.ops, ray_jitter=lambda seed, count, device: torch.full((count,), 0.5))
    found = reconstruct.losses(scene, posed, None, config, step=2)
    rays, _ = posed.pixels(torch.randint(posed.num_pixels, (64,), generator=generator(3, 2, "rays")))
    seen, samples = scene.trace(rays)
    torch.testing.assert_close(found.distortion, 2 * distortion(seen.weights, samples).mean())
    torch.testing.assert_close(found.eikonal, 3 * eikonal(scene, 2))
    assert found.distortion > 1e-3 and found.eikonal > 1e-3 and found.total > found.distortion + found.eikonal


def test_opacity_is_watched_where_pictures_show_nothing():
    none = torch.zeros(())
    seen, true = torch.tensor([0.4, 0.1, 0.3]), torch.tensor([0.0, 1.0, 0.2])
    assert reconstruct.Losses(*[none] * 5, seen, true).opacity_range() == pytest.approx((0.3, 0.4))
    assert reconstruct.Losses(*[none] * 5, seen, None).opacity_range() == pytest.approx((0.0, 0.4))


def test_points_of_the_data_are_turned_and_then_moved_into_the_scene(tmp_path):
    world, matrix = np.eye(4)[[1, 2, 0, 3]], np.diag([2.0, 2.0, 2.0, 1.0])
    matrix[:3, 3] = 1.0, 2.0, 3.0
    images, poses = torch.zeros(1, 8, 8, 3, dtype=torch.uint8), torch.eye(4)[None]
    posed = PosedImages(images, cameras_at(poses, torch.ones(1), 8, 8), ("",), world=world)
    with open_run(tmp_path, config_for("unused")) as run:
        results = reconstruct.write_quality(None, posed, posed.select([]), None, matrix, run)
    found = np.array(json.loads(results["quality"].read_text())["scene_from_data"])
    assert np.allclose(found @ [5, 7, 9, 1], [2 * 7 + 1, 2 * 9 + 2, 2 * 5 + 3, 1])


def test_silhouettes_are_compared_in_cut_outs_alone(tmp_path, monkeypatch):
    images = torch.full((2, 8, 8, 4), 255, dtype=torch.uint8)
    images[0, :4, :, 3] = 0
    cameras = cameras_at(torch.eye(4).repeat(2, 1, 1), torch.ones(2), 8, 8)
    posed = PosedImages(images, cameras, ("",) * 2, photographs=torch.tensor([False, True]))
    rgb, opacity = posed.on(reconstruct.GREY)
    monkeypatch.setattr(reconstruct, "render_views", lambda *_: (rgb, opacity * [[[[1]]], [[[0]]]]))
    with open_run(tmp_path, config_for("unused")) as run:
        written = reconstruct.write_quality(None, posed, posed, None, np.eye(4), run)["quality"].read_text()
    assert json.loads(written)["held_out"]["silhouette_iou"] == 1


def test_what_cannot_be_done_is_one_line_and_leaves_no_run(tmp_path, capsys):
    command = ["--config", "reconstruct-nerf.yaml", f"output_root={tmp_path}/out"]
    assert cli.main(command) == 2 and "add data=FOLDER" in capsys.readouterr().err
    assert cli.main([*command, f"data={tmp_path}/none"]) == 2 and "no such folder" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    (tmp_path / "empty").mkdir()
    assert cli.main([*command, f"data={tmp_path}/empty"]) == 2
    message = capsys.readouterr().err.strip()
    assert "holds no cameras.json" in message and "\n" not in message
