"""Which prior draws 24 views that are one object, and how is it best sampled? On miniworld's held-out captions.

    .venv/bin/python benchmarks/dense_priors.py                      VideoMV's table 1, 12 captions
    .venv/bin/python benchmarks/dense_priors.py priors aware --captions 64 --out dense-priors.json
    .venv/bin/python benchmarks/dense_priors.py aware --captions 64 --out dense-priors.json --kept
    .venv/bin/python benchmarks/dense_priors.py --rows video "3D-aware" --row "aware.every=4 aware.blend=0.7"

Tables, whose rows are configs/videomv-mini.yaml with some settings (below in this file):

priors    truth (miniworld's own pictures: what is to be had), the mini prior, which was trained on sets of four, asked
          for all 24 cameras at once, mini-video, and mini-video with 3D-aware denoising, at steps 10, 15 and 20 of 25,
          as VideoMV has it, and the recipe: six steps from the end of the schedule on (`ddim_trailing`), guided above
          0.3 of it, half of x0 at each below timestep 700
aware     3D-aware denoising: at which steps, how far, and where guidance stands
guidance  the scale of classifier-free guidance, otherwise the recipe
steps     fewer of them: of all samplers without 3D-aware denoising, and of DDIM with it, leading as MVDream counts them
          and trailing

`--row` adds one: settings of `aware`, the weights, and the steps, sampler, guidance and rescaling of `views`.

All from the same noise for a caption. Views: PSNR inside the silhouettes against the caption's object. The other
figures are those of benchmarks/dense_views.py. Below: differences of the mean with 95 % intervals over captions.

Figures in --out are found again by the settings and the weights that they are of, whatever table asks: an
interrupted command goes on, and --kept shows what is there meanwhile.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from priors_compared import (  # noqa: E402  # beside this file
    Condition,
    Figures,
    Found,
    Kept,
    carry_out,
    chosen,
    fingerprint,
    measured,
    parser_of,
    ring,
)

from threedgen.config.load import load_config  # noqa: E402
from threedgen.config.sampling import Sampler  # noqa: E402
from threedgen.config.schema import Config  # noqa: E402
from threedgen.core.errors import ConfigError  # noqa: E402
from threedgen.data.miniworld import Rendering, build, parse  # noqa: E402
from threedgen.diffusion.conditions import Conditions  # noqa: E402
from threedgen.diffusion.denoising import Denoised  # noqa: E402
from threedgen.diffusion.pipeline import MultiViewPipeline  # noqa: E402
from threedgen.diffusion.prior import MultiViewPrior  # noqa: E402
from threedgen.diffusion.sampling import ddim_timesteps  # noqa: E402
from threedgen.imaging import Row  # noqa: E402
from threedgen.metrics.novel_view import NovelViews  # noqa: E402
from threedgen.tasks.dense_views import dense_pipeline  # noqa: E402
from threedgen.tasks.evaluation.dense_views import (  # noqa: E402
    calibrated,
    figures_beside,
    novel_figures,
    true_views,
)
from threedgen.tasks.feed_forward import FeedForward, aware_timesteps  # noqa: E402
from threedgen.tasks.training.samples import psnr_inside  # noqa: E402

RECIPE = "videomv-mini.yaml"
TRUTH, FOUR, VIDEO, AWARE, HALF = "truth", "four views", "video", "3D-aware", "half at every step"
BY_RECIPE, HALF_OF_6 = "the recipe", f"{HALF}, 6"
COLUMNS = {
    "views_psnr": ("views: PSNR dB", 2),
    "novel_psnr": ("novel views: PSNR dB", 2),
    "novel_ssim": ("SSIM", 3),
    "novel_vae_distance": ("VAE distance", 4),
    "flow_1": ("true flow, 1", 3),
    "flow_6": ("6", 3),
    "azimuth_deg": ("azimuth error", 1),
}
Settings = tuple[str, ...]
SAMPLING = (
    "views.num_inference_steps=25",
    "views.sampler=ddim",
    "views.guidance_scale=2",
    "views.guidance_range=[0,1]",
    "aware.every=0",
    "aware.steps=[10,15,20]",
    "aware.blend=1",
)
PLAIN = "aware.steps=[]"
EVERY = PLAIN, "aware.every=1"
HALF_AT_EVERY = *EVERY, "aware.blend=0.5"
TRAILING, RANGE = "views.sampler=ddim_trailing", "views.guidance_range=[0.3,1]"
OF_THE_RECIPE = *HALF_AT_EVERY, TRAILING, RANGE, "views.num_inference_steps=6"
# what a row may set: the views of all rows are of the same things, from the same noise and cameras
OF_A_ROW = re.compile(r"weights|aware\.\w+|views\.(sampler|rescale|guidance_\w+|num_inference_steps)")
SCALES = 2, 3, 1.5, 1
SAMPLERS, TRAILED = [each.value for each in Sampler], (12, 8, 6, 5, 4)


@dataclass(frozen=True)
class Table:
    """rows: name -> changes of the recipe with SAMPLING. compared: pairs; the first should have the better figures."""

    rows: Mapping[str, Settings]
    compared: tuple[tuple[str, str], ...]

    @classmethod
    def against(cls, baseline: str, rows: Mapping[str, Settings]) -> Table:
        return cls(rows, tuple((name, baseline) for name in rows if name != baseline))

    @classmethod
    def joined(cls, names: list[str]) -> Table:
        """The tables of these names as one. Raises ConfigError for one that is not there."""
        if unknown := [name for name in names if name not in TABLES]:
            raise ConfigError(f"there is no table {unknown[0]!r} among {', '.join(TABLES)}")
        tables = [TABLES[name] for name in names]
        rows = {name: settings for table in tables for name, settings in table.rows.items()}
        return cls(rows, tuple(dict.fromkeys(pair for table in tables for pair in table.compared)))

    def only(self, names: list[str]) -> Table:
        """Raises ConfigError for a row that is not there."""
        if unknown := [name for name in names if name not in self.rows]:
            raise ConfigError(f"--rows: there is no {unknown[0]!r} among {', '.join(self.rows)}")
        return Table({name: self.rows[name] for name in names}, tuple(p for p in self.compared if {*p} <= {*names}))

    def beside(self, words: list[str]) -> Table:
        """With further rows, named as they are set, compared with the first of this table.

        Raises ConfigError for a setting that a row has no use for.
        """
        rows = {word: tuple(word.split()) for word in words}
        for setting in (setting for settings in rows.values() for setting in settings):
            if not OF_A_ROW.fullmatch(setting.partition("=")[0]):
                raise ConfigError(
                    f"--row {setting}: rows differ in weights, aware.*, views.num_inference_steps, views.sampler, "
                    "views.guidance_scale, views.guidance_range and views.rescale only"
                )
        first = next(iter(self.rows))
        return Table({**self.rows, **rows}, (*self.compared, *((name, first) for name in rows)))


TABLES = {
    "priors": Table(
        {
            FOUR: ("weights=mini", PLAIN),
            VIDEO: (PLAIN,),
            AWARE: (),
            BY_RECIPE: OF_THE_RECIPE,
        },
        ((VIDEO, FOUR), (AWARE, VIDEO), (AWARE, FOUR), (BY_RECIPE, AWARE), (BY_RECIPE, FOUR)),
    ),
    "aware": Table.against(
        AWARE,
        {
            VIDEO: (PLAIN,),
            AWARE: (),
            "at 10": ("aware.steps=[10]",),
            "at 20": ("aware.steps=[20]",),
            "at 10, 20": ("aware.steps=[10,20]",),
            "at 10, 12, ... 22": ("aware.steps=[10,12,14,16,18,20,22]",),
            "at every step": EVERY,
            HALF: HALF_AT_EVERY,
            "blend 0.5": ("aware.blend=0.5",),
            "guidance on the latents": ("aware.guidance=latents",),
        },
    ),
    "guidance": Table.against(
        "scale 2",
        {f"scale {scale:g}": (*OF_THE_RECIPE, f"views.guidance_scale={scale}") for scale in SCALES},
    ),
    "steps": Table(
        {VIDEO: (PLAIN,)}
        | {
            f"{sampler}, 10": (PLAIN, f"views.sampler={sampler}", "views.num_inference_steps=10")
            for sampler in SAMPLERS
        }
        | {AWARE: (), "3D-aware, 10": ("views.num_inference_steps=10", "aware.steps=[4,6,8]")}
        | {HALF: HALF_AT_EVERY, f"{HALF}, leading 6": (*HALF_AT_EVERY, "views.num_inference_steps=6")}
        | {f"{HALF}, {n}": (*HALF_AT_EVERY, TRAILING, f"views.num_inference_steps={n}") for n in TRAILED}
        | {BY_RECIPE: OF_THE_RECIPE},
        (
            *((f"{sampler}, 10", VIDEO) for sampler in SAMPLERS),
            ("3D-aware, 10", AWARE),
            *((f"{HALF}, {steps}", HALF) for steps in ("leading 6", *TRAILED)),
            (BY_RECIPE, HALF_OF_6),
        ),
    ),
}


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("tables", nargs="*", default=["priors"], metavar="TABLE", help=f"of {', '.join(TABLES)}")
    parser.add_argument("--rows", nargs="+", metavar="NAME", help="only these rows of the table")
    parser.add_argument("--row", action="append", default=[], metavar="SETTINGS", help="one more row, of `key=value`s")
    given = parser.parse_args()
    try:
        table = Table.joined(given.tables)
        table = (table if given.rows is None else table.only(given.rows)).beside(given.row)
        configs = {name: load_config(RECIPE, [*SAMPLING, *settings]) for name, settings in table.rows.items()}
    except ConfigError as error:
        parser.error(str(error))
    return carry_out(given, lambda given, kept: compare(given, kept, configs), COLUMNS, table.compared)


def compare(given: argparse.Namespace, kept: Kept, configs: Mapping[str, Config]) -> tuple[Found, list[Row]]:
    specs, cameras = chosen(given.captions), ring(load_config(RECIPE))

    @cache
    def truth(caption: str) -> Rendering:
        return true_views(build(parse(caption)), cameras)

    @cache
    def novel() -> NovelViews:
        return calibrated([build(spec) for spec in specs[:4]], cameras)

    def figures(name: str, number: int, views: np.ndarray) -> Figures:
        caption = specs[number].caption
        inside = None if name == TRUTH else psnr_inside(views, truth(caption))
        beside = figures_beside(truth(caption), caption, views, cameras)
        return {"views_psnr": inside, **novel_figures(views, cameras, novel()), **beside}

    rows = {TRUTH: Condition({"truth": RECIPE}, lambda number, caption: truth(caption).rgb)}
    rows |= {name: sampled(config) for name, config in configs.items()}
    return measured(rows, specs, figures, kept, given.kept)


class Recalling(MultiViewPrior):
    """Answers from memory what it was asked before: rows sample a caption from one noise, and many begin alike."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self._answers: dict[int, list[tuple[Tensor, Denoised]]] = {}
        self._caption = ""

    def turn_to(self, caption: str) -> None:
        if caption != self._caption:
            self._answers, self._caption = {}, caption

    def denoise(self, noisy: Tensor, timestep: Tensor, told: Conditions) -> Denoised:
        answers = self._answers.setdefault(int(timestep[0]), [])
        for asked, answer in answers:
            if torch.equal(asked, noisy):
                return answer
        answers.append((noisy, super().denoise(noisy, timestep, told)))
        return answers[-1][1]


