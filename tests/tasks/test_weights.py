"""`launch.py weights import`: what it writes and prints, and one line for everything that cannot be imported."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from threedgen.cli import main
from threedgen.core.errors import ThreedgenError
from threedgen.core.files import verify_folder

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def file(tmp_path_factory, load_benchmark):
    """A small checkpoint in the layout of sd-v2.1-base-4view.pt."""
    benchmark = load_benchmark("full_size_cpu")
    path = tmp_path_factory.mktemp("original") / "small.pt"
    benchmark.write(path.parent, "small")
    return path.with_name("original.pt")


def test_import_writes_a_folder_that_recipes_take(file, tmp_path, capsys):
    folder = tmp_path / "weights"
    assert main(["weights", "import", str(file), "--to", str(folder), "--dtype", "float16"]) == 0
    printed = capsys.readouterr().out
    assert "based on Stable Diffusion 2.1" in printed and f"weights={folder}" in printed and "float16" in printed
    assert verify_folder(folder)
    arguments = ["--config", "views-mini.yaml", f"weights={folder}", "prompt=a horse!", f"output_root={tmp_path}"]
    arguments += ["views.num_inference_steps=2", "views.num_frames=2", "views.image_size=128"]
    assert main(arguments) == 0
    assert len(list(tmp_path.glob("views-mini/*/view-*.png"))) == 2
    changed = folder / "unet" / "config.json"
    changed.write_text(changed.read_text() + " ")
    with pytest.raises(ThreedgenError, match="damaged"):
        verify_folder(folder)


class _Runs:
    def __reduce__(self):
        return (os.system, ("touch should-not-exist",))


def _bad_files(folder, file):
    content = file.read_bytes()
    (folder / "cut.pt").write_bytes(content[: len(content) // 2])
    (folder / "text.pt").write_text("no checkpoint")
    (folder / "empty.pt").touch()
    (folder / "cut.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{}")
    torch.save({"a": torch.zeros(1), "b": _Runs()}, folder / "code.pt")
    (folder / "code.pkl").write_bytes(pickle.dumps(_Runs()))
    old = {"_use_new_zipfile_serialization": False}  # torch's format before 2020
    torch.save({"a": torch.zeros(1), "b": _Runs()}, folder / "old-code.pt", **old)
    torch.save({"a": torch.zeros(99)}, folder / "old-cut.pt", **old)
    (folder / "old-cut.pt").write_bytes((folder / "old-cut.pt").read_bytes()[:-50])
    torch.save({"model.diffusion_model.out.2.bias": torch.zeros(4)}, folder / "old-part.pt", **old)
    torch.save([1, 2], folder / "list.pt")
    torch.save({"model.diffusion_model.out.2.bias": torch.zeros(4)}, folder / "part.pt")


@pytest.mark.parametrize(
    ("name", "status", "said"),
    [
        ("none.pt", 2, "is not there"),
        (".", 2, "is not there"),
        ("cut.pt", 1, "cut off"),
        ("text.pt", 1, "no checkpoint that can be read"),
        ("empty.pt", 1, "no checkpoint that can be read"),
        ("cut.safetensors", 1, "cut off"),
        ("code.pt", 1, "could run code"),
        ("code.pkl", 1, "no checkpoint that can be read"),
        ("old-code.pt", 1, "could run code"),
        ("old-cut.pt", 1, "damaged"),
        ("old-part.pt", 1, "neither stated nor to be read off"),
        ("list.pt", 1, "named tensors and nothing else"),
        ("part.pt", 1, "neither stated nor to be read off"),
    ],
)
def test_what_cannot_be_imported_is_one_line_and_leaves_nothing(
    file, tmp_path, monkeypatch, capsys, name, status, said
):
    _bad_files(tmp_path, file)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    assert main(["weights", "import", name, "--to", "out/new"]) == status
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and said in error
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["import", "FILE", "--to", "there"], "is there already"),
        (["import", "FILE", "--to", "new", "--dtype", "int4"], "invalid choice: 'int4'"),
        (["import", "FILE"], "required: --to"),
        (["export", "FILE"], "invalid choice: 'export'"),
        ([], "required: import"),
    ],
)
def test_wrong_usage_is_told(file, tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    assert main(["weights", *(str(file) if word == "FILE" else word for word in arguments)]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_a_full_disk_is_one_line(file, tmp_path, monkeypatch, capsys):
    from threedgen.diffusion.formats import tensor_files

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tensor_files.MatchedTensors, "save", full)
    assert main(["weights", "import", str(file), "--to", str(tmp_path / "new")]) == 5
    assert "could not be written: No space left on device" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_missing_file_is_told_without_torch():
    code = "import sys; from threedgen.cli import main\n"
    code += "print(main(['weights', 'import', 'none.pt', '--to', 'x']), 'torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert result.stdout.split() == ["2", "False"]
