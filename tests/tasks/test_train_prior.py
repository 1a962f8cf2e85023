"""Training a prior, tiny: it resumes bit for bit, keeps the two kinds of batches apart, and gives a loadable prior."""

from dataclasses import replace

import pytest
import torch

from threedgen.config.schema import CameraConfig, Config, Task, TrainConfig
from threedgen.diffusion.prior import MultiViewPrior
from threedgen.runs.directory import open_run
from threedgen.tasks import train_prior

TINY = Config(
    task=Task.train_prior,
    camera=CameraConfig(fov_y_deg_range=(36.0, 44.0), distance_range=(0.85, 0.95)),
    train=TrainConfig(
        steps=4,
        vae_steps=4,
        vae_batch=4,
        batch_objects=2,
        num_objects=6,
        num_patterned_images=6,
        render_workers=1,
        checkpoint_every=2,
        sample_every=100,
        warmup_steps=1,
    ),
)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return replace(TINY, output_root=str(tmp_path_factory.mktemp("outputs")))


def _train(config, folder):
    with open_run(folder, config) as run:
        return train_prior.run(config, run)


class _Stopped(Exception):
    pass


def test_a_stopped_training_resumes_to_the_same_weights(config, tmp_path, monkeypatch):
    straight = _train(config, tmp_path / "straight")
    for name, at in (("_train_vae", 3), ("_train_prior", 3)):
        monkeypatch.setattr(train_prior, "learning_rate", _stopping(train_prior.learning_rate, name, at))
        with pytest.raises(_Stopped):
            _train(config, tmp_path / "stopped")
        monkeypatch.undo()
    resumed = _train(config, tmp_path / "stopped")
    first, second = (MultiViewPrior.from_pretrained(results["prior"]) for results in (straight, resumed))
    for (name, a), (_, b) in zip(first.state_dict().items(), second.state_dict().items(), strict=True):
        assert torch.equal(a, b), name
    assert straight["samples"].exists()


def _stopping(learning_rate, function, at):
    """A learning rate that stops one of the two loops at a step."""
    import inspect

    def stop(step, *args):
        if step == at and inspect.stack()[1].function == function:
            raise _Stopped
        return learning_rate(step, *args)

    return stop


def test_batches_are_objects_with_cameras_or_single_images_without(config, tmp_path):
    with open_run(tmp_path / "run", config) as run:
        seen = {}

        def remember(config_, run_, vae, batches):
            seen["batches"] = batches
            raise _Stopped

        with pytest.MonkeyPatch.context() as patch, pytest.raises(_Stopped):
            patch.setattr(train_prior, "_train_prior", remember)
            train_prior.run(config, run)
    batches = [seen["batches"](step) for step in range(60)]
    multiview = [batch for batch in batches if batch[2] is not None]
    single = [batch for batch in batches if batch[2] is None]
    assert 0.5 < len(multiview) / 60 < 0.9
    for latents, captions, camera in multiview:
        assert latents.shape == (8, 4, 16, 16) and camera.shape == (8, 16) and len(captions) == 2
        assert not any("stripes" in caption or "dots" in caption for caption in captions)
    for latents, captions, _ in single:
        assert len(latents) == len(captions) == 8
    words = [caption for _, captions, _ in batches for caption in captions]
    assert 0.03 < words.count("") / len(words) < 0.25
    assert any(caption.endswith(", 3d asset") for caption in words)
    again = seen["batches"](7)
    assert torch.equal(again[0], batches[7][0]) and again[1] == batches[7][1]
