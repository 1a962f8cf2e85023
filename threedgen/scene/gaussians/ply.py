"""Gaussians in the `.ply` files of Kerbl et al. 2023's code, which viewers of Gaussians open.

One vertex a Gaussian, of float32: x y z, nx ny nz (0), f_dc_0 .. 2 and, for harmonics of degree 1 to 3, f_rest_* (red's
coefficients, then green's, then blue's), opacity (as a logit), scale_0 .. 2 (as logarithms), rot_0 .. 3 (w x y z).
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from threedgen.core.errors import ThreedgenError
from threedgen.core.files import write_bytes_atomically
from threedgen.ops.splats import NUM_COEFFICIENTS
from threedgen.scene.gaussians.cloud import Gaussians

MIN_OPACITY = 0.005  # what is less opaque is left out
_Y0 = 0.28209479177387814  # the constant harmonic
_MAX_OPACITY = 1.0 - 2.0**-24  # the largest number below 1, whose logit is still finite
_MAX_HEADER = 1 << 16  # bytes; a real one has 62 short lines
_POSITION, _NORMAL, _DC = ("x", "y", "z"), ("nx", "ny", "nz"), ("f_dc_0", "f_dc_1", "f_dc_2")
_SCALE, _TURN = ("scale_0", "scale_1", "scale_2"), ("rot_0", "rot_1", "rot_2", "rot_3")
_TYPES = {
    **{"char": "i1", "uchar": "u1", "short": "<i2", "ushort": "<u2", "int": "<i4", "uint": "<u4"},
    **{"int8": "i1", "uint8": "u1", "int16": "<i2", "uint16": "<u2", "int32": "<i4", "uint32": "<u4"},
    **{"float": "<f4", "double": "<f8", "float32": "<f4", "float64": "<f8"},
}


def save_gaussians(path: str | Path, gaussians: Gaussians) -> None:
    """Write those that are at least MIN_OPACITY opaque; colours [N, 3] become harmonics of degree 0.

    Raises ThreedgenError where there are none, or where numbers are not finite.
    """
    seen = gaussians.opacities >= MIN_OPACITY
    if not seen.any():
        raise ThreedgenError(f"{path}: nothing to write: no Gaussian is as opaque as {MIN_OPACITY}")
    position, turn, scale, opacity, color = (
        tensor[seen].detach().double().cpu().numpy()
        for tensor in (
            gaussians.positions, gaussians.quaternions, gaussians.scales, gaussians.opacities, gaussians.colors,
        )
    )  # fmt: skip
    dc = color[:, 0] if color.ndim == 3 else (color - 0.5) / _Y0
    rest = color[:, 1:] if color.ndim == 3 else color[:, :0, None]
    rest = rest.transpose(0, 2, 1).reshape(len(color), -1)
    opacity = np.minimum(opacity, _MAX_OPACITY)[:, None]
    logit = np.log(opacity) - np.log1p(-opacity)
    columns = [position, np.zeros_like(position), dc, rest, logit, np.log(scale), turn]
    names = [*_POSITION, *_NORMAL, *_DC, *(f"f_rest_{i}" for i in range(rest.shape[1])), "opacity", *_SCALE, *_TURN]
    rows = np.concatenate(columns, 1).astype("<f4")
    if not np.isfinite(rows).all():
        raise ThreedgenError(f"{path}: not written: some of the Gaussians' numbers are not finite, or a scale is 0")
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(rows)}"]
    header += [f"property float {name}" for name in names] + ["end_header", ""]
    write_bytes_atomically(path, "\n".join(header).encode() + rows.tobytes())


def load_gaussians(path: str | Path) -> Gaussians:
    """The Gaussians of a file, on the CPU: with colours [N, 3] if it has harmonics of degree 0 only.

    Properties may be in any order and of any type, and there may be others; what follows the vertices is not looked at.
    Raises ThreedgenError where the file cannot be read, is cut off, is a text or a mesh, or holds what cannot be drawn.
    """
    vertices = _read_vertices(Path(path))
    names = set(vertices.dtype.names or ())
    if missing := [n for n in (*_POSITION, *_DC, "opacity", *_SCALE, *_TURN) if n not in names]:
        raise ThreedgenError(f"{path} holds no Gaussians: its vertices have no {', '.join(missing)}")
    num_rest = sum(name.startswith("f_rest_") for name in names)
    rest_names = [f"f_rest_{i}" for i in range(num_rest)]
    if num_rest not in [3 * (count - 1) for count in NUM_COEFFICIENTS] or not names.issuperset(rest_names):
        raise ThreedgenError(f"{path}: {num_rest} f_rest_* are not the coefficients of harmonics of degree 0 to 3")

    def columns(*wanted: str) -> Tensor:
        return torch.from_numpy(np.stack([vertices[name].astype(np.float64) for name in wanted], -1))

    dc = columns(*_DC)
    if num_rest:
        rest = columns(*rest_names).unflatten(1, (3, -1)).mT
        colors = torch.cat([dc[:, None], rest], 1)
    else:
        colors = (0.5 + _Y0 * dc).clamp(min=0)
    opacities = columns("opacity").sigmoid()[:, 0]
    tensors = [columns(*_POSITION), columns(*_TURN), columns(*_SCALE).exp(), opacities, colors]
    position, turn, scale, opacity, colors = (tensor.float() for tensor in tensors)
    if not all(tensor.isfinite().all() for tensor in (position, turn, scale, opacity, colors)):
        raise ThreedgenError(f"{path} holds Gaussians with numbers that are not finite or too large")
    if not (turn.norm(dim=-1) > 0).all() or not (scale > 0).all():
        raise ThreedgenError(f"{path} holds Gaussians without a rotation or a size (rot_* all 0, or scale_* too small)")
    return Gaussians(position, turn, scale, opacity, colors)


def _read_vertices(path: Path) -> np.ndarray:
    """The rows of a binary file's first element, with the names of its properties."""
    try:
        with open(path, "rb") as file:
            count, row, start = _header(file.read(_MAX_HEADER), path)
            if file.seek(0, 2) < start + count * row.itemsize:
                raise ThreedgenError(f"{path} is cut off: it should hold {count} Gaussians")
            file.seek(start)
            return np.frombuffer(file.read(count * row.itemsize), row)
    except OSError as error:
        raise ThreedgenError(f"{path} cannot be read ({error.strerror})") from error


