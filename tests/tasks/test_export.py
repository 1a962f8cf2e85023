"""`launch.py export RUN`, on scenes that need no optimisation: the ball that every scene starts as."""

import hashlib
import json
import shutil
import sys

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from threedgen import cli
from threedgen.config.export import ExportConfig
from threedgen.config.load import load_config
from threedgen.core.errors import EmptyMeshError
from threedgen.imaging import find_ffmpeg, save_png
from threedgen.mesh import ColoredMesh, Surface
from threedgen.runs.checkpoint import save_checkpoint
from threedgen.runs.directory import open_run
from threedgen.runs.events import read_events
from threedgen.scene.nerf import NeRF
from threedgen.tasks import export
from threedgen.tasks.export import write_assets

PROMPT = "a red cat with a green face"
SMALL = ["export.resolution=20", "export.texture_size=64", "export.turntable_frames=5", "export.image_size=48"]


def make_run(folder, *settings):
    config = load_config("mvdream-mini.yaml", [f"prompt={PROMPT}", "num_threads=1", "steps=7", *SMALL, *settings])
    with open_run(folder, config) as run:
        run.events.write("started")
        run.events.write("step", step=3)
        scene = NeRF(config.scene, config.seed)
        with torch.no_grad():
            scene.table.normal_(std=0.5, generator=torch.Generator().manual_seed(0))  # several colours
        save_checkpoint(run.checkpoints, 3, {f"scene.{k}": v for k, v in scene.state_dict().items()}, {})
    return config, scene


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "run"
    config, scene = make_run(folder)
    with open_run(folder, config) as run:
        run.finish(write_assets(scene, config, folder, folder, 7))
    return folder


@pytest.fixture
def folder(finished, tmp_path):
    """A run that has been finished, with what its export left."""
    return shutil.copytree(finished, tmp_path / "run")


