"""Text to 24 views, Gaussians and a mesh from the command line, with the bundled weights."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import binary_dilation, gaussian_filter

from threedgen.cameras import orbit
from threedgen.cli import main
from threedgen.data.miniworld import build, parse, render
from threedgen.metrics import psnr
from threedgen.scene.gaussians import load_gaussians
from threedgen.tasks import dense_views, refine
from threedgen.tasks.dense_views import _cut_out

_QUICK = ["--config", "videomv-mini.yaml", "prompt=a red cube", "views.num_inference_steps=6", "num_threads=1"]
_QUICK += ["export.turntable_frames=2", "export.resolution=48", "export.texture_size=64", "export.faces=2000"]
_QUICK += ["aware.every=0"]


@pytest.mark.slow
def test_views_gaussians_and_a_mesh_of_them(tmp_path, capsys):
    words = ["prompt=a red cube, 3d asset", f"output_root={tmp_path}", "gaussians.asset=gaussians", "aware.steps=[3,4]"]
    assert main([*_QUICK, *words]) == 0
    (run,) = tmp_path.glob("videomv-mini/*")
    listed = f"view 0     {run}/view-0.png\n...\nview 23    {run}/view-23.png\nviews      {run}/views.png\n"
    assert listed in capsys.readouterr().out
    views = np.stack([np.asarray(Image.open(run / f"view-{i}.png")) for i in range(24)])
    told = json.loads((run / "cameras.json").read_text())
    assert views.shape == (24, 64, 64, 3) and (run / "asset.glb").stat().st_size > 1000
    assert told["azimuth_deg_threedgen_front_0"][6] == pytest.approx(90)
    report = json.loads((run / "report.json").read_text())
    assert report["prompt_as_read"] == "a red cube" and report["step"] == 0  # nothing was optimised
    # the file is a red thing in the middle, whose pictures are like the views
    scene = load_gaussians(run / "gaussians.ply")
    pose = torch.tensor(told["camera_matrices"][3])
    camera = orbit(45, 15, told["assumed_distance"], told["assumed_fov_y_deg"], 64)
    torch.testing.assert_close(pose[:3, :3], camera.camera_to_world[0, :3, :3], atol=1e-4, rtol=0)
    seen = scene.render(camera, background=torch.full((3,), 0.5)).rgb[0].numpy()
    assert np.abs(seen - views[3] / 255).mean() < 0.06
    middle = seen[24:40, 24:40].mean((0, 1))
    assert middle[0] > 0.5 and middle[1] < 0.35 and middle[2] < 0.35


@pytest.mark.slow
def test_a_picture_alone_becomes_views_of_what_it_shows(tmp_path):
    camera = orbit(20, 15, 2.5, 40, 96)
    shown = render(build(parse("a red cube")), camera.camera_to_world.numpy(), camera.fov_y.numpy(), 96)
    rgba = np.concatenate([shown.rgb[0], shown.opacity[0]], -1)
    Image.fromarray((rgba * 255).round().astype(np.uint8)).save(tmp_path / "cube.png")
    words = [*_QUICK[3:], f"image={tmp_path / 'cube.png'}", "gaussians.asset=gaussians", f"output_root={tmp_path}"]
    assert main(["--config", "videomv-i2v-mini.yaml", *words]) == 0
    (run,) = tmp_path.glob("videomv-i2v-mini/*")
    views = np.stack([np.asarray(Image.open(run / f"view-{i}.png")) for i in range(24)]) / 255
    red, green, blue = views[:, 28:36, 28:36].mean((1, 2)).T
    assert (red > 0.4).all() and (red - np.maximum(green, blue) > 0.2).all()
    assert (run / "gaussians.ply").stat().st_size > 1000 and (run / "asset.glb").stat().st_size > 1000


@pytest.mark.slow
def test_the_fitted_scene_is_refined_by_another_prior_and_gets_closer_to_the_truth(tmp_path, monkeypatch):
    """By one that was trained on sets of four, which is asked for four."""
    asked = []
    draw = refine.draw_targets

    def watched(scene, config, prior, *rest):
        asked.append((scene_likeness(scene), prior.is_video, config.camera.num_views, rest[2]))
        return draw(scene, config, prior, *rest)

    def scene_likeness(scene):
        cameras = orbit([20, 110, 200, 290], 15, 2.2, 40, 64, num_views=4)
        truth = render(build(parse("a red cube")), cameras.camera_to_world.numpy(), cameras.fov_y.numpy(), 64)
        with torch.no_grad():
            return psnr(scene.render(cameras, background=torch.full((3,), 0.5)).rgb.numpy(), truth.rgb)

    fitted = []
    monkeypatch.setattr(refine, "draw_targets", watched)
    monkeypatch.setattr(dense_views, "export_scene", lambda scene, *_: fitted.append(scene_likeness(scene)) or {})
    words = ["steps=60", "refine.sets=4", "refine.steps=60", f"output_root={tmp_path}"]
    assert main(["--config", "videomv-mini-refined.yaml", *_QUICK[2:], *words]) == 0
    ((before, is_video, num_views, step),) = asked
    assert (is_video, num_views, step) == (False, 4, 60)
    assert fitted[0] > before + 0.5


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["aware.steps=[3,7]"], "there is no step 7 among the sampler's 0 .. 5"),
        (["aware.steps=[1]"], "above aware.max_timestep=700"),
        (["aware.steps=[3]", "views.sampler=dpm"], "looks back on x0"),
        (["aware.steps=[3]", "aware.guidance=latents", "views.rescale=0.5"], "which are not rescaled"),
        (["views.num_frames=22"], "gaussians.input_views=8 are not evenly spaced ones of 22 views"),
        (["image=nothing.png"], "image=nothing.png: there is no such file"),
        (["gaussians.weights=nowhere"], "no Gaussians at nowhere"),
        (["weights=mini"], "no Gaussians at"),
        (["prompt= "], "the prompt is empty"),
        (["refine.rounds=1", "gaussians.asset=gaussians"], "a scene is refined that was fitted to the views"),
        (["refine.rounds=1", "refine.weights=nowhere"], "nowhere"),
        (["prompts=nowhere.txt"], "nowhere.txt"),
    ],
)
def test_what_cannot_be_done_is_told_in_a_line(tmp_path, capsys, words, told):
    assert main([*_QUICK, f"output_root={tmp_path}", *words]) in (2, 3)
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "a prior that draws from a picture does not refine"),
        (["refine.weights=mini"], "the prior that refines reads a prompt"),
    ],
)
def test_a_picture_alone_is_not_refined(tmp_path, capsys, words, told):
    Image.new("RGBA", (40, 40), (255, 0, 0, 255)).save(tmp_path / "object.png")
    words = [*_QUICK[3:], f"image={tmp_path / 'object.png'}", "refine.rounds=1", *words, f"output_root={tmp_path}"]
    assert main(["--config", "videomv-i2v-mini.yaml", *words]) == 2
    assert told in capsys.readouterr().err


def test_a_picture_for_a_prior_that_is_shown_none(tmp_path, capsys):
    picture = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    picture.paste((255, 0, 0, 255), (5, 5, 35, 35))
    picture.save(tmp_path / "object.png")
    assert main([*_QUICK, f"output_root={tmp_path}", f"image={tmp_path / 'object.png'}"]) == 2
    assert "the prior is shown no picture" in capsys.readouterr().err


def disc(radius):
    """[32, 32], how much of each pixel a disc of this radius in the middle covers."""
    fine = (np.arange(256) + 0.5) / 8 - 16
    return (np.hypot(*np.meshgrid(fine, fine)) < radius).reshape(32, 8, 32, 8).mean((1, 3))


@pytest.mark.parametrize(("color", "is_told"), [((0.9, 0.2, 0.3), True), ((0.85,) * 3, True), ((0.53,) * 3, False)])
def test_views_are_cut_out_at_their_own_edges_where_these_are_seen(color, is_told):
    """The Gaussians reach a pixel too far, and softly. A black spot on the edge of a thing belongs to it."""
    cover, rgb = disc(9.0)[..., None], np.array(color)
    spot = np.zeros((32, 32, 1), bool)
    spot[14:18, 22:25] = True
    view = cover * np.where(spot, 0.0, rgb) + (1 - cover) * 0.5
    soft = torch.from_numpy(gaussian_filter(disc(10.0), 0.7)).float()[None, ..., None]
    gaussians = SimpleNamespace(render=lambda cameras: SimpleNamespace(opacity=soft))
    views = SimpleNamespace(drawn=torch.from_numpy(view).float().movedim(-1, 0)[None], drawn_cameras=None)
    rgba = _cut_out(views, gaussians, 0.5)[0].numpy() / 255
    if is_told:
        near = ~binary_dilation(spot[..., 0])
        np.testing.assert_allclose(rgba[near][:, 3], cover[near][:, 0], atol=0.02)
        assert (rgba[..., 3] >= cover[..., 0] - 0.02).all()  # nothing is cut away at the spot
        solid = near & (cover[..., 0] > 0.2)
        np.testing.assert_allclose(rgba[solid][:, :3], np.broadcast_to(rgb, (solid.sum(), 3)), atol=0.03)
    else:
        inside = disc(9.0) > 0.999
        assert (rgba[inside][:, 3] > 0.9).all()
        rim = ~binary_dilation(spot[..., 0], iterations=4) & (np.abs(disc(9.0) - 0.5) < 0.3)
        np.testing.assert_allclose(rgba[rim][:, 3], soft[0, ..., 0].numpy()[rim], atol=0.01)


def test_what_is_too_small_to_have_an_inside_keeps_the_gaussians_opacity():
    opacity = torch.zeros(1, 32, 32, 1)
    opacity[0, 16, 16:18] = 0.8
    gaussians = SimpleNamespace(render=lambda cameras: SimpleNamespace(opacity=opacity))
    views = SimpleNamespace(drawn=torch.full((1, 3, 32, 32), 0.5), drawn_cameras=None)
    np.testing.assert_allclose(_cut_out(views, gaussians, 0.5)[..., 3:].numpy() / 255, opacity.numpy(), atol=0.01)
