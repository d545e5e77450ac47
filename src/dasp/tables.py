"""Rows in, attributions out: reads npy, csv and parquet files, and writes parquet with never a half file in sight."""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .errors import DataFileError, InputError, MissingExtraError, OutputFileError
from .whole import beside

Array = npt.NDArray[Any]

LARGEST_WHOLE = 2**53 - 1
"""Up to here a double stands for one whole number only."""
_CHUNK = 4096  # rows read at a time, so that a memory-mapped file may be larger than memory
_BLOCK = 2**24  # bytes of a csv file parsed at a time; a line must fit


class Described(Protocol):
    """Rows that can say what they are: their shape, the names of their columns, where they came from, their mean."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one row."""

    @property
    def names(self) -> tuple[str, ...] | None:
        """Names of the columns, where they have any."""

    @property
    def path(self) -> Path:
        """Where they came from, for messages."""

    def mean(self) -> Array:
        """Mean row, float64."""


@dataclass(frozen=True)
class Rows:
    """The rows of a file; `data` is memory-mapped for npy files.

    Attributes:
        data: `(rows, *shape)`, numbers as stored (csv: float64).
        names: column names of a csv or parquet file; None for npy.
        path: where the rows came from, for messages.
    """

    data: Array  # (rows, *shape)
    names: tuple[str, ...] | None
    path: Path

    def __len__(self) -> int:
        return len(self.data)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one row."""
        return tuple(self.data.shape[1:])

    def chunk(self, start: int, stop: int) -> Array:
        """Rows `start` to `stop - 1` in memory, `(stop - start, *shape)`; `DataFileError` at NaN or infinity."""
        part = native(self.data[start:stop])
        if part.dtype.kind == "f" and not np.isfinite(part).all():
            where = tuple(int(axis[0]) for axis in np.nonzero(~np.isfinite(part)))
            raise DataFileError(f"{self.place(start, where)} is {part[where]}; every value must be finite.")
        return part

    def place(self, start: int, where: Sequence[int]) -> str:
        """What messages call the element at index `where` of the chunk whose first row is `start`."""
        return f"{self.path}: row {start + where[0] + 1}, {self.element(where[1:])}"

    def element(self, where: Sequence[int]) -> str:
        """What messages call the element at index `where` of a row: its column, or its position."""
        return element(self.names, where)

    def mean(self) -> Array:
        """Mean row, `shape`, float64, summed in chunks."""
        total = np.zeros(self.shape, dtype=np.float64)
        for start in range(0, len(self), _CHUNK):
            total += self.chunk(start, start + _CHUNK).sum(axis=0, dtype=np.float64)
        return total / len(self)


def read_rows(path: str | Path, *, columns: Sequence[str] | None = None) -> Rows:
    """Rows of a `.npy`, `.csv` or `.parquet` file, first axis rows.

    `columns` picks and orders the columns of a csv or parquet file; by default all are taken, in the file's order.
    Raises `DataFileError` when the file is missing, unreadable or empty, when a column is missing, or when a cell is
    text, empty, NaN or infinite (naming its row, counted from 1 without the header, and its column); and
    `MissingExtraError` when pyarrow is needed and missing.
    """
    path = Path(path)
    readers = {".npy": _read_npy, ".csv": _read_csv, ".parquet": _read_parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DataFileError(f"{path}: cannot tell the format from the name; give a .npy, .csv or .parquet file.")
    if not path.is_file():
        raise DataFileError(f"{path}: no such file.")
    rows = reader(path, None if columns is None else list(columns))
    if rows.data.ndim == 0:
        raise DataFileError(f"{path}: holds a single number; save an array whose first axis is the rows.")
    if len(rows) == 0:
        raise DataFileError(f"{path}: holds no rows.")
    if rows.data.dtype.kind not in "fiub":
        raise DataFileError(f"{path}: holds {rows.data.dtype} values; rows must be numbers.")
    for start in range(0, len(rows), _CHUNK):
        rows.chunk(start, start + _CHUNK)
    return rows


def element(names: Sequence[str] | None, where: Sequence[int]) -> str:
    """What messages call the element at index `where` of a row: its column, or its position."""
    return f"column {names[where[0]]!r}" if names else f"position {tuple(where)}"


def read_baseline(spec: str, rows: Described) -> Array | float:
    """Baseline for `rows` from the word `zeros`, the word `mean`, or a file with one row, or several: a background.

    A csv or parquet baseline is read by the column names of `rows` where these have names. Returns the scalar 0.0, an
    array of `rows.shape`, or of a background (J, *rows.shape). Raises `DataFileError` for a file that holds no such row.
    """
    if spec == "zeros":
        return 0.0
    if spec == "mean":
        return rows.mean()
    path = Path(spec)
    if path.suffix.lower() not in (".npy", ".csv", ".parquet"):
        raise DataFileError(f"baseline {spec!r}: give zeros, mean, or a .npy, .csv or .parquet file with one row or more.")
    if path.suffix.lower() == ".npy":
        values = load_npy(path)
        if values.shape == (1, *rows.shape):
            values = values[0]
        if values.shape != rows.shape and (values.shape[1:] != rows.shape or not len(values)):
            raise DataFileError(f"{path}: baseline of shape {values.shape}, but one row of {rows.path} has shape {rows.shape}.")
        if values.dtype.kind not in "fiub" or not np.isfinite(values).all():
            raise DataFileError(f"{path}: a baseline must hold finite numbers.")
        return native(values)
    table = read_rows(path, columns=rows.names)
    if table.shape != rows.shape:
        raise DataFileError(
            f"{path}: a baseline is a row of shape {rows.shape}, or several; this file holds {len(table)} of shape "
            f"{table.shape}."
        )
    background = table.chunk(0, len(table))
    return background[0] if len(background) == 1 else background


class TableWriter:
    """Writes a parquet file in chunks under a temporary name in the same folder, and renames it when complete.

    Used as a context manager: an error or an interrupt inside the block removes the temporary file and leaves whatever
    stood at `path` before. Opening it raises `OutputFileError` when the folder is missing or not writable, before any
    work is done, when the name does not end in .parquet, and when `path` is one of the files in `spare`, under whatever
    name. Any other existing file is replaced.
    """

    def __init__(self, path: str | Path, *, spare: Sequence[str | Path | None] = ()) -> None:
        self.path = Path(path)
        self._parquet = pyarrow_module("pyarrow.parquet")
        self._writer: Any = None
        if os.path.isdir(self.path):
            raise OutputFileError(f"{self.path}: is a folder; name a .parquet file, or end it in a slash to write parts there.")
        for read in spare:
            if read is not None and os.path.exists(read) and self.path.exists() and self.path.samefile(read):
                raise OutputFileError(f"{self.path}: is read from ({read}) and would be lost; name another file.")
        if self.path.suffix.lower() != ".parquet":
            raise OutputFileError(
                f"{self.path}: only parquet is written; give a name that ends in .parquet, or in a slash to write parts."
            )
        folder = self.path.parent
        if not os.path.isdir(folder):
            raise OutputFileError(f"{self.path}: the folder {folder} does not exist; make it first.")
        self._temporary = beside(self.path)
        try:
            self._file = open(self._temporary, "xb")  # noqa: SIM115 - closed by __exit__
        except OSError as error:
            raise OutputFileError(f"{self.path}: cannot be written there ({error.strerror}).") from error

    def __enter__(self) -> TableWriter:
        return self

    def write(self, columns: Mapping[str, Array | Sequence[Any]], *, metadata: Mapping[str, str]) -> None:
        """Append equally long columns; the first call fixes their names and types and the file's `metadata`."""
        pyarrow = pyarrow_module("pyarrow")
        try:
            if self._writer is None:
                table = pyarrow.table({name: pyarrow.array(column) for name, column in columns.items()})
                schema = table.schema.with_metadata(dict(metadata))
                self._writer = self._parquet.ParquetWriter(self._file, schema)
            self._writer.write_table(pyarrow.table(dict(columns), schema=self._writer.schema))
        except OSError as error:
            raise OutputFileError(f"{self.path}: writing failed ({error}).") from error

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        complete = False
        try:
            if kind is None and self._writer is not None:
                self._writer.close()
                self._file.flush()
                os.fsync(self._file.fileno())
                self._file.close()
                os.replace(self._temporary, self.path)
                complete = True
        except OSError as failure:
            raise OutputFileError(f"{self.path}: writing failed ({failure}).") from failure
        finally:
            if not complete:
                self._discard()

    def _discard(self) -> None:
        # The parquet writer must be closed before its file is, else its destructor writes to a closed file. Whatever
        # these two report is about a file that goes away.
        with contextlib.suppress(OSError, ValueError):
            if self._writer is not None:
                self._writer.close()
        with contextlib.suppress(OSError):
            self._file.close()
        self._temporary.unlink(missing_ok=True)


