"""Every task of the user at tiny size on the device: it runs to its end, and draws what a CPU draws.

Without a device only whether the tasks' recipes still read these settings.
"""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from threedgen import cli
from threedgen.config.load import load_config

SMALL = ["views.num_inference_steps=3", "export.resolution=24", "export.texture_size=64", "export.image_size=32"]
SMALL += [
    "refine.sets=1",
    "refine.num_inference_steps=2",
    "refine.steps=2",
    "export.turntable_frames=2",
    "camera.resolution=32",
    "camera.coarse_resolution=16",
]
PRIORS = ["train.num_objects=4", "train.num_patterned_images=4", "train.render_workers=2", "train.batch_objects=2"]
EVALUATED = ["steps=3", "eval.workers=1", "eval.num_cameras=2", "eval.image_size=16"]
PROMPT = "prompt=a red cat with a green face"


def run(folder, recipe, *settings, device="cuda"):
    """The results of a recipe: name -> path."""
    settings = [f"output_root={folder}", f"runtime.device={device}", *SMALL, *settings]
    if not torch.cuda.is_available():
        load_config(recipe, settings)
        pytest.skip("torch sees no CUDA device")
    assert cli.main(["--config", recipe, *settings]) == 0
    (found,) = folder.glob("*/*/result.json")
    return {name: found.parent / path for name, path in json.loads(found.read_text()).items()}


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB"), np.float32) / 255


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of four views of a thing, with cameras."""
    import trimesh

    folder = tmp_path_factory.mktemp("pictures")
    trimesh.creation.icosphere(subdivisions=2, radius=0.4).export(folder / "ball.ply")
    command = ["render-meshes", str(folder / "ball.ply"), str(folder / "views"), "--cameras", "sphere"]
    assert cli.main([*command, "--views", "4", "--size", "32"]) == 0
    return folder / "views"


def test_views_are_those_of_a_cpu(tmp_path):
    """The same noise, the same network; on a GPU in half precision."""
    settings = [PROMPT, "views.num_inference_steps=10"]
    drawn = [run(tmp_path / d, "views-mini.yaml", *settings, device=d) for d in ("cuda", "cpu")]
    ours, theirs = (pixels(results["sheet"]) for results in drawn)
    assert np.abs(ours - theirs).mean() < 0.02


@pytest.mark.parametrize("settings", [[], ["runtime.memory=low"], ["runtime.deterministic=true"]])
@pytest.mark.parametrize("recipe", ["mvdream-mini.yaml", "mvdream-mini-shading.yaml"])
def test_text_to_3d(tmp_path, recipe, settings):
    results = run(tmp_path, recipe, PROMPT, "steps=12", "scene.blob_density=10", *settings)
    assert all(path.exists() for path in results.values())
    events = (next(tmp_path.rglob("events.jsonl"))).read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in events if json.loads(line)["event"] == "step"]
    assert np.isfinite(losses).all()


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path):
    settings = [PROMPT, "runtime.deterministic=true", "checkpoint_every=2", "scene.blob_density=10", "refine.rounds=0"]
    whole = run(tmp_path / "whole", "mvdream-mini.yaml", *settings, "steps=4")
    again = run(tmp_path / "again", "mvdream-mini.yaml", *settings, "steps=4")
    states = [next((tmp_path / name).rglob("step-000004/state.safetensors")) for name in ("whole", "again")]
    assert states[0].read_bytes() == states[1].read_bytes() and whole.keys() == again.keys()


def test_reconstruction(tmp_path, pictures):
    settings = ["reconstruct.rays_per_step=256", "steps=20", "scene.samples_per_ray=48", "reconstruct.held_out_every=0"]
    assert run(tmp_path, "reconstruct-nerf.yaml", f"data={pictures}", *settings)


@pytest.mark.parametrize("start", ["mini", ""])
def test_training_of_a_prior(tmp_path, start):
    settings = [f"train.start_from={start}", "train.steps=3", "train.vae_steps=3", "train.precision=bfloat16"]
    results = run(tmp_path, "train-mini.yaml", *PRIORS, *settings)
    assert (results["prior"] / "unet").is_dir()


@pytest.mark.parametrize("rank", [0, 2])
def test_dreambooth(tmp_path, pictures, rank):
    subject = tmp_path / "subject"
    subject.mkdir()
    for number, path in enumerate(sorted(pictures.rglob("*.png"))[:3]):
        (subject / f"{number}.png").write_bytes(path.read_bytes())
    settings = [f"data={subject}", "prompt=a [v] ball", f"dreambooth.lora_rank={rank}", "steps=3", "checkpoint_every=3"]
    assert run(tmp_path / "run", "dreambooth-mini.yaml", *settings)["prior"].is_dir()


def test_evaluation(tmp_path):
    assert run(tmp_path, "eval-mini.yaml", "eval.prompts=1", *EVALUATED)


@pytest.mark.parametrize("table", ["rescale", "attention"])
def test_ablation(tmp_path, table):
    settings = ["ablation.base_steps=1", "ablation.prior_steps=2", "ablation.prompts=1", "ablation.pictured_prompts=1"]
    settings += ["train.image_size=32", "train.kinds=[cat]", *PRIORS]
    assert run(tmp_path, "eval-ablation-mini.yaml", f"ablation.only=[{table}]", *EVALUATED, *settings)
