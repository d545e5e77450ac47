"""Rows of a `.parquet` file, streamed row group by row group."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataFileError
from ..tables import no_numbers, pick_columns, pyarrow_module
from .source import Chunk, OneFile

STEP = 4096
"""Rows that are decoded at a time."""


class ParquetFile(OneFile):
    """A parquet file of numbers. Rising calls of `read` go on where the one before ended; others start at a row group.

    It is open from the first row that is read up to its last, or until `close`.
    """

    def __init__(self, path: Path, columns: list[str] | None) -> None:
        kind = pyarrow_module("pyarrow").types
        super().__init__(path)
        with _opened(path) as file:
            schema, metadata = file.schema_arrow, file.metadata
        self.names = pick_columns(path, schema.names, columns)
        for name in self.names:
            column = schema.field(name).type
            if not (kind.is_floating(column) or kind.is_integer(column) or kind.is_boolean(column)):
                raise no_numbers(path, name, column)
        self.shape = (len(self.names),)
        groups = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self._starts = np.cumsum([0, *groups])
        self._stream: Generator[Any] | None = None
        self.close()

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_at": -1, "_stream": None, "_left": None}

    def close(self) -> None:
        """See `Source.close`."""
        if self._stream is not None:
            self._stream.close()
        self._stream = None
        self._at = -1  # the next row of the stream
        self._left: Any = None  # what was decoded and not yet asked for

    def read(self, start: int, stop: int) -> Chunk:
        """See `Source.read`."""
        group = int(np.searchsorted(self._starts, start, side="right")) - 1
        if self._stream is None or not self._starts[group] <= self._at <= start:
            self.close()
            self._at, self._stream = int(self._starts[group]), self._batches(group)
        bad: dict[int, str] = {}
        values, done = [], start
        while done < stop:
            if self._left is None or not self._left.num_rows:
                self._left = next(self._stream, None)
                if self._left is None:
                    raise DataFileError(
                        f"{self.path}: ends after {done} rows, before row {stop}: it was changed meanwhile. Open it again."
                    )
            skip = min(done - self._at, self._left.num_rows)
            taken = self._left.slice(skip, stop - done)
            self._left = self._left.slice(skip + taken.num_rows)
            self._at += skip + taken.num_rows
            if taken.num_rows:
                found = self._numbers(taken)
                bad |= {done - start + row: why for row, why in found.bad.items()}
                values.append(found.values)
                done += taken.num_rows
        if self._at == len(self):
            self.close()
        return Chunk(np.concatenate(values) if values else np.zeros((0, *self.shape)), bad)

    def _batches(self, group: int) -> Generator[Any]:
        with _opened(self.path) as file:
            for number in range(group, len(self._starts) - 1):
                yield from file.iter_batches(
                    batch_size=STEP, row_groups=[number], columns=list(self.names or ()), use_threads=False
                )

    def _numbers(self, batch: Any) -> Chunk:
        bad: dict[int, str] = {}
        columns = []
        for name in self.names or ():
            column = batch.column(name)
            if column.null_count:
                for row in np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False)).tolist():
                    bad.setdefault(row, f"column {name!r} is empty")
                column = column.fill_null(False if column.type == pyarrow_module("pyarrow").bool_() else 0)
            columns.append(column.to_numpy(zero_copy_only=False))
        return Chunk(np.stack(columns, axis=1), bad)


def _opened(path: Path) -> Any:
    pyarrow, parquet = pyarrow_module("pyarrow"), pyarrow_module("pyarrow.parquet")
    try:
        return parquet.ParquetFile(path, pre_buffer=False)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise DataFileError(f"{path}: not a readable parquet file ({error}).") from error
