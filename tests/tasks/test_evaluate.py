"""The score of a scene that is the truth is perfect; a second face on the back is found; scores are kept."""

import json
import math
import os
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from threedgen.config.load import load_config
from threedgen.core.errors import ThreedgenError
from threedgen.data.miniworld import build, held_out, parse, render
from threedgen.runs.checkpoint import save_checkpoint
from threedgen.runs.directory import open_run
from threedgen.tasks.evaluation import evaluate, scenes

CAPTION = "a red cat with a green face"


KNOWN = {}  # by shape and points: cats of other colours are asked for at the same ones


def inside_of(object_, points):
    key = (object_.spec.caption.split("cat")[-1], points.tobytes())
    if key not in KNOWN:
        KNOWN[key] = object_.signed_distance(points) < 0
    return KNOWN[key]


class TruthScene:
    """Renders a miniworld object as a scene would; with `two_faced`, the back looks like the front."""

    radius = 1.0

    def __init__(self, caption, two_faced=False):
        self.object, self.two_faced = build(parse(caption)), two_faced

    def render(self, cameras, background):
        matrices = cameras.camera_to_world.numpy().copy()
        if self.two_faced:
            behind = matrices[:, 0, 3] < 0
            matrices[behind] = np.diag([-1.0, -1.0, 1.0, 1.0]) @ matrices[behind]
        picture = render(self.object, matrices, cameras.fov_y.numpy(), cameras.height, supersample=4)
        return SimpleNamespace(rgb=torch.from_numpy(picture.rgb), opacity=torch.from_numpy(picture.opacity))

    def field(self, positions):
        inside = inside_of(self.object, positions.numpy())
        return torch.from_numpy(np.where(inside, 1000.0, 0.0)).float(), torch.zeros(len(positions), 3)


def figures_of(scene, caption=CAPTION, *settings):
    words = [f"prompt={caption}", "eval.num_cameras=4", "export.resolution=64", *settings]
    return evaluate.figures_of(scene, load_config("eval-mini.yaml", words), seconds=1.0)


def test_the_truth_scores_perfectly():
    figures = figures_of(TruthScene(CAPTION))
    assert math.isinf(figures["psnr"]) and figures["ssim"] == pytest.approx(1) and figures["iou"] == 1
    assert figures["chamfer"] < 0.02 and figures["normals"] < 15 and figures["volume_iou"] > 0.9
    face = figures["face"]
    assert face["front"] == face["truth_front"] > 0.1
    assert face["back"] == face["truth_back"] == 0 and not face["is_janus"]


def test_a_face_on_the_back_is_a_janus_failure():
    figures = figures_of(TruthScene(CAPTION, two_faced=True))
    assert figures["face"]["is_janus"] and figures["face"]["back"] > 0.1
    assert figures["psnr"] < 30


def test_another_colour_costs():
    figures = figures_of(TruthScene("a blue cat with a green face"))
    assert figures["psnr"] < 20 and figures["iou"] == 1


def test_objects_without_a_front_have_no_janus_score():
    caption = "a red cone on a blue cylinder"
    assert figures_of(TruthScene(caption), caption, "eval.num_cameras=2", "export.resolution=48")["face"] is None


def test_table_shows_means_and_counts_janus_failures():
    def figures(psnr, janus, face=True):
        seen = {"front": 0.2, "back": 0.1, "truth_front": 0.2, "truth_back": 0.0, "is_janus": janus}
        surface = {"chamfer": None if janus else 0.02, "normals": None if janus else 7.5}
        cost = {"seconds": 61.4, "peak_gib": 0.68}
        return {"psnr": psnr, "ssim": 0.9, "iou": 0.8, **surface, "face": seen if face else None, **cost}

    scores = {
        "4-views": {"p": figures(20.0, False), "q": figures(24.0, False, face=False)},
        "1-views": {"p": figures(10.0, True), "q": figures(12.0, False)},
    }
    head, rule, *rows = evaluate.by_prompt(evaluate.table_of([4, 1]), scores).splitlines()
    titles = "prompt | views | PSNR dB | SSIM | IoU | Chamfer | normals | face front / back (truth) | Janus | s | GiB"
    assert head == f"| {titles} |" and rule == "|" + "---|" * 11
    seen = "0.200 / 0.100 (0.200 / 0.000)"
    assert rows == [
        f"| p | 4 | 20.00 | 0.900 | 0.800 | 0.0200 | 7.5° | {seen} | no | 61 | 0.7 |",
        f"| p | 1 | 10.00 | 0.900 | 0.800 | – | – | {seen} | yes | 61 | 0.7 |",
        "| q | 4 | 24.00 | 0.900 | 0.800 | 0.0200 | 7.5° |  |  | 61 | 0.7 |",
        f"| q | 1 | 12.00 | 0.900 | 0.800 | 0.0200 | 7.5° | {seen} | no | 61 | 0.7 |",
        "| **mean of 2** | 4 | 22.00 | 0.900 | 0.800 | 0.0200 | 7.5° |  | 0 of 1 | 61 | 0.7 |",
        "| **mean of 2** | 1 | 11.00 | 0.900 | 0.800 | 0.0200 (1) | 7.5° (1) |  | 1 of 2 | 61 | 0.7 |",
    ]


