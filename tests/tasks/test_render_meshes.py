"""`launch.py render-meshes` on a folder as people have them: good files, broken ones, captions, a second call."""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from threedgen import cli
from threedgen.data.meshes.files import PLAIN
from threedgen.data.posed_files import read_posed_images
from threedgen.data.shards import Shards
from threedgen.tasks.tools import render_meshes

SMALL = ["--views", "4", "--passes", "1", "--size", "16", "--supersample", "2"]


@pytest.fixture
def meshes(tmp_path):
    source = tmp_path / "meshes"
    (source / "toys").mkdir(parents=True)
    trimesh.creation.icosphere(2).export(source / "ball.ply")
    trimesh.creation.box().export(source / "toys/brick.glb")
    return source


def render(*arguments):
    return cli.main(["render-meshes", *SMALL, *map(str, arguments)])


def test_broken_files_are_listed_and_the_rest_is_rendered(meshes, tmp_path, capsys):
    (meshes / "broken.glb").write_bytes(b"glTF and then nothing")
    (meshes / "captions.jsonl").write_text('{"file": "toys/brick.glb", "caption": "a brick"}\n\n')
    assert render(meshes, tmp_path / "views") == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and lines[-1].startswith("2 rendered, 0 there already, 1 failed")
    (failure,) = [line for line in lines if "FAILED" in line]
    assert "broken.glb" in failure
    written = sorted(path.relative_to(tmp_path / "views").as_posix() for path in (tmp_path / "views").rglob("*.json"))
    assert [name for name in written if "cameras" in name] == ["ball/cameras.json", "toys/brick/cameras.json"]
    assert {path.name for path in (tmp_path / "views").iterdir()} == {"ball", "toys"}  # nothing half-written
    assert json.loads((tmp_path / "views/toys/brick/cameras.json").read_text())["caption"] == "a brick"
    assert json.loads((tmp_path / "views/ball/cameras.json").read_text())["caption"] == ""
    posed = read_posed_images(tmp_path / "views/ball")
    assert posed.images.shape == (4, 16, 16, 4) and posed.half_edge == 0.5


def test_the_pictures_belong_to_their_cameras(meshes, tmp_path):
    """A ray from cameras.json hits the ball of radius 1/2 where its picture is opaque, and nowhere else."""
    assert render(meshes / "ball.ply", tmp_path / "views", "--fov", 30, 50, "--size", 48) == 0
    posed = read_posed_images(tmp_path / "views")
    rays, pixels = posed.pixels(torch.arange(posed.num_pixels))
    nearest = (rays.origins - (rays.origins * rays.directions).sum(-1, keepdim=True) * rays.directions).norm(dim=-1)
    assert (pixels[nearest < 0.47, 3] == 1).all() and (pixels[nearest > 0.51, 3] == 0).all()
    assert (nearest < 0.47).sum() > 1000 and (nearest > 0.51).sum() > 300


def test_a_second_call_renders_only_what_is_new_or_changed(meshes, tmp_path, capsys):
    assert render(meshes, tmp_path / "views") == 0
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "views").rglob("*.png")}
    trimesh.creation.cone(1, 2).export(meshes / "cone.stl")
    trimesh.creation.box((1, 2, 3)).export(meshes / "toys/brick.glb")
    capsys.readouterr()
    assert render(meshes, tmp_path / "views") == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("2 rendered, 1 there already, 0 failed")
    same = {path for path, moment in times.items() if path.stat().st_mtime_ns == moment}
    assert {path.parent.name for path in same} == {"ball"}
    assert render(meshes, tmp_path / "views", "--seed", 1) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("3 rendered")


def test_files_of_one_name_get_folders_of_their_own(meshes, tmp_path, capsys):
    """Two endings, a file beside a folder of its name, and a file whose name is what the ending would make."""
    for name in ("ball.obj", "toys.stl", "ball-obj.stl"):
        trimesh.creation.box().export(meshes / name)
    assert render(meshes, tmp_path / "views") == 0
    folders = {path.parent.relative_to(tmp_path / "views").as_posix() for path in (tmp_path / "views").rglob("000.png")}
    assert folders == {"ball-ply", "ball-obj-obj", "ball-obj", "toys-stl", "toys/brick"}
    sources = {
        path.parent.name: json.loads(path.read_text())["source"]["file"] for path in tmp_path.rglob("cameras.json")
    }
    assert (sources["ball-obj"], sources["ball-obj-obj"]) == ("ball-obj.stl", "ball.obj")
    assert render(meshes, tmp_path / "shards", "--shards", 8) == 0
    assert len(Shards([tmp_path / "shards/00000.tar"])) == 5


