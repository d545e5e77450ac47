"""From the base value to the output, one player at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..attribution import Attribution
from . import _common

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_VISIBLE_GAP = 1e-3  # share of the sum of magnitudes below which a missing rest is thinner than a line


def waterfall(
    result: Attribution,
    index: int = 0,
    *,
    target_index: int | None = None,
    max_display: int = 10,
    ax: Axes | None = None,
) -> Axes:
    """Values of row `index` stacked from the base value (bottom) to the output (top), largest on top.

    Players beyond `max_display` are gathered in one step. What the values leave over (the completeness gap; for semivalues
    that need not add up, what no player is given) is a step of its own in grey when it can be seen; nothing is rescaled to
    hide it.

    Raises:
        InputError: no such row or target, several targets and none chosen, or `max_display` below 1.
        MissingExtraError: matplotlib is not installed.
    """
    _common.check_row(result, index)
    _common.check_display(max_display)
    table = _common.table(result, target_index)
    values, base, output = table.values[index], float(table.base_value[index]), float(table.output[index])
    order = np.argsort(-np.abs(values), kind="stable")
    shown, others = order[:max_display], order[max_display:]
    steps: list[tuple[str, float, bool]] = []  # from the bottom: name, length, whether in grey
    rest = output - base - float(values.sum())
    if abs(rest) > _VISIBLE_GAP * float(np.abs(values).sum()):
        steps.append((_rest(result), rest, True))
    if len(others):
        steps.append((f"{len(others)} others", float(values[others].sum()), False))
    for player in shown[::-1]:
        steps.append((_common.label(table.names, table.data, index, player), float(values[player]), False))

    ax = _common.axes(ax, size=(_common.width(name for name, _, _ in steps), 1.4 + 0.36 * len(steps)))
    look = _common.look(ax)
    ends = base + np.cumsum([length for _, length, _ in steps])
    starts = np.concatenate([[base], ends[:-1]])
    for place, ((_, length, grey), start, end) in enumerate(zip(steps, starts, ends, strict=True)):
        colour = look.neutral if grey else look.sign(length)
        ax.barh(place, length, left=start, color=colour, height=0.72)
        if place + 1 < len(steps):
            ax.plot([end, end], [place + 0.36, place + 0.64], color=look.ink, linewidth=0.7)
        _common.write_number(ax, max(start, end), place, f"{length:+.3g}")
    ax.axvline(base, color=look.ink, linewidth=0.8, linestyle=":")
    ax.axvline(output, color=look.ink, linewidth=0.8, linestyle=":")
    ax.use_sticky_edges = False
    ax.margins(x=0.14, y=0.02)
    ax.set_yticks(range(len(steps)), [name for name, _, _ in steps])
    ax.set_xlabel("output of the model")
    ax.set_title(f"from base {base:.4g} to output {output:.4g}", fontsize=10)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(axis="y", length=0)
    return ax


def _rest(result: Attribution) -> str:
    """What the grey step is: an error of Shapley values, none of other semivalues."""
    semivalue = result.settings.get("semivalue")
    if semivalue is None:
        return "not attributed (gap)"
    return f"not given to any player ({_common.plain(str(semivalue['name']))} values need not add up)"
