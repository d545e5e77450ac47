"""Moments of activation functions of a Gaussian variable: one function each, registered for its operations.

Every function takes means `m` and variances `v` of one shape (*s), float32 or float64, then the parameters of the ATen
operation in its order and with its defaults. It returns `Moments` of that shape. `v` may be 0; gradients by `m` and `v`
exist to any order and are finite. Kinked functions have closed forms (`dasp.truncated`); smooth ones without one are
integrated by `dasp.special.expect`: errors about 1e-7 of the variance and of the largest slope and gradient, for every
`s`; in float32 1e-5, the gradients of the saturating ones by `v` from `s = 100` on `1e-6 s`.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from ..errors import MissingRuleError
from ..jets import (
    ERF_ENDS,
    GELU_ENDS,
    GELU_TANH_ENDS,
    LOG_SIGMOID_ENDS,
    MISH_ENDS,
    SIGMOID_ENDS,
    SILU_ENDS,
    TANH_ENDS,
    erf_jet,
    gelu_jet,
    gelu_tanh_jet,
    log_sigmoid_jet,
    mish_jet,
    sigmoid_jet,
    silu_jet,
    softplus_ends,
    softplus_jet,
    tanh_jet,
)
from ..special import Asymptotes, Jet, Moments, Phi, Polynomial, expect, phi
from ..truncated import Piece, exponential_below, nonnegative, piecewise, rectified, segment, threshold_moments
from .families import elementwise

aten = torch.ops.aten

VALUE: Polynomial = ((1.0, (1,)),)
SQUARE: Polynomial = ((1.0, (2,)),)
SLOPE: Polynomial = ((1.0, (0, 1)),)


@elementwise(aten.relu.default, exact=True)
def relu(m: Tensor, v: Tensor) -> Moments:
    """max(X, 0); exact. With `s = sqrt(v)`, `a = m/s`, `h(a) = phi(a) + a Phi(a)`:

    E = s h(a),  Var = v (Phi(a) - h(a) h(-a)),  E g' = Phi(a).
    """
    part = rectified(m, v)
    return Moments(part.mean, part.var, part.probability)


@elementwise(aten.leaky_relu.default, exact=True)
def leaky_relu(m: Tensor, v: Tensor, negative_slope: float = 0.01) -> Moments:
    """`k X + (1 - k) max(X, 0)` with `k = negative_slope`; exact. With R, P mean and slope of the ReLU:

    E = k m + (1-k) R,  Var = k^2 v + 2 k (1-k) v P + (1-k)^2 Var R,  E g' = k + (1-k) P.
    """
    return _leaky(m, v, negative_slope)


@elementwise(aten._prelu_kernel.default, exact=True)
def prelu(m: Tensor, v: Tensor, weight: Tensor) -> Moments:
    """`leaky_relu` with a slope for every element; exact. `weight` broadcasts with `m`."""
    return _leaky(m, v, weight)


def _leaky(m: Tensor, v: Tensor, k: float | Tensor) -> Moments:
    part = rectified(m, v)
    var = (1 - k) ** 2 * part.var + k * v * (k + 2 * (1 - k) * part.probability)
    return Moments(torch.lerp(part.mean, m, k), nonnegative(var), k + (1 - k) * part.probability)


@elementwise(aten.abs.default, exact=True)
def absolute(m: Tensor, v: Tensor) -> Moments:
    """|X|; exact: the leaky ReLU of slope -1 (the folded normal distribution; Leone, Nelson & Nottingham 1961)."""
    return leaky_relu(m, v, -1.0)


@elementwise(aten.hardtanh.default, exact=True)
def hardtanh(m: Tensor, v: Tensor, min_val: float = -1.0, max_val: float = 1.0) -> Moments:
    """min(max(X, min_val), max_val); exact, by truncated moments on three segments."""
    if min_val >= max_val:
        return Moments(torch.full_like(m, max_val), torch.zeros_like(m), torch.zeros_like(m))
    return piecewise(m, v, (min_val, max_val), (Piece(min_val), Piece(0.0, 1.0), Piece(max_val)))


@elementwise(aten.relu6.default, exact=True)
def relu6(m: Tensor, v: Tensor) -> Moments:
    """min(max(X, 0), 6); exact, see `hardtanh`."""
    return hardtanh(m, v, 0.0, 6.0)


@elementwise(aten.clamp.default, exact=True)
def clamp(m: Tensor, v: Tensor, min: float | None = None, max: float | None = None) -> Moments:
    """min(max(X, min), max); exact. One-sided forms are shifted ReLUs; with both ends, see `hardtanh`."""
    if min is not None and max is not None:
        return hardtanh(m, v, min, max)
    if min is not None:
        part = rectified(m - min, v)
        return Moments(min + part.mean, part.var, part.probability)
    if max is not None:
        part = rectified(max - m, v)
        return Moments(max - part.mean, part.var, part.probability)
    return Moments(m, v, torch.ones_like(m))


@elementwise(aten.clamp_min.default, exact=True)
def clamp_min(m: Tensor, v: Tensor, min: float) -> Moments:
    """max(X, min); exact, see `clamp`."""
    return clamp(m, v, min=min)


@elementwise(aten.clamp_max.default, exact=True)
def clamp_max(m: Tensor, v: Tensor, max: float) -> Moments:
    """min(X, max); exact, see `clamp`."""
    return clamp(m, v, max=max)


@elementwise(aten.hardsigmoid.default, exact=True)
def hardsigmoid(m: Tensor, v: Tensor) -> Moments:
    """min(max(X + 3, 0), 6) / 6; exact, by truncated moments on three segments."""
    return piecewise(m, v, (-3.0, 3.0), (Piece(), Piece(0.5, 1 / 6), Piece(1.0)))


@elementwise(aten.hardswish.default, exact=True)
def hardswish(m: Tensor, v: Tensor) -> Moments:
    """X min(max(X + 3, 0), 6) / 6; exact, by truncated moments up to the fourth on three segments."""
    return piecewise(m, v, (-3.0, 3.0), (Piece(), Piece(0.0, 0.5, 1 / 6), Piece(0.0, 1.0)))


@elementwise(aten.elu.default, exact=True)
def elu(m: Tensor, v: Tensor, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Moments:
    """`p X` above 0 and `n (exp(c X) - 1)` below; `p = scale`, `n = scale alpha`, `c = input_scale`. ELU, SELU, CELU.

    Exact, centred at `k = g(m)`. With `P = P(X > 0)`, w as in `rectified`, `G(c) = E[exp(c X); X < 0]`, `r = p m - k`
    and `D = r P + p w + n G(c) - (n + k)(1 - P)`:

        E = k + D,  E g' = p P + n c G(c),
        Var = r^2 P + 2 r p w + p^2 (v P - m w) + n^2 G(2c) - 2 n (n + k) G(c) + (n + k)^2 (1 - P) - D^2.

    These cancel where `y = c^2 v` is small: relative error `eps / y`. Below `y = eps^0.4` the exponential is taken to
    third order around `m` instead, relative error `y^1.5`. Measured: below 1e-8 in float64, 3e-4 in float32.
    """
    p, n, c = scale, scale * alpha, input_scale
    centre = torch.where(m > 0, p * m, n * torch.expm1(c * m.clamp(max=0.0))).detach()
    wide, narrow = _elu_wide(m, v, p, n, c, centre), _elu_narrow(m, v, p, n, c, centre)
    small = c * c * v < torch.finfo(v.dtype).eps ** 0.4
    first, second, slope = (torch.where(small, a, b) for a, b in zip(narrow, wide, strict=True))
    return Moments(centre + first, nonnegative(second - first.square()), slope)


def _elu_wide(m: Tensor, v: Tensor, p: float, n: float, c: float, k: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`E[g - k]`, `E[(g - k)^2]`, `E g'` of `elu` in closed form."""
    tail = threshold_moments(m, v, 0.0, 3)
    single, double = exponential_below(m, v, c), exponential_below(m, v, 2 * c)
    above, below = p * m - k, n + k
    first = above * tail.above[0] + p * tail.above[1] + n * single - below * tail.below
    second = above.square() * tail.above[0] + 2 * p * above * tail.above[1] + p * p * tail.above[2]
    second = second + n * n * double - 2 * n * below * single + below.square() * tail.below
    return first, second, p * tail.above[0] + n * c * single


