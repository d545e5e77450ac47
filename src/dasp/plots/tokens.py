"""A text whose tokens are coloured by their attributions."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..attribution import Attribution
from ..errors import InputError
from . import _common, _letters

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ADVANCE = 0.602  # width of a letter of the typewriter font, in sizes
_LINE = 1.75  # from line to line, in sizes
_MARKS = str.maketrans({"\n": "↵", "\r": "↵", "\t": "→", "\0": "·"})


def tokens(
    result: Attribution,
    index: int = 0,
    *,
    texts: Sequence[str] | None = None,
    width: int = 64,
    limit: float | None = None,
    colorbar: bool = True,
    target_index: int | None = None,
    ax: Axes | None = None,
) -> Axes:
    """The text of row `index`, token by token on a colour: red raises the output, blue lowers it.

    Args:
        result: attributions of a batch.
        index: row of the batch, from 0.
        texts: one for each player; default the attribution's tokens.
        width: letters to a line.
        limit: value at the ends of the colour scale, which is symmetric about 0; default the largest magnitude.
        colorbar: draw the scale.
        target_index: which of several targets, from 0; needed where there are several.
        ax: axes to draw on; default a new figure.

    Raises:
        InputError: no such row or target, no tokens, or a width below 8.
        MissingExtraError: matplotlib is not installed.
    """
    _common.check_row(result, index)
    _common.check_limit(limit)
    _common.check_whole("width", width)
    if width < 8:
        raise InputError(f"width {width}: a line has room for at least 8 letters.")
    table = _common.table(result, target_index)
    values, written = table.values[index], [text.translate(_MARKS) for text in _letters.of_row(result, index, texts)]
    places = _flow([len(text) for text in written], width)
    lines = places[-1][1] + 1
    across = max(column + len(text) for (column, _), text in zip(places, written, strict=True))
    ax = _common.axes(ax, size=(0.6 + 0.115 * max(across, 24), 0.9 + 0.32 * lines))
    end = limit or float(np.abs(values).max()) or 1.0
    scale = importlib.import_module("matplotlib.cm").ScalarMappable(cmap=_common.look(ax).diverging())
    scale.set_clim(-end, end)
    for text, value, (column, line) in zip(written, values, places, strict=True):
        _write(ax, text, scale.to_rgba(value), column, line)
    ax.set_xlim(-0.4 * _ADVANCE, (across + 0.4) * _ADVANCE)
    ax.set_ylim((lines - 0.35) * _LINE, -0.65 * _LINE)
    ax.set_aspect("equal")
    ax.set_axis_off()
    if colorbar:
        bar = ax.figure.colorbar(scale, ax=ax, orientation="horizontal", shrink=0.4, aspect=30, pad=0.02)
        bar.set_label("contribution to the output", fontsize=8)
        bar.ax.tick_params(labelsize=7)
        bar.ax.locator_params(nbins=5)
        bar.outline.set_visible(False)
    ax.set_title(f"base {table.base_value[index]:.3g}, output {table.output[index]:.3g}", fontsize=10)
    return ax


def _flow(lengths: list[int], width: int) -> list[tuple[int, int]]:
    """Column and line of every token, half a letter apart, in lines of `width` letters; a longer token has one of its own."""
    places, column, line = [], 0, 0
    for length in lengths:
        if column and column + length > width:
            column, line = 0, line + 1
        places.append((column, line))
        column += length + 1
    return places


def _write(ax: Axes, text: str, colour: tuple[float, ...], column: int, line: int) -> None:
    patches, path = (importlib.import_module(f"matplotlib.{name}") for name in ("patches", "path"))
    left, base = column * _ADVANCE, line * _LINE
    box = (left - 0.35 * _ADVANCE, base - 1.05), (len(text) + 0.7) * _ADVANCE, 1.45
    ax.add_patch(patches.Rectangle(*box, facecolor=colour, linewidth=0, label=text))
    drawn = _letters.outline(text, family="DejaVu Sans Mono")
    if _letters.size(drawn):
        # Lines are counted downwards, so letters are turned over.
        shape = path.Path(np.asarray(drawn.vertices) * (1, -1) + (left, base), drawn.codes)
        ax.add_patch(patches.PathPatch(shape, facecolor=_common.ink_on(colour), linewidth=0))
