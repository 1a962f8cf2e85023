"""`benchmarks/dense_priors.py` and what it shares with others: kept figures, tables, rows that begin alike."""

from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch

from threedgen.config.load import load_config
from threedgen.core.errors import ConfigError, ThreedgenError
from threedgen.diffusion.prior import MultiViewPrior
from threedgen.tasks.dense_views import dense_pipeline
from threedgen.tasks.feed_forward import FeedForward

CAPTION = "a red cat with a green face"
QUICK = [
    "views.num_frames=4",
    "gaussians.input_views=4",
    "views.num_inference_steps=4",
    "aware.every=0",
]  # timesteps 751, 501, 251, 1


@pytest.fixture(scope="module")
def shared(load_benchmark):
    return load_benchmark("priors_compared")


@pytest.fixture(scope="module")
def dense(load_benchmark):
    return load_benchmark("dense_priors")


def specs(*captions):
    return [SimpleNamespace(caption=caption) for caption in captions]


def counted(shared, drawn, value, **of):
    """A row whose pictures are of one value; what it draws is noted."""

    def draw(number, caption):
        drawn.append((value, caption))
        return np.full((3, 2, 2, 3), value + number)

    return shared.Condition(of, draw)


def brightness(name, number, views):
    return {"value": float(views.mean())}


def test_what_is_kept_is_not_measured_again_and_other_settings_are_other_rows(shared, tmp_path):
    path, drawn = tmp_path / "kept.json", []
    rows = {"a": counted(shared, drawn, 1.0, scale=2), "b": counted(shared, drawn, 5.0, scale=(3, 4))}
    shared.measured({"a": rows["a"]}, specs("x", "y", "z"), brightness, shared.Kept(path), False)
    shared.measured(rows, specs("x"), brightness, shared.Kept(path), False)
    assert drawn == [(1.0, "x"), (1.0, "y"), (1.0, "z"), (5.0, "x")]

    found, _ = shared.measured(rows, specs("x", "y", "z"), brightness, shared.Kept(path), True)
    assert found == {"a": [{"value": 1.0}], "b": [{"value": 5.0}]} and len(drawn) == 4  # what both have, none drawn
    found, pictures = shared.measured(rows, specs("x", "y", "z"), brightness, shared.Kept(path), False)
    assert [f["value"] for f in found["a"]] == [1, 2, 3] and [f["value"] for f in found["b"]] == [5, 6, 7]
    assert [label for label, _ in pictures] == ["y: b", "z: b"]

    changed = {"a": counted(shared, drawn, 1.0, scale=2.5)}
    assert shared.measured(changed, specs("x"), brightness, shared.Kept(path), True)[0] == {"a": []}


def test_a_file_of_something_else_is_refused_and_left_as_it_is(shared, tmp_path):
    path = tmp_path / "kept.json"
    for text in ('{"truth": [{"value": 1}]}', "not JSON"):
        path.write_text(text)
        with pytest.raises(ThreedgenError, match=r"kept.json holds no figures that this command kept"):
            shared.Kept(path)
        assert path.read_text() == text


def test_tables_of_means_and_of_differences(shared):
    columns = {"a": ("A", 1), "b": ("B", 2)}
    found = {
        "new": [{"a": 3.0 + i, "b": 1.0} for i in range(8)],
        "old": [{"a": 2.0 + i, "b": None} for i in range(8)],
        "none": [{"a": None, "b": None}] * 8,
    }
    assert shared.table(found, columns).splitlines() == ["| | A | B |", "|---|---|---|", "| new | 6.5 | 1.00 |",
                                                         "| old | 5.5 |  |"]  # fmt: skip

    def row():
        return shared.differences(found, columns, [("new", "old")]).splitlines()[2]

    assert row() == "| new - old | **+1.0 [+1.0, +1.0]** |  |"
    found["old"] = [{"a": 2.0 + i + (-3.0) ** (i % 2 + 1), "b": 1.0} for i in range(8)]
    assert row().startswith("| new - old | -2.0 [") and row().endswith("| +0.00 [+0.00, +0.00] |")


def test_rows_begin_alike_and_their_views_are_those_that_the_command_draws(dense):
    """Four steps are asked of the network for the plain row, and one more for the row that leaves it at the third."""
    configs = [load_config(dense.RECIPE, [*QUICK, aware]) for aware in ("aware.steps=[]", "aware.steps=[2]")]
    calls = []
    hook = dense.prior_of("mini-video").unet.register_forward_pre_hook(lambda *_: calls.append(1))
    rows = [dense.sampled(config) for config in configs]
    views = [row.draw(7, CAPTION) for row in rows]
    assert len(calls) == 5
    other = rows[0].draw(7, "a blue duck with a green face")
    hook.remove()
    assert len(calls) == 9 and np.abs(other - views[0]).max() > 0.1  # the same noise, but nothing is remembered of it

    prior = MultiViewPrior.from_pretrained("mini-video")
    for config, drawn in zip(configs, views, strict=True):
        pipeline = dense_pipeline(prior, FeedForward.of(config, torch.device("cpu")), config)
        assert (pipeline(CAPTION, **config.views.inputs(), seed=7).drawn.movedim(1, -1).numpy() == drawn).all()
    assert np.abs(views[0] - views[1]).max() > 0.01


