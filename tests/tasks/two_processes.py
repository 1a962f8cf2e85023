"""Run by torchrun in each of two processes: one training to its end, another stopped in its sixth step and resumed."""

import sys

import torch

from threedgen import cli
from threedgen.training import loop


class Stopped(Exception):
    pass


def stopped_in_step_six(step, *args):
    if step == 5:
        raise Stopped
    return learning_rate(step, *args)


straight, stopped = sys.argv[1:]  # recipes
torch.distributed.init_process_group("gloo")  # torchrun lets a process join once
assert cli.main(["--config", straight]) == 0
learning_rate, loop.learning_rate = loop.learning_rate, stopped_in_step_six
try:
    cli.main(["--config", stopped])
except Stopped:
    loop.learning_rate = learning_rate
    assert cli.main(["--config", stopped]) == 0
torch.distributed.destroy_process_group()
