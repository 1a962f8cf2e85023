"""How well does a prior draw miniworld's captions? Five figures against the known truth, in one table.

    .venv/bin/python benchmarks/prior_quality.py                         the bundled mini prior
    .venv/bin/python benchmarks/prior_quality.py --weights FOLDER --out quality.json
    .venv/bin/python benchmarks/prior_quality.py --sets 12               a fifth of the pictures

PSNR            inside the silhouettes, of the model card's six held-out captions: the figure that a training prints
PSNR by set     the same of eight views, an eighth of a turn apart, drawn in sets of 1, 2, 4 and 8 evenly spaced ones
Janus           of `--sets` sets (held-out captions whose front shows a colour that the back does not) those with that
                colour behind
named pattern   views that show the pattern of their caption, one that the prior has a word for; a third as many sets,
                of held-out captions; none where it has no word for any
azimuth         from where a view looks to be seen against what was asked, at 24 azimuths of a twentieth as many
                held-out captions (at least one): median of the absolute errors, and the share below 15 degrees

It also prints what the VAE gives back of true views, four of each caption, inside the silhouettes: of the first 12
held-out captions, and of a third as many held-out captions with patterns as `--sets`.

Sampling is the training recipe's (`train-mini.yaml`): its guidance and steps, elevation 15, four views of a set
where nothing else is said.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Container, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from random import Random

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from threedgen.cameras import Cameras, viewing_cameras  # noqa: E402
from threedgen.config.load import load_config  # noqa: E402
from threedgen.config.schema import Config  # noqa: E402
from threedgen.core.errors import ThreedgenError  # noqa: E402
from threedgen.core.files import write_text_atomically  # noqa: E402
from threedgen.core.randomness import stable_seed  # noqa: E402
from threedgen.data.exact_views import exact_views  # noqa: E402
from threedgen.data.miniworld import Rendering, Spec, build, held_out, held_out_patterned  # noqa: E402
from threedgen.data.miniworld.textures import PATTERNS  # noqa: E402
from threedgen.diffusion.prior import MultiViewPrior  # noqa: E402
from threedgen.metrics import (  # noqa: E402
    AzimuthErrors,
    PatternVerdicts,
    azimuth_errors,
    janus_score,
    named_patterns,
    tells_azimuth,
)
from threedgen.tasks.evaluation.scoring import can_fail, feature_fraction  # noqa: E402
from threedgen.tasks.prompting import load_prior  # noqa: E402
from threedgen.tasks.training.samples import PROMPTS, SHEET, psnr_inside, sampled_sets, sheet_cameras  # noqa: E402

ELEVATION, SETS_AT_ONCE = 15.0, 4
FRONT, BACK = 0, 2  # indices of views at azimuths 0, 90, 180, 270
STARTS, NEAR_DEG = range(0, 90, 15), 15.0  # of six sets: 24 azimuths
SET_SIZES, AROUND = (1, 2, 4, 8), 8
# captions, the cameras of one set, stream, step -> views [captions, V, H, W, 3]
Draw = Callable[[Sequence[str], Cameras, str, int], np.ndarray]


@dataclass(frozen=True)
class Quality:
    """The figures, and of how many pictures or sets they are."""

    psnr: float
    psnr_sets: int
    psnr_by_set: dict[int, float]  # number of views of a set -> dB
    janus_rate: float
    janus_sets: int
    pattern_rate: float | None  # None: nothing was asked for
    pattern_views: int
    pattern_confusion: dict[str, dict[str, int]]
    azimuth_median_deg: float
    azimuth_bias_deg: float
    azimuth_near: float
    azimuth_views: int


def measure(draw: Draw, config: Config, size: int, sets: int, known: Container[str] = PATTERNS) -> Quality:
    """All figures of what `draw` draws at `size` pixels. known: words, only whose patterns are asked for."""
    janus = janus_verdicts(draw, config, size, sets)
    patterns = pattern_verdicts(draw, config, size, max(1, sets // 3), known)
    azimuths = azimuths_seen(draw, config, size, max(1, sets // 20))
    return Quality(
        psnr=held_out_psnr(draw, config, size),
        psnr_sets=PROMPTS,
        psnr_by_set={views: psnr_in_sets(draw, config, size, views) for views in SET_SIZES},
        janus_rate=float(np.mean(janus)),
        janus_sets=len(janus),
        pattern_rate=patterns.rate if patterns.seen else None,
        pattern_views=len(patterns.seen),
        pattern_confusion=patterns.confusion(),
        azimuth_median_deg=azimuths.median_deg,
        azimuth_bias_deg=azimuths.bias_deg,
        azimuth_near=azimuths.share_within(NEAR_DEG),
        azimuth_views=len(azimuths.counted),
    )


def held_out_psnr(draw: Draw, config: Config, size: int) -> float:
    specs, cameras = held_out()[:PROMPTS], sheet_cameras(config, size)
    drawn = draw([spec.caption for spec in specs], cameras, SHEET, 0)
    return float(np.mean([psnr_inside(views, truth(spec, cameras)) for spec, views in zip(specs, drawn, strict=True)]))


def psnr_in_sets(draw: Draw, config: Config, size: int, views: int) -> float:
    """Of the same captions and eight cameras, whatever the number of views that are drawn together."""
    specs, turn = held_out()[:PROMPTS], 360 / AROUND
    around, apart = viewing_cameras(config.camera, 20 + turn * np.arange(AROUND), ELEVATION, size), AROUND // views
    drawn = np.empty((len(specs), AROUND, size, size, 3), np.float32)
    for first in range(apart):
        cameras = around.take(torch.arange(first, AROUND, apart), views)
        drawn[:, first::apart] = draw([spec.caption for spec in specs], cameras, f"sets of {views}", first)
    return float(np.mean([psnr_inside(seen, truth(spec, around)) for spec, seen in zip(specs, drawn, strict=True)]))


def janus_verdicts(draw: Draw, config: Config, size: int, count: int) -> list[bool]:
    """Of the first `count` held-out captions that can fail; there are 76."""
    cameras, asked = rings(config, [0.0], size), []
    for spec in held_out():
        true = truth(spec, cameras)
        true_shares = feature_fraction(spec, true.rgb, true.opacity)[[FRONT, BACK]]
        if can_fail(*true_shares) and len(asked) < count:
            asked.append((spec, true, true_shares))
    verdicts = []
    drawn = drawn_in_parts(draw, [spec.caption for spec, *_ in asked], cameras, "janus")
    for (spec, true, true_shares), views in zip(asked, drawn, strict=True):
        silhouette = (true.opacity > 0.5).astype(np.float64)  # a sample may choose any background
        shares = feature_fraction(spec, views, silhouette)[[FRONT, BACK]]
        verdicts.append(janus_score(*shares, *true_shares).is_janus)
    return verdicts


def pattern_verdicts(draw: Draw, config: Config, size: int, count: int, known: Container[str]) -> PatternVerdicts:
    captions = [spec.caption for spec in patterned(config, count, known)]
    if not captions:
        return PatternVerdicts((), ())
    views = drawn_in_parts(draw, captions, rings(config, [20.0], size), "patterns")
    cameras = rings(config, [20.0] * len(captions), size)
    return named_patterns(np.concatenate(views), np.repeat(captions, 4).tolist(), cameras)


def azimuths_seen(draw: Draw, config: Config, size: int, count: int) -> AzimuthErrors:
    telling = (spec.caption for spec in held_out() if tells_azimuth(spec.caption))
    captions = list(islice(telling, count))
    views, asked = [], []
    for start in STARTS:
        views += drawn_in_parts(draw, captions, rings(config, [start], size), f"azimuths from {start}")
        asked += [start] * len(captions)
    named = np.repeat(captions * len(STARTS), 4).tolist()
    return azimuth_errors(np.concatenate(views), named, rings(config, asked, size))


@torch.no_grad()
def round_trip_psnr(prior: MultiViewPrior, config: Config, specs: Sequence[Spec]) -> float:
    """Mean PSNR in dB of true views through encoder and decoder, inside their silhouettes."""
    cameras, found = rings(config, [20.0], prior.image_size), []
    for spec in specs:
        true = truth(spec, cameras)
        images = torch.from_numpy(true.rgb).movedim(-1, 1).float().to(prior.device)
        back = prior.decode(prior.encode_images(images)).movedim(1, -1).cpu().numpy()
        found.append(psnr_inside(back, true))
    return float(np.mean(found))


def patterned(config: Config, count: int, known: Container[str]) -> list[Spec]:
    """At most `count` of them. known: words, among them the patterns that are asked for."""
    specs = [spec for spec in held_out_patterned() if spec.feature in known]
    return Random(stable_seed(config.seed, 0, "patterns")).sample(specs, min(count, len(specs)))


def rings(config: Config, starts: Sequence[float], size: int) -> Cameras:
    """Four cameras a quarter turn apart from each of the azimuths `starts`, one ring after the other."""
    azimuth = np.asarray(starts, float)[:, None] + [0, 90, 180, 270]
    return viewing_cameras(config.camera, azimuth.ravel(), ELEVATION, size)


def truth(spec: Spec, cameras: Cameras) -> Rendering:
    return exact_views(build(spec), cameras)


def drawn_in_parts(draw: Draw, captions: Sequence[str], cameras: Cameras, stream: str) -> list[np.ndarray]:
    """For each caption its views [V, H, W, 3]."""
    starts = range(0, len(captions), SETS_AT_ONCE)
    return [views for i in starts for views in draw(captions[i : i + SETS_AT_ONCE], cameras, stream, i)]


def table(q: Quality) -> str:
    """Markdown."""
    rows = [
        ("PSNR inside silhouettes", f"{q.psnr:.2f} dB", f"{q.psnr_sets} sets"),
        *((f"PSNR in sets of {n}", f"{db:.2f} dB", f"{PROMPTS * AROUND} views") for n, db in q.psnr_by_set.items()),
        ("Janus rate", f"{q.janus_rate:.1%}", f"{q.janus_sets} sets"),
        ("named pattern shown", "" if q.pattern_rate is None else f"{q.pattern_rate:.1%}", f"{q.pattern_views} views"),
        ("azimuth error, median (signed)", f"{q.azimuth_median_deg:.1f}° ({q.azimuth_bias_deg:+.1f}°)", ""),
        (f"azimuth error below {NEAR_DEG:.0f}°", f"{q.azimuth_near:.1%}", f"{q.azimuth_views} views"),
    ]
    return "\n".join(["| measure | figure | of |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="mini", help="mini, or a folder in diffusers' layout")
    parser.add_argument("--sets", type=positive, default=60, help="sets of the Janus rate; the others' follow (60)")
    parser.add_argument("--threads", type=positive, default=1)
    parser.add_argument("--out", type=Path, help="also write the figures to this JSON file")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    try:
        config = replace(load_config("train-mini.yaml"), weights=given.weights)
        prior = load_prior(config)
    except ThreedgenError as error:
        print(f"{Path(__file__).name}: {error}", file=sys.stderr)
        return error.exit_status

    def draw(captions: Sequence[str], cameras: Cameras, stream: str, step: int) -> np.ndarray:
        return sampled_sets(prior, config, captions, cameras, stream, step)

    started = time.monotonic()
    quality = measure(draw, config, prior.image_size, given.sets, prior.tokenizer.get_vocab())
    seconds = time.monotonic() - started
    print(f"{given.weights}, {seconds:.0f} s\n\n{table(quality)}")
    asked = {"held_out": held_out()[:12], "patterned": patterned(config, max(1, given.sets // 3), PATTERNS)}
    vae = {f"vae_{name}": round_trip_psnr(prior, config, specs) for name, specs in asked.items()}
    for name, found in vae.items():
        print(f"| {name} | {found:.2f} dB | {len(asked[name.removeprefix('vae_')])} captions |")
    if given.out:
        figures = {"weights": given.weights, "seconds": round(seconds, 1), **asdict(quality), **vae}
        write_text_atomically(given.out, json.dumps(figures, indent=2) + "\n")
    return 0


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not at least 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
