"""`benchmarks/recipes.py`: what its rows are found by, and what it reads of a command."""

import time
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
import trimesh

from threedgen.core.errors import ThreedgenError


@pytest.fixture(scope="module")
def recipes(load_benchmark):
    return load_benchmark("recipes")


def test_a_row_is_found_by_all_that_its_figures_follow_from(recipes):
    rows = ["videomv-mini.yaml", "videomv-mini.yaml steps=9", "videomv-mini.yaml seed=9", "videomv-mini-refined.yaml",
            "videomv-mini-refined.yaml refine.weights=mini-video", "mvdream-mini.yaml"]  # fmt: skip
    found = [recipes.what_counts(row) for row in rows]
    assert len({str({**of, "row": ""}) for of in found}) == len(rows)
    assert [("gaussians" in of, "refining" in of) for of in found] == [(True, False)] * 3 + [(True, True)] * 2 + [
        (False, False)
    ]


def test_an_asset_is_read_in_the_axes_of_the_world_and_its_mesh_may_be_there_before_the_end(recipes, monkeypatch):
    told = []

    def command(words, **_):
        told.extend(words)
        folder = Path(next(word for word in words if word.startswith("output_root=")).partition("=")[2])
        box = trimesh.creation.box((0.2, 0.4, 0.6))  # wide, high and deep in glTF: y, z and x of the world
        box.apply_translation((0.0, 0.5, 0.0)).export(folder / "asset.glb")
        time.sleep(0.3)
        return CompletedProcess(words, 0, "", "")

    monkeypatch.setattr(recipes.subprocess, "run", command)
    asset = recipes.asset_of("some.yaml", ["prompt=a box"])
    assert told[2:4] == ["--config", "some.yaml"] and told[-2:] == ["seed=0", "prompt=a box"]
    low, high = asset.mesh.vertices.min(0), asset.mesh.vertices.max(0)
    np.testing.assert_allclose([low, high], [[-0.3, -0.1, 0.3], [0.3, 0.1, 0.7]], atol=1e-6)
    assert -0.05 < asset.mesh_seconds < asset.seconds - 0.2  # a file system's clock may lag by some milliseconds

    monkeypatch.setattr(recipes.subprocess, "run", lambda words, **_: CompletedProcess(words, 3, "", "no such weights"))
    with pytest.raises(ThreedgenError, match=r"some.yaml  ended with 3: no such weights"):
        recipes.asset_of("some.yaml", [])
