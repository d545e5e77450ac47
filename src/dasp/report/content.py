"""What a report page shows, wherever it came from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import CostError
from ..tables import Array
from .picture import Grid

MOST_ROWS = 20_000
"""Rows of a page where nobody asks for another number."""
MOST_BYTES = 2**25
"""About as many bytes of numbers a page holds where nobody asks; base64 adds a third."""
LARGEST_ROWS, LARGEST_BYTES = 100_000, 2**27
"""What a browser still opens, however many rows are asked for."""
_LONGEST, _ENTRIES = 400, 60  # letters of a setting, and settings


@dataclass(frozen=True)
class Content:
    """R rows of n players; a row is one sample and one target.

    Attributes:
        title: of the page.
        about: what was explained and how, as words and what they say.
        notes: sentences about what the page does not show.
        names: of the players.
        total: rows in the source, of which R are here.
        importance: mean magnitude of each player's values over all rows of the source, (n,).
        values: (R, n).
        columns: of R each, by name: sample, target, base_value, output, gap and what else the source has.
        summaries: of the columns that measure something, over all rows of the source.
        shapley: whether the values must add up.
        errors: standard errors, (R, n), or None.
        data: what each player's element held, (R, n), or None.
        tokens: what each player of each row is, or None.
        grid: where players lie in an image, or None.
        pictures: the images, grey, from 0 to 255, (R, height, width), or None.
    """

    title: str
    about: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    names: tuple[str, ...]
    total: int
    importance: Array
    values: Array
    columns: dict[str, Array]
    summaries: dict[str, Any]
    shapley: bool = True
    errors: Array | None = None
    data: Array | None = None
    tokens: tuple[tuple[str, ...], ...] | None = None
    grid: Grid | None = None
    pictures: Array | None = None


def rows_that_fit(total: int, bytes_each: int, asked: int | None) -> int:
    """How many of `total` rows a page takes.

    Raises:
        CostError: more are asked for than a browser opens.
    """
    if asked is None:
        return max(1, min(total, MOST_ROWS, MOST_BYTES // bytes_each))
    rows, most = min(total, asked), max(1, min(LARGEST_ROWS, LARGEST_BYTES // bytes_each))
    if rows > most:
        raise CostError(
            f"rows_limit: a page of {rows:,} rows, {rows * bytes_each / 2**20:,.0f} MiB of numbers, is more than a browser "
            f"opens; ask for {most:,} or fewer, which are chosen evenly."
        )
    return rows


def evenly(samples: Array, rows: int) -> Array:
    """Places of about `rows` rows, evenly chosen; rows of one sample that follow one another stay together."""
    if rows >= len(samples):
        return np.arange(len(samples))
    group = np.concatenate([[0], np.cumsum(samples[1:] != samples[:-1])])
    groups = int(group[-1]) + 1
    take = max(1, rows * groups // len(samples))
    chosen = np.zeros(groups, dtype=bool)
    chosen[np.linspace(0, groups - 1, take).round().astype(np.int64)] = True
    return np.flatnonzero(chosen[group])


def left_out(rows: int, total: int, asked: int | None) -> list[str]:
    """The sentence about rows that are not in the page, if there are any."""
    if rows == total:
        return []
    why = f"as rows_limit={asked:,} asks" if asked is not None else "to keep the page small"
    return [
        f"{rows:,} of {total:,} rows are in this page, chosen evenly, {why}. Error, gap and, without a filter, importance are "
        "those of all rows."
    ]


def told(entries: Iterable[tuple[str, Any]]) -> tuple[tuple[str, str], ...]:
    """Settings as text; nothing where there is nothing to say, and an end to what a file may say."""
    found = [(_short(name, 80), _short(_text(value), _LONGEST)) for name, value in entries if value is not None]
    return tuple((name, text) for name, text in found if text)[:_ENTRIES]


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={_text(part)}" for name, part in value.items() if part is not None)
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    text = str(value)
    digest = len(text) == 64 and set(text) <= set("0123456789abcdef")
    return f"SHA-256 {text[:12]}…" if digest else text


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
