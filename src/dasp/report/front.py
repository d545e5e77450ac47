"""Results in, one HTML file out: what is asked, checked, and written whole or not at all."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ..attribution import Attribution
from ..audit import Audit
from ..errors import InputError, InputTypeError, OutputFileError
from ..whole import beside, replacing
from . import of_file, of_result
from .page import MARK, as_page

StrPath = str | os.PathLike[str]


@dataclass(frozen=True)
class Report:
    """What was written.

    Attributes:
        path: the file.
        rows: rows in the page, a row being one sample and one target.
        total: rows in what it was made of.
        size: bytes.
    """

    path: Path
    rows: int
    total: int
    size: int

    def __str__(self) -> str:
        rows = f"{self.rows:,} rows" if self.rows == self.total else f"{self.rows:,} of {self.total:,} rows, chosen evenly"
        return f"{rows}, {self.size / 1e6:.1f} MB, written to {self.path}"


def write(
    result: Attribution | StrPath,
    path: StrPath,
    *,
    rows: StrPath | None = None,
    audit: Audit | None = None,
    rows_limit: int | None = None,
    title: str | None = None,
) -> Report:
    """Write a page that shows a result: settings, measured error, importance, and a table of rows to look into and compare.

    The page is one file and loads nothing; strings from data are shown, never run. The same arguments give the same bytes.

    Args:
        result: an attribution; or the path of what `dasp explain --out` or `dasp.batch.explain` wrote, a file or a folder, or
            of what `Attribution.save` did (.safetensors).
        path: of the page, ending in .html. A report that is there already is replaced, any other file is not.
        rows: of a file or a folder, the rows that were explained, as a file or a folder: features are then shown with what they
            held, and images under their values. A result in memory, or saved, knows its own.
        audit: of a result in memory, what its `audit` returned.
        rows_limit: most rows in the page, which are chosen evenly; default 20,000, or fewer where there are many players.
        title: of the page.

    Raises:
        InputTypeError, InputError: an argument has the wrong type or value.
        DataFileError: the files hold no attributions, or other rows.
        OutputFileError: the page cannot be written there.
        CostError: `rows_limit` asks for more than a browser opens.
    """
    _check(result, rows, audit, rows_limit, title)
    out, limit = Path(path), rows_limit
    spare = [Path(one) for one in (result, rows) if one is not None and not isinstance(one, Attribution)]
    _check_path(out, spare)
    known = _loaded(result)
    if isinstance(known, Attribution):
        name = "in memory" if isinstance(result, Attribution) else Path(result).name
        if rows is not None:
            raise InputError(f"rows: the attribution ({name}) holds its inputs; leave rows out.")
        content = of_result.content_of(known, audit, limit, title or f"Attributions by {known.method}")
    else:
        given = None if rows is None else Path(rows)
        content = of_file.content_of(known, given, limit, title or f"Attributions in {known.name}")
    page = as_page(content)
    _put(page, out)
    return Report(out, len(content.values), content.total, len(page))


def _check(result: object, rows: object, audit: object, rows_limit: object, title: object) -> None:
    if not isinstance(result, Attribution | str | os.PathLike):
        raise InputTypeError(f"result: expected an Attribution or a path, got {type(result).__name__}.")
    if rows is not None and not isinstance(rows, str | os.PathLike):
        raise InputTypeError(f"rows: expected a path, got {type(rows).__name__}.")
    if audit is not None and not isinstance(audit, Audit):
        raise InputTypeError(f"audit: expected what result.audit() returns, got {type(audit).__name__}.")
    if audit is not None and not isinstance(result, Attribution):
        raise InputError("audit: goes with an attribution in memory; a file has its own columns (dasp explain --audit N).")
    if title is not None and not isinstance(title, str):
        raise InputTypeError(f"title: expected a string, got {type(title).__name__}.")
    if rows_limit is not None and (isinstance(rows_limit, bool) or not isinstance(rows_limit, int)):
        raise InputTypeError(f"rows_limit: expected a whole number, got {type(rows_limit).__name__}.")
    if isinstance(rows_limit, int) and rows_limit < 1:
        raise InputError(f"rows_limit {rows_limit}: show at least 1 row.")


def _loaded(result: Attribution | StrPath) -> Attribution | Path:
    if isinstance(result, Attribution):
        return result
    path = Path(result)
    return Attribution.load(path) if path.suffix.lower() == ".safetensors" else path


def _put(page: bytes, path: Path) -> None:
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(page)
    except OSError as error:
        raise OutputFileError(f"{path}: writing failed ({error.strerror or error}).") from error


def _check_path(path: Path, spare: list[Path]) -> None:
    """Refuse a place where a page cannot be written, before any work."""
    if path.suffix.lower() not in (".html", ".htm"):
        raise OutputFileError(f"{path}: a report is a page; give a name that ends in .html.")
    if path.is_dir():
        raise OutputFileError(f"{path}: is a folder; give the name of an .html file.")
    if not path.parent.is_dir():
        raise OutputFileError(f"{path}: the folder {path.parent} does not exist; make it first.")
    for read in spare:
        if path.exists() and read.exists() and path.samefile(read):
            raise OutputFileError(f"{path}: is read from, and would be lost; name another file.")
    if path.exists() and not _is_report(path):
        raise OutputFileError(f"{path}: is there already and is no report of dasp. Name another file, or remove it.")
    probe = beside(path)
    try:
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise OutputFileError(f"{path}: cannot be written there ({error.strerror or error}).") from error


def _is_report(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(len(MARK)) == MARK.encode()
    except OSError:
        return False
