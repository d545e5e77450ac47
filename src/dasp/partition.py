"""Who owns which element of the inputs: the partition into players."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .errors import InputError, InputTypeError


@dataclass(frozen=True, eq=False)
class Players:
    """Who owns which input element.

    Attributes:
        labels: one int64 tensor per input, of the input's shape without batch axis: the owner, 0 to `count - 1`.
        count: the number of players n.
        grouped: False when every element of every input is its own player, in running order.
        names: one name a player, or None.
    """

    labels: tuple[Tensor, ...]
    count: int
    grouped: bool
    names: tuple[str, ...] | None = None

    @classmethod
    def elements(cls, shapes: Sequence[Sequence[int]], names: Sequence[str] | None = None) -> Players:
        """Every element of every input is a player; `shapes` are the inputs' shapes without batch axis."""
        labels, start = [], 0
        for shape in shapes:
            size = math.prod(shape)
            labels.append(torch.arange(start, start + size, device="cpu").reshape(tuple(shape)))
            start += size
        return cls(tuple(labels), start, False, None if names is None else tuple(names))

    @classmethod
    def from_mask(cls, mask: Tensor | tuple[Tensor, ...], shapes: Sequence[Sequence[int]]) -> Players:
        """Players from an integer mask, as captum's `feature_mask`: equal numbers are one player.

        A mask has the input's shape without batch axis, or broadcasts to it, with or without a leading axis of one.
        Several inputs take a tuple of masks, and a number means the same player in all of them. The numbers are any
        integers >= 0; players are numbered 0 to n-1 in their order, and named by them.

        Raises:
            InputTypeError: a mask is not a tensor of integers.
            InputError: the number of masks is wrong, a mask does not broadcast, or a number is negative.
        """
        masks = mask if isinstance(mask, tuple) else (mask,)
        if len(masks) != len(shapes):
            raise InputError(
                f"players: {len(masks)} mask(s) for {len(shapes)} input(s). Give a tuple with one mask for each input."
            )
        whole = [
            _whole_mask(m, tuple(s), _where(i, len(masks))) for i, (m, s) in enumerate(zip(masks, shapes, strict=True))
        ]
        ids, inverse = torch.unique(torch.cat([w.flatten() for w in whole]), return_inverse=True)
        parts = torch.split(inverse, [w.numel() for w in whole])
        labels = tuple(part.reshape(w.shape) for part, w in zip(parts, whole, strict=True))
        return cls(labels, len(ids), True, tuple(f"player {int(i)}" for i in ids))

    def to(self, device: torch.device) -> Players:
        """The same players with their labels on `device`."""
        return replace(self, labels=tuple(label.to(device) for label in self.labels))

    @cached_property
    def key(self) -> tuple[Any, ...]:
        """What tells this partition from others; names do not matter."""
        if not self.grouped:
            return tuple(tuple(label.shape) for label in self.labels)
        return tuple((tuple(label.shape), label.cpu().numpy().tobytes()) for label in self.labels)

    def spread(self, per_player: Tensor) -> tuple[Tensor, ...]:
        """Give each element its player's entry: (..., n) to one (..., *shape_i) per input."""
        lead = per_player.shape[:-1]
        if self.grouped:
            return tuple(
                per_player.index_select(-1, label.flatten()).reshape(*lead, *label.shape) for label in self.labels
            )
        parts = torch.split(per_player, [label.numel() for label in self.labels], dim=-1)
        return tuple(part.reshape(*lead, *label.shape) for part, label in zip(parts, self.labels, strict=True))


def _where(index: int, count: int) -> str:
    return "players" if count == 1 else f"players[{index}]"


def _whole_mask(mask: Tensor, shape: tuple[int, ...], where: str) -> Tensor:
    if not isinstance(mask, Tensor):
        raise InputTypeError(f"{where}: expected an integer tensor, got {type(mask).__name__}.")
    if mask.dtype == torch.bool or mask.is_floating_point() or mask.is_complex():
        raise InputTypeError(
            f"{where}: expected a tensor of integers (one number per player), got {mask.dtype}. Use mask.long()."
        )
    if mask.ndim == len(shape) + 1 and mask.shape[0] == 1:
        mask = mask[0]
    try:
        whole = mask.to(torch.int64).broadcast_to(shape)
    except RuntimeError:
        raise InputError(
            f"{where}: a mask of shape {tuple(mask.shape)} does not broadcast to {shape}, the shape of the input "
            "without its batch axis. One mask serves the whole batch."
        ) from None
    if whole.numel() and int(whole.min()) < 0:
        raise InputError(f"{where}: player numbers must be 0 or more, the mask holds {int(whole.min())}.")
    return whole
