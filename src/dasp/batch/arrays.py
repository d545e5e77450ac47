"""Rows of a `.npy` file."""

from __future__ import annotations

from pathlib import Path

from ..errors import DataFileError
from ..tables import load_npy, native
from .source import Chunk, OneFile


class ArrayFile(OneFile):
    """A `.npy` file, first axis rows. It is mapped anew for each chunk, so that what was read does not stay in memory."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        data = load_npy(path)
        if data.ndim == 0:
            raise DataFileError(f"{path}: holds a single number; save an array whose first axis is the rows.")
        if data.dtype.kind not in "fiub":
            raise DataFileError(f"{path}: holds {data.dtype} values; rows must be numbers.")
        self.names = None
        self.shape, self._rows = tuple(data.shape[1:]), len(data)

    def __len__(self) -> int:
        return self._rows

    def read(self, start: int, stop: int) -> Chunk:
        """See `Source.read`."""
        return Chunk(native(load_npy(self.path)[start:stop]), {})
