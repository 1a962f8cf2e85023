"""The study of guided sampling, with drawers whose quality is known in place of the priors."""

import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from threedgen.config.load import load_config
from threedgen.core.errors import ConfigError, WeightsMissingError
from threedgen.data.miniworld import build, parse, render
from threedgen.imaging import save_strip
from threedgen.runs.directory import open_run
from threedgen.tasks.evaluation import ablation, guided, guided_assets
from threedgen.tasks.evaluation.jobs import with_settings
from threedgen.tasks.evaluation.tables import Condition

CONDITIONS = tuple(c for c in guided.TABLE.conditions if c.name in ("multiview", "image"))


def drawer(prior, config, joint):
    """By the multi-view model's last weight: 1 draws without patterns, 0 the truth, both on a colour of their own."""
    shows_patterns = config.views.joint.multiview_weight.end == 0

    def draw(captions, cameras, noise):
        poses, fov_y = cameras.camera_to_world.numpy(), cameras.fov_y.numpy()
        views = []
        for caption in captions:
            spec = parse(caption if shows_patterns else caption.split(" with ")[0])
            seen = render(build(spec), poses, fov_y, 64, background=(0.2, 0.7, 0.4))
            views.append(seen.rgb)
        return np.stack(views)

    return draw


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """results.json of a run of the task with two of its conditions."""
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as monkeypatch:
        return results_of(folder, monkeypatch)


def results_of(tmp_path, monkeypatch):
    monkeypatch.setattr(guided, "load_prior", lambda config: SimpleNamespace(image_size=64))
    monkeypatch.setattr(guided.ImagePrior, "beside", lambda prior, joint: None)
    monkeypatch.setattr(guided, "drawing", drawer)
    score = SimpleNamespace(psnr=21.0)
    novel = type("Novel", (), {"truth": SimpleNamespace(psnr=33.0), "__call__": lambda self, images, cameras: score})
    monkeypatch.setattr(guided, "calibrated", lambda objects, cameras, settings: novel())
    table = guided.replace(guided.TABLE, conditions=CONDITIONS, claims=guided.TABLE.claims[-1:])
    monkeypatch.setitem(ablation._MEASURES, "joint", (table, guided.measure))
    config = load_config(
        "eval-guided-mini.yaml",
        [
            f"output_root={tmp_path}",
            "ablation.only=[joint]",
            "ablation.prompts=9",
            "ablation.multiview_weights=a",
            "ablation.image_weights=b",
        ],
    )
    with open_run(tmp_path / "run", config) as run:
        results = ablation.run(config, run)
    assert results["joint"].exists() and results["joint-plot"].exists()
    assert "| novel views dB |" in results["tables"].read_text() and "| Fréchet |" in results["tables"].read_text()
    return json.loads(results["figures"].read_text())["tables"][0]["conditions"]


@pytest.mark.slow
def test_a_drawer_of_patterns_and_one_without_are_told_apart(found):
    plain, true = found["multiview"]["means"], found["image"]["means"]
    assert true["pattern_named"]["mean"] > 0.9 and plain["pattern_named"]["mean"] < 0.1
    assert true["pattern_share"]["mean"] == pytest.approx(1, abs=0.1) and plain["pattern_share"]["mean"] < 0.1
    assert true["pattern_psnr"]["mean"] > plain["pattern_psnr"]["mean"] + 6
    assert plain["pattern_iou"]["mean"] > 0.97 and true["pattern_spread"]["mean"] < 1e-3
    assert true["psnr"]["mean"] > 30 and true["novel_psnr"] == {"mean": 21.0, "low": 21.0, "high": 21.0, "count": 6}


@pytest.mark.slow
def test_sets_are_compared_on_their_own_backgrounds(found):
    near, far = found["image"]["of_set"], found["multiview"]["of_set"]
    # pairs of the same picture are in the cross term alone, so the estimate falls a little below 0
    assert -0.1 * far["kernel"] < near["kernel"] <= 0 and near["frechet"] < 0.05 * far["frechet"]


def test_the_page_says_what_the_study_draws():
    told = ablation._introduction(load_config("eval-guided-mini.yaml"))
    assert told.startswith("64 held-out captions with patterns and at most 16 without, of scenes 8 with patterns; ")
    of_scenes = ablation._introduction(load_config("eval-ablation-mini.yaml", ["seed=3"]))
    assert of_scenes.startswith("32 held-out captions; of scenes caption i has the seed 3 + i in every row, ")


def test_few_captions_have_no_distances_of_sets(tmp_path):
    """16 pictures have no covariance of 64 features."""
    specs = [parse(caption) for caption in ("a red cat with white stripes", "a blue cube with red dots", "a red cat")]
    job = guided.judging("image", load_config("eval-guided-mini.yaml"), tmp_path, specs)
    for sample in job.samples:
        sample.folder.mkdir(parents=True)
        save_strip(np.zeros((8, 64, 64, 3)), sample.folder / guided.ALL_VIEWS)
    assert guided.distances(job) == {} == guided.distances(replace(job, samples=job.samples[2:]))


@pytest.mark.parametrize("module", ["torchmetrics.image.fid", "matplotlib.backends.backend_agg"])
def test_what_is_not_installed_is_told_before_anything_is_trained(monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(guided, "mixtures", None)
    with pytest.raises(ConfigError, match=f"pip install {module.split('.')[0]}"):
        guided.measure(guided.TABLE, load_config("eval-guided-mini.yaml"), None)


def test_what_is_trained_and_fitted_for_the_study_runs_as_the_study_does(tmp_path, monkeypatch):
    words = [f"output_root={tmp_path}", "runtime.device=cpu", "runtime.memory=low", "runtime.threads=3", "seed=5"]
    config, trainings, fits = load_config("eval-guided-mini.yaml", words), [], []

    def trained(config, folder):
        trainings.append(config)
        return folder

    monkeypatch.setattr(guided, "trained", trained)
    jobs = guided.mixtures(guided.TABLE, config, SimpleNamespace(folder=tmp_path), [parse("a red cat")])
    assert [(one.runtime, one.seed) for one in trainings] == [(config.runtime, 5)] * 2
    monkeypatch.setattr(guided_assets, "load_prior", lambda config: SimpleNamespace(image_size=64))
    monkeypatch.setattr(guided_assets.ImagePrior, "beside", lambda prior, joint: None)
    monkeypatch.setattr(guided_assets, "quick_fit", fits.append)
    guided_assets._fitter(jobs[0])
    assert fits == [["runtime.device=cpu"]]


@pytest.mark.parametrize("condition", guided.TABLE.conditions, ids=lambda condition: condition.name)
def test_no_row_asks_a_model_of_sets_alone_for_single_pictures(condition):
    joint = with_settings(load_config("eval-guided-mini.yaml"), condition.settings).views.joint
    with pytest.raises(WeightsMissingError):  # so far it comes
        guided.ImagePrior.beside(SimpleNamespace(has_2d_mode=False), replace(joint, weights="weights/none"))


def test_conditions_differ_as_their_labels_say():
    weights = {c.name: c.settings["views.joint.multiview_weight"] for c in guided.TABLE.conditions}
    assert isinstance(guided.TABLE.conditions[0], Condition)
    assert (weights["growing-0"].start, weights["growing-0"].end) == (0, 1)
    assert (weights["falling-0.25"].start, weights["falling-0.25"].end) == (1, 0.25)
    assert weights["multiview"].start == weights["multiview"].end == 1
    assert weights["image"].start == weights["image"].end == 0
