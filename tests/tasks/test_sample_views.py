"""Views from the command line: files, and what is written beside them."""

import json

import numpy as np
import pytest
from PIL import Image

from threedgen import MultiViewPipeline, cli
from threedgen.config.load import load_config
from threedgen.core.errors import ThreedgenError

SETTINGS = ["prompt=a red cat", "views.num_inference_steps=2", "views.num_frames=3", "num_threads=1"]


def files(folder, pattern):
    return sorted(folder.rglob(pattern))


def test_the_command_writes_views_and_their_cameras(tmp_path, capsys):
    assert cli.main(["--config", "views-mini.yaml", *SETTINGS, f"output_root={tmp_path}", "seed=5"]) == 0
    assert "seed       5\n" in capsys.readouterr().out
    pictures = [np.asarray(Image.open(path)) for path in files(tmp_path, "view-*.png")]
    (described,) = (json.loads(path.read_text()) for path in files(tmp_path, "cameras.json"))
    assert described["azimuth_deg_mvdream_front_90"] == [90, 210, 330]
    assert described["azimuth_deg_threedgen_front_0"] == [0, 120, 240]
    assert (described["elevation_deg"], described["seed"]) == (15, 5)
    assert (described["image_size"], described["drawn_size"]) == (64, 64)
    assert described["prompt_as_read"] == "a red cat, 3d asset"
    # the middle of the recipe's ranges: 36 to 44 degrees, 0.85 to 0.95 half heights
    assert described["assumed_fov_y_deg"] == pytest.approx(40, abs=1e-4)
    assert described["assumed_distance"] == pytest.approx(0.9 / np.tan(np.radians(20)), abs=1e-4)
    matrices = np.array(described["camera_matrices"])
    assert matrices.shape == (3, 4, 4)
    assert np.linalg.norm(matrices[:, :3, 3], axis=1) == pytest.approx([1, 1, 1], abs=1e-6)
    with Image.open(files(tmp_path, "contact_sheet.png")[0]) as sheet:
        assert sheet.width > 3 * 160

    # the same as in Python
    views = load_config("views-mini.yaml").views
    again = MultiViewPipeline.from_pretrained("mini")(
        "a red cat", num_frames=3, num_inference_steps=2, image_size=64, guidance_scale=views.guidance_scale, seed=5
    )
    for picture, image in zip(pictures, again.images, strict=True):
        assert np.abs(picture.astype(int) - np.asarray(image)).max() <= 1  # a level of rounding


def test_views_can_be_transparent_and_say_what_they_are(tmp_path, capsys, monkeypatch):
    settings = ["prompt=a red cat", "num_threads=1", "views.num_inference_steps=8", f"output_root={tmp_path}", "seed=2"]
    assert cli.main(["--config", "views-mini.yaml", *settings, "views.transparent=true"]) == 0
    views = [Image.open(path) for path in files(tmp_path, "view-*.png")]
    assert len(views) == 4
    for view in views:
        assert view.text["prompt"] == "a red cat" and view.text["seed"] == "2"
        assert view.text["prompt_as_read"] == "a red cat, 3d asset"
        alpha = np.asarray(view)[..., 3]
        assert alpha[0].max() == 0 and alpha[32, 32] == 255 and 0.05 < alpha.mean() / 255 < 0.7

    def refuse(rgb):
        raise ThreedgenError("its border is not of one colour")

    monkeypatch.setattr("threedgen.data.flat_background.cut_from_flat", refuse)
    assert cli.main(["--config", "views-mini.yaml", *settings, "views.transparent=true", "seed=3"]) == 1
    assert "view 0: its border is not of one colour: remove_background=true" in capsys.readouterr().err
    assert len(files(tmp_path, "view-*.png")) == 4  # none of the second run


def test_plain_english_is_kept_as_typed_and_drawn_as_its_caption(tmp_path, capsys):
    typed = "prompt=show me the kitty, whose face is green."
    command = ["--config", "views-mini.yaml", typed, "views.num_inference_steps=1", "num_threads=1"]
    assert cli.main([*command, f"output_root={tmp_path}", "negative_prompt=blurry"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "read as    an orange cat with a green face, 3d asset" in lines
    assert "note       'kitty' is read as cat" in lines
    assert "note       no colour is said for the cat: drawn orange" in lines
    assert "note       the negative prompt is read as ''; left out: 'blurry'" in lines
    (described,) = (json.loads(path.read_text()) for path in files(tmp_path, "cameras.json"))
    assert described["prompt_as_read"] == "an orange cat with a green face, 3d asset"
    (saved,) = files(tmp_path, "config.yaml")
    assert load_config(saved).prompt == typed.partition("=")[2]
    assert cli.main([*command, f"output_root={tmp_path}", "prompt=two red cats"]) == 2
    assert "one thing is drawn at a time" in capsys.readouterr().err


def test_a_random_seed_is_told_kept_and_repeatable(tmp_path, capsys):
    settings = [*SETTINGS, "views.image_size=128", f"output_root={tmp_path}"]
    assert cli.main(["--config", "views-mini.yaml", *settings, "seed=random"]) == 0
    out = capsys.readouterr().out
    (seed,) = (line.split()[1] for line in out.splitlines() if line.startswith("seed "))
    assert "for 3 views, drawn at the model's 64 px and resized to 128" in out
    (folder,) = {path.parent for path in files(tmp_path, "cameras.json")}
    described = json.loads((folder / "cameras.json").read_text())
    assert (str(described["seed"]), described["image_size"], described["drawn_size"]) == (seed, 128, 64)
    # the run is that of the number: the same folder, found finished, and --resume knows it
    assert cli.main(["--config", "views-mini.yaml", *settings, f"seed={seed}"]) == 0
    assert f"finished before (--fresh starts it anew): {folder}" in capsys.readouterr().out
    assert cli.main(["--resume", str(folder)]) == 0
    assert "finished before" in capsys.readouterr().out
    # and another random one is another run
    assert cli.main(["--config", "views-mini.yaml", *settings, "seed=random"]) == 0
    assert len(files(tmp_path, "cameras.json")) == 2


def test_many_views_fill_several_rows_of_the_sheet(tmp_path):
    settings = [*SETTINGS, "views.num_frames=9", "views.num_inference_steps=1", f"output_root={tmp_path}"]
    assert cli.main(["--config", "views-mini.yaml", *settings]) == 0
    assert len(files(tmp_path, "view-*.png")) == 9
    with Image.open(files(tmp_path, "contact_sheet.png")[0]) as sheet:
        assert 8 * 160 < sheet.width < 9 * 160 and sheet.height > 2 * 160


def test_an_impossible_value_is_refused_before_a_folder_is_made(tmp_path, capsys):
    settings = [*SETTINGS, "views.num_frames=64", f"output_root={tmp_path}"]
    assert cli.main(["--config", "views-mini.yaml", *settings]) == 2
    assert "views.num_frames=64 (on the command line): must be a whole number between 1 and 32" in (
        capsys.readouterr().err
    )
    assert not list(tmp_path.iterdir())
