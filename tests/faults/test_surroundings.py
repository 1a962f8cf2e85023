"""What a user's machine may lack or have: no home, no locale, no terminal, unusual paths, `python -m threedgen`."""

import subprocess
import sys
from pathlib import Path

import pytest

from threedgen import __main__, cli

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


def test_the_module_is_the_command():
    assert __main__.main is cli.main