def repeated(names: Iterable[str]) -> str | None:
    """The first name that comes a second time, or None."""
    seen: set[str] = set()
    return next((name for name in names if name in seen or seen.add(name)), None)  # type: ignore[func-returns-value]


def unique_names(names: Sequence[str], reserved: Sequence[str], source: str) -> tuple[str, ...]:
    """`names` as a tuple; `InputError` when one occurs twice or is the name of a column written beside the players."""
    seen = set(reserved)
    for name in names:
        if name in seen:
            why = "is the name of a result column" if name in reserved else "occurs twice"
            raise InputError(f"{source}: the feature name {name!r} {why}; rename that column.")
        seen.add(name)
    return tuple(names)


def tensor_of(values: Array, dtype: torch.dtype, place: Callable[[Sequence[int]], str]) -> Tensor:
    """`values` in `dtype`. Numbers that it does not hold (too large, or no whole numbers) are neither rounded nor cut
    to fit: `DataFileError` names the first by `place(index)`.
    """
    bad, why = unfit(values, dtype)
    if bad.any():
        where = tuple(int(axis[0]) for axis in np.nonzero(bad))
        raise DataFileError(f"{place(where)} is {values[where]:g}, {why}")
    return torch.as_tensor(values, dtype=dtype)


def unfit(values: Array, dtype: torch.dtype) -> tuple[Array, str]:
    """Which of these finite numbers `dtype` does not hold, and the reason."""
    name = str(dtype).removeprefix("torch.")
    if dtype.is_floating_point:
        bad: Array = ~torch.as_tensor(values, dtype=dtype).isfinite().numpy()
        why = f"too large for {name}, which ends at {torch.finfo(dtype).max:.3g}. Scale the feature"
        why += "." if dtype == torch.float64 else ", or compute with --dtype float64."
    else:
        low, high = (0, 1) if dtype == torch.bool else (torch.iinfo(dtype).min, torch.iinfo(dtype).max)
        # 2^63 - 1 is no double, 2^63 is: compare with the first number beyond.
        bad = (values != np.floor(values)) | (values < float(low)) | (values >= float(high) + 1)
        why = f"not among the whole numbers that the model takes ({name}, {low} to {high})."
        if values.dtype.kind == "f" and high > LARGEST_WHOLE:
            # A table's numbers come as doubles, which have rounded larger ones by now.
            bad |= np.abs(values) > LARGEST_WHOLE
            why = f"{why[:-1]}, and exact in a table (below 2^53)."
    return bad, why


