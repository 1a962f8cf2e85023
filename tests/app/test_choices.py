"""What the app offers and what it makes of a wish, against the command line and the reading of prompts."""

import json
from pathlib import Path

import pytest

from threedgen import cli
from threedgen.app.choices import EXAMPLES, check, choices, command, surprise
from threedgen.config.schema import Task
from threedgen.core.errors import ConfigError, WeightsMissingError
from threedgen.data.miniworld.reading import read
from threedgen.diffusion.checkpoints.locate import PARTS


@pytest.fixture(scope="module")
def offered():
    return choices()


def test_the_bundled_models_are_offered_first_and_nothing_that_is_not_here(offered):
    bundled = ["videomv-mini-refined", "videomv-mini-quick", "videomv-i2v-mini", "mvdream-mini", "views-mini"]
    assert [choice.name for choice in offered[:5]] == bundled
    assert [choice.makes_mesh for choice in offered[:5]] == [True, True, True, True, False]
    assert [choice.takes_picture for choice in offered[:5]] == [False, False, True, False, False]
    for choice in offered[5:]:
        assert Path(choice.config.weights).is_dir()


def test_files_of_other_programs_are_no_recipes(offered, tmp_path, monkeypatch):
    """In a folder configs/ of whoever starts the app: several documents, a list, what is not YAML, or not text."""
    texts = [b"a: 1\n---\nb: 2\n", b"- weights\n", b"a: [\n", b"\xff\xfe", b"weights: 5\n", b"weights: [mini]\n"]
    (tmp_path / "configs").mkdir()
    for number, text in enumerate(texts):
        (tmp_path / f"configs/{number}.yaml").write_bytes(text)
    weights = [choice.config.weights for choice in offered[:5]]
    monkeypatch.chdir(tmp_path)
    assert [choice.config.weights for choice in choices()] == weights


def test_weights_here_are_offered_by_recipes_that_name_or_inherit_them(tmp_path, monkeypatch):
    for part in PARTS:
        (tmp_path / "w" / part).mkdir(parents=True)
        (tmp_path / "w" / part / "config.json").write_text("{}")
    (tmp_path / "w/scheduler/scheduler_config.json").write_text("{}")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/own.yaml").write_text("extends: views-mini.yaml\nweights: w\n")
    (tmp_path / "configs/more.yaml").write_text("extends: own.yaml\nseed: 3\n")
    (tmp_path / "configs/gone.yaml").write_text("extends: views-mini.yaml\nweights: nowhere\n")
    (tmp_path / "configs/trains.yaml").write_text("extends: train-mini.yaml\nweights: w\n")
    monkeypatch.chdir(tmp_path)
    assert [choice.name for choice in choices()[5:]] == ["more", "own"]


def test_recipes_that_are_asked_for():
    (one,) = choices(["mvdream-mini"], ["steps=7"])
    assert one.name == "mvdream-mini" and one.config.steps == 7
    with pytest.raises(ConfigError, match=r"train-mini\.yaml draws nothing"):
        choices(["train-mini"])
    with pytest.raises(WeightsMissingError):
        choices(["mvdream-mini"], ["weights=weights/nowhere"])


def test_a_wish_is_the_run_of_the_same_command(offered, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(cli, "_task", lambda config: lambda config, run: seen.append((config, run.folder)) or {})
    settings = [f"output_root={tmp_path}", "num_threads=1", "allow_unknown_words=true"]
    for choice in offered[:5]:
        folder, words = command(choice, "a red cat: ${seed}", 3, "", settings)
        assert cli.main(words) == 0
        config, where = seen.pop()
        assert where == folder and folder.parent == tmp_path / choice.name
        assert (config.prompt, config.seed, config.export.ply) == ("a red cat: ${seed}", 3, choice.makes_mesh)


def test_another_picture_is_another_run(offered):
    folders = {command(offered[0], "a cat", 0, picture, [])[0] for picture in ("", "a.png", "b.png")}
    assert len(folders) == 3


@pytest.mark.parametrize("prompt", EXAMPLES)
def test_examples_are_read_as_they_stand(offered, prompt):
    found = check(prompt, offered[0])
    assert found.is_fine and found.text == prompt and not found.notes


def test_surprises_can_be_drawn(offered):
    prompts = {surprise() for _ in range(20)}
    assert len(prompts) > 10 and all(check(prompt, offered[0]).text == prompt for prompt in prompts)


@pytest.mark.parametrize("prompt", ["the kitty is red, highly detailed", "a cat", "a big blue rabbit"])
def test_a_check_reads_as_the_run_does(offered, prompt):
    found, reading = check(prompt, offered[0]), read(prompt)
    assert (found.is_fine, found.text, found.notes) == (True, reading.text, reading.notes)


@pytest.mark.parametrize("prompt", ["a dragon", "two dogs", "a red cat and a blue dog", "a hat"])
def test_what_cannot_be_drawn_is_answered_with_what_can(offered, prompt):
    found = check(prompt, offered[0])
    assert not found.is_fine and 0 < len(found.offers) <= 3
    assert "launch.py" not in found.text and "config" not in found.text  # nobody here sits at a terminal
    assert all(check(offer, offered[0]).text == offer for offer in found.offers)


def test_nothing_is_said_of_an_empty_prompt_or_of_other_models(offered, tmp_path):
    assert check(" ", offered[0]) == check("", offered[0])
    assert not check("", offered[0]).is_fine and not check("", offered[0]).text
    (free,) = choices(["mvdream-mini"], ["allow_unknown_words=true"])
    assert check("a dragon", free).is_fine


@pytest.mark.parametrize("sees", [True, False])
def test_a_picture_is_taken_where_the_network_has_the_input(tmp_path, sees):
    weights = tmp_path / "weights"
    for part in PARTS:
        (weights / part).mkdir(parents=True)
        (weights / part / "config.json").write_text("{}")
    (weights / "unet/config.json").write_text(json.dumps({"image_conditioning": sees}))
    (weights / "scheduler/scheduler_config.json").write_text("{}")
    (choice,) = choices(["videomv-mini"], [f"weights={weights}"])
    assert choice.takes_picture is sees


def test_a_subjects_weights_are_offered_for_what_they_can_do(tmp_path, monkeypatch):
    """The folder of a run that made an adapter, as docs/howto/app.md says it: it has no video network, no Gaussians."""
    (tmp_path / "prior/unet").mkdir(parents=True)
    (tmp_path / "prior/adapter.json").write_text('{"base": "mini"}')
    words = [f"weights={tmp_path}"]
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/other.yaml").write_text("lr: 3\n")  # another program's
    monkeypatch.chdir(tmp_path)
    offered = choices([], words)
    assert {"mvdream-mini", "views-mini"} <= {choice.name for choice in offered}
    assert not any(choice.config.task is Task.dense_views or choice.takes_picture for choice in offered)
    (asked,) = choices(["videomv-mini"], words)  # the run will say what it lacks
    assert not asked.takes_picture and not asked.has_all
    with pytest.raises(WeightsMissingError, match="no weights at nowhere"):
        choices([], ["weights=nowhere"])
    with pytest.raises(ConfigError, match="task=dense_views: no recipe has all that it needs then"):
        choices([], [*words, "task=dense_views"])
