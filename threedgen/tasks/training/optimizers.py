"""What the networks of a training are optimised by, and how fast."""

from collections.abc import Iterable

import torch
from torch import nn

from threedgen.config.training import TrainConfig, TrainOptimizer
from threedgen.training.loop import Pace
from threedgen.training.muon import Muon


def make_optimizer(train: TrainConfig, named: Iterable[tuple[str, nn.Parameter]]) -> torch.optim.Optimizer:
    """That of `train.optimizer`, for parameters by name."""
    if train.optimizer is TrainOptimizer.muon:
        return Muon(named, lr=train.lr, betas=train.betas, weight_decay=train.weight_decay)
    parameters = [parameter for _, parameter in named]
    return torch.optim.AdamW(parameters, lr=train.lr, betas=train.betas, weight_decay=train.weight_decay, fused=True)


def pace_of(train: TrainConfig, threads: int) -> Pace:
    """That of the network itself; threads: of a step on a CPU, see `Pace`."""
    return Pace(
        train.steps,
        train.lr,
        train.minutes,
        train.warmup_steps,
        train.decay_fraction,
        train.checkpoint_every,
        threads,
    )