def _elu_narrow(m: Tensor, v: Tensor, p: float, n: float, c: float, k: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same to third order around `m` (the square to fourth), by truncated moments."""
    tails = (threshold_moments(m, v, 0.0, 5),)
    lower, upper = segment(m, v, tails, 0), segment(m, v, tails, 1)
    near = (c * m).clamp(max=1.0)  # far above 0 the lower side has no weight, and must not overflow
    alpha, beta, above = n * torch.expm1(near) - k, n * c * torch.exp(near), p * m - k
    gamma = c / 2 * beta
    delta = c / 3 * gamma
    first = above * upper[0] + p * upper[1]
    first = first + alpha * lower[0] + beta * lower[1] + gamma * lower[2] + delta * lower[3]
    second = above.square() * upper[0] + 2 * p * above * upper[1] + p * p * upper[2]
    second = second + alpha.square() * lower[0] + 2 * alpha * beta * lower[1]
    second = second + (beta.square() + 2 * alpha * gamma) * lower[2]
    second = second + 2 * (beta * gamma + alpha * delta) * lower[3] + (gamma.square() + 2 * beta * delta) * lower[4]
    return first, second, p * upper[0] + beta * lower[0] + 2 * gamma * lower[1] + 3 * delta * lower[2]


def smooth(jet: Jet, ends: Asymptotes | None, m: Tensor, v: Tensor) -> Moments:
    """Moments of a smooth `g` by quadrature, centred at `c = g(m)` so that a large mean costs no digits:

    E = c + E[g - c],  Var = E[(g - c)^2] - E[g - c]^2,  slope = E g'.

    Args:
        jet: `g` and its derivatives, see `dasp.jets`.
        ends: the asymptotes of `g`; None: none that it runs into fast, so that wide X step over its bend.
        m: means (*s).
        v: variances (*s).
    """
    centre = jet(m.detach(), 0)[0]
    first, second, slope = expect(jet, (VALUE, SQUARE, SLOPE), m, v, centre, ends)
    return Moments(centre + first, _variance(second, first, v), slope)


def _variance(second: Tensor, first: Tensor, v: Tensor) -> Tensor:
    """`second - first^2`, rounding below 0 and at `v = 0` removed; the gradient passes unchanged."""
    var = second - first.square()
    return var - torch.where(v > 0, var.clamp(max=0.0), var).detach()


@elementwise(aten.sigmoid.default, exact=False)
def sigmoid(m: Tensor, v: Tensor) -> Moments:
    """1 / (1 + exp(-X)); by quadrature."""
    return smooth(sigmoid_jet, SIGMOID_ENDS, m, v)


@elementwise(aten.tanh.default, exact=False)
def tanh(m: Tensor, v: Tensor) -> Moments:
    """tanh(X); by quadrature."""
    return smooth(tanh_jet, TANH_ENDS, m, v)


@elementwise(aten.silu.default, exact=False)
def silu(m: Tensor, v: Tensor) -> Moments:
    """X sigmoid(X); by quadrature."""
    return smooth(silu_jet, SILU_ENDS, m, v)


@elementwise(aten.mish.default, exact=False)
def mish(m: Tensor, v: Tensor) -> Moments:
    """X tanh(log(1 + exp(X))); by quadrature."""
    return smooth(mish_jet, MISH_ENDS, m, v)


LOWEST_THRESHOLD = 10.0
"""Of softplus, above which its jump to the identity does not matter."""


def _jumps_little(x: object, beta: float = 1.0, threshold: float = 20.0) -> bool:
    return threshold >= LOWEST_THRESHOLD


@elementwise(aten.softplus.default, exact=False, covers=_jumps_little)
def softplus(m: Tensor, v: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Moments:
    """log(1 + exp(beta X)) / beta; by quadrature.

    The operation is the identity where `beta x > threshold`, a saving that changes it by `exp(-threshold) / beta` at
    most. Here it is the smooth function everywhere.

    Raises:
        MissingRuleError: `threshold` is below 10, where the jump would matter.
    """
    if threshold < LOWEST_THRESHOLD:
        raise MissingRuleError(
            f"no moment rule for softplus with threshold {threshold}, which makes it jump by up to "
            f"{math.exp(-threshold) / beta:.2g}; use a threshold of 10 or more (the default is 20)"
        )
    return smooth(partial(softplus_jet, beta=beta), softplus_ends(beta), m, v)


@elementwise(aten.log_sigmoid.default, exact=False)
def log_sigmoid(m: Tensor, v: Tensor) -> Moments:
    """-log(1 + exp(-X)); by quadrature."""
    return smooth(log_sigmoid_jet, LOG_SIGMOID_ENDS, m, v)


@elementwise(aten.gelu.default, exact=False)
def gelu(m: Tensor, v: Tensor, *, approximate: str = "none") -> Moments:
    """X Phi(X), or its tanh form with `approximate="tanh"`. With `t = sqrt(1 + v)`, `b = m/t`, exactly

        E = m Phi(b) + v/t phi(b),  E g' = Phi(b) + b phi(b) / t^2;

    the variance, and all of the tanh form, by quadrature.
    """
    if approximate == "tanh":
        return smooth(gelu_tanh_jet, GELU_TANH_ENDS, m, v)
    t = (1 + v).sqrt()
    b = m / t
    p, density = Phi(b), phi(b)
    mean = m * p + v / t * density
    centre = gelu_jet(m.detach(), 0)[0]
    (second,) = expect(gelu_jet, (SQUARE,), m, v, centre, GELU_ENDS)
    return Moments(mean, _variance(second, mean - centre, v), p + b * density / t.square())


@elementwise(aten.erf.default, exact=False)
def erf(m: Tensor, v: Tensor) -> Moments:
    """erf(X); by quadrature."""
    return smooth(erf_jet, ERF_ENDS, m, v)


@elementwise(aten.exp.default, exact=True)
def exp(m: Tensor, v: Tensor) -> Moments:
    """exp(X), log-normal; exact: E = E g' = exp(m + v/2), Var = E^2 (exp(v) - 1)."""
    mean = torch.exp(m + 0.5 * v)
    return Moments(mean, mean.square() * torch.expm1(v), mean)


@elementwise(aten.sin.default, exact=True)
def sin(m: Tensor, v: Tensor) -> Moments:
    """sin(X); exact. With `k = exp(-v/2)`:

    E = k sin m,  Var = (1 - k^2) ((1 - k^2)/2 + k^2 cos^2 m),  E g' = k cos m.
    """
    k, lost = torch.exp(-0.5 * v), -torch.expm1(-v)
    slope = k * torch.cos(m)
    return Moments(k * torch.sin(m), lost * (0.5 * lost + slope.square()), slope)


@elementwise(aten.cos.default, exact=True)
def cos(m: Tensor, v: Tensor) -> Moments:
    """cos(X); exact: `sin` of X + pi/2, with cos and -sin of m in place of sin and cos."""
    k, lost = torch.exp(-0.5 * v), -torch.expm1(-v)
    slope = -k * torch.sin(m)
    return Moments(k * torch.cos(m), lost * (0.5 * lost + slope.square()), slope)
