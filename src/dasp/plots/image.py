"""Signed attributions over the image they explain."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..attribution import Attribution
from ..errors import InputError
from . import _common

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def image(
    result: Attribution,
    index: int = 0,
    *,
    target_index: int | None = None,
    input_index: int = 0,
    limit: float | None = None,
    colorbar: bool = True,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Attributions of row `index` as colours over its input in grey: red raises the output, blue lowers it.

    The input must have the shape `(height, width)` or `(channels, height, width)` without its batch axis. A pixel shows
    the sum of the values of the players that own its channels: each channel's own where every element is a player, the
    patch's where it belongs to a patch.

    Args:
        result: attributions of a batch.
        index: row of the batch, from 0.
        target_index: which of several targets, from 0; needed where there are several.
        input_index: which of several inputs, from 0.
        limit: value at the ends of the colour scale, which is symmetric about 0; default the largest magnitude.
        colorbar: draw the scale.
        title: default the target, base value and output.
        ax: axes to draw on; default a new figure.

    Raises:
        InputError: no such row, target or input, or an input that is not an image or holds NaN.
        MissingExtraError: matplotlib is not installed.
    """
    _common.check_limit(limit)
    pixels = _grey(result, index, input_index)
    table = _common.table(result, target_index)
    owners = result.players.labels[input_index].cpu().numpy()
    values = _common.joined(table.values[index], owners.reshape(-1, *owners.shape[-2:]))
    end = limit if limit is not None else float(np.abs(values).max()) or 1.0
    ax = _common.axes(ax, size=(4.6, 4.0))
    ax.imshow(pixels, cmap="gray_r", vmin=pixels.min(), vmax=_faint(pixels), interpolation="nearest")
    # Opacity grows with the square root of the magnitude: small values stay visible and zero shows the input alone.
    opacity = 0.9 * np.sqrt(np.clip(np.abs(values) / end, 0, 1))
    scale = _common.PAPER.diverging()  # on any page: the input beneath is drawn on white
    drawn = ax.imshow(values, cmap=scale, vmin=-end, vmax=end, alpha=opacity, interpolation="nearest")
    if colorbar:
        bar = ax.figure.colorbar(drawn, ax=ax, fraction=0.046, pad=0.03)
        if bar.solids is not None:
            bar.solids.set_alpha(1)
        bar.set_label("contribution to the output")
    ax.set_xticks([])
    ax.set_yticks([])
    if title is None:
        title = f"base {table.base_value[index]:.3g}, output {table.output[index]:.3g}"
    ax.set_title(title, fontsize=10)
    return ax


def _grey(result: Attribution, index: int, input_index: int) -> _common.Array:
    """The input of row `index`, its channels averaged, (H, W)."""
    _common.check_row(result, index)
    _common.check_input(result, input_index)
    held = _common.array(result.inputs[input_index][index])  # (H, W) or (C, H, W)
    pixels = _common.finite(f"the pixels of row {index}", held)
    if pixels.ndim not in (2, 3):
        raise InputError(
            f"an image has shape (height, width) or (channels, height, width), this input has {pixels.shape}; "
            "use dasp.plots.bar or waterfall."
        )
    return pixels if pixels.ndim == 2 else np.asarray(pixels.mean(axis=0))


def _faint(pixels: _common.Array) -> float:
    """Upper end of the grey scale that leaves the darkest pixel at 30 % grey, beneath the colours."""
    spread = float(pixels.max() - pixels.min()) or 1.0
    return float(pixels.min()) + 3.3 * spread
