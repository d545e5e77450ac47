"""Attribution maps of images: each input, its true values, and what each method gives."""

from __future__ import annotations

import importlib
import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

from ...plots import _common
from ..problem import Array
from .found import Found
from .style import named_with_cost

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_INPUTS = 10
_SIDE = 0.82  # of one map, in inches
_BELOW = 0.17  # under each map, for its error
_TOP, _BOTTOM = 1.75, 0.75  # for the names of the methods, and for the scale


def figure(found: Found) -> Figure | None:
    """Inputs down; the image, the truth and one budget of each family across, the best first; None where inputs are no images.

    Red raises the output and blue lowers it. One row has one scale, symmetric about 0, whose ends are the largest true
    magnitude; beyond them the colour stays the same. The number under a map is its relative error.
    """
    if found.inputs.ndim != 4:
        return None
    from matplotlib.figure import Figure

    inputs = range(min(len(found.inputs), _MOST_INPUTS))
    rows = found.representatives
    columns = [("input", None), ("true values", found.truth)]
    columns += [(named_with_cost(row), found.values(row)) for row in rows]
    width, height = 0.3 + _SIDE * len(columns), _TOP + (_SIDE + _BELOW) * len(inputs) + _BOTTOM
    # Places are set by hand: a layout that fits 200 maps together by trying takes ten times as long to draw.
    drawn = Figure(figsize=(width, height))
    edges = {"left": 0.25 / width, "right": 1 - 0.05 / width, "top": 1 - _TOP / height, "bottom": _BOTTOM / height}
    axes = drawn.subplots(
        len(inputs), len(columns), squeeze=False, gridspec_kw={**edges, "wspace": 0.06, "hspace": _BELOW / _SIDE}
    )
    for line, index in zip(axes, inputs, strict=True):
        limit = float(np.abs(found.truth[index]).max()) or 1.0
        for column, (ax, (name, values)) in enumerate(zip(line, columns, strict=True)):
            if values is None:
                ax.imshow(found.inputs[index].mean(axis=0), cmap="gray_r", interpolation="nearest")
            else:
                image = on_image(found, values[index])
                ax.imshow(image, cmap=_common.PAPER.diverging(), vmin=-limit, vmax=limit, interpolation="nearest")
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set(visible=True, linewidth=0.4, color="0.6")
            if column >= 2:
                ax.set_xlabel(f"{rows[column - 2]['errors'][index]:.2f}", labelpad=1.5, fontsize=7)
            if index == 0:
                text = "\n".join(textwrap.wrap(name, 28))
                ax.text(0.5, 1.06, text, transform=ax.transAxes, rotation=90, ha="center", va="bottom", fontsize=7)
        line[0].set_ylabel(f"output {found.targets[index]}", fontsize=7)
    scale: Any = importlib.import_module("matplotlib.cm").ScalarMappable(cmap=_common.PAPER.diverging())
    scale.set_clim(-1, 1)
    place = drawn.add_axes((0.5 - 1.5 / width, 0.42 / height, 3 / width, 0.09 / height))
    bar = drawn.colorbar(scale, cax=place, orientation="horizontal", ticks=[-1, 0, 1])
    bar.ax.set_xticklabels(["lowers the output", "0", "raises it"], fontsize=7)
    bar.set_label("attribution / largest true magnitude of the row; under a map: its relative error", fontsize=7)
    return drawn


def on_image(found: Found, values: Array) -> Array:
    """Values of the players (n,) on the pixels they own, summed over channels where each has its own: (H, W)."""
    shape = found.inputs.shape[1:]
    if found.players is None:
        summed: Array = values.reshape(shape).sum(axis=0)
        return summed
    spread: Array = values[found.players[0]]
    return spread
