"""Numbers that are none, scenes that are gone: left out, rolled back, then the end with exit status 4 and advice."""

import pytest
import torch

from threedgen import cli
from threedgen.core.errors import DivergedError
from threedgen.runs.checkpoint import load_latest_checkpoint
from threedgen.runs.events import read_events
from threedgen.training.guard import NumberGuard

NAN = float("nan")


def bad_loss(scene, loss):
    return loss * NAN


def bad_gradient(scene, loss):
    return loss + torch.where(torch.tensor(True), scene.bias * 0, scene.bias / 0).sum()  # 0, whose gradient is nan


@pytest.mark.parametrize("event", [bad_loss, bad_gradient])
def test_a_bad_step_is_left_out_and_named(toy, tmp_path, event, capsys, monkeypatch):
    found = toy("found", {13: event})
    warning = capsys.readouterr().err
    what = "the loss is nan" if event is bad_loss else "the gradient of scene.bias is not finite"
    assert f"warning: step 14 is left out: {what}\n" in warning
    assert read_events(tmp_path / "found/events.jsonl")[-2]["event"] == "step"
    assert any(event["event"] == "warning" for event in read_events(tmp_path / "found/events.jsonl"))
    # the same steps, this one kept from the optimiser
    monkeypatch.setattr(NumberGuard, "allows", lambda self, step, loss, norm=None: step != 13)
    assert toy.same(found, toy("expected"))


def test_a_fault_of_the_machine_is_undone(toy, capsys):
    times = []

    def once(scene, loss):
        times.append(1)
        if len(times) == 1:
            scene.table.data[0] = NAN  # a flipped bit
        return loss.detach() * 0 + scene.bias.sum() if len(times) == 1 else loss

    found = toy("found", {17: once})
    assert "the parameter scene.table is not finite; back to the last checkpoint" in capsys.readouterr().err
    assert found.seen == [*range(20), *range(10, 30)]
    assert toy.same(found, toy("straight"))


@pytest.mark.parametrize("event", [bad_loss, bad_gradient])
def test_what_stays_bad_goes_back_once_and_then_ends(toy, tmp_path, event, capsys):
    with pytest.raises(DivergedError) as caught:
        toy("found", {step: event for step in range(12, 30)})
    assert caught.value.exit_status == 4
    assert "has diverged again at step 17" in str(caught.value) and "optimizer.grid_lr" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capsys.readouterr().err.count("back to the last checkpoint") == 1
    checkpoint = load_latest_checkpoint(tmp_path / "found/checkpoints")
    assert checkpoint.step == 10
    straight = toy("straight", steps=10)
    assert torch.equal(checkpoint.tensors["scene.table"], straight.table)


def test_without_a_checkpoint_there_is_nothing_to_go_back_to(toy):
    with pytest.raises(DivergedError, match="has diverged at step 7"):
        toy("found", {step: bad_loss for step in range(2, 30)})


@pytest.fixture
def dear(monkeypatch):
    """Looking at numbers costs time, as on a GPU."""
    make = NumberGuard.__init__

    def made(self, *arguments, **options):
        make(self, *arguments, **options)
        self._looks_always = False

    monkeypatch.setattr(NumberGuard, "__init__", made)


def test_where_looking_is_dear_it_is_done_when_due_and_then_closely(toy, dear, capsys, monkeypatch):
    """The fault of step 14 is found after step 20, and passed one by one from the checkpoint on."""
    found = toy("found", {13: bad_gradient})
    messages = capsys.readouterr().err
    assert "step 20: the parameter scene.bias is not finite; back to the last checkpoint" in messages
    assert "step 14 is left out: the gradient of scene.bias is not finite" in messages
    assert found.seen == [*range(20), *range(10, 30)]
    monkeypatch.setattr(NumberGuard, "allows", lambda self, step, loss, norm=None: step != 13)
    assert toy.same(found, toy("expected"))


@pytest.mark.parametrize(("bad", "seen"), [(0, [*range(30)]), (3, [*range(10), *range(1, 30)])])
def test_where_looking_is_dear_only_the_first_step_is_done_closely(toy, dear, capsys, monkeypatch, bad, seen):
    """There is nothing to go back to then; the checkpoint that follows it is what step 4 is undone by."""
    found = toy("found", {bad: bad_gradient})
    messages = capsys.readouterr().err
    assert f"step {bad + 1} is left out: the gradient of scene.bias is not finite" in messages
    assert ("step 10: the parameter scene.bias is not finite; back to the last checkpoint" in messages) == (bad == 3)
    assert found.seen == seen
    monkeypatch.setattr(NumberGuard, "allows", lambda self, step, loss, norm=None: step != bad)
    assert toy.same(found, toy("expected"))


def test_a_network_is_looked_at_closely_until_there_is_a_checkpoint(tmp_path):
    """Its checkpoints are large, so none is written for this."""
    weight = torch.nn.Parameter(torch.ones(2, device="meta"))
    guard, number = NumberGuard([weight], {}, "lr"), torch.zeros((), device="meta")
    assert guard.wants_checkpoint
    with pytest.raises(RuntimeError, match="meta"):  # it asks for the number
        guard.allows(0, number, number)
    (tmp_path / "step-000001").mkdir()
    for _ in guard.attempts(lambda: 1, tmp_path):
        assert not guard.wants_checkpoint and guard.allows(1, number, number)


@pytest.mark.parametrize(
    ("opacity", "message"), [((0.0, 0.3), "the scene has vanished"), ((0.995, 1.0), "the scene has filled up")]
)
def test_a_scene_that_is_gone_or_full_is_not_optimised_to_the_end(toy, opacity, message):
    def change(scene, loss):
        scene.opacity = opacity
        return loss

    scene = toy.scene({100: change})
    with pytest.raises(DivergedError, match=message) as caught:
        toy("found", steps=300, scene=scene)
    assert caught.value.exit_status == 4 and "Start again with" in str(caught.value)
    assert len(scene.seen) == 150  # five reports
    # a thin or full beginning is none of this, nor is a moment of it
    scene = toy.scene({0: change, 60: lambda scene, loss: setattr(scene, "opacity", (0.0, 1.0)) or loss})
    toy("beginning", steps=300, scene=scene)
    assert len(scene.seen) == 300


def test_the_command_says_it_in_one_line(tmp_path, monkeypatch, capsys):
    def diverging(config, run):
        raise DivergedError("the optimisation has diverged: smaller rates")

    monkeypatch.setattr(cli, "_task", lambda config: diverging)
    assert cli.main([f"output_root={tmp_path}", "prompt=a red cat"]) == 4
    assert capsys.readouterr().err == "error: the optimisation has diverged: smaller rates\n"