def test_a_row_is_found_by_all_that_changes_its_views(dense):
    def of(*settings):
        return dense.sampled(load_config(dense.RECIPE, [*dense.SAMPLING, *settings])).of

    assert of() == of(dense.PLAIN, "aware.every=5") != of("aware.steps=[10, 15]")
    changes = ("aware.blend=0.5", "aware.guidance=latents", "aware.steps=[]", "gaussians.input_views=4",
               "views.guidance_scale=2.5", "views.num_inference_steps=24", "views.rescale=0.5")  # fmt: skip
    assert len({str(of(change)) for change in changes} | {str(of())}) == len(changes) + 1
    plain = of("aware.steps=[]")
    assert "aware" not in plain and plain["prior"] == "a917e82c+9570e4ea+56a774ef+9b51477c"  # of the model cards
    assert of("aware.steps=[]", "views.sampler=dpm") != plain != of("aware.steps=[]", "weights=mini")


def test_weights_are_told_by_all_their_files_and_by_what_they_share_with_others(shared):
    parts = shared.fingerprint("mini-video-i2v").split("+")
    assert set(shared.fingerprint("mini-video").split("+")) < set(parts) and len(parts) == len(set(parts))
    assert shared.fingerprint("mini-video", "gaussians") == "72be15aa"  # of the model card


def test_tables_hold_what_their_rows_are_compared_by(dense):
    for table in (*dense.TABLES.values(), dense.Table.joined(["priors", "aware"])):
        assert {name for pair in table.compared for name in pair} == set(table.rows)
        for settings in table.rows.values():
            load_config(dense.RECIPE, [*dense.SAMPLING, *settings])
    table = dense.TABLES["priors"].only(["video", "3D-aware"]).beside(["aware.blend=0.5 views.guidance_scale=2"])
    assert table.compared == (("3D-aware", "video"), ("aware.blend=0.5 views.guidance_scale=2", "video"))
    assert table.rows["aware.blend=0.5 views.guidance_scale=2"] == ("aware.blend=0.5", "views.guidance_scale=2")
    with pytest.raises(ConfigError, match="there is no 'vidoe' among four views, video, 3D-aware, the recipe"):
        dense.TABLES["priors"].only(["vidoe"])
    with pytest.raises(ConfigError, match="there is no table 'prior' among priors, "):
        dense.Table.joined(["prior"])


@pytest.mark.parametrize("word", ["negative_prompt=ugly", "camera.fov_y_deg_range=[50,50]", "views.camera_azimuth=0"])
def test_a_row_cannot_set_what_it_would_not_follow(dense, word):
    """Its views would be found among those of another row, or seen from elsewhere than the figures say."""
    with pytest.raises(ConfigError, match=f"--row {word.partition('=')[0]}.*: rows differ in weights, "):
        dense.TABLES["priors"].beside([f"aware.blend=0.5 {word}"])


@pytest.fixture(scope="module")
def pictured(load_benchmark):
    return load_benchmark("picture_priors")


def test_the_last_of_all_objects_is_shown_the_picture_of_the_first(pictured, monkeypatch):
    known, shown, opaque = [SimpleNamespace(caption=name) for name in "xy"], [], np.ones((24, 2, 2, 1))

    def pipeline(prior, forward, config):
        def draw(prompt, image, *, image_pinned, **inputs):
            seen = None if image is None else float(image.mean())
            shown.append((prompt, seen, bool(config.aware.every), image_pinned))
            return SimpleNamespace(drawn=torch.zeros(24, 3, 2, 2))

        return draw

    monkeypatch.setattr(pictured, "chosen", lambda count: known[:count])
    monkeypatch.setattr(pictured, "build", lambda spec, random=None: known.index(spec))
    monkeypatch.setattr(
        pictured,
        "true_views",
        lambda number, cameras: SimpleNamespace(rgb=np.full((24, 2, 2, 3), number + 1.0), opacity=opaque),
    )
    monkeypatch.setattr(pictured, "dense_pipeline", pipeline)
    monkeypatch.setattr(pictured.FeedForward, "of", lambda config, device: MagicMock())
    for figures in ("figures", "figures_beside", "surface_figures"):
        monkeypatch.setattr(pictured, figures, lambda *_: dict.fromkeys(pictured.COLUMNS))
    monkeypatch.setattr(pictured, "fingerprint", lambda *_: "")
    monkeypatch.setattr(pictured.MultiViewPrior, "from_pretrained", lambda weights: None)
    given = SimpleNamespace(captions=2, steps=None, guidance=None, weights="mini-video-i2v", kept=False, out=None)
    pictured.compare(given, pictured.Kept(None))
    # caption, picture, both, another's, not 3D-aware, pinned
    expected = []
    for caption, its, others in (("x", 1, 2), ("y", 2, 1)):
        expected += [(caption, None, True, False), ("", its, True, False), (caption, its, True, False)]
        expected += [("", others, True, False), ("", its, False, False), ("", its, True, True)]
    assert shown == expected


def test_the_view_that_is_given_is_not_measured(pictured):
    rng = np.random.default_rng(0)
    truth = SimpleNamespace(rgb=rng.random((24, 64, 64, 3), np.float32), opacity=np.ones((24, 64, 64, 1)))
    views = truth.rgb + np.where((np.arange(24) % 20 < 5)[:, None, None, None], 0.1, 0.01).astype(np.float32)
    found = pictured.figures(views, truth)  # views 1 to 4 and 20 to 23 are near
    assert (found["near"], found["far"]) == (pytest.approx(20, abs=1e-3), pytest.approx(40, abs=1e-3))
    views[0] = 0
    assert pictured.figures(views, truth) == found
