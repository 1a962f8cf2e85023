"""Conditions of a table as points: what one figure costs of another."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from PIL import Image

from threedgen.core.errors import ConfigError
from threedgen.metrics.bootstrap import Interval
from threedgen.tasks.evaluation.tables import Scores, Table, mean_of

_SIZE, _DPI = (8.5, 4.6), 100  # inches
_MARKERS = "os^"


def require_matplotlib() -> tuple[Any, Any]:
    """Its canvas that draws without a window, and its figure. Raises ConfigError where it is not installed."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError(f"plots need matplotlib ({error}): pip install matplotlib") from error
    return FigureCanvasAgg, Figure


def plot(table: Table, scores: Scores, across: str, up: str) -> Image.Image:
    """Each condition's means with their intervals; the line joins those that no other is better than in both.

    across, up: keys of the table's columns, of both of which more is better. Raises ConfigError without matplotlib.
    """
    canvas_of, figure_of = require_matplotlib()
    columns = {column.key: column for column in table.columns}
    points: dict[str, tuple[Interval, Interval]] = {}
    for condition in table.conditions:
        x, y = (mean_of(scores, condition.name, key) for key in (across, up))
        if x is not None and y is not None:
            points[condition.label] = (x, y)
    figure = figure_of(figsize=_SIZE, dpi=_DPI, layout="constrained")
    axes: Any = figure.subplots()
    best = sorted(pareto_front([(x.mean, y.mean) for x, y in points.values()]))
    axes.plot(*zip(*best, strict=True), color="#c9a227", linewidth=2, zorder=1)
    for number, (label, (x, y)) in enumerate(points.items()):
        spans = [[[max(i.mean - i.low, 0)], [max(i.high - i.mean, 0)]] for i in (x, y)]
        look = {"color": f"C{number % 10}", "marker": _MARKERS[number // 10 % len(_MARKERS)]}
        axes.errorbar(
            x.mean, y.mean, spans[1], spans[0], linestyle="", markersize=6, alpha=0.8, capsize=2, label=label, **look
        )
    for key, name in ((across, "x"), (up, "y")):
        axes.set(**{f"{name}label": columns[key].title})
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.set_title(table.title, fontsize=11)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8, frameon=False)
    canvas, file = canvas_of(figure), io.BytesIO()
    canvas.print_png(file)
    return Image.open(file).convert("RGB")


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Those that no other point reaches or passes in both coordinates, more being better."""

    def beaten(point: tuple[float, float]) -> bool:
        return any(other != point and other[0] >= point[0] and other[1] >= point[1] for other in points)

    return [point for point in points if not beaten(point)]
