"""Which groups of elements can share one pass through a linear map."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from .gaussian import LinearMap


def independent_sets(labels: Tensor, count: int, linear: LinearMap, axis: int) -> Sequence[Tensor]:
    """Sets of players of which no element of the result of `linear` sees two, few of them where players are local.

    Players are placed on a grid by their first elements; those whose places agree modulo a stride form a set. The
    smallest stride that passes the test is taken: it is guessed, then verified, so the sets are right whatever the map.

    Args:
        labels: 1-based owners, (*s without its batch axis).
        count: number of players n.
        linear: the map.
        axis: where its batch axis goes.

    Returns:
        1-based players of every set; one player a set if nothing better passes.
    """
    singles = list(torch.arange(1, count + 1, device=labels.device).split(1))
    places = _grid(labels, count)  # (n, axes)
    for stride in _strides():
        code = torch.zeros(count, dtype=torch.long, device=labels.device)
        for place in places.unbind(1):
            code = code * stride + place % stride
        codes = code.unique()
        if len(codes) > count // 2:
            return singles
        sets = [(code == c).nonzero()[:, 0] + 1 for c in codes]
        if all(_apart(labels, members, linear, axis) for members in sets):
            return sets
    return singles


def _strides() -> Iterator[int]:
    stride = 1
    while True:
        yield stride
        stride = stride + 1 if stride < 8 else stride * 3 // 2


def _grid(labels: Tensor, count: int) -> Tensor:
    """Where each player's first element stands among the first elements of all, along every axis, (n, axes)."""
    flat = labels.flatten()
    index = torch.arange(flat.numel(), device=labels.device)
    first = torch.full((count + 1,), flat.numel(), device=labels.device).scatter_reduce(0, flat, index, "amin")[1:]
    places = torch.stack(torch.unravel_index(first.clamp(max=flat.numel() - 1), labels.shape), 1)
    return torch.stack([torch.unique(place, return_inverse=True)[1] for place in places.unbind(1)], 1)


def _apart(labels: Tensor, members: Tensor, linear: LinearMap, axis: int) -> bool:
    kept = labels * torch.isin(labels, members)
    return linear.owners(kept.unsqueeze(axis)) is not None
