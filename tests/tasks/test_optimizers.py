"""The optimisers of a training and its pace are what the settings say."""

import torch
from torch import nn

from threedgen.config.training import TrainConfig, TrainOptimizer
from threedgen.tasks.training.optimizers import make_optimizer, pace_of
from threedgen.training.loop import Pace
from threedgen.training.muon import Muon


def test_an_optimizer_has_the_numbers_of_the_settings():
    for optimizer, kind in ((TrainOptimizer.adamw, torch.optim.AdamW), (TrainOptimizer.muon, Muon)):
        train = TrainConfig(optimizer=optimizer, lr=0.3, betas=(0.5, 0.6), weight_decay=0.7)
        made = make_optimizer(train, nn.Linear(32, 32).named_parameters())
        (group,) = made.param_groups
        assert type(made) is kind and len(group["params"]) == 2
        assert (group["lr"], tuple(group["betas"]), group["weight_decay"]) == (0.3, (0.5, 0.6), 0.7)


def test_a_pace_is_that_of_the_settings():
    train = TrainConfig(steps=9, lr=0.3, minutes=1.5, warmup_steps=4, decay_fraction=0.2, checkpoint_every=3)
    expected = Pace(steps=9, lr=0.3, minutes=1.5, warmup_steps=4, decay_fraction=0.2, checkpoint_every=3, threads=2)
    assert pace_of(train, 2) == expected