def contents(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


def error_of(capsys, *words):
    status = cli.main(["export", *map(str, words)])
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1, message
    return status, message


def test_the_first_export_has_everything(folder):
    names = {path.name for path in folder.iterdir() if path.is_file()}
    turntable = "turntable.mp4" if find_ffmpeg() else "turntable.gif"
    expected = {"asset.glb", "asset.obj", "asset.mtl", "asset.png", turntable, "contact_sheet.png", "preview.html"}
    assert names == expected | {"report.json", "result.json", "config.yaml", "events.jsonl", ".lock"}
    assert not list(folder.glob(".tmp-*"))


def test_the_report_is_strict_and_true(folder):
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    report = json.loads((folder / "report.json").read_text(), parse_constant=refuse)
    mesh = trimesh.load(folder / "asset.glb", force="mesh", process=False)
    assert (report["prompt"], report["seed"], report["step"]) == (PROMPT, 0, 7)
    assert report["faces"] == len(mesh.faces) and report["vertices"] == len(mesh.vertices)
    assert report["watertight"] is True and report["components"] == 1 and report["degenerate_faces"] == 0
    assert report["texture_size"] == 64 and 0.1 < report["texture_coverage"] < 1
    assert report["mesh_vs_scene_psnr"] > 25
    assert report["seconds"]["optimize"] >= 0 and report["seconds"]["export"] >= report["seconds"]["mesh"] > 0
    assert report["settings"]["resolution"] == 20 and report["settings"]["colors"] == "texture"


def test_seconds_of_optimising_are_those_between_starts_and_last_steps(tmp_path):
    moments = [("started", 100), ("step", 103), ("step", 105), ("started", 200), ("step", 204), ("exported", 300)]
    path = tmp_path / "events.jsonl"
    assert export._optimize_seconds(tmp_path) is None
    for count, seconds in ((1, None), (3, 5), (4, 5), (6, 5 + 4)):
        lines = (json.dumps({"event": event, "time": time}) for event, time in moments[:count])
        path.write_text("".join(f"{line}\n" for line in lines))
        assert export._optimize_seconds(tmp_path) == seconds


def test_the_turntable_goes_round_once_and_the_sheet_looks_from_its_sides(folder, monkeypatch):
    looked = {}

    def seen(name):
        really = getattr(export, name)

        def call(mesh, cameras, **options):
            looked[name] = (cameras.azimuth.rad2deg() % 360).round().tolist()
            return really(mesh, cameras, **options)

        monkeypatch.setattr(export, name, call)

    seen("render_views")
    seen("render_mesh")
    config, scene = make_run(folder / "other")
    write_assets(scene, config, folder, folder, 3)
    assert looked["render_views"] == [0, 72, 144, 216, 288]
    assert looked["render_mesh"] == [20, 65, 110, 155, 200, 245, 290, 335]


def test_an_object_that_the_cube_cuts_off_is_told(folder, tmp_path, capsys):
    """The ball that a scene starts as, in a cube that it fits into and in one that it does not."""
    make_run(tmp_path / "cut", "scene.radius=0.25")
    assert cli.main(["export", str(tmp_path / "cut")]) == 0
    assert "warning: the scene's cube cuts the object off" in capsys.readouterr().err
    reports = [json.loads((run / "report.json").read_text()) for run in (folder, tmp_path / "cut")]
    assert [report["cut_off"] for report in reports] == [False, True]
    assert np.abs(reports[1]["bounds"]).max() == pytest.approx(0.25, rel=0.1)


def test_the_psnr_falls_when_the_mesh_is_not_the_scenes(folder, monkeypatch):
    config = load_config(folder / "config.yaml")
    scene = make_run(folder / "other")[1]
    monkeypatch.setattr("threedgen.mesh.bake.surface_colors", lambda scene, points, normals: 1 - points * 0)
    write_assets(scene, config, folder, folder, 12)
    page = (folder / "preview.html").read_text()
    assert "<th>steps</th><td>12</td>" in page  # of 7, and then of a refinement
    assert json.loads((folder / "report.json").read_text())["mesh_vs_scene_psnr"] < 20


def test_a_usdz_has_the_mesh_of_the_glb(folder):
    usd = pytest.importorskip("pxr.Usd", reason="USD (usd-core) is not here")
    assert cli.main(["export", str(folder), "export.formats=[glb, usdz]"]) == 0
    mesh = trimesh.load(folder / "asset.glb", force="mesh", process=False)
    stage = usd.Stage.Open(str(folder / "asset.usdz"))
    found = stage.GetPrimAtPath("/asset/mesh")
    assert np.array_equal(np.array(found.GetAttribute("points").Get()), mesh.vertices.astype(np.float32))
    assert np.array_equal(np.array(found.GetAttribute("faceVertexIndices").Get()).reshape(-1, 3), mesh.faces)
    assert cli.main(["export", str(folder)]) == 0
    assert not (folder / "asset.usdz").exists()


def test_another_export_takes_the_place_of_the_first(folder, capsys):
    checkpoints, config = contents(folder / "checkpoints"), (folder / "config.yaml").read_bytes()
    assert cli.main(["export", str(folder), "export.colors=vertex", "export.ply=true", "export.faces=200"]) == 0
    printed = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert printed["glb"] == str(folder / "asset.glb") and printed["ply"] == str(folder / "asset.ply")
    assert not (folder / "asset.png").exists() and not (folder / "asset.mtl").exists()
    assert len(trimesh.load(folder / "asset.ply").faces) == pytest.approx(200, rel=0.1)
    report = json.loads((folder / "report.json").read_text())
    assert report["settings"]["colors"] == "vertex" and report["texture_size"] is None and report["step"] == 3
    assert report["watertight"] and "<th>steps</th><td>3 of 7</td>" in (folder / "preview.html").read_text()
    assert contents(folder / "checkpoints") == checkpoints and (folder / "config.yaml").read_bytes() == config
    assert json.loads((folder / "result.json").read_text())["ply"] == "asset.ply"
    assert [event["event"] for event in read_events(folder / "events.jsonl")][-2:] == ["exported", "finished"]
    assert cli.main(["export", str(folder)]) == 0  # the run's own settings again
    assert (folder / "asset.png").exists() and not (folder / "asset.ply").exists()


def test_results_that_an_export_does_not_make_stay_results(folder):
    """As the held-out pictures of a reconstruction."""
    (folder / "held_out.png").write_bytes(b"")
    results = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps({"held out": "held_out.png", **results}))
    assert cli.main(["export", str(folder), "export.formats=[glb]", "export.colors=vertex"]) == 0
    assert set(json.loads((folder / "result.json").read_text())) == {"held out", *results} - {"obj"}


