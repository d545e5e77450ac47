"""Rules for softmax and log-softmax over jointly Gaussian scores: exact for two scores, approximate for more.

`softmax_j = sigmoid(d_j)` with `d_j = s_j - log sum of exp(s_k) over the others k`. The log-sums are built from pairs, up a
balanced tree and down again, so that every score gets the sum over all others in 2 log2(C) steps. Each pair is treated as
two Gaussians, and its log-sum counts as Gaussian again (`rules.logsums`). Where asked for, all of it is done in both states of
the player that dominates a row of scores (in attention, mostly the one whose query it is), and the last step in both states of
the player that moves a score most against the others (the one whose key it is).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..gaussian import Gaussian
from ..special import Moments
from .activations import log_sigmoid, sigmoid
from .dominant import in_both_states
from .families import Context, pointwise
from .logistic import logistic_share
from .logsums import against_others
from .parts import every, sole_owner, times
from .registry import RULES, Rule

aten = torch.ops.aten

LEVEL = 1e4
"""Scores this far below the largest count as that far below it: nothing is left of them in any sum."""

Dtype = torch.dtype | bool | None
"""The third argument: a dtype, or the flag of `_softmax` that half precision becomes single."""


@dataclass(frozen=True)
class Scores:
    """Scores along the last axis, none of them far below the largest.

    Attributes:
        value: the scores, raised where they were too low, (*b, C).
        below: what they were raised by, 0 or negative, (*b, C).
    """

    value: Gaussian
    below: Tensor


def bounded(scores: Gaussian) -> Scores:
    """Raise what a mask has taken out, by minus infinity or a large negative number, to a level that can be added.

    Such scores have no variance: next to the number it is rounded away.
    """
    mean = scores.mean.detach()
    top = mean.amax(-1, keepdim=True)
    level = (top.masked_fill(top.isneginf(), 0.0) - LEVEL).expand_as(mean)
    low = mean < level
    value = Gaussian(scores.mean.where(~low, level), scores.factors, scores.rest)
    below = (scores.mean - level).where(low, torch.zeros_like(level))
    masked = mean < -0.1 * torch.finfo(torch.float32).max
    if bool(masked.any()):
        factors = None if scores.factors is None else scores.factors.masked_fill(masked, 0.0)
        value = Gaussian(value.mean, factors, scores.rest.masked_fill(masked, 0.0))
    return Scores(value, below)


def softmax(context: Context, value: Gaussian, axis: int, dtype: Dtype = None) -> Gaussian:
    """`exp(s_j) / sum exp(s)`, as the sigmoid of `d_j`; 0 in a row that is masked as a whole.

    Shares add up to one: what the sums of their means and of their loadings lack is spread over them by `E (1 - E)`.
    """
    axis = axis % value.mean.dim() - value.mean.dim()
    scores = bounded(_last(value, dtype, axis))
    if scores.value.mean.shape[-1] == 1:
        none = times(scores.value, 0.0)
        shares = Gaussian(none.mean + 1, none.factors, none.rest)
    else:
        function = sigmoid if scores.value.mean.shape[-1] == 2 else logistic_share
        shares = _adding_up(_of_contrasts(context, scores.value, axis, function))
    shares = Gaussian(shares.mean.masked_fill(scores.below.isneginf(), 0.0), shares.factors, shares.rest)
    return every(shares, lambda part: part.movedim(-1, axis))


def log_softmax(context: Context, value: Gaussian, axis: int, dtype: Dtype = None) -> Gaussian:
    """`s_j - log sum exp(s)`, as the log-sigmoid of `d_j`."""
    axis = axis % value.mean.dim() - value.mean.dim()
    scores = bounded(_last(value, dtype, axis))
    if scores.value.mean.shape[-1] == 1:
        result = times(scores.value, 0.0)
    else:
        result = _of_contrasts(context, scores.value, axis, log_sigmoid)
    result = Gaussian(result.mean + scores.below, result.factors, result.rest)
    return every(result, lambda part: part.movedim(-1, axis))


def _last(value: Gaussian, dtype: Dtype, axis: int) -> Gaussian:
    """The scores in the dtype asked for, their axis last."""
    to = dtype if isinstance(dtype, torch.dtype) else value.mean.dtype
    return every(value, lambda part: part.to(to).movedim(axis, -1))


def _of_contrasts(
    context: Context, scores: Gaussian, axis: int, function: Callable[[Tensor, Tensor], Moments]
) -> Gaussian:
    """A function of the differences of all scores, now along the last axis, to the log-sums of the others."""
    place = axis + scores.mean.dim()
    rows = None if context.axis is None else context.axis - (place < context.axis)

    def of_rows(value: Gaussian) -> Gaussian:
        dims = value.mean.dim()
        inner = Context(context.law, None if rows is None else rows + 1 + dims - scores.mean.dim())
        first = every(value, lambda part: part.movedim(-1, -dims))
        contrast = against_others(first)
        return every(pointwise(inner, contrast, function), lambda part: part.movedim(-dims, -1))

    if scores.mean.shape[-1] == 2:  # there is nothing to build
        return of_rows(scores)
    return in_both_states(context.law, rows, scores, of_rows)


def _adding_up(shares: Gaussian) -> Gaussian:
    """Shares whose means add up to 1 along the last axis, and whose loadings to 0."""
    weight = (shares.mean * (1 - shares.mean)).clamp(min=0)
    total = weight.sum(-1, keepdim=True)
    some = total > torch.finfo(total.dtype).tiny ** 0.5
    weight = weight.where(some, torch.zeros_like(weight)) / total.where(some, torch.ones_like(total))
    mean = shares.mean + weight * (1 - shares.mean.sum(-1, keepdim=True))
    factors = None
    if shares.factors is not None:
        factors = shares.factors - weight * shares.factors.sum(-1, keepdim=True)
    return Gaussian(mean, factors, shares.rest)


def halves(value: Gaussian) -> tuple[Gaussian, Gaussian, Gaussian]:
    """First and second of every pair along the last axis, and what is left without a partner."""
    even = value.mean.shape[-1] // 2 * 2
    return (
        every(value, lambda part: part[..., 0:even:2]),
        every(value, lambda part: part[..., 1:even:2]),
        every(value, lambda part: part[..., even:]),
    )


def _owners(labels: Tensor, axis: int, dtype: Dtype = None) -> Tensor | None:
    """The one player who owns a whole slice, None if two players meet in one."""
    owner = sole_owner(labels, axis, True)
    return None if owner is None else owner.expand_as(labels)


for _op, _apply in (
    (aten.softmax.int, softmax),
    (aten._softmax.default, softmax),
    (aten.log_softmax.int, log_softmax),
    (aten._log_softmax.default, log_softmax),
):
    RULES.add(Rule(_op, False, _apply, owners=_owners))
