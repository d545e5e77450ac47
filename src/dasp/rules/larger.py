"""The larger of two random values, which maxima over many and sums of exponentials are built from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..gaussian import Gaussian
from .activations import softplus
from .clark import MaxMoments, max_of_two
from .dominant import dominant
from .families import Context

Member = TypeVar("Member")

PAIRINGS = {  # every way to pair up a few members, as trees of places
    1: (0,),
    2: ((0, 1),),
    3: (((0, 1), 2), ((0, 2), 1), ((1, 2), 0)),
    4: (((0, 1), (2, 3)), ((0, 2), (1, 3)), ((0, 3), (1, 2))),
}

MomentsOfTwo = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], MaxMoments]
"""Mean, variance and weight of the first, from two means, two variances and their covariance."""


def soft_max_of_two(ma: Tensor, mb: Tensor, va: Tensor, vb: Tensor, c: Tensor) -> MaxMoments:
    """`log(exp A + exp B)` for jointly Gaussian A and B, as exact as the quadrature of softplus.

    It is `A + softplus(B - A)`; let A be the one with the larger mean, so that no digits are lost beside a B far below. With
    `t^2 = va + vb - 2c`, S, V and w' mean, variance and mean slope of the softplus of N(mb - ma, t^2), and w = 1 - w':
    E = ma + S,  Var = w va + (1-w) vb - (w' t^2 - V),  loadings w La + (1-w) Lb.
    """
    t2 = (va + vb - 2 * c).clamp(min=0)
    first = ma >= mb
    part = softplus(torch.where(first, mb - ma, ma - mb), t2)
    w = torch.where(first, 1 - part.slope, part.slope)
    var = torch.lerp(vb, va, w) - (part.slope * t2 - part.var)
    return MaxMoments(torch.where(first, ma, mb) + part.mean, var.clamp(min=0), w)


def larger(context: Context, x: Gaussian, y: Gaussian, two: MomentsOfTwo = max_of_two) -> Gaussian:
    """`max(X, Y)`, or a smooth form of it; the result counts as Gaussian.

    Conditioned on the player that moves the difference of X and Y most, where asked for.

    Args:
        context: of the operation, with the batch axis of X.
        x: one value.
        y: the other.
        two: mean, variance and weight of the maximum of two Gaussians from their means, variances and covariance.
    """
    if x.factors is None or y.factors is None:
        result = two(x.mean, y.mean, x.rest, y.rest, torch.zeros_like(x.rest))
        return Gaussian(result.mean, None, result.var)
    top = dominant(context.law, context.axis, (x.factors - y.factors).square())
    if top is None:
        result = two(x.mean, y.mean, x.var, y.var, x.covariance(y))
        factors = torch.lerp(y.factors, x.factors, result.weight.expand_as(x.mean))
        return Gaussian(result.mean, factors, (result.var - factors.square().sum(0)).clamp(min=0))
    load_x, load_y = top.load(x.factors), top.load(y.factors)
    means = x.mean + top.steps(load_x), y.mean + top.steps(load_y)
    vx, vy = x.rest + top.without(x.factors, load_x), y.rest + top.without(y.factors, load_y)
    c = (x.factors * y.factors).sum(0) - load_x * load_y
    result = two(*means, *(part.expand_as(means[0]) for part in (vx, vy, c)))
    others = torch.lerp(y.factors, x.factors, top.mean(result.weight).expand_as(x.mean))
    largest = top.largest(others)
    rest = (top.mean(result.var) - top.without(others, largest * top.single)).clamp(min=0)
    return Gaussian(top.mean(result.mean), top.factors(others, largest, result.mean), rest)


def over_pairings(members: Sequence[Member], merge: Callable[[Member, Member], Member]) -> list[Member]:
    """Members merged two by two: up to four of them in every way there is, more along one balanced tree.

    How values are paired matters to an approximation. The mean over all ways does not depend on their order.
    """
    found: dict[Any, Member] = dict(enumerate(members))
    return [_merged(tree, found, merge) for tree in PAIRINGS.get(len(members)) or [_balanced(range(len(members)))]]


def _merged(tree: Any, found: dict[Any, Member], merge: Callable[[Member, Member], Member]) -> Member:
    """The result along a tree, each pair once."""
    if tree not in found:
        left, right = (_merged(branch, found, merge) for branch in tree)
        found[tree] = merge(left, right)
    return found[tree]


def _balanced(places: Sequence[Any]) -> Any:
    """A balanced tree of pairs of neighbours."""
    while len(places) > 1:
        odd = places[-1:] if len(places) % 2 else []
        places = [*zip(places[::2], places[1::2], strict=False), *odd]
    return places[0]


def average(values: Sequence[Gaussian]) -> Gaussian:
    """Mean of the moments that several ways to the same value give."""
    if len(values) == 1:
        return values[0]

    def mean(parts: Sequence[Tensor]) -> Tensor:
        return sum(parts[1:], parts[0]) / len(parts)

    factors = [value.factors for value in values if value.factors is not None]
    return Gaussian(
        mean([value.mean for value in values]), mean(factors) if factors else None, mean([value.rest for value in values])
    )
