"""Files that say they are far larger than they are: one line, and no memory for what they claim."""

import json
import struct
import subprocess
import sys
import tarfile
import zlib

import numpy as np
import pytest
import trimesh

from threedgen.core.errors import ConfigError, ThreedgenError
from threedgen.data.meshes import claims
from threedgen.data.meshes.files import read_mesh
from threedgen.data.pictures.decoding import open_picture
from threedgen.data.shards import ABOUT, Shards, read_about

FLOATS, INDICES = 5126, 5125
# reads each mesh in turn, and says by how many MiB memory grew at its peak
READ = """
import resource, sys
from pathlib import Path
from threedgen.core.errors import ThreedgenError
from threedgen.data.meshes.files import read_mesh

peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
before = peak()
for name in sys.argv[1:]:
    try:
        read_mesh(Path(name))
    except ThreedgenError as error:
        print(peak() - before, error)
"""


def chunk(kind, content, length=None):
    return struct.pack("<I4s", len(content) if length is None else length, kind) + content


def glb(content, length=None):
    text = json.dumps({"asset": {"version": "2.0"}, **content}).encode()
    body = chunk(b"JSON", text + b" " * (-len(text) % 4)) + chunk(b"BIN\0", bytes(4), length)
    return struct.pack("<4sII", b"glTF", 2, 12 + len(body)) + body


def of_zeros(count, parts=1):
    """A triangle soup of accessors that have no buffer: zeros, as many as they say."""
    accessors = [
        {"componentType": FLOATS, "type": "VEC3", "count": count},
        {"componentType": INDICES, "type": "SCALAR", "count": 3 * count},
    ]
    meshes = [{"primitives": [{"attributes": {"POSITION": 2 * i}, "indices": 2 * i + 1}]} for i in range(parts)]
    nodes = [{"mesh": i} for i in range(parts)]
    scene = {"scene": 0, "scenes": [{"nodes": list(range(parts))}], "nodes": nodes}
    buffer = {"buffers": [{"byteLength": 4}], "bufferViews": [{"buffer": 0, "byteLength": 4}]}  # or the reader gives up
    return {**scene, **buffer, "meshes": meshes, "accessors": accessors * parts}


def of_one_buffer():
    """Ten thousand accessors that all lie in the same buffer."""
    content = of_zeros(5_333)
    return {**content, "accessors": [{**accessor, "bufferView": 0} for accessor in content["accessors"]] * 10_000}


def with_odd_accessors(count):
    """Others than the large ones that nobody can read."""
    content = of_zeros(count)
    odd = [{"componentType": 1, "type": "VEC3", "count": 1}, {"componentType": FLOATS, "type": "VEC3", "count": -count}]
    return {**content, "accessors": [*content["accessors"], *odd, {}, 7]}


def test_meshes_that_claim_gigabytes_are_refused_without_them(tmp_path):
    bombs = {
        "chunk.glb": (glb({}, length=0xFFFFFFF0), "4,294,967,280 bytes"),
        "accessor.glb": (glb(of_zeros(200_000_000)), "asks for 4,577 MiB of numbers"),
        "less.glb": (glb(of_zeros(20_000_000)), "asks for 457 MiB of numbers that it does not hold"),
        "shared.glb": (glb(of_one_buffer()), "asks for 1,220 MiB of numbers"),
        "many.glb": (glb(of_zeros(1_000_000, parts=200)), "asks for 4,577 MiB of numbers"),
        "odd.glb": (glb(with_odd_accessors(200_000_000)), "asks for 4,577 MiB of numbers"),
        "accessor.gltf": (json.dumps({"asset": {"version": "2.0"}, **of_zeros(10**12)}).encode(), "asks for"),
        "count.stl": (bytes(80) + struct.pack("<I", 0xFFFFFFFF) + bytes(50), "no triangles"),
    }
    for name, (content, _) in bombs.items():
        (tmp_path / name).write_bytes(content)
    words = [sys.executable, "-c", READ, *(str(tmp_path / name) for name in bombs)]
    found = subprocess.run(words, capture_output=True, text=True, timeout=120)
    lines = found.stdout.splitlines()
    assert found.stderr == "" and len(lines) == len(bombs), found
    for line, (_, said) in zip(lines, bombs.values(), strict=True):
        grew, message = line.split(" ", 1)
        assert said in message and int(grew) < 100, line


def test_a_mesh_that_is_placed_again_and_again(tmp_path, monkeypatch):
    box = trimesh.creation.box()
    scene = trimesh.Scene()
    for i in range(20):
        scene.add_geometry(box, f"box {i}", "box", transform=trimesh.transformations.translation_matrix([2 * i, 0, 0]))
    scene.export(tmp_path / "boxes.glb")
    monkeypatch.setattr(claims, "MOST_TRIANGLES", 240)
    assert len(read_mesh(tmp_path / "boxes.glb")[0].faces) == 240
    monkeypatch.setattr(claims, "MOST_TRIANGLES", 239)
    with pytest.raises(ThreedgenError, match="places 240 triangles, more than the 239 allowed"):
        read_mesh(tmp_path / "boxes.glb")


def test_a_picture_of_gigabytes_in_a_few_bytes():
    part = lambda kind, content: struct.pack(">I", len(content)) + kind + content + bytes(4)  # noqa: E731
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    crc = struct.pack(">I", zlib.crc32(b"IHDR" + header))
    png = b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header)[:-4] + crc + part(b"IDAT", zlib.compress(bytes(1 << 16)))
    with pytest.raises(ThreedgenError, match=r"^small\.png .*DecompressionBombError"):
        open_picture(png, "small.png")


@pytest.mark.parametrize("name", ["a.png", ABOUT])
def test_a_shards_member_that_is_all_hole(tmp_path, name):
    """GNU's sparse format: one block of a file that is a tebibyte long."""
    size, stored = 1 << 40, np.random.default_rng(0).bytes(512)
    member = tarfile.TarInfo(name)
    member.size, member.type = len(stored), tarfile.GNUTYPE_SPARSE
    head = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    head[386:410] = b"%011o\0%011o\0" % (0, len(stored))  # where the one block lies, and its length
    head[483:495] = b"\x80" + size.to_bytes(11, "big")  # the size with the holes
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    shard = tmp_path / "shard.tar"
    shard.write_bytes(bytes(head) + stored + bytes(1024))
    with tarfile.open(shard) as tar:
        (found,) = tar
        assert found.issparse() and found.size == size
    with pytest.raises(ConfigError, match=r"stored with holes") as error:
        Shards([shard])
    assert "\n" not in str(error.value)
    assert read_about(shard) is None