def test_formats_and_the_floor(folder, capsys):
    """The same shape in every file, z up in the .stl and y up in the others, its lowest point at 0."""
    before = trimesh.load(folder / "asset.glb", force="mesh", process=False)
    assert cli.main(["export", str(folder), "export.formats=[stl, ply]", "export.on_floor=true"]) == 0
    assert {path.suffix for path in folder.glob("asset.*")} == {".stl", ".ply"}
    assert "data:model/gltf-binary" in (folder / "preview.html").read_text()  # the page shows it all the same
    printed, ply = trimesh.load(folder / "asset.stl"), trimesh.load(folder / "asset.ply", process=False)
    assert len(printed.faces) == len(ply.faces) == len(before.faces) and printed.is_watertight
    np.testing.assert_allclose(printed.triangles[..., [1, 2, 0]], ply.triangles, atol=1e-6)
    heights = ply.vertices[:, 1]
    assert heights.min() == pytest.approx(0, abs=1e-6) and np.ptp(heights) == pytest.approx(
        np.ptp(before.vertices[:, 1])
    )
    report = json.loads((folder / "report.json").read_text())
    assert report["bounds"][0][2] == pytest.approx(0, abs=1e-6)
    assert report["lifted_by"] == pytest.approx(-before.vertices[:, 1].min(), abs=1e-6)
    assert report["mesh_vs_scene_psnr"] > 25 and report["settings"]["formats"] == ["stl", "ply"]


def test_a_ply_has_the_scene_s_colours_where_its_surface_was_before_it_was_lifted(tmp_path, monkeypatch):
    vertices, colors = np.eye(3, dtype=np.float32), np.arange(9, dtype=np.uint8).reshape(3, 3)
    surface = Surface(vertices, np.array([[0, 1, 2]]), vertices)

    def colored(scene, asked):
        assert asked is surface
        return ColoredMesh(vertices, surface.faces, vertices, colors)

    monkeypatch.setattr(export, "color_vertices", colored)
    results = export._write_formats(None, None, surface, 0.5, ExportConfig(formats=("ply",)), tmp_path)
    read = trimesh.load(results["ply"], process=False)
    assert np.array_equal(read.vertices[:, [2, 0, 1]], vertices + np.array([0, 0, 0.5]))
    assert np.array_equal(read.visual.vertex_colors[:, :3], colors)


def test_a_run_that_stopped_early_is_not_called_finished(tmp_path):
    make_run(tmp_path / "run")
    assert cli.main(["export", str(tmp_path / "run")]) == 0
    assert (tmp_path / "run/asset.glb").exists() and not (tmp_path / "run/result.json").exists()


def test_a_run_at_work_is_left_alone(tmp_path, capsys):
    folder = tmp_path / "run"
    config, _ = make_run(folder)
    with open_run(folder, config):  # as another process would hold it
        unfinished = folder / "checkpoints/.tmp-step-000007-x"
        unfinished.mkdir()
        before = contents(folder)
        assert cli.main(["export", str(folder), "export.texture_size=32"]) == 0
        after = {name: digest for name, digest in contents(folder).items() if name in before}
        assert after == before and unfinished.exists()
    target = folder / "exports/step-000003"
    assert f"glb        {target}/asset.glb" in capsys.readouterr().out
    assert json.loads((target / "report.json").read_text())["texture_size"] == 32
    assert not (folder / "asset.glb").exists()


def test_the_priors_views_are_kept_for_later_exports(folder):
    without = Image.open(folder / "contact_sheet.png").height
    save_png(np.zeros((16, 64, 3), np.uint8), folder / "sampled_views.png")
    assert cli.main(["export", str(folder)]) == 0
    assert Image.open(folder / "contact_sheet.png").height > without + 100
    assert "sampled views" in (folder / "preview.html").read_text()


