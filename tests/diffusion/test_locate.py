"""Where weights are looked for, and what is said, quickly, when they are not there."""

import os
import socket
import subprocess
import sys
import threading
import time
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml

from threedgen.core.errors import WeightsMissingError
from threedgen.diffusion.checkpoints import locate
from threedgen.diffusion.checkpoints.locate import BUNDLED_FOLDER, PARTS, locate_weights

ROOT = Path(__file__).parents[2]


def _layout(folder):
    for part in PARTS:
        (folder / part).mkdir(parents=True)
        (folder / part / "config.json").write_text("{}")
    return folder


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """An empty cache, and a hub that nobody answers for."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(locate, "_can_be_reached", lambda url: False)
    return tmp_path / "hub"


def _cached(hub, owner, name):
    commit = "0" * 40
    repository = hub / f"models--{owner}--{name}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    return _layout(repository / "snapshots" / commit)


def test_the_bundled_model_and_folders_need_no_search(tmp_path):
    assert locate_weights("mini") == BUNDLED_FOLDER
    assert locate_weights(str(_layout(tmp_path / "mine"))) == tmp_path / "mine"


def test_a_hub_id_is_taken_from_the_cache(hub):
    folder = _cached(hub, "someone", "model.v2")
    assert locate_weights("someone/model.v2") == folder


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ("weights/mvdream-sd21", "launch.py weights import sd-v2.1-base-4view.pt --to weights/mvdream-sd21"),
        ("weights/mvdream-sd15", "launch.py weights import sd-v1.5-4view.pt --to weights/mvdream-sd15"),
        ("weights/videomv-t2v", "weights import t2v_00333000.pth --to weights/videomv-t2v --with weights/mvdream-sd21"),
        ("weights/videomv-i2v", "weights import i2v_00882000.pth --to weights/videomv-i2v --with ali-vilab/i2vgen-xl"),
        ("weights/mini-own", "trained here; docs/howto/dense-views.md"),
        ("/data/none", "launch.py weights import sd-v2.1-base-4view.pt --to /data/none"),
        ("owner/model", "hf download owner/model"),
        ("MVDream/MVDream", "hf download MVDream/MVDream sd-v2.1-base-4view.pt"),
        ("owner/mo--del", "neither a folder nor a name that the hub can have"),
    ],
)
def test_absent_weights_tell_the_one_command(hub, weights, said):
    with pytest.raises(WeightsMissingError) as error:
        locate_weights(weights)
    assert said in str(error.value) and "\n" not in str(error.value) and error.value.exit_status == 3


def test_no_recipe_is_told_to_import_another_models_file(tmp_path, monkeypatch):
    """What a recipe's absent weights are made from is what the guides import into that very folder."""
    monkeypatch.chdir(tmp_path)
    guides = " ".join(" ".join(path.read_text("utf-8").split()) for path in (ROOT / "docs" / "howto").glob("*.md"))
    recipes = [yaml.safe_load(path.read_text("utf-8")) for path in (ROOT / "configs").glob("*.yaml")]
    named = {str(recipe["weights"]) for recipe in recipes if str(recipe.get("weights", "")).startswith("weights/")}
    assert len(named) > 3
    for weights in named:
        with pytest.raises(WeightsMissingError) as error:
            locate_weights(weights)
        _, imports, words = str(error.value).partition("weights import ")
        assert (imports + words in guides) if imports else "docs/howto/" in str(error.value), error.value


def test_a_prior_from_the_hub_brings_its_gaussians_and_what_sees_pictures(hub, monkeypatch):
    asked = []

    def fetch(repository, allow_patterns, ignore_patterns, local_files_only=False):
        names = ["unet/config.json", "gaussians/config.json", "image_encoder/model.safetensors", "film.mp4"]
        asked.append([name for name in names if any(fnmatch(name, pattern) for pattern in allow_patterns)])
        return _layout(hub / "fetched")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    locate_weights("owner/video")
    assert asked == [["unet/config.json", "gaussians/config.json", "image_encoder/model.safetensors"]]


def test_a_single_file_is_to_be_imported(tmp_path):
    (tmp_path / "sd.pt").touch()
    with pytest.raises(WeightsMissingError, match=r"weights import .*sd\.pt --to weights/sd"):
        locate_weights(str(tmp_path / "sd.pt"))


def test_an_interrupted_download_is_not_taken_for_weights(hub):
    folder = _cached(hub, "owner", "half")
    (folder / "unet" / "config.json").unlink()
    (folder / "unet").rmdir()
    with pytest.raises(WeightsMissingError, match="hf download owner/half"):
        locate_weights("owner/half")


def test_a_host_that_never_answers_is_given_up_in_a_second(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as listener:  # its queue is full: connecting hangs
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)), socket.socket() as second:
            second.setblocking(False)
            second.connect_ex(("127.0.0.1", port))
            started = time.monotonic()
            assert not locate._can_be_reached(f"http://127.0.0.1:{port}")
            assert time.monotonic() - started < 1.5


def test_a_name_that_is_never_resolved_is_given_up_in_a_second(monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: threading.Event().wait(3) or [])
    started = time.monotonic()
    assert not locate._can_be_reached("https://hub.invalid")
    assert time.monotonic() - started < 1.5


def test_a_host_that_answers_is_found(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert locate._can_be_reached(f"http://127.0.0.1:{server.getsockname()[1]}")


@pytest.mark.parametrize("weights", ["weights/none", "owner/none"])
def test_the_command_line_says_so_before_torch_is_imported(tmp_path, weights):
    """Exit status 3 and one line; two seconds is the promise on an idle machine, here nothing slow is imported."""
    code = (
        "import sys; from threedgen.cli import main\n"
        f"status = main(['prompt=x', 'weights={weights}', r'output_root={tmp_path}'])\n"
        "print(status, sorted({'torch', 'diffusers', 'transformers'} & set(sys.modules)))"
    )
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment)
    assert result.stdout.splitlines()[-1] == "3 []"
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
