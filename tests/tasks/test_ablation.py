"""The ablations: what a condition changes, what is kept, what a failed job costs, and views that are judged rightly."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from threedgen.cameras import viewing_cameras
from threedgen.config.evaluation import ABLATION_TABLES, GUIDED_TABLES, RECIPE_TABLES
from threedgen.config.guidance import GuidanceLoss
from threedgen.config.limits import flatten, validate
from threedgen.config.load import load_config
from threedgen.config.sampling import Sampler
from threedgen.config.training import CameraInput, ViewAttention
from threedgen.core.errors import ConfigError, ThreedgenError
from threedgen.core.randomness import generator
from threedgen.data.miniworld import build, held_out, parse, render
from threedgen.diffusion.prior import MultiViewPrior
from threedgen.diffusion.sampling import sample_views
from threedgen.runs.checkpoint import save_checkpoint
from threedgen.runs.directory import open_run
from threedgen.tasks.evaluation import ablation, jobs, priors, recipes, scenes
from threedgen.tasks.evaluation.jobs import Outcome, with_settings
from threedgen.tasks.evaluation.scenes import jobs_of

TINY = ["ablation.prompts=2", "ablation.pictured_prompts=1", "eval.workers=1", "eval.num_cameras=2", "num_threads=0"]


def config_of(*settings):
    return load_config("eval-ablation-mini.yaml", [*TINY, *settings])


def test_the_tables_are_those_of_the_settings_and_every_condition_is_a_valid_config():
    assert tuple(ablation._MEASURES) == (*ABLATION_TABLES, *GUIDED_TABLES, *RECIPE_TABLES)
    with pytest.raises(ConfigError, match=r"ablation.only.*'veiws'.*views, annealing"):
        config_of("ablation.only=[veiws]")
    config = config_of()
    for table in (*scenes.TABLES, *priors.TABLES):
        for condition in table.conditions:
            validate(with_settings(config, condition.settings))
        names = {condition.name for condition in table.conditions}
        assert all(set(claim.order) <= names for claim in table.claims)
    assert {c.name: c.settings for t in scenes.TABLES for c in t.conditions} == {
        c.name: c.settings for t in reversed(scenes.TABLES) for c in t.conditions
    }  # a name means the same in every table: its scenes are shared


def test_conditions_differ_in_their_settings_only_and_prompts_share_their_seed(tmp_path):
    config = config_of("seed=5", "guidance.rescale=0.4")
    conditions = [c for table in scenes.TABLES for c in table.conditions]
    jobs = jobs_of(list({c.name: c for c in conditions}.values()), config, tmp_path)
    assert len(jobs) == 2 * 11 and len({job.folder for job in jobs}) == 22
    assert [job.condition for job in jobs[:2]] == ["baseline", "views-2"]
    baseline = {job.config.prompt: flatten(job.config) for job in jobs if job.condition == "baseline"}
    assert list(baseline) == [spec.caption for spec in held_out()[:2]]
    changed = {}
    for job in jobs:
        assert job.config.seed == 5 + list(baseline).index(job.config.prompt)
        before = baseline[job.config.prompt]
        changed[job.condition] = {k: v for k, v in flatten(job.config).items() if v != before[k]}
    assert changed["views-1"] == {"camera.num_views": 1, "camera.sets_per_step": 4, "refine.sets": 64}
    assert changed["views-2"] == {"camera.num_views": 2, "camera.sets_per_step": 2, "refine.sets": 32}
    assert changed["guidance-50"] == {"guidance.guidance_scale": 50.0}
    assert changed["rescale-1"] == {"guidance.guidance_scale": 30.0, "guidance.rescale": 1.0}
    assert changed["sds"]["guidance.loss"] is GuidanceLoss.sds and changed["sds"]["guidance.rescale"] == 0
    assert changed["not-annealed"] == {
        "guidance.min_timestep.start": 0.02,
        "guidance.max_timestep.end": 0.98,
        "guidance.min_timestep.to_fraction": 1.0,
        "guidance.max_timestep.to_fraction": 1.0,
    }


def test_the_quick_recipe_of_the_tables_is_that_of_the_command_line(tmp_path):
    """All of it: its cameras too, which differ from the recipe's in more than their number."""
    config, quick = load_config("eval-recipe-mini.yaml"), flatten(load_config("mvdream-mini-quick.yaml"))
    condition = next(c for table in recipes.TABLES for c in table.conditions if c.name == "quick")
    (job,) = jobs_of([condition], replace(config, ablation=replace(config.ablation, prompts=1)), tmp_path)
    found = flatten(job.config)
    sections = ("camera.", "scene.", "guidance.", "refine.", "regularizer.", "optimizer.", "steps")
    assert {k: v for k, v in found.items() if k.startswith(sections)} == {
        k: v for k, v in quick.items() if k.startswith(sections)
    }