def test_names_of_many_files_are_compared_once():
    """Of 1000 files none is compared with every other one: a folder may have a hundred thousand."""
    compared = []

    class Counted(type(Path())):
        def __eq__(self, other):
            compared.append(1)
            return super().__eq__(other)

        __hash__ = Path.__hash__

    files = [Counted(f"{number}.{ending}") for number in range(500) for ending in ("glb", "obj")]
    names = render_meshes._own_names(files)
    assert len(set(map(str, names))) == 1000 and len(compared) < 20_000


def test_a_library_says_nothing_of_its_own(tmp_path, capfd):
    """A .ply whose texture is missing: our line names it, and no traceback is printed."""
    quad = "0 0 0 0 0\n1 0 0 1 0\n1 1 0 1 1\n0 1 0 0 1\n"
    corners = "".join(f"property float {name}\n" for name in "xyzst")
    (tmp_path / "quad.ply").write_text(
        f"ply\nformat ascii 1.0\ncomment TextureFile gone.png\nelement vertex 4\n{corners}"
        f"element face 1\nproperty list uchar int vertex_indices\nend_header\n{quad}4 0 1 2 3\n"
    )
    assert render(tmp_path / "quad.ply", tmp_path / "views") == 0
    out, err = capfd.readouterr()
    assert err == "" and len(out.splitlines()) == 2
    assert "without gone.png, which it names" in out and "--texture FILE gives one" in out


def test_a_picture_for_texture_coordinates_that_have_none(tmp_path, capsys):
    """The .obj names no material: lit and said so without the picture, in its colours with it."""
    text = "v -1 -1 0\nv 1 -1 0\nv 1 1 0\nv -1 1 0\nvt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\nf 1/1 2/2 3/3 4/4\n"
    (tmp_path / "quad.obj").write_text(text)
    Image.new("RGB", (4, 4), (200, 30, 10)).save(tmp_path / "skin.png")
    (tmp_path / "no.png").write_text("no picture")
    trimesh.creation.box().export(tmp_path / "box.stl")

    def colors():
        pixels = np.asarray(Image.open(tmp_path / "views/quad/000.png"))
        return {tuple(pixel[:3].tolist()) for pixel in pixels[pixels[..., 3] == 255]}

    assert render(tmp_path / "quad.obj", tmp_path / "views") == 0
    assert "lit for want of colours of its own" in capsys.readouterr().out
    (grey,) = colors()
    assert grey[0] == grey[1] == grey[2] != round(255 * PLAIN)  # lit: another brightness than the plain grey
    command = (tmp_path / "quad.obj", tmp_path / "views", "--texture", tmp_path / "skin.png")
    assert render(*command) == 0
    assert "lit" not in capsys.readouterr().out and colors() == {(200, 30, 10)}
    assert render(*command) == 0 and "1 there already" in capsys.readouterr().out
    Image.new("RGB", (4, 4), (20, 30, 210)).save(tmp_path / "skin.png")
    assert render(*command) == 0 and colors() == {(20, 30, 210)}
    assert render(tmp_path / "box.stl", tmp_path / "views", "--texture", tmp_path / "skin.png") == 1
    assert "no part has texture coordinates" in capsys.readouterr().out
    assert render(tmp_path / "quad.obj", tmp_path / "other", "--texture", tmp_path / "no.png") == 1
    assert "no picture that can be read" in capsys.readouterr().out


@pytest.mark.slow
def test_two_workers_give_the_same_files(meshes, tmp_path):
    assert render(meshes, tmp_path / "one") == 0 and render(meshes, tmp_path / "two", "--workers", 2) == 0
    for path in (tmp_path / "one").rglob("*.png"):
        assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()


def test_a_folder_of_somebody_else_is_left_alone(meshes, tmp_path, capsys):
    (tmp_path / "views/ball").mkdir(parents=True)
    (tmp_path / "views/ball/thesis.txt").write_text("years of work")
    assert render(meshes, tmp_path / "views") == 1
    assert "holds no rendered views; remove it" in capsys.readouterr().out
    assert (tmp_path / "views/ball/thesis.txt").read_text() == "years of work"


def test_what_cannot_be_asked_for_is_one_line(meshes, tmp_path, capsys):
    def error(*arguments):
        assert render(*arguments) == 2
        message = capsys.readouterr().err.strip()
        assert "\n" not in message
        return message

    views = tmp_path / "views"
    assert "is not there" in error(tmp_path / "none", views)
    (tmp_path / "empty").mkdir()
    assert "there is no mesh" in error(tmp_path / "empty", views)
    assert "--fov must be between" in error(meshes, views, "--fov", 0, 20)
    assert "first number must not be larger" in error(meshes, views, "--fov", 40, 20)
    assert "--workers" in error(meshes, views, "--workers", 0)
    assert "'cube'" in error(meshes, views, "--cameras", "cube")
    assert "belong to --cameras orbit" in error(meshes, views, "--cameras", "sphere")
    assert "--shards must be between" in error(meshes, views, "--shards", 0)
    if not torch.cuda.is_available():
        assert "render-meshes: --rasterizer kaolin" in error(meshes, views, "--rasterizer", "kaolin")
    (meshes / "captions.jsonl").write_text('{"file": "ball.ply", "caption": "a ball"}\nball.ply: a ball\n')
    assert "captions.jsonl:2" in error(meshes, views)
    (meshes / "captions.jsonl").write_text('{"file": "bull.ply", "caption": "a ball"}\n')
    assert "bull.ply is not there" in error(meshes, views)
    (meshes / "captions.jsonl").unlink()
    assert "SRC is then one mesh file" in error(meshes, views, "--texture", meshes / "ball.ply")
    assert "SRC is then one mesh file" in error(meshes / "ball.ply", views, "--texture", meshes / "none.png")
    assert not views.exists()


