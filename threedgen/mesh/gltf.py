"""A mesh as one binary glTF 2.0 file (.glb): y up, the object's front along +z, metres."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

from threedgen.core.files import write_bytes_atomically
from threedgen.mesh.types import Array, ColoredMesh, Mesh, TexturedMesh

# glTF's numbers for kinds of data
_FLOAT, _UNSIGNED_SHORT, _UNSIGNED_INT = 5126, 5123, 5125
_VERTEX_DATA, _INDEX_DATA = 34962, 34963
_LINEAR, _LINEAR_MIPMAP, _CLAMP = 9729, 9987, 33071


def to_y_up(vectors: Array) -> Array:
    """World axes (x front, y left, z up) -> glTF's (z front, x left, y up): a rotation. [N, 3] -> [N, 3]."""
    return vectors[:, [1, 2, 0]]


def write_glb(mesh: Mesh, path: str | Path) -> None:
    """Geometry, normals, and the colours as the base colour of a matt material: a texture, or COLOR_0."""
    write_bytes_atomically(path, glb_bytes(mesh))


def glb_bytes(mesh: Mesh) -> bytes:
    """The file that `write_glb` writes."""
    buffer = _Buffer()
    vertices = to_y_up(mesh.vertices).astype("<f4")
    attributes = {
        "POSITION": buffer.accessor(vertices, _FLOAT, min=vertices.min(0).tolist(), max=vertices.max(0).tolist()),
        "NORMAL": buffer.accessor(to_y_up(mesh.normals).astype("<f4"), _FLOAT),
    }
    surface: dict[str, Any] = {"metallicFactor": 0, "roughnessFactor": 1}
    images: dict[str, Any] = {}
    match mesh:
        case TexturedMesh():
            flipped = np.stack([mesh.uvs[:, 0], 1.0 - mesh.uvs[:, 1]], -1)  # glTF's v runs down the image
            attributes["TEXCOORD_0"] = buffer.accessor(flipped.astype("<f4"), _FLOAT)
            surface["baseColorTexture"] = {"index": 0}
            images = {
                "images": [{"name": "asset", "mimeType": "image/png", "bufferView": buffer.view(mesh.png)}],
                "samplers": [{"magFilter": _LINEAR, "minFilter": _LINEAR_MIPMAP, "wrapS": _CLAMP, "wrapT": _CLAMP}],
                "textures": [{"source": 0, "sampler": 0}],
            }
        case ColoredMesh():
            colors = np.full((len(vertices), 4), 65535, "<u2")
            colors[:, :3] = np.rint(to_linear(mesh.colors / 255.0) * 65535.0)
            attributes["COLOR_0"] = buffer.accessor(colors, _UNSIGNED_SHORT, normalized=True)
    indices = buffer.accessor(mesh.faces.astype("<u4").reshape(-1), _UNSIGNED_INT, target=_INDEX_DATA)
    content = {
        "asset": {"version": "2.0", "generator": "threedgen"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"name": "asset", "mesh": 0}],
        "meshes": [
            {"name": "asset", "primitives": [{"attributes": attributes, "indices": indices, "material": 0}]},
        ],
        "materials": [{"name": "asset", "pbrMetallicRoughness": surface}],
        **images,
        "accessors": buffer.accessors,
        "bufferViews": buffer.views,
        "buffers": [{"byteLength": len(buffer.data)}],
    }
    text = json.dumps(content, separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % 4)
    data = bytes(buffer.data)
    length = 12 + 8 + len(text) + 8 + len(data)
    header = struct.pack("<4sII", b"glTF", 2, length)
    return header + struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(data), b"BIN\0") + data


class _Buffer:
    """The binary part, as it grows."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.views: list[dict[str, Any]] = []
        self.accessors: list[dict[str, Any]] = []

    def view(self, content: bytes, **properties: Any) -> int:
        self.views.append({"buffer": 0, "byteOffset": len(self.data), "byteLength": len(content), **properties})
        self.data += content + bytes(-len(content) % 4)
        return len(self.views) - 1

    def accessor(self, values: Array, component: int, target: int = _VERTEX_DATA, **properties: Any) -> int:
        """values [N, C] or [N], of the type that `component` says."""
        kind = "SCALAR" if values.ndim == 1 else f"VEC{values.shape[1]}"
        view = self.view(values.tobytes(), target=target)
        described = {"bufferView": view, "componentType": component, "count": len(values), "type": kind}
        self.accessors.append({**described, **properties})
        return len(self.accessors) - 1


def to_linear(srgb: Array) -> Array:
    """sRGB display values 0..1 -> linear light (IEC 61966-2-1): glTF's vertex colours are linear, textures are not."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
