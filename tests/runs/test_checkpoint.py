"""Saving and loading a run's state, bit for bit, also after a kill or on a damaged disk."""

import os
import signal
import subprocess
import sys

import pytest
import torch

from threedgen.core.errors import ThreedgenError
from threedgen.core.randomness import generator
from threedgen.runs.checkpoint import (
    flatten_optimizer_state,
    load_latest_checkpoint,
    restore_optimizer_state,
    save_checkpoint,
)


def test_tensors_and_info_come_back_exactly(tmp_path):
    base = torch.randn(4, 6)
    tensors = {
        "f32": base,
        "view.of.it": base.t(),  # shares memory and is not contiguous
        "f16": base.half(),
        "bool": base > 0,
        "int64": torch.tensor([2**62, -1]),
        "scalar": torch.tensor(0.1, dtype=torch.float64),
        "empty": torch.zeros(0, 3),
        "grad": torch.ones(2, requires_grad=True),
    }
    save_checkpoint(tmp_path, 7, tensors, {"name": "猫", "numbers": [1, 2.5]})
    checkpoint = load_latest_checkpoint(tmp_path)
    assert checkpoint.step == 7
    assert checkpoint.info == {"name": "猫", "numbers": [1, 2.5]}
    assert checkpoint.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert checkpoint.tensors[name].dtype == tensor.dtype
        assert torch.equal(checkpoint.tensors[name], tensor.detach())


def test_nothing_saved_is_none(tmp_path):
    assert load_latest_checkpoint(tmp_path / "missing") is None
    assert load_latest_checkpoint(tmp_path) is None


def test_what_a_killed_writer_left_is_removed(tmp_path):
    save_checkpoint(tmp_path, 1, {"x": torch.zeros(1)}, {})
    (tmp_path / ".tmp-step-000002-abc").mkdir()
    (tmp_path / ".tmp-step-000002-abc" / "state.safetensors").write_bytes(b"half")
    assert load_latest_checkpoint(tmp_path).step == 1
    assert os.listdir(tmp_path) == ["step-000001"]


def test_the_newest_two_are_kept(tmp_path):
    for step in (5, 10, 999_999, 1_000_000):
        save_checkpoint(tmp_path, step, {"x": torch.tensor(step)}, {})
    assert sorted(os.listdir(tmp_path)) == ["step-1000000", "step-999999"]
    assert load_latest_checkpoint(tmp_path).step == 1_000_000


def test_one_more_is_kept_where_it_is_named(tmp_path):
    for step in (5, 10, 15, 20):
        save_checkpoint(tmp_path, step, {"x": torch.tensor(step)}, {}, keep=10)
    assert sorted(os.listdir(tmp_path)) == ["step-000010", "step-000015", "step-000020"]


def flip_a_byte(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "harm",
    [
        lambda folder: flip_a_byte(folder / "state.safetensors"),
        lambda folder: os.truncate(folder / "state.safetensors", 10),
        lambda folder: (folder / "info.json").unlink(),
        lambda folder: (folder / "manifest.json").unlink(),
        lambda folder: (folder / "manifest.json").write_text("{}") and (folder / "info.json").write_text("{"),
    ],
)
def test_a_damaged_checkpoint_is_passed_over(tmp_path, capsys, harm):
    for step in (1, 2):
        save_checkpoint(tmp_path, step, {"x": torch.full((3,), float(step))}, {"step": step})
    harm(tmp_path / "step-000002")
    checkpoint = load_latest_checkpoint(tmp_path)
    assert (checkpoint.step, checkpoint.info) == (1, {"step": 1})
    assert "warning: checkpoint passed over" in capsys.readouterr().err

    # going on from step 1 replaces the damaged one, and never counts it as one of the two that are kept
    save_checkpoint(tmp_path, 1, {"x": torch.zeros(1)}, {})
    assert os.listdir(tmp_path) == ["step-000001"]


def test_only_damaged_checkpoints_are_an_error(tmp_path, capsys):
    save_checkpoint(tmp_path, 1, {"x": torch.zeros(3)}, {})
    flip_a_byte(tmp_path / "step-000001" / "state.safetensors")
    with pytest.raises(ThreedgenError, match=r"no checkpoint in .* is whole"):
        load_latest_checkpoint(tmp_path)


def test_a_writer_killed_at_any_moment_leaves_a_whole_checkpoint(tmp_path):
    code = (
        "import sys, torch; from threedgen.runs.checkpoint import save_checkpoint\n"
        "for step in range(1, 100000):\n"
        "    save_checkpoint(sys.argv[1], step, {'x': torch.full((200_000,), float(step))}, {'step': step})\n"
        "    print(step, flush=True)"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    for _ in range(8):
        last_printed = int(writer.stdout.readline())
    writer.send_signal(signal.SIGKILL)
    last_printed = int(([last_printed, *writer.communicate()[0].split()])[-1])
    checkpoint = load_latest_checkpoint(tmp_path)
    assert checkpoint.step >= last_printed
    assert torch.equal(checkpoint.tensors["x"], torch.full((200_000,), float(checkpoint.step)))
    assert all(name.startswith("step-") for name in os.listdir(tmp_path))


def make_model():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    groups = [{"params": model[0].parameters(), "lr": 0.05}, {"params": model[2].parameters(), "lr": 0.01}]
    return model, torch.optim.AdamW(groups, betas=(0.9, 0.99), eps=1e-15, weight_decay=0.1)


def train(model, optimizer, steps):
    for step in steps:
        inputs = torch.randn(16, 4, generator=generator(0, step, "data"))
        optimizer.zero_grad()
        (model(inputs) - inputs.prod(dim=1, keepdim=True)).square().mean().backward()
        optimizer.step()


def test_a_resumed_adamw_run_is_bitwise_the_straight_one(tmp_path):
    straight, optimizer = make_model()
    train(straight, optimizer, range(10))

    first, first_optimizer = make_model()
    train(first, first_optimizer, range(5))
    save_checkpoint(tmp_path, 5, {**first.state_dict(), **flatten_optimizer_state(first_optimizer)}, {})

    checkpoint = load_latest_checkpoint(tmp_path)
    resumed, resumed_optimizer = make_model()
    resumed.load_state_dict({k: v for k, v in checkpoint.tensors.items() if not k.startswith("optimizer.")})
    restore_optimizer_state(resumed_optimizer, checkpoint.tensors)
    train(resumed, resumed_optimizer, range(checkpoint.step, 10))
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name

    forgetful, forgetful_optimizer = make_model()  # without the optimiser's memory it is another run
    forgetful.load_state_dict({k: v for k, v in checkpoint.tensors.items() if not k.startswith("optimizer.")})
    train(forgetful, forgetful_optimizer, range(5, 10))
    assert not torch.equal(forgetful[0].weight, straight[0].weight)


def test_restoring_leaves_the_checkpoint_untouched():
    model, optimizer = make_model()
    train(model, optimizer, range(2))
    tensors = {name: tensor.clone() for name, tensor in flatten_optimizer_state(optimizer).items()}
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    restore_optimizer_state(optimizer, tensors)
    train(model, optimizer, range(2, 4))
    assert all(torch.equal(tensors[name], before[name]) for name in before)


def test_another_models_optimizer_state_is_refused():
    model, optimizer = make_model()
    train(model, optimizer, range(1))
    other = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(3))])
    with pytest.raises(ThreedgenError, match="fits no parameter"):
        restore_optimizer_state(other, flatten_optimizer_state(optimizer))
