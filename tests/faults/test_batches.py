"""Batches in processes of their own: what happens to one prompt costs this prompt, and a batch goes on."""

import base64
import csv
import io
import json
import os
import re
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from threedgen import cli
from threedgen.config.load import load_config
from threedgen.core.errors import ConfigError
from threedgen.imaging import save_turntable_gif
from threedgen.runs import dispatch
from threedgen.runs.batch import read_items, read_seeds
from threedgen.runs.directory import locked, run_folder


@pytest.fixture
def batch(stand_in, monkeypatch):
    """batch(lines, *words, name) -> exit status; the prompts' file is written first."""
    monkeypatch.setattr(dispatch, "GRACE", 0.5)

    def run(lines, *words, name="list.txt"):
        (stand_in / name).write_text("".join(f"{line}\n" for line in lines), "utf-8")
        command = ["--config", "tiny", f"prompts={name}", "allow_unknown_words=true", "batch.workers=2"]
        return cli.main([*command, *words])

    return run


def table():
    (path,) = Path("outputs/tiny/batches").glob("*/summary.csv")
    return list(csv.DictReader(io.StringIO(path.read_text("utf-8"))))


def calls():
    return sorted(Path("calls").read_text().splitlines())


def test_workers_take_the_gpus_in_turn(batch, monkeypatch):
    seen, start = [], dispatch.subprocess.Popen

    def told(*words, env, **options):
        seen.append(env["CUDA_VISIBLE_DEVICES"])
        return start(*words, env=env, **options)

    monkeypatch.setattr(dispatch.subprocess, "Popen", told)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-7a")
    assert batch(["a good", "b good", "c good"]) == 0
    assert seen[:2] == ["5", "GPU-7a"] and seen[2] in seen[:2]
    seen.clear()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    assert batch(["d good", "e good"]) == 0
    assert seen == ["5", "5"]


def test_gpus_are_counted_by_what_the_driver_has_in_dev(tmp_path):
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert dispatch.visible_gpus({}, tmp_path) == ["0", "1"]
    assert dispatch.visible_gpus({"CUDA_VISIBLE_DEVICES": "3, 1"}, tmp_path) == ["3", "1"]
    assert dispatch.visible_gpus({"CUDA_VISIBLE_DEVICES": ""}, tmp_path) == []


def test_what_happens_to_one_prompt_costs_this_one_alone(batch, capsys):
    assert batch(["a good", "a crash", "a kill", "a bug", "a empty", "b good"]) == 1
    rows = {row["prompt"]: row for row in table()}
    assert [row["state"] for row in table()] == ["done", "failed", "failed", "failed", "failed", "done"]
    assert "ended by SIGABRT" in rows["a crash"]["error"]
    assert "ended by SIGKILL (out of memory?)" in rows["a kill"]["error"] and "0003.log" in rows["a kill"]["error"]
    assert rows["a bug"]["error"] == "ZeroDivisionError: oops" and rows["a empty"]["error"] == "no surface"
    assert "2 of 6 prompts done, 4 failed" in capsys.readouterr().out
    (log,) = Path("outputs").rglob("logs/0004.log")
    assert "Traceback" in log.read_text()
    # the failed are tried again, the others are there
    assert batch(["a good", "a empty", "b good"]) == 1
    assert calls().count("a good") == 1 and calls().count("a empty") == 2


def test_a_prompt_that_no_process_can_be_told_costs_this_one_alone(batch):
    assert batch(["a good", "a \0 good", "é" * 70_000, "b good"]) == 1
    assert [row["state"] for row in table()] == ["done", "failed", "failed", "done"]
    assert "embedded null byte" in table()[1]["error"] and "Argument list too long" in table()[2]["error"]


def test_an_output_root_that_is_a_file_is_one_line(batch, capsys):
    assert batch(["a good"], "output_root=list.txt") == 5
    error = capsys.readouterr().err
    assert "cannot make the batch's folder list.txt/tiny/batches/" in error and error.count("\n") == 1


@pytest.mark.parametrize(("given", "threads"), [("8", 4), ("4,2", 2), ("1", 1), ("", 3)])
def test_workers_share_the_cores_that_the_batch_may_use(batch, monkeypatch, given, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(6)))
    monkeypatch.setattr(os, "cpu_count", lambda: 96)
    assert batch(["a good"]) == 0
    (asset,) = Path("outputs").rglob("asset.glb")
    assert asset.read_text() == repr(("a good", 0, 3, threads))


def test_one_that_hangs_is_ended(batch):
    started = time.monotonic()
    assert batch(["a deaf"], "batch.timeout=0.05") == 1
    assert time.monotonic() - started < 60
    (row,) = table()
    assert "not done within 0:03 (batch.timeout)" in row["error"]


def test_a_stopped_batch_stops_its_runs_and_goes_on_with_them(batch, capsys, monkeypatch):
    lines = ["a good", "a slow", "b good", "c good"]
    wait, told = time.sleep, []

    def stop_when_begun(seconds):
        if not told and list(Path("outputs").rglob("begun")) and len(calls()) >= 3:
            told.append(os.kill(os.getpid(), signal.SIGTERM))
        wait(seconds)

    monkeypatch.setattr(dispatch.time, "sleep", stop_when_begun)
    monkeypatch.setattr(dispatch, "GRACE", 60.0)
    assert batch(lines) == 75
    monkeypatch.setattr(dispatch.time, "sleep", wait)
    assert list(Path("outputs").rglob("kept"))  # the run in it had its time to end
    assert "done" in {row["state"] for row in table()}
    assert batch(lines) == 0
    assert [row["state"] for row in table()] == ["done"] * 4
    assert calls().count("a good") == 1 and calls().count("a slow") == 2


