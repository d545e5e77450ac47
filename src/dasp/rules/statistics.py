"""Rules for variances, norms and products over axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..gaussian import Gaussian
from .activations import absolute
from .arithmetic import multiply
from .dominant import aligned, in_both_states, skewness
from .extremes import largest, smallest
from .families import Context, pointwise
from .larger import average, over_pairings
from .parts import every, places, reduced, row_axis, sole_owner, times, together
from .powers import square_root
from .registry import RULES, Rule
from .squares import mean_square

aten = torch.ops.aten


def total(x: Gaussian, axes: Sequence[int], keepdim: bool) -> Gaussian:
    """The sum over axes; exact but for the rests, which count as independent."""
    over = [a - x.mean.dim() for a in axes]
    return every(x, lambda part: part.sum(over, keepdim=keepdim))


def _mean_square(context: Context, x: Gaussian, over: Sequence[int], keepdim: bool, *, centred: bool) -> Gaussian:
    """Mean of the squares over some places, given both states of the player that dominates them."""
    axis = row_axis(context.axis, x.mean.dim(), over, keepdim)
    rows = None if axis is None else axis - sum(p < axis for p in over)
    joined = together(x, over)
    skew = None if joined.factors is None else skewness(context.law, rows, joined.factors)
    moments = in_both_states(
        context.law, rows, joined,
        lambda part: mean_square(part, centred=centred, skew=aligned(skew, part.factors)).moments,
    )
    return reduced(every(moments, lambda part: part.squeeze(-1)), x.mean.shape, over, keepdim)


def variance(
    context: Context, x: Gaussian, dim: Sequence[int] | int | None = None, *, correction: float | None = None,
    keepdim: bool = False,
) -> Gaussian:  # fmt: skip
    """`sum (X - mean X)^2 / (N - correction)`, see `mean_square`; exact."""
    over = places(x.mean.dim(), dim)
    size = math.prod(x.mean.shape[p] for p in over)
    freedom = max(0.0, size - (1 if correction is None else correction))
    return times(_mean_square(context, x, over, keepdim, centred=True), size / freedom if freedom else math.nan)


def deviation(
    context: Context, x: Gaussian, dim: Sequence[int] | int | None = None, *, correction: float | None = None,
    keepdim: bool = False,
) -> Gaussian:  # fmt: skip
    """The root of `variance`."""
    return pointwise(context, variance(context, x, dim, correction=correction, keepdim=keepdim), square_root, pole=0.0)


def variance_and_mean(
    context: Context, x: Gaussian, dim: Sequence[int] | int | None = None, *, correction: float | None = None,
    keepdim: bool = False,
) -> tuple[Gaussian, Gaussian]:  # fmt: skip
    """`variance`, and the mean; exact."""
    over = places(x.mean.dim(), dim)
    share = 1 / math.prod(x.mean.shape[p] for p in over)
    return variance(context, x, dim, correction=correction, keepdim=keepdim), times(total(x, over, keepdim), share)


def norm(
    context: Context, x: Gaussian, ord: float = 2, dim: Sequence[int] | int | None = None, keepdim: bool = False,
    **options: Any,
) -> Gaussian:  # fmt: skip
    """`(sum |X|^p)^(1/p)` for p = 1 and 2, the largest or smallest `|X|` for infinite p."""
    over = places(x.mean.dim(), dim)
    if ord == 2:
        size = math.prod(x.mean.shape[p] for p in over)
        return pointwise(context, times(_mean_square(context, x, over, keepdim, centred=False), size), square_root, pole=0.0)
    rows = Context(context.law, row_axis(context.axis, x.mean.dim(), over, keepdim))
    sizes = pointwise(rows, x, absolute)
    if ord == 1:
        return total(sizes, over, keepdim)
    return (largest if ord > 0 else smallest)(context, sizes, over, keepdim)


def product(context: Context, x: Gaussian, dim: int, keepdim: bool = False, *, dtype: torch.dtype | None = None) -> Gaussian:
    """The product along an axis, two by two."""
    place = dim % x.mean.dim() - x.mean.dim()

    def take(part: Tensor, *, index: int) -> Tensor:
        return part.narrow(place, index, 1) if keepdim else part.select(place, index)

    members = [every(x, partial(take, index=i)) for i in range(x.mean.shape[place])]
    return average(over_pairings(members, partial(multiply, context)))


def _norm_covers(x: Any, ord: float = 2, dim: Any = None, keepdim: bool = False, **options: Any) -> bool:
    return ord in (1, 2, math.inf, -math.inf) and options.get("dtype") is None


def _owners(
    labels: Tensor, dim: Sequence[int] | int | None = None, *, correction: float | None = None, keepdim: bool = False
) -> Tensor | None:
    return sole_owner(labels, dim, keepdim)


def _owners_of_two(labels: Tensor, dim: Sequence[int] | int | None = None, **options: Any) -> tuple[Tensor, Tensor] | None:
    owner = _owners(labels, dim, **options)
    return None if owner is None else (owner, owner)


def _norm_owners(
    labels: Tensor, ord: float = 2, dim: Sequence[int] | int | None = None, keepdim: bool = False, **options: Any
) -> Tensor | None:
    return sole_owner(labels, dim, keepdim)


def _product_owners(labels: Tensor, dim: int, keepdim: bool = False, **options: Any) -> Tensor | None:
    return sole_owner(labels, dim, keepdim)


RULES.add(Rule(aten.var.correction, True, variance, owners=_owners))
RULES.add(Rule(aten.std.correction, False, deviation, owners=_owners))
RULES.add(Rule(aten.var_mean.correction, True, variance_and_mean, owners=_owners_of_two))
RULES.add(Rule(aten.linalg_vector_norm.default, False, norm, owners=_norm_owners, covers=_norm_covers))
RULES.add(
    Rule(
        aten.prod.dim_int, False, product, owners=_product_owners,
        covers=lambda *args, dtype=None, **options: dtype is None,
    )
)  # fmt: skip
