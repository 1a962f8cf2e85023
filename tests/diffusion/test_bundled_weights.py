"""The weights that come with the package: whole, small, and true to captions they never saw."""

import numpy as np
import torch

from threedgen.cameras import viewing_cameras
from threedgen.config.load import load_config
from threedgen.core.files import verify_folder
from threedgen.data.miniworld import build, held_out, render
from threedgen.diffusion.checkpoints.locate import BUNDLED_FOLDER
from threedgen.diffusion.prior import MultiViewPrior
from threedgen.diffusion.sampling import sample_views
from threedgen.metrics.image import psnr


def test_files_are_as_recorded_and_small():
    assert verify_folder(BUNDLED_FOLDER)
    sizes = [path.stat().st_size for path in BUNDLED_FOLDER.rglob("*") if path.is_file()]
    assert max(sizes) < 12e6 and sum(sizes) < 12e6
    assert not list(BUNDLED_FOLDER.rglob("*.bin")) and not list(BUNDLED_FOLDER.rglob("*.pt"))


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
