"""The nine inputs: as the public API documents them, and the same wherever they appear."""

import ast
import inspect
import math
import sys
from dataclasses import MISSING, fields
from pathlib import Path

import numpy as np
import pytest

from threedgen.config.load import load_config, to_yaml
from threedgen.config.sampling import Sampler, ViewsConfig
from threedgen.config.schema import Config
from threedgen.config.views import INPUTS, MINI_SIZE, ViewInputs, drawn_size, openapi_schema
from threedgen.core.errors import ConfigError

PREDICT = Path(__file__).parent.parent.parent / "predict.py"
# MVDream's public API: name, type, default, range, choices
API = [
    ("prompt", str, MISSING, None, ()),
    ("image_size", int, 256, None, (128, 256, 512, 1024)),
    ("num_frames", int, 4, (1, 32), ()),
    ("num_inference_steps", int, 50, (1, 500), ()),
    ("guidance_scale", float, 7.5, (1, 50), ()),
    ("camera_elevation", float, 15.0, (0, 90), ()),
    ("camera_azimuth", float, 90.0, (0, 360), ()),
    ("camera_azimuth_span", float, 360.0, (0, 360), ()),
    ("seed", int, None, None, ()),
]
NUMBERS = [row for row in API if row[3]]


def test_the_specification_is_the_public_api():
    assert [(i.name, i.kind, i.default, i.limits, i.choices) for i in INPUTS.values()] == API
    assert all(entry.help for entry in INPUTS.values())


def test_the_recipes_have_them():
    in_recipes = {entry.name: entry.default for entry in fields(ViewsConfig)}
    assert in_recipes.pop("guidance_range") == (0, 1)
    assert in_recipes.pop("rescale") == 0 and in_recipes.pop("sampler") is Sampler.ddim
    assert in_recipes.pop("joint") is MISSING and "joint" not in ViewsConfig().inputs()  # a section, not an input
    assert not in_recipes.pop("transparent") and not in_recipes.pop("image_pinned")
    assert in_recipes == {name: default for name, _, default, _, _ in API if name not in ("prompt", "seed")}
    assert {"prompt", "seed"} <= {entry.name for entry in fields(Config)}


def test_the_pipeline_has_them():
    from threedgen.diffusion.pipeline import MultiViewPipeline

    arguments = list(inspect.signature(MultiViewPipeline.__call__).parameters.values())[1:]
    found = [(a.name, MISSING if a.default is a.empty else a.default) for a in arguments[: len(API)]]
    assert found == [(name, default) for name, _, default, _, _ in API]
    annotations = {"str": str, "int": int, "float": float, "int | None": int}
    assert [annotations[a.annotation] for a in arguments[: len(API)]] == [row[1] for row in API]
    ours = {a.name: a.default for a in arguments[len(API) :]}
    expected = {
        "negative_prompt": "",
        "rescale": 0.0,
        "sampler": Sampler.ddim,
        "guidance_range": (0.0, 1.0),
        "allow_unknown_words": False,
        "image": None,
        "image_pinned": False,
    }
    assert ours == expected


def test_the_service_has_them_as_literals():
    # read as Cog's builder reads it: without running it
    tree = ast.parse(PREDICT.read_text("utf-8"))
    (run,) = (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == "run")
    names = {"str": str, "int": int, "float": float, "Optional[int]": int}
    for argument, call, entry in zip(run.args.args[1:], run.args.defaults, INPUTS.values(), strict=True):
        assert isinstance(call, ast.Call) and ast.unparse(call.func) == "Input"
        stated = {word.arg: ast.literal_eval(word.value) for word in call.keywords}
        expected = {"description": entry.help}
        if entry.default is not MISSING:
            expected["default"] = entry.default
        if entry.limits:
            expected["ge"], expected["le"] = entry.limits
        if entry.choices:
            expected["choices"] = list(entry.choices)
        if entry.kind is str:
            expected["min_length"] = 1
        assert (argument.arg, names[ast.unparse(argument.annotation)]) == (entry.name, entry.kind)
        assert stated == expected


def test_the_schema_has_them():
    schema = openapi_schema()["components"]["schemas"]["Input"]
    types = {str: "string", int: "integer", float: "number"}
    assert schema["required"] == ["prompt"]
    assert list(schema["properties"]) == [row[0] for row in API]
    for order, (name, kind, default, limits, choices) in enumerate(API):
        found = schema["properties"][name]
        assert found["x-order"] == order
        assert found["type"] == ([types[kind], "null"] if name == "seed" else types[kind])
        assert found.get("default", MISSING) == default
        assert (found.get("minimum"), found.get("maximum")) == (limits or (None, None))
        assert tuple(found.get("enum", ())) == choices
    assert schema["properties"]["prompt"]["minLength"] == 1
    output = openapi_schema()["components"]["schemas"]["Output"]
    assert output["required"] == ["images", "camera_matrices", "azimuth_angles"]


