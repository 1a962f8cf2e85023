"""Views from text: the cameras are MVDream's own, and what is written says which they are."""

import json

import pytest
import torch

from threedgen import cli
from threedgen.cameras import mvdream_camera_vectors
from threedgen.config.load import load_config
from threedgen.tasks.sample_views import view_cameras


@pytest.mark.parametrize(
    ("key", "settings"),
    [
        ("cam.get_camera_nf4_el15_az90", []),
        ("cam.get_camera_nf4_el15_az0_default", ["views.camera_azimuth=0"]),
        (
            "cam.get_camera_nf3_el30_az10_span180",
            [
                "views.num_frames=3",
                "views.camera_elevation=30",
                "views.camera_azimuth=10",
                "views.camera_azimuth_span=180",
            ],
        ),
    ],
)
def test_cameras_are_the_reference_s(goldens, key, settings):
    cameras = view_cameras(load_config("views-mini.yaml", settings))
    torch.testing.assert_close(mvdream_camera_vectors(cameras), goldens[key].float(), atol=2e-6, rtol=0)


def test_a_span_of_zero_repeats_one_camera():
    cameras = view_cameras(load_config("views-mini.yaml", ["views.camera_azimuth_span=0"]))
    assert torch.equal(cameras.camera_to_world, cameras.camera_to_world[:1].expand(4, -1, -1))


def test_the_command_writes_views_and_their_cameras(tmp_path):
    settings = ["prompt=a red cat", f"output_root={tmp_path}", "views.num_inference_steps=2", "views.num_frames=3"]
    assert cli.main(["--config", "views-mini.yaml", *settings, "num_threads=1"]) == 0
    assert len(list(tmp_path.rglob("view-*.png"))) == 3
    (described,) = (json.loads(path.read_text()) for path in tmp_path.rglob("cameras.json"))
    assert described["azimuth_deg"] == pytest.approx([0, 120, 240], abs=1e-4)
    assert torch.tensor(described["camera_to_world"]).shape == (3, 4, 4)
