"""Files of Gaussians: against files written here byte by byte, and a reader that knows nothing of Gaussians."""

import math
import struct
from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh

from threedgen.core.errors import ThreedgenError
from threedgen.scene.gaussians import load_gaussians, save_gaussians

NAMES = ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", "opacity"]
NAMES += ["scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
# one Gaussian as it stands in a file, and what that means
STORED = dict(zip(NAMES, [1, 2, 3, 0, 0, 0, 1.0, 0, -1.0, math.log(3), -1, -2, -3, 0.5, 0.1, 0.2, 0.3], strict=True))
Y0 = 0.5 / math.sqrt(math.pi)


def ply(properties, rows, before="", after="", count=None, form="binary_little_endian", data=None):
    """A file's bytes. properties: pairs of a type and a name; rows: dictionaries."""
    letters = {"float": "f", "double": "d", "uchar": "B", "int": "i", "float32": "f"}
    packed = b"".join(
        struct.pack("<" + "".join(letters[kind] for kind, _ in properties), *(row[name] for _, name in properties))
        for row in rows
    )
    lines = [
        "ply",
        f"format {form} 1.0",
        *before.splitlines(),
        f"element vertex {len(rows) if count is None else count}",
    ]
    lines += [f"property {kind} {name}" for kind, name in properties] + [*after.splitlines(), "end_header", ""]
    return "\n".join(lines).encode() + (packed if data is None else data)


FLOATS = [("float", name) for name in NAMES]


@pytest.fixture
def file(tmp_path):
    def write(content):
        path = tmp_path / "cloud.ply"
        path.write_bytes(content)
        return path

    return write


def check_one(gaussians):
    assert len(gaussians) == 1
    expected = {
        "positions": [1, 2, 3], "quaternions": [0.5, 0.1, 0.2, 0.3], "opacities": 0.75,
        "scales": [math.exp(-1), math.exp(-2), math.exp(-3)], "colors": [0.5 + Y0, 0.5, 0.5 - Y0],
    }  # fmt: skip
    for name, numbers in expected.items():
        assert getattr(gaussians, name)[0].tolist() == pytest.approx(numbers, rel=1e-6), name


def test_a_file_written_by_hand(file):
    check_one(load_gaussians(file(ply(FLOATS, [STORED]))))


def test_another_exporters_order_types_and_extras(file):
    """No normals, other properties between, doubles, windows' line ends in the header, and faces after the vertices."""
    names = [*reversed([name for name in NAMES if name not in ("nx", "ny", "nz")])]
    properties = [("double" if name == "scale_1" else "float32", name) for name in names]
    properties[3:3] = [("uchar", "label"), ("int", "id")]
    rows, faces = [{**STORED, "label": 7, "id": 9}], "element face 0\nproperty list uchar int v"
    content = ply(properties, rows, "comment by hand\nobj_info none", faces)
    header, data = content.split(b"end_header\n")
    check_one(load_gaussians(file(header.replace(b"\n", b"\r\n") + b"end_header\r\n" + data + b"more")))


def test_harmonics_are_stored_colour_by_colour(file):
    """f_rest_0 .. 2 are red's coefficients of degree 1."""
    rest = {f"f_rest_{i}": float(i) for i in range(9)}
    gaussians = load_gaussians(file(ply(FLOATS + [("float", name) for name in rest], [STORED | rest])))
    assert gaussians.colors[0].tolist() == [[1, 0, -1], [0, 3, 6], [1, 4, 7], [2, 5, 8]]


@pytest.mark.parametrize("num_coefficients", [0, 1, 4, 9, 16])
def test_written_and_read_again(cloud, tmp_path, num_coefficients):
    written = cloud(50, num_coefficients, dtype=torch.float32)
    save_gaussians(tmp_path / "cloud.ply", written)
    read = load_gaussians(tmp_path / "cloud.ply")
    names = ["positions", "quaternions", "scales", "opacities"] + ["colors"] * (num_coefficients != 1)
    for name in names:
        torch.testing.assert_close(getattr(read, name), getattr(written, name), rtol=1e-6, atol=2e-7)
    if num_coefficients == 1:  # read as colours; both are drawn alike
        torch.testing.assert_close(read.colors, (0.5 + Y0 * written.colors[:, 0]).clamp(min=0))
    save_gaussians(tmp_path / "again.ply", read)
    again = load_gaussians(tmp_path / "again.ply")
    for name in ["positions", "quaternions"]:
        assert torch.equal(getattr(read, name), getattr(again, name))
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["again.ply", "cloud.ply"]


def test_what_is_written_by_another_reader(cloud, tmp_path):
    """trimesh reads the rows as they stand there."""
    gaussians = cloud(3, dtype=torch.float32)
    gaussians.opacities[:] = torch.tensor([0.0049, 0.0051, 1.0])
    save_gaussians(tmp_path / "cloud.ply", gaussians)
    raw = trimesh.load(tmp_path / "cloud.ply").metadata["_ply_raw"]["vertex"]
    assert list(raw["properties"]) == NAMES and raw["length"] == 2  # the most transparent one is left out
    row = raw["data"][0]
    assert float(row["opacity"]) == pytest.approx(math.log(0.0051 / 0.9949), rel=1e-5)
    assert [float(row[f"scale_{i}"]) for i in range(3)] == pytest.approx(gaussians.scales[1].log().tolist(), rel=1e-5)
    assert [float(row[f"rot_{i}"]) for i in range(4)] == pytest.approx(gaussians.quaternions[1].tolist())
    expected = ((gaussians.colors[1] - 0.5) / 0.28209479).tolist()
    assert [float(row[f"f_dc_{i}"]) for i in range(3)] == pytest.approx(expected, rel=1e-5)
    assert math.isfinite(raw["data"][1]["opacity"]) and not any(row[name] for name in ("nx", "ny", "nz"))


def test_nothing_to_write(cloud, tmp_path):
    clear = replace(cloud(), opacities=torch.full((12,), 0.004, dtype=torch.float64))
    with pytest.raises(ThreedgenError, match=r"nothing to write: no Gaussian is as opaque as 0\.005"):
        save_gaussians(tmp_path / "cloud.ply", clear)
    for name in ("scales", "positions"):
        broken = replace(cloud(), **{name: torch.full((12, 3), math.nan).double()})
        with pytest.raises(ThreedgenError, match="not written: some of the Gaussians' numbers are not finite"):
            save_gaussians(tmp_path / "cloud.ply", broken)
    assert not list(tmp_path.iterdir())


WHOLE = ply(FLOATS, [STORED] * 3)
MESH = ply([("float", "x"), ("float", "y"), ("float", "z")], [STORED] * 3)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "is no .ply file: it does not begin with a header"),
        (np.random.default_rng(0).bytes(5000), "is no .ply file"),
        (WHOLE[:100], "is no .ply file"),
        (WHOLE[:-1], "is cut off: it should hold 3 Gaussians"),
        (ply(FLOATS, [STORED], count=10**15), "is cut off: it should hold 1000000000000000 Gaussians"),
        (ply(FLOATS, [STORED], count=-5), "holds no Gaussians: it has -5 vertices"),
        (ply(FLOATS, [], count=0), "holds no Gaussians: it has 0 vertices"),
        (ply(FLOATS, [STORED], count="many"), "has a header that cannot be read"),
        (ply(FLOATS, [STORED], form="ascii"), "another format: only binary_little_endian 1.0 is read"),
        (ply(FLOATS, [STORED], form="binary_big_endian"), "another format"),
        (MESH, "holds no Gaussians: its vertices have no f_dc_0, f_dc_1, f_dc_2, opacity, scale_0"),
        (ply(FLOATS, [STORED], "element face 0"), "holds no Gaussians: its first element is not vertex"),
        (ply([*FLOATS, ("list uchar int", "many")], [], count=1, data=b""), "has a header that cannot be read"),
        (ply([*FLOATS, ("half", "x2")], [], count=1, data=b""), "has a header that cannot be read"),
        (ply([*FLOATS, ("float", "x")], [STORED]), "has a header that cannot be read"),
        (ply([*FLOATS, ("float", "f_rest_0")], [STORED | {"f_rest_0": 1}]), "1 f_rest_. are not the coefficients"),
        (ply(FLOATS, [STORED | {"y": math.nan}]), "numbers that are not finite"),
        (ply(FLOATS, [STORED | {"scale_2": 200}]), "numbers that are not finite or too large"),
        (ply(FLOATS, [STORED | {"scale_2": -200}]), "without a rotation or a size"),
        (ply(FLOATS, [STORED | dict.fromkeys(["rot_0", "rot_1", "rot_2", "rot_3"], 0)]), "without a rotation"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_one_line(file, content, message):
    path = file(content)
    with pytest.raises(ThreedgenError, match=message) as raised:
        load_gaussians(path)
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)


def test_no_file(tmp_path):
    with pytest.raises(ThreedgenError, match=r"none.ply cannot be read \(No such file or directory\)"):
        load_gaussians(tmp_path / "none.ply")
