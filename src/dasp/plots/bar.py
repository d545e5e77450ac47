"""The most important players as bars."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..attribution import Attribution
from . import _common

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def bar(
    result: Attribution,
    index: int | None = None,
    *,
    target_index: int | None = None,
    max_display: int = 12,
    ax: Axes | None = None,
) -> Axes:
    """Mean magnitude of every player's value over the batch, or the signed values of row `index`; largest on top.

    Players beyond `max_display` are gathered in one last bar: the sum of their bars.

    Raises:
        InputError: no such row or target, several targets and none chosen, or `max_display` below 1.
        MissingExtraError: matplotlib is not installed.
    """
    if index is not None:
        _common.check_row(result, index)
    _common.check_display(max_display)
    table = _common.table(result, target_index)
    names, lengths = _bars(table, index, max_display)
    ax = _common.axes(ax, size=(_common.width(names), 1.2 + 0.32 * len(names)))
    places = np.arange(len(names))[::-1]
    look = _common.look(ax)
    colours = [look.neutral if index is None else look.sign(length) for length in lengths]
    ax.barh(places, lengths, color=colours, height=0.72)
    for place, length in zip(places, lengths, strict=True):
        text = f"{length:.3g}" if index is None else f"{length:+.3g}"
        _common.write_number(ax, length, place, text, left=length < 0)
    ax.margins(x=0.14)
    if min(lengths) >= 0:
        ax.set_xlim(left=0)
    ax.axvline(0, color=look.ink, linewidth=0.8)
    ax.set_yticks(places, names)
    ax.set_xlabel("mean |contribution|" if index is None else "contribution to the output")
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(axis="y", length=0)
    if index is not None:
        ax.set_title(f"base {table.base_value[index]:.3g}, output {table.output[index]:.3g}", fontsize=10)
    return ax


def _bars(table: _common.Table, index: int | None, max_display: int) -> tuple[list[str], list[float]]:
    """Names and lengths from the top: mean magnitudes over the batch, or the values of row `index`."""
    heights = np.abs(table.values).mean(axis=0) if index is None else table.values[index]  # (n,)
    order = np.argsort(-np.abs(heights), kind="stable")
    shown, others = order[:max_display], order[max_display:]
    data = None if index is None else table.data
    names = [_common.label(table.names, data, index or 0, player) for player in shown]
    lengths = [float(heights[player]) for player in shown]
    if len(others):
        names.append(f"{len(others)} others together")
        lengths.append(float(heights[others].sum()))
    return names, lengths
