"""Recipes, key=value words, their errors, and prompts that no parser may touch."""

import re
import typing
from dataclasses import replace
from pathlib import Path

import pytest

from threedgen.config.guidance import GuidanceLoss
from threedgen.config.limits import LIMITS, flatten, validate
from threedgen.config.load import all_recipes, config_name, find_config, load_config, to_yaml
from threedgen.config.scene import BackendName
from threedgen.config.schedules import Schedule
from threedgen.config.schema import Config, Task
from threedgen.core.errors import ConfigError

HOSTILE_PROMPTS = [
    "a #cat",
    "# a cat",
    "a cat # and a dog",
    "a: b",
    "- a",
    "{a: 1}",
    "[1, 2]",
    "${oc.env:HOME}",
    "${seed} cats",
    "\\${seed}",
    "???",
    "yes",
    "null",
    "~",
    "true",
    "1e5",
    "007",
    "2024-01-01",
    "'single' \"double\"",
    "back\\slash \\n",
    "=leading",
    "a=b=c",
    "  blanks around  ",
    " ",
    "tab\there",
    "line\nbreak",
    "line\r\nbreak\n",
    "\n\nlines\n\n",
    "emoji 😀 猫 é e\u0301",
    "zero\u200bwidth \u2028 \u2029 \x85 \ufeff",
    "bell \x07 escape \x1b delete \x7f",
    "%TAG !x",
    "&anchor *alias !!python/name:os.system",
    "| ",
    "> folded",
    "---",
    "...",
    "?",
    "@at `tick`",
    "../../etc/passwd",
    "x" * 5000,
    "word " * 200,
]


def write(folder: Path, text: str, name: str = "recipe.yaml") -> Path:
    path = folder / name
    path.write_text(text, "utf-8")
    return path


def error_of(*arguments) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.exit_status == 2
    return message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["task=train_prior", "weights=a/folder"],
            "weights='a/folder' (on the command line): task train_prior does not read it: set train.start_from",
        ),
        (["task=train_prior", "steps=400"], "set train.steps"),
        (["task=train_gaussians", "checkpoint_every=10"], "set train.checkpoint_every"),
        (["task=train_gaussians", "preview_every=10"], "set train.sample_every"),
        (
            ["aware.every=5"],
            "aware.every=5 (on the command line): task generate has no 3D-aware steps; dense_views has",
        ),
        (
            ["task=generate", "views.image_pinned=true"],
            "task generate draws no views beside a picture; dense_views does",
        ),
        (["task=sample_views", "aware.steps=[10,20]"], "aware.steps=[10, 20] (on the command line): task sample_views"),
    ],
)
def test_settings_of_other_tasks_that_would_be_ignored(words, message):
    assert message in error_of(None, words)
    load_config(None, ["task=train_gaussians", "weights=mini-video"])
    load_config(None, ["task=dense_views", "aware.every=5", "views.image_pinned=true"])


def test_what_a_run_has_ignored_so_far_it_goes_on_to_ignore(tmp_path):
    """Its config.yaml may be of a time when that was not refused; the same in a recipe is, and so is a new word."""
    text = "task: train_prior\nweights: a/folder\nsteps: 400\nimage: a.png\naware: {every: 5}\n"
    saved = write(tmp_path, text + "train: {network: video, view_attention: none}\n", "config.yaml")
    assert "weights='a/folder'" in error_of(saved)
    (tmp_path / "events.jsonl").touch()
    config = load_config(saved, ["train.steps=7"])
    assert (config.weights, config.steps, config.train.steps) == ("a/folder", 400, 7)
    assert "steps=500 (on the command line): task train_prior does not read it" in error_of(saved, ["steps=500"])
    assert "weights='b' (on the command line): task" in error_of(saved, ["weights=b"])


def test_no_recipe_gives_the_schemas_defaults():
    assert load_config(None, []) == Config()


def test_recipe_then_command_line(tmp_path):
    recipe = write(
        tmp_path,
        "# a recipe\ntask: evaluate\nsteps: 300\nguidance:\n  loss: sds\n  max_timestep: {start: 0.99, end: 0.4}\n"
        "camera:\n  distance_range: [1, 1.5]\noptimizer:\n  eps: 1e-8\nallow_unknown_words: true\n",
    )
    config = load_config(recipe, ["steps=40", "eval.views=[4, 2, 1]", "seed=-3", "steps=50", "weights=x y"])
    assert config.task is Task.evaluate
    assert config.steps == 50
    assert config.guidance.loss is GuidanceLoss.sds
    assert config.guidance.max_timestep == Schedule(0.99, 0.4, 0.0, 0.8)
    assert config.camera.distance_range == (1.0, 1.5)
    assert config.eval.views == (4, 2, 1)
    assert (config.optimizer.eps, config.seed, config.weights, config.allow_unknown_words) == (1e-8, -3, "x y", True)
    assert config.scene == Config().scene


