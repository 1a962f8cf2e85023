"""The command line as a user meets it: messages, exit statuses, folders. Tasks are replaced by small ones."""

import json
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest

from threedgen import cli
from threedgen.config.load import load_config
from threedgen.config.runtime import RuntimeConfig
from threedgen.config.schema import Config, Task
from threedgen.core.errors import EmptyMeshError, WeightsMissingError
from threedgen.runs.directory import open_run, run_folder
from threedgen.runs.events import read_events

LAUNCH = Path(__file__).parent.parent / "launch.py"
NO_TORCH = """
import os, runpy, sys
class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in ('torch', 'diffusers', 'transformers'):
            print('imported', name, file=sys.stderr)
            raise SystemExit(99)
sys.meta_path.insert(0, NoTorch())
sys.argv = sys.argv[1:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name='__main__')
"""


@pytest.fixture(autouse=True)
def workspace(tmp_path, monkeypatch):
    """A folder with a recipe of its own, so that runs land there."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "tiny.yaml").write_text("# A tiny recipe for tests.\nsteps: 3\n")
    return tmp_path


@pytest.fixture
def task(monkeypatch):
    """A task that writes one file; what it was called with is kept, and it can be told to fail."""

    class FakeTask:
        calls: list[Config] = []  # noqa: RUF012 - one test, one class
        error: BaseException | None = None

        def __call__(self, config, run):
            self.calls.append(config)
            if self.error is not None:
                raise self.error
            run.path("mesh/asset.glb").write_text(config.prompt)
            return {"glb": run.path("mesh/asset.glb")}

    fake = FakeTask()
    monkeypatch.setattr(cli, "_task", lambda config: fake)
    return fake


def launch(*words, **options):
    """Run launch.py in a process in which importing torch ends the process."""
    command = [sys.executable, "-c", NO_TORCH, str(LAUNCH), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **options)


def one_error_line(text):
    assert text.startswith("error: ")
    assert text.count("\n") == 1 and text.endswith("\n")
    return text


# ---------------------------------------------------------------- without torch


def test_help_lists_the_recipes_and_starts_fast(workspace):
    (workspace / "configs/.#tiny.yaml").symlink_to("somebody@machine.123:1700000000")  # Emacs, while it is changed
    before = os.times()
    result = launch("--help")
    after = os.times()
    assert result.returncode == 0, result.stderr
    assert "A tiny recipe for tests." in result.stdout
    assert ".#tiny.yaml" not in result.stdout and "  tiny.yaml" in result.stdout and "prompt=" in result.stdout
    explained = {line.split()[0] for line in result.stdout.splitlines() if line.startswith("  ")}
    assert set(cli.VERBS) <= explained
    # processor time, which a busy machine does not change: 0.2 s when this was written
    assert after.children_user - before.children_user < 3


def test_output_that_is_not_read_to_its_end_is_no_fault(workspace):
    command = f"{sys.executable} {LAUNCH} vocabulary"
    head = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command} | head -n 1"], capture_output=True, text=True, timeout=60
    )
    assert head.stdout.startswith("colours") and head.stderr == "" and head.returncode in (0, cli.NOT_READ)
    closed = subprocess.run(["bash", "-c", f"{command} >&-"], capture_output=True, text=True, timeout=60)
    assert closed.stderr == "" and closed.returncode == 0


def test_a_typo_is_answered_before_torch_and_before_a_folder_is_made(workspace):
    result = launch("--config", "tiny", "guidence_scale=5")
    assert result.returncode == 2
    assert "did you mean guidance.guidance_scale" in one_error_line(result.stderr)
    assert not (workspace / "outputs").exists()


def test_print_config_shows_a_config_that_loads_again(workspace):
    prompt = "a #cat: ${oc.env:HOME} 'x' 😀\n\"y\""
    result = launch("--config", "tiny.yaml", "--print-config", f"prompt={prompt}", "seed=4")
    assert result.returncode == 0, result.stderr
    (workspace / "again.yaml").write_text(result.stdout, "utf-8")
    assert load_config("again", []) == Config(prompt=prompt, seed=4, steps=3)
    assert not (workspace / "outputs").exists()


def test_bytes_that_are_no_utf8_are_refused(workspace):
    result = subprocess.run(
        [sys.executable, LAUNCH, "--config", "tiny", b"prompt=a \xff cat"], capture_output=True, timeout=60
    )
    assert result.returncode == 2
    assert b"not valid UTF-8" in result.stderr
    assert not (workspace / "outputs").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config", "nope"], "no recipe 'nope'"),
        (["--config", "tiny", "steps=x"], "expected a whole number"),
        (["--config", "tiny"], "the prompt is empty"),
        (["--config", "tiny", "prompt=   "], "the prompt is empty"),
        (["--config", "tiny", "--prompt", "a cat"], "--prompt"),
        (["--config"], "--config"),
        (["--config", "tiny", "prompts=nope.txt"], "no such file"),
        (["--config", "tiny", "prompts=nope.txt", "task=reconstruct", "data=."], "prompts=nope.txt: only for tasks"),
        (["--config", "tiny", "prompts=nope.txt", "task=dense_views", "image=a.png"], "not with image=FILE"),
        (["--resume", "nope"], "there is no run in that folder"),
        (["--resume", "nope", "--fresh"], "leave out --config and --fresh"),
    ],
)
def test_wrong_commands(words, message, capsys, workspace):
    assert cli.main(words) == 2
    assert message in one_error_line(capsys.readouterr().err)
    assert not (workspace / "outputs").exists()


@pytest.mark.parametrize(
    "word", ["prompts=", "task=reconstruct data=", "prompt=a output_root=", "--config ", "--resume "]
)
def test_a_sentence_in_the_place_of_a_file_is_one_line(word, capsys, workspace):
    *words, last = word.split(" ") if not word.endswith(" ") else (word[:-1], "")
    assert cli.main([*words, f"{last}{'a red cat and so on. ' * 20}"]) == 2
    assert "File name too long" in one_error_line(capsys.readouterr().err)
    assert os.listdir(workspace) in (["configs"], ["outputs", "configs"], ["configs", "outputs"])


# ---------------------------------------------------------------- running


def test_a_run_prints_its_results_and_keeps_the_prompt_byte_for_byte(task, capsys, workspace):
    prompt = "../../a #cat: ${seed} 😀"
    words = [f"prompt={prompt}", "--config", "tiny", "seed=1", "allow_unknown_words=true"]
    assert cli.main(words) == 0  # settings and options in any order
    glb = Path(capsys.readouterr().out.splitlines()[-1].split(maxsplit=1)[1])
    assert glb.parts[:2] == ("outputs", "tiny")
    assert glb.read_text() == prompt
    assert task.calls == [Config(prompt=prompt, seed=1, steps=3, allow_unknown_words=True)]
    events = read_events(glb.parent.parent / "events.jsonl")
    assert [event["event"] for event in events] == ["started", "finished"]
    assert json.loads((glb.parent.parent / "result.json").read_text()) == {"glb": "mesh/asset.glb"}


def test_output_root(task, tmp_path, capsys):
    assert cli.main(["--config", "tiny", "prompt=a cat", f"output_root={tmp_path}/else where"]) == 0
    assert f"glb        {tmp_path}/else where/tiny/a-cat-" in capsys.readouterr().out


def test_a_finished_run_is_not_done_again_unless_fresh(task, capsys):
    command = ["--config", "tiny", "prompt=a cat"]
    cli.main(command)
    first = capsys.readouterr().out.splitlines()[-1]
    assert cli.main([*command, "num_threads=2"]) == 0  # an incidental setting: the same run
    out = capsys.readouterr().out
    assert "finished before" in out and out.splitlines()[-1] == first
    assert len(task.calls) == 1
    stale = Path(first.split()[1]).parent / "stale"
    stale.touch()
    assert cli.main([*command, "--fresh"]) == 0
    assert len(task.calls) == 2
    assert not stale.exists()


def test_a_runs_own_config_and_resume_find_the_same_run(task, capsys):
    task.error = KeyboardInterrupt()
    assert cli.main(["--config", "tiny", "prompt=a cat"]) == 130
    assert capsys.readouterr().err.count("\n") == 1
    folder = run_folder(task.calls[0], "tiny")
    task.error = None
    assert cli.main(["--resume", str(folder), "num_threads=1"]) == 0
    assert task.calls[1].prompt == "a cat"
    assert (folder / "mesh/asset.glb").exists()
    assert cli.main(["--config", str(folder / "config.yaml")]) == 0  # finished: found again
    assert len(task.calls) == 2
    assert os.listdir("outputs/tiny") == [folder.name]


def test_resume_of_a_training_whose_settings_were_ignored_before_they_were_refused(task, capsys):
    task.error = KeyboardInterrupt()
    assert cli.main(["--config", "tiny", "task=train_prior", "steps=10000"]) == 130
    folder = run_folder(task.calls[0], "tiny")
    saved = (folder / "config.yaml").read_text().replace("weights: mini\n", "weights: mini-video\n")
    (folder / "config.yaml").write_text(saved)
    task.error = None
    assert cli.main(["--resume", str(folder)]) == 0
    assert task.calls[1].weights == "mini-video" and (folder / "config.yaml").read_text() == saved
    assert cli.main(["--resume", str(folder), "weights=mini-video"]) == 2
    assert "does not read it: set train.start_from" in one_error_line(capsys.readouterr().err.splitlines(True)[-1])


def test_resume_refuses_to_make_it_another_run(task, capsys):
    cli.main(["--config", "tiny", "prompt=a cat"])
    folder = run_folder(task.calls[0], "tiny")
    assert cli.main(["--resume", str(folder), "guidance.image_size=32", "steps=4"]) == 2
    assert "--resume cannot change guidance.image_size" in one_error_line(capsys.readouterr().err)


def test_resume_leaves_a_refinement_to_refine(task, capsys):
    cli.main(["--config", "tiny", "prompt=a cat"])
    folder = run_folder(task.calls[0], "tiny")
    shutil.copytree(folder, folder / "refined")
    assert cli.main(["--resume", str(folder / "refined")]) == 2
    assert f"launch.py refine {folder.resolve()}` with its settings goes on" in one_error_line(capsys.readouterr().err)
    assert len(task.calls) == 1


def test_resume_of_a_moved_run(task, workspace, capsys):
    task.error = WeightsMissingError("no weights")
    assert cli.main(["--config", "tiny", "prompt=a cat"]) == 3
    run_folder(task.calls[0], "tiny").rename(workspace / "moved")
    task.error = None
    assert cli.main(["--resume", "moved"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "glb        moved/mesh/asset.glb"


@pytest.mark.parametrize(
    ("error", "status"), [(WeightsMissingError("no weights"), 3), (EmptyMeshError("no surface"), 4)]
)
def test_an_error_of_the_task_sets_the_exit_status(task, capsys, error, status):
    task.error = error
    assert cli.main(["--config", "tiny", "prompt=a cat"]) == status
    assert one_error_line(capsys.readouterr().err) == f"error: {error}\n"
    events = read_events(run_folder(task.calls[0], "tiny") / "events.jsonl")
    assert events[-1]["event"] == "stopped" and events[-1]["message"] == str(error)


def test_a_bug_keeps_its_traceback(task):
    task.error = ZeroDivisionError("bug")
    with pytest.raises(ZeroDivisionError):
        cli.main(["--config", "tiny", "prompt=a cat"])


def test_a_run_that_another_process_works_on(task, capsys):
    config = Config(prompt="a cat", steps=3)
    with open_run(run_folder(config, "tiny"), config):  # flock also keeps out a second opening in one process
        assert cli.main(["--config", "tiny", "prompt=a cat"]) == 1
    assert "another process is working in outputs/tiny/a-cat-" in one_error_line(capsys.readouterr().err)
    assert task.calls == []


# ---------------------------------------------------------------- batch


def test_batch_runs_every_prompt_and_reports_the_failed(monkeypatch, workspace, capsys):
    (workspace / "list.txt").write_text("# three\na cat\n\na #2 dog\na bear\n")

    def fail_for_dogs(config, run):
        if "dog" in config.prompt:
            raise RuntimeError("no dogs")
        run.path("asset.glb").touch()
        return {"glb": run.path("asset.glb")}

    monkeypatch.setattr(cli, "_task", lambda config: fail_for_dogs)
    tiny = ["--config", "tiny", "allow_unknown_words=true"]
    assert cli.main([*tiny, "prompts=list.txt"]) == 1
    captured = capsys.readouterr()
    assert "RuntimeError: no dogs" in captured.err
    table = captured.out.splitlines()[-4:]
    assert [line.split()[0] for line in table] == ["done", "failed", "done", "2"]
    assert "a #2 dog" in table[1]

    # a prompt of the batch is the same run as that prompt alone
    assert cli.main([*tiny, "prompt=a bear"]) == 0
    assert "finished before" in capsys.readouterr().out

    (workspace / "list.txt").write_text("a cat\na bear\n")
    assert cli.main([*tiny, "prompts=list.txt"]) == 0


# ---------------------------------------------------------------- real tasks


def test_every_task_has_its_module():
    for name in Task:
        assert callable(cli._task(Config(task=name)))


def test_the_number_of_threads_reaches_torch(monkeypatch):
    import torch

    fake = types.SimpleNamespace(run=lambda config, run: {})
    monkeypatch.setitem(sys.modules, "threedgen.tasks.generate", fake)
    before = torch.get_num_threads()
    try:
        assert cli._task(Config(runtime=RuntimeConfig(threads=before + 1))) is fake.run
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)
