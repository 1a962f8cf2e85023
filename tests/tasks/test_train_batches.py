"""Batches against what they are drawn from: whole and in parts, with every random choice counted."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from threedgen.cameras import Cameras, mvdream_camera_vectors, orbit
from threedgen.config.schema import Config
from threedgen.config.training import TrainBackground, TrainConfig
from threedgen.core.errors import ConfigError
from threedgen.data.training_samples import CaptionedImage, ViewSet
from threedgen.tasks.training.batches import (
    Part,
    TrainingBatches,
    TrainingSources,
    draw_ahead,
    parts_of_process,
    with_asset_suffix,
)

SIZE = 4  # pixels


class Objects:
    """Object i is named and coloured after its number; its pictures are opaque but for the first row."""

    def __len__(self):
        return 20

    def draw(self, index, rng):
        images = np.full((4, SIZE, SIZE, 4), 255, np.uint8)
        images[..., :3] = 10 * index
        images[:, 0] = 0
        elevation = index + 0.5 * rng.random()
        return ViewSet(images, orbit([0, 90, 180, 270], elevation, 2, 40, 8, num_views=4), f"object {index}")


class Pictures:
    def __len__(self):
        return 20

    def draw(self, index, rng):
        return CaptionedImage(np.full((SIZE, SIZE, 4), 255, np.uint8), f"picture {index}")


def batches(sources=None, **train):
    config = Config(seed=3, train=replace(TrainConfig(batch_objects=4), **train))
    return TrainingBatches(config, sources or TrainingSources(Objects(), Pictures()), (4, 2, 2))


def equal(a, b):
    tensors = [(a.images, b.images), (a.timestep, b.timestep), (a.noise, b.noise)]
    tensors += [(mvdream_camera_vectors(a.cameras), mvdream_camera_vectors(b.cameras))] if a.cameras is not None else []
    return a.captions == b.captions and all(torch.equal(x, y) for x, y in tensors)


def test_a_step_is_objects_with_cameras_or_as_many_single_images_without():
    drawn = [batches().draw(step) for step in range(300)]
    multiview = [batch for batch in drawn if batch.cameras is not None]
    assert 0.6 < len(multiview) / 300 < 0.8
    for batch in drawn:
        assert batch.images.shape == (16, 3, SIZE, SIZE) and batch.noise.shape == (16, 4, 2, 2)
        by_object = batch.timestep.unflatten(0, (len(batch.captions), batch.num_views))
        assert (by_object == by_object[:, :1]).all()
        kind, num_views = ("object", 4) if batch.cameras is not None else ("picture", 1)
        assert batch.num_views == num_views
        assert all(caption == "" or caption.startswith(kind) for caption in batch.captions)
    for batch in multiview:  # caption, picture and cameras are of the same object
        colors = batch.images[:, 0, 1, 1].unflatten(0, (4, 4))
        elevation = batch.cameras.elevation.rad2deg().unflatten(0, (4, 4))
        for i, caption in enumerate(batch.captions):
            if caption:
                number = int(caption.split(",")[0].split()[1])
                assert torch.allclose(colors[i], torch.tensor(10 * number / 255))
                assert (elevation[i].add(1e-3).floor() == number).all()


def test_captions_are_dropped_and_marked_as_often_as_the_settings_say():
    captions = [c for step in range(400) for c in batches(multiview_probability=1.0).draw(step).captions]
    share = 1 / len(captions) ** 0.5
    assert captions.count("") / len(captions) == pytest.approx(0.1, abs=1.5 * share)
    kept = [c for c in captions if c]
    assert sum(c.endswith(", 3d asset") for c in kept) / len(kept) == pytest.approx(0.5, abs=2 * share)
    always = batches(multiview_probability=1.0, asset_suffix_probability=1.0, text_drop_probability=0.0)
    assert all(c.endswith(", 3d asset") for c in always.draw(0).captions)
    pictures = batches(multiview_probability=0.0, asset_suffix_probability=1.0)
    assert not any("3d" in c for step in range(20) for c in pictures.draw(step).captions)
    assert with_asset_suffix("a 3D printed cat") == "a 3D printed cat"


def test_a_picture_is_kept_back_with_its_text_as_often_as_the_setting_says():
    """And everything else of a step is what it is without pictures."""
    settings = {"multiview_probability": 1.0, "text_drop_probability": 0.5, "image_drop_probability": 0.2}
    drawn = [batches(image_conditioning=True, **settings).draw(step) for step in range(200)]
    shown = torch.cat([batch.shown for batch in drawn])
    captions = [caption for batch in drawn for caption in batch.captions]
    share = 1 / len(captions) ** 0.5
    assert shown.float().mean().item() == pytest.approx(0.8, abs=2 * share)
    assert not any(caption for caption, is_shown in zip(captions, shown, strict=True) if not is_shown)
    kept = [caption != "" for caption, is_shown in zip(captions, shown, strict=True) if is_shown]
    assert sum(kept) / len(kept) == pytest.approx(0.5, abs=2 * share)
    plain = [batches(**settings).draw(step) for step in range(20)]
    assert all(batch.shown.all() for batch in plain)
    for ours, theirs in zip(drawn, plain, strict=False):
        assert equal(replace(ours, captions=theirs.captions), theirs)


def test_timesteps_and_noise_are_uniform_and_normal():
    drawn = [batches().draw(step) for step in range(300)]
    timesteps = torch.cat([batch.timestep for batch in drawn if batch.cameras is None])
    quarters = torch.bincount(timesteps * 4 // 1000, minlength=4) / len(timesteps)
    assert timesteps.min() >= 0 and timesteps.max() <= 999
    assert torch.allclose(quarters, torch.tensor(0.25), atol=0.05)
    noise = torch.cat([batch.noise.flatten() for batch in drawn])
    assert abs(noise.mean()) < 0.02 and abs(noise.std() - 1) < 0.02


@pytest.mark.parametrize("kind", TrainBackground)
def test_the_views_of_a_set_share_a_background_as_the_setting_says(kind):
    shown = torch.cat([batches(background=kind).draw(step).images[:, :, 0] for step in range(60)])
    multiview = batches(background=kind, multiview_probability=1.0)
    sets = torch.cat([multiview.draw(step).images[:, :, 0].unflatten(0, (4, 4)) for step in range(60)])
    assert (sets == sets[:, :1]).all()
    colors = sets[:, 0, :, 0]
    is_grey = (colors == colors[:, :1]).all(1)
    if kind is TrainBackground.random_grey:
        assert is_grey.all() and 0.2 < colors.std() < 0.4
    elif kind is TrainBackground.mid_grey:
        assert (colors == 0.5).all()
    else:
        assert 0.4 < is_grey.float().mean() < 0.6 and (colors[is_grey] == 0.5).all()
        assert 0.2 < colors[~is_grey].std() < 0.4
    assert shown.min() >= 0 and shown.max() <= 1


@pytest.mark.parametrize(("processes", "accumulate"), [(1, 1), (2, 1), (1, 4), (2, 2)])
def test_the_parts_of_all_processes_are_the_step(processes, accumulate):
    of_all = [part for r in range(processes) for part in parts_of_process(4, r, processes, accumulate)]
    for step in range(6):
        whole = batches().draw(step)
        parts = [batches().draw(step, part) for part in of_all]
        assert [c for part in parts for c in part.captions] == whole.captions
        for name in ("images", "timestep", "noise"):
            assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))
        if whole.cameras is not None:
            joined = Cameras.joined([part.cameras for part in parts])
            assert torch.equal(joined.camera_to_world, whole.cameras.camera_to_world)


def test_drawing_ahead_in_threads_changes_nothing():
    order = [(step, part) for step in range(5, 12) for part in (Part(0, 2), Part(1, 2))]
    inline, ahead = (list(draw_ahead(batches(), order, workers)) for workers in (0, 3))
    assert len(inline) == len(ahead) == len(order)
    assert all(equal(a, b) for a, b in zip(inline, ahead, strict=True))
    assert not any(torch.equal(a.noise, b.noise) for a, b in pairwise(inline) if a.noise.shape == b.noise.shape)


def test_without_2d_data_every_step_is_multiview():
    alone = batches(TrainingSources(Objects(), None))
    assert all(alone.draw(step).cameras is not None for step in range(40))


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(ConfigError, match=r"train.batch_objects=6 .* 2 processes times train.accumulate=2: .* of 4"):
        parts_of_process(6, 0, 2, 2)
