"""The error of an attribution, measured without knowing the truth.

Independent unbiased estimates Y_1 ... Y_m of phi, one per antithetic pair of permutations, give for any estimate
phi_hat, with D_a = phi_hat - Y_a,

    E D_a . D_b = ||phi_hat - phi||^2  for a != b,

so the mean of the off-diagonal entries of the Gram matrix of D is an unbiased estimate of the squared error (a
U-statistic, Hoeffding 1948), and that of Y one of ||phi||^2. Their ratio is the squared relative error. Only the row
means of these matrices are needed, so that they are never built.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor
from tqdm.auto import tqdm

from .errors import CostError, InputError, InputTypeError
from .estimators.sampling import check_seed, pair_estimates, stream, walk_cost
from .game import Game

FEWEST_PAIRS = 4
SUMMED_FREEDOM = 200


@dataclass(frozen=True, eq=False)
class Audit:
    """The measured error of an attribution of B rows and T targets; tensors are (B, T), float64.

    Attributes:
        relative_error: ||phi_hat - phi|| / ||phi||, from the unbiased squares below; 0 where the estimate of the
            squared error is not positive. Where the budget does not tell phi from 0 (the squared norm is not positive)
            it is 0 if the squared error is 0 too, as for a row at its baseline, and infinite otherwise. Never NaN.
        low: lower end of the interval for the relative error, never below 0; 0 where phi is not told from 0.
        high: upper end; infinite where the relative error is.
        squared_error: unbiased estimate of ||phi_hat - phi||^2; may be negative when the error is small.
        squared_norm: unbiased estimate of ||phi||^2.
        evaluations: evaluations spent per row.
        confidence: of the interval, between 0 and 1.
    """

    relative_error: Tensor
    low: Tensor
    high: Tensor
    squared_error: Tensor
    squared_norm: Tensor
    evaluations: int
    confidence: float

    def __str__(self) -> str:
        count = self.relative_error.numel()
        known = torch.isfinite(self.relative_error)
        told = int(known.sum())
        cost = f"{self.evaluations:,} evaluations a row"
        if not told:
            return f"relative error unknown (the values are not told from 0), {cost}"
        mean = "" if count == 1 else f"mean of {told}: "
        error, low, high = (f"{100 * float(x[known].mean()):.2g} %" for x in (self.relative_error, self.low, self.high))
        rest = "" if told == count else f"; {count - told} more unknown (values not told from 0)"
        return f"{mean}relative error {error} ({100 * self.confidence:g} % interval {low} to {high}){rest}, {cost}"

    __repr__ = __str__


def audit(
    game: Game,
    values: Tensor,
    *,
    evaluations: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
    progress: bool = False,
) -> Audit:
    """Measure the relative error of `values` (B, T, n) in `game`, with an interval.

    The permutations are independent of those of `PermutationSampling` whatever the seeds. The interval is Student's
    (pairs - 1 degrees of freedom), on the squared error, with the jackknife variance of the U-statistic; it allows for
    the error of the denominator too.

    Raises:
        CostError: `evaluations` (per row) allow fewer than 4 antithetic pairs.
        InputError: a confidence outside (0, 1), a bad seed, values of the wrong shape, or a model or inputs that were
            changed since the values were computed.
    """
    if isinstance(evaluations, bool) or not isinstance(evaluations, int):
        raise InputTypeError(f"audit: evaluations must be an int, got {type(evaluations).__name__}.")
    if isinstance(confidence, bool) or not isinstance(confidence, int | float):
        raise InputTypeError(f"audit: confidence must be a number, got {type(confidence).__name__}.")
    if not 0 < confidence < 1:
        raise InputError(f"audit: confidence must lie between 0 and 1, got {confidence}.")
    check_seed(seed)
    n, targets = game.players.count, game.targets.count
    if values.shape != (game.batch, targets, n):
        raise InputError(f"audit: expected values of shape {(game.batch, targets, n)}, got {tuple(values.shape)}.")
    least = 2 + FEWEST_PAIRS * walk_cost(n)
    if evaluations < least:
        raise CostError(
            f"audit: {evaluations:,} evaluations a row are too few for an interval with {n:,} players; "
            f"give evaluations={least} or more, or group elements into players."
        )
    game.check_unchanged()
    # One player needs no walk: its value is known from the ends.
    pairs = (evaluations - 2) // walk_cost(n) if n > 1 else FEWEST_PAIRS
    rows = torch.arange(game.batch, device=game.device)
    parts: list[tuple[Tensor, ...]] = []
    with tqdm(total=game.batch * pairs * walk_cost(n), disable=not progress, unit="evaluation") as bar:
        # A block's estimates are all kept, in float64; a quarter of the bound leaves room for what is made of them.
        for block in torch.split(rows, max(1, game.memory // (4 * 8 * pairs * targets * n))):
            sampled = torch.empty(len(block), targets, pairs, n, dtype=torch.float64, device=game.device)
            done = 0
            for estimates in pair_estimates(game, block, pairs, stream(seed, audit=True)):
                sampled[:, :, done : done + len(estimates)] = estimates.permute(1, 2, 0, 3)
                done += len(estimates)
                bar.update(len(estimates) * len(block) * walk_cost(n))
            norm = row_means(sampled)
            error = row_means(sampled.sub_(values[block].detach().double().unsqueeze(2)))
            parts.append(_judge(error, norm, confidence))
    relative, low, high, squared_error, squared_norm = (torch.cat(part) for part in zip(*parts, strict=True))
    return Audit(relative, low, high, squared_error, squared_norm, 2 + pairs * walk_cost(n), confidence)


def row_means(vectors: Tensor) -> Tensor:
    """Of (..., m, n): for each of the m vectors, its mean product with the m - 1 others, (..., m).

    The row means of the Gram matrix without its diagonal, D_a . (sum of D) - |D_a|^2 over m - 1, at a cost of m n.
    """
    with_all = (vectors @ vectors.sum(-2).unsqueeze(-1)).squeeze(-1)
    return (with_all - vectors.square().sum(-1)) / (vectors.shape[-2] - 1)


def _judge(error: Tensor, norm: Tensor, confidence: float) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
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
