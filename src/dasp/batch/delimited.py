"""Rows of a `.csv` file, found again by the place where every thousandth begins."""

from __future__ import annotations

import mmap
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import DataFileError
from ..tables import Array, is_number, pick_columns, pyarrow_module
from .source import Chunk, OneFile

STEP = 1024
"""Rows that are parsed at a time."""
BLOCK = 2**20
HEAD, LONGEST_HEAD = 2**18, 2**26
"""Bytes that the line of column names is looked for in first, and at most."""
NEWLINE, RETURN, QUOTE = 10, 13, 34
LINE_END = re.compile(rb"\r\n?|\n")


class CsvFile(OneFile):
    """Comma-separated values with a line of column names. Lines end in \\n, \\r\\n or \\r; quoted cells may hold these.

    One pass over the bytes counts the rows and notes where every `STEP`th begins. Lines without anything are passed over,
    except in a table of one column, where they are an empty cell.
    """

    def __init__(self, path: Path, columns: list[str] | None) -> None:
        super().__init__(path)
        self._header = _header(path)
        self.names = pick_columns(path, self._header, columns)
        self.shape = (len(self.names),)
        self._offsets, self._rows = _index(path, skip_empty=len(self._header) > 1)
        self._kept: tuple[int, Chunk] | None = None

    def __len__(self) -> int:
        return self._rows

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_kept": None}

    def read(self, start: int, stop: int) -> Chunk:
        """See `Source.read`."""
        bad: dict[int, str] = {}
        values = []
        for block in range(start // STEP, -(-stop // STEP)):
            chunk, first = self._block(block), block * STEP
            low, high = max(start - first, 0), min(stop - first, len(chunk.values))
            values.append(chunk.values[low:high])
            bad |= {first + row - start: why for row, why in chunk.bad.items() if low <= row < high}
        return Chunk(np.concatenate(values) if values else np.zeros((0, *self.shape)), bad)

    def close(self) -> None:
        """See `Source.close`."""
        self._kept = None

    def _block(self, block: int) -> Chunk:
        if self._kept is None or self._kept[0] != block:
            self._kept = block, self._parse(block)
        return self._kept[1]

    def _parse(self, block: int) -> Chunk:
        pyarrow, csv = pyarrow_module("pyarrow"), pyarrow_module("pyarrow.csv")
        rows = min(STEP, self._rows - block * STEP)
        with open(self.path, "rb") as file:
            file.seek(int(self._offsets[block]))
            data = file.read(int(self._offsets[block + 1] - self._offsets[block]))
        bad: dict[int, str] = {}

        def note(row: Any) -> str:
            cells = "cell" if row.actual_columns == 1 else "cells"
            bad[row.number - 1] = f"{row.actual_columns} {cells}, but the header has {row.expected_columns}"
            return "skip"

        try:
            table = csv.read_csv(
                pyarrow.BufferReader(data),
                # One thread and one block: only then do bad rows have numbers.
                read_options=csv.ReadOptions(use_threads=False, column_names=self._header, block_size=len(data) + 1),
                parse_options=csv.ParseOptions(
                    newlines_in_values=True, ignore_empty_lines=len(self._header) > 1, invalid_row_handler=note
                ),
                convert_options=csv.ConvertOptions(
                    strings_can_be_null=False, check_utf8=False, include_columns=self.names,
                    column_types=dict.fromkeys(self.names or (), pyarrow.string()),
                ),
            )  # fmt: skip
        except pyarrow.ArrowInvalid as error:
            if len(bad) != rows:
                raise _stray(self.path) or DataFileError(
                    f"{self.path}: rows from {block * STEP + 1} on cannot be read ({error}). Where a cell holds a quotation "
                    "mark, it must be doubled and the cell be quoted."
                ) from error
            table = None
        read = 0 if table is None else table.num_rows
        if read + len(bad) != rows:
            raise _stray(self.path) or DataFileError(
                f"{self.path}: {read + len(bad)} rows where {rows} lines stand, from row {block * STEP + 1} on. Save it with "
                "one row a line; quotation marks in cells must be doubled, and the cells quoted."
            )
        values = np.zeros((rows, *self.shape))
        kept = np.array([row for row in range(rows) if row not in bad], dtype=np.int64)
        if len(kept):
            for place, name in enumerate(self.names or ()):
                values[kept, place], wrong = _numbers(table.column(name))
                for row, why in wrong.items():
                    bad.setdefault(int(kept[row]), f"column {name!r} {why}")
        return Chunk(values, bad)


def _header(path: Path) -> list[str]:
    """The column names, from the first bytes of the file: a reader of the whole would read ahead."""
    pyarrow, csv = pyarrow_module("pyarrow"), pyarrow_module("pyarrow.csv")
    try:
        with open(path, "rb") as file:
            data = file.read(HEAD)
            while not _ends(data.lstrip(b"\r\n"))[0].any() and len(data) < LONGEST_HEAD and (more := file.read(len(data))):
                data += more
        lenient = csv.ParseOptions(newlines_in_values=True, invalid_row_handler=lambda row: "skip")
        whole = csv.ReadOptions(block_size=len(data) + 1)
        with csv.open_csv(pyarrow.BufferReader(data), read_options=whole, parse_options=lenient) as head:
            names: list[str] = head.schema.names
    except UnicodeDecodeError as error:
        raise DataFileError(f"{path}: the column names are not UTF-8 text ({error}); save the file as UTF-8.") from error
    except (pyarrow.ArrowException, OSError) as error:
        raise DataFileError(f"{path}: not a table of comma-separated values ({error}).") from error
    return names


def _numbers(column: Any) -> tuple[Array, dict[int, str]]:
    """The cells of a column as float64, and what is wrong with those that are no numbers."""
    pyarrow, compute = pyarrow_module("pyarrow"), pyarrow_module("pyarrow.compute")
    try:
        numbers: Array = compute.cast(compute.utf8_trim_whitespace(column), pyarrow.float64()).to_numpy()
        return numbers, {}
    except pyarrow.ArrowInvalid:
        values, wrong = np.zeros(len(column)), {}
        for row, cell in enumerate(column.cast(pyarrow.binary()).to_pylist()):
            text = cell.decode(errors="replace").strip()
            if is_number(text):
                values[row] = compute.cast(pyarrow.scalar(text), pyarrow.float64()).as_py()
            else:
                wrong[row] = f"is {text!r}, which is not a number" if text else "is empty"
        return values, wrong


def _index(path: Path, *, skip_empty: bool) -> tuple[Array, int]:
    """Where every `STEP`th row begins, and the end of the file; and the number of rows."""
    starts: list[int] = []
    count, header, base, start, quoted, before = 0, True, 0, 0, False, 0
    with open(path, "rb") as file:
        while data := file.read(BLOCK):
            while data[-1] == RETURN and (more := file.read(1)):  # what follows says whether it ends the line
                data += more
            block = np.frombuffer(data, dtype=np.uint8)
            ends, quoted = _ends(data, quoted)
            last = np.flatnonzero(ends)
            first = np.concatenate([[start - base], last[:-1] + 1]) if len(last) else last
            length = last - first
            behind = np.where(last > 0, block[last - 1], before)
            empty = (length == 0) | ((length == 1) & (behind == RETURN))
            rows = first[~empty] if skip_empty or header else first
            if header and len(rows):
                if not skip_empty:
                    rows = first[first >= rows[0]]
                rows, header = rows[1:], False
            starts += (base + rows[(-count) % STEP :: STEP]).tolist()
            count += len(rows)
            if len(last):
                start = base + int(last[-1]) + 1
            base, before = base + len(data), int(block[-1])
    if quoted and (stray := _stray(path)):
        raise stray
    if base > start and not (base == start + 1 and before == RETURN) and not header:  # a last line without its end
        if count % STEP == 0:
            starts.append(start)
        count += 1
    return np.array([*starts, base], dtype=np.int64), count


def _ends(data: bytes, quoted: bool = False) -> tuple[npt.NDArray[np.bool_], bool]:
    """Where lines end, outside of quoted cells, (bytes,); and whether the last byte is in one, as that before the first was."""
    block = np.frombuffer(data, dtype=np.uint8)
    ends = block == NEWLINE
    if RETURN in data:
        ends |= (block == RETURN) & (np.append(block[1:], 0) != NEWLINE)
    if quoted or QUOTE in data:
        inside = (np.cumsum(block == QUOTE) + quoted) % 2 == 1
        ends &= ~inside
        quoted = bool(inside[-1])
    return ends, quoted


def _stray(path: Path) -> DataFileError | None:
    """The error about the first quotation mark that neither begins nor ends a cell, nor is doubled in one; None without."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        begun, at = -1, data.find(b'"')
        while at >= 0:
            behind = data[at + 1 : at + 2]
            if begun < 0:
                begun = at
                if data[max(at - 1, 0) : at] not in (b"", b",", b"\n", b"\r"):
                    break
            elif behind == b'"':
                at += 1
            elif behind in (b"", b",", b"\n", b"\r"):
                begun = -1
            else:
                break
            at = data.find(b'"', at + 1)
        if begun < 0:
            return None
        line = 1 + sum(1 for _ in LINE_END.finditer(data, 0, begun))
    return DataFileError(
        f"{path}: line {line} holds a quotation mark that does not quote a whole cell. Remove it; or, where it belongs to the "
        "cell, double it and quote the cell."
    )
