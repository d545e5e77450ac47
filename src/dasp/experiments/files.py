"""Files of the experiments: data sets found or downloaded and always checked, files written whole or not at all, cache keys."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import re
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..errors import DataFileError, OutputFileError

DATA_VARIABLE = "DASP_DATA"
_TIMEOUT = 30.0  # seconds without a byte
_CHUNK = 2**16  # bytes downloaded between two steps of the progress bar


@dataclass(frozen=True)
class Source:
    """One public data file.

    Attributes:
        name: its file name in a data folder; one that ends in .gz is unpacked on reading.
        url: where it is downloaded from.
        sha256: of its content, after unpacking, so that packing it anew changes nothing.
        page: where a person finds it.
        member: the name it has inside of the zip archive that `url` gives; None where `url` gives the file itself.
        notice: author and licence.
    """

    name: str
    url: str
    sha256: str
    page: str
    notice: str
    member: str | None = None


_MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_DIGITS = "MNIST test digits (LeCun, Cortes, Burges), CC BY-SA 3.0"
PARKINSON = Source(
    name="parkinsons_updrs.csv",
    url="https://archive.ics.uci.edu/static/public/189/parkinsons+telemonitoring.zip",
    sha256="f2c7d5025dec4e92e7feae367a5f7ccf58789a10ac6b54bdf15976c599f9dd39",
    page="https://archive.ics.uci.edu/dataset/189/parkinsons+telemonitoring",
    notice="Parkinsons Telemonitoring (Tsanas and Little, 2009), UCI Machine Learning Repository, CC BY 4.0",
    member="parkinsons_updrs.data",
)
IMAGES = Source(
    name="t10k-images-idx3-ubyte.gz",
    url=_MNIST + "t10k-images-idx3-ubyte.gz",
    sha256="0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    page=_MNIST + "t10k-images-idx3-ubyte.gz",
    notice=_DIGITS,
)
LABELS = Source(
    name="t10k-labels-idx1-ubyte.gz",
    url=_MNIST + "t10k-labels-idx1-ubyte.gz",
    sha256="ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    page=_MNIST + "t10k-labels-idx1-ubyte.gz",
    notice=_DIGITS,
)


@dataclass(frozen=True)
class DataFolder:
    """Where data files are: in a folder the user named, or else downloaded into `cache`.

    Attributes:
        folder: what the user named, None where nothing was named.
        cache: where downloads are kept.
        progress: whether to show a bar; None shows it where standard error is a terminal.
    """

    folder: Path | None
    cache: Path
    progress: bool | None = None

    @classmethod
    def find(cls, option: str | Path | None, cache: Path, *, progress: bool | None = None) -> DataFolder:
        """The folder `option`, else the one that the environment variable DASP_DATA names, else downloads in `cache`.

        Raises:
            DataFileError: a folder is named and does not exist.
        """
        named = option or os.environ.get(DATA_VARIABLE)
        if not named:
            return cls(None, cache, progress)
        folder = Path(named).expanduser()
        if not folder.is_dir():
            origin = "--data" if option else f"the environment variable {DATA_VARIABLE}"
            raise DataFileError(f"{folder}: no such folder ({origin} names it). Leave it out to download the public files.")
        return cls(folder, cache, progress)

    def read(self, source: Source) -> bytes:
        """The content of a data file, unpacked, its checksum found right.

        Raises:
            DataFileError: the named folder does not hold it, it is damaged or another file, or it cannot be downloaded; the
                message says where to get it and how to pass it.
            OutputFileError: the download cannot be kept.
        """
        if self.folder is not None:
            names = [name for name in (source.name, source.member) if name]
            path = next((self.folder / name for name in names if (self.folder / name).is_file()), None)
            if path is None:
                raise DataFileError(f"{' or '.join(names)} is not in {self.folder}. {_where(source)}")
            return _unpacked(_read(path), path.name, source, str(path))
        path = self.cache / source.name
        if path.is_file():
            try:
                return _unpacked(_read(path), path.name, source, str(path))
            except DataFileError:
                path.unlink()  # a copy of ours that is damaged is fetched anew
        packed = _download(source, self.progress)
        content = _unpacked(packed, source.name, source, source.url)
        write_bytes(path, packed)
        return content


def _where(source: Source) -> str:
    given = f" as {source.member}" if source.member else ""
    return (
        f"Get it from {source.page}{given}, put it into a folder under the name {source.name}, and name the folder with "
        f"--data FOLDER or the environment variable {DATA_VARIABLE}."
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataFileError(f"{path}: cannot be read ({error}).") from error


def _unpacked(packed: bytes, name: str, source: Source, origin: str) -> bytes:
    """What is inside, where the name ends in .gz; refused where it is not the content that is expected."""
    content = packed
    if name.endswith(".gz"):
        try:
            content = gzip.decompress(packed)
        except (OSError, EOFError, zlib.error) as error:
            raise DataFileError(f"{origin}: damaged, it cannot be unpacked ({error}). {_where(source)}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != source.sha256:
        unpacked = " once unpacked" if name.endswith(".gz") else ""
        raise DataFileError(
            f"{origin}: damaged, or not the file that is expected: its SHA-256{unpacked} is {found}, expected "
            f"{source.sha256}. {_where(source)}"
        )
    return content


def _download(source: Source, progress: bool | None) -> bytes:
    """The file as the public source gives it, out of its zip archive where it comes in one."""
    parts: list[bytes] = []
    try:
        with urllib.request.urlopen(source.url, timeout=_TIMEOUT) as answer:
            total = int(answer.headers.get("Content-Length") or 0) or None
            hidden = None if progress is None else not progress
            with tqdm(total=total, desc=source.name, unit="B", unit_scale=True, disable=hidden, leave=False) as bar:
                while part := answer.read(_CHUNK):
                    parts.append(part)
                    bar.update(len(part))
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # it holds the connection
        raise DataFileError(f"{source.name}: cannot be downloaded from {source.url} ({reason}). {_where(source)}") from error
    received = b"".join(parts)
    if source.member is None:
        return received
    try:
        with zipfile.ZipFile(io.BytesIO(received)) as archive:
            return archive.read(source.member)
    except (zipfile.BadZipFile, KeyError, zlib.error, EOFError) as error:
        text = f"{source.url}: no zip archive that holds {source.member} ({error}). {_where(source)}"
        raise DataFileError(text) from error


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` write to a neighbouring name, then rename: an interrupt leaves the old file or the new one, never half.

    Raises:
        OutputFileError: the file cannot be written, as on a full disk.
    """
    # The ending stays, since some writers choose the format by it.
    partial = path.with_name(f"partial-{os.getpid()}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(partial)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise OutputFileError(
            f"{path}: cannot be written ({reason}). What was finished before is kept; make room, or choose another --out, "
            "and run the same command again."
        ) from error


