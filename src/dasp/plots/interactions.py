"""Interactions of pairs of players, as a triangle of coloured cells or, of chosen pairs, as bars."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError, InputTypeError
from ..interactions import Interactions
from . import _common

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WRITTEN = 9
"""Up to this many players the cells hold their numbers."""
_ROUNDING = 1e-10  # share of the largest, below which an interaction is written as 0


def interactions(
    result: Interactions,
    index: int | None = None,
    *,
    target_index: int | None = None,
    max_display: int = 12,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Mean magnitude of every pair's interaction over the batch, or the signed interactions of row `index`.

    Of a whole matrix the players with the largest sums of magnitudes are drawn, as a triangle with one cell for every pair;
    of a signed one, red pairs reinforce each other, blue ones stand in for each other. Of chosen pairs the largest are bars.

    Args:
        result: what `Explainer.interactions` gives.
        index: row of the batch, from 0; None for the mean magnitude over all.
        target_index: which of several targets, from 0; needed where there are several.
        max_display: how many players, or pairs, at most.
        title: default none.
        ax: axes to draw on; default a new figure.

    Raises:
        InputTypeError: `result` is something else.
        InputError: no such row or target, or `max_display` below 1.
        MissingExtraError: matplotlib is not installed.
    """
    check_interactions(result)
    _common.check_display(max_display)
    values = chosen(result, index, target_index)
    names = tuple(_common.labels(result.names))
    if result.pairs is None and len(names) > 1:
        ax = _triangle(values, names, max_display, index is not None, ax)
    else:
        ax = _bars(result, values, names, max_display, index is not None, ax)
    if title is not None:
        ax.set_title(title, fontsize=10)
    return ax


def check_interactions(result: Interactions) -> None:
    """`InputTypeError` when `result` is something else."""
    if not isinstance(result, Interactions):
        raise InputTypeError(
            "result: this plot draws Interactions, what dasp.Explainer(model, baseline).interactions(inputs) gives; "
            f"got {type(result).__name__}."
        )


def chosen(result: Interactions, index: int | None, target_index: int | None) -> _common.Array:
    """(n, n) or (P,): the values of a row, or mean magnitudes."""
    values = result.per_target
    place = _common.target(target_index, values.shape[1])
    every = _common.finite("the interactions", _common.array(values[:, place]))
    if index is None:
        mean: _common.Array = np.abs(every).mean(axis=0)
        return mean
    _common.check_whole("index", index)
    if not 0 <= index < len(every):
        raise InputError(f"index {index}: there are {len(every)} row(s), counted from 0.")
    row: _common.Array = every[index]
    return row


def _triangle(values: _common.Array, names: tuple[str, ...], most: int, signed: bool, ax: Axes | None) -> Axes:
    order = np.argsort(-np.abs(values).sum(axis=1), kind="stable")[: max(2, most)]
    shown = values[np.ix_(order, order)]
    count = len(order)
    labels = [names[player] for player in order]
    size, more = 1.6 + 0.42 * count, _common.longer(labels)
    ax = _common.axes(ax, size=(size + 1.0 + 1.2 * more, size + 0.7 * more))  # names below are slanted, to the left
    look = _common.look(ax)
    end = float(np.abs(shown).max()) or 1.0
    cells = np.ma.masked_array(shown, np.triu(np.ones_like(shown, dtype=bool)))[1:, :-1]
    scale = look.diverging() if signed else look.sequential()
    drawn = ax.imshow(cells, cmap=scale, vmin=-end if signed else 0, vmax=end, interpolation="nearest")
    if count <= WRITTEN:
        for i, j in zip(*np.nonzero(~np.ma.getmaskarray(cells)), strict=True):
            ink = _common.ink_on(drawn.to_rgba(np.asarray(cells[i, j])))
            number = cells[i, j] if abs(cells[i, j]) > _ROUNDING * end else 0
            ax.text(j, i, f"{number:.2g}", ha="center", va="center", fontsize=7, color=ink)
    ax.set_xticks(range(count - 1), labels[:-1], rotation=45, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(count - 1), labels[1:])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    bar = ax.figure.colorbar(drawn, ax=ax, fraction=0.046, pad=0.03)
    bar.set_label("interaction" if signed else "mean |interaction|")
    bar.outline.set_visible(False)
    return ax


def _bars(
    result: Interactions, values: _common.Array, names: tuple[str, ...], most: int, signed: bool, ax: Axes | None
) -> Axes:
    pairs = result.listed[0].cpu().numpy()
    flat = values.reshape(-1)[: len(pairs)]
    order = np.argsort(-np.abs(flat), kind="stable")[:most]
    called = [f"{names[pairs[pair, 0]]} × {names[pairs[pair, 1]]}" for pair in order]
    ax = _common.axes(ax, size=(_common.width(called), 1.2 + 0.32 * max(1, len(order))))
    look, places = _common.look(ax), np.arange(len(order))[::-1]
    for place, pair in zip(places, order, strict=True):
        length = float(flat[pair])
        colour = look.sign(length) if signed else look.neutral
        ax.barh(place, length, color=colour, height=0.72)
        _common.write_number(ax, length, place, f"{length:+.3g}" if signed else f"{length:.3g}", left=length < 0)
    ax.margins(x=0.14)
    ax.axvline(0, color=look.ink, linewidth=0.8)
    ax.set_yticks(places, called)
    ax.set_xlabel("interaction" if signed else "mean |interaction|")
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(axis="y", length=0)
    return ax
