"""All rows at once: a column a row, a line a player."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..attribution import Attribution
from ..errors import InputError
from . import _common

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_CLIPPED = 99.0  # percentile of the magnitudes at the ends of the colour scale


def heatmap(
    result: Attribution,
    *,
    target_index: int | None = None,
    max_display: int = 12,
    sort: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Every row's value of every important player as a colour, with the output of the rows as a line above.

    Players are ordered by mean magnitude, largest on top; what is beyond `max_display` is added up in a last line. Rows are
    ordered by their output, or stay as they are without `sort`. The colour scale ends at the 99th percentile of the magnitudes.

    Raises:
        InputError: fewer than 2 rows, no such target, several targets and none chosen, or `max_display` below 1.
        MissingExtraError: matplotlib is not installed.
    """
    _common.check_display(max_display)
    table = _common.table(result, target_index)
    if len(table.values) < 2:
        raise InputError("a heatmap compares rows, and the attribution has 1: use dasp.plots.waterfall or bar.")
    rows = np.argsort(table.output, kind="stable") if sort else np.arange(len(table.output))
    order = np.argsort(-np.abs(table.values).mean(axis=0), kind="stable")
    shown, others = order[:max_display], order[max_display:]
    lines, names = table.values[np.ix_(rows, shown)].T, [table.names[player] for player in shown]  # (players, rows)
    if len(others):
        lines = np.vstack([lines, table.values[np.ix_(rows, others)].sum(axis=1)])
        names.append(f"{len(others)} others together")
    ax = _common.axes(ax, size=(_common.width(names), 2.0 + 0.28 * len(names)))
    _cells(ax, lines, names)
    _outputs(ax, table.output[rows])
    ax.set_xlabel("rows, by their output" if sort else "rows")
    return ax


def _cells(ax: Axes, lines: _common.Array, names: list[str]) -> None:
    end = float(np.percentile(np.abs(lines), _CLIPPED)) or float(np.abs(lines).max()) or 1.0
    drawn = ax.imshow(
        lines, cmap=_common.look(ax).diverging(), vmin=-end, vmax=end, aspect="auto", interpolation="nearest"
    )  # fmt: skip
    ax.set_yticks(range(len(names)), names)
    ax.locator_params(axis="x", integer=True)
    ax.tick_params(axis="y", length=0)
    ax.spines[:].set_visible(False)
    bar = ax.figure.colorbar(drawn, ax=ax, fraction=0.04, pad=0.02, extend="both" if np.abs(lines).max() > end else "neither")
    bar.set_label("contribution to the output")
    bar.outline.set_visible(False)


def _outputs(ax: Axes, output: _common.Array) -> None:
    above = ax.inset_axes((0.0, 1.03, 1.0, 0.16), sharex=ax)
    above.plot(range(len(output)), output, color=_common.look(ax).ink, linewidth=1.0)
    above.tick_params(axis="x", labelbottom=False, length=0)
    above.tick_params(axis="y", labelsize=7)
    above.set_ylabel("output", rotation=0, ha="right", va="center", fontsize=8)
    above.spines[["top", "right", "bottom"]].set_visible(False)
    above.patch.set_alpha(0)
