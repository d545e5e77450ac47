"""Rules for softmax and log-softmax over jointly Gaussian scores: exact for two scores, approximate for more.

`softmax_j = sigmoid(d_j)` with `d_j = s_j - log sum of exp(s_k) over the others k`. The log-sums are built from pairs, up a
balanced tree and down again, so that every score gets the sum over all others in 2 log2(C) steps. Each pair is treated as
two Gaussians, and its log-sum counts as Gaussian again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..gaussian import Gaussian
from ..special import Moments
from .activations import log_sigmoid, sigmoid
from .families import Context, pointwise
from .larger import larger, soft_max_of_two
from .registry import RULES, Rule

aten = torch.ops.aten

MASKED = -1e4
"""Stands in for a score of minus infinity: nothing is left of it in any sum."""

Dtype = torch.dtype | bool | None
"""The third argument: a dtype, or the flag of `_softmax` that half precision becomes single."""


def softmax(context: Context, value: Gaussian, axis: int, dtype: Dtype = None) -> Gaussian:
    """`exp(s_j) / sum exp(s)`, as the sigmoid of `d_j`."""
    return _of_contrasts(context, value, axis, dtype, sigmoid, 0.0)


def log_softmax(context: Context, value: Gaussian, axis: int, dtype: Dtype = None) -> Gaussian:
    """`s_j - log sum exp(s)`, as the log-sigmoid of `d_j`."""
    return _of_contrasts(context, value, axis, dtype, log_sigmoid, -torch.inf)


def _of_contrasts(
    context: Context,
    value: Gaussian,
    axis: int,
    dtype: Dtype,
    function: Callable[[Tensor, Tensor], Moments],
    masked_result: float,
) -> Gaussian:
    axis = axis % value.mean.dim()
    scores = _each([value], lambda part: _cast(part[0], dtype).movedim(axis - value.mean.dim(), -1))
    masked = scores.mean.isneginf()
    scores = Gaussian(scores.mean.masked_fill(masked, MASKED), scores.factors, scores.rest)
    rows = None if context.axis is None else context.axis - (axis < context.axis)
    context = Context(context.law, rows)
    if scores.mean.shape[-1] == 1:  # a share of one: 1, or 0 in logarithms
        ones = torch.ones_like(scores.mean) if masked_result == 0.0 else torch.zeros_like(scores.mean)
        result = Gaussian(ones, None if scores.factors is None else scores.factors * 0, scores.rest * 0)
    else:
        others = _sums_of_others(context, scores)
        contrast = Gaussian(
            scores.mean - others.mean,
            None if scores.factors is None or others.factors is None else scores.factors - others.factors,
            scores.rest + others.rest,
        )
        result = pointwise(context, contrast, function)
    result = Gaussian(result.mean.masked_fill(masked, masked_result), result.factors, result.rest)
    return _each([result], lambda part: part[0].movedim(-1, axis - value.mean.dim()))


def _cast(part: Tensor, dtype: Dtype) -> Tensor:
    return part.to(dtype) if isinstance(dtype, torch.dtype) else part


def _each(values: Sequence[Gaussian], f: Callable[[Sequence[Tensor]], Tensor]) -> Gaussian:
    """`f` of the means, of the factors and of the rests; it must count axes from the end."""
    factors = [v.factors for v in values if v.factors is not None]
    return Gaussian(
        f([v.mean for v in values]), f(factors) if len(factors) == len(values) else None, f([v.rest for v in values])
    )


def _sums_of_others(context: Context, scores: Gaussian) -> Gaussian:
    """For every score along the last axis, `log sum exp` of all the others."""
    levels = [scores]
    while (size := levels[-1].mean.shape[-1]) > 1:
        left, right, odd = _halves(levels[-1])
        pairs = larger(context, left, right, soft_max_of_two)
        levels.append(pairs if size % 2 == 0 else _each([pairs, odd], lambda parts: torch.cat(list(parts), -1)))
    others: Gaussian | None = None  # of the root: nobody
    for level in reversed(levels[:-1]):
        left, right, _ = _halves(level)
        if others is None:
            of_left, of_right, rest = right, left, None
        else:
            above, rest = _cut(others, left.mean.shape[-1])
            of_left, of_right = (larger(context, above, sibling, soft_max_of_two) for sibling in (right, left))
        others = _each([of_left, of_right], lambda parts: torch.stack(list(parts), -1).flatten(-2))
        if rest is not None and rest.mean.shape[-1]:
            others = _each([others, rest], lambda parts: torch.cat(list(parts), -1))
    assert others is not None  # there are two scores at least
    return others


def _halves(value: Gaussian) -> tuple[Gaussian, Gaussian, Gaussian]:
    """First and second of every pair along the last axis, and what is left without a partner."""
    even = value.mean.shape[-1] // 2 * 2
    return (
        _each([value], lambda part: part[0][..., 0:even:2]),
        _each([value], lambda part: part[0][..., 1:even:2]),
        _each([value], lambda part: part[0][..., even:]),
    )


def _cut(value: Gaussian, size: int) -> tuple[Gaussian, Gaussian]:
    return _each([value], lambda part: part[0][..., :size]), _each([value], lambda part: part[0][..., size:])


def _owners(labels: Tensor, axis: int, dtype: Dtype = None) -> Tensor | None:
    """The one player who owns a whole slice, None if two players meet in one."""
    owner = labels.amax(axis, keepdim=True)
    if bool(((labels > 0) & (labels != owner)).any()):
        return None
    return owner.expand_as(labels)


for _op, _apply in (
    (aten.softmax.int, softmax),
    (aten._softmax.default, softmax),
    (aten.log_softmax.int, log_softmax),
    (aten._log_softmax.default, log_softmax),
):
    RULES.add(Rule(_op, False, _apply, owners=_owners))
