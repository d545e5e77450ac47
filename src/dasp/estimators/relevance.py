"""Games whose players matter unequally: a Gaussian process over odd games with a relevance for each player.

`OddProcess` (see `odd_games`) takes all interactions of an order for equally large. In a network some players do nearly
nothing and a few do most, and then interactions are large among these. How much each player matters is learnt from the
differences of a game: the relevances that make them most probable (automatic relevance determination: MacKay 1994, Neal 1996).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

FADINGS = (0.1, 0.3, 1.0, 3.0, 10.0)
"""How slowly orders fade: factors on all relevances, whose mixture is learnt too. Positive mixtures of these geometric
fadings come near to every power of the order."""
LEARNT_FROM = 384
"""Pairs from which relevances are learnt; more tell little more, and cost with their cube."""
STEPS = 20
FIRST = 0.15
"""Relevance of every player before anything is seen."""
SPREAD = 1.0
"""Standard deviation of the logarithm of a relevance, around the mean of all."""
SETTLED = 1e-3
LEAST, MOST = 1e-5, 6.0
"""Of relevance times fading: less is lost to rounding, and the hyperbolic tangent of more is 1."""
MOST_NODES = 48
"""Of Gauss and Legendre, exact up to order 95; of higher orders with smooth weights nothing is left."""


def relevance_bytes(n: int, pairs: int) -> int:
    """Memory that learning the relevances of n players, and then their covariances, take on top of a fit to so many pairs."""
    learning = 24 * min(pairs + 1, LEARNT_FROM) ** 2
    return 8 * max(learning, 2 * pairs**2 + 5 * n * _node_count(n) ** 2 + 6 * n * pairs)


def nodes_of_size(like: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes in [-1, 1] and their shares, which add up to 1, for the players of `like` (..., n)."""
    nodes, weights = np.polynomial.legendre.leggauss(_node_count(like.shape[-1]))
    return like.new_tensor(nodes), like.new_tensor(weights / 2)