def test_values_have_the_schemas_types(tmp_path):
    config = load_config(None, ["scene.radius=2", "camera.distance_range=[1,2]"])
    assert type(config.scene.radius) is float
    assert type(config.camera.distance_range) is tuple
    with pytest.raises(ConfigError):
        load_config(None, ["eval.views=[7, x]"])
    assert load_config(None, ["eval.views=[5]"]).eval.views == (5,)  # of values before nothing is left
    assert {type(number) for number in config.camera.distance_range} == {float}


def test_a_word_that_was_renamed_is_still_read(tmp_path):
    (tmp_path / "old.yaml").write_text("num_threads: 3\n")
    assert load_config(tmp_path / "old.yaml").runtime.threads == 3
    config = load_config(tmp_path / "old.yaml", ["runtime.threads=4", "num_threads=2"])
    assert config.runtime.threads == 2 and "num_threads" not in to_yaml(config)


def test_an_empty_recipe_is_the_defaults(tmp_path):
    assert load_config(write(tmp_path, "# nothing yet\n"), []) == Config()


# ---------------------------------------------------------------- prompts


@pytest.mark.parametrize("prompt", HOSTILE_PROMPTS)
def test_prompt_from_the_command_line_is_taken_byte_for_byte(prompt, monkeypatch):
    monkeypatch.setenv("HOME", "/secret")
    config = load_config(None, [f"prompt={prompt}", f"negative_prompt={prompt}", f"output_root={prompt}"])
    assert config.prompt == config.negative_prompt == config.output_root == prompt


@pytest.mark.parametrize("prompt", HOSTILE_PROMPTS)
def test_saved_config_is_read_back_exactly(prompt, tmp_path):
    config = load_config(None, [f"prompt={prompt}", f"weights={prompt}", "task=sample_views", "eval.views=[2]"])
    recipe = tmp_path / "config.yaml"
    recipe.write_bytes(to_yaml(config).encode("utf-8"))
    assert load_config(recipe, []) == config


@pytest.mark.parametrize("text", ["yes", "null", "1e5", "2024-01-01", "${oc.env:HOME}", "0x10", "~", "???"])
def test_plain_text_in_a_recipe_is_not_interpreted(text, tmp_path):
    assert load_config(write(tmp_path, f"prompt: {text}\n"), []).prompt == text


def test_every_default_and_odd_number_survives_to_yaml(tmp_path):
    config = load_config(None, ["optimizer.eps=1.2345678901234567e-15", "seed=123456789012345678901", "train.lr=5e-5"])
    assert load_config(write(tmp_path, to_yaml(config)), []) == config


def test_a_path_from_the_home_folder_on_is_found_there(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("output_root: ~/runs\ntrain:\n  start_from: ~/weights\nprompt: ~/a cat\n")
    config = load_config(recipe, ["data=a/~/pictures"])
    assert config.output_root == f"{tmp_path}/runs"
    assert config.train.start_from == f"{tmp_path}/weights"
    assert (config.prompt, config.data) == ("~/a cat", "a/~/pictures")


def test_a_prompt_must_be_utf8():
    assert error_of(None, ["prompt=a\udcffcat"]).startswith("prompt")


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("word", "suggestion"),
    [
        ("guidence_scale=5", "guidance.guidance_scale"),
        ("guidance_scale=5", "guidance.guidance_scale"),
        ("guidance.guidence_scale=5", "guidance.guidance_scale?"),
        ("guidence.guidance_scale=5", "guidance.guidance_scale?"),
        ("guidance.num_views=1", "camera.num_views?"),
        ("promt=a cat", "prompt?"),
        ("Prompt=a cat", "prompt?"),
        ("scene.grid.nlevels=3", "scene.grid.num_levels?"),
        ("stps=3", "steps"),
        ("scen.radius=3", "scene.radius?"),
    ],
)
def test_typo_on_the_command_line(word, suggestion):
    message = error_of(None, [word])
    assert repr(word.split("=")[0]) in message
    assert "on the command line" in message
    assert f"did you mean {suggestion}" in message