def _header(beginning: bytes, path: Path) -> tuple[int, np.dtype, int]:
    """From a file's first bytes: how many vertices it has, what each is made of, and the byte where they begin."""
    end = re.search(rb"\nend_header\r?\n", beginning)
    if not beginning.startswith(b"ply") or end is None:
        raise ThreedgenError(f"{path} is no .ply file: it does not begin with a header")
    lines = [line.split() for line in beginning[: end.start()].decode("ascii", "replace").splitlines()]
    declared = [words for words in lines[1:] if words and words[0] not in ("comment", "obj_info")]
    if not declared or declared[0] != ["format", "binary_little_endian", "1.0"]:
        raise ThreedgenError(f"{path} is a .ply file of another format: only binary_little_endian 1.0 is read")
    starts = [index for index, words in enumerate(declared) if words[0] == "element"]
    if not starts or declared[starts[0]][1:2] != ["vertex"]:
        raise ThreedgenError(f"{path} holds no Gaussians: its first element is not vertex")
    element = declared[starts[0] : starts[1] if len(starts) > 1 else None]
    try:
        count = int(element[0][2])
        row = np.dtype([(name, _TYPES[kind]) for _, kind, name in element[1:]])
    except (ValueError, KeyError, IndexError):
        raise ThreedgenError(f"{path} has a header that cannot be read: properties are `property TYPE NAME`") from None
    if count < 1:
        raise ThreedgenError(f"{path} holds no Gaussians: it has {count} vertices")
    return count, row, end.end()
