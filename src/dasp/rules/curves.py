"""Moments of the rarer elementwise functions of a Gaussian variable; conventions as in `activations`.

Functions that jump have closed forms too: `dasp.truncated` takes them apart into segments, and the mean slope gets the
height of every jump times the density of the variable there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..special import Moments
from ..truncated import Piece, piecewise, rectified
from .activations import elu, erf, exp, leaky_relu, smooth
from .families import elementwise

aten = torch.ops.aten


@elementwise(aten.celu.default, exact=True)
def celu(m: Tensor, v: Tensor, alpha: float = 1.0) -> Moments:
    """`X` above 0 and `alpha (exp(X / alpha) - 1)` below (Barron, 2017); exact, see `elu`."""
    return elu(m, v, alpha, 1.0, 1 / alpha)


def _not_training(
    x: object, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, generator: None = None
) -> bool:
    return not training


@elementwise(aten.rrelu.default, exact=True, covers=_not_training)
def randomised_leaky_relu(
    m: Tensor, v: Tensor, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, generator: None = None
) -> Moments:
    """Outside of training, the leaky ReLU of the mean of both slopes (Xu et al., 2015); exact."""
    return leaky_relu(m, v, (lower + upper) / 2)


@elementwise(aten.softshrink.default, exact=True)
def softshrink(m: Tensor, v: Tensor, lambd: float = 0.5) -> Moments:
    """`X - lambd` above `lambd`, `X + lambd` below `-lambd`, else 0; exact."""
    return piecewise(m, v, (-lambd, lambd), (Piece(lambd, 1.0), Piece(), Piece(-lambd, 1.0)))


@elementwise(aten.hardshrink.default, exact=True)
def hardshrink(m: Tensor, v: Tensor, lambd: float = 0.5) -> Moments:
    """`X` where `|X| > lambd`, else 0; exact."""
    return jumping(m, v, (-lambd, lambd), (Piece(0.0, 1.0), Piece(), Piece(0.0, 1.0)))


@elementwise(aten.threshold.default, exact=True)
def threshold(m: Tensor, v: Tensor, threshold: float, value: float) -> Moments:
    """`X` where `X > threshold`, else `value`; exact."""
    return jumping(m, v, (threshold,), (Piece(value), Piece(0.0, 1.0)))


@elementwise(aten.sign.default, exact=True)
def sign(m: Tensor, v: Tensor) -> Moments:
    """The sign of X; exact: `E = 1 - 2 P(X < 0)`, `Var = 4 P(X < 0) P(X > 0)`, `E g' = 2 phi(m/s) / s`."""
    return jumping(m, v, (0.0,), (Piece(-1.0), Piece(1.0)))


def jumping(m: Tensor, v: Tensor, knots: Sequence[float], pieces: Sequence[Piece]) -> Moments:
    """`piecewise` for a function that may jump at its knots: `E g'` gains `sum over knots of jump * density(knot)`."""
    part = piecewise(m, v, knots, pieces)
    slope = part.slope
    for t, left, right in zip(knots, pieces[:-1], pieces[1:], strict=True):
        jump = right.c0 - left.c0 + t * (right.c1 - left.c1 + t * (right.c2 - left.c2))
        slope = slope + jump * rectified(m - t, v).density
    return Moments(part.mean, part.var, slope)


@elementwise(aten.erfc.default, exact=False)
def erfc(m: Tensor, v: Tensor) -> Moments:
    """`1 - erf(X)`."""
    part = erf(m, v)
    return Moments(1 - part.mean, part.var, -part.slope)


@elementwise(aten.atan.default, exact=False)
def atan(m: Tensor, v: Tensor) -> Moments:
    """atan(X); by quadrature."""
    return smooth(_atan_jet, None, m, v)


def _atan_jet(x: Tensor, order: int) -> list[Tensor]:
    """atan and its derivatives, from `(1 + x^2) y' = 1` for the Taylor series of y'."""
    width = 1 + x * x
    slopes = [width.reciprocal()]
    for k in range(1, order):
        before = slopes[k - 2] if k > 1 else torch.zeros_like(x)
        slopes.append(-(2 * x * slopes[k - 1] + before) / width)
    return [torch.atan(x), *(math.factorial(k) * slope for k, slope in enumerate(slopes[:order]))]


@elementwise(aten.expm1.default, exact=True)
def exponential_less_one(m: Tensor, v: Tensor) -> Moments:
    """`exp(X) - 1`; exact."""
    part = exp(m, v)
    return Moments(torch.expm1(m + 0.5 * v), part.var, part.slope)


@elementwise(aten.exp2.default, exact=True)
def power_of_two(m: Tensor, v: Tensor) -> Moments:
    """`2^X`; exact."""
    rate = math.log(2)
    part = exp(rate * m, rate**2 * v)
    return Moments(part.mean, part.var, rate * part.slope)


@elementwise(aten.sinh.default, exact=True)
def sinh(m: Tensor, v: Tensor) -> Moments:
    """sinh(X); exact: `E = k sinh m`, `Var = (exp v - 1) (exp(v) cosh 2m + 1) / 2`, `E g' = k cosh m`, `k = exp(v/2)`."""
    k = torch.exp(0.5 * v)
    var = 0.5 * torch.expm1(v) * (k.square() * torch.cosh(2 * m) + 1)
    return Moments(k * torch.sinh(m), var, k * torch.cosh(m))


@elementwise(aten.cosh.default, exact=True)
def cosh(m: Tensor, v: Tensor) -> Moments:
    """cosh(X); exact: as `sinh`, with `Var = (exp v - 1) ((exp v - 1) cosh 2m + 2 sinh^2 m) / 2`."""
    k, more = torch.exp(0.5 * v), torch.expm1(v)
    var = 0.5 * more * (more * torch.cosh(2 * m) + 2 * torch.sinh(m).square())
    return Moments(k * torch.cosh(m), var, k * torch.sinh(m))