def test_a_density_for_the_surface_of_a_distance_is_refused():
    message = error_of("mvdream-mini.yaml", ["scene.geometry=sdf", "export.threshold=5"])
    assert "export.threshold=5.0 (on the command line)" in message and "scene.geometry=sdf" in message
    load_config("mvdream-mini.yaml", ["scene.geometry=sdf"])


@pytest.mark.parametrize("word", ["train.view_attention=temporal", "train.camera_input=text"])
def test_what_a_video_network_has_no_use_for_is_refused(word):
    assert load_config(None, [word]).train.network.name == "multiview"
    said = error_of(None, ["train.network=video", word])
    assert said.startswith(word) and "train.network=video" in said and "\n" not in said
    defaults = ["train.view_attention=inflated", "train.camera_input=timestep"]
    assert load_config(None, ["train.network=video", *defaults]).train.network.name == "video"


def test_nothing_like_it_gives_no_wild_guess():
    assert "did you mean" not in error_of(None, ["zzzzqqqq=1"])


def test_typo_in_a_recipe_names_file_and_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "# comment\nsteps: 3\nguidance:\n  rescale: 0.5\n  guidence_scale: 5\n")
    message = error_of("recipe", [])
    assert "'guidance.guidence_scale' (recipe.yaml:5)" in message
    assert "did you mean guidance.guidance_scale?" in message


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("steps=many", "steps (on the command line): expected a whole number, got 'many'"),
        ("steps=1.5", "expected a whole number, got '1.5'"),
        ("steps=true", "expected a whole number, got 'true'"),
        ("steps=", "expected a whole number, got ''"),
        ("steps=${seed}", "expected a whole number, got '${seed}'"),
        ("steps=???", "expected a whole number, got '???'"),
        ("steps=[1]", "expected a whole number, got '[1]'"),
        ("scene.radius=${oc.env:HOME}", "expected a number"),
        ("allow_unknown_words=perhaps", "expected true or false, got 'perhaps'"),
        ("guidance.loss=sdz", "expected one of reconstruction, sds, got 'sdz'"),
        ("camera.distance_range=1", "expected 2 numbers in brackets, such as [1, 2], got '1'"),
        ("camera.distance_range=[1]", "expected 2 numbers in brackets"),
        ("camera.distance_range=[1, 2, 3]", "expected 2 numbers in brackets"),
        ("camera.distance_range=[a, 2]", "got [a, 2]"),
        ("camera.distance_range=[${seed}, 2]", "expected 2 numbers"),
        ("camera.distance_range=[1, [2]]", "a list of other lists"),
        ("camera.distance_range=[1, 2", "expected 2 numbers in brackets"),
        ("eval.views=[1.5]", "expected a list of whole numbers"),
        ("guidance=5", "is a section"),
        ("a cat", "is not key=value"),
    ],
)
def test_wrong_type_on_the_command_line(word, expected):
    assert expected in error_of(None, [word])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("steps: many\n", "steps (recipe.yaml:1): expected a whole number, got 'many'"),
        ("\nsteps: [1]\n", "steps (recipe.yaml:2): expected a whole number, got a sequence"),
        ("camera: 5\n", "recipe.yaml:1: camera must hold"),
        ("- steps\n", "recipe.yaml:1: a recipe must hold"),
        ("prompt: [a, b]\n", "prompt (recipe.yaml:1): expected text, got a sequence"),
        ("prompt: {a: b}\n", "prompt (recipe.yaml:1): expected text, got a mapping"),
        ("steps: 1\nseed: 1\nsteps: 2\n", "recipe.yaml:3: steps is already set in line 1"),
        ("steps: 'unclosed\n", "is not YAML"),
        ("a: b: c\n", "recipe.yaml:1: is not YAML"),
        ("steps: !!python/name:os.system 5\n0: 1\n", "unknown setting '0' (recipe.yaml:2)"),
        ("? [a]\n: b\n", "recipe.yaml:1: a setting's name must be plain text"),
        ("steps: 0\n", "steps=0 (recipe.yaml:1): must be at least 1"),
    ],
)
def test_wrong_recipe(text, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, text)
    assert expected in error_of("recipe.yaml", [])


