"""Tables of ablations: means with intervals, paired differences to a baseline, and whether an ordering came out."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from threedgen.metrics.bootstrap import Interval, mean_interval, paired_difference

Figures = Mapping[str, Any]  # of one prompt: numbers, and what else was kept with them; None: has no such figure
Scores = Mapping[str, Mapping[str, Figures]]  # condition -> prompt -> figures


@dataclass(frozen=True)
class Column:
    """A figure as the table shows it. truth: the key of the same figure of the ground truth, if it has one."""

    key: str
    title: str
    digits: int = 2
    percent: bool = False
    unit: str = ""
    truth: str = ""

    def text(self, value: float, sign: str = "") -> str:
        scaled, digits = (100 * value, 0) if self.percent else (value, self.digits)
        return f"{round(scaled, digits) + 0.0:{sign}.{digits}f}{self.unit}"  # + 0.0: no "-0"


PSNR, IOU = Column("psnr", "PSNR dB"), Column("iou", "IoU", 3)
CHAMFER, NORMALS = Column("chamfer", "Chamfer", 4), Column("normals", "normals", 1, unit="°")
JANUS, FRONT = Column("janus", "Janus", percent=True), Column("front", "front right", percent=True)


@dataclass(frozen=True)
class Condition:
    """What is changed against the recipe: dotted settings. name: of its folder; label: in the table."""

    name: str
    label: str
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Claim:
    """An ordering that the paper reports: the conditions' names, the one with the largest figure first."""

    text: str
    figure: str
    order: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """One comparison; the first condition is its baseline."""

    name: str
    title: str
    text: str
    conditions: tuple[Condition, ...]
    columns: tuple[Column, ...]
    claims: tuple[Claim, ...] = ()
    pictured: str = "janus"  # the picture shows prompts that have this figure, if there are any
    set_columns: tuple[Column, ...] = ()  # figures of all prompts' pictures together, so without intervals
    plotted: tuple[str, str] | None = None  # two figures, across and up: each condition is a point of a plot


@dataclass(frozen=True)
class Measured:
    """What a table is made from. pictures: as scores, a PNG of two views side by side for each condition and prompt;
    failures: one line for each job that failed; of_sets: condition -> the figures of `set_columns`."""

    scores: Scores
    pictures: Mapping[str, Mapping[str, Path]]
    failures: tuple[str, ...] = ()
    of_sets: Mapping[str, Figures] = field(default_factory=dict)


def mean_of(scores: Scores, condition: str, figure: str) -> Interval | None:
    """The figure's mean over the prompts that have it; None if none has."""
    values = list(_values(scores, condition, figure).values())
    return mean_interval(values) if values else None


def difference_of(scores: Scores, condition: str, other: str, figure: str) -> Interval | None:
    """The mean of `condition` minus `other` over the prompts that both have; None if there is none."""
    a, b = _values(scores, condition, figure), _values(scores, other, figure)
    both = [prompt for prompt in a if prompt in b]
    return paired_difference([a[p] for p in both], [b[p] for p in both]) if both else None


def _values(scores: Scores, condition: str, figure: str) -> dict[str, float]:
    found = {prompt: figures.get(figure) for prompt, figures in scores.get(condition, {}).items()}
    return {prompt: value for prompt, value in found.items() if value is not None}


def verdict(claim: Claim, table: Table, scores: Scores) -> str:
    """How the claim came out, in one line: the measured means from the largest down, and how sure each step is."""
    column = next(column for column in table.columns if column.key == claim.figure)
    labels = {condition.name: condition.label for condition in table.conditions}
    means = {name: mean_of(scores, name, claim.figure) for name in claim.order}
    found = {name: mean.mean for name, mean in means.items() if mean is not None}
    if len(found) < len(claim.order):
        return f"{claim.text} Not measured: {', '.join(labels[n] for n in claim.order if n not in found)} failed."
    ranking = sorted(claim.order, key=lambda name: -found[name])
    measured = ", ".join(f"{labels[name]} {column.text(found[name])}" for name in ranking)
    kinds: dict[str, list[str]] = {"not so for": [], "no difference for": [], "within chance for": []}
    for a, b in pairwise(claim.order):
        step = difference_of(scores, a, b, claim.figure)
        if step is None or not step.low > 0:  # of a single prompt there is no interval
            sign = 0 if step is None else step.mean
            kind = "not so for" if sign < 0 else "no difference for" if sign == 0 else "within chance for"
            kinds[kind].append(f"{labels[a]} / {labels[b]}")
    doubts = "; ".join(f"{kind} {', '.join(pairs)}" for kind, pairs in kinds.items() if pairs)
    outcome = doubts or "so, each step's interval above 0"
    unit = f"{column.title}{', %' if column.percent else ''}"
    return f"{claim.text} Measured ({unit}): {measured}: {outcome}."