def native(values: Array) -> Array:
    """A copy in memory, in this machine's byte order and at most double precision: numbers that torch can take."""
    wider = values.dtype.kind == "f" and values.dtype.itemsize > 8
    return np.array(values, dtype=np.float64 if wider else values.dtype.newbyteorder("="))


def load_npy(path: Path) -> Array:
    """A `.npy` file, mapped into memory; `DataFileError` where it is none."""
    if not path.is_file():
        raise DataFileError(f"{path}: no such file.")
    try:
        with np.errstate(over="ignore"):  # a size that no file has is refused thereafter
            loaded = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError, OverflowError, TypeError, MemoryError) as error:
        raise DataFileError(f"{path}: not a .npy array of numbers ({error}).") from error
    if not isinstance(loaded, np.ndarray):
        raise DataFileError(f"{path}: holds several arrays (npz); save one array with numpy.save.")
    return loaded


def _read_npy(path: Path, columns: list[str] | None) -> Rows:
    if columns is not None:
        raise DataFileError(f"{path}: a .npy file has no column names; leave the columns out.")
    return Rows(data=load_npy(path), names=None, path=path)


def _read_csv(path: Path, columns: list[str] | None) -> Rows:
    pyarrow, csv = pyarrow_module("pyarrow"), pyarrow_module("pyarrow.csv")
    # Everything is read as text and converted here, so that a bad cell can be named.
    block = csv.ReadOptions(block_size=_BLOCK)
    try:
        with csv.open_csv(path, read_options=block, parse_options=csv.ParseOptions(newlines_in_values=True)) as head:
            header = head.schema.names
        names = pick_columns(path, header, columns)
        as_text = csv.ConvertOptions(
            strings_can_be_null=False, column_types=dict.fromkeys(names, pyarrow.string()), include_columns=names
        )
        # In a file of one column an empty line is an empty cell, to be reported and not passed over.
        lines = csv.ParseOptions(ignore_empty_lines=len(header) > 1, newlines_in_values=True)
        table = csv.read_csv(path, read_options=block, convert_options=as_text, parse_options=lines)
    except UnicodeDecodeError as error:
        raise DataFileError(f"{path}: the column names are not UTF-8 text ({error}); save the file as UTF-8.") from error
    except (pyarrow.ArrowException, OSError) as error:
        raise DataFileError(f"{path}: not a table of comma-separated values ({error}).") from error
    return Rows(data=_stack([_csv_column(path, name, table.column(name)) for name in names]), names=names, path=path)


