"""How much the error of each method varies from input to input."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import numpy as np

from ..speed import OURS, number, passes
from .found import Found
from .style import BLUE, GREY, named, new_figure, rank_axis, rank_distance

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FEW = 30  # as many inputs, or fewer, are drawn as dots over their box


def figure(found: Found) -> Figure:
    """RMSE and Spearman correlation over inputs: one box per family, at one budget (see `representatives`), the best on top.

    A box reaches from the first to the third quartile, its line is the median; whiskers reach to the last input within 1.5
    times the length of the box. Boxes of this library are blue; on the right are network evaluations per input, a propagated
    pass counted as one.
    """
    rows = sorted(found.representatives, key=lambda row: float(np.median(row["rmses"])), reverse=True)  # axes count upwards
    players = found.truth.shape[1]
    distances = [rank_distance(row["spearmans"], players) for row in rows]
    drawn = new_figure(9.5, 1.2 + 0.33 * len(rows))
    left, right = drawn.subplots(1, 2, sharey=True)
    panels = (
        (left, "RMSE (unit of the output)", [np.maximum(row["rmses"], 1e-12) for row in rows]),
        (right, "Spearman correlation", distances),
    )
    for ax, title, samples in panels:
        ax.set_xscale("log")
        boxes = ax.boxplot(
            samples,
            orientation="horizontal",
            widths=0.6,
            patch_artist=True,
            medianprops={"color": "black", "linewidth": 1.4},
            whiskerprops={"linewidth": 0.8},
            showcaps=False,
            flierprops={"marker": ".", "markersize": 3, "markerfacecolor": "black", "markeredgewidth": 0},
            showfliers=found.result["inputs"] > _FEW,
        )
        for box, row in zip(boxes["boxes"], rows, strict=True):
            box.set(facecolor=BLUE if row["family"].startswith(OURS) else GREY, alpha=0.55, linewidth=0.8)
        if found.result["inputs"] <= _FEW:
            for place, sample in enumerate(samples, start=1):
                ax.plot(sample, np.full(len(sample), place), ".", color="black", markersize=3, zorder=3)
        ax.set_xlabel(title)
        ax.grid(True, axis="x", color="0.9", linewidth=0.6)
        ax.set_axisbelow(True)
        ax.tick_params(axis="y", length=0)
    right.invert_xaxis()
    rank_axis(right.xaxis, np.concatenate(distances), players, most=5)
    left.set_yticks(range(1, len(rows) + 1), ["\n".join(textwrap.wrap(named(row), 42)) for row in rows])
    beside = right.get_yaxis_transform()
    for place, row in enumerate(rows, start=1):
        right.text(1.16, place, number(passes(row)), transform=beside, ha="right", va="center", fontsize=8)
    right.text(1.16, len(rows) + 0.75, "evaluations", transform=beside, ha="right", va="bottom", fontsize=8)
    drawn.suptitle(f"{found.result['title']}: {found.result['inputs']} inputs")
    return drawn
