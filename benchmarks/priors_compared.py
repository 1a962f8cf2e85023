"""What the benchmarks that compare priors share: their arguments, figures that are kept as they come, a table of means
and the differences below it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from threedgen.cameras import Cameras, viewing_cameras
from threedgen.config.schema import Config
from threedgen.core.errors import ThreedgenError
from threedgen.core.files import sha256_of_file, write_text_atomically
from threedgen.data.miniworld import Spec, held_out
from threedgen.diffusion.checkpoints.locate import locate_part, locate_weights, shared_with_base
from threedgen.imaging import Row, contact_sheet, save_png
from threedgen.metrics import tells_azimuth
from threedgen.metrics.bootstrap import paired_difference

NUM_VIEWS, SIZE, ELEVATION = 24, 64, 15.0
PICTURED = 6  # captions of the sheet
Figures = Mapping[str, float | None]  # None: has no such
Found = dict[str, list[Figures]]  # name of the prior -> figures of each object
Columns = Mapping[str, tuple[str, int]]  # figure -> its title and digits


@dataclass(frozen=True)
class Condition:
    """A row of the table.

    of: all that its figures follow from beside the caption and its number; what is kept is found by it.
    draw: number, which is the seed, and caption -> views [V, H, W, 3].
    """

    of: Mapping[str, Any]
    draw: Callable[[int, str], np.ndarray]


class Kept:
    """Figures in a JSON file, written whole after each set of views, so that a long table goes on where it ended.

    A line is a condition with all its captions, five digits a figure: the files are tracked.
    """

    def __init__(self, path: Path | None) -> None:
        """Raises ThreedgenError for a file that holds something else."""
        self._path = path
        self._entries: list[dict[str, Any]] = []
        if path is not None and path.exists():
            try:
                self._entries = [
                    {"of": entry["of"], "figures": entry["figures"]} for entry in json.loads(path.read_text())
                ]
            except (ValueError, TypeError, KeyError):
                raise ThreedgenError(f"{path} holds no figures that this command kept: name another file") from None

    def of(self, condition: Condition) -> dict[str, Figures]:
        """Caption -> figures, to read; `add` writes."""
        asked = json.loads(json.dumps(condition.of))
        for entry in self._entries:
            if entry["of"] == asked:
                return entry["figures"]
        self._entries.append({"of": asked, "figures": {}})
        return self._entries[-1]["figures"]

    def add(self, condition: Condition, caption: str, figures: Figures) -> None:
        short = {name: value if value is None else float(f"{value:.5g}") for name, value in figures.items()}
        self.of(condition)[caption] = short
        if self._path is not None:
            lines = ",\n".join(json.dumps(entry) for entry in self._entries if entry["figures"])
            write_text_atomically(self._path, f"[\n{lines}\n]\n")


def parser_of(about: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captions", type=int, default=12)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--out", type=Path, help="JSON file of every figure; what it has is not measured again. Pictures beside it"
    )
    parser.add_argument("--kept", action="store_true", help="measure nothing, show what --out has of all rows")
    return parser


def carry_out(
    given: argparse.Namespace,
    compare: Callable[[argparse.Namespace, Kept], tuple[Found, list[Row]]],
    columns: Columns,
    compared: Iterable[tuple[str, str]],
) -> int:
    """Print the figures of `compare` and save its pictures as `parser_of` was told; the exit status.

    compared: pairs of priors, the first of which should have the larger figures.
    """
    torch.set_num_threads(given.threads)
    try:
        found, pictures = compare(given, Kept(given.out))
    except ThreedgenError as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        return error.exit_status
    if not any(found.values()):
        print("no caption has figures of all rows")
        return 0
    print(f"{len(next(iter(found.values())))} captions\n\n{table(found, columns)}\n")
    print(differences(found, columns, compared))
    if given.out and pictures:
        save_png(contact_sheet(pictures), given.out.with_suffix(".png"))
    return 0


def chosen(count: int) -> list[Spec]:
    """The first held-out captions that tell their azimuth."""
    return list(islice((spec for spec in held_out() if tells_azimuth(spec.caption)), count))


def ring(config: Config) -> Cameras:
    """24 cameras, the first at the front."""
    azimuths = [360 / NUM_VIEWS * k for k in range(NUM_VIEWS)]
    return viewing_cameras(config.camera, azimuths, ELEVATION, SIZE)


def fingerprint(weights: str, *parts: str) -> str:
    """Which weights the parts have, those of a prior if none is named: the first digits of their files' sha256, also of
    those that a part shares with its base."""
    folders = [locate_part(locate_weights(weights), part) for part in parts or ("unet", "text_encoder", "vae")]
    folders = [each for own in folders for each in (own, *(shared_with_base(own) or ())[:1])]
    return "+".join(sha256_of_file(file)[:8] for folder in folders for file in sorted(folder.glob("*.safetensors")))


def measured(
    rows: Mapping[str, Condition],
    specs: Sequence[Spec],
    figures: Callable[[str, int, np.ndarray], Figures],
    kept: Kept,
    only_kept: bool,
) -> tuple[Found, list[Row]]:
    """The figures of all captions that all rows have, and pictures of what was drawn.

    figures: of a row's name, a caption's number and views. only_kept: nothing is drawn.
    """
    pictures: list[Row] = []
    for number, spec in enumerate(() if only_kept else specs):
        for name, row in rows.items():
            if spec.caption not in kept.of(row):
                views = row.draw(number, spec.caption)
                kept.add(row, spec.caption, figures(name, number, views))
                if number < PICTURED:
                    pictures.append((f"{spec.caption}: {name}", views[::3]))
        print(f"{number + 1} of {len(specs)}: {spec.caption}", file=sys.stderr, flush=True)
    there = [spec.caption for spec in specs if all(spec.caption in kept.of(row) for row in rows.values())]
    return {name: [kept.of(row)[caption] for caption in there] for name, row in rows.items()}, pictures


def table(found: Found, columns: Columns) -> str:
    """Means; a row without any figure is left out."""
    lines = _head(columns)
    for name, scores in found.items():
        cells = []
        for key, (_, digits) in columns.items():
            values = [value for score in scores if (value := score[key]) is not None]
            cells.append(f"{np.mean(values):.{digits}f}" if values else "")
        if any(cells):
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def differences(found: Found, columns: Columns, compared: Iterable[tuple[str, str]]) -> str:
    """Means of the differences, caption by caption, with their intervals; bold where that excludes 0."""
    lines = _head(columns)
    for better, worse in compared:
        cells = []
        for key, (_, digits) in columns.items():
            pairs = [(a[key], b[key]) for a, b in zip(found[better], found[worse], strict=True)]
            both = [(a, b) for a, b in pairs if a is not None and b is not None]
            if len(both) < 2:
                cells.append("")
                continue
            gap = paired_difference(*zip(*both, strict=True))
            text = f"{gap.mean:+.{digits}f} [{gap.low:+.{digits}f}, {gap.high:+.{digits}f}]"
            cells.append(f"**{text}**" if gap.excludes_zero else text)
        lines.append(f"| {better} - {worse} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _head(columns: Columns) -> list[str]:
    return ["| | " + " | ".join(title for title, _ in columns.values()) + " |", "|---|" + "---|" * len(columns)]
