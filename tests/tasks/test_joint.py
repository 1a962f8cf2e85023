"""A 2D model beside the prior, from the command line and in distillation: the settings, and what they leave alone."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from threedgen import cli
from threedgen.config.guidance import JointMode
from threedgen.config.load import load_config
from threedgen.config.schedules import Shape
from threedgen.core.errors import ConfigError
from threedgen.diffusion.prior import MultiViewPrior
from threedgen.runs.directory import open_run
from threedgen.scene.nerf import NeRF
from threedgen.tasks import generate, prompting, refine
from threedgen.tasks.on_runs import refine_run

VIEWS = ["--config", "views-mini.yaml", "prompt=a red cat", "views.num_inference_steps=2", "views.num_frames=2"]
VIEWS += ["num_threads=1"]
ALL_MULTIVIEW = ["multiview_weight.start=1", "multiview_weight.end=1"]


def _joint(section, *words):
    return [f"{section}.joint.{word}" for word in ("weights=own", *words)]


def _drawn(folder, *words):
    assert cli.main([*VIEWS, f"output_root={folder}", *words]) == 0
    return np.stack([np.asarray(Image.open(path)) for path in sorted(folder.rglob("view-*.png"))]).astype(int)


def test_views_of_the_command(tmp_path, capsys):
    alone = _drawn(tmp_path / "alone")
    assert np.array_equal(_drawn(tmp_path / "one", *_joint("views", *ALL_MULTIVIEW)), alone)
    capsys.readouterr()
    mixed = _drawn(tmp_path / "mixed", *_joint("views", "prompt=a red cat with white dots", "multiview_weight.end=0"))
    assert "note       the 2D model reads: a red cat with white dots" in capsys.readouterr().out.splitlines()
    assert np.abs(mixed - alone).max() > 10
    (described,) = (json.loads(path.read_text()) for path in (tmp_path / "mixed").rglob("cameras.json"))
    assert described["prompt_as_read"] == "a red cat, 3d asset"


def test_the_recipes_say_what_the_schema_reads():
    mini, full = (load_config(f"views-guided-{size}.yaml").views.joint for size in ("mini", "sd21"))
    assert mini.weights == "own" and full.weights.startswith("weights/")
    words = ["shape=power", "exponent=3", "start=0.2", "from_fraction=0.1"]
    config = load_config(None, [f"guidance.joint.multiview_weight.{word}" for word in words])
    found = config.guidance.joint.multiview_weight
    assert (found.shape, found.exponent, found.start, found.end, found.from_fraction) == (
        Shape.power,
        3,
        0.2,
        0.75,
        0.1,
    )
    assert (
        load_config(None, ["task=sample_views", "views.joint.mode=consistency"]).views.joint.mode
        is JointMode.consistency
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["views.joint.multiview_weight.start=1.2"],
            "start=1.2 (on the command line): must be between 0 and 1 with mode",
        ),
        (
            ["guidance.joint.multiview_weight.end=-0.1"],
            "end=-0.1 (on the command line): must be between 0 and 1 with mode",
        ),
        (
            ["views.joint.mode=consistency", "views.joint.multiview_weight.end=-1"],
            "must be at least 0 with mode=consist",
        ),
        (["views.joint.multiview_weight.exponent=0"], "must be between 0.01 and 100"),
        (["views.joint.multiview_weight.from_fraction=2"], "must be between 0 and 1"),
        (["views.joint.self_camera=true"], "views.joint.self_camera=True (on the command line): only mode=consistency"),
        (["task=train_prior", "views.joint.weights=own"], "task train_prior has no use for a 2D model there"),
        (["task=sample_views", "guidance.joint.weights=own"], "task sample_views has no use for a 2D model there"),
        (["views.joint.mode=both"], "one of mix, consistency"),
    ],
)
def test_settings_that_cannot_work_are_one_line(words, message):
    with pytest.raises(ConfigError) as caught:
        load_config(None, words)
    assert message in str(caught.value) and "\n" not in str(caught.value), str(caught.value)
    load_config(None, ["views.joint.mode=consistency", "views.joint.multiview_weight.end=3"])


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["views.joint.weights=weights/nowhere"], 3, "no weights at weights/nowhere"),
        (["views.joint.weights=mini-video"], 2, "has no 2D mode"),
        (["task=generate", "weights=mini-video", "camera.num_views=1"], 2, "weights=mini-video have no such 2D mode"),
        (["weights=mini-video", "views.joint.weights=own"], 2, "joint.weights=own: the prior has no 2D mode"),
        (["weights=mini-video", "views.joint.weights=mini", "views.joint.mode=consistency"], 2, "self_camera=true"),
        (["task=generate", "guidance.joint.weights=mini-video"], 2, "has no 2D mode"),
        (["task=generate", "views.joint.weights=mini-video", "guidance.joint.weights=own"], 2, "has no 2D mode"),
        (
            [
                "task=dense_views",
                "weights=mini-video",
                "views.joint.weights=mini",
                "aware.every=1",
                "aware.guidance=latents",
            ],
            2,
            "take aware.guidance=before",
        ),
    ],
)
def test_what_does_not_fit_ends_the_command_before_anything_is_drawn(
    tmp_path, capsys, monkeypatch, words, status, message
):
    monkeypatch.setattr(prompting, "sample_views", None)
    monkeypatch.setattr("threedgen.diffusion.pipeline.sample_views", None)
    assert cli.main([*VIEWS, f"output_root={tmp_path}", *words]) == status
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1, error
    assert status != 3 or not list(tmp_path.iterdir())


def _config(*words):
    settings = ["prompt=a red cat", "refine.rounds=0", "steps=3", "camera.resolution=16", "camera.coarse_resolution=16"]
    return load_config("mvdream-mini.yaml", [*settings, *words])


@pytest.fixture(scope="module")
def prior():
    return MultiViewPrior.from_pretrained("mini")


def test_distillation_with_a_2d_model_beside_the_prior(prior, tmp_path):
    scenes = {}
    for name, words in {
        "alone": [],
        "one": _joint("guidance", *ALL_MULTIVIEW),
        "mixed": _joint("guidance", "prompt=a blue cube", "multiview_weight.start=0.2", "multiview_weight.end=0.2"),
    }.items():
        config = _config(*words)
        with open_run(tmp_path / name, config) as run:
            scene, _ = generate.optimize(config, run, prior, *prompting.encode_prompts(config, prior))
        scenes[name] = torch.cat([tensor.flatten().float() for tensor in scene.state_dict().values()])
    assert torch.equal(scenes["one"], scenes["alone"])
    assert not torch.allclose(scenes["mixed"], scenes["alone"], atol=1e-3)


def test_refinement_draws_with_it(prior):
    settings = ["refine.sets=1", "refine.num_inference_steps=2"]
    drawn = {}
    for name, words in {
        "alone": [],
        "one": ALL_MULTIVIEW,
        "mixed": ["prompt=a blue cube", "multiview_weight.start=0"],
    }.items():
        config = _config(*settings, *(_joint("guidance", *words) if words else []))
        scene = NeRF(config.scene, config.seed)
        text, negative, mix = prompting.encode_prompts(config, prior)
        _, (drawn[name],) = refine.draw_targets(scene, config, prior, text, negative, 3, mix)
    assert torch.equal(drawn["one"], drawn["alone"]) and (drawn["mixed"] - drawn["alone"]).abs().max() > 0.05


class Told(Exception):
    """What a 2D model was told."""


def test_the_2d_model_reads_the_prompts_as_they_were_typed(monkeypatch, tmp_path):
    """A multi-view model that knows words one by one is told a caption; the other one may know more."""

    def told(*prompts):
        raise Told(*prompts)

    def read_prompts(config, prior):
        return replace(config, prompt="a red cat", negative_prompt="")

    typed = "the kitty is red, highly detailed", "blurry"
    config = _config(f"prompt={typed[0]}", f"negative_prompt={typed[1]}", *_joint("views"), *_joint("guidance"))
    for module in (generate, refine_run):
        monkeypatch.setattr(module, "load_prior", lambda config: SimpleNamespace(check_knows_cameras=lambda: None))
        monkeypatch.setattr(module, "read_prompts", read_prompts)
    monkeypatch.setattr(refine_run, "load_newest", lambda *_: SimpleNamespace(step=0))
    monkeypatch.setattr(refine_run, "scene_of", lambda *_: None)
    monkeypatch.setattr(prompting, "load_joint", lambda joint, prior: SimpleNamespace(told=told))
    (tmp_path / "checkpoints").mkdir()
    prior = SimpleNamespace(is_video=False, image_size=8, unet=torch.nn.Identity(), device=torch.device("cpu"))
    with open_run(tmp_path, config) as run:
        for makes in (
            lambda: generate.run(config, run),
            lambda: generate.show_views(config, read_prompts(config, None), run, prior),
            lambda: refine_run.refine_run(tmp_path, config),
        ):
            with pytest.raises(Told) as found:
                makes()
            assert found.value.args[:2] == typed
