"""A process that is killed while it saves, and checkpoints that are not what their manifest makes of them."""

import json
import os
import random
import signal
import struct
import sys

import pytest
import torch

from threedgen.core import files
from threedgen.core.errors import ThreedgenError
from threedgen.core.files import MANIFEST, sha256_of_file
from threedgen.runs import checkpoint as checkpoints
from threedgen.runs.checkpoint import load_latest_checkpoint, save_checkpoint

_WATCHED = {files.__file__, checkpoints.__file__}


def content(step):
    return {"a": torch.full((64, 64), float(step)), "b": torch.arange(step, step + 5)}


def save_and_die(folder, last_line, told):
    """In a process of its own: checkpoints 1, 2, 3, ..., killed when so many lines of what saves have been run."""
    lines = 0

    def count(frame, event, argument):
        nonlocal lines
        if frame.f_code.co_filename not in _WATCHED:
            return None
        lines += event == "line"
        if lines == last_line:
            os.kill(os.getpid(), signal.SIGKILL)
        return count

    sys.settrace(count)
    step = 0
    while True:
        step += 1
        save_checkpoint(folder, step, content(step), {"step": step})
        os.write(told, struct.pack("i", step))


def lines_of_a_save(folder):
    lines = 0

    def count(frame, event, argument):
        nonlocal lines
        if frame.f_code.co_filename not in _WATCHED:
            return None
        lines += event == "line"
        return count

    for step in (1, 2):
        save_checkpoint(folder, step, content(step), {})
    sys.settrace(count)
    try:
        save_checkpoint(folder, 3, content(3), {})
    finally:
        sys.settrace(None)
    return lines


def test_killed_at_twenty_moments_of_saving(tmp_path):
    """From the third checkpoint on an old one is removed besides; what was reported as saved is never lost."""
    each = lines_of_a_save(tmp_path / "counted")
    assert each > 60
    moments = random.Random(0).sample(range(2 * each, 5 * each), 20)
    seen = set()
    for number, moment in enumerate(moments):
        folder = tmp_path / f"{number}"
        read, write = os.pipe()
        child = os.fork()
        if child == 0:  # until it is killed
            try:
                save_and_die(folder, moment, write)
            finally:
                os._exit(1)
        os.close(write)
        with open(read, "rb") as reports:
            said = reports.read()
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
        (*_, last) = struct.unpack(f"{len(said) // 4}i", said)
        found = load_latest_checkpoint(folder)
        assert found.step in (last, last + 1)  # the one that was being written may be whole already
        for name, tensor in content(found.step).items():
            assert torch.equal(found.tensors[name], tensor)
        assert not list(folder.glob(".tmp-*"))
        save_checkpoint(folder, found.step + 1, content(found.step + 1), {})  # and it goes on
        assert load_latest_checkpoint(folder).step == found.step + 1
        seen.add(found.step - last)
    assert seen == {0, 1}  # moments before and after the checkpoint appeared


def header(entries, data=b""):
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + data


F4 = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    "state",
    [
        b"",
        struct.pack("<Q", 2**62) + b"{}",  # a header longer than any memory
        struct.pack("<Q", 10**9) + b"{}",
        header({"a": {**F4, "shape": [2**40], "data_offsets": [0, 2**42]}}, b"\0" * 4),
        header({"a": {**F4, "shape": [2**63, 4]}}, b"\0" * 4),
        header({"a": {**F4, "data_offsets": [-4, 0]}}, b"\0" * 4),
        header({"a": F4, "b": F4}, b"\0" * 4),  # two in one place
        header({"a": {**F4, "dtype": "OBJECT"}}, b"\0" * 4),
        b"\x80\x04\x95" + b"\0" * 64,  # a pickle
    ],
)
def test_a_hostile_state_with_a_manifest_that_fits_it(tmp_path, capsys, state):
    save_checkpoint(tmp_path, 1, content(1), {})
    save_checkpoint(tmp_path, 2, content(2), {})
    folder = tmp_path / "step-000002"
    (folder / "state.safetensors").write_bytes(state)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["state.safetensors"] = {
        "sha256": sha256_of_file(folder / "state.safetensors"),
        "size": len(state),
    }
    (folder / MANIFEST).write_text(json.dumps(manifest))
    assert load_latest_checkpoint(tmp_path).step == 1
    warning = capsys.readouterr().err
    assert warning.startswith("warning: checkpoint passed over") and warning.count("\n") == 1


def test_tensors_of_other_shapes_are_refused_before_any_is_filled(tmp_path):
    weight, other = torch.nn.Parameter(torch.zeros(3)), torch.zeros(2)
    optimizer = torch.optim.AdamW([weight])
    checkpoints.save_training(tmp_path, 1, optimizer, {"a": torch.ones(3), "b": torch.ones(4)})
    with pytest.raises(ThreedgenError, match="b is not what it was"):
        checkpoints.restore_training(tmp_path, optimizer, {"a": weight, "b": other})
    assert torch.equal(weight.data, torch.zeros(3))
