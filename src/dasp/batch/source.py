"""Rows of a data set, read a few at a time, and what is wrong with those that cannot be read."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from ..errors import DataFileError
from ..tables import Array, element

STEP_BYTES = 2**26
"""About as much as one chunk of rows takes, as float64."""
MOST_ROWS = 4096
WHOLE_BYTES = 2**26
"""Files up to this size are told apart by all of their bytes."""
SAMPLES = 64
SAMPLE_BYTES = 2**16


@dataclass(frozen=True)
class Chunk:
    """Some rows that follow one another.

    Attributes:
        values: (rows, *shape), numbers; what a bad row holds means nothing.
        bad: why a row cannot be used, by its place in the chunk.
    """

    values: Array
    bad: dict[int, str]


class Source(ABC):
    """A data set on disk. Only paths and counts are kept, so that it can be sent to another process.

    Attributes:
        path: the file or folder, for messages.
        names: names of the columns of a table, else None.
        shape: of one row.
    """

    path: Path
    names: tuple[str, ...] | None
    shape: tuple[int, ...]

    @abstractmethod
    def __len__(self) -> int:
        """The number of rows, bad ones among them."""

    @abstractmethod
    def read(self, start: int, stop: int) -> Chunk:
        """Rows `start` to `stop - 1`, counted from 0. Cheapest when called with rising numbers."""

    @abstractmethod
    def identity(self) -> str:
        """A digest that another data set does not have, whatever the folder it lies in."""

    @abstractmethod
    def where(self, row: int) -> tuple[str, int | None]:
        """The file of a row and the row's number in it, from 1; None where the file is the row."""

    @abstractmethod
    def check(self, start: int, stop: int) -> None:
        """That the files of rows `start` to `stop - 1` are those that were opened.

        Raises:
            DataFileError: one was changed since, so that rows of two versions would be mixed.
        """

    def close(self) -> None:  # noqa: B027 - not every source keeps something
        """Let go of open files and of what was read ahead; `read` opens them again."""

    @property
    def labelled(self) -> bool:
        """Whether the file of each row is written beside its values."""
        return False

    def place(self, row: int) -> str:
        """What messages call a row."""
        file, number = self.where(row)
        return file if number is None else f"{file}: row {number}"

    def chunk_rows(self) -> int:
        """Rows that are read at a time where nobody asks for another number."""
        return max(1, min(MOST_ROWS, STEP_BYTES // (8 * max(1, prod(self.shape)))))

    def mean(self, *, skip: bool = False) -> Array:
        """Mean row in float64, summed in chunks of a size that hangs on the shape alone.

        Args:
            skip: leave bad rows out; else the first is an error.

        Raises:
            DataFileError: a row is bad, or all are.
        """
        total, count, step = np.zeros(self.shape), 0, self.chunk_rows()
        for start in range(0, len(self), step):
            chunk = self.read(start, min(start + step, len(self)))
            bad = chunk.bad | not_finite(chunk, self.names)
            if bad and not skip:
                first = min(bad)
                raise DataFileError(
                    f"{self.place(start + first)}: {bad[first].rstrip('.')}, so that there is no mean row. Put it right, or "
                    "leave such rows out (batch.mean(skip=True), or on the command line --on-error set-aside)."
                )
            good = np.ones(len(chunk.values), dtype=bool)
            good[list(bad)] = False
            total += chunk.values[good].sum(axis=0, dtype=np.float64)
            count += int(good.sum())
        if not count:
            raise DataFileError(f"{self.path}: not one row can be used, so there is no mean row.")
        return total / count


class OneFile(Source):
    """The rows of a single file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._state = state_of(path)

    def identity(self) -> str:
        """See `Source.identity`."""
        return file_digest(self.path)

    def check(self, start: int, stop: int) -> None:
        """See `Source.check`."""
        if state_of(self.path) != self._state:
            raise changed(self.path)

    def where(self, row: int) -> tuple[str, int | None]:
        """See `Source.where`."""
        return self.path.name, row + 1


class Joined(Source):
    """Data sets of the same columns, one after the other. One at a time is open."""

    def __init__(self, path: Path, parts: Sequence[Source]) -> None:
        self.path, self.parts = path, tuple(parts)
        self.names, self.shape = parts[0].names, parts[0].shape
        for part in parts:
            if part.names != self.names or part.shape != self.shape:
                mine, others = part.names or part.shape, self.names or self.shape
                raise DataFileError(
                    f"{part.path}: rows of {mine}, but {parts[0].path} has {others}. All files need the same columns; name "
                    "those to take."
                )
        self._starts = np.cumsum([0, *(len(part) for part in parts)])
        self._now = self.parts[0]
        self._labels = _labels(path, [part.path for part in parts])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def read(self, start: int, stop: int) -> Chunk:
        """See `Source.read`."""
        bad: dict[int, str] = {}
        values, row = [], start
        while row < stop:
            which, inside = self._of(row)
            if self.parts[which] is not self._now:
                self._now.close()
                self._now = self.parts[which]
            part = self._now.read(inside, min(len(self._now), inside + stop - row))
            bad |= {row - start + i: why for i, why in part.bad.items()}
            values.append(part.values)
            row += len(part.values)
        return Chunk(np.concatenate(values) if values else np.zeros((0, *self.shape)), bad)

    def identity(self) -> str:
        """See `Source.identity`."""
        return digest_of(*(part.identity() for part in self.parts))

    def check(self, start: int, stop: int) -> None:
        """See `Source.check`."""
        for part, first in zip(self.parts, self._starts.tolist(), strict=False):
            if first < stop and first + len(part) > start:
                part.check(max(start - first, 0), min(stop - first, len(part)))

    def close(self) -> None:
        """See `Source.close`."""
        self._now.close()

    def where(self, row: int) -> tuple[str, int | None]:
        """See `Source.where`."""
        which, inside = self._of(row)
        return self._labels[which], self.parts[which].where(inside)[1]

    def _of(self, row: int) -> tuple[int, int]:
        which = int(np.searchsorted(self._starts, row, side="right")) - 1
        return which, row - int(self._starts[which])


def _labels(path: Path, files: Sequence[Path]) -> tuple[str, ...]:
    """What files are called: by their place in the folder `path`; in a list by their names, or where two share one as given."""
    if path not in files:
        return tuple(str(file.relative_to(path)) for file in files)
    names = tuple(file.name for file in files)
    return names if len(set(names)) == len(names) else tuple(map(str, files))


def not_finite(chunk: Chunk, names: Sequence[str] | None) -> dict[int, str]:
    """Rows of a chunk with NaN or infinity that are not known as bad, with the first place."""
    if chunk.values.dtype.kind != "f":
        return {}
    return first_marked(~np.isfinite(chunk.values), chunk, names, "every value must be finite.")


def first_marked(marks: Array, chunk: Chunk, names: Sequence[str] | None, why: str) -> dict[int, str]:
    """A reason for every row with a mark, (rows, *shape) bool, that is not known as bad: its first marked value."""
    found = {}
    for row in np.flatnonzero(marks.reshape(len(marks), -1).any(1)).tolist():
        if row not in chunk.bad:
            where = tuple(int(axis[0]) for axis in np.nonzero(marks[row]))
            found[row] = f"{element(names, where)} is {chunk.values[row][where]:g}, {why}"
    return found


def leads_out(folder: Path, path: Path) -> bool:
    """Whether a path in a folder leads out of it, by a link or by its name."""
    return not path.resolve().is_relative_to(folder.resolve())


def state_of(path: Path) -> tuple[int, int]:
    """Size and time of the last change of a file; zeros where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return 0, 0
    return found.st_size, found.st_mtime_ns


def changed(path: Path) -> DataFileError:
    """The error about a file that is not the one that was opened."""
    return DataFileError(
        f"{path}: was changed after it was opened, so that rows of two versions would be mixed. Let nothing write there, and "
        "start again into another folder."
    )


def digest_of(*parts: str | bytes) -> str:
    """One digest of several texts."""
    whole = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        whole.update(len(data).to_bytes(8, "little") + data)
    return whole.hexdigest()


def file_digest(path: Path) -> str:
    """Digest of a file's size and bytes; of a large file only of 64 samples, the first and the last bytes among them."""
    size = path.stat().st_size
    if size <= WHOLE_BYTES:
        places = list(range(0, size, SAMPLE_BYTES))
    else:
        places = np.linspace(0, size - SAMPLE_BYTES, SAMPLES).astype(np.int64).tolist()
    whole = hashlib.sha256(str(size).encode())
    with open(path, "rb") as file:
        for place in places:
            file.seek(place)
            whole.update(file.read(SAMPLE_BYTES))
    return whole.hexdigest()
