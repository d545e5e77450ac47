"""Rules for interpolation between known places: linear maps that act along one axis after the other; exact."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from ..gaussian import LinearMap
from .families import linear
from .linear import along_axes

aten = torch.ops.aten

PLAIN = {
    aten.upsample_linear1d.vec: aten.upsample_linear1d.default,
    aten.upsample_bilinear2d.vec: aten.upsample_bilinear2d.default,
    aten.upsample_trilinear3d.vec: aten.upsample_trilinear3d.default,
    aten.upsample_bicubic2d.vec: aten.upsample_bicubic2d.default,
    aten._upsample_bilinear2d_aa.vec: aten._upsample_bilinear2d_aa.default,
    aten._upsample_bicubic2d_aa.vec: aten._upsample_bicubic2d_aa.default,
}
"""The forms with one list of scale factors, and those with one factor for each axis."""


@linear(*PLAIN)
def interpolation(op: OpOverload, position: int, args: Sequence[Any]) -> LinearMap:
    """Linear or cubic interpolation of (N, C, *), with or without filtering before."""
    _, sizes, align_corners, factors = args
    space = len(sizes if factors is None else factors)

    def matrices(x: Tensor) -> list[Tensor]:
        lengths = x.shape[-space:]
        goal = [int(n * f) for n, f in zip(lengths, factors, strict=True)] if sizes is None else list(sizes)
        return resizing(PLAIN[op], x, goal, align_corners, factors or [None] * space)

    return along_axes(matrices)


@linear(*PLAIN.values())
def interpolation_to_size(op: OpOverload, position: int, args: Sequence[Any]) -> LinearMap:
    """The same with a size, and scale factors as separate arguments."""
    _, sizes, align_corners, *factors = args
    factors = [*factors, *[None] * (len(sizes) - len(factors))]
    return along_axes(lambda x: resizing(op, x, list(sizes), align_corners, factors))


def resizing(
    op: OpOverload, x: Tensor, sizes: Sequence[int], align_corners: bool, factors: Sequence[float | None]
) -> list[Tensor]:
    """The matrix (length, size) of the operation along each of its axes, read off unit vectors.

    The other axes have two equal elements, not one: of one, torch (2.13) cannot tell in which order memory is.
    """
    found = []
    for i, size in enumerate(sizes):
        length, after = x.shape[i - len(sizes)], len(sizes) - i - 1
        units = torch.eye(length, dtype=x.dtype, device=x.device).reshape(length, 1, *[1] * i, length, *[1] * after)
        units = units.repeat(1, 1, *[2] * i, 1, *[2] * after)
        goal = [size if j == i else 2 for j in range(len(sizes))]
        scales = [factor if j == i else None for j, factor in enumerate(factors)]
        result: Tensor = op(units, goal, align_corners, *scales)[:, 0]
        found.append(result.movedim(i + 1, 1).reshape(length, size, -1)[..., 0])
    return found
