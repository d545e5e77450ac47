"""The folder that parts are written to: a part is there whole or not at all, and belongs to one run."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from ..errors import OutputFileError
from ..tables import pyarrow_module
from ..whole import beside, replacing, settle

ASIDE = "_set-aside"
"""Folder inside the output for the rows that could not be explained; readers of data sets pass over such names."""
LOCK = ".lock"
LEFT = ".part-*.tmp"  # what a killed run leaves


@dataclass(frozen=True)
class Aside:
    """A row that could not be explained.

    Attributes:
        sample: its number in the data set, from 0.
        file: the file it stands in.
        row: its number in that file, from 1; None where the file is the row.
        reason: why.
    """

    sample: int
    file: str
    row: int | None
    reason: str


@dataclass(frozen=True)
class Counts:
    """What a part holds.

    Attributes:
        part: its number, from 0.
        first: its first row.
        rows: the rows explained.
        set_aside: the rows that could not be.
        wide_gaps: explained rows whose values miss completeness by far.
        largest_gap: the largest completeness gap, relative.
        missed: rows that `Refine` left above its tolerance.
    """

    part: int
    first: int
    rows: int
    set_aside: int
    wide_gaps: int
    largest_gap: float
    missed: int = 0


class Folder:
    """Parts on disk, and the lock that keeps a second run out.

    Opening it looks at every part that is there, and removes what a killed run left half written.

    Args:
        path: made if it does not exist; its parent must.
        run: settings that all parts of a run share.
        parts: how many parts the run has; their names are as long as that needs, so that readers find them in order.

    Raises:
        OutputFileError: it cannot be written, another run is writing there, or it holds anything but parts of this run.
    """

    def __init__(self, path: str | os.PathLike[str], run: dict[str, Any], parts: int = 1) -> None:
        self.path, self.run = Path(path), run
        self._digits = max(5, len(str(parts - 1)))
        if not self.path.parent.is_dir():
            raise OutputFileError(f"{self.path}: the folder {self.path.parent} does not exist; make it first.")
        if self.path.exists() and not self.path.is_dir():
            raise OutputFileError(f"{self.path}: is a file; parts are written to a folder. Give another name.")
        for inside in (self.path / LOCK, self.path / ASIDE):
            if inside.is_symlink():
                raise OutputFileError(f"{inside}: is a link, and dasp writes there. Remove it, or name another folder.")
        try:
            self.path.mkdir(exist_ok=True)
            self._lock = _held(self.path / LOCK)
        except OSError as error:
            if isinstance(error, OutputFileError):
                raise
            raise OutputFileError(f"{self.path}: cannot be written there ({error.strerror}).") from error
        try:
            for left in (*self.path.glob(LEFT), *(self.path / ASIDE).glob(LEFT)):
                left.unlink()
            self.done = {counts.part: counts for counts in map(self._checked, sorted(self.path.glob("*.parquet")))}
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let another run in."""
        if self._lock.closed:
            return
        with contextlib.suppress(OSError):  # some systems do not remove a file that is open
            os.unlink(self.path / LOCK)
        self._lock.close()

    def part(self, number: int) -> Path:
        """Where a part is, or will be."""
        return self.path / f"part-{number:0{self._digits}d}.parquet"

    @contextlib.contextmanager
    def writing(self, number: int) -> Iterator[Part]:
        """A part to write. Unless it is finished inside the block, nothing is left of it."""
        part = Part(self, number)
        try:
            yield part
        except OSError as error:
            if isinstance(error, OutputFileError):
                raise
            raise OutputFileError(f"{self.part(number)}: writing failed ({error}).") from error
        finally:
            part.discard()

    def _checked(self, path: Path) -> Counts:
        about = _about(path)
        if about is None:
            raise OutputFileError(f"{path}: is not a part that dasp wrote, and would be mixed with them. Name another folder.")
        if about["run"] != self.run:
            raise OutputFileError(
                f"{path}: is a part of another run, whose {_differing(about['run'], self.run)}. To go on with that run give "
                "what it was given; for a new one name another folder, or delete this one."
            )
        try:
            counts = Counts(**about["part"])
        except TypeError:
            counts = None
        if counts is None or not isinstance(counts.part, int) or path.is_symlink():
            raise OutputFileError(f"{path}: is not a part that dasp wrote, or a link. Name another folder.")
        if path != self.part(counts.part):
            raise OutputFileError(f"{path}: is part {counts.part} under another name; call it {self.part(counts.part).name}.")
        return counts