def test_shards_hold_the_files_of_the_folders(meshes, tmp_path, capsys):
    (meshes / "captions.jsonl").write_text('{"file": "toys/brick.glb", "caption": "a brick"}')
    assert render(meshes, tmp_path / "folders") == 0 and render(meshes, tmp_path / "shards", "--shards", 8) == 0
    assert {path.name for path in (tmp_path / "shards").iterdir()} == {"00000.tar"}
    with tarfile.open(tmp_path / "shards/00000.tar") as tar:
        files = {name: tar.extractfile(name).read() for name in tar.getnames()}
    for name in ("ball", "toys/brick"):
        folder = tmp_path / "folders" / name
        assert files[f"{name}.json"] == (folder / "cameras.json").read_bytes()
        for i in range(4):
            assert files[f"{name}.{i:03d}.png"] == (folder / f"{i:03d}.png").read_bytes()
    assert len(files) == 1 + 2 * 5


def test_sharded_rendering_goes_on_after_the_last_whole_shard(meshes, tmp_path, capsys, monkeypatch):
    for i in range(3):
        trimesh.creation.icosphere(1).export(meshes / f"c{i}.ply")
    (meshes / "c1.ply").write_bytes(b"ply and then nothing")
    shards, options = tmp_path / "views", ("--shards", 2)  # ball c0 | c1 c2 | toys/brick

    def interrupted(job):
        if job.name == "c2":
            raise KeyboardInterrupt
        return whole(job)

    whole = render_meshes._render_files
    with monkeypatch.context() as patched:
        patched.setattr(render_meshes, "_render_files", interrupted)
        assert render(meshes, shards, *options) == 130
    assert [path.name for path in shards.iterdir()] == ["00000.tar"]
    first = (shards / "00000.tar").stat().st_mtime_ns
    capsys.readouterr()
    assert render(meshes, shards, *options) == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("2 rendered, 2 there already, 1 failed")
    assert sorted(path.name for path in shards.glob("*.tar")) == ["00000.tar", "00001.tar", "00002.tar"]
    assert (shards / "00000.tar").stat().st_mtime_ns == first
    keys = [Shards([shards / f"0000{i}.tar"]) for i in range(3)]
    assert [[s[i].key for i in range(len(s))] for s in keys] == [["ball", "c0"], ["c2"], ["toys/brick"]]
    # the broken one is still listed when nothing is left to do
    assert render(meshes, shards, *options) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("0 rendered, 4 there already, 1 failed")
    assert [line for line in lines if "FAILED" in line and "c1.ply" in line and "remove" in line]
    # a mesh, a caption or a setting that changed: its shard is made again, the others stay
    (meshes / "captions.jsonl").write_text('{"file": "toys/brick.glb", "caption": "a brick"}')
    assert render(meshes, shards, *options) == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("1 rendered, 3 there already, 1 failed")
    assert render(meshes, shards, *options, "--seed", 1) == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("4 rendered, 0 there already, 1 failed")


def test_other_peoples_shards_are_left_alone(meshes, tmp_path, capsys):
    views = tmp_path / "views"
    assert render(meshes, views, "--shards", 1) == 0
    assert render(meshes, views, "--shards", 2) == 2
    assert "00001.tar is none of this call's shards" in capsys.readouterr().err
    (views / "00001.tar").write_text("years of work")
    assert render(meshes, views, "--shards", 1) == 2
    assert "00001.tar is there already and none of its shards; remove it" in capsys.readouterr().err
    assert (views / "00001.tar").read_text() == "years of work"


def test_transparent_pixels_and_alpha(meshes, tmp_path):
    assert render(meshes / "ball.ply", tmp_path / "views", "--light", "off") == 0
    image = Image.open(tmp_path / "views/ball/000.png")
    assert image.mode == "RGBA"
    pixels = np.asarray(image)
    assert not pixels[pixels[..., 3] == 0].any() and len(np.unique(pixels[pixels[..., 3] > 0][:, 0])) == 1
