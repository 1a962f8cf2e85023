"""A file or folder is whole or not there, whatever stops the writer."""

import hashlib
import json
import math
import os
import signal
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from threedgen.core import files
from threedgen.core.errors import ThreedgenError
from threedgen.core.files import (
    atomic_folder,
    remove_temporaries,
    sha256_of_file,
    verify_folder,
    write_bytes_atomically,
    write_json_atomically,
    write_text_atomically,
)


def test_threads_that_write_at_the_same_time_leave_the_umask_alone():
    """It can only be asked for by changing it, and what one thread finds must not be what another has set meanwhile."""
    before, interval = os.umask(0o027), sys.getswitchinterval()
    sys.setswitchinterval(1e-7)
    try:
        with ThreadPoolExecutor(8) as pool:
            found = set(pool.map(lambda _: files._umask(), range(20_000)))
    finally:
        sys.setswitchinterval(interval)
        left = os.umask(before)
    assert (found, left) == ({0o027}, 0o027)


def test_sha256_of_a_file_larger_than_one_piece(tmp_path):
    data = os.urandom((1 << 20) + 17)
    (tmp_path / "data").write_bytes(data)
    assert sha256_of_file(tmp_path / "data") == hashlib.sha256(data).hexdigest()


def test_text_is_written_as_given(tmp_path):
    path = tmp_path / "text"
    write_text_atomically(path, "old")
    write_text_atomically(path, "a\r\nb\n😀")
    assert path.read_bytes() == "a\r\nb\n😀".encode()
    assert os.listdir(tmp_path) == ["text"]
    (tmp_path / "plain").touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_numbers_that_json_lacks_are_null(tmp_path):
    value = {"psnr": math.inf, "all": [1.5, math.nan, (-math.inf, "inf")], "parts": {"n": 3, "none": None, "yes": True}}
    write_json_atomically(tmp_path / "figures", value)

    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    read = json.loads((tmp_path / "figures").read_text("utf-8"), parse_constant=refuse)
    assert read == {"psnr": None, "all": [1.5, None, [None, "inf"]], "parts": {"n": 3, "none": None, "yes": True}}


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "text"
    write_bytes_atomically(path, b"old")

    def no_space(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space"):
        write_bytes_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["text"]


def test_folder_appears_whole_with_its_manifest(tmp_path):
    target = tmp_path / "deep" / "step-1"
    with atomic_folder(target) as folder:
        (folder / "a.bin").write_bytes(b"abc")
        (folder / "sub").mkdir()
        (folder / "sub" / "b.txt").write_text("b")
        assert not target.exists()
    manifest = json.loads((target / "manifest.json").read_text())
    assert manifest == {
        "a.bin": {"sha256": hashlib.sha256(b"abc").hexdigest(), "size": 3},
        "sub/b.txt": {"sha256": hashlib.sha256(b"b").hexdigest(), "size": 1},
    }
    assert verify_folder(target) is True
    assert os.listdir(tmp_path / "deep") == ["step-1"]


def test_folder_replaces_an_older_one(tmp_path):
    for text in ("old", "new"):
        with atomic_folder(tmp_path / "step") as folder:
            (folder / text).write_text(text)
    assert sorted(os.listdir(tmp_path / "step")) == ["manifest.json", "new"]
    assert os.listdir(tmp_path) == ["step"]


def test_an_exception_leaves_the_older_folder(tmp_path):
    with atomic_folder(tmp_path / "step") as folder:
        (folder / "a").write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_folder(tmp_path / "step") as folder:
        (folder / "a").write_text("half")
        raise KeyboardInterrupt
    assert (tmp_path / "step" / "a").read_text() == "old"
    assert os.listdir(tmp_path) == ["step"]


def test_what_gets_its_name_is_on_disk_and_then_its_name_is(tmp_path, monkeypatch):
    """What a power cut leaves follows from this order."""
    done, replace, rename, fsync = [], os.replace, os.rename, os.fsync

    def flushed(descriptor):
        done.append(("flush", os.fstat(descriptor).st_ino))
        fsync(descriptor)

    def named(really):
        def call(source, target):
            inside = [*Path(source).rglob("*"), Path(source)]
            done.append(("name", {path.stat().st_ino for path in inside}))
            really(source, target)

        return call

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(os, "replace", named(replace))
    monkeypatch.setattr(os, "rename", named(rename))
    write_bytes_atomically(tmp_path / "file", b"a")
    with atomic_folder(tmp_path / "folder") as folder:
        (folder / "sub").mkdir()
        (folder / "sub/b.txt").write_text("b")
    here = ("flush", tmp_path.stat().st_ino)
    for expected in (1, 4):  # a file; a folder with its manifest, another folder and a file in that
        at = next(i for i, (kind, _) in enumerate(done) if kind == "name")
        assert {number for kind, number in done[:at] if kind == "flush"} == done[at][1] and len(done[at][1]) == expected
        assert done[at + 1] == here
        del done[: at + 2]
    assert not done


@pytest.mark.parametrize("call", ["replace", "rename"])
def test_a_signal_that_comes_while_the_last_name_is_given_is_what_is_told(tmp_path, monkeypatch, call):
    """Python hears of it when the call returns: what was written is in place then."""

    def write(text):
        if call == "replace":
            write_bytes_atomically(tmp_path / "file", text.encode())
        else:
            with atomic_folder(tmp_path / "file") as folder:
                (folder / "text").write_text(text)

    write("old")
    really, calls = getattr(os, call), []

    def interrupted(source, target):
        really(source, target)
        calls.append(target)
        if Path(target) == tmp_path / "file":
            raise KeyboardInterrupt

    monkeypatch.setattr(os, call, interrupted)
    with pytest.raises(KeyboardInterrupt):
        write("new")
    assert len(calls) == (1 if call == "replace" else 2)  # an older folder steps aside first
    assert os.listdir(tmp_path) == ["file"]
    assert (tmp_path / ("file" if call == "replace" else "file/text")).read_text() == "new"


def test_a_killed_writer_leaves_only_what_remove_temporaries_removes(tmp_path):
    code = (
        "import sys, time; from threedgen.core.files import atomic_folder\n"
        "with atomic_folder(sys.argv[1]) as folder:\n"
        "    (folder / 'a').write_text('half'); print('ready', flush=True); time.sleep(60)"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "step")], stdout=subprocess.PIPE)
    assert writer.stdout.readline() == b"ready\n"
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    writer.stdout.close()
    assert not (tmp_path / "step").exists()
    assert len(os.listdir(tmp_path)) == 1
    remove_temporaries(tmp_path)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("renames_before_the_kill", "expected"), [(0, "old"), (1, "old"), (2, "new")])