@cache
def prior_of(weights: str) -> Recalling:
    return Recalling.from_pretrained(weights)


@cache
def forward_of(weights: str, input_views: int) -> FeedForward:
    settings = [f"weights={weights}", f"gaussians.input_views={input_views}"]
    return FeedForward.of(load_config(RECIPE, settings), prior_of(weights).device)


def sampled(config: Config) -> Condition:
    """Views as the recipe's command draws them; the caption's number is the seed."""
    timesteps = aware_timesteps(config.aware, ddim_timesteps(config.views.num_inference_steps, config.views.sampler))
    inputs = config.views.inputs()
    of = {"prior": fingerprint(config.weights), "views": inputs | {"sampler": config.views.sampler.name}}
    if timesteps:
        aware = {"blend": config.aware.blend, "guidance": config.aware.guidance.name}
        aware["input_views"] = config.gaussians.input_views
        of["aware"] = {"timesteps": sorted(timesteps), "gaussians": fingerprint(config.weights, "gaussians"), **aware}

    def draw(number: int, caption: str) -> np.ndarray:
        prior = prior_of(config.weights)
        prior.turn_to(caption)
        if timesteps:
            pipeline = dense_pipeline(prior, forward_of(config.weights, config.gaussians.input_views), config)
        else:
            pipeline = MultiViewPipeline(prior, config.camera)
        return pipeline(caption, **inputs, seed=number).drawn.movedim(1, -1).numpy()

    return Condition(of, draw)


if __name__ == "__main__":
    sys.exit(main())
