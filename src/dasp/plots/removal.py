"""Output of the network while players are removed, those with the most positive attribution first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..attribution import Attribution
from ..errors import InputError, InputTypeError
from . import _common, _removed

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def removal(
    results: Mapping[str, Attribution] | Mapping[str, npt.ArrayLike],
    model: Callable[..., Any] | None = None,
    *,
    steps: int = 50,
    target_index: int | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Change of the output against the share of players removed, a line for each method: the faster it falls, the better the
    method knew what the output rests on ("pixel flipping", Bach et al., 2015, with the baseline in place of flipped pixels).

    Lines are means over rows; of four rows or more a band reaches from the first to the third quartile.

    Args:
        results: by the method's name, attributions of the same rows; or curves computed elsewhere, (points,) or (rows, points):
            the change of the output at equal steps from nothing removed to everything removed.
        model: the network that was explained, called with the inputs; needed for attributions.
        steps: at most so many steps.
        target_index: which of several targets, from 0; needed where there are several.
        ax: axes to draw on; default a new figure.

    Raises:
        InputTypeError: `results` is no dict, or mixes attributions and curves.
        InputError: attributions of different rows or without a model, against a background, or curves with NaN or no points.
        MissingExtraError: matplotlib is not installed.
    """
    shares, curves = _curves(results, model, steps, target_index)
    ax = _common.axes(ax, size=(5.2 + _common.room(curves), 3.6))
    look = _common.look(ax)
    ax.axhline(0, color=look.ink, linewidth=0.6)
    for place, (name, lines) in enumerate(curves.items()):
        x, line = shares[name], _common.line(place)
        if len(lines) >= 4:
            low, high = np.quantile(lines, (0.25, 0.75), axis=0)
            ax.fill_between(x, low, high, color=line["color"], alpha=0.18, linewidth=0)
        every = max(1, len(x) // 8)
        ax.plot(x, lines.mean(axis=0), label=_common.plain(name), markevery=(place % every, every), **line)
    ax.set_xlabel("players removed, the most positive first (%)")
    ax.set_ylabel("change of the output")
    ax.set_xlim(0, 100)
    ax.spines[["top", "right"]].set_visible(False)
    _common.legend_above(ax)
    return ax


def _curves(
    results: Mapping[str, Any], model: Callable[..., Any] | None, steps: int, target_index: int | None
) -> tuple[dict[str, _common.Array], dict[str, _common.Array]]:
    """By method: percent removed (points,), and the change of the output (rows, points)."""
    _common.check_whole("steps", steps)
    if steps < 1:
        raise InputError(f"steps {steps}: a curve has at least 1 step.")
    if isinstance(results, Mapping) and any(isinstance(one, Attribution) for one in results.values()):
        attributions = _common.several(results)
        if model is None:
            raise InputError("model: give the network that was explained, to see what it says without some of the players.")
        if not callable(model):
            raise InputTypeError(f"model: expected the network, or a function of its inputs, got {type(model).__name__}.")
        curves = {name: _removed.change(model, result, target_index, steps) for name, result in attributions.items()}
        n = next(iter(attributions.values())).players.count
        return dict.fromkeys(curves, 100 * _removed.removed_counts(n, steps) / n), curves
    if not isinstance(results, Mapping) or not results:
        raise InputTypeError("results: expected a dict from a method's name to its Attribution, or to its curve.")
    curves = {str(name): _given(str(name), curve) for name, curve in results.items()}
    return {name: np.linspace(0, 100, curve.shape[1]) for name, curve in curves.items()}, curves


def _given(name: str, curve: npt.ArrayLike) -> _common.Array:
    lines = np.atleast_2d(_common.numbers(f"the curve of {name}", curve))
    if lines.ndim != 2 or lines.shape[1] < 2:
        raise InputError(f"the curve of {name} has shape {lines.shape}; expected (points,) or (rows, points), 2 at least.")
    return lines
