"""The mean of the squares along an axis, which variances, norms and normalisations are made of."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..gaussian import Gaussian


@dataclass(frozen=True)
class MeanSquare:
    """`S = mean of x^2` over the last axis of a value, centred before or not; b are the axes before.

    Attributes:
        value: x, centred if asked for, (*b, D).
        moments: mean, loadings and rest of S, (*b, 1).
        spread: the part of the mean of S that the variances of x make up, (*b, 1).
        noise: the part of `Cov(x_j, S)` that no factor carries, (*b, D).
    """

    value: Gaussian
    moments: Gaussian
    spread: Tensor
    noise: Tensor


def mean_square(x: Gaussian, *, centred: bool, skew: Tensor | None = None) -> MeanSquare:
    """Moments of a quadratic form of Gaussians; exact.

    With D elements, means m and loadings L (both centred if asked for) and independent rests d, `S = mean(x^2)` has

        E S = mean(m^2 + sum_r L_r^2) + mean(d) (1 - k),  loadings S_r = 2 mean(m L_r),
        Var S = sum_r S_r^2 + (2/D^2) (sum_rs (L_r . L_s)^2 + sum_j 2 d_j (m_j^2 + sum_r L_rj^2) + Q),
        Q = sum_j d_j^2 (1 - 2k) + (k sum_j d_j)^2,   k = 1/D if centred, else 0.

    Factors that are players take two values: with their `skewness` k_r, again exactly, S_r gains `k_r L_r . L_r / D`, and the
    terms of equal r and s are left out of the variance.

    The rest of centred elements is `d_j (1 - 2k) + k^2 sum d`; that they depend on each other is kept in S only.
    """
    size = x.mean.shape[-1]
    m, factors, d = x.mean, x.factors, x.rest
    k = 1 / size if centred else 0.0
    total = d.sum(-1, keepdim=True)
    if centred:
        m = m - m.mean(-1, keepdim=True)
        factors = None if factors is None else factors - factors.mean(-1, keepdim=True)
    squares = None if factors is None else factors.square()
    explained = torch.zeros_like(m) if squares is None else squares.sum(0)
    own = (d.square() * (1 - 2 * k) + 2 * d * (m.square() + explained)).sum(-1, keepdim=True) + (k * total).square()
    noise = 2 / size * m * d
    noise = noise - noise.mean(-1, keepdim=True) if centred else noise
    spread = explained.mean(-1, keepdim=True) + total * ((1 - k) / size)
    mean = m.square().mean(-1, keepdim=True) + spread
    loads = None
    if factors is not None and squares is not None:
        loads = 2 / size * (factors.unsqueeze(-2) @ m.unsqueeze(-1)).squeeze(-1)
        overlap = _overlap(factors)
        if skew is not None:
            lengths = squares.sum(-1, keepdim=True)
            loads = loads + skew * lengths / size
            overlap = (overlap - lengths.square().sum(0)).clamp(min=0)
        own = own + overlap
    value = Gaussian(m, factors, d * (1 - 2 * k) + k * k * total)
    return MeanSquare(value, Gaussian(mean, loads, own * (2 / size**2)), spread, noise)


def _overlap(factors: Tensor) -> Tensor:
    """`sum_rs (L_r . L_s)^2` over the last axis, (*b, 1): over pairs of factors or of elements, whichever are fewer."""
    if factors.shape[0] <= factors.shape[-1]:
        gram = torch.einsum("r...d,s...d->...rs", factors, factors)
    else:
        gram = torch.einsum("r...d,r...e->...de", factors, factors)
    return gram.square().sum((-2, -1)).unsqueeze(-1)
