"""Rules for sums, differences and products, with known numbers or of two random values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from ..gaussian import Gaussian
from .dominant import skewness
from .families import Context
from .registry import RULES, Rule

aten = torch.ops.aten


def _shifted(value: Gaussian, f: Callable[[Tensor], Tensor]) -> Gaussian:
    """The value plus a known number; loadings and variances follow its broadcast shape."""
    mean = f(value.mean)
    if mean.shape == value.mean.shape:
        return Gaussian(mean, value.factors, value.rest)
    return Gaussian(mean, value.map_factors(lambda part: part.expand(mean.shape)), value.rest.expand(mean.shape))


def scaled(value: Gaussian, f: Callable[[Tensor], Tensor]) -> Gaussian:
    """`c X` for a known factor: `f` is the multiplication by it; exact."""
    return Gaussian(f(value.mean), value.map_factors(f), f(f(value.rest)))


def plus(x: Any, y: Any, scale: float) -> Gaussian:
    """`X + scale * Y`, one of them random or both; exact but for the rests, which count as independent."""

    def sum_of(a: Tensor, b: Tensor) -> Tensor:
        return a + scale * b

    if not isinstance(y, Gaussian):
        return _shifted(x, lambda mean: mean + scale * y)
    if not isinstance(x, Gaussian):
        return _shifted(scaled(y, lambda part: part * scale), lambda mean: x + mean)
    factors = None
    if x.factors is not None and y.factors is not None:
        factors = torch.vmap(sum_of)(x.factors, y.factors)
    return Gaussian(sum_of(x.mean, y.mean), factors, x.rest + scale * scale * y.rest)


def add(context: Context, x: Any, y: Any, alpha: float = 1) -> Gaussian:
    """`X + alpha Y`; the same value twice is one operand."""
    return scaled(x, lambda part: part * (1 + alpha)) if x is y else plus(x, y, alpha)


def subtract(context: Context, x: Any, y: Any, alpha: float = 1) -> Gaussian:
    """`X - alpha Y`; the same value twice is one operand."""
    return add(context, x, y, alpha=-alpha)


def reversed_subtract(context: Context, x: Gaussian, y: Any, alpha: float = 1) -> Gaussian:
    """`Y - alpha X` for a known Y."""
    return _shifted(scaled(x, lambda part: part * -alpha), lambda mean: y + mean)


def negate(context: Context, x: Gaussian) -> Gaussian:
    """`-X`; exact."""
    return Gaussian(-x.mean, None if x.factors is None else -x.factors, x.rest)


def square_of(x: Gaussian, skew: Tensor | None = None) -> Gaussian:
    """`X^2`: mean `m^2 + v`, variance `4 m^2 v + 2 v^2`, slope `2 m`; exact for Gaussian X.

    With the `skewness` k of factors that are players, exact for these: loadings gain `k L^2`, and `2 sum L^4` of the
    variance is explained.
    """
    m, v = x.mean, x.var
    rest = 4 * m.square() * x.rest + 2 * v.square()
    if x.factors is None:
        return Gaussian(m.square() + v, None, rest)
    factors = 2 * m * x.factors
    if skew is not None:
        square = x.factors.square()
        factors, rest = factors + skew * square, (rest - 2 * square.square().sum(0)).clamp(min=0)
    return Gaussian(m.square() + v, factors, rest)


def square(context: Context, x: Gaussian) -> Gaussian:
    """`X^2`, see `square_of`."""
    return square_of(x, None if x.factors is None else skewness(context.law, context.axis, x.factors))


def multiply(context: Context, x: Any, y: Any) -> Gaussian:
    """`X Y` for two random values with covariance c, or one known factor; exact for Gaussians.

    E = mx my + c,  L = mx Ly + my Lx,  Var = mx^2 vy + my^2 vx + vx vy + 2 mx my c + c^2  (Goodman, 1960, for c = 0).
    Of the variance, `mx^2 ry + my^2 rx + vx vy + c^2` is not explained by L, with r the rests.

    Where factors are players and conditioning is asked for, the product is exact for them too: L gains `k Lx Ly`, with k
    from `skewness`, and `2 sum (Lx Ly)^2` of the variance is explained.
    """
    if not isinstance(y, Gaussian):
        return scaled(x, lambda part: part * y)
    if not isinstance(x, Gaussian):
        return scaled(y, lambda part: x * part)
    if x is y:
        return square(context, x)
    unexplained = x.mean.square() * y.rest + y.mean.square() * x.rest + x.var * y.var
    if x.factors is None or y.factors is None:
        return Gaussian(x.mean * y.mean, None, unexplained)
    shared = torch.vmap(torch.mul)(x.factors, y.factors)
    c = shared.sum(0)
    factors = torch.vmap(lambda lx, ly: x.mean * ly + y.mean * lx)(x.factors, y.factors)
    unexplained = unexplained + c.square()
    skew = skewness(context.law, context.axis, factors)
    if skew is not None:
        factors = factors + skew * shared
        unexplained = (unexplained - 2 * shared.square().sum(0)).clamp(min=0)
    return Gaussian(x.mean * y.mean + c, factors, unexplained)


def interpolated(context: Context, x: Any, y: Any, weight: Any) -> Gaussian:
    """`X + w (Y - X)` (`lerp`), w a number, a tensor or random itself."""

    def part(value: Any, share: Any) -> Any:
        return scaled(value, lambda p: p * share) if isinstance(value, Gaussian) else value * share

    if not isinstance(weight, Gaussian):
        return plus(part(x, 1 - weight), part(y, weight), 1.0)
    if not isinstance(x, Gaussian) and not isinstance(y, Gaussian):
        return plus(scaled(weight, lambda p: p * (y - x)), x, 1.0)
    return plus(x, multiply(context, weight, subtract(context, y, x)), 1.0)


def divide(context: Context, x: Gaussian, y: float) -> Gaussian:
    """`X / c` for a known c; exact."""
    return scaled(x, lambda part: part / y)


def _mix_is_exact(random: Sequence[int], args: Sequence[Any]) -> bool:
    """`lerp` is linear in its ends, and in its weight between known ends; a random weight of random ends makes products."""
    return 2 not in random or len(random) == 1


def _two(op: OpOverload, apply: Callable[..., Gaussian]) -> None:
    RULES.add(Rule(op, True, apply, positions=(0, 1), many=True))


_two(aten.add.Tensor, add)
_two(aten.sub.Tensor, subtract)
_two(aten.mul.Tensor, multiply)
_two(aten.lerp.Scalar, interpolated)
RULES.add(Rule(aten.lerp.Tensor, True, interpolated, positions=(0, 1, 2), many=True, exact_if=_mix_is_exact))
for _op, _apply in (
    (aten.add.Scalar, add),
    (aten.sub.Scalar, subtract),
    (aten.mul.Scalar, multiply),
    (aten.div.Scalar, divide),
    (aten.rsub.Scalar, reversed_subtract),
    (aten.neg.default, negate),
    (aten.square.default, square),
):
    RULES.add(Rule(_op, True, _apply))