def test_two_dispatchers_do_not_work_on_one_batch(batch, capsys):
    assert batch(["a good"]) == 0
    (folder,) = Path("outputs/tiny/batches").iterdir()
    with locked(folder):
        assert batch(["a good", "b good"]) == 1
    assert "another process is working in outputs/tiny/batches/list-" in capsys.readouterr().err
    assert calls() == ["a good"]


def test_other_seeds_of_the_same_prompts_have_a_page_of_their_own(batch):
    for seeds in ("seeds=0..1", "seeds=2", "seeds=0..1"):
        assert batch(["a good"], seeds) == 0
    rows = [path.read_text().splitlines()[1:] for path in Path("outputs/tiny/batches").glob("*/summary.csv")]
    assert sorted(map(len, rows)) == [1, 2]


def test_lines_have_settings_and_prompts_have_seeds(batch):
    lines = [
        {"prompt": 'a "good" ${x}'},
        {"prompt": "b", "steps": 7},
        {"prompt": "c", "seed": 9, "export": {"ply": True}},
    ]
    assert batch(map(json.dumps, lines), "seeds=2..3", "num_threads=1", name="list.jsonl") == 0
    made = [Path(row["folder"]) for row in table()]
    contents = [(Path("outputs/tiny/batches/x") / folder / "asset.glb").resolve().read_text() for folder in made]
    expected = [('a "good" ${x}', 2, 3), ('a "good" ${x}', 3, 3), ("b", 2, 7), ("b", 3, 7), ("c", 9, 3)]
    assert contents == [repr((*values, 1)) for values in expected]
    # each is the run that it is alone
    alone = load_config("tiny", ["allow_unknown_words=true", "prompt=b", "steps=7", "seed=3"])
    assert (run_folder(alone, "tiny") / "asset.glb").exists()
    assert [row["settings"] for row in table()] == ["", "", "steps=7", "steps=7", "seed=9 export.ply=true"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "a"', "line 2: is not JSON"),
        ('["a"]', "line 2: expected an object with a prompt"),
        ('{"seed": 1}', "line 2: expected an object with a prompt"),
        ('{"prompt": "a", "batch": {"workers": 2}}', "line 2: batch.workers is the whole batch's"),
        ('{"prompt": "a", "stepz": 2}', "line 2: unknown setting 'stepz'"),
        ('{"prompt": "a", "steps": "many"}', "line 2: steps (in this line): expected a whole number"),
    ],
)
def test_a_wrong_line_is_named_before_anything_is_made(batch, line, message, capsys):
    assert batch(['{"prompt": "first"}', line], name="list.jsonl") == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not Path("outputs").exists() and not Path("calls").exists()


def test_seeds():
    assert read_seeds("", 5) == [5]
    assert read_seeds("0..3", 5) == [0, 1, 2, 3] and read_seeds("4..4", 5) == [4]
    assert read_seeds("1, 5,9,1", 0) == [1, 5, 9]
    for text in ("3..0", "a", "1,", "0..1000000", "-1..2"):
        with pytest.raises(ConfigError, match=r"expected numbers such as 0\.\.3"):
            read_seeds(text, 0)


def test_a_text_file_is_read_as_before(tmp_path):
    (tmp_path / "list.txt").write_text('# one\n{"prompt": 1}\n')
    assert [(item.prompt, item.settings) for item in read_items(str(tmp_path / "list.txt"))] == [('{"prompt": 1}', ())]


def test_the_gallery_turns_and_is_one_file(tmp_path, monkeypatch, capsys):
    def task(config, run):
        if "bad" in config.prompt:
            raise ValueError("<b>bad</b>")
        shades = np.linspace(0, 1, 48)[:, None, None, None] * np.ones((48, 16, 16, 3))
        save_turntable_gif(shades, run.path("turntable.gif"))
        run.path("report.json").write_text('{"faces": 1234, "mesh_vs_scene_psnr": 30.5}')
        return {"turntable": run.path("turntable.gif"), "report": run.path("report.json")}

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "_task", lambda config: task)
    Path("list.txt").write_text("a <i>cat</i> {{cards}} ünïcode\na bad one\n", "utf-8")
    assert cli.main(["prompts=list.txt", "allow_unknown_words=true", "seeds=4,5"]) == 1
    out = capsys.readouterr().out
    page = Path(re.search(r"^gallery    (.+)$", out, re.MULTILINE)[1])
    text = page.read_text("utf-8")
    assert text.count('<article class="card done">') == 2 and text.count('<article class="card failed">') == 2
    assert "a &lt;i&gt;cat&lt;/i&gt; {{cards}} ünïcode" in text and "&lt;b&gt;bad&lt;/b&gt;" in text
    assert "2 of 4 done, 2 failed" in text and "1,234 faces" in text and "seed 5" in text
    assert text.count('aria-label="a &lt;i&gt;cat&lt;/i&gt; {{cards}} ünïcode"') == 2  # read out for the picture
    assert not re.search(r'(src|href)="(https?:)?//', text)
    strips = re.findall(r"--n:(\d+);background-image:url\(data:image/jpeg;base64,([^)]+)\)", text)
    assert [count for count, _ in strips] == ["24", "24"]
    strip = np.asarray(Image.open(io.BytesIO(base64.b64decode(strips[0][1]))).convert("L"), float)
    assert strip.shape == (200, 24 * 200)
    shades = strip.reshape(200, 24, 200).mean((0, 2))  # every second of 48 shades, in order
    assert (np.diff(shades) > 0).all() and np.abs(shades - 255 * np.arange(0, 48, 2) / 47).max() < 20  # a GIF's palette
    for link in re.findall(r'href="([^"]+)"', text):
        assert (page.parent / link).exists()
