"""Interactions of pairs of players, as lines between players in a circle."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..interactions import Interactions
from . import _common
from .interactions import check_interactions, chosen

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LETTERS = 18  # to a line of a name
_WIDEST = 6.0  # points, of the line of the strongest pair
_THINNEST = 0.03  # share of the strongest pair below which no line is drawn


def interaction_network(
    result: Interactions,
    index: int | None = None,
    *,
    target_index: int | None = None,
    max_display: int = 12,
    max_edges: int = 30,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Players in a circle; the stronger a pair interacts, the broader the line between them.

    Mean magnitudes over the batch, in grey; or those of row `index`: a full red line between players that reinforce each other,
    a dashed blue one between those that stand in for each other. A player's dot grows with the sum of its interactions.

    Args:
        result: what `Explainer.interactions` gives, of all pairs or of chosen ones.
        index: row of the batch, from 0; None for the mean magnitude over all.
        target_index: which of several targets, from 0; needed where there are several.
        max_display: how many players at most, those with the largest sums.
        max_edges: how many lines at most, those of the strongest pairs.
        title: default none.
        ax: axes to draw on; default a new figure.

    Raises:
        InputTypeError: `result` is something else.
        InputError: no such row or target, fewer than two players, `max_display` below 2 or `max_edges` below 1.
        MissingExtraError: matplotlib is not installed.
    """
    check_interactions(result)
    _common.check_display(max_display)
    _common.check_whole("max_edges", max_edges)
    if max_display < 2 or max_edges < 1 or len(result.names) < 2:
        raise InputError(
            f"a network has 2 players and 1 line at least: there are {len(result.names)} player(s), max_display {max_display}, "
            f"max_edges {max_edges}."
        )
    pairs, values = _edges(result, index, target_index)
    sums = np.zeros(len(result.names))
    for side in (0, 1):
        np.add.at(sums, pairs[:, side], np.abs(values))
    order = np.argsort(-sums, kind="stable")[:max_display]
    places = {int(player): place for place, player in enumerate(order)}
    angles = np.pi / 2 - 2 * np.pi * np.arange(len(order)) / len(order)
    spots = np.stack([np.cos(angles), np.sin(angles)], axis=1)  # from the top, clockwise
    short = _common.shortened(result.names)
    names = [_common.wrapped(short[player], _LETTERS) for player in order]
    longest = max(len(line) for name in names for line in name.split("\n"))
    ax = _common.axes(ax, size=(3.8 + 0.16 * longest, 4.6))
    drawn = [edge for edge in np.argsort(-np.abs(values), kind="stable") if set(pairs[edge].tolist()) <= set(places)]
    _lines(ax, spots, [(places[int(i)], places[int(j)], float(values[e])) for e in drawn[:max_edges] for i, j in [pairs[e]]],
           signed=index is not None)  # fmt: skip
    _players(ax, spots, sums[order] / (sums.max() or 1.0), names)
    if title is not None:
        ax.set_title(title, fontsize=10)
    return ax


def _edges(
    result: Interactions, index: int | None, target_index: int | None
) -> tuple[npt.NDArray[np.int64], _common.Array]:
    """Pairs (P, 2) and their values (P,)."""
    pairs = result.listed[0].cpu().numpy()
    values = chosen(result, index, target_index)
    if result.pairs is None:
        values = values[pairs[:, 0], pairs[:, 1]]
    return pairs, values[: len(pairs)]


def _lines(ax: Axes, spots: _common.Array, edges: list[tuple[int, int, float]], *, signed: bool) -> None:
    """The strongest last, above the others."""
    look = _common.look(ax)
    end = max((abs(value) for *_, value in edges), default=0.0) or 1.0
    kinds = {True: "reinforce each other", False: "stand in for each other"}
    for i, j, value in reversed(edges):
        share = abs(value) / end
        if share < _THINNEST:
            continue
        colour = look.sign(value) if signed else look.neutral
        dashes = (0, (2.2, 1.2)) if signed and value < 0 else "-"
        ax.plot(
            *spots[[i, j]].T, color=colour, linestyle=dashes, linewidth=max(0.6, _WIDEST * share), alpha=0.35 + 0.65 * share,
            zorder=1, label="_" + (kinds[value >= 0] if signed else ""), solid_capstyle="round", dash_capstyle="butt",
        )  # fmt: skip
    lines: list[object] = []
    for positive, kind in kinds.items() if signed else ():
        if any((value >= 0) == positive and abs(value) >= _THINNEST * end for *_, value in edges):
            dashes = "-" if positive else (0, (2.2, 1.2))
            lines += ax.plot([], [], color=look.sign(1 if positive else -1), linestyle=dashes, linewidth=2.5, label=kind)
    if lines:
        ax.legend(handles=lines, frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.02), ncols=2)
    else:
        ax.text(0.5, -0.06, f"broadest line: mean |interaction| {end:.2g}", transform=ax.transAxes, ha="center", va="top",
                fontsize=8, color=look.ink)  # fmt: skip


def _players(ax: Axes, spots: _common.Array, shares: _common.Array, names: list[str]) -> None:
    look = _common.look(ax)
    ax.scatter(spots[:, 0], spots[:, 1], s=30 + 170 * shares, color=look.neutral, edgecolors=look.ink, linewidths=0.8, zorder=3)
    for (x, y), name in zip(spots, names, strict=True):
        across = "center" if abs(x) < 0.25 else "left" if x > 0 else "right"
        along = "center" if abs(y) < 0.3 else "bottom" if y > 0 else "top"
        ax.annotate(
            name, (x, y), xytext=(10 * x, 10 * y), textcoords="offset points", ha=across, va=along, fontsize=9, color=look.ink
        )  # fmt: skip
    ax.set_xlim(-1.15, 1.15)
    room = 1.08 + 0.13 * max(name.count("\n") + 1 for name in names)  # above and below, for the names
    ax.set_ylim(-room, room)
    ax.set_aspect("equal")
    ax.set_axis_off()
