"""Products of two random values summed over an index: matrix products, batched or not (`rules.linear` has known ones)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..gaussian import Gaussian
from .dominant import skewness
from .families import Context

Bilinear = Callable[[Tensor, Tensor], Tensor]


def contraction(
    x: Gaussian | Tensor, y: Gaussian | Tensor, f: Bilinear, context: Context | None = None
) -> Gaussian:
    """`Z = f(X, Y) = sum_j X_j Y_j` for jointly Gaussian X and Y; exact where one of them is known.

    E Z = f(mx, my) + sum_r f(Lx_r, Ly_r),   L_r = f(Lx_r, my) + f(mx, Ly_r),
    Var Z = sum_r L_r^2 + f(mx^2, ry) + f(rx, my^2) + f(vx, vy)

    with r the rests and v the variances. Mean and loadings are exact where the rests of X and Y are independent. Of the
    variance of the products of two noises, `sum_rs (M_rs^2 + M_rs M_sr)` with `M_rs = f(Lx_r, Ly_s)` over all pairs of
    factors, the last term keeps what independent summands would have. Where a context is given, factors are players, and
    conditioning is asked for, L gains `k_r M_rr`, with k from `skewness`: of a player's own products nothing is lost.
    """
    if not isinstance(x, Gaussian):
        assert isinstance(y, Gaussian)
        return _with_known(y, lambda part: f(x, part), lambda part: f(x.square(), part))
    if not isinstance(y, Gaussian):
        return _with_known(x, lambda part: f(part, y), lambda part: f(part, y.square()))
    mean = f(x.mean, y.mean)
    rest = f(x.mean.square(), y.rest) + f(x.rest, y.mean.square()) + f(x.var, y.var)
    if x.factors is None or y.factors is None:
        return Gaussian(mean, None, rest)
    shared = torch.vmap(f)(x.factors, y.factors)
    mean = mean + shared.sum(0)
    factors = torch.vmap(lambda lx, ly: f(lx, y.mean) + f(x.mean, ly))(x.factors, y.factors)
    skew = None if context is None else skewness(context.law, context.axis, factors)
    if skew is not None:
        factors = factors + skew * shared
    return Gaussian(mean, factors, rest)


def _with_known(value: Gaussian, f: Callable[[Tensor], Tensor], squared: Callable[[Tensor], Tensor]) -> Gaussian:
    return Gaussian(f(value.mean), value.map_factors(f), squared(value.rest))
