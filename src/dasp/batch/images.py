"""A folder of images, one a row, in the order of their names."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataFileError, InputError, MissingExtraError
from ..tables import Array
from .source import Chunk, Source, changed, digest_of, file_digest, leads_out, state_of

SUFFIXES = (".png", ".jpg", ".jpeg")
LOSSLESS = {1: {"1": "L", "L": "L"}, 3: {"1": "RGB", "L": "RGB", "P": "RGB", "RGB": "RGB"}, 4: {"RGBA": "RGBA"}}
"""Kinds of images that become 1, 3 or 4 channels without losing anything."""


class Images(Source):
    """Images as (channels, height, width), from 0 to 1. All need the size that the model takes.

    Grey images are taken for colour; colour for grey and transparency for colour are refused, for something would be lost.

    Args:
        path: the folder.
        files: the images in it.
        shape: what the model takes, if that is known; else the first image that can be read says it.
    """

    def __init__(self, path: Path, files: Sequence[str], shape: tuple[int, ...] | None) -> None:
        self.path, self.names, self.files = path, None, tuple(files)
        if shape is not None and (len(shape) != 3 or shape[0] not in LOSSLESS):
            raise InputError(
                f"{path}: a folder of images, but the model takes rows of shape {shape}, not 1, 3 or 4 channels, height and "
                "width. Save such rows as .npy."
            )
        self._pillow = _pillow()
        self._states = np.array([state_of(path / name) for name in files], dtype=np.int64)  # (images, 2)
        self.shape = shape or self._first_shape()

    def __len__(self) -> int:
        return len(self.files)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_pillow": None}

    @property
    def labelled(self) -> bool:
        """Rows are told apart by their files."""
        return True

    def read(self, start: int, stop: int) -> Chunk:
        """See `Source.read`."""
        values = np.zeros((max(min(stop, len(self)) - start, 0), *self.shape), dtype=np.float32)
        bad = {}
        for row in range(len(values)):
            try:
                values[row] = self._pixels(self.files[start + row])
            except DataFileError as error:
                bad[row] = str(error)
        return Chunk(values, bad)

    def identity(self) -> str:
        """Digest of all names and bytes."""
        return digest_of(*(f"{name} {_digest(self.path / name)}" for name in self.files))

    def check(self, start: int, stop: int) -> None:
        """See `Source.check`."""
        for name, state in zip(self.files[start:stop], self._states[start:stop].tolist(), strict=True):
            if state_of(self.path / name) != tuple(state):
                raise changed(self.path / name)

    def where(self, row: int) -> tuple[str, int | None]:
        """See `Source.where`."""
        return self.files[row], None

    def _pixels(self, name: str) -> Array:
        channels, height, width = self.shape
        with self._opened(name) as image:
            if image.size != (width, height):
                raise DataFileError(f"{image.size[0]} x {image.size[1]} pixels, but the model takes {width} x {height}")
            mode = LOSSLESS[channels].get(image.mode)
            if mode is None or (image.mode == "P" and "transparency" in image.info):
                raise DataFileError(f"an image of mode {image.mode}, which does not become {channels} channels without loss")
            try:
                pixels: Array = np.asarray(image.convert(mode), dtype=np.float32) / 255
            except (OSError, SyntaxError, ValueError) as error:
                raise DataFileError(f"cannot be read ({error})") from error
        return pixels.reshape(height, width, channels).transpose(2, 0, 1)

    def _opened(self, name: str) -> Any:
        if self._pillow is None:
            self._pillow = _pillow()
        if leads_out(self.path, self.path / name):
            raise DataFileError("cannot be read (it leads out of the folder)")
        try:
            # By content Pillow knows more formats, some of which start other programs.
            return self._pillow.open(self.path / name, formats=("PNG", "JPEG"))
        except (OSError, SyntaxError, ValueError, self._pillow.DecompressionBombError) as error:
            raise DataFileError(f"cannot be read ({str(error).replace(str(self.path), self.path.name)})") from error

    def _first_shape(self) -> tuple[int, ...]:
        for name in self.files:
            try:
                with self._opened(name) as image:
                    channels = {"1": 1, "L": 1, "RGB": 3, "P": 3, "RGBA": 4}.get(image.mode)
                    if channels:
                        return channels, image.size[1], image.size[0]
            except DataFileError:
                continue
        raise DataFileError(f"{self.path}: none of its {len(self.files)} images can be read.")


def _digest(path: Path) -> str:
    """Of an image's bytes; a word for one without any that can be read, which becomes a bad row."""
    try:
        return file_digest(path)
    except OSError:
        return "unreadable"


def _pillow() -> Any:
    try:
        return importlib.import_module("PIL.Image")
    except ImportError as error:
        raise MissingExtraError("folders of images need pillow: pip install 'dasp[images]'.") from error
