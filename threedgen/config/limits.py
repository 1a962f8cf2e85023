"""Which values make sense. Types are checked when a value is read (`load.py`); here are ranges and combinations."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from threedgen.config.schedules import value_at
from threedgen.config.schema import ABLATION_TABLES, Config
from threedgen.config.views import INPUTS, MINI_SIZE
from threedgen.core.errors import ConfigError

_INF = math.inf

# dotted key -> smallest and largest value, both allowed; for a tuple every element must lie between them
# (`views` has its own in views.py)
LIMITS: dict[str, tuple[float, float]] = {
    "num_threads": (0, 1024),
    "steps": (1, _INF),
    "checkpoint_every": (1, _INF),
    "preview_every": (1, _INF),
    "camera.num_views": (1, 64),
    "camera.sets_per_step": (1, 64),
    "camera.coarse_sets_per_step": (0, 64),
    "camera.resolution": (1, 8192),
    "camera.coarse_resolution": (1, 8192),
    "camera.coarse_fraction": (0, 1),
    "camera.fov_y_deg_range": (0.1, 179),
    "camera.distance_range": (1e-3, 1e6),
    "camera.elevation_deg_range": (-90, 90),
    "scene.grid.num_levels": (1, 64),
    "scene.grid.num_features": (1, 64),
    "scene.grid.log2_table_size": (1, 30),
    "scene.grid.base_resolution": (2, 65536),
    "scene.grid.max_resolution": (2, 1 << 20),
    "scene.hidden_width": (1, 8192),
    "scene.num_hidden_layers": (0, 64),
    "scene.radius": (1e-6, 1e6),
    "scene.blob_radius": (1e-6, 1e6),
    "scene.density_scale": (1e-9, _INF),
    "scene.samples_per_ray": (1, 65536),
    "scene.min_transmittance": (0, 1),
    "scene.occupancy_resolution": (1, 1024),
    "scene.occupancy_every": (1, _INF),
    "scene.occupancy_warmup": (0, _INF),
    "scene.occupancy_decay": (0, 1),
    "scene.background_random_probability": (0, 1),
    "shading.diffuse_probability": (0, 1),
    "shading.textureless_probability": (0, 1),
    "shading.light_distance_range": (1e-3, 1e6),
    "shading.light_position_noise": (0, 1e6),
    "refine.rounds": (0, 1000),
    "refine.sets": (1, 1024),
    "refine.strength": (0.001, 1),
    "refine.num_inference_steps": (1, 1000),
    "refine.guidance_scale": (0, _INF),
    "refine.rescale": (0, 1),
    "refine.steps": (1, _INF),
    "refine.lr_scale.start": (0, _INF),
    "refine.lr_scale.end": (0, _INF),
    "regularizer.sparsity.start": (0, _INF),
    "regularizer.sparsity.end": (0, _INF),
    "regularizer.opaque.start": (0, _INF),
    "regularizer.opaque.end": (0, _INF),
    "regularizer.orientation.start": (0, _INF),
    "regularizer.orientation.end": (0, _INF),
    "optimizer.grid_lr": (0, _INF),
    "optimizer.network_lr": (0, _INF),
    "optimizer.background_lr": (0, _INF),
    "optimizer.lr_scale.start": (0, _INF),
    "optimizer.lr_scale.end": (0, _INF),
    "optimizer.betas": (0, 0.999999999),
    "optimizer.eps": (0, _INF),
    "optimizer.weight_decay": (0, _INF),
    "guidance.rescale": (0, 1),
    "guidance.min_timestep.start": (0, 1),
    "guidance.min_timestep.end": (0, 1),
    "guidance.max_timestep.start": (0, 1),
    "guidance.max_timestep.end": (0, 1),
    "guidance.image_size": (8, 8192),
    "guidance.gradient_clip": (0, _INF),
    "export.resolution": (8, 1024),
    "export.threshold": (0, _INF),
    "export.faces": (0, _INF),
    "export.smooth": (0, 1000),
    "export.texture_size": (16, 16384),
    "export.turntable_frames": (1, 10000),
    "export.image_size": (8, 8192),
    "views.rescale": (0, 1),
    "train.multiview_probability": (0, 1),
    "train.text_drop_probability": (0, 1),
    "train.asset_suffix_probability": (0, 1),
    "train.image_size": (0, 8192),
    "train.batch_objects": (1, _INF),
    "train.accumulate": (1, _INF),
    "train.steps": (1, _INF),
    "train.minutes": (0, _INF),
    "train.lr": (0, _INF),
    "train.warmup_steps": (0, _INF),
    "train.decay_fraction": (0, 1),
    "train.betas": (0, 0.999999999),
    "train.weight_decay": (0, _INF),
    "train.ema_decay": (0, 1),
    "train.vae_steps": (1, _INF),
    "train.vae_minutes": (0, _INF),
    "train.vae_lr": (0, _INF),
    "train.vae_batch": (1, _INF),
    "train.render_workers": (1, 1024),
    "train.loader_workers": (0, 1024),
    "train.num_objects": (1, _INF),
    "train.num_patterned_images": (1, _INF),
    "train.checkpoint_every": (1, _INF),
    "train.log_every": (1, _INF),
    "train.sample_every": (1, _INF),
    "eval.prompts": (1, _INF),
    "eval.num_cameras": (1, 1024),
    "eval.image_size": (8, 8192),
    "eval.views": (1, 64),
    "eval.workers": (1, 1024),
    "ablation.prompts": (1, _INF),
    "ablation.pictured_prompts": (1, 64),
    "ablation.base_steps": (1, _INF),
    "ablation.prior_steps": (1, _INF),
    "reconstruct.rays_per_step": (1, 1 << 24),
    "reconstruct.opacity_weight": (0, _INF),
    "reconstruct.distortion.start": (0, _INF),
    "reconstruct.distortion.end": (0, _INF),
    "reconstruct.scale": (0, 1e6),
    "reconstruct.max_size": (0, 65536),
    "reconstruct.held_out_every": (0, _INF),
    "dreambooth.batch_size": (1, _INF),
    "dreambooth.lr": (0, _INF),
    "dreambooth.weight_decay": (0, _INF),
    "dreambooth.l1_weight": (0, _INF),
    "dreambooth.lora_rank": (0, 4096),
    "dreambooth.preservation_weight": (0, _INF),
    "dreambooth.preservation_images": (1, _INF),
}


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """The settings of a config dataclass as {dotted key: value}, in the schema's order."""
    flat: dict[str, Any] = {}
    for entry in fields(config):
        value = getattr(config, entry.name)
        if is_dataclass(value):
            flat.update(flatten(value, f"{prefix}{entry.name}."))
        else:
            flat[prefix + entry.name] = value
    return flat


