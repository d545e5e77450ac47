"""Every row's value of every important player, as dots."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..attribution import Attribution
from . import _common

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PathCollection

_BINS = 80  # across the width of the plot; dots in one bin are stacked
_HALF_HEIGHT = 0.40  # of the band of a player, whose bands are 1 apart


def beeswarm(
    result: Attribution,
    *,
    target_index: int | None = None,
    max_display: int = 12,
    ax: Axes | None = None,
) -> Axes:
    """One dot a row and player, at its value; players by mean magnitude, largest on top.

    Dots are coloured by what the player's element held, from the 5th to the 95th percentile of its column; groups
    of elements hold no single number and stay grey.

    Raises:
        InputError: no such target, several and none chosen, or `max_display` below 1.
        MissingExtraError: matplotlib is not installed.
    """
    _common.check_display(max_display)
    table = _common.table(result, target_index)
    order = np.argsort(-np.abs(table.values).mean(axis=0), kind="stable")[:max_display]
    ax = _common.axes(ax, size=(_common.width(table.names[player] for player in order), 1.4 + 0.4 * len(order)))
    drawn = dots(ax, table, order)
    if drawn is not None:
        bar = ax.figure.colorbar(drawn, ax=ax, fraction=0.03, pad=0.02, ticks=[0, 1])
        bar.ax.set_yticklabels(["low", "high"])
        bar.set_label("value of the feature", labelpad=-12)
        bar.outline.set_visible(False)
    return ax


def dots(ax: Axes, table: _common.Table, order: npt.NDArray[np.intp]) -> PathCollection | None:
    """Draw the players of `order` from the top; the dots of the last one if they are coloured, for a colour bar."""
    drawn, look = None, _common.look(ax)
    everything = table.values[:, order]
    span = float(everything.max() - everything.min()) or 1.0
    deepest = max(_stack(table.values[:, player], span).max() for player in order)
    for place, player in zip(range(len(order))[::-1], order, strict=True):
        values = table.values[:, player]
        heights = place + _stack(values, span) * (_HALF_HEIGHT / max(deepest, 4.0))
        if table.data is None:
            ax.scatter(values, heights, s=12, linewidths=0, zorder=2, color=look.neutral)
        else:
            colour = _percent(table.data[:, player])
            scale = look.sequential()
            drawn = ax.scatter(values, heights, s=12, linewidths=0, zorder=2, c=colour, cmap=scale, vmin=0, vmax=1)
    ax.axvline(0, color=look.ink, linewidth=0.8, zorder=1)
    ax.set_yticks(range(len(order))[::-1], [table.names[player] for player in order])
    ax.set_ylim(-0.6, len(order) - 0.4)
    ax.set_xlabel("contribution to the output")
    ax.grid(axis="y", color=look.faint, linewidth=0.8, zorder=0)
    ax.set_axisbelow(True)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(axis="y", length=0)
    return drawn


def _stack(values: _common.Array, span: float) -> _common.Array:
    """Signed place of every dot in the stack of its bin: 0, 1, -1, 2, -2, ...; (rows,)."""
    bins = np.floor(values / span * _BINS).astype(np.int64)
    heights = np.zeros(len(values))
    for one in np.unique(bins):
        members = np.nonzero(bins == one)[0]
        members = members[np.argsort(values[members], kind="stable")]
        rank = np.arange(len(members))
        heights[members] = (rank + 1) // 2 * np.where(rank % 2 == 1, 1, -1)
    return heights


def _percent(data: _common.Array) -> _common.Array:
    """Data on the scale from 0 (5th percentile) to 1 (95th); a constant column is 0.5."""
    low, high = np.percentile(data, [5, 95])
    return np.clip((data - low) / (high - low), 0, 1) if high > low else np.full(len(data), 0.5)
