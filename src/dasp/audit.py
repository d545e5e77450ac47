"""The error of an attribution, measured without knowing the truth.

Independent unbiased estimates Y_1 ... Y_m of phi, one per antithetic pair of permutations, give for any estimate
phi_hat, with D_a = phi_hat - Y_a,

    E D_a . D_b = ||phi_hat - phi||^2  for a != b,

so the mean of the off-diagonal entries of the Gram matrix of D is an unbiased estimate of the squared error (a
U-statistic, Hoeffding 1948), and that of Y one of ||phi||^2. Their ratio is the squared relative error.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor
from tqdm.auto import tqdm

from .errors import CostError, InputError, InputTypeError
from .estimators.sampling import check_seed, pair_estimates, stream, walk_cost
from .game import Game

FEWEST_PAIRS = 4


@dataclass(frozen=True, eq=False)
class Audit:
    """The measured error of an attribution of B rows and T targets; tensors are (B, T), float64.

    Attributes:
        relative_error: ||phi_hat - phi|| / ||phi||, from the unbiased squares below; 0 where the estimate of the
            squared error is not positive.
        low: lower end of the interval for the relative error, never below 0.
        high: upper end; infinite where the budget does not tell the values from 0.
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
        mean = "" if count == 1 else f"mean of {count}: "
        error, low, high = (f"{100 * float(x.mean()):.2g} %" for x in (self.relative_error, self.low, self.high))
        return (
            f"{mean}relative error {error} ({100 * self.confidence:g} % interval {low} to {high}), "
            f"{self.evaluations:,} evaluations a row"
        )

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
        InputError: a confidence outside (0, 1), a bad seed, or values of the wrong shape.
    """
    if isinstance(evaluations, bool) or not isinstance(evaluations, int):
        raise InputTypeError(f"audit: evaluations must be an int, got {type(evaluations).__name__}.")
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
    # One player needs no walk: its value is known from the ends.
    pairs = (evaluations - 2) // walk_cost(n) if n > 1 else FEWEST_PAIRS
    guess = values.detach().double()
    error = torch.empty(game.batch, targets, pairs, pairs, dtype=torch.float64, device=game.device)
    norm = torch.empty_like(error)
    rows = torch.arange(game.batch, device=game.device)
    with tqdm(total=game.batch * pairs * walk_cost(n), disable=not progress, unit="evaluation") as bar:
        # A block's estimates are all kept, in float64, for their Gram matrix.
        for block in torch.split(rows, max(1, game.memory // (3 * 8 * pairs * targets * n))):
            found = []
            for estimates in pair_estimates(game, block, pairs, stream(seed, audit=True)):
                found.append(estimates)
                bar.update(len(estimates) * len(block) * walk_cost(n))
            sampled = torch.cat(found).permute(1, 2, 0, 3)  # (R, T, m, n)
            norm[block] = sampled @ sampled.mT
            sampled = guess[block].unsqueeze(2) - sampled
            error[block] = sampled @ sampled.mT
    return _judge(error, norm, 2 + pairs * walk_cost(n), confidence)


def _judge(error: Tensor, norm: Tensor, evaluations: int, confidence: float) -> Audit:
    squared_error, squared_norm = _off_diagonal_mean(error), _off_diagonal_mean(norm)
    known = squared_norm > 0
    safe = torch.where(known, squared_norm, 1.0)
    ratio = squared_error / safe
    # Delta method: the error of a ratio A / B is that of A - (A / B) B, over B.
    spread = u_variance(error - ratio[..., None, None] * norm).sqrt() / safe
    z = _student(0.5 + confidence / 2, error.shape[-1] - 1)
    # Without a positive norm the ratio is unknown, unless everything is 0: then so is the error.
    unknown = torch.where(squared_error == 0, 0.0, torch.inf)
    relative, low, high = (
        torch.where(known, r.clamp(min=0).sqrt(), unknown) for r in (ratio, ratio - z * spread, ratio + z * spread)
    )
    low = torch.where(known, low, 0.0)
    return Audit(relative, low, high, squared_error, squared_norm, evaluations, confidence)


def _off_diagonal_mean(gram: Tensor) -> Tensor:
    m = gram.shape[-1]
    return (gram.sum((-1, -2)) - gram.diagonal(dim1=-2, dim2=-1).sum(-1)) / (m * (m - 1))


def u_variance(kernel: Tensor) -> Tensor:
    """Variance of the mean of the off-diagonal entries h_ab of a symmetric (..., m, m) matrix of kernel values.

    With d_a the mean of row a and h the mean of all: the jackknife for U-statistics (Arvesen 1969),
    4 (m - 1) / (m (m - 2)^2) * sum_a (d_a - h)^2. It is never negative and errs on the large side.
    """
    m = kernel.shape[-1]
    rows = (kernel.sum(-1) - kernel.diagonal(dim1=-2, dim2=-1)) / (m - 1)
    centred = rows - rows.mean(-1, keepdim=True)
    return 4 * (m - 1) / (m * (m - 2) ** 2) * centred.square().sum(-1)


def _student(probability: float, freedom: int) -> float:
    """Quantile of Student's distribution by its Cornish-Fisher expansion (Hill 1970); within 1 % from 3 degrees on."""
    z, d = NormalDist().inv_cdf(probability), freedom
    return (
        z
        + (z**3 + z) / (4 * d)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * d**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * d**3)
    )
