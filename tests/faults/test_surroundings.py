"""What a user's machine may lack or have: no home, locale, terminal or ffmpeg, unusual paths, `python -m threedgen`."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from threedgen import __main__, cli
from threedgen.app.jobs import Jobs, State
from threedgen.config.load import load_config
from threedgen.imaging import read_turntable
from threedgen.runs import dispatch
from threedgen.runs.checkpoint import save_checkpoint
from threedgen.runs.directory import open_run
from threedgen.scene.make import make_scene

ROOT = Path(__file__).parent.parent.parent
# the command line with a task that needs no torch
FAKE = """
import sys
from threedgen import cli

def task(config, run):
    run.path("asset.glb").write_text(config.prompt, "utf-8")
    return {"glb": run.path("asset.glb")}

cli._task = lambda config: task
sys.exit(cli.main())
"""
NO_TORCH = """
import sys
class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "diffusers", "transformers"):
            print("imported", name, file=sys.stderr)
            raise SystemExit(99)
sys.meta_path.insert(0, NoTorch())
import runpy
sys.argv[0] = "threedgen"
runpy.run_module("threedgen", run_name="__main__")
"""


def run(code, *words, cwd):
    """In a process with next to no environment, and no terminal."""
    environment = {"PATH": "/usr/bin:/bin", "LANG": "C", "LC_ALL": "C", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", code, *words], env=environment, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True
    )


def test_without_home_locale_and_terminal_in_a_folder_of_any_name(tmp_path):
    folder = tmp_path / "out put ünï 猫 'x' $HOME"
    folder.mkdir()
    prompt = "a rød cat 😀"
    found = run(FAKE, f"prompt={prompt}", "allow_unknown_words=true", "output_root=my runs é", cwd=folder)
    assert found.returncode == 0, found.stderr
    assert found.stderr == b"" and b"\r" not in found.stdout and b"\x1b" not in found.stdout
    (glb,) = folder.rglob("asset.glb")
    assert glb.read_text("utf-8") == prompt and glb.is_relative_to(folder / "my runs é")


def test_a_locale_without_the_prompts_letters(tmp_path):
    """Each prompt of a batch is told before its run; what the locale lacks is written in another way."""
    (tmp_path / "list.txt").write_text("a red cat 😀\n", "utf-8")
    code = f"import sys; sys.stdout.reconfigure(encoding='latin-1', errors='strict')\n{FAKE}"
    found = run(code, "prompts=list.txt", "allow_unknown_words=true", cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert rb"[1/1] a red cat \U0001f600" in found.stdout


def test_what_lies_in_the_current_folder_is_no_module_of_a_batchs_processes(tmp_path, monkeypatch):
    """Another checkout of the package, or files that are called like modules."""
    (tmp_path / "threedgen").mkdir()
    for name in ("threedgen/__init__.py", "threedgen/__main__.py", "yaml.py"):
        (tmp_path / name).write_text("raise SystemExit('taken from the current folder')")
    monkeypatch.chdir(tmp_path)
    process = dispatch.start_process(None, ["--help"], tmp_path / "log", 0, ROOT).process
    assert process.wait(60) == 0, (tmp_path / "log").read_text()
    jobs = Jobs()
    job = jobs.add(tmp_path / "run", ["--help"])
    until = time.monotonic() + 60
    while job.state in (State.waiting, State.running) and time.monotonic() < until:
        time.sleep(0.05)
    jobs.close()
    assert job.state is State.done, list(job.lines)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["prompt=a red zebra"], "does not know 'zebra'; nearest that it can draw: 'a red elephant'"),
        (["prompt=two red cats"], "one thing is drawn at a time"),
        (["prompt=a red katt"], "does not know 'katt'; nearest that it can draw: 'a red cat'"),
        (["--config", "views-mini", "prompt=a red zebra"], "does not know 'zebra'"),
        (["prompt=a red cat", "weights=nowhere"], "no weights at nowhere"),
    ],
)
def test_python_m_and_a_prompt_that_is_refused_before_torch_and_before_a_folder_is_made(tmp_path, words, said):
    found = run(NO_TORCH, *words, cwd=tmp_path)
    message = found.stderr.decode()
    assert found.returncode in (2, 3), message
    assert message.startswith("error: ") and message.count("\n") == 1 and said in message
    assert not list(tmp_path.iterdir())
    assert ", ," not in message and ": ," not in message


@pytest.mark.parametrize("package", ["not there", "without its program", "told of another program"])
def test_without_ffmpeg_the_turntable_is_a_gif(tmp_path, monkeypatch, capsys, package):
    """The run is whole and says so in a line; its page and its gallery show the GIF."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("IMAGEIO_FFMPEG_EXE", raising=False)
    if package == "not there":
        monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    elif package == "without its program":
        ours = pytest.importorskip("imageio_ffmpeg")

        def fail():
            raise RuntimeError("No ffmpeg exe could be found")

        monkeypatch.setattr(ours, "get_ffmpeg_exe", fail)
    else:
        monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "missing"))
    small = ["export.resolution=16", "export.colors=vertex", "export.turntable_frames=3", "export.image_size=24"]
    config = load_config("mvdream-mini.yaml", ["prompt=a red cat", "num_threads=1", *small])
    with open_run(tmp_path / "run", config) as run:
        scene = make_scene(config, torch.device("cpu"))
        save_checkpoint(run.checkpoints, 1, {f"scene.{name}": t for name, t in scene.state_dict().items()}, {})
    assert cli.main(["export", str(tmp_path / "run")]) == 0
    out, err = capsys.readouterr()
    assert out.count("turntable  as a GIF: there is no ffmpeg (pip install imageio-ffmpeg brings one)\n") == 1
    assert err == ""
    assert not (tmp_path / "run/turntable.mp4").exists()
    assert Image.open(tmp_path / "run/turntable.gif").n_frames == 3
    assert "data:image/gif" in (tmp_path / "run/preview.html").read_text()
    assert len(read_turntable(tmp_path / "run/turntable.gif", 3)) == 3


def test_the_module_is_the_command():
    assert __main__.main is cli.main
