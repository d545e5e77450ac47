"""Smooth activation functions with their derivatives of any order: `jet(x, order) -> (g, g', ..., g^(order))`.

Written with truncated Taylor series: `g_k = g^(k) / k!`. A function with a differential equation gets its series from
it (Griewank & Walther 2008, chapter 13): `t = tanh(u)` from `t' = (1 - t^2) u'`, the sigmoid from `p' = p (1 - p)`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .special import Asymptotes, Phi, phi

Series = list[Tensor]

# `wide` keeps the error of the trapezoid rule below 1e-10: it falls as exp(-31 d / s) with the distance d of the poles
# of the function from the real line (pi for the sigmoid, pi/2 for tanh), as exp(-480 / s^2) for the GELU.
SIGMOID_ENDS = Asymptotes((0.0, 0.0), (1.0, 0.0), 28.0, 3.0)
TANH_ENDS = Asymptotes((-1.0, 0.0), (1.0, 0.0), 14.0, 1.5)
ERF_ENDS = Asymptotes((-1.0, 0.0), (1.0, 0.0), 5.5, 2.0)
SILU_ENDS = Asymptotes((0.0, 0.0), (0.0, 1.0), 30.0, 3.0)
MISH_ENDS = Asymptotes((0.0, 0.0), (0.0, 1.0), 26.0, 2.0)
GELU_ENDS = Asymptotes((0.0, 0.0), (0.0, 1.0), 8.0, 3.0)
GELU_TANH_ENDS = Asymptotes((0.0, 0.0), (0.0, 1.0), 7.0, 2.0)
LOG_SIGMOID_ENDS = Asymptotes((0.0, 1.0), (0.0, 0.0), 28.0, 3.0)


def softplus_ends(beta: float = 1.0) -> Asymptotes:
    """Asymptotes of `log(1 + exp(beta x)) / beta`."""
    flat, identity = (0.0, 0.0), (0.0, 1.0)
    left, right = (flat, identity) if beta > 0 else (identity, flat)
    return Asymptotes(left, right, 28.0 / abs(beta), 3.0 / abs(beta))


def _product(a: Sequence[Tensor], b: Sequence[Tensor], k: int) -> Tensor:
    """Coefficient k of a product of series."""
    total = a[0] * b[k]
    for i in range(1, k + 1):
        total = torch.addcmul(total, a[i], b[k - i])
    return total


def _derivatives(series: Series) -> Series:
    return [g if k < 2 else math.factorial(k) * g for k, g in enumerate(series)]


def _sigmoid_series(x: Tensor, order: int) -> Series:
    p = [torch.sigmoid(x)]
    q = [torch.addcmul(p[0], p[0], p[0], value=-1.0)]  # q = p (1 - p), the series of p'
    for k in range(1, order + 1):
        p.append(q[k - 1] / k)
        if k < order:
            q.append(p[k] - _product(p, p, k))
    return p


def _tanh_series(u: Sequence[Tensor], order: int) -> Series:
    """The series of `tanh(u)`, given that of `u` up to the same order."""
    t = [torch.tanh(u[0])]
    q = [1.0 - t[0] * t[0]]
    for k in range(1, order + 1):
        total = u[1] * q[k - 1]
        for j in range(2, k + 1):
            total = torch.addcmul(total, u[j], q[k - j], value=j)
        t.append(total if k == 1 else total / k)
        if k < order:
            q.append(-_product(t, t, k))
    return t


def _times_x(x: Tensor, g: Series) -> Series:
    """The series of `x g(x)`."""
    return [x * g[0], *(torch.addcmul(g[k - 1], x, g[k]) for k in range(1, len(g)))]


def sigmoid_jet(x: Tensor, order: int) -> Series:
    """`1 / (1 + exp(-x))` and its derivatives."""
    return _derivatives(_sigmoid_series(x, order))


def tanh_jet(x: Tensor, order: int) -> Series:
    """`tanh(x)` and its derivatives."""
    t = [torch.tanh(x)]
    q = [1.0 - t[0] * t[0]]
    for k in range(1, order + 1):
        t.append(q[k - 1] / k if k > 1 else q[0])
        if k < order:
            q.append(-_product(t, t, k))
    return _derivatives(t)


def silu_jet(x: Tensor, order: int) -> Series:
    """`x / (1 + exp(-x))` and its derivatives."""
    return _derivatives(_times_x(x, _sigmoid_series(x, order)))


def softplus_jet(x: Tensor, order: int, beta: float = 1.0) -> Series:
    """`log(1 + exp(beta x)) / beta` and its derivatives, those of the sigmoid."""
    y = beta * x
    value = (y.clamp(min=0.0) + torch.log1p(torch.exp(-y.abs()))) / beta
    return [value, *(beta**k * g for k, g in enumerate(sigmoid_jet(y, order - 1) if order else ()))]


def log_sigmoid_jet(x: Tensor, order: int) -> Series:
    """`-log(1 + exp(-x))` and its derivatives: the softplus, negated and mirrored."""
    return [g if k % 2 else -g for k, g in enumerate(softplus_jet(-x, order))]


def mish_jet(x: Tensor, order: int) -> Series:
    """`x tanh(log(1 + exp(x)))` and its derivatives."""
    inner = [g / math.factorial(k) for k, g in enumerate(softplus_jet(x, order))]
    return _derivatives(_times_x(x, _tanh_series(inner, order)))


def gelu_jet(x: Tensor, order: int) -> Series:
    """`x Phi(x)` and its derivatives: from the second on `phi(x)` times a polynomial, the first of them `2 - x^2`."""
    p = Phi(x)
    if order == 0:
        return [x * p]
    bell = phi(x)
    return [x * p, torch.addcmul(p, x, bell), *_bell_jet(x, bell, [2.0, 0.0, -1.0], 1.0, order - 1)]


def gelu_tanh_jet(x: Tensor, order: int) -> Series:
    """`x (1 + tanh(k (x + c x^3))) / 2`, `k = sqrt(2/pi)`, `c = 0.044715`, and its derivatives."""
    k, c = math.sqrt(2 / math.pi), 0.044715
    square = x * x
    u = [k * x * (1 + c * square), k * (1 + 3 * c * square), 3 * k * c * x, torch.full_like(x, k * c)]
    u += [torch.zeros_like(x)] * max(0, order - 3)
    t = _tanh_series(u, order)
    t[0] = 1.0 + t[0]
    return [0.5 * g for g in _derivatives(_times_x(x, t))]


def erf_jet(x: Tensor, order: int) -> Series:
    """`erf(x)` and its derivatives, `exp(-x^2)` times polynomials."""
    bell = torch.exp(-x * x)
    return [torch.erf(x), *_bell_jet(x, bell, [2 / math.sqrt(math.pi)], 2.0, order)]


def _bell_jet(x: Tensor, bell: Tensor, p: list[float], rate: float, count: int) -> Series:
    """`bell p(x)` and its first `count - 1` derivatives, where `bell' = -rate x bell`; p from the constant term up."""
    result = []
    for _ in range(count):
        value = torch.full_like(x, p[-1])
        for coefficient in reversed(p[:-1]):
            value = value * x + coefficient
        result.append(bell * value)
        raised = [k * p[k] for k in range(1, len(p))] + [0.0, 0.0]
        p = [a - rate * b for a, b in zip(raised, [0.0, *p], strict=False)]
    return result
