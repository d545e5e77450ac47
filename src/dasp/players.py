"""Ready-made players: patches, pixels, channels, tokens, named features.

Each function returns a layout, which becomes `Players` once the shapes of the inputs are known:

>>> import dasp
>>> dasp.players.grid(2, 2).build([(1, 4, 4)]).labels[0][0].tolist()
[[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]

With several inputs each has players of its own; to share players between inputs give integer masks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import InputError, InputTypeError
from .game import Players

Shape = tuple[int, ...]


class Layout(ABC):
    """A rule that assigns input elements to players. Its printed form is the text of `--players`, where there is one."""

    def build(self, shapes: Sequence[Sequence[int]]) -> Players:
        """Players for inputs of these shapes (without batch axis).

        Raises:
            InputError: a shape lacks an axis that the layout needs.
        """
        labels: list[Tensor] = []
        names: list[str] = []
        for i, shape in enumerate(shapes):
            own, own_names = self.label(tuple(shape))
            labels.append(own + len(names))
            names += own_names if len(shapes) == 1 else [f"input {i} {name}" for name in own_names]
        return Players(tuple(labels), len(names), True, tuple(names))

    @abstractmethod
    def label(self, shape: Shape) -> tuple[Tensor, list[str]]:
        """Owners 0, 1, ... of one input's elements (int64, of the given shape) and the players' names."""


@dataclass(frozen=True, repr=False)
class _Grid(Layout):
    height: int
    width: int
    noun: str
    plural: str

    def __repr__(self) -> str:
        return "pixels" if self.noun == "pixel" else f"grid:{self.height}x{self.width}"

    def label(self, shape: Shape) -> tuple[Tensor, list[str]]:
        if len(shape) < 2:
            raise InputError(f"players: {self.plural} need two axes, rows and columns; the input has shape {shape}.")
        down, across = -(-shape[-2] // self.height), -(-shape[-1] // self.width)
        rows = torch.arange(shape[-2], device="cpu") // self.height
        columns = torch.arange(shape[-1], device="cpu") // self.width
        labels = (rows[:, None] * across + columns).expand(shape).contiguous()
        return labels, [f"{self.noun} {r},{c}" for r in range(down) for c in range(across)]


@dataclass(frozen=True, repr=False)
class _Along(Layout):
    axis: int
    noun: str

    def __repr__(self) -> str:
        return f"{self.noun}s" + (f" along axis {self.axis}" if self.axis else "")

    def label(self, shape: Shape) -> tuple[Tensor, list[str]]:
        if not -len(shape) <= self.axis < len(shape):
            raise InputError(f"players: no axis {self.axis} in an input of shape {shape} (without its batch axis).")
        axis = self.axis % len(shape)
        view = [1] * len(shape)
        view[axis] = shape[axis]
        labels = torch.arange(shape[axis], device="cpu").reshape(view).expand(shape).contiguous()
        return labels, [f"{self.noun} {i}" for i in range(shape[axis])]


@dataclass(frozen=True, repr=False)
class _Features(Layout):
    names: tuple[str, ...]

    def __repr__(self) -> str:
        return f"features {', '.join(self.names)}"

    def build(self, shapes: Sequence[Sequence[int]]) -> Players:
        players = Players.elements(shapes, self.names)
        if players.count != len(self.names):
            raise InputError(f"players: {len(self.names)} feature names for {players.count} input elements.")
        return players

    def label(self, shape: Shape) -> tuple[Tensor, list[str]]:
        players = self.build([shape])
        return players.labels[0], list(self.names)


KINDS: dict[type[Layout], str] = {_Grid: "grid", _Along: "along", _Features: "features"}
"""Layouts that a file can name."""


def grid(height: int, width: int) -> Layout:
    """Patches of `height` x `width` over the last two axes, all channels together; the last ones may be partial."""
    for name, size in (("height", height), ("width", width)):
        if isinstance(size, bool) or not isinstance(size, int):
            raise InputTypeError(f"players.grid: {name} must be an int, got {type(size).__name__}.")
        if size < 1:
            raise InputError(f"players.grid: {name} must be at least 1, got {size}.")
    return _Grid(height, width, "patch", "patches")


def pixels() -> Layout:
    """One player per position of the last two axes, all channels together."""
    return _Grid(1, 1, "pixel", "pixels")


def channels(axis: int = 0) -> Layout:
    """One player per position of `axis`, counted without the batch axis."""
    return _Along(axis, "channel")


def tokens(axis: int = 0) -> Layout:
    """One player per position of `axis` (0 for inputs (batch, tokens, width)), counted without the batch axis."""
    return _Along(axis, "token")


def features(names: Sequence[str]) -> Layout:
    """Every element is a player, named; one name an element, in order."""
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise InputTypeError("players.features: names must be a sequence of strings.")
    return _Features(tuple(names))