def write_bytes(path: Path, content: bytes) -> None:
    """A file with this content, written whole or not at all; `OutputFileError` where it cannot be."""
    replace_file(path, lambda partial: partial.write_bytes(content))


def write_text(path: Path, text: str) -> None:
    """A text file in UTF-8, written whole or not at all; `OutputFileError` where it cannot be."""
    write_bytes(path, text.encode())


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """An npz file of named arrays, written whole or not at all; `OutputFileError` where it cannot be."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_bytes(path, buffer.getvalue())


def write_weights(path: Path, model: torch.nn.Module) -> None:
    """A model's parameters and buffers, as `torch.load` reads them, written whole or not at all."""
    buffer = io.BytesIO()  # written by torch itself, a full disk would be a RuntimeError
    torch.save(model.state_dict(), buffer)
    write_bytes(path, buffer.getvalue())


def fingerprint(*tensors: Tensor) -> str:
    """16 hex digits that change when any value changes: the key of everything that is cached."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(str(tuple(tensor.shape)).encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def weights_key(model: torch.nn.Module) -> str:
    """The fingerprint of a model's parameters and buffers."""
    return fingerprint(*model.state_dict().values())


def slug(label: str) -> str:
    """A label as part of a file name: lower-case letters, digits and hyphens, and 6 hex digits that tell labels apart."""
    words = re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")[:60]
    return f"{words}-{hashlib.sha256(label.encode()).hexdigest()[:6]}"
