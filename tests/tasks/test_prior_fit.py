"""What the report says of scene and prior, with a prior whose answer is known."""

from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch

from threedgen.cameras import SHEET_AZIMUTHS, SHEET_ELEVATION, viewing_cameras
from threedgen.config.load import load_config
from threedgen.diffusion.denoising import Denoised
from threedgen.diffusion.schedule import NoiseSchedule, stable_diffusion_schedule
from threedgen.runs.directory import open_run
from threedgen.runs.events import read_events
from threedgen.scene.output import RenderOutput
from threedgen.tasks import generate, scene_optimizer
from threedgen.tasks.export import prior_fit
from threedgen.tasks.prior_fit import note_prior_fit


class Stubborn:
    """Whatever it is shown, it draws one level of grey; its codec loses 0.01 of the light."""

    is_video, image_size, device = False, 16, torch.device("cpu")
    calls: ClassVar[list] = []
    noisiest = 0  # timestep that it was asked at
    schedule = NoiseSchedule(stable_diffusion_schedule().alphas_cumprod)

    def encode_images(self, images):
        self.calls.append(images)
        return images

    def decode(self, latents):
        return latents - 0.01

    def denoise(self, noisy, timestep, told):
        self.told, self.noisiest = told, max(self.noisiest, int(timestep[0]))
        alpha, sigma = self.schedule.level(timestep)
        x0 = torch.full_like(noisy, 0.71)
        return Denoised((noisy - alpha * x0) / sigma, x0)


class Grey:
    def render(self, cameras):
        self.cameras = cameras
        level = torch.full((len(cameras), cameras.height, cameras.width, 3), 0.4)
        return RenderOutput(level, level[..., :1], level[..., :1])


def test_the_difference_to_what_the_prior_draws_is_told(tmp_path, capsys):
    settings = ["prompt=a red cat", "refine.strength=0.4"]  # which is of refinement alone
    config, prior, scene = load_config("mvdream-mini.yaml", settings), Stubborn(), Grey()
    with open_run(tmp_path, config) as run:
        run.events.write("prior_fit", step=7, psnr=1.0)  # before it was done again
        note_prior_fit(scene, config, run, prior, torch.zeros(1, 4, 8), torch.zeros(1, 4, 8), 7)
    expected = viewing_cameras(config.camera, SHEET_AZIMUTHS, SHEET_ELEVATION, 16)
    assert torch.equal(scene.cameras.camera_to_world, expected.camera_to_world)
    assert prior.noisiest == 750
    assert prior.told.num_views == 4 and [call.unique().tolist() for call in prior.calls] == [pytest.approx([0.4])] * 2
    fit = prior_fit(tmp_path, 7)
    # 0.4 against 0.71 - 0.01; DDIM ends at timestep 0, where a little of the noise is left
    assert fit["psnr"] == pytest.approx(-20 * np.log10(0.3), abs=0.1)
    assert fit["codec_psnr"] == pytest.approx(40, abs=0.02)
    assert (fit["step"], fit["strength"], fit["views"]) == (7, 0.75, 4)
    assert "10.5 dB" in capsys.readouterr().out
    assert prior_fit(tmp_path, 8) is None and prior_fit(tmp_path / "none", 7) is None  # of another scene, or unmeasured


def test_asking_the_prior_counts_as_no_part_of_the_export(tmp_path, monkeypatch, capsys):
    clock, config = [0.0], load_config("mvdream-mini.yaml", ["prompt=a red cat"])

    def takes(seconds, result=None):
        def work(*_):
            clock[0] += seconds
            return result

        return work

    prior = SimpleNamespace(without_text_encoder=lambda: None)
    parts = {"check_export": takes(0), "load_prior": takes(1, prior), "read_prompts": takes(0, config)}
    parts |= {"encode_prompts": takes(0, [None] * 3), "show_views": takes(2), "optimize": takes(4, (None, 3))}
    parts |= {"note_prior_fit": takes(8), "export_scene": takes(16, {})}
    for name, work in parts.items():
        monkeypatch.setattr(generate, name, work)
    for module in (generate, scene_optimizer):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    with open_run(tmp_path, config) as run:
        generate.run(config, run)
    (timing,) = (event for event in read_events(tmp_path / "events.jsonl") if event["event"] == "timing")
    assert (timing["optimize"], timing["export"]) == (7, 16)
    assert "7 s to optimise, 16 s to export" in capsys.readouterr().out