def _csv_column(path: Path, name: str, column: Any) -> Array:
    pyarrow, compute = pyarrow_module("pyarrow"), pyarrow_module("pyarrow.compute")
    trimmed = compute.utf8_trim_whitespace(column)
    try:
        values: Array = compute.cast(trimmed, pyarrow.float64()).to_numpy()
    except pyarrow.ArrowInvalid:
        row, cell = next((i, cell) for i, cell in enumerate(trimmed.to_pylist(), 1) if not is_number(cell))
        what = f"{cell!r}, which is not a number" if cell else "empty"
        advice = " Name the columns to take, if it is none of them." if row == 1 else ""
        raise DataFileError(f"{path}: row {row}, column {name!r} is {what}.{advice}") from None
    return values


def no_numbers(path: Path, name: str, kind: Any) -> DataFileError:
    """The error about a column of another kind, such as names of rows."""
    return DataFileError(
        f"{path}: column {name!r} holds {kind}, not numbers. Name the columns to take: columns=, or --columns A,B,..."
    )


def is_number(cell: str) -> bool:
    """Whether the text of a cell is a number to pyarrow."""
    pyarrow, compute = pyarrow_module("pyarrow"), pyarrow_module("pyarrow.compute")
    try:
        compute.cast(pyarrow.scalar(cell), pyarrow.float64())
    except pyarrow.ArrowInvalid:
        return False
    return True


def _read_parquet(path: Path, columns: list[str] | None) -> Rows:
    pyarrow, parquet = pyarrow_module("pyarrow"), pyarrow_module("pyarrow.parquet")
    try:
        file = parquet.ParquetFile(path)
        names = pick_columns(path, file.schema_arrow.names, columns)
        table = file.read(columns=list(names))
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise DataFileError(f"{path}: not a readable parquet file ({error}).") from error
    stacked = []
    for name in names:
        column = table.column(name)
        kind = pyarrow.types
        if not (kind.is_floating(column.type) or kind.is_integer(column.type) or kind.is_boolean(column.type)):
            raise no_numbers(path, name, column.type)
        if column.null_count:
            row = column.is_null().to_pylist().index(True)
            raise DataFileError(f"{path}: row {row + 1}, column {name!r} is empty.")
        stacked.append(column.to_numpy())
    return Rows(data=_stack(stacked), names=names, path=path)


def pick_columns(path: Path, header: Sequence[str], columns: list[str] | None) -> tuple[str, ...]:
    """The columns asked for, after checking that the header is one."""
    if (doubled := repeated(header)) is not None:
        raise DataFileError(f"{path}: column {doubled!r} occurs twice; rename one.")
    if path.suffix.lower() == ".csv" and header and all(is_number(name.strip()) for name in header):
        raise DataFileError(f"{path}: the first line holds only numbers; a line of column names is needed.")
    if columns is None:
        return tuple(header)
    if (again := repeated(columns)) is not None:
        raise DataFileError(f"{path}: column {again!r} is asked for twice; name each column once.")
    known = set(header)
    missing = next((name for name in columns if name not in known), None)
    if missing is not None:
        raise DataFileError(f"{path}: no column {missing!r}; it has {', '.join(header)}.")
    return tuple(columns)


def _stack(columns: list[Array]) -> Array:
    return np.stack(columns, axis=1) if columns else np.zeros((0, 0))


def pyarrow_module(module: str) -> Any:
    """pyarrow, or a part of it; `MissingExtraError` without it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError("csv and parquet files need pyarrow: pip install 'dasp[table]'.") from error
