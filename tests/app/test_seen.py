"""What the page reads of a run's folder and says of it."""

import json
import os
import shutil
import zipfile
from dataclasses import replace

import pytest
from PIL import Image

from threedgen.app import texts
from threedgen.app.choices import Check
from threedgen.app.jobs import State
from threedgen.app.seen import downloads, history, look, planned_steps, remaining_seconds, thumbnail
from threedgen.config.load import load_config
from threedgen.config.schema import Config, Task
from threedgen.runs.directory import open_run
from threedgen.runs.events import EventLog

PROMPT = "a <b>red</b> cat"


@pytest.fixture
def begun(tmp_path):
    """A run that has drawn its views and done 30 of 40 steps, two a second."""
    config = Config(task=Task.generate, prompt=PROMPT, steps=40, seed=5)
    with open_run(tmp_path / "mini/a-red-cat", config) as run:
        Image.new("RGB", (40, 10), "red").save(run.path("sampled_views.png"))
        for step in (10, 20):
            Image.new("RGB", (4, 4)).save(run.path(f"previews/step-{step:06d}.png"))
    lines = [{"time": 100.0 + step / 2, "event": "step", "step": step, "loss": 1.0} for step in (10, 20, 30)]
    (run.folder / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"time": 1')
    return run.folder


@pytest.fixture
def finished(begun):
    names = ["asset.glb", "asset.obj", "asset.mtl", "asset.png", "asset.ply", "turntable.gif"]
    for name in names:
        (begun / name).write_bytes(name.encode())
    report = {"faces": 1234, "watertight": True, "texture_size": None, "seed": 5}
    (begun / "report.json").write_text(json.dumps(report))
    keys = {"glb": 0, "obj": 1, "ply": 4, "turntable": 5}
    results = {key: names[i] for key, i in keys.items()} | {"report": "report.json"}
    (begun / "result.json").write_text(json.dumps(results))
    return begun


def test_how_far_a_run_is(begun):
    seen = look(begun)
    assert (seen.step, seen.num_steps, seen.remaining) == (30, 40, 5.0)
    assert seen.views == [begun / "sampled_views.png"] and seen.preview == begun / "previews/step-000020.png"
    assert seen.results is None and seen.title == PROMPT
    said = texts.of_run(seen, State.running, 0, "", None)
    assert "step 30 of 40" in said and "0:05 left" in said and "width:75.0%" in said


def test_the_pace_is_none_of_the_time_that_a_run_stood_still(begun):
    later = [
        {"time": 9000.0, "event": "started"},
        {"time": 9009.0, "event": "step", "step": 32},
        {"time": 9011.0, "event": "step", "step": 34},
    ]
    whole = (begun / "events.jsonl").read_text().rpartition("\n")[0]
    for count, expected in ((1, (30, None)), (2, (32, None)), (3, (34, 6.0))):
        (begun / "events.jsonl").write_text("\n".join([whole, *map(json.dumps, later[:count])]) + "\n")
        seen = look(begun)
        assert (seen.step, seen.remaining) == expected


@pytest.mark.parametrize(
    ("error", "message", "state", "told"),
    [
        ("EmptyMeshError", "the scene has no surface", State.failed, "the scene has no surface"),
        ("MemoryError", "", State.failed, "MemoryError"),
        ("Terminated", "", State.stopped, ""),
        ("KeyboardInterrupt", "", State.stopped, ""),
    ],
)
def test_how_a_run_ended_that_another_process_did(begun, error, message, state, told):
    with EventLog(begun / "events.jsonl") as log:
        log.write("stopped", error=error, message=message)
    seen = look(begun)
    assert (seen.state, seen.error) == (state, told)


def test_a_run_that_is_done_or_at_work(finished):
    assert look(finished).state is State.done
    (finished / "result.json").unlink()
    assert (look(finished).state, look(finished).error) == (State.stopped, "")


@pytest.mark.parametrize("file", ["events.jsonl", "result.json", "config.yaml"])
@pytest.mark.parametrize("content", [b"\0\0\0\n", b"\xff\xfe\n", b"{\n"])
def test_a_damaged_folder_hides_no_other(begun, tmp_path, file, content):
    other = tmp_path / "mini/another"
    shutil.copytree(begun, other)
    (other / file).write_bytes(content)
    assert [seen.folder for seen in history(tmp_path, 5)] == [begun]


def test_folders_that_show_nothing(tmp_path, begun):
    assert look(tmp_path / "nothing") is None
    with open_run(tmp_path / "mini/trained", Config(task=Task.train_prior)):
        pass
    assert look(tmp_path / "mini/trained") is None
    (tmp_path / "mini/broken").mkdir()
    (tmp_path / "mini/broken/config.yaml").write_text("steps: many\n")
    (tmp_path / "mini/broken/events.jsonl").touch()
    assert look(tmp_path / "mini/broken") is None
    assert [seen.folder for seen in history(tmp_path, 5)] == [begun]


def test_the_newest_runs_come_first(tmp_path):
    for name in "abc":
        with open_run(tmp_path / f"mini/{name}", Config(prompt=name)) as run:
            Image.new("RGB", (8, 8)).save(run.path("view-0.png"))
    for when, name in enumerate("bca"):
        log = tmp_path / f"mini/{name}/events.jsonl"
        os.utime(log, (when, when))
    assert [seen.title for seen in history(tmp_path, 2)] == ["a", "c"]


@pytest.mark.parametrize(
    ("recipe", "settings", "steps"),
    [
        ("mvdream-mini", [], 400),
        ("mvdream-mini", ["refine.rounds=0", "steps=7"], 7),
        ("videomv-mini", ["steps=9"], 9),
        ("videomv-mini-refined", ["steps=9", "refine.rounds=2", "refine.steps=20"], 49),
        ("videomv-mini", ["gaussians.asset=gaussians"], 0),
        ("views-mini", [], 0),
    ],
)
def test_planned_steps(recipe, settings, steps):
    assert planned_steps(load_config(recipe, settings)) == steps


def test_remaining_seconds():
    assert remaining_seconds([], 10) is None and remaining_seconds([(0.0, 5)], 10) is None
    assert remaining_seconds([(3.0, 5), (7.0, 5)], 10) is None
    assert remaining_seconds([(1.0, 2), (2.0, 3), (4.0, 4)], 10) == 6 * 3.0 / 2


def test_downloads_are_the_runs_files_under_the_prompts_name(finished, tmp_path):
    made = downloads(look(finished), tmp_path / "copies")
    assert {name: path.name for name, path in made.items()} == {
        "GLB": "a-b-red-b-cat.glb",
        "PLY": "a-b-red-b-cat.ply",
        "Turntable": "a-b-red-b-cat.gif",
        "OBJ": "a-b-red-b-cat-obj.zip",
    }
    assert made["GLB"].read_bytes() == b"asset.glb"
    with zipfile.ZipFile(made["OBJ"]) as archive:
        assert {name: archive.read(name).decode() for name in archive.namelist()} == {
            name: name for name in ("asset.obj", "asset.mtl", "asset.png")
        }
    (finished / "asset.glb").write_bytes(b"exported again")
    (finished / "result.json").write_text((finished / "result.json").read_text())
    assert downloads(look(finished), tmp_path / "copies")["GLB"].read_bytes() == b"exported again"


def test_a_download_is_whole_or_not_there(finished, tmp_path, monkeypatch):
    write = zipfile.ZipFile.write

    def full(archive, *names):
        if len(archive.namelist()) == 1:
            raise OSError("no space left")
        write(archive, *names)

    monkeypatch.setattr(zipfile.ZipFile, "write", full)
    with pytest.raises(OSError, match="no space"):
        downloads(look(finished), tmp_path / "copies")
    monkeypatch.undo()
    with zipfile.ZipFile(downloads(look(finished), tmp_path / "copies")["OBJ"]) as archive:
        assert len(archive.namelist()) == 3


def test_the_thumbnail_is_the_first_view(begun):
    wide = Image.new("RGB", (40, 10), "blue")
    wide.paste("red", (0, 0, 10, 10))
    wide.save(begun / "sampled_views.png")
    assert thumbnail(look(begun)).getcolors() == [(192 * 192, (255, 0, 0))]


def test_no_mesh_is_promised_of_pictures(begun):
    seen = replace(look(begun), num_steps=0)
    for task, promised in ((Task.dense_views, True), (Task.sample_views, False)):
        said = texts.of_run(replace(seen, config=replace(seen.config, task=task)), State.running, 0, "", None)
        assert ("Making the mesh" in said) is promised


def test_what_was_typed_stays_text(finished):
    seen = look(finished)
    shown = texts.of_run(seen, State.done, 0, "", finished / "asset.glb")
    assert "&lt;b&gt;red" in shown and "<b>red" not in shown and "1,234 triangles" in shown
    failed = texts.of_run(replace(seen, results=None), State.failed, 0, "<i>no</i>", None)
    assert "&lt;i&gt;no" in failed
    assert "<s>" not in texts.of_check(Check(False, "the word '<s>'", offers=("a cat",)), "x")
    assert "<s>" not in texts.of_check(Check(True, "a cat", ("left out: '<s>'",)), "x")