def _node_count(n: int) -> int:
    return min(n // 2 + 1, MOST_NODES)


def most_probable(
    improbable: Callable[..., tuple[Tensor, Tensor]],
    start: Sequence[Tensor],
    differences: Tensor,
    jitter: float,
    steps: int,
) -> list[Tensor]:
    """Parameters that make differences (M,) most probable, whatever their size, found by L-BFGS from `start`.

    Args:
        improbable: from parameters the covariance (M, M) up to a factor, and what speaks against the parameters themselves.
    """
    tiny = torch.finfo(differences.dtype).tiny
    d = (differences / differences.square().mean().sqrt().clamp(min=tiny)).unsqueeze(1)
    ridge = jitter * torch.eye(len(d), dtype=d.dtype, device=d.device)
    with torch.enable_grad():
        parameters = [one.clone().requires_grad_() for one in start]
        search = torch.optim.LBFGS(parameters, max_iter=steps, line_search_fn="strong_wolfe", tolerance_change=SETTLED)

        def loss() -> Tensor:
            covariance, against = improbable(*parameters)
            factor = torch.linalg.cholesky(covariance + ridge)
            whitened = torch.linalg.solve_triangular(factor, d, upper=False)
            likely = whitened.square().mean().clamp(min=tiny)
            result: Tensor = len(d) / 2 * likely.log() + factor.diagonal().log().sum() + against
            for one, slope in zip(parameters, torch.autograd.grad(result, parameters), strict=True):
                one.grad = slope
            return result.detach()

        search.step(loss)
    return [one.detach() for one in parameters]


def uneven(relevance: Tensor) -> Tensor:
    """What speaks against logarithms of relevances (n,) that are far from each other."""
    against: Tensor = (relevance - relevance.mean()).square().sum() / (2 * SPREAD**2)
    return against


@dataclass(frozen=True, eq=False)
class RelevanceProcess:
    """a_T independent, of variance sum_j c_j prod_{i in T} tanh(t_ji) for T of odd size; differences have the variance 1.

    With t_ji = relevance_i fading_j, g_j = sum_i t_ji z_i z'_i, a_ji = tanh(t_ji) and P_j(u) = prod_k (1 + a_jk u_k):

        cov(d(S), d(S')) = sum_j share_j sinh(g_j) / sinh(sum_i t_ji)
        cov(phi_i, d(S)) = mean over x in [-1, 1] of the derivative of P_j(x z) in player i
        cov(phi_i, phi_j) = mean over x and y in [-1, 1] of the second derivative of P_j(x y) in players i and j

    the last two with the factor by which the first is normalised. Means over x take Gauss's nodes, and are exact.
    """

    strengths: Tensor  # (J, n): t
    shares: Tensor  # (J,), they add up to 1
    jitter: ClassVar[float] = 1e-9

    @classmethod
    def learnt(cls, signs: Tensor, differences: Tensor) -> RelevanceProcess:
        """The one that makes the differences (M,) of a game at coalitions (M, n) of signs most probable, by the last 384."""
        relevance = torch.full_like(signs[0], math.log(FIRST))
        mixture = torch.zeros(len(FADINGS), dtype=signs.dtype, device=signs.device)
        z = signs[-LEARNT_FROM:]

        def improbable(relevance: Tensor, mixture: Tensor) -> tuple[Tensor, Tensor]:
            return cls.faded(relevance, mixture).differences(z, z), uneven(relevance)

        return cls.faded(*most_probable(improbable, (relevance, mixture), differences[-LEARNT_FROM:], cls.jitter, STEPS))

    @classmethod
    def faded(cls, relevance: Tensor, mixture: Tensor) -> RelevanceProcess:
        """That of the logarithms of relevances (n,) and shares (J,) of the fadings."""
        fading = relevance.new_tensor(FADINGS).log()
        return cls((fading.unsqueeze(1) + relevance).exp().clamp(LEAST, MOST), mixture.softmax(0))

    def differences(self, signs: Tensor, others: Tensor) -> Tensor:
        """cov of differences at coalitions (A, n) and (B, n) of signs, float64: (A, B)."""
        result = signs.new_zeros(len(signs), len(others))
        for strength, weight, total in zip(self.strengths, self._weights(), self.strengths.sum(1), strict=True):
            agreement = (signs * strength) @ others.T
            result = result + weight * ((agreement - total).exp() - (-agreement - total).exp())
        return result

    def values(self, signs: Tensor) -> Tensor:
        """cov of the values with the differences at coalitions (M, n) of signs: (n, M)."""
        nodes, shares = nodes_of_size(self.strengths)
        result = torch.zeros_like(signs)
        for log_norm, amplitude, weight in zip(*self._amplitudes(), 2 * self._weights(), strict=True):
            for node, share in zip(nodes, shares, strict=True):
                factors = 1 + amplitude * node * signs  # (M, n)
                product = (factors.log().sum(1, keepdim=True) + log_norm).exp()
                result += (weight * share) * product / factors * (amplitude * signs)
        return result.T

    def prior(self) -> Tensor:
        """cov of the values, (n, n)."""
        nodes, shares = nodes_of_size(self.strengths)
        at, weights = (torch.outer(x, x).flatten() for x in (nodes, shares))
        result = torch.zeros_like(self.strengths[0]).diag()
        for log_norm, amplitude, weight in zip(*self._amplitudes(), 2 * self._weights(), strict=True):
            factors = 1 + amplitude * at.unsqueeze(1)  # (K, n)
            product = (factors.log().sum(1) + log_norm).exp() * weights * weight
            slopes = amplitude / factors
            pairs = slopes.T @ (slopes * (product * at).unsqueeze(1))
            result += pairs - pairs.diagonal().diag() + (product @ slopes).diag()
        return result

    def _weights(self) -> Tensor:
        """share / (1 - exp(-2 total)): what stands before exp(g - total) - exp(-g - total), (J,)."""
        return self.shares / -torch.expm1(-2 * self.strengths.sum(1))

    def _amplitudes(self) -> tuple[Tensor, Tensor]:
        """Logarithms (J,) of prod cosh(t) exp(-t), and tanh(t), (J, n)."""
        t = self.strengths
        return ((1 + (-2 * t).exp()) / 2).log().sum(1), t.tanh()
