"""Shapley values by regression on pairs of coalitions, towards a prior where there is one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..errors import CostError, InputError, InputTypeError, MemoryBoundError, NumericsError
from ..game import Game
from .base import Estimate, Estimator
from .designs import choice_bytes, choose_pairs, fit_bytes
from .exact import shapley_weights
from .lacking import Blocks, reach_of
from .odd_games import Fit, OddProcess, differences, every_pair
from .posterior import ERRORS, MOST_FITTED, Sample, mean_prior, tells_directions
from .relevance import relevance_bytes
from .sampling import check_seed
from .waves import wave_bytes
from .windows import Windows

POWERS = (2, 3, 4, 6, 9, 13, 18)
PREFERENCE = 0.2
"""exp(-0.2 power) is how probable a power is before anything is seen: what looks linear at 2 n evaluations seldom is."""
SCREENED = 1024
"""With more pairs than this, powers that these many find improbable (1 in 1,000) are not tried on all."""
IMPROBABLE = 1e-3
NEGLIGIBLE = 0.05
"""A fit of a smaller share says nothing about pairs that were not drawn."""
HIDDEN = 0.25
"""Pairs that fit nothing are missed by this part of what differences are large; all of it is more than networks hide."""


@dataclass(frozen=True, kw_only=True)
class Regression(Estimator):
    """Regression on pairs (coalition, complement), each at most once: up to 64 players those that tell most (see `designs`).

    They are chosen among pairs drawn by leverage scores (Musco and Witter 2025), and as the choice does not hang on the
    network it is made once for all rows, in about a second for a thousand pairs; with more players all are drawn.

    The surrogate is ridge regression on all interactions of odd order, by a Gaussian process whose values are known in
    closed form (see `odd_games`; Bayesian quadrature: O'Hagan 1991); how fast high orders fade is averaged over, each power
    as probable as it makes the differences. With linear terms alone it would be the regression of KernelSHAP. All rows share
    the coalitions, hence the factorisation. Where 2^n evaluations fit the budget all are made, and the values are exact.
    Pairs beyond 4,096 correct the surrogate without bias.

    A prior is n further observations, off by an error that is found with the rest: its relative size has a half-Cauchy
    distribution around 2 % before anything is seen, and is averaged over. So a good prior stays as it is until the sample
    knows better, and a bad one is soon forgotten. Of several priors the mean is taken, row by row, each weighted by the inverse
    square of the error that the pairs find in it; few pairs do not tell them apart, so give priors that are about as good.

    With `relevance` the process is learnt from the differences, row by row: how much each player matters (see `relevance`) and
    along which sums of players the output bends (see `waves`), both weighted by how well they foretell pairs set aside. That
    takes fits of its own for every row and target, some seconds, and pays where passes are dear: errors fall to half where a
    few of the players decide, to a third or less where the output bends along few sums, as that of recurrent networks.

    With `windows` the last layers whose elements depend on a few players each are looked at (see `windows`), as those of a
    convolutional network before it pools: of the sum of their elements that comes nearest to the output the Shapley values
    are found by themselves, from a tenth of the budget, and the regression has only the rest to find. n evaluations tell who
    depends on whom, and 64 gradients, two evaluations each, what the sum is made of: with what tries them n + 164 before
    anything else. It pays with hundreds of players, small windows and some 16 n evaluations or more. Row and target by row
    and target the regression without is made of the same pairs, and the one with smaller standard errors is taken.

    Players whose elements are all at the baseline add nothing and are left out of the game. The values add up to output -
    base value by construction: the gap is rounding, and says nothing about the error. Standard errors are those of the
    posterior and no less, all together, than what one pair in M + 1 makes that was not drawn and is missed by a quarter of
    what differences are large: M pairs that fit do not show that all do. Below 4 n evaluations they are a little small. With
    `relevance` a quarter of the pairs, if that is 8 or more, is not learnt from and says how large errors are; below 32 n
    evaluations they may still be several times too small, most where outputs have kinks: `audit()` knows. A row or target has
    the same values alone as together with others, but for rounding, which the search for relevances enlarges (of a float32
    network to 1e-4 of the values, a hundredth of their standard errors).

    Attributes:
        budget: most evaluations a row, those of the prior not counted; at least 2 n + 2, or 2^n. Against a background each
            of them is a mean over all its rows, and takes as many of the network.
        prior: another estimator whose values are the prior, such as `Propagation()`, or a tuple of several; None for no prior.
        ridge: how much the prior weighs against the sample, as the ratio of their precisions (0: nothing); without a prior
            it is towards equal shares. None finds it, or without a prior takes 0.
        relevance: learn how much players and sums of them matter; if not, all interactions of an order are equally large.
        windows: take off what layers make of windows of the input; refused where there are no such layers.
        seed: of the coalitions, 0 to 2^31 - 1.
    """

    takes_background = True
    budget: int = 2048
    prior: Estimator | tuple[Estimator, ...] | None = None
    ridge: float | None = None
    relevance: bool = False
    windows: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.budget, bool) or not isinstance(self.budget, int):
            raise InputTypeError(f"budget must be an int, got {type(self.budget).__name__}.")
        if self.budget < 2:
            raise InputError(f"budget must be at least 2 evaluations (all players, and none), got {self.budget}.")
        object.__setattr__(self, "prior", check_priors(self.prior))
        if self.ridge is not None:
            if isinstance(self.ridge, bool) or not isinstance(self.ridge, int | float):
                raise InputTypeError(f"ridge must be a number or None, got {type(self.ridge).__name__}.")
            if not (self.ridge >= 0 and math.isfinite(self.ridge)):
                raise InputError(f"ridge must be 0 or more, and finite, got {self.ridge}.")
        for name, value in (("relevance", self.relevance), ("windows", self.windows)):
            if not isinstance(value, bool):
                raise InputTypeError(f"{name} must be True or False, got {type(value).__name__}.")
        check_seed(self.seed)

    def estimate(self, game: Game, *, progress: bool = False) -> Estimate:
        """Values of `game` with their standard errors.

        The settings carry those of the prior, and `evaluations` counts the prior's too.

        Raises:
            CostError: the budget is too small; says the least that works.
            MemoryBoundError: the pairs do not fit the memory bound.
            NumericsError: the outputs are too large to be squared.
        """
        moved = game.moved(torch.arange(game.batch, device=game.device))[:, 0]  # (B, n)
        players = moved.sum(1)
        plain = replace(self, prior=None, ridge=None, relevance=False)  # for games of few players that are evaluated often
        windows = Windows.of(game) if self.windows and 2 ** int(players.max()) > self.budget else None
        for n in sorted(set(players.tolist()), reverse=True):  # the most first: of fewer, more may be learnt
            self._check(game, n, windows)
        priors = [] if self.ridge == 0 else [one.estimate(game, progress=progress) for one in each_prior(self.prior)]
        shape = (game.batch, game.targets.count, game.players.count)
        values, errors = (torch.zeros(shape, dtype=torch.float64, device=game.device) for _ in range(2))
        costs = {n: self._cost(n, windows) for n in players.tolist()}
        with tqdm(total=sum(costs[n] for n in players.tolist()), disable=not progress, unit="evaluation") as bar:
            for n in sorted(set(costs) - {0}):
                members = self._pairs(n, self._pair_count(n, windows), game.device)
                rows = (players == n).nonzero()[:, 0]
                each = self._each(n, len(members), game, windows)
                for some in rows.split(max(1, game.memory // (2 * each))):
                    which = moved[some].nonzero()[:, 1].reshape(len(some), 1, n).expand(-1, shape[1], -1)
                    before = [prior.values[some].double().gather(2, which) for prior in priors]
                    if windows is None or 2**n <= self.budget:
                        found = differences(game, some, which[:, 0], members, bar).unsqueeze(0)
                        known, unknown = torch.zeros(2, 1, *which.shape, dtype=torch.float64, device=game.device)
                    else:
                        found, known, unknown = windows.beside(some, which[:, 0], members, plain, bar)
                    judged = self.judge(members, found.flatten(0, 2), [(b - known).flatten(0, 2) for b in before], game.memory)
                    ways = judged.values.reshape(known.shape) + known
                    error = torch.hypot(judged.standard_errors.reshape(known.shape), unknown)
                    best = error.square().sum(-1, keepdim=True).argmin(0, keepdim=True).expand(-1, -1, -1, n)
                    values[some] = values[some].scatter(2, which, ways.gather(0, best)[0])
                    errors[some] = errors[some].scatter(2, which, error.gather(0, best)[0])
        if not bool(values.isfinite().all() and errors.isfinite().all()):
            raise NumericsError(
                "the squares of the outputs' differences are beyond what float64 holds. Explain the output divided by a number "
                "that brings it near 1; the values are those of it times that number."
            )
        own = game.rows_each * (2 + sum(costs[n] for n in players.tolist()) / game.batch)
        settings: dict[str, Any] = {"budget": self.budget, "prior": None, "ridge": self.ridge, "relevance": self.relevance}
        settings |= {"windows": self.windows, "seed": self.seed}
        if windows is not None:
            settings |= {"layers": windows.names, "colours": windows.colour_count}
        said = [
            {"method": type(one).__name__, **prior.settings, "evaluations": prior.evaluations}
            for one, prior in zip(each_prior(self.prior), priors, strict=False)
        ]
        settings["prior"] = (said if isinstance(self.prior, tuple) else said[0]) if said else None
        cost = own + sum(prior.evaluations for prior in priors)
        return Estimate(values, errors, cost, settings, sum(prior.propagations for prior in priors))

    def _check(self, game: Game, n: int, windows: Windows | None) -> None:
        """Refuse a budget that is too small for n players, and pairs that do not fit the memory bound."""
        least = min(2**n, 2 * n + 2)
        if windows is not None and least < 2**n:
            least = min(2**n, windows.least(least))
        if self.budget < least:
            amount = "them all" if least == 2**n else "2 n + 2" if windows is None else "2 n + 2 beside those of windows"
            raise CostError(
                f"a budget of {self.budget:,} evaluations is too small for {n:,} players that differ from the baseline: give "
                f"budget={least} or more ({amount}), or group elements into players."
            )
        pairs = self._pair_count(n, windows)
        work = 40 * pairs * n
        if 2**n > self.budget:
            fitted = min(pairs, MOST_FITTED)
            more = relevance_bytes(n, fitted) if self.relevance else 0
            if self.relevance and tells_directions(n, pairs + 1):
                more += wave_bytes(n, fitted)
            work = max(fit_bytes(n, fitted) + more + 4 * pairs * n, choice_bytes(n, pairs))
        each = self._each(n, pairs, game, windows)
        if windows is not None and each > game.memory:
            raise MemoryBoundError(
                f"windows of {', '.join(windows.names)} need {each / 2**20:,.3g} MiB for a row, most of it for gradients of "
                f"their elements, and the memory bound is {game.memory / 2**20:,.3g} MiB. Raise memory=, ask for fewer targets "
                "at once, or leave windows= out."
            )
        needed = work + each
        if needed > game.memory:
            raise MemoryBoundError(
                f"regression on {pairs:,} pairs of coalitions of {n:,} players needs {needed / 2**20:,.3g} MiB, and the memory "
                f"bound is {game.memory / 2**20:,.3g} MiB. Raise memory=, or lower budget=."
            )

    @staticmethod
    def row_bytes(n: int, pairs: int, targets: int) -> int:
        """For the differences of one row and the values by power and error of the prior, several copies alive at once."""
        return 8 * targets * (8 * (pairs + 1) + 4 * n * len(POWERS) * len(ERRORS))

    def _pairs(self, n: int, count: int, device: torch.device) -> Tensor:
        """Members of the coalitions whose pairs are evaluated, all players last, (M + 1, n) bool."""
        drawn = every_pair(n, device) if 2**n <= self.budget else choose_pairs(n, count, self.seed).to(device)
        return torch.cat((drawn, torch.ones(1, n, dtype=torch.bool, device=device)))

    def _pair_count(self, n: int, windows: Windows | None) -> int:
        """Pairs to evaluate for n players beside (nobody, all)."""
        if 2**n <= self.budget:
            return int(2 ** max(0, n - 1)) - 1
        return (self.budget - 2 - (0 if windows is None else windows.evaluations(self.budget))) // 2

    def _each(self, n: int, pairs: int, game: Game, windows: Windows | None) -> int:
        """Memory of a row."""
        if windows is None:
            return self.row_bytes(n, pairs, game.targets.count)
        return self.row_bytes(n, pairs, 2 * game.targets.count) + windows.row_bytes(self.budget)

    def _cost(self, n: int, windows: Windows | None) -> int:
        """Evaluations for a row of n players beside (nobody, all)."""
        beside = 0 if windows is None or 2**n <= self.budget else windows.evaluations(self.budget)
        return 2 * self._pair_count(n, windows) + beside

    def judge(
        self, members: Tensor, differences: Tensor, priors: Sequence[Tensor], memory: int, *, surrogates: bool = False
    ) -> Judged:
        """Values of Q games (a row and target each) from their differences (Q, M + 1) at coalitions (M + 1, n).

        Priors are (Q, n) each. The games that were fitted are kept only where `surrogates` are asked for, as they take memory.
        """
        n, total = members.shape[1], differences[:, -1:]
        if len(members) == 2 ** max(0, n - 1):  # every pair
            values = differences @ shapley_weights(members)
            return Judged(values, torch.zeros_like(values), torch.zeros_like(values), torch.zeros_like(total[:, 0]), ())
        if not priors and self.ridge:
            priors = (torch.zeros_like(total).expand(-1, n),)
        if self.relevance:
            samples = Sample.learnt(members, differences, memory)
        else:
            samples = _by_power(members, differences, memory, surrogates=surrogates)
        still, strange = (differences == 0).all(1, keepdim=True), _strange(n, differences[:, :-1])
        prior = None
        if priors:
            prior = mean_prior(torch.stack([one + (total - one.sum(1, keepdim=True)) / n for one in priors]), samples)
        judged = [
            (sample.evidence + one.evidence, one, sample)
            for sample in samples
            for one in sample.with_prior(prior, self.ridge, strange)
        ]
        weight = torch.stack([log for log, *_ in judged]).softmax(0)  # (K, Q)
        value = torch.stack([one.values for _, one, _ in judged])  # (K, Q, n)
        mean = torch.einsum("kq,kqn->qn", weight, value)
        each = torch.stack([one.variances for _, one, _ in judged])
        variance = torch.einsum("kq,kqn->qn", weight, each + (value - mean).square())
        mean = mean + (total - mean.sum(1, keepdim=True)) / n
        # What a prior gives a game that never moves is its rounding.
        mean, variance = mean.masked_fill(still, 0.0), variance.masked_fill(still, 0.0)
        unseen = torch.einsum("kq,kqn->qn", weight, torch.stack([one.unseen for _, one, _ in judged]))
        most = unseen.sum(1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
        unseen = unseen * (1 - variance.sum(1, keepdim=True) / most).clamp(min=0)
        shares = [
            (weight[[k for k, (*_, sample) in enumerate(judged) if sample is one]].sum(0), one.fit)
            for one in samples
            if one.fit is not None
        ]
        left = differences[:, :-1] - mean @ (2 * members[:-1].double() - 1).T
        missed = left.square().sum(1) / max(1, left.shape[1] - n)
        return Judged(mean, variance.sqrt(), unseen.sqrt(), missed, tuple(shares))


@dataclass(frozen=True, eq=False)
class Judged:
    """What pairs say of Q games.

    Attributes:
        values: (Q, n).
        errors: standard errors by the posterior, which knows only what was drawn, (Q, n).
        unseen: what they lack to those by what was not drawn, (Q, n).
        missed: mean squared error of the differences that the values alone foretell, (Q,).
        surrogates: fitted games and the share of each (Q,); none where every pair was evaluated, or unless asked for.
    """

    values: Tensor
    errors: Tensor
    unseen: Tensor
    missed: Tensor
    surrogates: tuple[tuple[Tensor, Fit], ...]

    @property
    def standard_errors(self) -> Tensor:
        """Of both together, (Q, n)."""
        return torch.hypot(self.errors, self.unseen)

    def lacking(self, blocks: Blocks, found: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
        """What the values lack, without bias, (Q, blocks, n), and the largest error of the surrogate at any pair, (Q,).

        The surrogate is what was fitted, moved so that its values are these; at the pairs of the fit its error is that of
        leaving each out. Where these are not foretold better by the fit than by the values alone, the values are the surrogate.

        Args:
            blocks: fresh pairs.
            found: the differences there, (Q, M).
            total: output less base value, (Q,).
        """
        residual, move = found.clone(), self.values
        for share, fit in self.surrogates:
            residual -= share.unsqueeze(1) * fit.surrogate(blocks.members)
            move = move - share.unsqueeze(1) * fit.values
        linear = found - blocks.foretold(self.values)
        residual = residual - blocks.foretold(move)
        better = torch.zeros(len(found), dtype=torch.bool, device=found.device)
        if self.surrogates:
            better = sum(share * fit.missed for share, fit in self.surrogates) < self.missed
        left = torch.where(better.unsqueeze(1), residual, linear)
        misses = [left.abs().amax(1), *(fit.worst.masked_fill(share < NEGLIGIBLE, 0.0) for share, fit in self.surrogates)]
        return blocks.estimates(left, total - self.values.sum(1)), torch.stack(misses).amax(0)


def _strange(n: int, differences: Tensor) -> Tensor:
    """The variance of a value by pairs that were not drawn and fit nothing, from the differences at those drawn (Q, M), (Q, 1).

    By the rule of succession M pairs without one leave them a part 1 / (M + 1) of the probability.
    """
    count = differences.shape[1]
    part = HIDDEN * (1 - count / (2 ** (n - 1) - 1)) / (count + 1)
    variance: Tensor = differences.square().mean(1, keepdim=True) * ((part * reach_of(n)) ** 2 / n)
    return variance


def _by_power(members: Tensor, differences: Tensor, memory: int, *, surrogates: bool) -> list[Sample]:
    """What the pairs say for every power that is worth trying on some game."""
    samples = []
    for power, chance in zip(POWERS, _likely_powers(members, differences), strict=True):
        if bool(chance.any()):
            sample = Sample.of(OddProcess.of(members.shape[1], power, members.device), members, differences, memory)
            evidence = sample.evidence.where(chance, -torch.inf) - PREFERENCE * power
            samples.append(replace(sample, evidence=evidence, fit=sample.fit if surrogates else None))
    return samples


def _likely_powers(members: Tensor, differences: Tensor) -> list[Tensor]:
    """Whether each power is worth trying on each game, (Q,) bool, by the last pairs if there are many."""
    n, first = members.shape[1], len(members) - 1 - SCREENED
    if first <= 0:
        return [torch.ones(len(differences), dtype=torch.bool, device=members.device) for _ in POWERS]
    some, known = members[first:], differences[:, first:]
    evidence = [Fit.of(OddProcess.of(n, p, members.device), some, known).evidence - PREFERENCE * p for p in POWERS]
    return list(torch.stack(evidence).softmax(0) > IMPROBABLE)


def each_prior(prior: Estimator | tuple[Estimator, ...] | None) -> tuple[Estimator, ...]:
    """None, one, or those of a tuple."""
    if prior is None:
        return ()
    return prior if isinstance(prior, tuple) else (prior,)


def check_priors(prior: Any) -> Estimator | tuple[Estimator, ...] | None:
    """The priors that an option asks for; a list becomes a tuple.

    Raises:
        InputTypeError: something is no estimator.
    """
    given = tuple(prior) if isinstance(prior, list) else prior
    for one in each_prior(given):
        if not isinstance(one, Estimator):
            raise InputTypeError(f"prior must be an estimator such as dasp.Propagation(), or None, got {_kind(one)}.")
    return given


def _kind(value: object) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
