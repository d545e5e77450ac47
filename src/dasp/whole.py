"""Files that are there whole or not at all, whenever the process ends."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path


def beside(path: Path) -> Path:
    """A name of nothing in the same folder, hidden, so that no reader takes what is being written there for a result."""
    return path.parent / f".{path.name}.{secrets.token_hex(4)}.tmp"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """An empty file to fill, which then takes the place of `path` and rests on the disk. After an error it is gone."""
    temporary = beside(path)
    try:
        temporary.touch(exist_ok=False)
        rights = stat.S_IMODE(temporary.stat().st_mode)
        yield temporary
        temporary.chmod(rights)  # safetensors makes private files; a result has the rights of any new file here
        with open(temporary, "r+b") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    settle(path.parent)


def settle(folder: Path) -> None:
    """Put the names in a folder on the disk, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
