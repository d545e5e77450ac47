"""Files of attributions, as `dasp explain` and `dasp.batch` write them: read in steps, every cell checked."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..columns import AUDIT_COLUMNS, MEASURED
from ..errors import DataFileError
from ..tables import Array, pyarrow_module, repeated

STEP = 4096
ENDS = ("base_value", "output", "gap")
_TEXT = ("file", "target", "ended")
_MAY_BE_INFINITE = ("gap", *AUDIT_COLUMNS, *MEASURED)
_NEXT = "Give what `dasp explain --out` or dasp.batch.explain wrote."


@dataclass(frozen=True)
class Layout:
    """Which column is what."""

    names: tuple[str, ...]  # of the players
    errors: tuple[str, ...]  # their standard errors, or ()
    others: tuple[str, ...]  # of one number or text a row

    @classmethod
    def of(cls, path: Path, header: Sequence[str]) -> Layout:
        """Raises `DataFileError` where the columns are not those of a file of attributions."""
        for name in ("sample", "target", *ENDS):
            if name not in header:
                raise DataFileError(f"{path}: is no file of attributions, for it has no column {name!r}. {_NEXT}")
        if (doubled := repeated(header)) is not None:
            raise DataFileError(f"{path}: column {doubled!r} occurs twice. {_NEXT}")
        first, last = header.index("target") + 1, header.index("base_value")
        start, names, rest = tuple(header[:first]), tuple(header[first:last]), tuple(header[last + 3 :])
        in_order = start in (("sample", "target"), ("sample", "file", "target")) and tuple(header[last : last + 3]) == ENDS
        if not in_order or not names:
            raise DataFileError(
                f"{path}: is no file of attributions: they have the columns sample, target, one for each player, base_value, "
                f"output and gap, in this order. {_NEXT}"
            )
        own = tuple(f"{name}_se" for name in names)
        errors = own if set(own) <= set(rest) else ()
        spread, known = set(errors), {*AUDIT_COLUMNS, *MEASURED}
        others = tuple(name for name in rest if name not in spread)
        unknown = next((name for name in others if name not in known), None)
        if unknown is not None:
            raise DataFileError(f"{path}: the column {unknown!r} after gap is none that dasp writes; leave it out. {_NEXT}")
        for group in (AUDIT_COLUMNS, MEASURED):
            lacking = set(group) - set(others)
            if lacking and len(lacking) < len(group):
                raise DataFileError(f"{path}: has {(set(group) - lacking).pop()!r} but no {min(lacking)!r}. {_NEXT}")
        return cls(names, errors, (*start, *ENDS, *others))


@dataclass(frozen=True)
class Block:
    """Some rows that follow one another, (r,) or (r, n) each."""

    values: Array
    errors: Array | None
    columns: dict[str, Array]


@dataclass
class Attributions:
    """A file of attributions, or a folder of parts.

    Attributes:
        path: as it was given.
        layout: which column is what.
        about: what the metadata of the first file say, or nothing.
        parts: the numbers of the parts, and what they say was set aside; empty for one file.
    """

    path: Path
    layout: Layout
    about: dict[str, Any]
    parts: dict[int, int] = field(default_factory=dict)
    _files: tuple[Path, ...] = ()

    @classmethod
    def open(cls, path: Path) -> Attributions:
        """Raises `DataFileError` where there is nothing, or something else."""
        if path.is_dir():
            files = tuple(sorted(one for one in path.iterdir() if one.suffix == ".parquet" and one.name[0] not in "._"))
            if not files:
                raise DataFileError(f"{path}: holds no .parquet file. {_NEXT}")
        elif path.is_file():
            files = (path,)
        else:
            raise DataFileError(f"{path}: no such file or folder. {_NEXT}")
        first, settings = _head(path, files[0])
        found = cls(path, Layout.of(files[0], first), settings, _files=files)
        for file in files:  # one head at a time: there may be many, and wide
            header, about = _head(path, file)
            if header != first:
                raise DataFileError(f"{file}: has other columns than {files[0].name}; a folder holds one run. Name one file.")
            if about.get("run") != settings.get("run"):
                raise DataFileError(f"{file}: is of another run than {files[0].name}; a folder holds one. Name one file.")
            part = about.get("part")
            if isinstance(part, dict) and isinstance(part.get("part"), int):
                aside = part.get("set_aside")
                found.parts[part["part"]] = aside if isinstance(aside, int) else 0
        return found

    def samples(self) -> Array:
        """The column `sample`, (rows,)."""
        found = [_plain(file, "sample", table) for file in self._files for table in _tables(file, ["sample"])]
        whole = np.concatenate([np.zeros(0), *found])
        if not len(whole):
            raise DataFileError(f"{self.path}: holds no rows, so that there is nothing to report.")
        return whole.astype(np.int64)

    def blocks(self) -> Iterator[Block]:
        """All rows, a few at a time."""
        layout = self.layout
        for file in self._files:
            for table in _tables(file, [*layout.others, *layout.names, *layout.errors]):
                if table.num_rows:
                    columns = {name: _plain(file, name, table) for name in layout.others}
                    values = np.stack([_plain(file, name, table) for name in layout.names], axis=1)
                    spread = [_plain(file, name, table, unknown=True) for name in layout.errors]
                    errors = np.stack(spread, axis=1) if spread else None
                    yield Block(values, errors, columns)


def _head(path: Path, file: Path) -> tuple[list[str], dict[str, Any]]:
    """Column names and metadata of a file, which is no link unless it was named itself."""
    if path != file and file.is_symlink():
        raise DataFileError(f"{file}: is a link, and those are not followed. Copy there what it leads to, or name its target.")
    if file.suffix.lower() == ".csv":
        with _csv(file) as opened:
            return list(opened.schema.names), {}
    if file.suffix.lower() != ".parquet":
        raise DataFileError(
            f"{file}: cannot tell the format from the name; give a .parquet or .csv file, a folder of parts, or a .safetensors "
            "file of Attribution.save."
        )
    with _parquet(file) as opened:
        header = list(opened.schema_arrow.names)
        try:
            about = json.loads((opened.metadata.metadata or {}).get(b"dasp", b"{}"))
        except (ValueError, RecursionError):
            about = {}
    return header, about if isinstance(about, dict) else {}


def _tables(file: Path, columns: list[str]) -> Iterator[Any]:
    pyarrow = pyarrow_module("pyarrow")
    try:
        if file.suffix.lower() == ".csv":
            with _csv(file, columns) as lines:
                yield from lines
        else:
            with _parquet(file) as opened:
                yield from opened.iter_batches(batch_size=STEP, columns=columns)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataFileError(f"{file}: cannot be read whole ({error}). Write it again.") from error


def _parquet(file: Path) -> Any:
    pyarrow, parquet = pyarrow_module("pyarrow"), pyarrow_module("pyarrow.parquet")
    try:
        return parquet.ParquetFile(file)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataFileError(f"{file}: not a readable parquet file ({error}). {_NEXT}") from error


def _csv(file: Path, columns: Sequence[str] | None = None) -> Any:
    """A reader of a few rows at a time; `columns` have the types that dasp writes, whatever the first rows hold."""
    pyarrow, csv = pyarrow_module("pyarrow"), pyarrow_module("pyarrow.csv")
    whole = {"sample": pyarrow.int64()} | dict.fromkeys(_TEXT, pyarrow.string())  # a target of several axes, as 1,2, is text
    types = {name: whole.get(name, pyarrow.float64()) for name in columns or ()}
    options = csv.ConvertOptions(
        strings_can_be_null=False, column_types=types, include_columns=None if columns is None else list(columns)
    )
    try:
        return csv.open_csv(file, convert_options=options)
    except (pyarrow.ArrowException, UnicodeDecodeError, OSError) as error:
        raise DataFileError(f"{file}: not a table of comma-separated values ({error}). {_NEXT}") from error


def _plain(file: Path, name: str, table: Any, *, unknown: bool = False) -> Array:
    """One column as numpy: text for what may be text, else numbers, finite where they must be known."""
    kind, column = pyarrow_module("pyarrow").types, table.column(name)
    if name in _TEXT:
        return np.array(["" if cell is None else str(cell) for cell in column.to_pylist()], dtype=object)
    if not (kind.is_floating(column.type) or kind.is_integer(column.type)):
        raise DataFileError(f"{file}: column {name!r} holds {column.type}, not numbers. {_NEXT}")
    numbers: Array = column.to_numpy(zero_copy_only=False)
    wrong = np.isnan(numbers) if name in _MAY_BE_INFINITE else ~np.isfinite(numbers)
    if column.null_count or (wrong.any() and not unknown):
        value = "empty" if column.null_count else f"{numbers[wrong][0]:g}"
        raise DataFileError(f"{file}: column {name!r} holds a cell that is {value}. {_NEXT}")
    if name == "sample" and (kind.is_floating(column.type) or numbers.min(initial=0) < 0 or numbers.max(initial=0) >= 2**53):
        raise DataFileError(f"{file}: column 'sample' holds something else than row numbers. {_NEXT}")
    return numbers
