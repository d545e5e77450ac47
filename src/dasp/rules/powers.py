"""Rules for powers, roots, logarithms and quotients.

Whole powers and exponentials of a Gaussian are exact. Roots, inverses and logarithms are not defined for a Gaussian, which has
values of both signs: their argument counts as lognormal instead, of its mean and variance and of its mean's sign. Where the
spread is small against the mean both are the same; where the mean of a root or logarithm is not positive, the result is not a
number, and refused.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..gaussian import Gaussian
from ..special import Moments
from .activations import exp
from .arithmetic import add, multiply, scaled, square
from .families import Context, elementwise, pointwise
from .parts import times
from .registry import RULES, Rule

aten = torch.ops.aten

MOST = 8
"""The highest whole power with a rule."""


def whole_power(m: Tensor, v: Tensor, p: int) -> Moments:
    """`X^p` for p = 1, 2, ...; exact. By Hermite's expansion, with `g_k = E[d^k/dx^k X^p]`:

    E = g_0,  Var = sum over k >= 1 of v^k g_k^2 / k!,  E g' = g_1,  E X^j = sum_i j! / ((j - 2i)! i! 2^i) m^(j - 2i) v^i.
    """

    def moment(j: int) -> Tensor:
        terms = [
            math.factorial(j) / (math.factorial(j - 2 * i) * math.factorial(i) * 2**i) * m ** (j - 2 * i) * v**i
            for i in range(j // 2 + 1)
        ]
        return torch.stack(terms).sum(0)

    derivatives = [math.factorial(p) / math.factorial(p - k) * moment(p - k) for k in range(p + 1)]
    var = torch.stack([v**k * derivatives[k].square() / math.factorial(k) for k in range(1, p + 1)]).sum(0)
    return Moments(derivatives[0], var, derivatives[1])


def _relative(m: Tensor, v: Tensor) -> Tensor:
    """`log(1 + v / m^2)`, the variance of the logarithm."""
    return torch.log1p(v / m.square())


def growth(c: Tensor, p: float | Tensor) -> Tensor:
    """`(exp(p c) - 1) / (exp(c) - 1)` for c >= 0, by its series `p (1 + (p-1) c/2 + (p-1)(2p-1) c^2/12)` near 0."""
    near = c < torch.finfo(c.dtype).eps ** 0.25
    far = c.where(~near, torch.ones_like(c))
    series = p * (1 + (p - 1) * c * (0.5 + (2 * p - 1) / 12 * c))
    return torch.where(near, series, torch.expm1(p * far) / torch.expm1(far))


def lognormal_power(m: Tensor, v: Tensor, p: float | Tensor) -> Moments:
    """`X^p` for a lognormal X; with `c = log(1 + v/m^2)`:

    E = m^p exp(p (p-1) c / 2),  Var = E^2 (exp(p^2 c) - 1),  Cov(X^p, X) = m E (exp(p c) - 1).
    """
    c = _relative(m, v)
    mean = m**p * torch.exp(p * (p - 1) / 2 * c)
    return Moments(mean, mean.square() * torch.expm1(p * p * c), mean / m * growth(c, p))


@elementwise(aten.sqrt.default, exact=False, pole=0.0)
def square_root(m: Tensor, v: Tensor) -> Moments:
    """`sqrt(X)`, see `lognormal_power`; 0 where X is 0 for certain."""
    zero = (m == 0) & (v == 0)
    part = lognormal_power(m.where(~zero, torch.ones_like(m)), v, 0.5)
    none = torch.zeros_like(m)
    return Moments(part.mean.where(~zero, none), part.var.where(~zero, none), part.slope.where(~zero, none))


@elementwise(aten.rsqrt.default, exact=False, pole=0.0)
def inverse_root(m: Tensor, v: Tensor) -> Moments:
    """`1 / sqrt(X)`, see `lognormal_power`."""
    return lognormal_power(m, v, -0.5)


@elementwise(aten.reciprocal.default, exact=False, pole=0.0)
def inverse(m: Tensor, v: Tensor) -> Moments:
    """`1 / X`, for X of either sign, see `lognormal_power`."""
    return lognormal_power(m, v, -1.0)


@elementwise(aten.log.default, exact=False, pole=0.0)
def logarithm(m: Tensor, v: Tensor) -> Moments:
    """`log X` for a lognormal X: `E = log m - c/2`, `Var = c = log(1 + v/m^2)`, `Cov(log X, X) = m c`."""
    c = _relative(m, v)
    near = c < torch.finfo(c.dtype).eps ** 0.25
    far = c.where(~near, torch.ones_like(c))
    share = torch.where(near, 1 - c / 2 + c.square() / 12, far / torch.expm1(far))
    return Moments(torch.log(m) - c / 2, c, share / m)


def _log_in(base: float, m: Tensor, v: Tensor) -> Moments:
    part, scale = logarithm(m, v), 1 / math.log(base)
    return Moments(part.mean * scale, part.var * scale**2, part.slope * scale)


@elementwise(aten.log2.default, exact=False, pole=0.0)
def log_2(m: Tensor, v: Tensor) -> Moments:
    """`log X / log 2`."""
    return _log_in(2.0, m, v)


@elementwise(aten.log10.default, exact=False, pole=0.0)
def log_10(m: Tensor, v: Tensor) -> Moments:
    """`log X / log 10`."""
    return _log_in(10.0, m, v)


@elementwise(aten.log1p.default, exact=False, pole=-1.0)
def log_1p(m: Tensor, v: Tensor) -> Moments:
    """`log(1 + X)`."""
    part = logarithm(1 + m, v)
    return Moments(torch.log1p(m) - part.var / 2, part.var, part.slope)


def power(context: Context, x: Gaussian, exponent: float) -> Gaussian:
    """`X^p`: exact for whole p of 0 to 8, see `whole_power`; else `lognormal_power`."""
    if exponent == 0:
        none = times(x, 0.0)
        return Gaussian(torch.ones_like(none.mean), none.factors, none.rest)
    if exponent == 2:
        return square(context, x)
    if exponent == 0.5:
        return pointwise(context, x, square_root, pole=0.0)
    if exponent == int(exponent) and 1 <= exponent <= MOST:
        return pointwise(context, x, lambda m, v: whole_power(m, v, int(exponent)))
    return pointwise(context, x, lambda m, v: lognormal_power(m, v, float(exponent)), pole=0.0)


def _power_covers(x: Any, exponent: float) -> bool:
    return not (exponent == int(exponent) and exponent > MOST)


def _whole(random: Sequence[int], args: Sequence[Any]) -> bool:
    """Whole powers are exact, roots and inverses of a Gaussian do not exist."""
    exponent: float = args[1]
    return exponent == int(exponent) and 0 <= exponent <= MOST


def _base_known(random: Sequence[int], args: Sequence[Any]) -> bool:
    """`a^X` is exact; of `X^y` the plan does not know the values of y."""
    return list(random) == [1]


def _divisor_known(random: Sequence[int], args: Sequence[Any]) -> bool:
    """`X / c` is exact, `1 / X` is not."""
    return list(random) == [0]


def exponential(context: Context, base: Any, x: Gaussian) -> Gaussian:
    """`a^X = exp(X log a)` for known a > 0; exact. Of 0 and of negative a it is not a number."""
    return pointwise(context, scaled(x, lambda part: part * torch.log(torch.as_tensor(base, dtype=part.dtype))), exp)


def any_power(context: Context, x: Any, y: Any) -> Gaussian:
    """`X^Y`: for a known Y see `power`, for a known X `exponential`, else `exp(Y log X)`."""
    if not isinstance(x, Gaussian):
        return exponential(context, x, y)
    if isinstance(y, Gaussian):
        rows = None if context.axis is None else _aligned(context.axis, x, y)
        logarithms = pointwise(Context(context.law, rows), x, logarithm, pole=0.0)
        return pointwise(context, multiply(context, y, logarithms), exp)
    exponents = y.unique()
    if exponents.numel() == 1 and _power_covers(x, float(exponents)):
        return power(context, add(context, x, torch.zeros_like(y)), float(exponents))
    return pointwise(context, add(context, x, torch.zeros_like(y)), lambda m, v: lognormal_power(m, v, y), pole=0.0)


def _aligned(axis: int, x: Gaussian, y: Gaussian) -> int:
    """Batch axis of x, given that of an elementwise result of x and y."""
    return axis - max(0, y.mean.dim() - x.mean.dim())


def quotient(context: Context, x: Any, y: Any) -> Gaussian:
    """`X / Y`: exact for a known Y; else the product of X and `1 / Y`."""
    if not isinstance(y, Gaussian):
        return scaled(x, lambda part: part / y)
    if x is y:
        none = times(y, 0.0)
        return Gaussian(torch.ones_like(none.mean), none.factors, none.rest)
    dims = x.mean.dim() if isinstance(x, Gaussian) else x.dim() if isinstance(x, Tensor) else 0
    rows = None if context.axis is None else context.axis - max(0, dims - y.mean.dim())
    return multiply(context, x, pointwise(Context(context.law, rows), y, inverse, pole=0.0))


def _same_owner(labels: Tensor, *args: Any) -> Tensor:
    return labels


RULES.add(Rule(aten.pow.Tensor_Scalar, False, power, owners=_same_owner, covers=_power_covers, exact_if=_whole))
RULES.add(Rule(aten.pow.Scalar, True, exponential, positions=(1,)))
RULES.add(Rule(aten.pow.Tensor_Tensor, False, any_power, positions=(0, 1), many=True, exact_if=_base_known))
RULES.add(Rule(aten.div.Tensor, False, quotient, positions=(0, 1), many=True, exact_if=_divisor_known))
