"""A time series over its attributions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..attribution import Attribution
from ..errors import InputError
from . import _common

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BAND = 0.84  # height of a channel's line; the bands of two channels are 1 apart


def time_series(
    result: Attribution,
    index: int = 0,
    *,
    times: Sequence[float] | npt.ArrayLike | None = None,
    channels: Sequence[str] | None = None,
    time_axis: int = -1,
    limit: float | None = None,
    target_index: int | None = None,
    input_index: int = 0,
    ax: Axes | None = None,
) -> Axes:
    """The series of row `index` as a line, over a colour for every point: red raises the output, blue lowers it.

    The input has the shape (time,), or (channels, time), without its batch axis; of several channels each has a band of its
    own, from its least value to its largest. A point shows the value of the player that owns it, also where a player is a
    whole stretch.

    Args:
        result: attributions of a batch.
        index: row of the batch, from 0.
        times: when the points are, increasing; default 0, 1, 2, ...
        channels: a name for each channel.
        time_axis: which axis of the input is time, without the batch axis: -1, or 0 for (time, channels).
        limit: value at the ends of the colour scale, which is symmetric about 0; default the largest magnitude.
        target_index: which of several targets, from 0; needed where there are several.
        input_index: which of several inputs, from 0.
        ax: axes to draw on; default a new figure.

    Raises:
        InputError: no such row, target or input, an input that is no series of two points or more or holds NaN, or times or
            names that do not fit it.
        MissingExtraError: matplotlib is not installed.
    """
    _common.check_row(result, index)
    _common.check_input(result, input_index)
    _common.check_limit(limit)
    values = _common.table(result, target_index).values[index]
    lines, owners = _channels(result, index, input_index, time_axis)  # (C, time) each
    clock = _times(times, lines.shape[1])
    names = _names(channels, len(lines))
    size = (7.0, 2.2) if len(lines) == 1 else (7.0 + _common.longer(names), 1.2 + 0.55 * len(lines))
    ax = _common.axes(ax, size=size)
    shown = values[owners]
    _strips(ax, clock, shown, lines, limit or float(np.abs(shown).max()) or 1.0)
    look = _common.look(ax)
    for place, line in enumerate(lines if len(lines) == 1 else _bands(lines)):
        ax.plot(clock, line, color=look.ink, linewidth=1.2, label=names[place])
    if len(lines) > 1:
        ax.set_yticks(range(len(lines))[::-1], names)
        ax.tick_params(axis="y", length=0)
    elif channels is not None:
        ax.set_ylabel(names[0])
    ax.set_xlim(clock[0], clock[-1])
    ax.set_xlabel("time")
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _channels(
    result: Attribution, index: int, input_index: int, time_axis: int
) -> tuple[_common.Array, npt.NDArray[np.int64]]:
    held = _common.finite(f"the points of row {index}", _common.array(result.inputs[input_index][index]))
    owners = result.players.labels[input_index].cpu().numpy()
    _common.check_whole("time_axis", time_axis)
    if held.ndim not in (1, 2) or not -held.ndim <= time_axis < held.ndim or held.shape[time_axis] < 2:
        raise InputError(
            f"a time series has shape (time,) or (channels, time) and two points or more; this input has {held.shape}, and "
            f"time_axis is {time_axis}."
        )
    lines, owned = (np.atleast_2d(np.moveaxis(one, time_axis, -1)) for one in (held, owners))
    return lines, owned


def _times(times: Sequence[float] | npt.ArrayLike | None, count: int) -> _common.Array:
    if times is None:
        return np.arange(count, dtype=np.float64)
    clock = _common.numbers("times", times)
    if clock.shape != (count,):
        raise InputError(f"times: shape {clock.shape}, and the series has {count} points.")
    if not (np.diff(clock) > 0).all():
        raise InputError("times: they must increase from point to point.")
    return clock


def _names(channels: Sequence[str] | None, count: int) -> list[str]:
    if channels is None:
        return [f"channel {i}" for i in range(count)]
    return _common.named("channels", channels, count)


def _bands(lines: _common.Array) -> _common.Array:
    """Every channel scaled into a band about its place, the first on top."""
    low, high = lines.min(axis=1, keepdims=True), lines.max(axis=1, keepdims=True)
    within = np.where(high > low, (lines - low) / np.where(high > low, high - low, 1.0), 0.5) - 0.5
    scaled: _common.Array = within * _BAND + np.arange(len(lines))[::-1, None]
    return scaled


def _strips(ax: Axes, clock: _common.Array, shown: _common.Array, lines: _common.Array, end: float) -> None:
    """A coloured cell for every channel and point, as wide as half the way to its neighbours."""
    middle = (clock[1:] + clock[:-1]) / 2
    edges = np.concatenate([clock[:1] - (middle[0] - clock[0]), middle, clock[-1:] + (clock[-1] - middle[-1])])
    if len(lines) == 1:
        room = 0.06 * float(np.ptp(lines)) or 1.0
        bounds = np.array([lines.min() - room, lines.max() + room])
    else:
        bounds = np.arange(len(lines) + 1)[::-1] - 0.5
    scale = _common.look(ax).diverging()
    drawn = ax.pcolormesh(edges, bounds, shown, cmap=scale, vmin=-end, vmax=end, alpha=0.85, linewidth=0, rasterized=True)
    bar = ax.figure.colorbar(drawn, ax=ax, fraction=0.04, pad=0.02)
    bar.set_label("contribution")
    bar.outline.set_visible(False)
