"""Exact Shapley values by enumeration of all 2^n coalitions."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..errors import CostError
from ..game import Game
from .base import Estimate, Estimator

LARGEST = 24
# A coalition is the bits of an int64, and 2^62 evaluations end no sooner than the sun does.
LARGEST_FORCED = 62


@dataclass(frozen=True, kw_only=True)
class Exact(Estimator):
    """Every coalition is evaluated once (Shapley 1953):

        phi_i = sum over S without i of |S|! (n - |S| - 1)! / n! * (v(S + i) - v(S)),

    or with the weights of another semivalue in place of Shapley's.

    2^n evaluations a row, in chunks under the explainer's memory bound; sums in float64. Against a background as many for
    each of its rows.

    Attributes:
        force: allow more than 24 players.
    """

    takes_background = True
    force: bool = False
    semivalues: ClassVar[bool] = True

    def estimate(self, game: Game, *, progress: bool = False) -> Estimate:
        """Exact values of `game`, without standard errors.

        Raises:
            CostError: more than 24 players and not forced (or more than 62); the message carries the cost.
        """
        n, rows = game.players.count, torch.arange(game.batch, device=game.device)
        if n > LARGEST_FORCED or (n > LARGEST and not self.force):
            raise CostError(_cost(game))
        total, weights = 2**n, weights_of_sizes(game)
        base = game.base_values.double().unsqueeze(1)  # (B, 1, T)
        values = torch.zeros(game.batch, game.targets.count, n, dtype=torch.float64, device=game.device)
        step = max(1, game.chunk // (game.batch * game.rows_each))
        with tqdm(total=total, disable=not progress, unit="coalition") as bar:
            for start in range(0, total, step):
                coalitions = _coalitions(start, min(start + step, total), n, game.device)
                # v(S) is taken from v(no one), which the weights cancel, so that a large offset costs no digits.
                gains = game.table(coalitions, rows).double() - base  # (B, M, T)
                values += torch.einsum("bmt,mn->btn", gains, size_weights(coalitions, weights))
                bar.update(len(coalitions))
        return Estimate(values, None, float(total * game.rows_each), {"force": self.force})

    def interactions(self, game: Game, players: Tensor, *, progress: bool = False) -> Estimate:
        """Interactions of some players (P,) with everybody, (B, T, P, n), exact (Grabisch and Roubens, 1999):

            I_ij = sum over S without i, j of |S|! (n - |S| - 2)! / (n - 1)! (v(S + i + j) - v(S + i) - v(S + j) + v(S)),

        or with the weights `p_|S| + p_(|S| + 1)` of another semivalue; evaluations and errors are those of `estimate`.
        """
        n, rows = game.players.count, torch.arange(game.batch, device=game.device)
        if n > LARGEST_FORCED or (n > LARGEST and not self.force):
            raise CostError(_cost(game))
        base = game.base_values.double().unsqueeze(1)
        values = torch.zeros(game.batch, game.targets.count, len(players), n, dtype=torch.float64, device=game.device)
        weights = weights_of_sizes(game)
        pairs = torch.tensor([a + b for a, b in pairwise(weights)], dtype=torch.float64, device=game.device)
        pairs = torch.nn.functional.pad(pairs, (2, 2))  # of size k at k + 2
        with tqdm(total=2**n, disable=not progress, unit="coalition") as bar:
            for start in range(0, 2**n, step := max(1, game.chunk // (game.batch * game.rows_each))):
                coalitions = _coalitions(start, min(start + step, 2**n), n, game.device)
                gains = (game.table(coalitions, rows).double() - base).transpose(1, 2)  # (B, T, M)
                inside, size = coalitions.double(), coalitions.sum(1)
                both, one, none = pairs[size], pairs[size + 1], pairs[size + 2]
                chosen = inside[:, players]
                product = (gains * (both + 2 * one + none)).unsqueeze(-2) * chosen.T @ inside  # (B, T, P, n)
                single = gains * (one + none)
                values += product - (single @ chosen).unsqueeze(-1) - (single @ inside).unsqueeze(-2)
                values += (gains @ none)[..., None, None]
                bar.update(len(coalitions))
        values[:, :, torch.arange(len(players), device=game.device), players] = 0
        return Estimate(values, None, float(2**n * game.rows_each), {"force": self.force})


def _coalitions(start: int, stop: int, n: int, device: torch.device) -> Tensor:
    numbers = torch.arange(start, stop, device=device).unsqueeze(1)
    return (numbers >> torch.arange(n, device=device)) & 1 == 1  # (stop - start, n)


def weights_of_sizes(game: Game) -> list[float]:
    """The weight p_k of a marginal contribution to k others, (n,): `k! (n - k - 1)! / n!`, or that of the semivalue."""
    n = game.players.count
    if game.semivalue is not None:
        return [float(weight) for weight in game.semivalue.weights_of_sizes(n)]
    return [1 / (n * math.comb(n - 1, size)) for size in range(n)]


def shapley_weights(coalitions: Tensor) -> Tensor:
    """`size_weights` of the Shapley value."""
    n = coalitions.shape[1]
    return size_weights(coalitions, [1 / (n * math.comb(n - 1, size)) for size in range(n)])


def size_weights(coalitions: Tensor, marginal: list[float]) -> Tensor:
    """The weight of v(S) in phi_i, for coalitions (M, n) bool to (M, n) float64, so that phi = sum over all S of it.

    With p_k = `marginal[k]`: p_(|S| - 1) for the members of S, -p_|S| for the others.
    """
    inside = torch.tensor([0.0, *marginal], dtype=torch.float64, device=coalitions.device)
    outside = torch.tensor([*marginal, 0.0], dtype=torch.float64, device=coalitions.device)
    size = coalitions.sum(1)
    return torch.where(coalitions, inside[size].unsqueeze(1), -outside[size].unsqueeze(1))


def _cost(game: Game) -> str:
    n = game.players.count
    total, each = game.batch * 2**n, _amount(2**n * game.rows_each)
    count = min(game.chunk, 256)
    coalitions = torch.zeros(count, n, dtype=torch.bool, device=game.device)
    rows = torch.zeros(1, dtype=torch.int64, device=game.device)
    game.table(coalitions, rows)
    start = time.perf_counter()
    game.table(coalitions, rows).sum().item()
    seconds = (time.perf_counter() - start) / count * total
    forced = "Exact(force=True) does it anyway" if n <= LARGEST_FORCED else f"{LARGEST_FORCED} players are the limit"
    return (
        f"exact enumeration of {n} players takes {each} evaluations a row, for {game.batch} row(s) about "
        f"{_duration(seconds)} here. {forced}; group elements into at most {LARGEST} players, or use another estimator."
    )


def _amount(count: int) -> str:
    return f"{count:,}" if count < 10**15 else f"{float(count):.1e}" if count < 1e300 else f"2^{count.bit_length() - 1}"


def _duration(seconds: float) -> str:
    for unit, size in (("years", 31_557_600), ("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit}"
    return f"{seconds:.1f} seconds"
