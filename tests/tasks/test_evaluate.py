"""The score of a scene that is the truth is perfect; a second face on the back is found; scores are kept."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from threedgen.config.load import load_config
from threedgen.data.miniworld import build, parse, render
from threedgen.metrics.janus import JanusScore
from threedgen.tasks.evaluation import evaluate
from threedgen.tasks.evaluation.evaluate import Job, Score

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


@pytest.fixture
def job(tmp_path):
    return Job(load_config("eval-mini.yaml", ["eval.num_cameras=4", "export.resolution=64"]), tmp_path, CAPTION, 4)


def test_the_truth_scores_perfectly(job):
    score = evaluate.score_scene(TruthScene(CAPTION), job, seconds=1.0)
    assert math.isinf(score.psnr) and score.ssim == pytest.approx(1) and score.iou == 1
    assert score.chamfer < 0.02 and score.normals < 15
    assert score.face.front == score.face.truth_front > 0.1
    assert score.face.back == score.face.truth_back == 0 and not score.face.is_janus


def test_a_face_on_the_back_is_a_janus_failure(job):
    score = evaluate.score_scene(TruthScene(CAPTION, two_faced=True), job, seconds=1.0)
    assert score.face.is_janus and score.face.back > 0.1
    assert score.psnr < 30


def test_another_colour_costs(job):
    score = evaluate.score_scene(TruthScene("a blue cat with a green face"), job, seconds=1.0)
    assert score.psnr < 20 and score.iou == 1


def test_objects_without_a_front_have_no_janus_score(tmp_path):
    caption = "a red cone on a blue cylinder"
    config = load_config("eval-mini.yaml", ["eval.num_cameras=2", "export.resolution=48"])
    assert evaluate.score_scene(TruthScene(caption), Job(config, tmp_path, caption, 4), 1.0).face is None


def test_table_shows_means_and_counts_janus_failures():
    def score(psnr, views, janus):
        face = JanusScore(0.2, 0.1, 0.2, 0.0, janus)
        return Score("p", views, psnr, 0.9, 0.8, None if janus else 0.02, face, 1.0, 1.0, None if janus else 7.5)

    scores = [score(20, 4, False), score(24, 4, False), score(10, 1, True), score(12, 1, False)]
    table = evaluate.markdown_table(scores)
    four, one = table.splitlines()[-2:]
    assert "**mean of 2** | 4 | 22.00" in four and "0 of 2" in four
    assert "**mean of 2** | 1 | 11.00" in one and "1 of 2" in one and "0.0200 | 7.5°" in one
    assert all(Score.from_json(evaluate.to_json(s)) == s for s in scores)


def test_evaluation_runs_and_keeps_its_scores(tmp_path, monkeypatch):
    from threedgen.runs.directory import open_run

    settings = ["eval.prompts=1", "eval.num_cameras=2", "steps=2", "camera.resolution=16", "export.resolution=32"]
    config = load_config("eval-mini.yaml", [*settings, "num_threads=1", "refine.rounds=0"])
    with open_run(tmp_path / "run", config) as run:
        results = evaluate.run(config, run)
        assert results["table"].read_text().count("\n") == 6  # head, two prompts, two means
        monkeypatch.setattr(evaluate, "optimize", None)  # a second time nothing is optimised
        assert evaluate.run(config, run)["scores"].read_text() == results["scores"].read_text()
    assert results["sheet"].stat().st_size > 1000
