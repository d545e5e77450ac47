"""Which outputs are explained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .errors import InputError, InputTypeError
from .model import Model


@dataclass(frozen=True, eq=False)
class Targets:
    """Which outputs are explained. Made by `Targets.of`.

    Attributes:
        index: int64 (1 or B, T, k), the indices into the k output axes after the rows.
        flat: int64 (1 or B, T), the same into the flattened output.
        several: True when a list was asked, so results carry a targets axis.
    """

    index: Tensor
    flat: Tensor
    several: bool

    @classmethod
    def of(cls, target: Any, rows: int, shape: Sequence[int], device: torch.device) -> Targets:
        """Normalise a target for `rows` rows and an output of `shape` (without the rows).

        None is the only output; an int indexes an output (rows, classes); a tuple indexes several output axes; a
        tensor of shape (rows,), or (rows, k) for k output axes, names one target per row; a list of ints or tuples
        asks for several targets at once (captum reads a list as one target per row: give a tensor for that).
        Indices count from 0; negative ones are refused.

        Raises:
            InputTypeError: none of these types.
            InputError: a target is missing, out of range, or does not fit the output's axes or the rows.
        """
        shape = tuple(shape)
        if isinstance(target, np.ndarray) and target.ndim:
            if target.dtype.kind not in "iu":
                raise InputTypeError(f"target: expected integers, got an array of {target.dtype}.")
            target = torch.from_numpy(target.astype(np.int64))
        several = isinstance(target, list)
        if isinstance(target, Tensor) and target.ndim > 0:
            index = _per_row_index(target, rows, shape)
        elif isinstance(target, list):
            if not target:
                raise InputError("target: the list is empty. Name at least one output.")
            index = torch.tensor([[_one_index(t, shape) for t in target]], dtype=torch.int64, device="cpu")
        else:
            index = torch.tensor([[_one_index(target, shape)]], dtype=torch.int64, device="cpu")
        index = index.to(device).reshape(index.shape[0], index.shape[1], -1)
        flat = torch.zeros(index.shape[:2], dtype=torch.int64, device=device)
        for axis in range(index.shape[2]):
            flat = flat * shape[axis] + index[:, :, axis]
        return cls(index, flat, several)

    @property
    def count(self) -> int:
        """The number of targets T."""
        return self.flat.shape[1]

    def of_rows(self, rows: Tensor) -> Targets:
        """The targets of some rows (R,) alone."""
        return self if len(self.index) == 1 else replace(self, index=self.index[rows], flat=self.flat[rows])

    def select(self, outputs: Tensor, rows: Tensor) -> Tensor:
        """Pick the targets: outputs (M, *out) of the rows (M,), int64, to (M, T). Indexing only, so gradients flow."""
        flat = outputs.reshape(outputs.shape[0], -1)
        if self.flat.shape[0] == 1:
            return flat.index_select(1, self.flat[0])
        return flat.gather(1, self.flat[rows])


def _fault(what: str, shape: tuple[int, ...]) -> InputError:
    if not shape:
        return InputError(f"target: {what}, but the model gives one number a row. Leave target out.")
    size = " x ".join(str(s) for s in shape)
    hint = "an int" if len(shape) == 1 else f"a tuple of {len(shape)} ints"
    return InputError(f"target: {what}, but the model gives {size} outputs a row. Give {hint}, from 0 up to the size.")


def _one_index(target: Any, shape: tuple[int, ...]) -> list[int]:
    if isinstance(target, Tensor):
        if target.dtype == torch.bool or target.is_floating_point() or target.is_complex():
            raise InputTypeError(f"target: expected integers, got a tensor of {target.dtype}.")
        target = target.item()
    if target is None:
        if math.prod(shape) != 1:
            raise _fault("none given", shape)
        return [0] * len(shape)
    parts = target if isinstance(target, tuple) else (target,)
    index = []
    for part in parts:
        if isinstance(part, bool) or not hasattr(part, "__index__"):
            raise InputTypeError(
                f"target: expected None, an int, a tuple of ints, a list of these or a tensor of one int per row, "
                f"got {type(part).__name__}{' inside' if part is not target else ''}."
            )
        index.append(part.__index__())
    if len(index) != len(shape):
        raise _fault(f"{target} names {len(index)} axis(es)", shape)
    for value, size in zip(index, shape, strict=True):
        if not 0 <= value < size:
            raise InputError(f"target: {target} is out of range; the outputs are numbered 0 to {size - 1}.")
    return index


def _per_row_index(target: Tensor, rows: int, shape: tuple[int, ...]) -> Tensor:
    if target.dtype == torch.bool or target.is_floating_point() or target.is_complex():
        raise InputTypeError(f"target: expected a tensor of integers, got {target.dtype}.")
    index = target.detach().to(torch.int64)
    if index.ndim == 1:
        index = index.unsqueeze(1)
    if index.ndim != 2 or index.shape[0] != rows:
        raise InputError(
            f"target: a tensor names one target per row, so its first axis must be {rows}; its shape is "
            f"{tuple(target.shape)}. For several targets at once give a list."
        )
    if index.shape[1] != len(shape):
        raise _fault(f"each row names {index.shape[1]} axis(es)", shape)
    for axis, size in enumerate(shape):
        bad = ((index[:, axis] < 0) | (index[:, axis] >= size)).nonzero()
        if len(bad):
            row = int(bad[0])
            raise InputError(
                f"target: row {row} asks for {int(index[row, axis])}; the outputs are numbered 0 to {size - 1}."
            )
    return index.unsqueeze(1)


def argmax(model: Model, rows: Tensor) -> Tensor:
    """Each row's largest output, (rows,) or (rows, axes) where the output has several axes.

    Raises:
        InputError: the model has a single output.
    """
    outputs = model.evaluate(rows)  # (rows, *out)
    shape = outputs.shape[1:]
    if shape.numel() < 2:
        raise InputError("target argmax: the model has a single output; leave the target out.")
    index = torch.stack(torch.unravel_index(outputs.flatten(1).argmax(dim=1), shape), dim=1)
    return index[:, 0] if len(shape) == 1 else index
