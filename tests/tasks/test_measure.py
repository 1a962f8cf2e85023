"""True views and faulty ones in a run's folder, an asset of two halves, and judges that take notes."""

import json

import numpy as np
import pytest
import torch

from threedgen import cli
from threedgen.cameras import orbit, viewing_cameras
from threedgen.config.load import load_config, to_yaml
from threedgen.data.miniworld import build, parse
from threedgen.imaging import save_png
from threedgen.mesh.gltf import write_glb
from threedgen.mesh.types import ColoredMesh
from threedgen.metrics.clip_score import CLIPScore
from threedgen.metrics.perceptual import LPIPS
from threedgen.scene.output import RenderOutput
from threedgen.tasks.evaluation import dense_views
from threedgen.tasks.on_runs import measure_run
from threedgen.tasks.on_runs.measure_run import is_ring

CAT, SIZE = "a red cat with a green face", 32
CONFIG = load_config("views-mini.yaml", ["prompt=a red cat", "num_threads=1"])


def cameras_around(count=24, size=SIZE):
    return viewing_cameras(CONFIG.camera, np.arange(count) * 360 / count, 15.0, size)


def run_with(folder, pictures, cameras, prompt="a red cat", scale=1.0):
    """scale: of the world that the files tell of."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(to_yaml(load_config("views-mini.yaml", [f"prompt={prompt}", "num_threads=1"])))
    views = []
    for i, (picture, pose, fov_y) in enumerate(zip(pictures, cameras.camera_to_world, cameras.fov_y, strict=True)):
        save_png(picture, folder / f"view-{i}.png")
        pose = pose * torch.tensor([1, 1, 1, scale])
        views.append({"file": f"view-{i}.png", "camera_to_world": pose.tolist(), "fov_y_deg": float(fov_y.rad2deg())})
    (folder / "cameras.json").write_text(json.dumps({"views": views}))
    return folder


def grey(count):
    return np.full((count, SIZE, SIZE, 3), 0.5)


class AlmostTrue:
    """What every fit shows here, whatever it was given: the cat, each value 0.01 too large. (Real fits have their own
    tests, beside `dense_views`.)"""

    device = torch.device("cpu")

    def render(self, cameras, *, background=None):
        true = dense_views.true_views(build(parse(CAT)), cameras)
        rgb, opacity, depth = (torch.from_numpy(x).float() for x in (true.rgb + 0.01, true.opacity, true.depth))
        return RenderOutput(rgb, opacity, depth * opacity)


@pytest.fixture
def one_known_object(monkeypatch):
    monkeypatch.setattr(measure_run, "_FIT_SIZE", SIZE)
    monkeypatch.setattr(measure_run, "_KNOWN", (CAT,))

    def fit(images, cameras):
        assert images.shape[1:] == (SIZE, SIZE, 3) and (cameras.height, cameras.width) == (SIZE, SIZE)
        assert (cameras.distance * (cameras.fov_y / 2).tan()).numpy() == pytest.approx(0.9)  # half a view's height
        return AlmostTrue()

    monkeypatch.setattr(measure_run, "quick_fit", lambda settings: fit)


def figures_of(folder):
    content = json.loads((folder / "measured.json").read_text())
    return content["figures"], content["of_true_views"]


def test_views_are_measured_beside_true_ones(one_known_object, tmp_path, capsys, monkeypatch):
    cameras = cameras_around(24, 2 * SIZE)  # twice as large as they are judged
    true = dense_views.true_views(build(parse(CAT)), cameras).rgb
    monkeypatch.setattr(LPIPS, "from_files", lambda file: LPIPS("alex"))
    monkeypatch.setattr(LPIPS, "distance", lambda self, a, b: 10 * float(np.abs(a - b).mean()))
    seen = []

    def no_motion(weights, device):
        def estimate(images, others):
            seen.append(tuple(images.shape))
            return torch.zeros(len(images), 2, *images.shape[-2:])

        return estimate

    monkeypatch.setattr(measure_run, "raft_flow", no_motion)
    good = run_with(tmp_path / "good", true, cameras, scale=0.7)
    assert cli.main(["measure", str(good), "--lpips", "alex.pth", "--raft", "raft.pth"]) == 0
    printed = capsys.readouterr().out
    found, of_true = figures_of(good)
    assert of_true["novel_psnr"] == pytest.approx(40, abs=0.01)
    assert of_true["unexplained"] == pytest.approx(0.01, abs=1e-6)
    assert of_true["novel_lpips"] == pytest.approx(0.1, abs=1e-4)
    # the same views but for the averages of their pixels
    assert found["novel_psnr"] > 34 and found["unexplained"] == pytest.approx(0.01, abs=3e-3)
    assert found["fitted_flow_1"] == pytest.approx(of_true["fitted_flow_1"], abs=5e-3)
    assert found["novel_lpips"] == pytest.approx(0.1, abs=0.03)
    assert f"| novel views: PSNR dB | {found['novel_psnr']:.2f} | {of_true['novel_psnr']:.2f} |" in printed
    assert f"| RAFT's flow, neighbours | {found['seen_flow_1']:.3f} | – |" in printed
    assert set(seen) == {(24, 3, 2 * SIZE, 2 * SIZE)} and found["seen_flow_6"] > found["seen_flow_1"] > 0.05
    assert "CLIP" not in printed

    bad = run_with(
        tmp_path / "bad", true[np.where(np.arange(24) % 2, (np.arange(24) + 12) % 24, np.arange(24))], cameras
    )  # every second one is behind
    assert cli.main(["measure", str(bad)]) == 0
    assert "LPIPS" not in capsys.readouterr().out
    worse, of_true_again = figures_of(bad)
    assert worse["novel_psnr"] < found["novel_psnr"] - 10 and worse["unexplained"] > 2 * found["unexplained"]
    # each run is compared with the same, whatever its world's scale
    assert of_true_again == pytest.approx({key: of_true[key] for key in of_true_again}, rel=0.01)


def half_red_half_blue(path):
    """A triangle on the ground, red to its front, blue behind, large and far from the origin."""
    corners, aside = 5 * np.array([[0, -0.5, 0], [0, 0.5, 0], [0, 0, 1.0]]) + [9, 9, 0], np.array([0.02, 0, 0])
    vertices = np.concatenate([corners + aside, corners - aside])
    normals = np.repeat([[1.0, 0, 0], [-1.0, 0, 0]], 3, 0)
    colors = np.repeat(np.array([[255, 0, 0], [0, 0, 255]], np.uint8), 3, 0)
    write_glb(ColoredMesh(vertices, np.array([[0, 1, 2], [3, 5, 4]]), normals, colors), path)


class Clip:
    """Takes notes, and finds each picture as red as it is."""

    def __init__(self):
        self.asked = []

    def __call__(self, images, text):
        self.asked.append((np.asarray(images), text))
        return float(100 * (np.asarray(images)[..., 0] - np.asarray(images)[..., 2]).clip(0).mean())


def test_clip_is_shown_the_views_and_the_asset_from_all_sides(tmp_path, capsys, monkeypatch):
    clip, folders = Clip(), []
    monkeypatch.setattr(CLIPScore, "from_pretrained", lambda folder, device: folders.append(folder) or clip)
    run = run_with(tmp_path / "run", grey(4), cameras_around(4))
    half_red_half_blue(run / "asset.glb")
    assert cli.main(["measure", str(run), "--clip", "weights/clip"]) == 0
    (views, of_views), (sides, of_sides) = clip.asked
    assert of_views == of_sides == "a red cat" and [str(folder) for folder in folders] == ["weights/clip"]
    assert np.allclose(views, 128 / 255) and views.shape == (4, SIZE, SIZE, 3)
    assert sides.shape == (24, 224, 224, 3) and np.allclose(sides[:, 0], 1)  # on white
    front, behind = sides[0], sides[12]
    for side, channel in ((front, 0), (behind, 2)):
        colored = side[..., channel] - side[..., 2 - channel] > 0.5
        (rows, columns), widths = np.nonzero(colored), colored.sum(1)
        assert (
            130 < np.ptp(rows) < 210 and abs(rows.min() + rows.max() - 223) < 20
        )  # it fills the height, in the middle
        assert abs(columns.mean() - 111.5) < 2 and widths[rows.max() - 9] > 4 * widths[rows.min() + 9]  # upright
    found, of_true = figures_of(run)
    assert found["clip_score"] == 0 and found["asset_clip_score"] > 1 and of_true == {}
    printed = capsys.readouterr().out
    assert f"| asset: CLIP score | {found['asset_clip_score']:.2f} | – |" in printed
    assert cli.main(["measure", str(run), "--clip", "weights/clip", "--prompt", "a blue cat"]) == 0
    assert clip.asked[-1][1] == "a blue cat"


@pytest.mark.parametrize(
    ("views", "prompt", "words", "said"),
    [
        (4, "a red cat", [], "without --clip FOLDER only 24 or more views all around are measured"),
        (0, "a red cat", [], "without --clip FOLDER only 24 or more views all around are measured"),
        (0, "a red cat", ["--clip", "none"], "without --clip FOLDER only 24 or more views all around are measured"),
        (4, "", ["--clip", "none"], "no prompt that CLIP could compare with: add --prompt TEXT"),
        (4, "a red cat", ["--clip", "none", "--lpips", "x.pth"], "--lpips and --raft are for 24 or more views"),
        (4, "a red cat", ["--clip", "none"], "no CLIP model at none"),
        (24, "a red cat", ["--lpips", "none.pth"], "none.pth is not there"),
        (24, "a red cat", ["--raft", "none.pth"], "none.pth is not there"),
        (24, "a red cat", ["--speed", "9"], "unrecognized arguments"),
    ],
)
def test_what_cannot_be_measured_is_one_line(tmp_path, monkeypatch, capsys, views, prompt, words, said):
    monkeypatch.chdir(tmp_path)
    run = run_with(tmp_path / "run", grey(views), cameras_around(max(views, 1))[:views], prompt)
    if not views:
        (run / "cameras.json").unlink()
    before = sorted(run.iterdir())
    assert cli.main(["measure", str(run), *words]) in (2, 3)
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and said in error
    assert sorted(run.iterdir()) == before


def test_a_folder_that_is_no_run(tmp_path, capsys):
    assert cli.main(["measure", str(tmp_path)]) == 2
    assert "there is no run in that folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("azimuths", "closed"),
    [
        (np.arange(36) * 10, True),
        (np.arange(24) * 15 + 100, True),
        (np.arange(20) * 18, False),  # too few
        (np.arange(25) * 14.4, False),  # half of them is no number
        (np.arange(24) * 12, False),  # not all around
        (np.arange(24) * -15, False),  # the other way round
        (np.arange(24) * 15 + (np.arange(24) == 3), False),
        (np.arange(48) * 15, False),  # twice around
    ],
)
def test_which_views_close_a_ring(azimuths, closed):
    assert is_ring(orbit(azimuths, 20.0, 2.0, 40.0, 8)) is closed
