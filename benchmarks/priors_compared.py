"""What the benchmarks that compare priors share: their arguments, a table of means and the differences below it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import torch

from threedgen.core.errors import ThreedgenError
from threedgen.core.files import write_text_atomically
from threedgen.imaging import Row, contact_sheet, save_png
from threedgen.metrics.bootstrap import paired_difference

Found = dict[str, list[dict[str, float | None]]]  # name of the prior -> figures of each object; None: has no such
Columns = Mapping[str, tuple[str, int]]  # figure -> its title and digits


def parser_of(about: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captions", type=int, default=12)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="the figures of every object as JSON, and pictures beside it")
    return parser


def carry_out(
    given: argparse.Namespace,
    compare: Callable[[argparse.Namespace], tuple[Found, list[Row]]],
    columns: Columns,
    compared: Iterable[tuple[str, str]],
) -> int:
    """Print the figures of `compare` and save them as `parser_of` was told; the exit status.

    compared: pairs of priors, the first of which should have the larger figures.
    """
    torch.set_num_threads(given.threads)
    try:
        found, pictures = compare(given)
    except ThreedgenError as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        return error.exit_status
    if not found:  # asked for none
        return 0
    print(table(found, columns))
    print(differences(found, columns, compared))
    if given.out:
        write_text_atomically(given.out, json.dumps(found, indent=2) + "\n")
        save_png(contact_sheet(pictures), given.out.with_suffix(".png"))
    return 0


def table(found: Found, columns: Columns) -> str:
    lines = ["| | " + " | ".join(title for title, _ in columns.values()) + " |", "|---|" + "---|" * len(columns)]
    for name, scores in found.items():
        cells = []
        for key, (_, digits) in columns.items():
            values = [score[key] for score in scores if score[key] is not None]
            cells.append(f"{np.mean(values):.{digits}f}" if values else "")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def differences(found: Found, columns: Columns, compared: Iterable[tuple[str, str]]) -> str:
    lines = []
    for better, worse in compared:
        for key, (_, digits) in columns.items():
            pairs = [(a[key], b[key]) for a, b in zip(found[better], found[worse], strict=True)]
            both = [(a, b) for a, b in pairs if a is not None and b is not None]
            if len(both) > 1:
                gap = paired_difference(*zip(*both, strict=True))
                ends = f"[{gap.low:+.{digits}f}, {gap.high:+.{digits}f}]"
                lines.append(f"{better} - {worse}, {key}: {gap.mean:+.{digits}f} {ends}")
    return "\n".join(lines)