@pytest.mark.slow
def test_evaluation_runs_and_keeps_its_scores(tmp_path, monkeypatch):
    settings = ["eval.prompts=1", "eval.num_cameras=2", "steps=2", "camera.resolution=16", "export.resolution=32"]
    config = load_config("eval-mini.yaml", [*settings, "num_threads=1", "refine.rounds=0"])
    with open_run(tmp_path / "run", config) as run:
        results = evaluate.run(config, run)
        assert results["table"].read_text().count("\n") == 6  # head, two prompts, two means
        monkeypatch.setattr(scenes, "optimize", None)  # a second time nothing is optimised
        assert evaluate.run(config, run)["scores"].read_text() == results["scores"].read_text()
        kept = json.loads(results["scores"].read_text())
    assert results["sheet"].stat().st_size > 1000
    assert [(one["prompt"], one["num_views"]) for one in kept] == [(held_out()[0].caption, views) for views in (4, 1)]
    folders = [tmp_path / "run" / f"{views}-views" / "a-black-bear-with-a-white-face" for views in (4, 1)]
    assert [json.loads((folder / "score.json").read_text()) for folder in folders] == kept


def test_refinement_draws_and_fits_as_many_images_whatever_the_number_of_views(tmp_path):
    config = load_config("eval-mini.yaml")
    jobs = [scenes.scene_job(c, parse(CAPTION), 0, config, tmp_path) for c in evaluate.table_of([4, 2, 1]).conditions]
    for one in (job.config for job in jobs):
        assert one.refine.sets * one.camera.num_views == 4 * config.refine.sets
        assert one.camera.sets_per_step * one.camera.num_views == 4
    assert jobs[0].config.refine == config.refine


@pytest.fixture
def scored(monkeypatch):
    """Scores a caption in a folder as `evaluate.score` does, with a scene that takes so much memory: what it keeps."""
    likeness = SimpleNamespace(psnr=20.0, ssim=0.9, iou=0.8, face=None)
    truth = SimpleNamespace(object=None)
    for name, result in {"truth_of": truth, "compare": likeness, "surface_figures": {}}.items():
        monkeypatch.setattr(evaluate, name, lambda *_, result=result: result)
    monkeypatch.setattr(evaluate, "render_scene", lambda *_: np.zeros((4, 8, 8, 3)))
    monkeypatch.setattr(scenes, "_loaded_prior", lambda weights, **runtime: None)

    def score(folder, numbers=1):
        monkeypatch.setattr(evaluate, "optimized", lambda job, run: np.ones(numbers).sum())
        condition, config = evaluate.table_of([4]).conditions[0], load_config("eval-mini.yaml")
        evaluate.score(scenes.scene_job(condition, parse(CAPTION), 0, config, folder))
        return json.loads((folder / "score.json").read_text())

    return score


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="only Linux forgets a peak")
def test_the_memory_of_a_scene_is_not_that_of_another_in_the_same_process(tmp_path, scored):
    large, small = scored(tmp_path / "large", 2**25), scored(tmp_path / "small")  # a quarter of a GiB
    assert large["peak_gib"] > small["peak_gib"] + 0.2


def test_a_scene_that_goes_on_has_no_seconds(tmp_path, scored):
    """Nobody knows how long it took before it was stopped."""
    assert scored(tmp_path)["seconds"] > 0
    save_checkpoint(tmp_path / "checkpoints", 1, {"scene.x": torch.zeros(1)}, {})
    assert scored(tmp_path)["seconds"] is None


def test_the_first_scene_of_a_process_does_not_pay_for_loading_the_prior(tmp_path, monkeypatch, scored):
    seconds = [0.0]

    @cache
    def load(weights, **runtime):
        seconds[0] += 60.0

    monkeypatch.setattr(scenes, "_loaded_prior", load)
    monkeypatch.setattr(evaluate, "time", SimpleNamespace(monotonic=lambda: seconds[0]))
    monkeypatch.setattr(evaluate, "optimized", lambda job, run: scenes.prior_of(job.config))
    condition, config = evaluate.table_of([4]).conditions[0], load_config("eval-mini.yaml")
    evaluate.score(scenes.scene_job(condition, parse(CAPTION), 0, config, tmp_path))
    assert json.loads((tmp_path / "score.json").read_text())["seconds"] == 0 and seconds == [60]


def test_a_scene_that_fails_is_named(tmp_path, monkeypatch):
    def fails(job, run):
        raise RuntimeError("no luck")

    monkeypatch.setattr(evaluate, "optimized", fails)
    monkeypatch.setattr(scenes, "_loaded_prior", lambda weights, **runtime: None)
    config = load_config("eval-mini.yaml", ["eval.prompts=1", "eval.views=[2]"])
    with open_run(tmp_path / "run", config) as run:
        with pytest.raises(ThreedgenError, match=rf"1 jobs failed.*2-views: {held_out()[0].caption}: Run.*: no luck"):
            evaluate.run(config, run)
        assert not run.path("results.md").exists()
