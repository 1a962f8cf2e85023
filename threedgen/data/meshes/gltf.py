"""A glTF file in words that its reader takes as glTF 2.0 means them, and what is left to do after it.

trimesh takes whole numbers for what they are, gives every texture the first texture coordinates, and passes over where
KHR_texture_transform moves them. So what is stored in whole numbers gets a name under which it is handed on as it is,
the coordinates that the base colour wants become the first, and materials are called by their numbers.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import trimesh

from threedgen.core.errors import ThreedgenError
from threedgen.mesh.types import Array

_HEAD = struct.Struct("<4s3I4s")  # of a .glb as far as its text: magic, version, length; length of the text, JSON
_DAMAGE = (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError, struct.error)
_READ = ("POSITION", "TEXCOORD_0", "COLOR_0")
_FAN = 6  # of a primitive's modes
_DRACO = "KHR_draco_mesh_compression"
_MOVED = "KHR_texture_transform"
_GLOSS = "KHR_materials_pbrSpecularGlossiness"


def retold(path: Path) -> tuple[bytes, dict[str, Array]]:
    """The content of a .glb or .gltf for trimesh, and [2, 3] for each material whose base colour's picture is moved, by
    the name that it has there: see `texture_coordinates`. What is damaged is left to the reader.

    Raises ThreedgenError for what trimesh would leave out in silence: fans of triangles, and what is sparse of an
    accessor.
    """
    content = path.read_bytes()
    try:
        if path.suffix.lower() == ".gltf":
            header = json.loads(content)
            moves = _retell(header)
            return json.dumps(header).encode(), moves
        magic, version, _, length, kind = _HEAD.unpack_from(content)
        header, rest = json.loads(content[_HEAD.size : _HEAD.size + length]), content[_HEAD.size + length :]
        moves = _retell(header)
    except _DAMAGE:
        return content, {}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 4)
    return _HEAD.pack(magic, version, _HEAD.size + len(text) + len(rest), len(text), kind) + text + rest, moves


def _retell(header: dict[str, Any]) -> dict[str, Array]:
    """Changes the header; see `retold`."""
    materials, accessors = header.setdefault("materials", []), header["accessors"]
    materials.append({})  # of primitives that have none: without one the reader makes eight bits of their colours
    for number, material in enumerate(materials):
        material["name"] = str(number)
    moves = {}
    for primitive in (primitive for mesh in header["meshes"] for primitive in mesh["primitives"]):
        if primitive.get("mode") == _FAN:
            raise ThreedgenError("has fans of triangles, which are not read: save it again as single triangles")
        number, attributes = primitive.setdefault("material", len(materials) - 1), primitive["attributes"]
        picture = _base_color(materials[number])
        moved = picture.get("extensions", {}).get(_MOVED, {})
        if moved:
            moves[str(number)] = _move(moved)
        if _DRACO in primitive.get("extensions", {}):
            continue  # its names are those of what is unpacked
        wanted = f"TEXCOORD_{moved.get('texCoord', picture.get('texCoord', 0))}"
        if wanted in attributes:
            attributes["TEXCOORD_0"] = attributes[wanted]
        used = {name: accessors[attributes[name]] for name in _READ if name in attributes}
        indices = [accessors[primitive["indices"]]] if "indices" in primitive else []
        if any("sparse" in accessor for accessor in (*used.values(), *indices)):
            raise ThreedgenError("has sparse accessors, which are not read: save it again without them")
        if used["POSITION"].get("normalized"):
            attributes["_POSITION"] = attributes["POSITION"]
        if used.get("TEXCOORD_0", {}).get("normalized"):
            attributes["_TEXCOORD_0"] = attributes.pop("TEXCOORD_0")
    return moves


def _base_color(material: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a material says of its base colour's picture, as the reader chooses it; nothing if there is none."""
    gloss = material.get("extensions", {}).get(_GLOSS, {})
    return gloss.get("diffuseTexture") or material.get("pbrMetallicRoughness", {}).get("baseColorTexture") or {}


def _move(moved: Mapping[str, Any]) -> Array:
    """[2, 3] of KHR_texture_transform, v downwards: scaled, turned counter-clockwise to the eye, then shifted."""
    (x, y), (across, down) = moved.get("offset", (0.0, 0.0)), moved.get("scale", (1.0, 1.0))
    cos, sin = math.cos(moved.get("rotation", 0.0)), math.sin(moved.get("rotation", 0.0))
    return np.array([[cos * across, sin * down, x], [-sin * across, cos * down, y]], np.float64)


def positions(geometry: trimesh.Trimesh) -> Array:
    """[V, 3] of a geometry of any format."""
    whole = geometry.vertex_attributes.get("_POSITION")
    return np.asarray(geometry.vertices if whole is None else fractions(whole), np.float64)


def texture_coordinates(geometry: trimesh.Trimesh, moves: Mapping[str, Array]) -> Array | None:
    """[V, 2] float64, origin at the lower left, of a geometry of any format that has a material; moves: of `retold`."""
    whole = geometry.vertex_attributes.get("_TEXCOORD_0")
    visual: Any = geometry.visual  # of a texture
    uvs = visual.uv if whole is None else fractions(whole) * [1.0, -1.0] + [0.0, 1.0]
    if uvs is None:
        return None
    uvs = np.asarray(uvs, np.float64)
    move = moves.get(str(getattr(visual.material, "name", None)))
    if move is None:
        return uvs
    u, v = uvs[:, 0], 1.0 - uvs[:, 1]
    moved = np.stack([u, v, np.ones_like(u)], -1) @ move.T
    return np.stack([moved[:, 0], 1.0 - moved[:, 1]], -1)


def fractions(numbers: Any) -> Array:
    """Whole numbers as parts of all that their type can hold, at least -1; floats as they are."""
    numbers = np.asarray(numbers)
    return np.maximum(numbers / np.iinfo(numbers.dtype).max, -1.0) if numbers.dtype.kind in "iu" else numbers
