"""Sums of exponentials of jointly Gaussian scores: for every score, the log-sum over all others.

Scores lie along the first axis of a value, so that each is a block of memory. Each log-sum counts as Gaussian.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..gaussian import Gaussian
from .logistic import soft_rectified


def against_others(scores: Gaussian) -> Gaussian:
    """`s_j - log sum of exp(s_k) over the others k`, for two scores or more along the first axis."""
    others = _of_others(scores)
    factors = None
    if scores.factors is not None and others.factors is not None:
        factors = scores.factors - others.factors
    return Gaussian(scores.mean - others.mean, factors, scores.rest + others.rest)


def _of_others(scores: Gaussian) -> Gaussian:
    """The log-sum over all others of every score: up a balanced tree of neighbours, and down again.

    Neighbours, so that scores behind the others which a mask has taken out do not change who is paired with whom.
    """
    levels = [scores]
    while (size := len(levels[-1].mean)) > 2:
        level, half = levels[-1], size // 2
        levels.append(_joined([added(*_pairs(level)), _part(level, 2 * half, size)]))
    others = _joined([_part(levels[-1], 1, 2), _part(levels[-1], 0, 1)])
    for level in reversed(levels[:-1]):
        size, half = len(level.mean), len(level.mean) // 2
        above = _part(others, 0, half)
        left, right = _pairs(level)
        first, second = added(above, right), added(above, left)
        others = _joined([_alternating(first, second), _part(others, half, size)])
    return others


def added(x: Gaussian, y: Gaussian) -> Gaussian:
    """`log(exp X + exp Y) = X + g(Y - X)`, g the softplus and X the one of larger mean, so that no digits are lost.

    With S, w, Q of `soft_rectified` for the difference, and v its variance, which is all that their loadings are squared in:
    mean `mx + S`, loadings `(1-w) Lx + w Ly`, variance `(1-w) vx + w vy - Q`, of which the loadings leave
    `(1-w)^2 rx + w^2 ry + (w (1-w) v - Q)`, with r the rests.
    """
    x_leads = x.mean >= y.mean
    gap = y.mean - x.mean
    v = x.rest + y.rest
    if x.factors is not None and y.factors is not None:
        v = v + (x.factors - y.factors).square().sum(0)
    # Both branches are smooth at a tie, as everything is symmetric in the gap; an absolute value is not.
    mean, slope, spared = soft_rectified(torch.where(x_leads, gap, -gap), v)
    of_x = torch.where(x_leads, 1 - slope, slope)
    factors = None
    if x.factors is not None and y.factors is not None:
        factors = torch.lerp(y.factors, x.factors, of_x.expand_as(x.factors))
    of_y = 1 - of_x
    rest = of_x.square() * x.rest + of_y.square() * y.rest + (of_x * of_y * v - spared).clamp(min=0)
    return Gaussian(torch.where(x_leads, x.mean, y.mean) + mean, factors, rest)


def _part(value: Gaussian, start: int, end: int) -> Gaussian:
    """Every score from `start` up to `end`."""
    if (start, end) == (0, len(value.mean)):
        return value
    factors = None if value.factors is None else value.factors[:, start:end]
    return Gaussian(value.mean[start:end], factors, value.rest[start:end])


def _pairs(value: Gaussian) -> tuple[Gaussian, Gaussian]:
    """Left and right of every pair of neighbours; one that is left over is left out."""
    half = len(value.mean) // 2
    even = _part(value, 0, 2 * half)
    mean, rest = (part.unflatten(0, (half, 2)).unbind(1) for part in (even.mean, even.rest))
    factors = (None, None) if even.factors is None else even.factors.unflatten(1, (half, 2)).unbind(2)
    return Gaussian(mean[0], factors[0], rest[0]), Gaussian(mean[1], factors[1], rest[1])


def _alternating(first: Gaussian, second: Gaussian) -> Gaussian:
    """One of the first, one of the second, and so on."""
    factors = None
    if first.factors is not None and second.factors is not None:
        factors = torch.stack((first.factors, second.factors), 2).flatten(1, 2)
    mean, rest = (torch.stack(parts, 1).flatten(0, 1) for parts in ((first.mean, second.mean), (first.rest, second.rest)))
    return Gaussian(mean, factors, rest)


def _joined(parts: Sequence[Gaussian]) -> Gaussian:
    """All of some scores, one after the other."""
    parts = [part for part in parts if len(part.mean)]
    factors = [part.factors for part in parts if part.factors is not None]
    return Gaussian(
        torch.cat([part.mean for part in parts]),
        torch.cat(factors, 1) if factors else None,
        torch.cat([part.rest for part in parts]),
    )
