"""Error and length of values from independent unbiased estimates of them: U-statistics and their intervals."""

from __future__ import annotations

import math
from statistics import NormalDist

import torch
from torch import Tensor

SUMMED_FREEDOM = 200


def row_means(vectors: Tensor) -> Tensor:
    """Of (..., m, n): for each of the m vectors, its mean product with the m - 1 others, (..., m).

    The row means of the Gram matrix without its diagonal, D_a . (sum of D) - |D_a|^2 over m - 1, at a cost of m n.
    """
    with_all = (vectors @ vectors.sum(-2).unsqueeze(-1)).squeeze(-1)
    return (with_all - vectors.square().sum(-1)) / (vectors.shape[-2] - 1)


def interval(error: Tensor, norm: Tensor, confidence: float) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """From row means (R, T, m): relative error, its interval, the squared error and the squared norm, (R, T) each."""
    squared_error, squared_norm = error.mean(-1), norm.mean(-1)
    known = squared_norm > 0
    safe = torch.where(known, squared_norm, 1.0)
    ratio = squared_error / safe
    # Delta method: the error of a ratio A / B is that of A - (A / B) B, over B.
    spread = u_variance(error - ratio.unsqueeze(-1) * norm).sqrt() / safe
    t = student(confidence, error.shape[-1] - 1)
    # Without a positive norm the ratio is unknown, unless everything is 0: then so is the error.
    unknown = torch.where(squared_error == 0, 0.0, torch.inf)
    relative, low, high = (
        torch.where(known, r.clamp(min=0).sqrt(), unknown) for r in (ratio, ratio - t * spread, ratio + t * spread)
    )
    return relative, torch.where(known, low, 0.0), high, squared_error, squared_norm


def covering(
    lacking: Tensor, values: Tensor, confidence: float, unseen: Tensor | float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """As `interval`, of values (R, T, n) and estimates of what they lack (R, T, m, n), with an upper end that covers.

    Student's upper end is missed too often, that of the score test too seldom: a third of the way from the one to the other is
    taken, the second with all the error probability, as the lower end is hardly ever missed. `unseen` as in `upper_bound`.
    """
    relative, low, high, square, size = interval(row_means(lacking), row_means(lacking + values.unsqueeze(2)), confidence)
    score = _score_bound(lacking.flatten(0, 1), square.flatten(), size.flatten(), confidence).reshape(high.shape)
    high = torch.maximum(torch.maximum(high, (2 * high + score) / 3), relative + _part(unseen, size))
    return relative, low, high, square, size


def upper_bound(lacking: Tensor, values: Tensor, confidence: float, unseen: Tensor | float = 0.0) -> tuple[Tensor, Tensor]:
    """Relative error of values (Q, n) and its one-sided bound, from estimates of what they lack (Q, m, n): (Q,) each.

    `unseen` (Q,) is by how much they may be off by coalitions that were not drawn.

    The larger of two: Student's with the jackknife variance, and that of a score test. The first alone fails somewhat too
    often, for where the estimate happens to be low its jackknife variance is low too.
    """
    error, norm = row_means(lacking), row_means(lacking + values.unsqueeze(1))
    relative, _, high, square, size = interval(error, norm, 2 * confidence - 1)
    bound = torch.maximum(high, _score_bound(lacking, square, size, confidence))
    return relative, torch.maximum(bound, relative + _part(unseen, size))


def _part(length: Tensor | float, square: Tensor) -> Tensor:
    """A length by that whose square is estimated; 0 where that is not told from 0, as the rest is unknown there."""
    return length / torch.where(square > 0, square, torch.inf).sqrt()


def _score_bound(lacking: Tensor, square: Tensor, size: Tensor, confidence: float) -> Tensor:
    """The largest relative error h that a score test does not reject, one-sided, (Q,).

    The U-statistic has the variance `4 h^2 tr(S) / (n m) + 2 tr(S^2) / m^2` at it, S the covariance of the estimates.
    """
    m, n = lacking.shape[1:]
    t = student(max(0.0, 2 * confidence - 1), m - 1)  # one-sided, below one half it would count from the other side
    centred = lacking - lacking.mean(1, keepdim=True)
    across = centred.mT @ centred if n <= m else centred @ centred.mT
    trace = centred.square().sum((1, 2)) / (m - 1)
    both = ((across / (m - 1)).square().sum((1, 2)) - trace.square() / m).clamp(min=0)
    half = square + 2 * t * t * trace / (n * m)
    score = half + (half.square() - square.square() + 2 * t * t * both / m**2).clamp(min=0).sqrt()
    # Without a positive norm the ratio is unknown, unless nothing was ever there.
    unknown = torch.where((square == 0) & (trace == 0), 0.0, torch.inf)
    return torch.where(size > 0, (score.clamp(min=0) / size).sqrt(), unknown)


def u_variance(rows: Tensor) -> Tensor:
    """Variance of the mean of the off-diagonal entries of a symmetric m x m matrix of kernel values, from its row means.

    With d_a the mean of row a (..., m), diagonal left out, and h the mean of all: the jackknife for U-statistics
    (Arvesen 1969), 4 (m - 1) / (m (m - 2)^2) * sum_a (d_a - h)^2. It is never negative and errs on the large side.
    """
    m = rows.shape[-1]
    centred = rows - rows.mean(-1, keepdim=True)
    return 4 * (m - 1) / (m * (m - 2) ** 2) * centred.square().sum(-1)


def student(confidence: float, freedom: int) -> float:
    """The t that a variable of Student's distribution stays within, on both sides, with this confidence.

    Up to 200 degrees of freedom the finite sums for the distribution (Abramowitz and Stegun 1964, 26.7.3 and 26.7.4) are
    solved by bisection; beyond, the expansion in 1 / freedom (26.7.5) is off by less than 1e-6.
    """
    if freedom > SUMMED_FREEDOM:
        z, d = -NormalDist().inv_cdf((1 - confidence) / 2), freedom
        return (
            z
            + (z**3 + z) / (4 * d)
            + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * d**2)
            + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * d**3)
        )
    low, high = 0.0, math.pi / 2  # of the angle: t = sqrt(freedom) tan(angle)
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if _within(middle, freedom) < confidence else (low, middle)
    return math.sqrt(freedom) * math.tan(low)


def _within(angle: float, freedom: int) -> float:
    """Probability that |t| <= sqrt(freedom) tan(angle)."""
    odd = freedom % 2
    term = math.cos(angle) if odd else 1.0
    total = 0.0
    for k in range(1, freedom // 2 + 1):
        total += term
        term *= math.cos(angle) ** 2 * (2 * k / (2 * k + 1) if odd else (2 * k - 1) / (2 * k))
    return 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total