class NearlyTrue:
    """The truth of a caption as a scene, with an error whose strength is the number of views that are missing."""

    device = torch.device("cpu")

    def __init__(self, config):
        self.object = build(parse(config.prompt))
        self.error = 0.01 + 0.02 * (4 - config.camera.num_views)

    def render(self, cameras, background):
        picture = render(
            self.object, cameras.camera_to_world.numpy(), cameras.fov_y.numpy(), cameras.height, supersample=4
        )
        rgb = (torch.from_numpy(picture.rgb) + self.error).float()
        return SimpleNamespace(rgb=rgb, opacity=torch.from_numpy(picture.opacity))


@pytest.fixture
def stubbed(monkeypatch):
    """Scenes are made at once; the calls are counted, and those of `failing` raise."""
    calls, failing = [], set()

    def optimize(config, run, prior, text, negative_text):
        call = (config.prompt, config.camera.num_views)
        calls.append(call)
        if call in failing:
            raise RuntimeError("no luck")
        return NearlyTrue(config), config.steps

    monkeypatch.setattr(scenes, "optimize", optimize)
    monkeypatch.setattr(scenes, "_loaded_prior", lambda weights, **runtime: None)
    monkeypatch.setattr(scenes, "encode_prompts", lambda config, prior, typed: (None, None))
    monkeypatch.setattr(scenes, "read_prompts", lambda config, prior: config)
    return SimpleNamespace(calls=calls, failing=failing)


def test_a_failed_job_is_named_and_tried_again_and_nothing_else_is(tmp_path, stubbed):
    config = config_of("ablation.only=[views]")
    first, second = (spec.caption for spec in held_out()[:2])
    stubbed.failing.add((second, 2))
    with open_run(tmp_path, config) as run:
        with pytest.raises(ThreedgenError, match=rf"1 jobs failed.*views-2: {second}: RuntimeError: no luck"):
            ablation.run(config, run)
        assert len(stubbed.calls) == 6
        text = run.path("results.md").read_text()
        assert f"- views: views-2: {second}: RuntimeError: no luck" in text
        row = next(line for line in text.splitlines() if line.startswith("| 2 views"))
        assert "(1)" in row  # the other prompt's scene counts
        stubbed.failing.clear()
        results = ablation.run(config, run)
    assert stubbed.calls[6:] == [(second, 2)]
    assert set(results) == {"tables", "figures", "views"} and "Failed" not in results["tables"].read_text()
    (table,) = json.loads(results["figures"].read_text())["tables"]
    psnr = {name: c["means"]["psnr"]["mean"] for name, c in table["conditions"].items()}
    for name, error in (("baseline", 0.01), ("views-2", 0.05), ("views-1", 0.07)):
        assert psnr[name] == pytest.approx(-20 * np.log10(error), abs=0.5)
    assert list(table["conditions"]["baseline"]["prompts"]) == [first, second]
    assert "4 views" in table["claims"][1] and table["claims"][1].endswith("so, each step's interval above 0.")


def test_scenes_and_samples_are_computed_as_the_runtime_says(tmp_path, monkeypatch):
    """Every job of both kinds asks for its prior with the whole runtime, `deterministic` and all."""
    asked = []
    settings = ["runtime.deterministic=true", "runtime.memory=low", "ablation.prompts=1", "ablation.only=[annealing]"]
    config = config_of(*settings)

    def load_prior(config):
        asked.append((config.weights, config.runtime))
        raise ThreedgenError("enough")

    for module in (scenes, priors):
        monkeypatch.setattr(module, "load_prior", load_prior)
    monkeypatch.setattr(priors, "trained", lambda config, folder: folder / "prior")
    scenes._loaded_prior.cache_clear()
    with pytest.raises(ThreedgenError, match="enough"):
        scenes.optimize_and_compare(jobs_of(scenes.TABLES[0].conditions, config, tmp_path)[0])
    with pytest.raises(ThreedgenError, match="enough"):
        priors.train_and_judge(priors.judging("inflated", config, tmp_path, ()))
    assert asked == [("mini", config.runtime), (str(tmp_path / "prior"), config.runtime)]


def test_tables_share_their_scenes(tmp_path, stubbed):
    config = config_of("ablation.only=[rescale, loss]", "ablation.prompts=1")
    with open_run(tmp_path, config) as run:
        ablation.run(config, run)
    assert len(stubbed.calls) == 5  # of seven rows
    assert len(list(tmp_path.glob("scenes/*/*/score.json"))) == 5


