"""The larger of two random values, which maxima over many and sums of exponentials are built from."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..gaussian import Gaussian
from .activations import softplus
from .clark import MaxMoments, max_of_two
from .dominant import dominant
from .families import Context

MomentsOfTwo = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], MaxMoments]
"""Mean, variance and weight of the first, from two means, two variances and their covariance."""


def soft_max_of_two(ma: Tensor, mb: Tensor, va: Tensor, vb: Tensor, c: Tensor) -> MaxMoments:
    """`log(exp A + exp B) = B + softplus(A - B)` for jointly Gaussian A and B, as exact as the quadrature of softplus.

    With `t^2 = va + vb - 2c`, S, V, w mean, variance and mean slope of the softplus of N(ma - mb, t^2):
    E = mb + S,  Var = w va + (1-w) vb - (w t^2 - V),  loadings w La + (1-w) Lb.
    """
    t2 = (va + vb - 2 * c).clamp(min=0)
    part = softplus(ma - mb, t2)
    w = part.slope
    var = torch.lerp(vb, va, w) - (w * t2 - part.var)
    return MaxMoments(mb + part.mean, var.clamp(min=0), w)


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
    vx, vy = (v.rest + top.without(v.factors.square()) for v in (x, y) if v.factors is not None)
    c = (x.factors * y.factors).sum(0) - load_x * load_y
    result = two(*means, *(part.expand_as(means[0]) for part in (vx, vy, c)))
    others = torch.lerp(y.factors, x.factors, top.mean(result.weight).expand_as(x.mean))
    rest = (top.mean(result.var) - top.without(others.square())).clamp(min=0)
    return Gaussian(top.mean(result.mean), top.factors(others, result.mean), rest)
