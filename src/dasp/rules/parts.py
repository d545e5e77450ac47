"""The parts of a random value taken through one operation together, and what rules over axes share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..gaussian import Gaussian


def each(values: Sequence[Gaussian], f: Callable[[Sequence[Tensor]], Tensor]) -> Gaussian:
    """`f` of the means, of the factors and of the rests of some values; it must count axes from the end."""
    factors = [v.factors for v in values if v.factors is not None]
    return Gaussian(
        f([v.mean for v in values]), f(factors) if len(factors) == len(values) else None, f([v.rest for v in values])
    )


def every(value: Gaussian, f: Callable[[Tensor], Tensor]) -> Gaussian:
    """`f` of the mean, of the factors and of the rest of a value; it must count axes from the end."""
    return each([value], lambda parts: f(parts[0]))


def times(value: Gaussian, scale: float | Tensor) -> Gaussian:
    """`c X` for a known c that broadcasts with X; exact."""
    factors = None if value.factors is None else value.factors * scale
    return Gaussian(value.mean * scale, factors, value.rest * scale * scale)


def known(value: Any, like: Gaussian) -> Gaussian:
    """A known number as a random value without spread; a random one as it is."""
    if isinstance(value, Gaussian):
        return value
    mean = torch.as_tensor(value, dtype=like.mean.dtype, device=like.mean.device)
    factors = None if like.factors is None else mean.new_zeros(()).expand(len(like.factors), *mean.shape)
    return Gaussian(mean, factors, torch.zeros_like(mean))


def broadcast(value: Gaussian, shape: Sequence[int]) -> Gaussian:
    """The value expanded to a shape."""
    if value.mean.shape == torch.Size(shape):
        return value
    factors = None
    if value.factors is not None:
        aligned = value.factors.reshape(-1, *[1] * (len(shape) - value.mean.dim()), *value.mean.shape)
        factors = aligned.expand(-1, *shape)
    return Gaussian(value.mean.expand(shape), factors, value.rest.expand(shape))


def places(dims: int, axes: Sequence[int] | int | None) -> list[int]:
    """Axes as places from the front, in order; all where none are named."""
    if axes is None or (not isinstance(axes, int) and not len(axes)):
        return list(range(dims))
    return sorted(a % dims for a in ([axes] if isinstance(axes, int) else axes))


def together(x: Gaussian, over: Sequence[int]) -> Gaussian:
    """The places `over` joined into one last axis."""
    back = [p - x.mean.dim() for p in over]
    return every(x, lambda part: part.movedim(back, list(range(-len(back), 0))).flatten(-len(back)))


def reduced(x: Gaussian, shape: Sequence[int], over: Sequence[int], keepdim: bool) -> Gaussian:
    """A value without the places `over` of its former shape; with `keepdim`, of size one there."""
    if not keepdim:
        return x
    sizes = [1 if p in over else size for p, size in enumerate(shape)]
    return every(x, lambda part: part.reshape(*part.shape[: part.dim() - x.mean.dim()], *sizes))


def row_axis(axis: int | None, dims: int, over: Sequence[int], keepdim: bool) -> int | None:
    """Batch axis of an argument of `dims` axes, given that of the result of a reduction over some."""
    if axis is None or keepdim:
        return axis
    return [p for p in range(dims) if p not in over][axis]


def sole_owner(labels: Tensor, axes: Sequence[int] | int | None, keepdim: bool) -> Tensor | None:
    """The one player who owns each slice along some axes, None if two players meet in one."""
    over = places(labels.dim(), axes)
    owner: Tensor = labels.amax(over, keepdim=True)
    if bool(((labels > 0) & (labels != owner)).any()):
        return None
    return owner if keepdim else owner.squeeze(over)
