"""Which pairs of coalitions to evaluate: those after which the values are known best.

How well values are known after some pairs does not hang on what the pairs give: under a Gaussian process the posterior
covariance of the values is known before anything is evaluated (Bayesian quadrature, O'Hagan 1991; Bayesian experimental
design, Chaloner and Verdinelli 1995). The pair that lowers its trace most comes next, out of a pool that is drawn by leverage
scores. On the networks of `benchmarks/frontier.py` that halves the error of as many pairs drawn by chance.

Legend: n players, P pairs in the pool, s pairs chosen so far.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from .odd_games import OddProcess, draw_pairs, every_pair
from .sampling import stream

POWER = 3.0
"""Of the process that pairs are chosen for; the choice hardly hangs on it."""
MOST_PLAYERS = 64
"""With more players a pool of this kind holds too few good pairs to be worth the choice."""
MOST_CHOSEN = 2560
"""Pairs beyond this many are drawn by chance, as the work of choosing grows with their cube."""
POOL = 4
SMALLEST_POOL = 2048
BLOCK = 32
SHORTLIST = 8
TIES = 1e-6
"""Gains that differ by less than this part are in the order of chance; rounding does not decide."""
TAKEN = 0.0
MATRICES = 12
"""Of n x n numbers that a regression has alive at once: a covariance for each power, and what the last one takes."""


@lru_cache(maxsize=32)
def choose_pairs(n: int, count: int, seed: int, *, most: int = MOST_CHOSEN) -> Tensor:
    """Members of one coalition of `count` different pairs, drawn ones first, the best last: (count, n) bool, on the CPU.

    Of more than `most` pairs the others are drawn by leverage scores from those that were not chosen, of more than 64 players
    all are.
    """
    generator = stream(seed, audit=False)
    if n > MOST_PLAYERS:
        return draw_pairs(n, count, generator)
    chosen = min(count, most)
    size = _pool_size(n, chosen)
    pool = every_pair(n, torch.device("cpu")) if size == 2 ** (n - 1) - 1 else draw_pairs(n, size, generator)
    members = pool[_Choice(pool, generator).take(chosen)]
    if count == chosen:
        return members.flip(0)
    return torch.cat((draw_pairs(n, count - chosen, generator, without=members), members.flip(0)))


def choice_bytes(n: int, count: int) -> int:
    """Memory that choosing `count` pairs of n players takes."""
    chosen = min(count, MOST_CHOSEN)
    return 0 if n > MOST_PLAYERS else 8 * _pool_size(n, chosen) * (chosen + 4 * n)


def fit_bytes(n: int, pairs: int) -> int:
    """Memory of a regression on pairs of n players, but for the coalitions."""
    return 32 * pairs**2 + 8 * MATRICES * n * n


def fitting(n: int, memory: int) -> int:
    """Pairs of n players on which a regression takes so many bytes, with the coalitions."""
    left = max(0, memory - fit_bytes(n, 0))
    return min(left // (128 * n), math.isqrt(left // 64))


def _pool_size(n: int, chosen: int) -> int:
    return min((1 << n - 1) - 1, max(POOL * chosen, SMALLEST_POOL))


class _Choice:
    """Greedy choice: what each pair of the pool would still tell, with those that were taken known.

    Pairs are taken in blocks, each from a short list of the best ones, among which every choice counts at once; the others
    learn of it at the end of a block, by products of matrices.
    """

    def __init__(self, pool: Tensor, generator: torch.Generator) -> None:
        n, size = pool.shape[1], len(pool)
        self.process = OddProcess.of(n, POWER, pool.device)
        self.signs = torch.cat((2 * pool.double() - 1, torch.ones(1, n, dtype=torch.float64, device="cpu")))
        self.reach = self.process.values(self.signs)  # (n, P + 1), posterior covariance of values and differences
        self.variance = self.process.differ[0].expand(size + 1).clone()  # (P + 1,)
        self.liking = 1 + TIES * torch.rand(size + 1, generator=generator, dtype=torch.float64, device="cpu")
        self.whitened = torch.empty(0, size + 1, dtype=torch.float64, device="cpu")  # (s, P + 1), rows of Cholesky's factor

    def take(self, count: int) -> Tensor:
        """Places in the pool of the best `count`, best first, (count,)."""
        size = len(self.liking) - 1
        rows = torch.empty(count + 1, size + 1, dtype=torch.float64, device="cpu")
        chosen = [torch.tensor([size], device="cpu")]  # everybody is known
        rows[:1] = self._learn(chosen[0])
        known = 1
        while known <= count:
            self.whitened = rows[:known]
            block = self._best(min(BLOCK, 1 + known // SHORTLIST, count + 1 - known))
            rows[known : known + len(block)] = self._learn(block)
            known += len(block)
            chosen.append(block)
        return torch.cat(chosen[1:])

    def _best(self, count: int) -> Tensor:
        """The best `count` of the short list, one after the other."""
        gain = _gain(self.reach, self.variance, self.liking)
        short = gain.topk(min(SHORTLIST * count, len(gain))).indices
        covariance, reach = self._covariance(short, short), self.reach[:, short].clone()
        liking = self.liking[short].clone()
        places = []
        for _ in range(count):
            place = int(_gain(reach, covariance.diagonal(), liking).argmax())
            places.append(place)
            liking[place] = TAKEN
            deviation = covariance[place, place].clamp(min=TIES).sqrt()
            row = covariance[place] / deviation
            reach = reach - torch.outer(reach[:, place] / deviation, row)
            covariance = covariance - torch.outer(row, row)
        return short[torch.tensor(places, device="cpu")]

    def _covariance(self, some: Tensor, others: Tensor | slice) -> Tensor:
        known: Tensor = self.whitened[:, some].T @ self.whitened[:, others]
        prior = self.process.differences(self.signs[some], self.signs[others])
        return prior.sub_(known)

    def _learn(self, some: Tensor) -> Tensor:
        """Take the differences of `some` as known; their rows of Cholesky's factor over the pool, (A, P + 1)."""
        covariance = self._covariance(some, slice(None))  # (A, P + 1)
        factor = torch.linalg.cholesky(covariance[:, some] + TIES * torch.eye(len(some), dtype=torch.float64, device="cpu"))
        rows: Tensor = torch.linalg.solve_triangular(factor, covariance, upper=False)
        reach = torch.linalg.solve_triangular(factor, self.reach[:, some].T, upper=False)  # (A, n)
        self.reach -= reach.T @ rows
        self.variance -= rows.square().sum(0)
        self.liking[some] = TAKEN
        return rows


def _gain(reach: Tensor, variance: Tensor, liking: Tensor) -> Tensor:
    """By how much each pair lowers the trace of the values' covariance, -1 for those taken, (P,)."""
    gain = reach.square().sum(0) / variance.clamp(min=TIES) * liking
    return gain.masked_fill_(liking == TAKEN, -1)