def test_a_recipe_that_is_no_text(tmp_path):
    (tmp_path / "recipe.yaml").write_bytes(b"\xff\xfe\x00prompt")
    assert "is not YAML text in UTF-8" in error_of(tmp_path / "recipe.yaml", [])


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("steps=0", "steps=0 (on the command line): must be at least 1"),
        ("camera.num_views=0", "between 1 and 64"),
        ("scene.background_random_probability=1.5", "between 0 and 1"),
        ("train.text_drop_probability=-0.1", "between 0 and 1"),
        ("guidance.rescale=nan", "finite number"),
        ("guidance.guidance_scale=inf", "finite number"),
        ("guidance.min_timestep.to_fraction=1.5", "between 0 and 1"),
        ("guidance.min_timestep.from_fraction=0.9", "must not be smaller than guidance.min_timestep.from_fraction"),
        (
            "guidance.min_timestep.end=0.7",
            "guidance.min_timestep: is 0.7, above guidance.max_timestep's 0.5, at fraction 0.8",
        ),
        ("camera.elevation_deg_range=[30, 0]", "first number must not be larger"),
        ("camera.elevation_deg_range=[0, 91]", "between -89.9 and 89.9"),
        ("camera.elevation_deg_range=[90, 90]", "between -89.9 and 89.9"),
        ("optimizer.betas=[0.9, 1]", "between 0 and"),
        ("eval.views=[]", "at least one"),
        ("eval.views=[4, 0]", "between 1 and 64"),
        ("train.render_workers=0", "between 1 and 1024"),
        ("image=photo.png", "task generate shows no picture to its model"),
        ("refine.weights=mini", "task generate refines by the prior that it has"),
        ("scene.grid.max_resolution=8", "must not be smaller than scene.grid.base_resolution"),
    ],
)
def test_impossible_values(word, expected):
    assert expected in error_of(None, [word])


def test_every_limit_is_of_an_existing_number_and_holds_for_the_defaults():
    flat = flatten(Config())
    for key in LIMITS:
        values = flat[key] if isinstance(flat[key], tuple) else (flat[key],)
        assert all(isinstance(value, (int, float)) for value in values)
    validate(Config())
    with pytest.raises(ConfigError, match="steps=-1: must be at least 1"):
        validate(replace(Config(), steps=-1))


def test_the_schema_has_no_field_that_swallows_typos():
    def walk(section):
        for declared in typing.get_type_hints(section).values():
            assert declared is not typing.Any
            assert (typing.get_origin(declared) or declared) is not dict
            if hasattr(declared, "__dataclass_fields__"):
                walk(declared)

    walk(Config)


# ---------------------------------------------------------------- finding recipes


def test_the_current_folder_comes_before_configs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    write(tmp_path / "configs", "steps: 1\n")
    assert find_config("recipe") == tmp_path / "configs" / "recipe.yaml"
    write(tmp_path, "steps: 2\n")
    for name in ("recipe", "recipe.yaml", tmp_path / "recipe.yaml"):
        assert load_config(name, []).steps == 2
    assert load_config("configs/recipe", []).steps == 1


def test_of_two_recipes_with_one_name_the_one_that_is_found_is_listed(tmp_path, monkeypatch):
    (tmp_path / "configs/a.yaml").mkdir(parents=True)  # no file
    ours = write(tmp_path / "configs", "", "mvdream-mini.yaml")
    monkeypatch.chdir(tmp_path)
    listed = all_recipes()
    assert listed["mvdream-mini.yaml"] == ours == find_config("mvdream-mini") and "views-mini.yaml" in listed
    assert "a.yaml" not in listed and list(listed) == sorted(listed)


def test_a_missing_recipe_names_a_near_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    write(tmp_path / "configs", "", "my-own-recipe.yaml")
    assert "did you mean my-own-recipe.yaml?" in error_of("my-own-recpie", [])
    assert "no recipe 'zzz'" in error_of("zzz", [])


def test_every_shipped_recipe_loads():
    for recipe in sorted(Path("configs").glob("*.yaml")):
        assert re.match(r"# \S.*\.\n", recipe.read_text("utf-8")), f"{recipe}: the first line says what it is for"
        load_config(recipe, [])


@pytest.mark.parametrize(
    ("training", "drawing"),
    [
        ("train-mini.yaml", "mvdream-mini.yaml"),
        ("train-video-clips-mini.yaml", "videomv-mini.yaml"),
        ("train-video-mini.yaml", "videomv-mini.yaml"),
        ("train-video-i2v-mini.yaml", "videomv-i2v-mini.yaml"),
    ],
)
def test_sample_sheets_of_a_training_are_guided_as_its_weights_are_drawn_with(training, drawing):
    scales = [load_config(name).views.guidance_scale for name in (training, drawing)]
    assert scales[0] == scales[1]


