"""What several methods say about the same players."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..attribution import Attribution
from ..errors import InputError
from . import _common

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def compare(
    results: Mapping[str, Attribution],
    index: int | None = None,
    *,
    target_index: int | None = None,
    max_display: int = 12,
    ax: Axes | None = None,
) -> Axes:
    """A mark for each method at its mean magnitude of every player over the rows, or at its value in row `index`.

    Players are ordered by the first method, largest on top. Standard errors of a row's values are drawn where there are any.

    Args:
        results: by the method's name, attributions of the same rows; the first is what the others are compared with.
        index: row of the batch, from 0; None for mean magnitudes over all.
        target_index: which of several targets, from 0; needed where there are several.
        max_display: how many players at most.
        ax: axes to draw on; default a new figure.

    Raises:
        InputTypeError: `results` is no dict of attributions.
        InputError: fewer than 2 methods, attributions of different rows or players, no such row or target.
        MissingExtraError: matplotlib is not installed.
    """
    attributions = _common.several(results)
    if len(attributions) < 2:
        raise InputError("results: a comparison needs 2 methods or more.")
    _common.check_display(max_display)
    first = next(iter(attributions.values()))
    if index is not None:
        _common.check_row(first, index)
    table = _common.table(first, target_index)
    points = {name: _points(result, index, target_index) for name, result in attributions.items()}
    order = np.argsort(-np.abs(points[next(iter(points))]), kind="stable")[:max_display]
    names = [_common.label(table.names, None if index is None else table.data, index or 0, player) for player in order]
    height = 1.5 + 0.1 * len(points) + max(0.34, 0.1 * len(points)) * len(order)
    ax = _common.axes(ax, size=(_common.width(names) + _common.room(points), height))
    look, places = _common.look(ax), np.arange(len(order))[::-1]
    for place in places[::2]:
        ax.axhspan(place - 0.5, place + 0.5, color=look.faint, alpha=0.5, linewidth=0, zorder=0)
    ax.axvline(0, color=look.ink, linewidth=0.8, zorder=1)
    for number, (name, values) in enumerate(points.items()):
        # Side by side, so that equal values do not hide each other.
        heights = places + 0.6 * (0.5 - (number + 0.5) / len(points))
        spread = None if index is None else _spread(attributions[name], index, target_index, order)
        style = _common.line(number) | {"linestyle": "none", "markersize": 4}
        ax.errorbar(values[order], heights, xerr=spread, label=_common.plain(name), elinewidth=1.0, **style)
    ax.set_yticks(places, names)
    ax.set_ylim(-0.5, len(order) - 0.5)
    ax.set_xlabel("mean |contribution|" if index is None else "contribution to the output")
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(axis="y", length=0)
    _common.legend_above(ax)
    return ax


def _points(result: Attribution, index: int | None, target_index: int | None) -> _common.Array:
    values = _common.table(result, target_index).values
    chosen: _common.Array = np.abs(values).mean(axis=0) if index is None else values[index]
    return chosen


def _spread(
    result: Attribution, index: int, target_index: int | None, order: npt.NDArray[np.intp]
) -> _common.Array | None:
    if result.standard_errors is None:
        return None
    rows, targets, n = result.per_player.shape
    parts = result.standard_errors if isinstance(result.standard_errors, tuple) else (result.standard_errors,)
    flat = np.concatenate([_common.array(part).reshape(rows, targets, -1) for part in parts], axis=2)
    chosen: _common.Array = flat[index, _common.target(target_index, targets)][order]
    return chosen if flat.shape[2] == n and np.isfinite(chosen).all() else None