def validate(config: Config, where: Mapping[str, str] | None = None) -> None:
    """Raise ConfigError, one line, for the first value that cannot work.

    `where` says where a key was set ("recipe.yaml:3", "on the command line"), for the message.
    """
    places = where or {}
    flat = flatten(config)

    def fail(key: str, problem: str) -> None:
        place = f" ({places[key]})" if key in places else ""
        value = flat.get(key)
        shown = "" if value is None else f"={_text(value)}"
        raise ConfigError(f"{key}{shown}{place}: {problem}")

    for key, value in flat.items():
        if isinstance(value, str) and not _is_utf8(value):
            fail(key, "is not valid UTF-8")
        if key.endswith("_fraction") and not 0 <= value <= 1:
            fail(key, "must be between 0 and 1")
        low, high = LIMITS.get(key, (-_INF, _INF))
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float) and not math.isfinite(number):
                fail(key, "must be a finite number")
            if isinstance(number, (int, float)) and not low <= number <= high:
                fail(key, f"must be {_span(low, high)}")
        if key.endswith("_range") and value[0] > value[1]:
            fail(key, "the first number must not be larger than the second")
        section, _, name = key.rpartition(".")
        if section == "views" and name in INPUTS and (problem := INPUTS[name].problem(value, MINI_SIZE)):
            fail(key, problem)
        if name == "to_fraction" and flat[f"{section}.from_fraction"] > value:
            fail(key, f"must not be smaller than {section}.from_fraction={flat[f'{section}.from_fraction']}")

    if not config.eval.views:
        fail("eval.views", "must name at least one number of views")
    for table in config.ablation.only:
        if table not in ABLATION_TABLES:
            fail("ablation.only", f"there is no table {table!r}; there are {', '.join(ABLATION_TABLES)}")
    if config.scene.grid.max_resolution < config.scene.grid.base_resolution:
        fail("scene.grid.max_resolution", "must not be smaller than scene.grid.base_resolution")
    lowest, highest = config.guidance.min_timestep, config.guidance.max_timestep
    # both are piecewise linear: it is enough to compare them where either bends
    for fraction in sorted({s for x in (lowest, highest) for s in (x.from_fraction, x.to_fraction)}):
        low, high = value_at(lowest, fraction), value_at(highest, fraction)
        if low > high:
            problem = f"is {low:g}, above guidance.max_timestep's {high:g}, at fraction {fraction:g} of the run"
            fail("guidance.min_timestep", problem)


def _span(low: float, high: float) -> str:
    return f"at least {low}" if high == _INF else f"between {low} and {high}"


def _text(value: object) -> str:
    return repr(value) if isinstance(value, str) else str(list(value) if isinstance(value, tuple) else value)


def _is_utf8(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