def test_config_name_is_safe_and_survives_a_run(tmp_path):
    assert config_name("configs/mvdream-mini.yaml") == "mvdream-mini"
    assert config_name("/a/b c;$(x)/we ird;.yaml") == "we-ird"
    assert config_name("....yaml") == "config"
    run = tmp_path / "mvdream-mini" / "a-cat-01234567"
    run.mkdir(parents=True)
    assert config_name(run / "config.yaml") == "config"  # just a file of that name
    (run / "events.jsonl").touch()
    assert config_name(run / "config.yaml") == "mvdream-mini"


def test_a_recipe_extends_another_and_changes_what_it_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.yaml").write_text("steps: 7\nseed: 5\ncamera:\n  num_views: 2\n")
    (tmp_path / "child.yaml").write_text("seed: 6\nextends: base.yaml\n")
    config = load_config("child")
    assert (config.steps, config.seed, config.camera.num_views) == (7, 6, 2)
    (tmp_path / "base.yaml").write_text("extends: child\n")
    with pytest.raises(ConfigError, match=r"extends child.yaml, which extends this recipe"):
        load_config("child")
    (tmp_path / "child.yaml").write_text("extends: nowhere\n")
    with pytest.raises(ConfigError, match="no recipe 'nowhere'"):
        load_config("child")
    (tmp_path / "child.yaml").write_text("extends: [base, other]\n")
    with pytest.raises(ConfigError, match=r"child.yaml:1: extends takes the name of one recipe"):
        load_config("child")


def test_the_backend_in_plain_torch_has_a_name_of_before(tmp_path):
    recipe = tmp_path / "old.yaml"
    recipe.write_text("scene: {backend: reference}\n")
    for config in (load_config(recipe), load_config(None, ["scene.backend=reference"])):
        assert config.scene.backend is BackendName.plain and config == load_config(None, ["scene.backend=plain"])
        assert "backend: plain" in to_yaml(config)
    with pytest.raises(ConfigError, match="one of auto, native, plain, nerfacc, tinycudann, gsplat, got 'refrence'"):
        load_config(None, ["scene.backend=refrence"])


def test_a_section_in_braces_is_read_as_in_a_recipe():
    config = load_config(None, ["refine.strength={start: 0.9, end: 0.4}", "guidance.joint={weights: own, mode: mix}"])
    assert (config.refine.strength.start, config.refine.strength.end) == (0.9, 0.4)
    assert config.guidance.joint.weights == "own"
    with pytest.raises(
        ConfigError, match=r"unknown setting 'refine.strength.stop' \(on the command line.*did you mean"
    ):
        load_config(None, ["refine.strength={stop: 0.9}"])
    with pytest.raises(ConfigError, match=r"refine.strength.start \(on the command line\): expected a number"):
        load_config(None, ["refine.strength={start: much}"])
    for broken in ("{start: 0.9", "{start: 0.9}}"):
        with pytest.raises(ConfigError, match=r"refine.strength \(on the command line\): .* write \{setting: value"):
            load_config(None, [f"refine.strength={broken}"])


def test_one_number_for_a_schedule_is_both_of_its_ends(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("refine:\n  strength: 0.6\nguidance:\n  max_timestep: {start: 0.9, end: 0.4}\n")
    config = load_config(recipe, ["guidance.min_timestep=0.1", "optimizer.lr_scale.end=0.5"])
    assert config.refine.strength == Schedule(0.6, 0.6)
    assert (config.guidance.min_timestep.start, config.guidance.min_timestep.end) == (0.1, 0.1)
    assert (config.guidance.max_timestep.start, config.guidance.max_timestep.end) == (0.9, 0.4)
    assert (config.optimizer.lr_scale.start, config.optimizer.lr_scale.end) == (1.0, 0.5)
    with pytest.raises(
        ConfigError, match=r"refine.strength.start \(on the command line\): expected a number, got 'much'"
    ):
        load_config(None, ["refine.strength=much"])
    with pytest.raises(ConfigError, match=r"recipe.yaml:2"):
        recipe.write_text("refine:\n  strength: 3\n")
        load_config(recipe)