def test_nothing_to_export_leaves_what_is_there(folder, capsys):
    before = {name: digest for name, digest in contents(folder).items() if name != "events.jsonl"}
    status, message = error_of(capsys, folder, "export.threshold=1e9")
    assert status == EmptyMeshError.exit_status == 4 and "export.threshold" in message
    assert {name: digest for name, digest in contents(folder).items() if name != "events.jsonl"} == before
    assert not list(folder.glob(".tmp-*"))


def test_the_first_mesh_is_there_before_it_is_drawn_and_a_later_one_only_with_its_pictures(finished, tmp_path, capsys):
    """Where drawing fails: a first export has left its mesh, a later one has left everything as it was."""
    config, scene = make_run(tmp_path / "run")
    folder = tmp_path / "run"

    def full(*_):
        raise OSError("no space left")

    with pytest.MonkeyPatch.context() as patch, pytest.raises(OSError, match="no space"):
        patch.setattr(export, "save_turntable", full)
        write_assets(scene, config, folder, folder, 7)
    names = {"asset.glb", "asset.obj", "asset.mtl", "asset.png"}
    of_the_run = {"config.yaml", "events.jsonl", ".lock"}
    assert {path.name for path in folder.iterdir() if path.is_file()} == names | of_the_run
    assert contents(folder)["asset.glb"] == contents(finished)["asset.glb"]
    assert f"mesh       asset.glb, asset.mtl, asset.obj, asset.png in {folder}" in capsys.readouterr().out
    write_assets(scene, config, folder, folder, 7)
    before = contents(folder)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(OSError, match="no space"):
        patch.setattr(export, "save_turntable", full)
        write_assets(NeRF(config.scene, 1), config, folder, folder, 7)
    assert contents(folder) == before and not list(folder.glob(".tmp-*"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["steps=4"], "changes only export.* settings: steps=4"),
        (["export.texture=4"], "did you mean export.texture_size"),
        (["export.colors=paint"], "one of texture, vertex"),
        (["export.formats=[glb, fbx]"], "there is no format 'fbx'; there are glb, obj, ply, stl, usdz"),
        (["export.formats=[glb, usdz]"], "usdz needs Pixar's USD: pip install 'threedgen[usdz]'"),
        (["export.formats=[]"], "must name at least one"),
        (["export.faces=-1"], "must be at least 0"),
        (["export.rasterizer=kaolin"], "export.rasterizer=kaolin"),
    ],
)
def test_settings_that_cannot_be(folder, capsys, monkeypatch, settings, words):
    monkeypatch.setitem(sys.modules, "pxr", None)  # USD is not there
    before = contents(folder)
    status, message = error_of(capsys, folder, *settings)
    assert status == 2 and words in message
    assert contents(folder) == before


def test_runs_that_cannot_be_exported(tmp_path, capsys):
    assert error_of(capsys)[0] == 2
    status, message = error_of(capsys, tmp_path / "nothing")
    assert status == 2 and "there is no run in that folder" in message
    config = load_config("mvdream-mini.yaml", [f"prompt={PROMPT}"])
    with open_run(tmp_path / "run", config) as run:
        pass
    status, message = error_of(capsys, tmp_path / "run")
    assert status == 2 and "no checkpoint yet" in message
    with open_run(tmp_path / "run", config) as run:
        run.finish({})
    status, message = error_of(capsys, tmp_path / "run")
    assert status == 2 and "finished and kept no scene" in message
    save_checkpoint(run.checkpoints, 1, {"unet.weight": torch.zeros(1)}, {})
    status, message = error_of(capsys, tmp_path / "run")
    assert status == 2 and "hold no scene" in message


def test_kaolin_that_is_not_there_is_told_before_anything_is_optimised(tmp_path, capsys):
    words = [f"prompt={PROMPT}", "export.rasterizer=kaolin", f"output_root={tmp_path}"]
    assert cli.main(["--config", "mvdream-mini.yaml", *words]) == 2
    assert "export.rasterizer=kaolin" in capsys.readouterr().err
    assert not list(tmp_path.rglob("step-*"))


def test_help(capsys):
    assert cli.main(["export", "--help"]) == 0
    told = capsys.readouterr().out
    assert "launch.py export RUN" in told
    assert all(line == line.strip() for line in told.splitlines())  # as help, not as it stands in the code
