"""The weights that come with the package: whole, small, and true to captions they never saw."""

from random import Random

import numpy as np
import pytest
import torch

from threedgen.cameras import viewing_cameras
from threedgen.config.load import load_config
from threedgen.core.files import verify_folder
from threedgen.data.miniworld import build, held_out, parse, render
from threedgen.diffusion.checkpoints.locate import BUNDLED_FOLDER, BUNDLED_NAMES
from threedgen.diffusion.prior import MultiViewPrior
from threedgen.diffusion.sampling import sample_views
from threedgen.metrics.image import psnr


def test_files_are_as_recorded_and_small():
    folders = [BUNDLED_FOLDER.parent / name for name in BUNDLED_NAMES]
    assert all(verify_folder(folder) for folder in folders)
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    sizes = [path.stat().st_size for path in files]
    assert max(sizes) < 12e6 and sum(sizes) < 35e6
    assert not [path for path in files if path.suffix in (".bin", ".pt", ".pth")]


def test_views_of_held_out_captions_match_their_own_truth_best():
    """Against ground truth at the same cameras; the control is the truth of the other captions."""
    prior = MultiViewPrior.from_pretrained("mini")
    config = load_config("views-mini.yaml")
    specs = held_out()[:4]
    cameras = viewing_cameras(config.camera, [20, 110, 200, 290], 15, 64)
    images = sample_views(
        prior,
        [spec.caption for spec in specs],
        cameras,
        torch.Generator().manual_seed(0),
        num_inference_steps=config.views.num_inference_steps,
        guidance_scale=config.views.guidance_scale,
    )
    views = images.unflatten(0, (len(specs), 4)).movedim(2, -1).numpy()
    truths = [render(build(s), cameras.camera_to_world.numpy(), cameras.fov_y.numpy(), 64) for s in specs]
    scores = np.array(
        [[psnr(v[t.opacity[..., 0] > 0.5], t.rgb[t.opacity[..., 0] > 0.5]) for t in truths] for v in views]
    )
    own = np.diag(scores)
    assert (scores.argmax(1) == np.arange(len(specs))).all(), scores
    assert own.mean() > 17, own


@pytest.mark.slow
def test_a_whole_turn_of_views_follows_its_cameras():
    """24 views of held-out captions: nearest to their own truth, and turned round the other way, farther from it."""
    prior = MultiViewPrior.from_pretrained("mini-video")
    config = load_config("videomv-mini.yaml")
    specs = held_out()[1:3]
    cameras = viewing_cameras(config.camera, [15 * k for k in range(24)], 15, 64)
    images = sample_views(
        prior,
        [spec.caption for spec in specs],
        cameras,
        torch.Generator().manual_seed(0),
        num_inference_steps=6,
        guidance_scale=config.views.guidance_scale,
    )
    views = images.unflatten(0, (len(specs), 24)).movedim(2, -1).numpy()
    truths = [render(build(s), cameras.camera_to_world.numpy(), cameras.fov_y.numpy(), 64) for s in specs]
    for i, seen in enumerate(views):
        scores = [psnr(seen[t.opacity[..., 0] > 0.5], t.rgb[t.opacity[..., 0] > 0.5]) for t in truths]
        backwards = np.roll(seen[::-1], 1, 0)
        inside = truths[i].opacity[..., 0] > 0.5
        assert np.argmax(scores) == i and scores[i] > 14, scores
        assert psnr(backwards[inside], truths[i].rgb[inside]) < scores[i]


@pytest.mark.slow
def test_a_picture_is_drawn_from_all_sides():
    """Two pictures without a word: each object's views are nearest to its own truth, by far."""
    prior = MultiViewPrior.from_pretrained("mini-video-i2v")
    config = load_config("videomv-i2v-mini.yaml")
    cat, elephant = (parse(text) for text in ("a red cat with a green face", "a blue elephant wearing a yellow hat"))
    cameras = viewing_cameras(config.camera, [15 * k for k in range(24)], 15, 64)
    poses, fov_y = cameras.camera_to_world.numpy(), cameras.fov_y.numpy()
    truths = [render(build(spec, Random(3)), poses, fov_y, 64) for spec in (cat, elephant)]
    fronts = torch.from_numpy(np.stack([truth.rgb[0] for truth in truths])).movedim(-1, 1)
    with torch.no_grad():
        picture = prior.show(fronts)
    images = sample_views(
        prior,
        ["", ""],
        cameras,
        torch.Generator().manual_seed(0),
        num_inference_steps=6,
        guidance_scale=config.views.guidance_scale,
        picture=picture,
    )
    views = images.unflatten(0, (2, 24)).movedim(2, -1).numpy()
    for i, seen in enumerate(views):
        own, other = (
            psnr(seen[t.opacity[..., 0] > 0.5], t.rgb[t.opacity[..., 0] > 0.5]) for t in (truths[i], truths[1 - i])
        )
        assert own > 14 and own > other + 4, (own, other)
