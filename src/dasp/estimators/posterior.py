"""What pairs of coalitions say of Shapley values under one process, alone and together with a prior."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .odd_games import Fit, Process, can_correct, held_out
from .relevance import FADINGS, LEARNT_FROM, RelevanceProcess
from .waves import WaveProcess, parameter_count

MOST_FITTED = 4096
"""Pairs beyond this many correct the surrogate of the others, as its cost grows with their cube."""
USUAL_ERROR = 0.02
"""Half of all priors are taken to be off by less than this part, before anything is seen."""
ERRORS = tuple(10 ** (k / 4) for k in range(-14, 3))
"""Relative errors of the prior that are tried."""

FEWEST_EACH = 0.5
"""Pairs for each number of a metric, from which one is tried."""
SET_ASIDE = 4
"""One in so many pairs is not learnt from, and so says how large the errors of what was learnt are."""
FEWEST_ASIDE = 8
"""Of fewer the mean error says little: all are learnt from then, and variances widened by how much was learnt."""
MOST_WIDENED = 4
"""Variances grow by no more than this where nearly as much is learnt as there are pairs."""


def unlearnt(count: int, device: torch.device) -> Tensor:
    """Which of so many pairs, everybody last, a process is not learnt from, (M,) bool: one in 4, and what 384 leave over.

    None, where one in 4 is too few.
    """
    from_last = torch.arange(count - 1, -1, -1, device=device)
    aside = from_last % SET_ASIDE == SET_ASIDE - 1
    if count // SET_ASIDE < FEWEST_ASIDE:
        return torch.zeros_like(aside)
    return aside | ((~aside).flip(0).cumsum(0).flip(0) > LEARNT_FROM)


def tells_directions(n: int, pairs: int) -> bool:
    """Whether so many pairs may tell along which directions a game of n players bends."""
    return pairs >= max(FEWEST_EACH * parameter_count(n), SET_ASIDE * FEWEST_ASIDE)


@dataclass(frozen=True, eq=False)
class Combined:
    """The sample and the prior together, for one error of the prior."""

    evidence: Tensor | float  # (Q,), log probability of the prior given the sample, and of its error
    values: Tensor  # (Q, n)
    variances: Tensor  # (Q, n)
    unseen: Tensor  # (Q, n), variances too


@dataclass(frozen=True, eq=False)
class Sample:
    """What the pairs say of Q games under a process: values, and a covariance of them up to a scale."""

    values: Tensor  # (Q, n)
    covariance: Tensor  # (1, n, n), or (Q, n, n) where each game has a process of its own
    scale: Tensor  # (Q,), that values and errors are judged by
    likely: Tensor  # (Q,), the one that goes with the evidence
    evidence: Tensor  # (Q,)
    freedom: int  # pairs beyond those that n values take
    fit: Fit | None

    @classmethod
    def of(cls, process: Process, members: Tensor, differences: Tensor, memory: int, fresh: Tensor | None = None) -> Sample:
        """Fit the last up to 4,096 pairs, with everybody; any others correct what they give, where they are enough for that.

        With the sums of variances t_0 of the fit and t_1 of the correction, the best mean of both takes t_0 / (t_0 + t_1)
        of the correction, and leaves t_1 / (t_0 + t_1) of the variance.
        """
        n = members.shape[1]
        first = max(0, len(members) - 1 - MOST_FITTED)
        fit = Fit.of(process, members[first:], differences[:, first:], None if fresh is None else fresh[first:])
        values, left = fit.values, torch.ones_like(fit.size)
        if first and can_correct(n, members[first:-1], members[:first]):
            step = max(1, memory // (32 * (len(fit.signs) + n + len(differences))))
            lacking, variance = held_out(fit, members[:first], differences[:, :first], step)
            unknown = fit.size * fit.covariance.trace()
            both = (variance + unknown).clamp(min=torch.finfo(torch.float64).tiny)
            left = variance / both
            values = values + (unknown / both).unsqueeze(1) * lacking
        freedom = max(1, len(fit.signs) - n)
        return cls(values, fit.covariance[None], left * fit.size, left * fit.likely, fit.evidence, freedom, fit)

    @classmethod
    def learnt(cls, members: Tensor, differences: Tensor, memory: int) -> list[Sample]:
        """As `of`, by processes that every game's own differences tell: relevances, and directions where pairs allow for it.

        Learnt from few pairs, many numbers make these probable and others not: their evidence is what those set aside say.
        """
        found = [cls._of_each(RelevanceProcess.learnt, members, differences, memory)]
        if tells_directions(members.shape[1], len(members)):
            found.append(cls._of_each(WaveProcess.learnt, members, differences, memory))
        return found

    @classmethod
    def _of_each(cls, learnt: Callable[[Tensor, Tensor], Process], members: Tensor, differences: Tensor, memory: int) -> Sample:
        """As `of`, but the process of each game is learnt from its differences; others of them say how large errors are."""
        signs, parts = 2 * members.double() - 1, []
        n, fresh = members.shape[1], unlearnt(len(members), members.device)
        judges = int(fresh.sum())
        few = max(len(members) - n - len(FADINGS), len(members) / MOST_WIDENED)
        for one in differences.split(1):
            part = cls.of(learnt(signs[~fresh], one[0, ~fresh]), members, one, memory, fresh if judges else None)
            if judges:
                foretold = part.evidence if part.fit is None else part.fit.foretold
                part = replace(part, likely=part.scale, evidence=foretold, freedom=judges)
            else:
                part = replace(part, scale=part.scale * len(members) / few)
            parts.append(replace(part, fit=None))

        def together(name: str) -> Tensor:
            return torch.cat([getattr(part, name) for part in parts])

        return cls(
            together("values"), together("covariance"), together("scale"), together("likely"), together("evidence"),
            parts[0].freedom, None,
        )  # fmt: skip

    def with_prior(self, prior: Tensor | None, ridge: float | None, strange: Tensor) -> list[Combined]:
        """Without a prior this alone; else together with it, for a ridge or for every error that a prior may have.

        In the axes of the covariance, prior - values has the variance scale * l + tau^2; as the scale is an estimate it is
        Student's. The values move to the prior by the part scale * l / (scale * l + tau^2); for the rest of them counts
        `strange` (Q, 1), the variance by what was not drawn.
        """
        if prior is None:
            variance = self.scale.unsqueeze(1) * self.covariance.diagonal(dim1=1, dim2=2).clamp(min=0)
            return [Combined(0.0, self.values, variance, strange.expand_as(variance))]
        # Efficiency is known: along the axis on which all values grow together nothing is left to find.
        others = _sum_zero(self.covariance[0])
        spread, inner = torch.linalg.eigh(others.T @ self.covariance @ others)
        spread, axis = spread.clamp(min=0), others @ inner  # (1 or Q, n - 1), (1 or Q, n, n - 1)
        back = axis.transpose(1, 2)
        away = _each(prior - self.values, axis)  # (Q, n - 1)
        within = self.scale.unsqueeze(1) * spread
        tiny = torch.finfo(torch.float64).tiny

        def combined(tau2: Tensor, evidence: Tensor | float) -> Combined:
            both = (within + tau2).clamp(min=tiny)
            values = self.values + _each(away * within / both, back)
            unseen = _each(strange * (tau2 / both).square(), back.square())
            return Combined(evidence, values, _each(within * tau2 / both, back.square()), unseen)

        if ridge is not None:
            return [combined(within.mean(1, keepdim=True) / ridge, 0.0)]
        typical = torch.maximum(*(x.square().mean(1, keepdim=True) for x in (prior, self.values)))
        result = []
        for error in ERRORS:
            tau2 = error**2 * typical
            variance = (self.likely.unsqueeze(1) * spread + tau2).clamp(min=tiny)
            surprise = (away.square() / variance).sum(1)
            evidence = -(self.freedom + spread.shape[1]) / 2 * (surprise / self.freedom).log1p() - variance.log().sum(1) / 2
            expected = math.log(error / (1 + (error / USUAL_ERROR) ** 2))
            result.append(combined(tau2, evidence + expected))
        return result


def mean_prior(priors: Tensor, samples: list[Sample]) -> Tensor:
    """The mean of K priors (K, Q, n), weighted by the inverse of their squared errors, (Q, n).

    These are squared distances to what the samples say, less the part that is the samples' own; by how much that varies is
    the least error that is told from none.
    """
    weight = torch.stack([sample.evidence for sample in samples]).softmax(0).unsqueeze(2)  # (S, Q, 1)
    values = (weight * torch.stack([sample.values for sample in samples])).sum(0)
    traces = [sample.covariance.diagonal(dim1=1, dim2=2).sum(1) for sample in samples]
    unknown = torch.stack([sample.scale * trace for sample, trace in zip(samples, traces, strict=True)]).unsqueeze(2)
    own = (weight * unknown).sum(0)  # (Q, 1)
    far = ((priors - values).square().sum(2, keepdim=True) - own).clamp(min=0) + own * (2 / priors.shape[2]) ** 0.5
    near = 1 / far.clamp(min=torch.finfo(torch.float64).tiny)
    mean: Tensor = (priors * near).sum(0) / near.sum(0)
    return mean


def _each(rows: Tensor, matrices: Tensor) -> Tensor:
    """Row q (Q, a) times the matrix (Q, a, b), or (1, a, b) for all: (Q, b)."""
    return (rows.unsqueeze(1) @ matrices).squeeze(1)


def _sum_zero(like: Tensor) -> Tensor:
    """An orthonormal basis of the n-vectors that add up to 0, (n, n - 1): a reflection that takes the first axis to ones."""
    n = len(like)
    normal = torch.full((n, 1), -(n**-0.5), dtype=like.dtype, device=like.device)
    normal[0] += 1
    return torch.eye(n, dtype=like.dtype, device=like.device)[:, 1:] - normal @ normal[1:].T * (2 / normal.square().sum())
