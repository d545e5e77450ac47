"""Which kind of data set a path names."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ..errors import DataFileError
from .arrays import ArrayFile
from .delimited import CsvFile
from .images import SUFFIXES, Images
from .parquet import ParquetFile
from .source import Joined, Source, leads_out

TABLES = (".parquet", ".csv", ".npy")
StrPath = str | os.PathLike[str]


def open_source(
    path: StrPath | Sequence[StrPath], *, columns: Sequence[str] | None = None, shape: tuple[int, ...] | None = None
) -> Source:
    """The rows of a file, of several files, or of a folder.

    Args:
        path: a `.parquet`, `.csv` or `.npy` file; several of one kind, taken in the order given; or a folder of them, or of
            images, taken in the order of their names, subfolders included and names that begin with . or _ left out.
        columns: of tables, those to take, in the model's order.
        shape: of a row as the model takes it, where that is known.

    Raises:
        DataFileError: there is no such file, it cannot be read, or it holds no rows.
        MissingExtraError: pyarrow or pillow is needed.
    """
    picked = None if columns is None else list(columns)
    if not isinstance(path, str | os.PathLike):
        if not path:
            raise DataFileError("the list of files is empty; name at least one.")
        files = [Path(one) for one in path]
        return _with_rows(_joined(files[0], files, picked))
    whole = Path(path)
    if whole.is_dir():
        return _with_rows(_folder(whole, picked, shape))
    return _with_rows(_joined(whole, [whole], picked))


def _folder(folder: Path, columns: list[str] | None, shape: tuple[int, ...] | None) -> Source:
    found: dict[str, list[str]] = {}
    for place, folders, files in os.walk(folder):
        _refuse_links(folder, Path(place), folders, files)
        folders[:] = [name for name in folders if name[0] not in "._"]
        for name in files:
            if name[0] not in "._":
                inside = (Path(place) / name).relative_to(folder).as_posix()
                suffix = Path(name).suffix.lower()
                found.setdefault("image" if suffix in SUFFIXES else suffix, []).append(inside)
    kinds = [kind for kind in ("image", *TABLES) if kind in found]
    if len(kinds) != 1:
        what = f"both {kinds[0]} and {kinds[1]} files" if kinds else "no .parquet, .csv, .npy, .png or .jpg file"
        raise DataFileError(f"{folder}: holds {what}; give a folder of one kind.")
    names = sorted(found[kinds[0]])
    if kinds[0] == "image":
        if columns is not None:
            raise DataFileError(f"{folder}: images have no columns; leave the columns out.")
        return Images(folder, names, shape)
    return _joined(folder, [folder / name for name in names], columns)


def _refuse_links(folder: Path, place: Path, folders: Sequence[str], files: Sequence[str]) -> None:
    """A data set is what lies in its folder: links are not followed out of it, nor folders left out because they are links."""
    for name in (*folders, *files):
        path = place / name
        if name[0] not in "._" and path.is_symlink() and (name in folders or leads_out(folder, path)):
            raise DataFileError(
                f"{path}: is a link {'to a folder' if name in folders else 'out of the folder'}, and those are not followed. "
                "Copy there what it leads to, or name its target as the data."
            )


def _joined(path: Path, files: Sequence[Path], columns: list[str] | None) -> Source:
    for file in files:
        if file.suffix.lower() not in TABLES:
            raise DataFileError(
                f"{file}: cannot tell the format from the name; give a .parquet, .csv or .npy file, or a folder of them or of "
                "images."
            )
        if not file.is_file():
            raise DataFileError(f"{file}: no such file.")
    sources = [_one(file, columns) for file in files]
    return sources[0] if path == files[0] and len(sources) == 1 else Joined(path, sources)


def _one(file: Path, columns: list[str] | None) -> Source:
    suffix = file.suffix.lower()
    if suffix == ".csv":
        return CsvFile(file, columns)
    if suffix == ".parquet":
        return ParquetFile(file, columns)
    if columns is not None:
        raise DataFileError(f"{file}: a .npy file has no column names; leave the columns out.")
    return ArrayFile(file)


def _with_rows(source: Source) -> Source:
    if not len(source):
        raise DataFileError(f"{source.path}: holds no rows.")
    return source