def test_a_scene_is_optimised_twice_from_one_loaded_prior(tmp_path):
    """With the real prior: what one job gives away, the next one still has."""
    config = config_of("steps=1", "camera.resolution=8", "ablation.only=[annealing]", "ablation.prompts=1")
    with open_run(tmp_path, config) as run:
        results = ablation.run(config, run)
    table = json.loads(results["figures"].read_text())["tables"][0]
    assert all(next(iter(c["prompts"].values()))["psnr"] > 0 for c in table["conditions"].values())
    assert not list(tmp_path.glob("scenes/*/*/checkpoints"))  # hundreds of scenes are not kept


CAMERA = config_of().camera


def views_of(caption, turned=lambda azimuth: azimuth):
    azimuth = [turned(a) for four in priors._AZIMUTHS for a in four]
    cameras = viewing_cameras(CAMERA, azimuth, 15.0, 64)
    matrices, fov_y = cameras.camera_to_world.numpy(), cameras.fov_y.numpy()
    return render(build(parse(caption)), matrices, fov_y, 64, background=(0.2, 0.6, 0.9)).rgb


def test_true_views_are_judged_true_and_a_second_face_is_found():
    spec = parse("a red cat with a green face")
    true = priors.judge(spec, views_of(spec.caption), CAMERA)
    assert true["spread"] == pytest.approx(0, abs=1e-6)
    one_darker = views_of(spec.caption).copy()
    one_darker[5] *= 0.5  # in one of two sets: half the distance from the background to half of it
    assert priors.judge(spec, one_darker, CAMERA)["spread"] == pytest.approx(0.25 * np.linalg.norm([0.2, 0.6, 0.9]))
    assert true["psnr"] > 30 and true["iou"] > 0.98 and true["janus"] == 0
    assert priors.judge(spec, views_of("a red bear with a green face"), CAMERA)["iou"] < 0.9
    two_faced = priors.judge(spec, views_of(spec.caption, lambda a: a % 180), CAMERA)
    assert true["front"] == two_faced["front"] == 1
    faceless = priors.judge(spec, views_of("a red cat"), CAMERA)
    assert faceless["front"] == 0 and faceless["janus"] == 0  # missing is not doubled
    assert two_faced["janus"] == 1 and two_faced["psnr"] < true["psnr"] - 8
    assert priors.judge(parse("a red cat"), views_of("a red cat"), CAMERA)["janus"] is None


def test_a_missing_pattern_is_found():
    spec = parse("a red cat with white stripes")
    shown = priors.judge(spec, views_of(spec.caption), CAMERA)
    assert shown["pattern_share"] == pytest.approx(1, abs=0.1) and shown["pattern_shown"] == 1
    plain = priors.judge(spec, views_of("a red cat"), CAMERA)
    assert plain["pattern_share"] < 0.1 and plain["pattern_shown"] == 0
    assert plain["pattern_psnr"] < shown["pattern_psnr"] - 8


def test_variants_start_alike_and_differ_as_said(tmp_path):
    config = config_of("ablation.prior_steps=7")
    specs = priors.judged_specs(config)
    assert [s.form == "pattern" for s in specs] == [False, False, True, True]
    conditions = {c.name: c for table in priors.TABLES for c in table.conditions}
    variants = {n: priors.variant(c, config, tmp_path, tmp_path / "p", specs) for n, c in conditions.items()}
    assert len(variants) == 7
    baseline = flatten(variants["inflated"].config)
    assert baseline["train.steps"] == 7 and baseline["train.start_from"] == str(tmp_path / "p")
    changed = {name: {k: v for k, v in flatten(v.config).items() if v != baseline[k]} for name, v in variants.items()}
    assert changed == {
        "inflated": {},
        "temporal": {"train.view_attention": ViewAttention.temporal},
        "none": {"train.view_attention": ViewAttention.none},
        "epipolar": {"train.view_attention": ViewAttention.epipolar},
        "spad": {"train.view_attention": ViewAttention.spad},
        "camera-on-text": {"train.camera_input": CameraInput.text},
        "without-2d-data": {"train.multiview_probability": 1.0},
    }


def test_a_failed_prior_is_told_by_the_tables_that_show_it(tmp_path, monkeypatch):
    """All are trained at the first table; what failed there is tried again when its own is made, and told once."""

    def fails(function, todo, config, chunk):
        yield from (Outcome(job, None, "no memory" if job.condition == "without-2d-data" else "") for job in todo)

    monkeypatch.setattr(jobs, "outcomes", fails)
    monkeypatch.setattr(priors, "train_start", lambda config, run: tmp_path / "start")
    config = config_of("ablation.only=[camera,data]", f"output_root={tmp_path}")
    with open_run(tmp_path / "run", config) as run:
        told = {t.name: priors.measure(t, config, run).failures for t in priors.TABLES[1:]}
    assert told == {"camera": (), "data": ("data: without-2d-data: no memory",)}


