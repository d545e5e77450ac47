"""Rules for the largest or smallest of several random values, elementwise or along axes, and their smooth form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from ..gaussian import Gaussian
from .arithmetic import negate
from .clark import max_of_two
from .families import Context
from .larger import PAIRINGS, MomentsOfTwo, average, larger, over_pairings, soft_max_of_two
from .parts import broadcast, each, every, known, places, reduced, row_axis, sole_owner, together
from .registry import RULES, Rule
from .softmax import bounded, halves

aten = torch.ops.aten


def _of_two(context: Context, x: Any, y: Any, two: MomentsOfTwo) -> Gaussian:
    like: Gaussian = x if isinstance(x, Gaussian) else y
    first, second = known(x, like), known(y, like)
    shape = torch.broadcast_shapes(first.mean.shape, second.mean.shape)
    return larger(context, broadcast(first, shape), broadcast(second, shape), two)


def maximum(context: Context, x: Any, y: Any) -> Gaussian:
    """`max(X, Y)`, elementwise, see `larger`; the same value twice is itself."""
    return known(x, y) if x is y else _of_two(context, x, y, max_of_two)


def minimum(context: Context, x: Any, y: Any) -> Gaussian:
    """`min(X, Y) = -max(-X, -Y)`."""
    if x is y:
        return known(x, y)
    return negate(context, maximum(context, *(negate(context, v) if isinstance(v, Gaussian) else -v for v in (x, y))))


def log_add_exp(context: Context, x: Any, y: Any) -> Gaussian:
    """`log(exp X + exp Y)`, elementwise, see `soft_max_of_two`."""
    return _of_two(context, x, y, soft_max_of_two)


def between(context: Context, x: Any, low: Any = None, high: Any = None) -> Gaussian:
    """`min(max(X, low), high)` with bounds for every element."""
    raised = x if low is None else maximum(context, x, low)
    return raised if high is None else minimum(context, raised, high)


def _reduced(
    context: Context, x: Gaussian, axes: Sequence[int], keepdim: bool, two: MomentsOfTwo = max_of_two
) -> Gaussian:
    """The largest, or its smooth form, over some axes: halved while there are many, the last four in every order."""
    shape, over = x.mean.shape, places(x.mean.dim(), axes)
    rows = row_axis(context.axis, len(shape), over, keepdim)
    rows = None if rows is None else rows - sum(p < rows for p in over)
    merge = partial(larger, Context(context.law, rows), two=two)
    x = together(x, over)
    x = bounded(x).value if two is soft_max_of_two else x
    while (size := x.mean.shape[-1]) not in PAIRINGS:
        left, right, odd = halves(x)
        pairs = merge(left, right)
        x = each([pairs, odd], lambda parts: torch.cat(list(parts), -1)) if size % 2 else pairs
    members = [every(x, partial(_member, place=i)) for i in range(size)]
    return reduced(average(over_pairings(members, merge)), shape, over, keepdim)


def _member(part: Tensor, place: int) -> Tensor:
    return part[..., place]


def largest(context: Context, x: Gaussian, axes: Sequence[int] = (), keepdim: bool = False) -> Gaussian:
    """The maximum over axes."""
    return _reduced(context, x, axes, keepdim)


def smallest(context: Context, x: Gaussian, axes: Sequence[int] = (), keepdim: bool = False) -> Gaussian:
    """The minimum over axes, `-max(-X)`."""
    return negate(context, largest(context, negate(context, x), axes, keepdim))


def largest_along(context: Context, x: Gaussian, axis: int, keepdim: bool = False) -> tuple[Gaussian, None]:
    """The maximum over one axis; its place is not explained."""
    return largest(context, x, (axis,), keepdim), None


def smallest_along(context: Context, x: Gaussian, axis: int, keepdim: bool = False) -> tuple[Gaussian, None]:
    """The minimum over one axis; its place is not explained."""
    return smallest(context, x, (axis,), keepdim), None


def log_sum_exp(context: Context, x: Gaussian, axes: Sequence[int], keepdim: bool = False) -> Gaussian:
    """`log sum exp X` over axes, from pairs, see `soft_max_of_two`; minus infinity where all of X is."""
    result = _reduced(context, x, axes, keepdim, soft_max_of_two)
    nothing = x.mean.isneginf().all(dim=places(x.mean.dim(), axes), keepdim=keepdim)
    return Gaussian(result.mean.masked_fill(nothing, -torch.inf), result.factors, result.rest)


def _owners(labels: Tensor, axes: Sequence[int] | int = (), keepdim: bool = False) -> Tensor | None:
    return sole_owner(labels, axes, keepdim)


def _owners_along(labels: Tensor, axis: int, keepdim: bool = False) -> tuple[Tensor, Tensor] | None:
    """Of the value and of its place, both known while one player owns them all."""
    owner = sole_owner(labels, axis, keepdim)
    return None if owner is None else (owner, owner)


def _one_bound(random: Sequence[int], args: Sequence[Any]) -> bool:
    """Clamped at one end, a value is the larger or smaller of two; at both, one of three."""
    return sum(bound is not None for bound in args[1:]) < 2


def _two(op: OpOverload, apply: Callable[..., Gaussian], *, exact: bool) -> None:
    RULES.add(Rule(op, exact, apply, positions=(0, 1), many=True))


_two(aten.maximum.default, maximum, exact=True)
_two(aten.minimum.default, minimum, exact=True)
_two(aten.fmax.default, maximum, exact=True)
_two(aten.fmin.default, minimum, exact=True)
_two(aten.logaddexp.default, log_add_exp, exact=False)
_two(aten.clamp_min.Tensor, maximum, exact=True)
_two(aten.clamp_max.Tensor, minimum, exact=True)
RULES.add(Rule(aten.clamp.Tensor, False, between, positions=(0, 1, 2), many=True, exact_if=_one_bound))
for _op, _apply in (
    (aten.amax.default, largest),
    (aten.amin.default, smallest),
    (aten.max.default, largest),
    (aten.min.default, smallest),
    (aten.logsumexp.default, log_sum_exp),
):
    RULES.add(Rule(_op, False, _apply, owners=_owners))
for _op, _along in ((aten.max.dim, largest_along), (aten.min.dim, smallest_along)):
    RULES.add(Rule(_op, False, _along, owners=_owners_along))
