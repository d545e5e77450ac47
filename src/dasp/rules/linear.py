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
from .arithmetic import plus
from .bilinear import contraction
from .families import Context, linear
from .parts import times
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


def random_product(context: Context, op: OpOverload, x: Gaussian, y: Gaussian) -> Gaussian:
    """Two random matrices."""
    return contraction(x, y, op, context)


@linear(aten.mm.default, aten.bmm.default, aten.matmul.default, positions=(0, 1), both=random_product)
def matrix_product(op: OpOverload, position: int, args: Sequence[Any]) -> LinearMap:
    """A random matrix times a known one, on either side."""
    if position == 0:
        return weighted(lambda x, w: op(x, w), args[1], _unchanged)
    return weighted(lambda x, w: op(w, x), args[0], _unchanged)


def several_added(
    context: Context, op: OpOverload, bias: Any, x: Any, y: Any, beta: float = 1, alpha: float = 1
) -> Gaussian:
    """`beta * bias + alpha * A B`, two or all three of them random."""
    if not isinstance(x, Gaussian) and not isinstance(y, Gaussian):
        return plus(alpha * torch.matmul(x, y), bias, beta)
    return plus(times(contraction(x, y, torch.matmul, context), alpha), bias, beta)


def one_factor_random(random: Sequence[int], args: Sequence[Any]) -> bool:
    """A random bias does no harm; a product of two random matrices is approximate."""
    return not {1, 2} <= set(random)


@linear(
    aten.addmm.default, aten.baddbmm.default, aten.addmv.default, positions=(0, 1, 2), both=several_added,
    exact_if=one_factor_random,
)  # fmt: skip
def added_product(
    op: OpOverload, position: int, args: Sequence[Any], beta: float = 1, alpha: float = 1
) -> LinearMap:
    """`beta * bias + alpha * A B` with one of the three random."""
    if position == 0:
        product = alpha * torch.matmul(args[1], args[2])

        def spread(x: Tensor) -> Tensor:
            return x.expand(product.shape)

        return LinearMap(
            affine=lambda x: beta * spread(x) + product, homogeneous=lambda x: beta * spread(x),
            squared=lambda v: beta**2 * spread(v), reach=spread,
        )  # fmt: skip

    def apply(x: Tensor, w: Tensor) -> Tensor:
        return torch.matmul(x, w) if position == 1 else torch.matmul(w, x)

    return weighted(apply, args[3 - position] * alpha, lambda y: y + beta * args[0])


def _form(x: Tensor, w: Tensor) -> Tensor:
    """`sum_i W_kij x_i`, (*b, k, j)."""
    return torch.einsum("...i,kij->...kj", x, w)


def random_form(
    context: Context, op: OpOverload, x: Gaussian, y: Gaussian, weight: Tensor, bias: Tensor | None = None
) -> Gaussian:
    """`sum_ij W_kij X_i Y_j + b_k` of two random values: `x` through the weights, then a contraction."""
    half = x.linear(weighted(_form, weight, _unchanged))
    result = contraction(half, y, lambda a, b: (a * b.unsqueeze(-2)).sum(-1), context)
    return result if bias is None else Gaussian(result.mean + bias, result.factors, result.rest)


@linear(aten.bilinear.default, positions=(0, 1), both=random_form)
def bilinear_form(op: OpOverload, position: int, args: Sequence[Any]) -> LinearMap:
    """The same with one of the two known."""
    weight, bias = (*args, None)[2:4]
    matrices = _form(args[1 - position], weight if position == 1 else weight.mT)  # (*b, k, i)
    return weighted(
        lambda x, w: (x.unsqueeze(-2) * w).sum(-1), matrices, lambda y: y if bias is None else y + bias
    )


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

    def matrices(x: Tensor) -> list[Tensor]:
        return [averaging_matrix(n, size, x) for n, size in zip(x.shape[-len(sizes) :], sizes, strict=True)]

    return along_axes(matrices)


def along_axes(matrices: Callable[[Tensor], Sequence[Tensor]]) -> LinearMap:
    """The `LinearMap` of one matrix (length, size) along each of the last axes, made for the value that it is applied to."""

    def apply(x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        found = matrices(x)
        for axis, matrix in zip(range(-len(found), 0), found, strict=True):
            x = (x.movedim(axis, -1) @ change(matrix)).movedim(-1, axis)
        return x

    def mix(x: Tensor) -> Tensor:
        return apply(x, _unchanged)

    return LinearMap(
        affine=mix, homogeneous=mix, squared=lambda v: apply(v, torch.square), reach=lambda x: apply(x, torch.abs)
    )


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


@linear(aten.col2im.default)
def overlapping_sum(op: OpOverload, position: int, args: Sequence[Any]) -> LinearMap:
    """Columns put back as overlapping patches and summed (`fold`); every weight is 1."""
    return averaging(lambda x: op(x, *args[1:]), lambda v: 1.0)