class Part:
    """A part that is being written, under a name that no reader takes for a part."""

    def __init__(self, folder: Folder, number: int) -> None:
        self._folder, self._final = folder, folder.part(number)
        self._temporary = beside(self._final)
        self.sink: IO[bytes] = open(self._temporary, "xb")  # noqa: SIM115 - closed by finish or discard

    def finish(self, counts: Counts, aside: Sequence[Aside]) -> None:
        """Set its bad rows aside, then give it its name: from then on it is there, and rests on the disk."""
        self.sink.flush()
        os.fsync(self.sink.fileno())
        self.sink.close()
        place = self._final.parent / ASIDE / self._final.name
        if aside:
            place.parent.mkdir(exist_ok=True)
            with replacing(place) as temporary:
                temporary.write_bytes(aside_bytes(aside, self._folder.run))
            settle(self._final.parent)
        else:
            place.unlink(missing_ok=True)
        os.replace(self._temporary, self._final)
        settle(self._final.parent)
        self._folder.done[counts.part] = counts

    def discard(self) -> None:
        """Remove what has no name yet."""
        with contextlib.suppress(OSError):
            self.sink.close()
        self._temporary.unlink(missing_ok=True)


def about_part(run: dict[str, Any], counts: Counts, settings: dict[str, Any]) -> dict[str, str]:
    """The metadata of a part."""
    return {"dasp": json.dumps({"run": run, "part": asdict(counts), "settings": settings})}


def aside_bytes(aside: Sequence[Aside], run: dict[str, Any]) -> bytes:
    """The rows of a part that were set aside, as a parquet file."""
    pyarrow, parquet = pyarrow_module("pyarrow"), pyarrow_module("pyarrow.parquet")
    kinds = {"sample": pyarrow.int64(), "file": pyarrow.string(), "row": pyarrow.int64(), "reason": pyarrow.string()}
    schema = pyarrow.schema(kinds, metadata={"dasp": json.dumps({"run": run})})
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.Table.from_pylist([asdict(row) for row in aside], schema=schema), sink)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _about(path: Path) -> dict[str, Any] | None:
    pyarrow, parquet = pyarrow_module("pyarrow"), pyarrow_module("pyarrow.parquet")
    try:
        metadata = parquet.read_metadata(path).metadata or {}
    except (pyarrow.ArrowInvalid, OSError):
        return None
    try:
        found: dict[str, Any] = json.loads(metadata.get(b"dasp", b"{}"))
        whole = isinstance(found["run"], dict) and isinstance(found["part"], dict)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return found if whole else None


def _differing(there: dict[str, Any], here: dict[str, Any]) -> str:
    """The settings that two runs do not share."""
    keys = [key for key in {**here, **there} if here.get(key) != there.get(key)]
    return ", and whose ".join(f"{key} is {there.get(key, 'nothing')} and not {here.get(key, 'nothing')}" for key in keys)


def _held(path: Path) -> IO[bytes]:
    """A lock that ends with the process, however that ends. Systems without such locks do without."""
    try:
        import fcntl
    except ImportError:
        return open(path, "ab")
    while True:
        lock = open(path, "ab")  # noqa: SIM115 - closed by who holds it
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise OutputFileError(
                f"{path.parent}: another run is writing there. Wait for it, or name another folder."
            ) from None
        except OSError:
            return lock  # a file system without locks
        # The run before removes its file when it ends; a lock on that one keeps nobody out.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(path), os.fstat(lock.fileno())):
                return lock
        lock.close()