@pytest.mark.slow
def test_priors_of_all_tables_are_trained_together_once_and_judged(tmp_path, monkeypatch, capsys):
    train = ["vae_steps=1", "vae_batch=4", "batch_objects=1", "num_objects=2", "num_patterned_images=2"]
    train += ["render_workers=1", "sample_every=100", "warmup_steps=1"]
    settings = [f"train.{word}" for word in train]
    settings += ["ablation.only=[camera,data]", "ablation.prompts=1", "ablation.base_steps=1", "ablation.prior_steps=1"]
    config = config_of(*settings, "views.num_inference_steps=1", f"output_root={tmp_path}")
    with open_run(tmp_path / "run", config) as run:
        results = ablation.run(config, run)
        printed = capsys.readouterr().out
        assert "camera: 3 priors to train and judge, 0 there" in printed
        assert "data: 0 priors to train and judge, 3 there" in printed
        monkeypatch.setattr(priors.train_prior, "run", None)  # a second time nothing is trained
        again = ablation.run(replace(config, ablation=replace(config.ablation, only=("data", "camera"))), run)
    table = json.loads((tmp_path / "run/results.json").read_text())["tables"][1]
    assert again.keys() == results.keys()
    (held, patterned) = (spec.caption for spec in priors.judged_specs(config))
    for name in ("inflated", "camera-on-text"):
        prompts = table["conditions"][name]["prompts"]
        assert prompts[held]["psnr"] > 0 and prompts[patterned]["pattern_psnr"] > 0
        unet = MultiViewPrior.from_pretrained(tmp_path / f"run/priors/{name}/prior").unet
        assert unet.config.camera_input == ("timestep" if name == "inflated" else "text")
    start = MultiViewPrior.from_pretrained(tmp_path / "run/priors/start-2d/prior-2d").unet
    assert start.class_embedding is None
    # one step with a learning rate that has hardly begun: the variants are still almost what they started from
    near = (unet.conv_in.weight - start.conv_in.weight).abs().max()
    assert 0 < near < 0.01 * start.conv_in.weight.abs().max()


def test_a_scene_that_goes_on_has_no_seconds(tmp_path, stubbed):
    config = config_of("ablation.prompts=1")
    (job,) = jobs_of([scenes.TABLES[0].conditions[0]], config, tmp_path)
    for step, is_known in ((0, True), (1, False)):  # the second one begins with a checkpoint
        if step:
            save_checkpoint(job.folder / "checkpoints", step, {"scene.x": torch.zeros(1)}, {})
        scenes.optimize_and_compare(job)
        score = json.loads((job.folder / "score.json").read_text())
        assert [score[name] is not None for name in ("cpu_seconds", "optimize_seconds")] == [is_known] * 2


def test_tables_of_the_recipe_tell_surfaces_and_what_optimising_took(tmp_path, stubbed, monkeypatch):
    config = load_config("eval-recipe-mini.yaml", [*TINY, "ablation.only=[recipe]", "ablation.prompts=1"])
    for table in recipes.TABLES:
        for condition in table.conditions:
            validate(with_settings(config, condition.settings))
    recipe, quick = load_config("mvdream-mini.yaml"), load_config("mvdream-mini-quick.yaml")
    assert replace(with_settings(recipe, recipes.QUICK), preview_every=10) == quick
    monkeypatch.setattr(recipes, "surface_figures", lambda scene, truth, config: {"chamfer": 0.125, "normals": 7.5})
    clock = iter(range(0, 1000, 3))  # each look at it is three seconds later
    monkeypatch.setattr(scenes.time, "process_time", lambda: next(clock))
    with open_run(tmp_path, config) as run:
        results = ablation.run(config, run)
    (table,) = json.loads(results["figures"].read_text())["tables"]
    assert list(table["conditions"]) == ["recipe", "quick"]
    for condition in table["conditions"].values():
        (figures,) = condition["prompts"].values()
        assert (figures["chamfer"], figures["normals"], figures["optimize_seconds"]) == (0.125, 7.5, 3)
        assert figures["psnr"] > 20
    assert "Priors:" not in results["tables"].read_text()


def test_what_is_judged_is_drawn_as_the_settings_say(tiny_prior):
    prior = MultiViewPrior.from_pretrained(tiny_prior)
    settings = {"num_inference_steps": 2, "guidance_scale": 5.0, "rescale": 1.0, "sampler": Sampler.dpm}
    config = load_config("views-mini.yaml", ["negative_prompt=a red cat", "allow_unknown_words=true"])
    config = replace(config, views=replace(config.views, **settings))
    cameras = viewing_cameras(config.camera, [0, 90], 15, 16)
    drawn = priors.drawing(prior, config)(["a red cat"], cameras, generator(0, 0, "judged"))
    settings |= {"negative_prompt": "a red cat"}
    expected = sample_views(prior, ["a red cat"], cameras, generator(0, 0, "judged"), **settings)
    assert np.array_equal(drawn[0], expected.movedim(1, -1).numpy())
