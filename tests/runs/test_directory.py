"""Run folders: names, locks, finishing, starting anew."""

import errno
import fcntl
import os
import re
import subprocess
import sys
from dataclasses import replace

import pytest

from threedgen.config.limits import INCIDENTAL, flatten
from threedgen.config.load import config_name, load_config
from threedgen.config.schema import Config
from threedgen.core.errors import StorageError, ThreedgenError
from threedgen.runs.directory import config_hash, open_run, run_folder, slug
from threedgen.runs.events import read_events

CAT = Config(prompt="A red cat, with a GREEN face!")


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("A red cat, with a GREEN face!", "a-red-cat-with-a-green-face"),
        ("../../etc/passwd", "etc-passwd"),
        ("..", ""),
        ("😀😀", ""),
        ("猫", ""),
        ("café Ünï", "cafe-uni"),
        ("a\x00b\nc", "a-b-c"),
        ("x" * 500, "x" * 40),
        ("a" * 39 + " b", "a" * 39),
        ("-rf --no-preserve-root", "rf-no-preserve-root"),
    ],
)
def test_slug(prompt, expected):
    assert slug(prompt) == expected


@pytest.mark.parametrize(
    "prompt", ["../../etc", "/etc/passwd", "😀", "x" * 500, "~", "a\nb", "CON", ".", "\\\\host\\a"]
)
def test_a_hostile_prompt_stays_in_its_folder(prompt, tmp_path):
    config = Config(prompt=prompt, output_root=str(tmp_path))
    folder = run_folder(config, "mini")
    assert folder.parent == tmp_path / "mini"
    assert re.fullmatch(r"[a-z0-9-]{1,40}-[0-9a-f]{8}|[a-z_]+-[0-9a-f]{8}", folder.name)
    with open_run(folder, config):
        assert folder.resolve().is_relative_to(tmp_path)


def test_the_hash_is_of_what_changes_the_outcome():
    same = [
        replace(CAT, output_root="/elsewhere"),
        replace(CAT, runtime=replace(CAT.runtime, threads=3)),
        replace(CAT, checkpoint_every=7, preview_every=9),
        replace(CAT, eval=replace(CAT.eval, workers=2), train=replace(CAT.train, render_workers=5, log_every=1)),
    ]
    assert {config_hash(config, "mini") for config in [CAT, *same]} == {config_hash(CAT, "mini")}
    other = [
        replace(CAT, seed=1),
        replace(CAT, prompt=CAT.prompt + " "),
        replace(CAT, camera=replace(CAT.camera, distance_range=(0.8, 1.1))),
        replace(CAT, task=type(CAT.task).sample_views),
    ]
    hashes = {config_hash(config, "mini") for config in [CAT, *other]} | {config_hash(CAT, "full")}
    assert len(hashes) == len(other) + 2
    assert set(INCIDENTAL) <= flatten(CAT).keys()


def test_two_prompts_with_one_slug_have_two_folders():
    assert run_folder(Config(prompt="😀"), "mini") != run_folder(Config(prompt="🐱"), "mini")


def test_the_saved_config_is_the_same_run(tmp_path):
    config = replace(CAT, output_root=str(tmp_path), prompt="a # ${x}: 'cat'\n😀")
    folder = run_folder(config, "mini")
    with open_run(folder, config):
        pass
    saved = load_config(folder / "config.yaml", [])
    assert saved == config
    assert run_folder(saved, config_name(folder / "config.yaml")) == folder


def test_events_are_appended_over_runs(tmp_path):
    for number in range(2):
        with open_run(tmp_path / "run", CAT) as run:
            run.events.write("step", number=number)
    assert [event["number"] for event in read_events(tmp_path / "run" / "events.jsonl")] == [0, 1]


def test_finished_results(tmp_path):
    folder = tmp_path / "run"
    with open_run(folder, CAT) as run:
        assert run.finished_results() is None
        glb = run.path("mesh/asset.glb")
        with pytest.raises(FileNotFoundError):
            run.finish({"glb": glb})
        assert run.finished_results() is None
        glb.write_bytes(b"glTF")
        run.finish({"glb": glb})
    moved = folder.rename(tmp_path / "moved")  # paths are relative to the folder
    with open_run(moved, CAT) as run:
        assert run.finished_results() == {"glb": moved / "mesh/asset.glb"}
        (moved / "mesh/asset.glb").unlink()
        assert run.finished_results() is None


def test_fresh_deletes_this_run_only(tmp_path):
    outside, neighbour = tmp_path / "outside", tmp_path / "mini" / "neighbour"
    for folder in (outside, neighbour):
        folder.mkdir(parents=True)
        (folder / "keep").touch()
    folder = tmp_path / "mini" / "run"
    with open_run(folder, CAT) as run:
        run.path("checkpoints/step-000001/state").touch()
        run.events.write("step")
        (folder / "result.json").write_text("{}")
        (folder / "link").symlink_to(outside)
    with open_run(folder, CAT, fresh=True) as run:
        assert run.finished_results() is None
        assert sorted(path.name for path in folder.iterdir()) == [".lock", "config.yaml", "events.jsonl"]
        assert (folder / "events.jsonl").read_text() == ""
    assert (outside / "keep").exists()
    assert (neighbour / "keep").exists()


def test_one_process_at_a_time(tmp_path):
    folder = tmp_path / "run"
    code = (
        "import sys; from threedgen.runs.directory import open_run; from threedgen.config.schema import Config\n"
        "with open_run(sys.argv[1], Config()): print('open', flush=True); sys.stdin.readline()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout.readline() == "open\n"
    (folder / "mark").touch()
    with (
        pytest.raises(ThreedgenError, match=f"another process is working in {folder}"),
        open_run(folder, CAT, fresh=True),
    ):
        pass
    assert (folder / "mark").exists()
    other.kill()  # a killed process holds no lock
    other.communicate()
    with open_run(folder, CAT):
        pass


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def refuse(file, how):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", refuse)
    said = pytest.raises(StorageError, match=r"run cannot be locked \(Function not implemented\): set output_root")
    with said, open_run(tmp_path / "run", Config()):
        raise AssertionError("opened")


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ThreedgenError, match="cannot make the run's folder"), open_run(tmp_path / "file" / "run", CAT):
        pass
