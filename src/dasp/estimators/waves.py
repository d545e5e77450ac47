"""Games that bend along sums of their players: a Gaussian process over odd games whose directions are learnt.

The first layer of a network passes on a few weighted sums of its inputs, and the output bends along these, however many players
they are made of. `RelevanceProcess` knows players one by one and takes such a sum for interactions of all orders. Here
coalitions z and z' are as unlike as P'(z - z') is long, with a whole matrix P that is learnt from the differences of the game
(factor analysis distance: Rasmussen and Williams 2006, section 5.1):

    cov(d(S), d(S')) ~ sum_j share_j (exp(-fading_j |P'(z - z')|^2 / 2) - exp(-fading_j |P'(z + z')|^2 / 2))

Of that values are not known in closed form. But it is the mean of 2 sin(w z) sin(w z') over waves w that are normal with the
covariance fading P P' (Rahimi and Recht 2007), and of a wave they are:

    phi_i of sin(w z) = sin w_i times the mean over x in [-1, 1] of the real part of prod_{k not i} (cos w_k + i x sin w_k)

So the game is taken for a sum of so many waves, beside a `RelevanceProcess` for what is left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .relevance import FADINGS, FIRST, LEARNT_FROM, RelevanceProcess, most_probable, nodes_of_size, uneven

WAVES = 2048
STEPS = 40
START = 0.3
"""Of the diagonal of P, before anything is seen."""
TOGETHER = 16.0
"""What speaks against P is so many times the sum of the squares of its entries off the diagonal."""
MOSTLY = 2.0
"""Log odds of the waves against relevances, before anything is seen."""
ENDS = 1e-9
"""Of quantiles: none is further out."""


def parameter_count(n: int) -> int:
    """Numbers that the metric of n players is made of."""
    return n * (n + 1) // 2


def wave_bytes(n: int, pairs: int) -> int:
    """Memory that waves of n players at so many pairs take, on top of what relevances take."""
    return 8 * WAVES * (10 * n + 3 * pairs)


@dataclass(frozen=True, eq=False)
class WaveProcess:
    """A game is sqrt(1 - part) times one of `rest`, and sqrt(2 part / F) times the sum of F waves, each with a normal weight.

    Differences have a variance of the order of 1.
    """

    waves: Tensor  # (F, n)
    part: float
    rest: RelevanceProcess
    jitter: ClassVar[float] = 1e-9

    @classmethod
    def learnt(cls, signs: Tensor, differences: Tensor) -> WaveProcess:
        """The one that makes the differences (M,) of a game at coalitions (M, n) of signs most probable, by the last 384."""
        z, n = signs[-LEARNT_FROM:], signs.shape[1]
        start = (
            torch.full_like(z[0], FIRST).log(),
            z.new_zeros(len(FADINGS)),
            START * torch.eye(n, dtype=z.dtype, device=z.device),
            z.new_zeros(len(FADINGS)),
            z.new_tensor(MOSTLY),
        )

        def improbable(relevance: Tensor, fading: Tensor, metric: Tensor, bend: Tensor, odds: Tensor) -> tuple[Tensor, Tensor]:
            rest = RelevanceProcess.faded(relevance, fading).differences(z, z)
            covariance = torch.lerp(rest, _bent(z @ metric, bend.softmax(0)), odds.sigmoid())
            together = (metric - metric.diagonal().diag()).square().sum()
            return covariance, uneven(relevance) + TOGETHER * together

        found = most_probable(improbable, start, differences[-LEARNT_FROM:], cls.jitter, STEPS)
        relevance, fading, metric, bend, odds = found
        return cls(_draw(metric, bend.softmax(0)), float(odds.sigmoid()), RelevanceProcess.faded(relevance, fading))

    def differences(self, signs: Tensor, others: Tensor) -> Tensor:
        """cov of differences at coalitions (A, n) and (B, n) of signs, float64: (A, B)."""
        bent = (signs @ self.waves.T).sin_() @ (others @ self.waves.T).sin_().T
        return bent.mul_(self._weight).add_(self.rest.differences(signs, others), alpha=1 - self.part)

    def values(self, signs: Tensor) -> Tensor:
        """cov of the values with the differences at coalitions (M, n) of signs: (n, M)."""
        bent = self._of_waves().T @ (signs @ self.waves.T).sin_().T
        return bent.mul_(self._weight).add_(self.rest.values(signs), alpha=1 - self.part)

    def prior(self) -> Tensor:
        """cov of the values, (n, n)."""
        each = self._of_waves()
        return (each.T @ each).mul_(self._weight).add_(self.rest.prior(), alpha=1 - self.part)

    @property
    def _weight(self) -> float:
        return 2 * self.part / len(self.waves)

    def _of_waves(self) -> Tensor:
        """The values of every sin(w z), (F, n)."""
        even, odd = self.waves.cos(), self.waves.sin()
        result, one = torch.zeros_like(odd), torch.ones_like(odd[:, :1])
        for node, share in zip(*nodes_of_size(self.waves), strict=True):
            factor = torch.complex(even, node * odd)
            before = torch.cat((one, factor[:, :-1]), 1).cumprod(1)
            after = torch.cat((factor[:, 1:], one), 1).flip(1).cumprod(1).flip(1)
            result += share * (before * after).real
        return result * odd


def _bent(at: Tensor, shares: Tensor) -> Tensor:
    """The covariance above at P'z (M, n), (M, M)."""
    inner, length = at @ at.T, at.square().sum(1)
    both = length.unsqueeze(1) + length
    result = torch.zeros_like(inner)
    for share, fading in zip(shares, FADINGS, strict=True):
        apart, joined = both - 2 * inner, both + 2 * inner
        result = result + share * ((-fading / 2 * apart).exp() - (-fading / 2 * joined).exp())
    return result


def _draw(metric: Tensor, shares: Tensor) -> Tensor:
    """Waves (F, n) of a matrix P (n, n) and shares of the fadings, evenly along the axes in which P reaches furthest."""
    places = torch.quasirandom.SobolEngine(len(metric) + 1, scramble=True, seed=0).draw(WAVES + 1, dtype=torch.float64)
    places = places[1:].to(metric.device).clamp(ENDS, 1 - ENDS)
    which = torch.searchsorted(shares.cumsum(0), places[:, 0].contiguous()).clamp(max=len(shares) - 1)
    axes, reach, _ = torch.linalg.svd(metric)
    axes = axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()  # the same ones, whoever decomposes
    normal = torch.special.ndtri(places[:, 1:])
    result: Tensor = shares.new_tensor(FADINGS)[which].sqrt().unsqueeze(1) * ((normal * reach) @ axes.T)
    return result
