"""Moments of a Gaussian on either side of a threshold: the closed forms behind every kinked function.

They obey the heat equation `d/dv E f = 1/2 d2/dm2 E f`, and every derivative leads back to one quantity, the density
`u = N(t; m, v)` at the threshold. Gradients are written with the same functions again, so they exist to any order. At
`v = 0` the density counts as 0, also at the threshold itself: the exact limit elsewhere, a finite choice there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .special import INV_SQRT_2PI, SQRT_HALF, Moments


@dataclass(frozen=True)
class Rectified:
    """`max(X, 0)` for `X ~ N(m, v)`.

    Attributes:
        mean: `E max(X, 0)`.
        var: `Var max(X, 0)`.
        probability: `P(X > 0)`, 1/2 at `m = v = 0`.
        density: density of `X` at 0.
    """

    mean: Tensor  # (*s)
    var: Tensor  # (*s)
    probability: Tensor  # (*s)
    density: Tensor  # (*s)


def rectified(m: Tensor, v: Tensor) -> Rectified:
    """`max(X, 0)` for `X ~ N(m, v)`, exact. With `s = sqrt(v)`, `a = m/s`, `P = Phi(a)`, `w = s phi(a)`:

    mean `r = m P + w`; variance `v P - r l` with `l = w - m (1 - P)` the mean of `max(-X, 0)`; density `w / v`.
    """
    return Rectified(*_Rectified.apply(m, v))  # type: ignore[no-untyped-call]


def tail(m: Tensor, v: Tensor, *, both: bool = False) -> tuple[Tensor, Tensor]:
    """`P(X > 0)` and `s phi(m/s)`; not differentiable, for use inside autograd functions.

    Both are exactly 0 where `m/s` is beyond the reach of the dtype: numbers below the normal range would make every
    later operation up to ten times slower. Where `both` P and 1 - P are used, the reach ends where 1 - P is rounded to 0 on
    the other side: a P of 1e-200 here, beside an exact 0 there, has gradients that no longer belong to the values.
    """
    if both:
        reach, least = (5.42, 3.1e-8) if v.dtype == torch.float32 else (8.3, 5.4e-17)
    else:
        reach, least = (12.5, 4e-36) if v.dtype == torch.float32 else (37.0, 1e-299)
    s = v.sqrt()
    a = torch.div(m, s.clamp_min(torch.finfo(v.dtype).tiny)).clamp_(-reach, reach)
    w = torch.mul(a, a).mul_(-0.5).exp_().mul_(INV_SQRT_2PI)
    torch.threshold_(w, 30 * least, 0.0).mul_(s)
    return torch.threshold_(a.mul_(-SQRT_HALF).erfc_().mul_(0.5), least, 0.0), w


class _Rectified(torch.autograd.Function):
    """Gradients, with `r, P, u` mean, probability and density:

    dr = (P, u/2);  dVar = (2 r (1-P), P - r u);  dP = (u, -m u / 2v);  du = (-m u / v, (m^2 u / v - u) / 2v).
    """

    @staticmethod
    def forward(ctx: Any, m: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        probability, w = tail(m, v)
        mean = torch.addcmul(w, m, probability).clamp_min_(0.0)
        other = torch.addcmul(w, m, torch.rsub(probability, 1.0), value=-1.0)  # mean of max(-X, 0)
        var = torch.mul(v, probability).addcmul_(mean, other, value=-1.0).clamp_min_(0.0)
        density = w.div_(v.clamp_min(torch.finfo(v.dtype).tiny))
        ctx.save_for_backward(m, v, mean, probability, density)
        return mean, var, probability, density

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        m, v, mean, probability, density = ctx.saved_tensors
        g_mean, g_var, g_probability, g_density = grads
        dm: Tensor | None = None
        dv: Tensor | None = None
        if g_var is not None:
            dm = (g_var * torch.addcmul(mean, mean, probability, value=-1.0)).mul(2.0)
            dv = g_var * torch.addcmul(probability, mean, density, value=-1.0)
        if g_mean is not None:
            dm = g_mean * probability if dm is None else torch.addcmul(dm, g_mean, probability)
            dv = 0.5 * g_mean * density if dv is None else torch.addcmul(dv, g_mean, density, value=0.5)
        if g_probability is not None or g_density is not None:
            more = density_gradients(m, v, density, g_probability, g_density)
            dm, dv = (more[0], more[1]) if dm is None or dv is None else (dm + more[0], dv + more[1])
        return dm, dv


def density_gradients(
    m: Tensor, v: Tensor, u: Tensor, g_probability: Tensor | None, g_density: Tensor | None
) -> tuple[Tensor, Tensor]:
    """What the gradients of `P(X > 0)` and of the density of X at 0 add to those of `m` and `v`."""
    inverse = _inverse(v)
    ratio = m * u * inverse  # m u first: it is bounded, and 0 where v is
    dm = dv = torch.zeros((), dtype=m.dtype, device=m.device)
    if g_probability is not None:
        dm, dv = g_probability * u, -0.5 * g_probability * ratio
    if g_density is not None:
        curvature = (m * ratio - u) * inverse
        dm = torch.addcmul(dm, g_density, ratio, value=-1.0)
        dv = torch.addcmul(dv, g_density, curvature, value=0.5)
    return dm, dv


@dataclass(frozen=True)
class Sides:
    """The two sides of a threshold.

    Attributes:
        below: `P(X < t)`, relatively accurate where small; 1/2 where X is the threshold itself.
        above: `P(X > t)`, the same.
        spread: v times the density of X at t.
    """

    below: Tensor  # (*s)
    above: Tensor  # (*s)
    spread: Tensor  # (*s)


def sides(m: Tensor, v: Tensor) -> Sides:
    """Probabilities of `X ~ N(m, v)` on both sides of 0, and `v` times its density there; exact."""
    return Sides(*_Sides.apply(m, v))  # type: ignore[no-untyped-call]


class _Sides(torch.autograd.Function):
    """Gradients, with w the spread: d above = (w/v, -m w / 2v^2) = -d below;  dw = (-m w / v, (w + m^2 w / v) / 2v)."""

    @staticmethod
    def forward(ctx: Any, m: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        above, w = tail(m, v)
        below, _ = tail(-m, v)
        ctx.save_for_backward(m, v, w)
        return below, above, w

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        m, v, w = ctx.saved_tensors
        below, above, g_spread = grads
        if below is not None:
            above = -below if above is None else above - below
        inverse = _inverse(v)
        ratio = m * (w * inverse)
        dm: Tensor | None = None
        dv: Tensor | None = None
        if above is not None:
            dm, dv = above * w * inverse, -0.5 * above * (ratio * inverse)
        if g_spread is not None:
            bend = 0.5 * torch.addcmul(w, m, ratio) * inverse
            dm = -g_spread * ratio if dm is None else torch.addcmul(dm, g_spread, ratio, value=-1.0)
            dv = g_spread * bend if dv is None else torch.addcmul(dv, g_spread, bend)
        return dm, dv


def _inverse(v: Tensor) -> Tensor:
    """`1 / v`, and 0 where v is 0; differentiable to any order."""
    return v.masked_fill(v < torch.finfo(v.dtype).tiny, torch.inf).reciprocal()


@dataclass(frozen=True)
class Piece:
    """The quadratic `c0 + c1 x + c2 x^2` on one segment of a piecewise function."""

    c0: float = 0.0
    c1: float = 0.0
    c2: float = 0.0


def piecewise(m: Tensor, v: Tensor, knots: Sequence[float], pieces: Sequence[Piece]) -> Moments:
    """Moments of a continuous, piecewise quadratic `g`; exact.

    On every segment `g(X) - g(m) = alpha + beta (X - m) + gamma (X - m)^2`; `alpha = 0` on the segment of `m` itself.
    With the truncated central moments `T_k = E[(X - m)^k; segment]`, summed over segments:

        E = g(m) + D,  D = sum alpha T0 + beta T1 + gamma T2,
        Var = sum alpha^2 T0 + 2 alpha beta T1 + (beta^2 + 2 alpha gamma) T2 + 2 beta gamma T3 + gamma^2 T4 - D^2,
        E g' = sum beta T0 + 2 gamma T1.

    Centred at `g(m)`, the variance does not suffer from a large mean.

    Args:
        m: means (*s).
        v: variances (*s), may be 0.
        knots: increasing thresholds.
        pieces: one for each of the `len(knots) + 1` segments, from left to right.
    """
    curved = any(piece.c2 != 0.0 for piece in pieces)
    centre = _evaluate(m.detach(), knots, pieces)  # a constant: the moments do not depend on it
    tails = [threshold_moments(m, v, t, 5 if curved else 3) for t in knots]
    first, second, slope = torch.zeros_like(m), torch.zeros_like(m), torch.zeros_like(m)
    for i, piece in enumerate(pieces):
        moments = segment(m, v, tails, i)
        alpha = piece.c0 + m * (piece.c1 + m * piece.c2) - centre
        beta = piece.c1 + 2.0 * piece.c2 * m
        if not curved:
            if piece.c1 != 0.0:
                second = second + piece.c1**2 * moments[2] + 2.0 * piece.c1 * alpha * moments[1]
                first = first + piece.c1 * moments[1]
                slope = slope + piece.c1 * moments[0]
            second = torch.addcmul(second, alpha.square(), moments[0])
            first = torch.addcmul(first, alpha, moments[0])
            continue
        gamma = piece.c2
        first = first + alpha * moments[0] + beta * moments[1] + gamma * moments[2]
        slope = slope + beta * moments[0] + 2.0 * gamma * moments[1]
        second = second + alpha.square() * moments[0] + 2.0 * alpha * beta * moments[1]
        second = second + (beta.square() + 2.0 * gamma * alpha) * moments[2]
        second = second + 2.0 * gamma * beta * moments[3] + gamma**2 * moments[4]
    return Moments(centre + first, nonnegative(second - first.square()), slope)


def nonnegative(var: Tensor) -> Tensor:
    """Rounding below 0 removed from a variance; the gradient passes unchanged, also at 0."""
    return var - var.detach().clamp_max(0.0)


def _evaluate(x: Tensor, knots: Sequence[float], pieces: Sequence[Piece]) -> Tensor:
    values = [piece.c0 + x * (piece.c1 + x * piece.c2) for piece in pieces]
    result = values[0]
    for t, value in zip(knots, values[1:], strict=True):
        result = torch.lerp(result, value, (x > t).to(x.dtype))  # three times faster than torch.where, and exact
    return result


@dataclass(frozen=True)
class Tail:
    """Truncated central moments `E[(X - m)^k; ...]` beside a threshold: order 0 below it, all orders above it."""

    below: Tensor
    above: tuple[Tensor, ...]


def threshold_moments(m: Tensor, v: Tensor, threshold: float, orders: int) -> Tail:
    """`E[(X - m)^k; X > t]` for `k < orders`, with `b = t - m` and `w = v u`:

    P, w, v P + b w, w (b^2 + 2 v), 3 v^2 P + w b (b^2 + 3 v).
    """
    b = threshold - m
    part = sides(-b, v)
    w, p = part.spread, part.above
    moments = [p, w, torch.addcmul(v * p, b, w)]
    if orders > 3:
        moments.append(w * (b.square() + 2.0 * v))
        moments.append(3.0 * v.square() * p + w * b * (b.square() + 3.0 * v))
    return Tail(part.below, tuple(moments))


def segment(m: Tensor, v: Tensor, tails: Sequence[Tail], i: int) -> tuple[Tensor, ...]:
    """Truncated central moments `E[(X - m)^k; segment i]`, given the thresholds from left to right."""
    if i == len(tails):
        return tails[-1].above
    upper = tails[i]
    if i > 0:
        lower = tails[i - 1]
        # The smaller tails are subtracted from one another: no digits are lost far out on either side.
        left = (lower.below > 0.5).to(m.dtype)
        mass = torch.lerp(upper.below - lower.below, lower.above[0] - upper.above[0], left)
        return mass, *(a - b for a, b in zip(lower.above[1:], upper.above[1:], strict=True))
    full = (v, torch.zeros_like(v), 3.0 * v.square())
    rest = [moment - above for moment, above in zip(full, upper.above[2:], strict=False)]
    return upper.below, -upper.above[1], *rest


def exponential_below(m: Tensor, v: Tensor, c: float) -> Tensor:
    """`E[exp(c X); X < 0]`, exact: `exp(c m + c^2 v / 2) Phi(-(m + c v)/s)`, without overflow.

    Args:
        m: means (*s).
        v: variances (*s), may be 0.
        c: the rate, positive.
    """
    result: Tensor = _ExponentialBelow.apply(m, v, c)  # type: ignore[no-untyped-call]
    return result


class _ExponentialBelow(torch.autograd.Function):
    """Gradients of `G`, with the density u at 0: dm = c G - u, dv = (c^2 G - c u + m u / v) / 2."""

    @staticmethod
    def forward(ctx: Any, m: Tensor, v: Tensor, c: float) -> Tensor:
        ctx.c = c
        ctx.save_for_backward(m, v)
        s = v.sqrt()
        shifted = m + c * v
        a = torch.div(m, s).nan_to_num_(nan=0.0)
        b = torch.div(shifted, s).nan_to_num_(nan=0.0).mul_(SQRT_HALF)
        # Where m + c v > 0 the exponent may be large and Phi tiny: their product is exp(-a^2/2) erfcx(b) / 2.
        above = torch.exp(-0.5 * a.square()) * torch.special.erfcx(b.clamp_min(0.0))
        below = torch.exp((c * m + 0.5 * c * c * v).clamp_max_(0.0)) * torch.erfc(b)
        return 0.5 * torch.where(shifted > 0, above, below)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        m, v = ctx.saved_tensors
        c = ctx.c
        inverse = _inverse(v)
        value, u = exponential_below(m, v, c), sides(m, v).spread * inverse
        return grad * (c * value - u), 0.5 * grad * (c * (c * value - u) + m * u * inverse), None
