"""A scene's optimiser against torch's own, with the config's numbers and the rates of its span."""

from types import SimpleNamespace

import torch

from threedgen.config.load import load_config
from threedgen.config.scene import BackendName
from threedgen.config.schedules import Schedule
from threedgen.ops.backends import select_backend
from threedgen.tasks.scene_optimizer import SceneOptimizer, Span


def test_steps_are_adamw_s_with_the_numbers_of_the_config_and_the_rates_of_the_span():
    words = ["betas=[0.5, 0.6]", "eps=0.3", "weight_decay=0.4"]
    config = load_config(None, [f"optimizer.{word}" for word in words])
    ours, theirs = (torch.nn.Parameter(torch.tensor([1.0, -2.0])) for _ in range(2))
    kept = []
    scene = SimpleNamespace(
        ops=select_backend(BackendName.plain, "cpu"),
        param_groups=lambda rates: [{"params": [ours], "lr": 0.1}],
        after_step=lambda step, optimizer: kept.append(step),
    )
    optimizer = SceneOptimizer(scene, config, Span(10, 20, Schedule(1.0, 0.5)))
    reference = torch.optim.AdamW([theirs], betas=(0.5, 0.6), eps=0.3, weight_decay=0.4)
    for step in range(10, 20):
        optimizer.step((ours.pow(3) * step).sum(), step, lambda step, loss: step != 13)
        reference.param_groups[0]["lr"] = 0.1 * (1 - 0.05 * (step - 10))
        reference.zero_grad()
        (theirs.pow(3) * step).sum().backward()
        if step != 13:
            reference.step()
        torch.testing.assert_close(ours, theirs)
    assert kept == [*range(10, 20)]  # the scene's own housekeeping, also after a step that is left out
