from types import SimpleNamespace

import pytest
import torch

from threedgen.core.errors import ConfigError
from threedgen.tasks.tools import doctor


def lines_of(capsys):
    assert doctor.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    return {" ".join(line.split(":")[0].split()): line for line in lines}


def test_says_what_this_machine_can_run_and_why_not_the_rest(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    lines = lines_of(capsys)
    assert lines["backend plain on cpu"].endswith(": yes")
    assert "nerfacc cannot be imported" in lines["backend nerfacc on cpu"]
    assert lines["recipe mvdream-mini.yaml"].endswith(": yes")
    assert "launch.py weights import" in lines["recipe mvdream-sd21.yaml"]
    assert lines["GPU no"]


def test_a_recipe_of_ones_own_that_is_wrong_is_one_line_among_the_others(capsys, monkeypatch, tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/mine.yaml").write_text("stepz: 3\n")
    monkeypatch.chdir(tmp_path)
    lines = lines_of(capsys)
    assert "no: unknown setting 'stepz'" in lines["recipe mine.yaml"]
    assert lines["recipe mvdream-mini.yaml"].endswith(": yes")


@pytest.mark.parametrize(
    ("gib", "capability", "said"),
    [
        (None, 0, "without a GPU"),
        (6, 8, "has 6.0 GiB, about 7 are needed"),
        (7.8, 8, "yes"),  # what a card of 8 GiB has
        (7.8, 7, "about 11 are needed"),  # it has not the fused kernels of the field
        (12, 7, "yes"),
    ],
)
def test_full_size_weights_need_a_gpu_that_holds_a_step(tmp_path, monkeypatch, gib, capability, said):
    for part in ("tokenizer", "text_encoder", "unet", "vae", "scheduler"):
        (tmp_path / part).mkdir()
    with open(tmp_path / "unet/model.safetensors", "wb") as file:
        file.truncate(2 * doctor.GIB)  # takes no space
    card = SimpleNamespace(name="card", total_memory=int((gib or 0) * doctor.GIB), major=capability)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gib is not None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: card)
    assert said in doctor._line("recipe", "x", lambda: doctor._check_weights(str(tmp_path)))


def test_takes_no_arguments():
    with pytest.raises(ConfigError, match="unrecognized arguments: --help-me"):
        doctor.main(["--help-me"])


def test_help(capsys):
    with pytest.raises(SystemExit, match="0"):
        doctor.main(["--help"])
    assert "what this machine can run" in capsys.readouterr().out.lower()
