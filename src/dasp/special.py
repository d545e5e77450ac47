"""Gaussian special functions, expectations of smooth functions of a Gaussian, quadrature on [0, 1].

Notation of the package: `X ~ N(m, v)`, `s = sqrt(v)`, `phi` and `Phi` are density and distribution of N(0, 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

SQRT_HALF = math.sqrt(0.5)
INV_SQRT_2PI = 1.0 / math.sqrt(2.0 * math.pi)

REACH = 6.5
POINTS = (17, 33, 65)
"""Trapezoid rules for a standard normal variable: so many equidistant points on +-REACH. Up to a share of the `wide` of a
function that grows with their number, all are off by about as much: 5e-9 of means and slopes, in units of the function."""

BEND_POINTS = 32
"""Gauss-Legendre points on each side of 0, for the part of a function between its asymptotes."""

Jet = Callable[[Tensor, int], Sequence[Tensor]]
"""`jet(x, order)`: a smooth pointwise function of x and its derivatives up to that order."""

Polynomial = tuple[tuple[float, tuple[int, ...]], ...]
"""Sum of terms (coefficient, powers), a term being `coefficient * g^powers[0] * g'^powers[1] * g''^powers[2] ...`."""


@dataclass(frozen=True)
class Moments:
    """First moments of `g(X)` for a Gaussian `X`; all three have the shape of the mean of `X`.

    Attributes:
        mean: `E g(X)`.
        var: `Var g(X)`, never negative.
        slope: `E g'(X)`, so that `Cov(g(X), Y) = slope Cov(X, Y)` for `Y` jointly Gaussian with `X` (Stein's lemma).
    """

    mean: Tensor  # (*s)
    var: Tensor  # (*s)
    slope: Tensor  # (*s)


def phi(x: Tensor) -> Tensor:
    """Density of the standard normal distribution."""
    return INV_SQRT_2PI * torch.exp(-0.5 * x.square())


def Phi(x: Tensor) -> Tensor:
    """Distribution function of the standard normal distribution, relatively accurate in the lower tail.

    `torch.special.ndtr` is `(1 + erf) / 2`, which is 0 below -5.5 in float32.
    """
    return 0.5 * torch.erfc(-SQRT_HALF * x)


def h(a: Tensor) -> Tensor:
    """`phi(a) + a Phi(a)`, the mean of `max(a + Z, 0)` for standard normal `Z`; relatively accurate in the lower tail.

    Below -3 the two terms cancel. There `h(-x) = phi(x) c / (x + c)` with the continued fraction of Mills' ratio
    `c = 1/(x + 2/(x + 3/(x + ...)))` (Laplace; Abramowitz & Stegun 26.2.14).
    """
    tail = a < -3.0
    x = torch.where(tail, -a, 3.0)
    fraction = x
    for k in range(60, 1, -1):
        fraction = x + k / fraction
    c = 1.0 / fraction
    near = torch.where(tail, 0.0, a)
    return torch.where(tail, phi(x) * c / (x + c), phi(near) + near * Phi(near))


@dataclass(frozen=True)
class Asymptotes:
    """The straight lines that a smooth `g` runs into on either side; its derivatives from the second on run into 0.

    Attributes:
        left: (value at 0, slope) of the line for `x -> -inf`.
        right: the same for `x -> inf`.
        reach: `g` is within 1e-10 of its line where `|x| > reach`.
        wide: standard deviation of X from which the lines are split off. Below it the trapezoid rule sees all of `g`.
    """

    left: tuple[float, float]
    right: tuple[float, float]
    reach: float
    wide: float


def expect(
    jet: Jet,
    integrands: Sequence[Polynomial],
    m: Tensor,
    v: Tensor,
    centre: Tensor,
    asymptotes: Asymptotes | None = None,
) -> tuple[Tensor, ...]:
    """`E p_j(g(X) - centre, g'(X), g''(X), ...)` for `X ~ N(m, v)` and polynomials `p_j`.

    Up to `s = asymptotes.wide` by the trapezoid rule, spectrally accurate: about 1e-9 while `g` is smooth on the scale of
    its steps (`s / 5` where they are densest), leaving out the 1e-10 of X beyond 6.5 deviations. A narrower X needs fewer
    points. A wider X would step over the bend of `g`. There
    `p = q + (p - q)` with the same polynomial q of the asymptotes: the truncated moments of X give `E q` exactly, and
    `p - q`, which vanishes beyond `reach`, is integrated against the density of X by a Gauss-Legendre rule on each side
    of 0: about 1e-9 for every s, 1e-7 for derivatives. In float32 the sums of g'' and higher cancel, to s times its
    precision.

    Gradients follow the heat equation, `d/dm E f = E f'` and `d/dv E f = 1/2 E f''`, with the same rules and derivatives
    of the polynomials; so they exist to any order and are the exact limits at `v = 0`. They hold for smooth `g` only: no
    kinks.

    Args:
        jet: `g` and its derivatives.
        integrands: the polynomials.
        m: means (*s).
        v: variances (*s), not negative; may be 0.
        centre: (*s), usually `g(m)`, so that a large mean costs no digits; a constant, no gradient goes to it.
        asymptotes: those of `g`; None: the trapezoid rule for every s.

    Returns:
        One tensor (*s) for each polynomial.
    """
    result: tuple[Tensor, ...] = _Expect.apply(jet, tuple(integrands), m, v, centre, asymptotes)  # type: ignore[no-untyped-call]
    return result


class _Expect(torch.autograd.Function):
    """Quadrature forward, heat equation backward; the backward pass is an expectation again."""

    @staticmethod
    def forward(
        ctx: Any,
        jet: Jet,
        integrands: tuple[Polynomial, ...],
        m: Tensor,
        v: Tensor,
        centre: Tensor,
        asymptotes: Asymptotes | None,
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.jet, ctx.integrands, ctx.asymptotes = jet, integrands, asymptotes
        ctx.save_for_backward(m, v, centre)
        results = tuple(torch.empty(m.numel(), dtype=m.dtype, device=m.device) for _ in integrands)
        flat = (m.reshape(-1), v.sqrt().reshape(-1), centre.reshape(-1))
        if asymptotes is None:
            _narrow(jet, integrands, flat, results, POINTS[-1])
            return tuple(result.reshape(m.shape) for result in results)
        rules: list[Callable[..., None]] = [partial(_narrow, jet, integrands, points=points) for points in POINTS]
        rules.append(partial(_wide, jet, asymptotes, integrands))
        limits = [asymptotes.wide * (points - 1) / (POINTS[-1] - 1) for points in POINTS]
        kind = torch.bucketize(flat[1], flat[1].new_tensor(limits))
        for rule, count in enumerate(torch.bincount(kind, minlength=len(rules)).tolist()):
            if count == len(kind):
                rules[rule](flat, results)
            elif count:
                chosen = (kind == rule).nonzero().squeeze(1)
                some = tuple(torch.empty(count, dtype=m.dtype, device=m.device) for _ in integrands)
                rules[rule](tuple(t[chosen] for t in flat), some)
                for result, part in zip(results, some, strict=True):
                    result[chosen] = part
        return tuple(result.reshape(m.shape) for result in results)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        m, v, centre = ctx.saved_tensors
        given = [grad for grad in grads if grad is not None]
        if not given:
            return (None,) * 6
        first = [derivative(p) for p, grad in zip(ctx.integrands, grads, strict=True) if grad is not None]
        second = [derivative(p) for p in first]
        derived = expect(ctx.jet, (*first, *second), m, v, centre, ctx.asymptotes)
        count = len(given)
        return None, None, _dot(given, derived[:count]), 0.5 * _dot(given, derived[count:]), None, None


def _blocks(*flat: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """All points of a block of elements at once: what fits a processor's cache, or keeps a GPU busy."""
    size = 2**10 if flat[0].device.type == "cpu" else 2**18
    return zip(*(torch.split(t, size) for t in flat), strict=True)


def _order(integrands: Sequence[Polynomial]) -> int:
    return max(len(powers) for p in integrands for _, powers in p) - 1


def _narrow(
    jet: Jet, integrands: Sequence[Polynomial], flat: Sequence[Tensor], results: Sequence[Tensor], points: int
) -> None:
    """Means, deviations and centres (elements,) to results (elements,) by the trapezoid rule on points `m + s z`."""
    nodes, weights = trapezoid(flat[0], points)
    order = _order(integrands)
    for m, s, c, *parts in _blocks(*flat, *results):
        g = list(jet(torch.addcmul(m, s, nodes[:, None]), order))
        g[0] = g[0] - c
        for part, p in zip(parts, integrands, strict=True):
            torch.mv(_evaluate(p, g).t(), weights, out=part)


def _wide(
    jet: Jet, lines: Asymptotes, integrands: Sequence[Polynomial], flat: Sequence[Tensor], results: Sequence[Tensor]
) -> None:
    """The same by the asymptotes and a rule for the rest, whose points x are those of every element."""
    owners, powers, x, rows = _bends(jet, lines, integrands, flat[0])
    degree = max(powers[0] for p in integrands for _, powers in p)
    for m, s, c, *parts in _blocks(*flat, *results):
        a, v = m / s, s.square()
        w = s * phi(a)
        below, above = _truncated(Phi(-a), -w, m, v, degree), _truncated(Phi(a), w, m, v, degree)
        lower, upper = (value + slope * m - c for value, slope in (lines.left, lines.right))
        for part, p in zip(parts, integrands, strict=True):
            part.copy_(_on_line(p, lower, lines.left[1], below) + _on_line(p, upper, lines.right[1], above))
        density = x.sub(m).div_(s).square_().mul_(-0.5).exp_()
        for i, power, row in zip(owners, powers, rows, strict=True):
            # Row by row: a matrix product may round to TensorFloat-32, whose digits do not do for the cancelling rows.
            parts[i].addcmul_(torch.mv(density.t(), row).div_(s), c**power)


def _bends(
    jet: Jet, lines: Asymptotes, integrands: Sequence[Polynomial], like: Tensor
) -> tuple[list[int], list[int], Tensor, Tensor]:
    """What `p - q` takes of the points x: rows over powers of the centre, for the polynomials that own them.

    Returns:
        Owner and power of each row, points (points, 1), rows times weights (rows, points).
    """
    order = _order(integrands)
    # In double precision and on the host, as the points are few: g and its line agree in all but their last digits.
    x, weights = _two_sided(BEND_POINTS, lines.reach)
    bend = torch.stack(list(jet(x, order)))
    straight = torch.zeros_like(bend)
    value, slope = x.new_tensor([lines.left, lines.right])[(x > 0).long()].unbind(1)
    straight[0] = value + slope * x
    if order:
        straight[1] = slope
    rows: dict[tuple[int, int], Tensor] = {}
    for i, p in enumerate(integrands):
        for coefficient, (q, *rest) in p:
            for k in range(q + 1):  # (g - c)^q by powers of g and c
                exponents = x.new_tensor([k, *rest, *[0] * (order - len(rest))])[:, None]
                row = (bend**exponents).prod(0) - (straight**exponents).prod(0)
                factor = coefficient * math.comb(q, k) * (-1) ** (q - k) * INV_SQRT_2PI
                rows[i, q - k] = rows.get((i, q - k), 0.0) + factor * weights * row
    packed = torch.stack((x, *rows.values())).to(like.device, like.dtype)
    return [i for i, _ in rows], [power for _, power in rows], packed[0, :, None], packed[1:]


def _two_sided(count: int, reach: float) -> tuple[Tensor, Tensor]:
    """Gauss-Legendre nodes and weights on [-reach, 0] and [0, reach], `2 count` of each."""
    rule = legendre(count)
    x = reach * torch.tensor(rule.nodes, dtype=torch.float64, device="cpu")
    weights = reach * torch.tensor(rule.weights, dtype=torch.float64, device="cpu")
    return torch.cat((-x.flip(0), x)), torch.cat((weights.flip(0), weights))


def _truncated(mass: Tensor, w: Tensor, m: Tensor, v: Tensor, count: int) -> list[Tensor]:
    """`T_k = E[(X - m)^k; X on one side of 0]` for `k <= count`, given `T_0` and `T_1 = w`:

    `T_k = (k - 1) v T_(k-2) + (-m)^(k-1) w`, by parts.
    """
    moments = [mass, w]
    for k in range(2, count + 1):
        w = -m * w
        moments.append(torch.addcmul(w, v, moments[k - 2], value=k - 1))
    return moments


def _on_line(p: Polynomial, alpha: Tensor, beta: float, moments: Sequence[Tensor]) -> Tensor:
    """`E[p; one side]` where `g(X) - centre` is `alpha + beta (X - m)` and `g'` is `beta`, given the moments there."""
    total = torch.zeros_like(alpha)
    for coefficient, powers in p:
        q, *rest = powers
        coefficient *= beta ** (rest[0] if rest else 0)
        if coefficient == 0.0 or any(rest[1:]):
            continue
        for k in range(q + 1 if beta else 1):
            total = torch.addcmul(total, alpha ** (q - k), moments[k], value=coefficient * math.comb(q, k) * beta**k)
    return total


def _dot(left: Sequence[Tensor], right: Sequence[Tensor]) -> Tensor:
    total = left[0] * right[0]
    for a, b in zip(left[1:], right[1:], strict=True):
        total = torch.addcmul(total, a, b)
    return total


def derivative(p: Polynomial) -> Polynomial:
    """The derivative by x of a polynomial in the derivatives of a function of x."""
    terms: dict[tuple[int, ...], float] = {}
    for coefficient, powers in p:
        for k, power in enumerate(powers):
            if power:
                raised = [*powers, 0]
                raised[k] -= 1
                raised[k + 1] += 1
                key = tuple(raised) if raised[-1] else tuple(raised[:-1])
                terms[key] = terms.get(key, 0.0) + coefficient * power
    return tuple((coefficient, powers) for powers, coefficient in terms.items())


def _evaluate(p: Polynomial, g: Sequence[Tensor]) -> Tensor:
    total: Tensor | None = None
    for coefficient, powers in p:
        *factors, last = [g[k] for k, power in enumerate(powers) for _ in range(power)]
        product = factors[0] if factors else None
        for factor in factors[1:]:
            product = product * factor if product is not None else factor
        if total is None:
            total = last if product is None else product * last
            total = total if coefficient == 1.0 else coefficient * total
        elif product is None:
            total = torch.add(total, last, alpha=coefficient)
        else:
            total = torch.addcmul(total, product, last, value=coefficient)
    assert total is not None
    return total


def trapezoid(like: Tensor, points: int = POINTS[-1]) -> tuple[Tensor, Tensor]:
    """Nodes and weights (points,) for a standard normal variable, in the dtype and on the device of `like`."""
    nodes = torch.linspace(-REACH, REACH, points, dtype=torch.float64, device=like.device)
    weights = torch.exp(-0.5 * nodes.square())
    weights = weights / weights.sum()
    return nodes.to(like.dtype), weights.to(like.dtype)


@dataclass(frozen=True)
class Quadrature:
    """A rule for `integral over [0, 1]`, symmetric about 1/2.

    Attributes:
        nodes: increasing, in [0, 1].
        weights: positive, with sum 1.
    """

    nodes: tuple[float, ...]
    weights: tuple[float, ...]


@cache
def legendre(count: int) -> Quadrature:
    """Gauss-Legendre: exact for polynomials of degree `2 count - 1`, the ends left out.

    Raises:
        ValueError: `count` is below 1.
    """
    if count < 1:
        raise ValueError(f"a Gauss-Legendre rule needs at least 1 node, got {count}")
    x, w = np.polynomial.legendre.leggauss(count)
    return _on_unit_interval(x, w)


def lobatto(count: int) -> Quadrature:
    """Gauss-Lobatto: exact for polynomials of degree `2 count - 3`, both ends among the nodes.

    Inner nodes are the roots of `P'_(n-1)`, weights `2 / (n (n-1) P_(n-1)(x)^2)` (Abramowitz & Stegun 25.4.32).

    Raises:
        ValueError: `count` is below 2.
    """
    if count < 2:
        raise ValueError(f"a Gauss-Lobatto rule needs at least its 2 ends, got {count}")
    polynomial = np.polynomial.Legendre.basis(count - 1)
    slope = polynomial.deriv()
    x = np.sort(slope.roots().real) if count > 2 else np.empty(0)
    for _ in range(3):  # Newton: the companion matrix leaves a few digits
        x = x - slope(x) / slope.deriv()(x)
    x = np.concatenate(([-1.0], x, [1.0]))
    return _on_unit_interval(x, 2.0 / (count * (count - 1) * polynomial(x) ** 2))


def _on_unit_interval(x: np.ndarray[Any, Any], w: np.ndarray[Any, Any]) -> Quadrature:
    x, w = 0.5 * (x - x[::-1]), 0.5 * (w + w[::-1])  # symmetric to the last digit
    w = w / w.sum()
    return Quadrature(tuple(float(a) for a in 0.5 + 0.5 * x), tuple(float(a) for a in w))
