"""Rules for sums, differences and products, with known numbers or of two random values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from ..gaussian import Gaussian
from .families import Context
from .registry import RULES, Rule

aten = torch.ops.aten


def _plus(x: Gaussian, y: Gaussian, scale: float) -> Gaussian:
    """`X + scale * Y`; exact but for the rests, which count as independent."""

    def add(a: Tensor, b: Tensor) -> Tensor:
        return a + scale * b

    factors = None
    if x.factors is not None and y.factors is not None:
        factors = torch.vmap(add)(x.factors, y.factors)
    return Gaussian(add(x.mean, y.mean), factors, x.rest + scale * scale * y.rest)


def _shifted(value: Gaussian, f: Callable[[Tensor], Tensor]) -> Gaussian:
    """The value plus a known number; loadings and variances follow its broadcast shape."""
    mean = f(value.mean)
    if mean.shape == value.mean.shape:
        return Gaussian(mean, value.factors, value.rest)
    return Gaussian(mean, value.map_factors(lambda part: part.expand(mean.shape)), value.rest.expand(mean.shape))


def scaled(value: Gaussian, f: Callable[[Tensor], Tensor]) -> Gaussian:
    """`c X` for a known factor: `f` is the multiplication by it; exact."""
    return Gaussian(f(value.mean), value.map_factors(f), f(f(value.rest)))


def add(context: Context, x: Any, y: Any, alpha: float = 1) -> Gaussian:
    """`X + alpha Y`; the same value twice is one operand."""
    if isinstance(x, Gaussian) and isinstance(y, Gaussian):
        return scaled(x, lambda part: part * (1 + alpha)) if x is y else _plus(x, y, alpha)
    if isinstance(x, Gaussian):
        return _shifted(x, lambda mean: mean + alpha * y)
    return _shifted(scaled(y, lambda part: part * alpha), lambda mean: x + mean)


def subtract(context: Context, x: Any, y: Any, alpha: float = 1) -> Gaussian:
    """`X - alpha Y`; the same value twice is one operand."""
    if isinstance(y, Gaussian):
        return add(context, x, y, alpha=-alpha)
    return _shifted(x, lambda mean: mean - alpha * y)


def reversed_subtract(context: Context, x: Gaussian, y: Any, alpha: float = 1) -> Gaussian:
    """`Y - alpha X` for a known Y."""
    return _shifted(scaled(x, lambda part: part * -alpha), lambda mean: y + mean)


def negate(context: Context, x: Gaussian) -> Gaussian:
    """`-X`; exact."""
    return Gaussian(-x.mean, None if x.factors is None else -x.factors, x.rest)


def square_of(x: Gaussian) -> Gaussian:
    """`X^2`: mean `m^2 + v`, variance `4 m^2 v + 2 v^2`, slope `2 m`; exact for Gaussian X."""
    m, v = x.mean, x.var
    factors = None if x.factors is None else 2 * m * x.factors
    return Gaussian(m.square() + v, factors, 4 * m.square() * x.rest + 2 * v.square())


def multiply(context: Context, x: Any, y: Any) -> Gaussian:
    """`X Y` for two random values with covariance c, or one known factor; exact for Gaussians.

    E = mx my + c,  L = mx Ly + my Lx,  Var = mx^2 vy + my^2 vx + vx vy + 2 mx my c + c^2  (Goodman, 1960, for c = 0).
    Of the variance, `mx^2 ry + my^2 rx + vx vy + c^2` is not explained by L, with r the rests.
    """
    if not isinstance(y, Gaussian):
        return scaled(x, lambda part: part * y)
    if not isinstance(x, Gaussian):
        return scaled(y, lambda part: x * part)
    if x is y:
        return square_of(x)
    c = x.covariance(y)
    factors = None
    if x.factors is not None and y.factors is not None:
        factors = torch.vmap(lambda lx, ly: x.mean * ly + y.mean * lx)(x.factors, y.factors)
    unexplained = x.mean.square() * y.rest + y.mean.square() * x.rest + x.var * y.var + c.square()
    return Gaussian(x.mean * y.mean + c, factors, unexplained)


def divide(context: Context, x: Gaussian, y: Any) -> Gaussian:
    """`X / c` for a known c; exact."""
    return scaled(x, lambda part: part / y)


def power(context: Context, x: Gaussian, exponent: float) -> Gaussian:
    """`X^2`, as a product of one operand with itself; exact for Gaussian X."""
    return square_of(x)


def _two(op: OpOverload, apply: Callable[..., Gaussian]) -> None:
    RULES.add(Rule(op, True, apply, positions=(0, 1), many=True))


_two(aten.add.Tensor, add)
_two(aten.sub.Tensor, subtract)
_two(aten.mul.Tensor, multiply)
for _op, _apply in (
    (aten.add.Scalar, add),
    (aten.sub.Scalar, subtract),
    (aten.mul.Scalar, multiply),
    (aten.div.Tensor, divide),
    (aten.div.Scalar, divide),
    (aten.rsub.Scalar, reversed_subtract),
    (aten.neg.default, negate),
    (aten.square.default, lambda context, x: square_of(x)),
):
    RULES.add(Rule(_op, True, _apply))
RULES.add(Rule(aten.pow.Tensor_Scalar, True, power, covers=lambda x, exponent: exponent == 2))