@pytest.mark.parametrize(("name", "kind", "default", "limits", "choices"), NUMBERS)
def test_both_ends_of_a_range_are_allowed_and_nothing_beyond(name, kind, default, limits, choices):
    step = 1 if kind is int else 1e-3
    for value in limits:
        assert INPUTS[name].check(value) == value and type(INPUTS[name].check(value)) is kind
        assert getattr(load_config(None, [f"views.{name}={value}"]).views, name) == value
    for value in (limits[0] - step, limits[1] + step, math.nan, math.inf, "4", True, None):
        with pytest.raises(ConfigError) as caught:
            INPUTS[name].check(value)
        assert str(caught.value).startswith(f"{name}={value!r}: must be ")
        assert str(caught.value).endswith(f"between {limits[0]} and {limits[1]}")
    with pytest.raises(ConfigError, match=rf"views\.{name}=.* \(on the command line\): must be .*between"):
        load_config(None, [f"views.{name}={limits[1] + 1}"])


def test_whole_numbers():
    assert INPUTS["num_frames"].check(4.0) == 4 and type(INPUTS["num_frames"].check(np.int64(4))) is int
    for value in (4.5, "4", np.float32(4.5), [4]):
        with pytest.raises(ConfigError, match="a whole number between 1 and 32"):
            INPUTS["num_frames"].check(value)
    for seed in (0, -3, 2**70, None):
        assert INPUTS["seed"].check(seed) == seed
    for seed in (1.5, "1", math.inf):
        with pytest.raises(ConfigError, match=r"^seed=.*: must be a whole number$"):
            INPUTS["seed"].check(seed)


@pytest.mark.parametrize("prompt", ["", "  \n", None, 3])
def test_a_prompt_must_say_something(prompt):
    with pytest.raises(ConfigError, match=r"^prompt=.*: must be text that is not blank"):
        ViewInputs(prompt=prompt).checked()


def test_image_size_is_one_of_the_api_s_or_the_model_s_own():
    full, mini = 256, MINI_SIZE
    for own, allowed in ((full, [128, 256, 512, 1024]), (mini, [64, 128, 256, 512, 1024])):
        assert [size for size in range(1, 1100) if not INPUTS["image_size"].problem(size, own)] == allowed
        with pytest.raises(ConfigError, match=f"^image_size=300: must be one of {', '.join(map(str, allowed))}$"):
            ViewInputs(prompt="a cat", image_size=300).checked(own)
    with pytest.raises(ConfigError, match="must be one of 64, 128, 256, 512, 1024"):
        load_config(None, ["views.image_size=300"])
    assert load_config(None, ["views.image_size=64"]).views.image_size == 64
    # the full-size model draws at each, the mini model at its own
    assert [drawn_size(size, full) for size in (128, 256, 512, 1024)] == [128, 256, 512, 1024]
    assert [drawn_size(size, mini) for size in (64, 128, 1024)] == [64, 64, 64]


def test_a_random_seed_is_drawn_once_and_kept_in_the_saved_config(tmp_path):
    configs = [load_config(None, ["seed=random"]) for _ in range(2)]
    assert configs[0].seed != configs[1].seed  # 2**32 to choose from
    assert all(0 <= config.seed < 2**32 for config in configs)
    (tmp_path / "config.yaml").write_text(to_yaml(configs[0]), "utf-8")
    assert load_config(tmp_path / "config.yaml") == configs[0]
    (tmp_path / "recipe.yaml").write_text("seed: random\n")
    assert load_config(tmp_path / "recipe.yaml").seed != load_config(tmp_path / "recipe.yaml").seed
    assert load_config(tmp_path / "recipe.yaml", ["seed=5"]).seed == 5
    with pytest.raises(ConfigError, match="expected a whole number or random, got 'rondom'"):
        load_config(None, ["seed=rondom"])


def test_importing_the_package_imports_no_torch():
    import subprocess

    code = "import sys, threedgen; assert 'torch' not in sys.modules; threedgen.MultiViewPipelin"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PREDICT.parent)
    assert "AttributeError: module 'threedgen' has no attribute 'MultiViewPipelin'" in result.stderr


def test_the_page_on_serving_has_them():
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in (PREDICT.parent / "docs" / "howto" / "serve.md").read_text("utf-8").splitlines()
        if line.startswith("| `") and line.count("|") == 5
    ]
    assert [row[0] for row in rows] == [f"`{name}`" for name in INPUTS]
    for (_, default, allowed, meaning), entry in zip(rows, INPUTS.values(), strict=True):
        assert default == ("" if entry.default in (MISSING, None) else str(entry.default))
        assert meaning == entry.help
        if entry.limits:
            assert allowed == f"{entry.limits[0]} to {entry.limits[1]}"
        if entry.choices:
            assert allowed == ", ".join(map(str, entry.choices))