def test_a_writer_killed_while_replacing_leaves_one_whole_folder(tmp_path, renames_before_the_kill, expected):
    with atomic_folder(tmp_path / "step") as folder:
        (folder / "a").write_text("old")
    code = (
        "import os, sys; from threedgen.core.files import atomic_folder\n"
        "rename, left = os.rename, [int(sys.argv[2])]\n"
        "def killing_rename(source, target):\n"
        "    if left[0] == 0: os._exit(9)\n"
        "    left[0] -= 1; rename(source, target)\n"
        "    if left[0] == 0 and sys.argv[2] == '2': os._exit(9)\n"
        "os.rename = killing_rename\n"
        "with atomic_folder(sys.argv[1]) as folder: (folder / 'a').write_text('new')"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "step"), str(renames_before_the_kill)]
    assert subprocess.run(command).returncode == 9
    remove_temporaries(tmp_path)
    assert os.listdir(tmp_path) == ["step"]
    assert verify_folder(tmp_path / "step")
    assert (tmp_path / "step" / "a").read_text() == expected


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda folder: (folder / "a").write_text("abd"), "a is damaged"),
        (lambda folder: (folder / "a").write_text("ab"), "a is damaged"),
        (lambda folder: (folder / "a").unlink(), "a is missing"),
        (lambda folder: (folder / "manifest.json").unlink(), "manifest.json is missing"),
        (lambda folder: (folder / "manifest.json").write_text('{"a":'), "manifest.json is missing or cannot be read"),
        (lambda folder: (folder / "manifest.json").write_text("[]"), "manifest.json is missing or cannot be read"),
    ],
)
def test_verify_names_the_damaged_file(tmp_path, harm, message):
    with atomic_folder(tmp_path / "step") as folder:
        (folder / "a").write_text("abc")
    harm(tmp_path / "step")
    with pytest.raises(ThreedgenError, match=message):
        verify_folder(tmp_path / "step")


def test_a_reader_never_sees_half_a_file(tmp_path):
    path = tmp_path / "text"
    contents = {letter * 200_000 for letter in "ab"}
    write_text_atomically(path, "a" * 200_000)
    code = (
        "import sys; from threedgen.core.files import write_text_atomically\n"
        "print('ready', flush=True)\n"
        "for n in range(200): write_text_atomically(sys.argv[1], 'ab'[n % 2] * 200_000)"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
    assert writer.stdout.readline() == b"ready\n"
    deadline = time.monotonic() + 20
    while writer.poll() is None and time.monotonic() < deadline:
        assert path.read_text() in contents
    assert writer.wait() == 0
    writer.stdout.close()