def markdown(table: Table, measured: Measured, pictures: Sequence[str] = ()) -> str:
    """The table as a section of a page: means, differences to the baseline, claims, and the pictures' links."""
    scores = measured.scores
    first = table.columns[0].key  # every prompt that counts has it, so a figure with fewer says how many
    prompts = max(len(_values(scores, condition.name, first)) for condition in table.conditions)
    titles = ["", *(f"{column.title}{' %' if column.percent else ''}" for column in table.columns)]
    head, rule = row(titles), "|" + "---|" * len(titles)
    whole = [column.title for column in table.set_columns]
    lines = [f"### {table.title}", "", table.text, "", row([*titles, *whole]), rule + "---|" * len(whole)]
    for condition in table.conditions:
        cells = [_cell(mean_of(scores, condition.name, c.key), c, prompts) for c in table.columns]
        of_set = [measured.of_sets.get(condition.name, {}).get(c.key) for c in table.set_columns]
        cells += ["–" if x is None else c.text(x) for c, x in zip(table.set_columns, of_set, strict=True)]
        lines.append(row([condition.label, *cells]))
    truth = [mean_of(scores, table.conditions[0].name, c.truth) if c.truth else None for c in table.columns]
    if any(truth):
        values = [c.text(mean.mean) if mean else "" for c, mean in zip(table.columns, truth, strict=True)]
        lines.append(row(["truth", *values]))
    baseline = table.conditions[0]
    lines += ["", f"Difference to *{baseline.label}*, prompt by prompt (bold: the interval excludes 0):"]
    lines += ["", head, rule]
    for condition in table.conditions[1:]:
        differences = [difference_of(scores, condition.name, baseline.name, c.key) for c in table.columns]
        cells = [_cell(d, c, prompts, sign="+") for c, d in zip(table.columns, differences, strict=True)]
        lines.append(row([condition.label, *cells]))
    lines += ["", *(f"- {verdict(claim, table, scores)}" for claim in table.claims)]
    for picture in pictures:
        lines += ["", f"![{table.title}]({picture})"]
    return "\n".join(lines) + "\n"


def _cell(interval: Interval | None, column: Column, prompts: int, sign: str = "") -> str:
    """mean [low, high], and the number of prompts that have the figure where it is not `prompts`."""
    if interval is None:
        return "–"
    text = column.text(interval.mean, sign)
    if not math.isnan(interval.low):
        text += f" [{column.text(interval.low, sign)}, {column.text(interval.high, sign)}]"
    if sign and interval.excludes_zero:
        text = f"**{text}**"
    return text if interval.count == prompts else f"{text} ({interval.count})"


def row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def as_json(table: Table, measured: Measured) -> dict[str, Any]:
    """Everything that the table was made of, each prompt's figures included, as plain values."""
    scores = measured.scores
    baseline = table.conditions[0].name
    conditions = {}
    for condition in table.conditions:
        name = condition.name
        conditions[name] = {
            "label": condition.label,
            "settings": {key: _plain(value) for key, value in condition.settings.items()},
            "means": {c.key: _plain(mean_of(scores, name, c.key)) for c in table.columns},
            "differences": {c.key: _plain(difference_of(scores, name, baseline, c.key)) for c in table.columns},
            "of_set": dict(measured.of_sets.get(name, {})),
            "prompts": {prompt: dict(figures) for prompt, figures in scores.get(name, {}).items()},
        }
    claims = [verdict(claim, table, scores) for claim in table.claims]
    return {"table": table.name, "baseline": baseline, "conditions": conditions, "claims": claims}


def _plain(value: Any) -> Any:
    """JSON knows no dataclass, no enum and no nan."""
    if hasattr(value, "__dataclass_fields__"):
        return {key: _plain(part) for key, part in asdict(value).items()}
    if isinstance(value, float) and math.isnan(value):
        return None
    return getattr(value, "name", value)
