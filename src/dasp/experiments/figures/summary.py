"""Every input's value of every feature, true and propagated: the summary plot of a table of features."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...plots import _common
from ...plots.beeswarm import dots
from ..speed import DEFAULT, OURS
from .found import Found, Row
from .style import new_figure, panel_title

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_FEATURES = 40


def figure(found: Found) -> Figure | None:
    """True values beside those of this library's default; None where inputs are no rows of features, or ours is missing.

    One dot an input and feature, coloured by the feature's value; both panels have the features in the order of their mean true
    magnitude, and one axis.
    """
    row = default(found.rows)
    if found.inputs.ndim != 2 or found.truth.shape[1] > _MOST_FEATURES or row is None:
        return None
    order = np.argsort(-np.abs(found.truth).mean(axis=0), kind="stable")
    names = found.result.get("names") or [f"feature {place + 1}" for place in range(len(order))]
    drawn = new_figure(9.5, 1.5 + 0.27 * len(order))
    axes = drawn.subplots(1, 2, sharex=True, sharey=True)
    titles = ("true Shapley values", f"{row['family']}, relative error {row['error']:.3f}")
    last = None
    for ax, values, title in zip(axes, (found.truth, found.values(row)), titles, strict=True):
        nothing = np.full(len(values), np.nan)
        table = _common.Table(values, nothing, nothing, found.inputs, tuple(names))
        last = dots(ax, table, order)
        ax.set_xlabel("contribution to the output (points)" if found.name == "parkinson" else "contribution to the output")
        panel_title(ax, title)
    axes[1].tick_params(labelleft=False)
    if last is not None:
        bar = drawn.colorbar(last, ax=axes, fraction=0.02, pad=0.01, ticks=[0, 1])
        bar.ax.set_yticklabels(["low", "high"])
        bar.set_label("value of the feature", labelpad=-10)
        bar.outline.set_visible(False)
    return drawn


def default(rows: list[Row]) -> Row | None:
    """The row of this library's default estimator, else the best of its rows; None where there are none."""
    ours = [row for row in rows if row["family"].startswith(OURS)]
    named = [row for row in ours if row["family"] == DEFAULT]
    return min(named or ours, key=lambda row: float(row["error"]), default=None)
