"""How near each method comes to the truth against what it costs: in network evaluations, and in time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..problem import Array
from ..speed import passes, seconds
from .found import Found, Row
from .style import new_figure, rank_axis, rank_distance, styles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COSTS = (
    (passes, "network evaluations per input\n(a propagated pass counts as one)"),
    (seconds, "seconds per input"),
)
_SMALLEST = 1e-12  # an error of 0 has no place on an axis of logarithms
_EXACT = 1e-5  # what has less relative error is not what the axes are made for


@dataclass(frozen=True)
class Measure:
    """One row of panels: a list over inputs in every row of the result."""

    key: str
    title: str
    to_axis: Callable[[Array, int], Array]  # from what the list holds, and the number of players


def _positive(found: Array, players: int) -> Array:
    return np.maximum(found, _SMALLEST)


RANK = "spearmans"
MEASURES = (
    Measure("rmses", "RMSE (unit of the output)", _positive),
    Measure(RANK, "Spearman correlation", rank_distance),
    Measure("errors", "relative error", _positive),
)


def figure(found: Found) -> Figure:
    """RMSE, Spearman correlation and relative error against cost: a line joins the budgets of a family.

    Marks are medians over inputs, bands reach from the first to the third quartile; both costs are per input. The axis of the
    correlation goes by the logarithm of its distance from 1. Relative errors below that of the truth itself are in grey.
    """
    drawn = new_figure(10.5, 9.6)
    players = found.truth.shape[1]
    axes = drawn.subplots(len(MEASURES), len(COSTS), sharex="col", sharey="row")
    looks = styles(row["family"] for row in found.rows)
    handles = {}
    for line, measure in zip(axes, MEASURES, strict=True):
        for ax, (cost, _) in zip(line, COSTS, strict=True):
            ax.set(xscale="log", yscale="log")
            for family, look in looks.items():
                rows = sorted((row for row in found.rows if row["family"] == family), key=cost)
                costs = [cost(row) for row in rows]
                low, middle, high = quartiles(rows, measure, players)
                options = look.line
                # Whiskers where there is no line that a band could follow.
                if len(rows) > 1:
                    ax.fill_between(costs, low, high, color=look.colour, alpha=0.10, linewidth=0)
                else:
                    # Not vlines: rounding gave two marks at one cost limits of no width, whose inverse it then takes.
                    ax.plot([costs, costs], [low, high], color=look.colour, linewidth=0.8, alpha=0.6)
                    options["linestyle"] = "none"
                (handles[family],) = ax.plot(costs, middle, label=family, zorder=3 if look.solid else 2, **options)
            ax.grid(True, color="0.9", linewidth=0.6)
            ax.set_axisbelow(True)
        line[0].set_ylabel(measure.title)
        shown = [row for row in found.rows if row["error"] > _EXACT] or found.rows
        reach = quartiles(shown, measure, players)
        low, high = reach.min() / 1.3, reach.max() * 1.3
        if measure.key == RANK:
            line[0].set_ylim(high, low)
            rank_axis(line[0].yaxis, reach, players, most=8)
        else:
            line[0].set_ylim(low, high)
        if measure.key == "errors":
            _shade_truth(line, float(np.mean(found.result["truth_error"])))
    for ax, (_, title) in zip(axes[-1], COSTS, strict=True):
        ax.set_xlabel(title)
    inputs = found.result["inputs"]
    drawn.suptitle(f"{found.result['title']}: median of {inputs} inputs, band between the quartiles")
    heading = "solid and filled: this library" if any(look.solid for look in looks.values()) else None
    drawn.legend(
        [handles[family] for family in looks], list(looks), loc="outside right center", title=heading, alignment="left"
    )
    return drawn


def quartiles(rows: list[Row], measure: Measure, players: int) -> Array:
    """First quartile, median and third quartile over inputs of each budget, as the axis carries them; (3, budgets)."""
    samples = [measure.to_axis(np.array(row[measure.key]), players) for row in rows]
    found: Array = np.array([np.quantile(sample, (0.25, 0.5, 0.75)) for sample in samples]).T
    return found


def _shade_truth(line: Sequence[Axes], error: float) -> None:
    """Grey where errors are below that of the truth."""
    bottom, top = line[0].get_ylim()
    if error <= bottom:
        return
    for ax in line:
        ax.axhspan(bottom, min(error, top), color="0.88", linewidth=0, zorder=0)
    place = line[0].get_yaxis_transform()
    line[0].text(0.02, error, "error of the true values", transform=place, fontsize=7, va="bottom", color="0.35")
