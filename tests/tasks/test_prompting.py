"""What a run shows of the prior alone, with a prior that shows where its cameras stand."""

from types import SimpleNamespace

import pytest

from threedgen.config.load import load_config
from threedgen.config.sampling import Sampler
from threedgen.tasks import prompting


@pytest.mark.parametrize(("is_video", "apart"), [(False, 90), (True, 15)])
def test_the_sheet_shows_its_four_sides_however_many_views_are_drawn(monkeypatch, is_video, apart):
    asked = {}

    def draw(prior, prompts, cameras, noise, **how):
        azimuths = cameras.azimuth.rad2deg().round()
        asked.update(how, prompts=prompts, steps=(azimuths.roll(-1) - azimuths) % 360)
        return azimuths.view(-1, 1, 1, 1).expand(-1, 3, 2, 2)

    monkeypatch.setattr(prompting, "sample_views", draw)
    views = ["rescale=0.3", "guidance_scale=4", "num_inference_steps=7", "sampler=unipc", "guidance_range=[0.2,0.9]"]
    settings = ["prompt=a cat", "negative_prompt=a dog", *(f"views.{word}" for word in views)]
    prior = SimpleNamespace(is_video=is_video, image_size=2)
    shown = prompting.draw_prompt(load_config("mvdream-mini.yaml", settings), prior)
    assert shown.shape == (4, 2, 2, 3) and shown[:, 0, 0, 0].tolist() == [20, 110, 200, 290]
    assert (asked["steps"] == apart).all() and len(asked["steps"]) == 360 / apart
    assert (asked["prompts"], asked["negative_prompt"]) == (["a cat"], "a dog")
    assert (asked["rescale"], asked["guidance_scale"], asked["num_inference_steps"]) == (0.3, 4.0, 7)
    assert asked["guidance_range"] == (0.2, 0.9) and asked["sampler"] is Sampler.unipc and asked["mix"] is None
