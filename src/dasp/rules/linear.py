"""Rules for linear operations: dense layers, convolutions, averages, sums, batch normalisation; all exact.

The mean goes through the operation, loadings through it without its bias, independent variances through it with squared
weights (DESIGN: `W mean + c`, `W L`, `W^2 rest`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from ..gaussian import Gaussian, LinearMap
from .families import Context, linear
from .registry import RULES, Rule

aten = torch.ops.aten


def weighted(apply: Callable[[Tensor, Tensor], Tensor], weight: Tensor, bias: Callable[[Tensor], Tensor]) -> LinearMap:
    """The `LinearMap` of `x -> bias(apply(x, weight))`, with `apply` bilinear."""
    return LinearMap(
        affine=lambda x: bias(apply(x, weight)),
        homogeneous=lambda x: apply(x, weight),
        squared=lambda v: apply(v, weight.square()),
        reach=lambda x: apply(x, torch.ones_like(weight, dtype=x.dtype)),
    )


def _unchanged(x: Tensor) -> Tensor:
    return x


@linear(aten.linear.default)
def dense(op: OpOverload, position: int, args: Sequence[Any]) -> LinearMap:
    """`x W' + b` over the last axis."""
    _, weight, bias = (*args, None)[:3]
    return weighted(lambda x, w: torch.nn.functional.linear(x, w), weight, lambda y: y if bias is None else y + bias)


@linear(aten.mm.default, aten.bmm.default, aten.matmul.default, positions=(0, 1))
def matrix_product(op: OpOverload, position: int, args: Sequence[Any]) -> LinearMap:
    """A random matrix times a known one, on either side."""
    if position == 0:
        return weighted(lambda x, w: op(x, w), args[1], _unchanged)
    return weighted(lambda x, w: op(w, x), args[0], _unchanged)


@linear(aten.addmm.default, aten.baddbmm.default, positions=(1, 2))
def added_product(
    op: OpOverload, position: int, args: Sequence[Any], beta: float = 1, alpha: float = 1
) -> LinearMap:
    """`beta * bias + alpha * A B` with one of A and B random."""
    known = args[3 - position] * alpha

    def apply(x: Tensor, w: Tensor) -> Tensor:
        return torch.matmul(x, w) if position == 1 else torch.matmul(w, x)

    return weighted(apply, known, lambda y: y + beta * args[0])


@linear(aten.convolution.default)
def convolution(op: OpOverload, position: int, args: Sequence[Any]) -> LinearMap:
    """Convolution in 1, 2 or 3 dimensions, transposed or not, any stride, padding, dilation and groups."""
    _, weight, bias, *options = args

    def add_bias(y: Tensor) -> Tensor:
        return y if bias is None else y + bias.reshape(-1, *[1] * (weight.dim() - 2))

    return weighted(lambda x, w: aten.convolution(x, w, None, *options), weight, add_bias)


def cast(x: Tensor, dtype: torch.dtype | None) -> Tensor:
    """The floating dtype that a reduction asks for."""
    return x if dtype is None or not dtype.is_floating_point else x.to(dtype)


def averaging(
    op: Callable[[Tensor], Tensor], share: Callable[[Tensor], Tensor | float], dtype: torch.dtype | None = None
) -> LinearMap:
    """The `LinearMap` of an average, in `dtype`, whose weights are equal to `share` wherever they are not zero."""

    def apply(x: Tensor) -> Tensor:
        return op(cast(x, dtype))

    return LinearMap(affine=apply, homogeneous=apply, squared=lambda v: share(v) * apply(v), reach=op)


@linear(aten.mean.dim, aten.mean.default)
def mean(
    op: OpOverload, position: int, args: Sequence[Any], dtype: torch.dtype | None = None
) -> LinearMap:
    """Mean over axes; every weight is 1/N."""

    def share(v: Tensor) -> float:
        axes = args[1] if len(args) > 1 and args[1] else range(v.dim())
        return 1.0 / prod(v.shape[a] for a in axes)

    return averaging(lambda x: op(x, *args[1:]), share, dtype)


@linear(aten.sum.dim_IntList, aten.sum.default)
def total(op: OpOverload, position: int, args: Sequence[Any], dtype: torch.dtype | None = None) -> LinearMap:
    """Sum over axes."""
    return averaging(lambda x: op(x, *args[1:]), lambda v: 1.0, dtype)


@linear(aten.cumsum.default)
def running_total(op: OpOverload, position: int, args: Sequence[Any], dtype: torch.dtype | None = None) -> LinearMap:
    """Cumulative sum along an axis."""
    return averaging(lambda x: op(x, *args[1:]), lambda v: 1.0, dtype)


@linear(aten.avg_pool2d.default, aten.avg_pool3d.default)
def average_pool(op: OpOverload, position: int, args: Sequence[Any]) -> LinearMap:
    """Average pooling; the divisor of a window depends on padding, ceil_mode and count_include_pad."""
    space = 2 if op is aten.avg_pool2d.default else 3
    defaults: tuple[Any, ...] = ([], 0, False, True, None)
    _, kernel, stride, padding, ceil_mode, include_pad, divisor = (*args, *defaults[len(args) - 2 :])

    def share(v: Tensor) -> Tensor:
        ones = torch.ones_like(v[:1, :1] if v.dim() == space + 2 else v[:1])
        members = op(ones, kernel, stride, padding, ceil_mode, include_pad, 1)
        weight: Tensor = op(ones, kernel, stride, padding, ceil_mode, include_pad, divisor) / members
        return weight

    return averaging(lambda x: op(x, kernel, stride, padding, ceil_mode, include_pad, divisor), share)


@linear(aten.avg_pool1d.default)
def average_pool_1d(op: OpOverload, position: int, args: Sequence[Any]) -> LinearMap:
    """Average pooling along one axis, as a window of height one."""
    defaults: tuple[Any, ...] = ([], [0], False, True)
    _, kernel, stride, padding, ceil_mode, include_pad = (*args, *defaults[len(args) - 2 :])
    stride = list(stride) or list(kernel)
    flat = average_pool(
        aten.avg_pool2d.default, 0, (None, [1, *kernel], [1, *stride], [0, *padding], ceil_mode, include_pad, None)
    )

    def lifted(f: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda x: f(x.unsqueeze(-2)).squeeze(-2)

    return LinearMap(lifted(flat.affine), lifted(flat.homogeneous), lifted(flat.squared), lifted(flat.reach))


@linear(
    aten.adaptive_avg_pool1d.default, aten.adaptive_avg_pool2d.default, aten.adaptive_avg_pool3d.default,
    aten._adaptive_avg_pool2d.default, aten._adaptive_avg_pool3d.default,
)  # fmt: skip
def adaptive_average_pool(op: OpOverload, position: int, args: Sequence[Any]) -> LinearMap:
    """Adaptive average pooling: one averaging matrix along each axis (windows may differ in size and overlap)."""
    sizes = list(args[1])

    def along_axes(x: Tensor, power: int) -> Tensor:
        for axis, size in zip(range(-len(sizes), 0), sizes, strict=True):
            matrix = averaging_matrix(x.shape[axis], size, x).pow(power)
            x = (x.movedim(axis, -1) @ matrix).movedim(-1, axis)
        return x

    def pool(x: Tensor) -> Tensor:
        return along_axes(x, 1)

    return LinearMap(pool, pool, lambda v: along_axes(v, 2), pool)


def averaging_matrix(length: int, size: int, like: Tensor) -> Tensor:
    """Weights of adaptive averages of `length` elements in `size` windows, (length, size)."""
    index = torch.arange(length, device=like.device).unsqueeze(1)
    window = torch.arange(size, device=like.device)
    start = (window * length) // size
    end = -((-(window + 1) * length) // size)
    inside = (index >= start) & (index < end)
    return inside.to(like.dtype) / (end - start).to(like.dtype)


def _batch_norm_scale(weight: Tensor | None, variance: Tensor, eps: float) -> Tensor:
    scale = (variance + eps).rsqrt()
    return scale if weight is None else scale * weight


def batch_norm(
    context: Context, value: Gaussian, weight: Tensor | None, bias: Tensor | None, mean: Tensor, variance: Tensor,
    momentum: float, eps: float,
) -> tuple[Gaussian, None, None]:  # fmt: skip
    """Batch normalisation with running statistics: a known scale and shift per channel; exact."""
    scale = _batch_norm_scale(weight, variance, eps).reshape(-1, *[1] * (value.mean.dim() - 2))
    centre = mean.reshape(scale.shape)
    shift = 0 if bias is None else bias.reshape(scale.shape)
    factors = None if value.factors is None else value.factors * scale
    return Gaussian((value.mean - centre) * scale + shift, factors, value.rest * scale.square()), None, None


def _first_owners(labels: Tensor, *args: Any) -> tuple[Tensor, None, None]:
    return labels, None, None


RULES.add(Rule(aten._native_batch_norm_legit_no_training.default, True, batch_norm, owners=_first_owners))
