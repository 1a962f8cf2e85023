"""The tables that tasks `evaluate` and `ablation` make."""

from dataclasses import dataclass

from threedgen.config.setting import setting


@dataclass
class EvalConfig:
    prompts: int = setting(6, 1)
    num_cameras: int = setting(16, 1, 1024)
    image_size: int = setting(64, 8, 8192)
    views: tuple[int, ...] = setting((4, 1), 1, 64)  # guidance with this many views, one column of the table each
    workers: int = setting(1, 1, 1024, incidental=True)  # prompts evaluated at once, each in a process of its own


# the tables of task ablation, in the order in which they are made
ABLATION_TABLES = ("views", "annealing", "guidance", "rescale", "loss", "attention", "camera", "data")


GUIDED_TABLES = ("joint", "joint-assets")  # another paper's, made where they are asked for
RECIPE_TABLES = ("recipe", "refinement")  # of the recipe itself, made where they are asked for


@dataclass
class AblationConfig:
    """The paper's ablations on held-out captions; cameras, picture size and processes are those of `eval`."""

    only: tuple[str, ...] = ()  # some of ABLATION_TABLES, such as [views, rescale], or of the others; empty: the former
    prompts: int = setting(32, 1)
    pictured_prompts: int = setting(4, 1, 64)  # columns of a table's picture, two views each
    base_steps: int = setting(2000, 1)  # training on single pictures, from which every variant of the prior starts
    prior_steps: int = setting(5000, 1)  # training of each variant
    multiview_weights: str = ""  # of table joint: a prior that knows no pattern; "": trained, by train-plain-mini.yaml
    image_weights: str = ""  # and a 2D one that does; "": trained, by train-patterned-mini.yaml
