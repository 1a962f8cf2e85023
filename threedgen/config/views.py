"""The nine inputs of MVDream's public API, stated once.

The recipes' `views` section and its limits, `MultiViewPipeline`'s arguments, the service's inputs and its OpenAPI
schema all come from the dataclasses below, or are held equal to them by a test. Importing this module imports no torch.
"""

from __future__ import annotations

import math
import numbers
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from threedgen.core.errors import ConfigError

MINI_SIZE = 64  # pixels; the bundled mini model's own image size


def _input(help: str, kind: type = str, default: Any = MISSING, **rule: Any) -> Any:
    return field(default=default, metadata={"help": help, "kind": kind, **rule})


@dataclass(kw_only=True)
class ViewSettings:
    """The inputs that a recipe keeps in its `views` section: all but the prompt and the seed."""

    image_size: int = _input("Pixels along an edge of each view", int, 256, choices=(128, 256, 512, 1024))
    num_frames: int = _input("Number of views", int, 4, limits=(1, 32))
    num_inference_steps: int = _input("Denoising steps", int, 50, limits=(1, 500))
    guidance_scale: float = _input("Weight of the prompt (classifier-free guidance)", float, 7.5, limits=(1, 50))
    camera_elevation: float = _input("Degrees above the horizon", float, 15.0, limits=(0, 90))
    camera_azimuth: float = _input("Degrees; the first view's, 90 looks at the front", float, 90.0, limits=(0, 360))
    camera_azimuth_span: float = _input("Degrees that the views share out evenly", float, 360.0, limits=(0, 360))


@dataclass(kw_only=True)
class ViewInputs(ViewSettings):
    """All nine inputs."""

    prompt: str = _input("What to show; ', 3d asset' is added once")
    seed: int | None = _input("The same seed gives the same views; left out, one is drawn and told", int, None)

    def checked(self, own_size: int | None = None) -> ViewInputs:
        """The same with every value as the type of its input; raises ConfigError for the first that is not allowed."""
        return ViewInputs(**{name: entry.check(getattr(self, name), own_size) for name, entry in INPUTS.items()})


@dataclass(frozen=True)
class Input:
    """One input, ready to be asked."""

    name: str
    kind: type  # str, int or float
    help: str
    default: Any = MISSING  # MISSING: must be given; None: may be None
    limits: tuple[float, float] | None = None  # both ends allowed
    choices: tuple[int, ...] = ()

    def check(self, value: Any, own_size: int | None = None) -> Any:
        """`value` as the input's type; raises ConfigError that names the input, the value and what is allowed.

        own_size: the model's own image size, which `image_size` may also be.
        """
        if problem := self.problem(value, own_size):
            raise ConfigError(f"{self.name}={value!r}: {problem}")
        return None if value is None else self.kind(value)

    def problem(self, value: Any, own_size: int | None = None) -> str:
        """What the value must be instead; empty if it can be used."""
        if value is None and self.default is None:
            return ""
        choices = sorted({own_size or self.choices[0], *self.choices}) if self.choices else []
        low, high = self.limits or (-math.inf, math.inf)
        fits = self._is_of_kind(value) and (self.kind is str or low <= value <= high)
        if fits and (not choices or value in choices):
            return ""
        if choices:
            return f"must be one of {', '.join(map(str, choices))}"
        word = {str: "text that is not blank", int: "a whole number", float: "a number"}[self.kind]
        return f"must be {word}" + (f" between {low:g} and {high:g}" if self.limits else "")

    def _is_of_kind(self, value: Any) -> bool:
        if self.kind is str:
            return isinstance(value, str) and value.strip() != ""
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            return False
        return self.kind is float or value % 1 == 0  # 4.0 is whole: JSON has one kind of number


def _all_inputs() -> dict[str, Input]:
    found = [Input(name=f.name, default=f.default, **f.metadata) for f in fields(ViewInputs)]
    found.sort(key=lambda entry: entry.name != "prompt")  # the prompt first, as in the API
    return {entry.name: entry for entry in found}


INPUTS: dict[str, Input] = _all_inputs()


def drawn_size(image_size: int, own_size: int) -> int:
    """The size at which a model draws views that are wanted at `image_size`; they are resized if it is another.

    A model whose own size is one of the API's draws at each of them. A smaller one (the mini model) knows one
    size only, beyond which it draws several objects: it always draws at its own.
    """
    return image_size if own_size in INPUTS["image_size"].choices else own_size


def openapi_schema() -> dict[str, Any]:
    """The service's interface as OpenAPI 3.1; Cog's server checks each request against `Input` in it."""
    properties = {entry.name: _json_schema(entry, order) for order, entry in enumerate(INPUTS.values())}
    required = [entry.name for entry in INPUTS.values() if entry.default is MISSING]
    matrix = {"type": "array", "items": {"type": "array", "items": {"type": "number"}}}
    output = {
        "images": {"type": "array", "items": {"type": "string", "format": "uri"}},
        "camera_matrices": {"type": "array", "items": matrix},
        "azimuth_angles": {"type": "array", "items": {"type": "number"}},
    }
    schemas: dict[str, Any] = {
        "Input": {"title": "Input", "type": "object", "properties": properties, "required": required},
        "Output": {"title": "Output", "type": "object", "properties": output, "required": list(output)},
    }
    for name, key in (("PredictionRequest", "input"), ("PredictionResponse", "output")):
        reference = {"$ref": f"#/components/schemas/{key.title()}"}
        schemas[name] = {"title": name, "type": "object", "properties": {key: reference}}
    schemas["PredictionResponse"]["properties"] |= {word: {"type": "string"} for word in ("status", "error", "logs")}
    predict = {
        "summary": "Views of one object from text",
        "requestBody": {"content": _content("PredictionRequest")},
        "responses": {
            "200": {"description": "status says succeeded or failed", "content": _content("PredictionResponse")},
            "422": {"description": "an input cannot be used; detail says which and why"},
        },
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "threedgen views", "version": "1"},
        "paths": {"/predictions": {"post": predict}},
        "components": {"schemas": schemas},
    }


def _content(schema: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}


def _json_schema(entry: Input, order: int) -> dict[str, Any]:
    word = {str: "string", int: "integer", float: "number"}[entry.kind]
    schema: dict[str, Any] = {"title": entry.name, "description": entry.help, "x-order": order}
    schema["type"] = [word, "null"] if entry.default is None else word
    if entry.kind is str:
        schema["minLength"] = 1
    if entry.default is not MISSING:
        schema["default"] = entry.default
    if entry.limits:
        schema["minimum"], schema["maximum"] = entry.limits
    if entry.choices:
        schema["enum"] = list(entry.choices)
    return schema
