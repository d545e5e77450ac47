"""Gaussian special functions, expectations of smooth functions of a Gaussian, quadrature on [0, 1].

Notation of the package: `X ~ N(m, v)`, `s = sqrt(v)`, `phi` and `Phi` are density and distribution of N(0, 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

SQRT_HALF = math.sqrt(0.5)
INV_SQRT_2PI = 1.0 / math.sqrt(2.0 * math.pi)

REACH = 6.5
POINTS = 65
"""Trapezoid rule for a standard normal variable: equidistant points on +-REACH."""

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


def expect(jet: Jet, integrands: Sequence[Polynomial], m: Tensor, v: Tensor, centre: Tensor) -> tuple[Tensor, ...]:
    """`E p_j(g(X) - centre, g'(X), g''(X), ...)` for `X ~ N(m, v)` and polynomials `p_j`, by one trapezoid rule.

    The rule is spectrally accurate: about 1e-9 while `g` is smooth on the scale of `s / 5`. Gradients follow the heat
    equation, `d/dm E f = E f'` and `d/dv E f = 1/2 E f''`, with the same rule and derivatives of the polynomials; so
    they exist to any order and are the exact limits at `v = 0`. They hold for smooth `g` only: no kinks.

    Args:
        jet: `g` and its derivatives.
        integrands: the polynomials.
        m: means (*s).
        v: variances (*s), not negative; may be 0.
        centre: (*s), usually `g(m)`, so that a large mean costs no digits; a constant, no gradient goes to it.

    Returns:
        One tensor (*s) for each polynomial.
    """
    result: tuple[Tensor, ...] = _Expect.apply(jet, tuple(integrands), m, v, centre)  # type: ignore[no-untyped-call]
    return result


class _Expect(torch.autograd.Function):
    """Quadrature forward, heat equation backward; the backward pass is an expectation again."""

    @staticmethod
    def forward(
        ctx: Any, jet: Jet, integrands: tuple[Polynomial, ...], m: Tensor, v: Tensor, centre: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.jet, ctx.integrands = jet, integrands
        ctx.save_for_backward(m, v, centre)
        nodes, weights = trapezoid(m)
        order = max(len(powers) for p in integrands for _, powers in p) - 1
        results = tuple(torch.empty(m.numel(), dtype=m.dtype, device=m.device) for _ in integrands)
        # All points of a block of elements at once: what fits a processor's cache, or keeps a GPU busy.
        size = 2**10 if m.device.type == "cpu" else 2**18
        flat = (m.reshape(-1), v.sqrt().reshape(-1), centre.reshape(-1), *results)
        for mean, s, c, *parts in zip(*(torch.split(t, size) for t in flat), strict=True):
            g = list(jet(torch.addcmul(mean, s, nodes[:, None]), order))
            g[0] = g[0] - c
            for part, p in zip(parts, integrands, strict=True):
                torch.mv(_evaluate(p, g).t(), weights, out=part)
        return tuple(result.reshape(m.shape) for result in results)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        m, v, centre = ctx.saved_tensors
        given = [grad for grad in grads if grad is not None]
        if not given:
            return (None,) * 5
        first = [derivative(p) for p, grad in zip(ctx.integrands, grads, strict=True) if grad is not None]
        second = [derivative(p) for p in first]
        derived = expect(ctx.jet, (*first, *second), m, v, centre)
        count = len(given)
        return None, None, _dot(given, derived[:count]), 0.5 * _dot(given, derived[count:]), None


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


def trapezoid(like: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes and weights (POINTS,) for a standard normal variable, in the dtype and on the device of `like`."""
    nodes = torch.linspace(-REACH, REACH, POINTS, dtype=torch.float64, device=like.device)
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
