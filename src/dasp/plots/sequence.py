"""A sequence whose letters are as tall as their attributions."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..attribution import Attribution
from ..errors import InputError
from . import _common, _letters

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDTH = 0.92  # of a letter; two positions are 1 apart
_BASES = {"A": "#009E73", "C": "#0072B2", "G": "#E69F00", "T": "#D55E00", "U": "#D55E00"}
_BASES_ON_DARK = _BASES | {"C": "#56B4E9"}


def sequence(
    result: Attribution,
    index: int = 0,
    *,
    letters: Sequence[str] | None = None,
    alphabet: str = "ACGT",
    start: int = 0,
    stop: int | None = None,
    target_index: int | None = None,
    input_index: int = 0,
    ax: Axes | None = None,
) -> Axes:
    """Letters of row `index`, each as tall as its value: above the line they raise the output, below it they lower it.

    The letters are `letters`, one for each player; or the tokens of a text, of which long ones take more room; or what a
    one-hot input (channels, length) or (length, channels) holds, whose channels stand for the letters of `alphabet`. There a
    position shows the sum of the values of the players that own its channels. Bases have a colour each, other letters that of
    their sign.

    Args:
        result: attributions of a batch.
        index: row of the batch, from 0.
        letters: one text for each player.
        alphabet: what the channels of a one-hot input stand for.
        start, stop: draw the positions from `start` to before `stop`, counted from 0.
        target_index: which of several targets, from 0; needed where there are several.
        input_index: which of several inputs is one-hot, from 0.
        ax: axes to draw on; default a new figure.

    Raises:
        InputError: no such row, target, input or stretch; neither letters nor tokens nor a one-hot input.
        MissingExtraError: matplotlib is not installed.
    """
    _common.check_row(result, index)
    values = _common.table(result, target_index).values[index]
    if letters is not None or result.tokens is not None:
        texts: Sequence[str] = _letters.of_row(result, index, letters)
    else:
        texts, values = _one_hot(result, index, input_index, values, alphabet)
    stop = len(texts) if stop is None else stop
    _common.check_whole("start", start)
    _common.check_whole("stop", stop)
    if not 0 <= start < stop <= len(texts):
        raise InputError(f"start {start}, stop {stop}: a stretch of the {len(texts)} positions, counted from 0.")
    texts, values = texts[start:stop], values[start:stop]
    widths = np.array([max(1, len(text)) for text in texts])
    ax = _common.axes(ax, size=(min(14.0, max(4.0, 1.0 + 0.16 * widths.sum())), 2.0))
    _draw(ax, texts, values, widths, start)
    return ax


def _one_hot(
    result: Attribution, index: int, input_index: int, values: _common.Array, alphabet: str
) -> tuple[tuple[str, ...], _common.Array]:
    """The letters of a one-hot input, and the values summed over the channels of each position."""
    _common.check_input(result, input_index)
    held = _common.array(result.inputs[input_index][index])
    owners = result.players.labels[input_index].cpu().numpy()
    for axis in (0, 1):
        if held.ndim == 2 and held.shape[axis] == len(alphabet) and np.isin(held, (0.0, 1.0)).all():
            counts = held.sum(axis=axis)
            if (counts <= 1).all():
                found = held.argmax(axis=axis)
                texts = tuple(alphabet[one] if count else "" for one, count in zip(found, counts, strict=True))
                return texts, _common.joined(values, np.moveaxis(owners, axis, 0))
    raise InputError(
        f"no letters: input {input_index} has shape {held.shape} and is not one-hot over {len(alphabet)} channels "
        f"({alphabet!r}). Give letters=, one for each player, or the alphabet."
    )


def _draw(ax: Axes, texts: Sequence[str], values: _common.Array, widths: Any, start: int) -> None:
    patches, path = (importlib.import_module(f"matplotlib.{name}") for name in ("patches", "path"))
    look = _common.look(ax)
    bases = _BASES_ON_DARK if look.dark else _BASES
    known = all(text in bases for text in texts if text)
    lefts = np.concatenate([[0], np.cumsum(widths)[:-1]]) + start + 0.5
    for text, value, width, left in zip(texts, values, widths, lefts, strict=True):
        drawn = _letters.unit_outline(text)
        if not _letters.size(drawn) or value == 0:
            continue
        scale, shift = (width - 1 + _WIDTH, value), (left + (1 - _WIDTH) / 2, 0.0)
        colour = bases[text] if known else look.sign(value)
        shape = path.Path(np.asarray(drawn.vertices) * scale + shift, drawn.codes)
        ax.add_patch(patches.PathPatch(shape, facecolor=colour, linewidth=0, label=text))
    ax.axhline(0, color=look.ink, linewidth=0.8)
    low, high = min(values.min(), 0.0), max(values.max(), 0.0)
    room = 0.06 * (high - low) or 1.0
    ax.set_ylim(low - room, high + room)
    ax.set_xlim(lefts[0], lefts[-1] + widths[-1])
    if (widths > 1).any():
        ax.set_xticks([])
    else:
        ax.set_xlabel("position in the sequence")
    ax.set_ylabel("contribution")
    ax.spines[["top", "right", "bottom"]].set_visible(False)
