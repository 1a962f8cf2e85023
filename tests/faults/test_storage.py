"""A disk that is full, a folder that became read-only: one line, exit status 5, nothing half-written, and on later."""

import errno
import os
import resource
import subprocess
from contextlib import suppress

import pytest
import torch

from threedgen import cli
from threedgen.core.errors import StorageError
from threedgen.core.files import storage_errors_told
from threedgen.runs.checkpoint import load_latest_checkpoint
from threedgen.runs.events import EventLog, read_events


def whole(folder):
    """No file of a name that was not meant to stay, and a checkpoint that loads."""
    assert not [path for path in folder.rglob(".tmp-*")]
    return load_latest_checkpoint(folder / "checkpoints").step


def refused(number):
    def refuse(*arguments, **options):
        raise OSError(number, os.strerror(number))

    return refuse


def of_rust(*arguments, **options):
    from safetensors import SafetensorError

    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize(
    ("where", "how", "said"),
    [
        ("threedgen.runs.checkpoint.save_file", of_rust, "No space left on device"),
        ("threedgen.core.files.os.fsync", refused(errno.ENOSPC), "No space left on device"),
        ("threedgen.core.files.os.rename", refused(errno.EROFS), "Read-only file system"),
        ("threedgen.core.files.tempfile.mkdtemp", refused(errno.EACCES), "Permission denied"),
    ],
)
def test_a_checkpoint_that_cannot_be_written(toy, tmp_path, monkeypatch, where, how, said):
    def fill(scene, loss):
        monkeypatch.setattr(where, how)
        return loss

    with pytest.raises(StorageError) as caught, storage_errors_told():
        toy("full", {16: fill})
    assert caught.value.exit_status == 5 and said in str(caught.value) and "\n" not in str(caught.value)
    monkeypatch.undo()
    assert whole(tmp_path / "full") == 10
    resumed, straight = toy("full"), toy("straight")
    assert torch.equal(resumed.table, straight.table)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB; skips where none can be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_disk_that_is_really_full(toy, small_disk):
    def fill(scene, loss):
        with suppress(OSError), open(small_disk / "ballast", "wb", buffering=0) as file:
            while file.write(b"0" * 512):
                pass
        return loss

    straight = toy("straight")
    with pytest.raises(StorageError, match="No space left on device"), storage_errors_told():
        toy("disk/run", {16: fill})
    assert whole(small_disk / "run") == 10
    assert [event["event"] for event in read_events(small_disk / "run/events.jsonl")]
    (small_disk / "ballast").unlink()
    assert toy.same(toy("disk/run"), straight)


def test_other_errors_keep_their_kind():
    for error in (FileNotFoundError(errno.ENOENT, "x"), ValueError("x"), BrokenPipeError(errno.EPIPE, "x")):
        with pytest.raises(type(error)), storage_errors_told():
            raise error


def test_an_event_that_does_not_fit_leaves_nothing_of_itself(tmp_path):
    path = tmp_path / "events.jsonl"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with EventLog(path) as events:
        events.write("whole")
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 20, hard))  # 20 bytes of room
        try:
            with pytest.raises(OSError) as caught:
                events.write("does not fit")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert caught.value.errno in (errno.ENOSPC, errno.EFBIG)
        events.write("later")
    assert [event["event"] for event in read_events(path)] == ["whole", "later"]
    assert path.read_bytes().count(b"\n") == 2


def test_the_command_ends_with_5_and_one_line(tmp_path, monkeypatch, capsys):
    def task(config, run):
        run.events.write = refused(errno.ENOSPC)  # nor can the end be noted
        raise OSError(errno.ENOSPC, "No space left on device", str(run.folder / "previews"))

    monkeypatch.setattr(cli, "_task", lambda config: task)
    assert cli.main([f"output_root={tmp_path}", "prompt=a red cat"]) == 5
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert "previews: No space left on device; make room" in error
    file = tmp_path / "file"
    file.touch()
    assert cli.main([f"output_root={file}", "prompt=a red cat"]) == 5
    assert "cannot make the run's folder" in capsys.readouterr().err
