"""How near each method comes to the truth, against what it costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..errors import InputError, InputTypeError
from . import _common

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def frontier(
    points: Mapping[str, npt.ArrayLike],
    *,
    cost: str = "evaluations an input",
    error: str = "relative error",
    ax: Axes | None = None,
) -> Axes:
    """Error against cost, both by their logarithms: a line for each method from its smallest budget to its largest.

    The broad grey steps are the frontier: the least error that any of the methods reaches for at most that cost.

    Args:
        points: by the method's name, pairs (cost, error), one for each budget; all above 0.
        cost, error: what the axes say.
        ax: axes to draw on; default a new figure.

    Raises:
        InputTypeError: `points` is no dict of numbers.
        InputError: no points, not pairs, or numbers that are not finite and above 0.
        MissingExtraError: matplotlib is not installed.
    """
    if not isinstance(points, Mapping) or not points:
        raise InputTypeError("points: expected a dict from a method's name to its pairs of cost and error.")
    lines = {str(name): _pairs(str(name), pairs) for name, pairs in points.items()}
    ax = _common.axes(ax, size=(5.2, 3.8))
    ax.set_xscale("log")
    ax.set_yscale("log")
    costs, least = _best(np.concatenate(list(lines.values())))
    most = max(float(pairs[:, 0].max()) for pairs in lines.values())
    guide = "0.35" if _common.look(ax).dark else "0.82"
    ax.step([*costs, most], [*least, least[-1]], where="post", color=guide, linewidth=5, zorder=1, label="frontier")
    for place, (name, pairs) in enumerate(lines.items()):
        ax.plot(pairs[:, 0], pairs[:, 1], label=_common.plain(name), zorder=2, **_common.line(place))
    ax.set_xlabel(cost)
    ax.set_ylabel(error)
    ax.spines[["top", "right"]].set_visible(False)
    handles, labels = ax.get_legend_handles_labels()
    ax.legend([*handles[1:], handles[0]], [*labels[1:], labels[0]], frameon=False, fontsize=8)
    return ax


def _pairs(name: str, pairs: npt.ArrayLike) -> _common.Array:
    """Costs and errors (points, 2), by cost."""
    found = _common.numbers(f"the points of {name}", pairs)
    if found.ndim != 2 or found.shape[1] != 2 or not len(found):
        raise InputError(f"the points of {name} have shape {found.shape}; expected pairs of cost and error, (points, 2).")
    if (found <= 0).any():
        raise InputError(f"the points of {name}: axes of logarithms have no place for {found.min():g}; give numbers above 0.")
    ordered: _common.Array = found[np.argsort(found[:, 0], kind="stable")]
    return ordered


def _best(points: _common.Array) -> tuple[_common.Array, _common.Array]:
    """Costs at which the least error so far falls, and that error."""
    ordered = points[np.lexsort((points[:, 1], points[:, 0]))]
    least = np.minimum.accumulate(ordered[:, 1])
    falls = np.concatenate([[True], least[1:] < least[:-1]])
    return ordered[falls, 0], least[falls]
