"""What given values lack, without bias, from random pairs of coalitions: the raw material of audits.

With r(S) = v(S) less a surrogate game whose Shapley values are known, and z = 1 for the members of S, else 0, the Shapley
values of r are (the weights of Charnes, Golany, Keane, Rousseau 1988; the normal matrix is known: Covert and Lee 2021)

    r(all) / n + sum over S of n / (C(n, s) s (n - s)) r(S) (z - s / n),   s = |S|.

Sizes are drawn with probability p_s ~ 1 / sqrt(s (n - s)), which is best where r(S) is as large at every size, and a coalition
comes with its complement, so that only r(S) - r(complement) matters. The surrogate takes the variance away; it adds no bias.

What a network does at a few coalitions only is seldom drawn, and a sample that missed them does not vary. Where n is a small
part of the pairs, those of one player and the others are therefore all taken, and only the other sizes are drawn.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

FEWEST_BLOCKS = 8
USUAL_BLOCKS = 24
SMALL_PART = 4
"""The pairs of single players are all taken where they are no more than one in so many."""
AT_ONCE = 2**20
"""Entries of coalitions that are held in float64 at a time."""


@dataclass(frozen=True, eq=False)
class Blocks:
    """Independent blocks of pairs; within a block the sizes are spread evenly over their distribution.

    Attributes:
        members: one coalition of each pair, (sure + blocks * each, n) bool: those that are not drawn, then block by block.
        count: how many blocks.
        sure: n if every pair of one player and the others is there, else 0.
    """

    members: Tensor
    count: int
    sure: int = 0

    @classmethod
    def draw(cls, n: int, pairs: int, generator: torch.Generator, *, sure: bool = False) -> Blocks:
        """At most `pairs` drawn pairs for n >= 2 players, on the CPU, so that a seed means the same everywhere.

        Blocks hold up to n // 2 pairs, but fewer where there would not be 24 of them. With `sure` (n >= 4) the n pairs of
        single players come on top.
        """
        count, each = cls.sizes(n, pairs)
        places = torch.rand(count, each, generator=generator, dtype=torch.float64, device="cpu")
        places = (torch.arange(each, device="cpu") + places) / each
        size = 1 + torch.searchsorted(_sizes(n, sure=sure).cumsum(0), places, right=True).clamp(max=n - 2 - sure)
        members = torch.empty(count, each, n, dtype=torch.bool, device="cpu")
        for some in torch.arange(count, device="cpu").split(max(1, AT_ONCE // (each * n))):
            keys = torch.rand(len(some), each, n, generator=generator, dtype=torch.float64, device="cpu")
            members[some] = keys.argsort(-1).argsort(-1) < size[some].unsqueeze(-1)
        alone = torch.eye(n if sure else 0, n, dtype=torch.bool, device="cpu")
        return cls(torch.cat((alone, members.flatten(0, 1))), count, len(alone))

    @staticmethod
    def sizes(n: int, pairs: int) -> tuple[int, int]:
        """How many blocks, and how many pairs in each."""
        each = max(1, min(n // 2, pairs // USUAL_BLOCKS))
        return pairs // each, each

    @staticmethod
    def spares(n: int, pairs: int) -> bool:
        """Whether so many pairs leave enough to draw where all n of single players are taken."""
        return 4 <= n <= pairs // SMALL_PART

    def to(self, device: torch.device) -> Blocks:
        """The same on a device."""
        return Blocks(self.members.to(device), self.count, self.sure)

    def estimates(self, residuals: Tensor, gap: Tensor) -> Tensor:
        """The Shapley values of r, without bias, one estimate a block.

        Args:
            residuals: r(S) - r(complement), (Q, M) float64.
            gap: r(all), (Q,).

        Returns:
            (Q, blocks, n), float64.
        """
        n, sure = self.members.shape[1], self.sure
        size = self.members[sure:].sum(1)
        weight = n / (2 * (size * (n - size)) * _sizes(n, sure=bool(sure)).to(size.device)[size - 1])
        each = len(size) // self.count
        result = torch.empty(len(residuals), self.count, n, dtype=torch.float64, device=residuals.device)
        for some in torch.arange(self.count, device=residuals.device).split(max(1, AT_ONCE // (each * n))):
            pairs = slice(int(some[0]) * each, (int(some[-1]) + 1) * each)
            centred = self.members[sure:][pairs].double() - (size[pairs].double() / n).unsqueeze(1)
            weighted = (residuals[:, sure:][:, pairs] * weight[pairs]).unflatten(1, (len(some), each))  # (Q, blocks, each)
            result[:, some] = torch.einsum("qbe,ben->qbn", weighted, centred.unflatten(0, (len(some), each))) / each
        # The share of single players: n / (C(n, 1) (n - 1)) for each, centred.
        alone = residuals[:, :sure]
        certain = (alone - alone.mean(1, keepdim=True)) / (n - 1) if sure else torch.zeros_like(result[:, 0])
        return result.add_((certain + (gap / n).unsqueeze(1)).unsqueeze(1))

    def unseen(self, worst: Tensor, confidence: float) -> Tensor:
        """How far values may be off by pairs that are missed by `worst` (Q,) and were not drawn, (Q,).

        With this confidence they have no more than a part -log(1 - confidence) / M of the probability where M were drawn, and a
        part p of it, whatever its sizes, counts for p sqrt(n) / 2 sum_s 1 / sqrt(s (n - s)).
        """
        reach = reach_of(self.members.shape[1], sure=bool(self.sure))
        return worst * (-math.log(1 - confidence) / (len(self.members) - self.sure) * reach)

    def foretold(self, values: Tensor) -> Tensor:
        """The differences of a game that is linear with these values (Q, n), (Q, M)."""
        step = max(1, AT_ONCE // self.members.shape[1])
        return torch.cat([values @ (2 * some.double() - 1).T for some in self.members.split(step)], 1)


def reach_of(n: int, *, sure: bool = False) -> float:
    """How far the values of n players may be off, in length, by pairs that are missed by 1, in proportion to their part.

    `sure`: none of them is of a single player and the others.
    """
    size = torch.arange(1 + sure, n - sure, dtype=torch.float64, device="cpu")
    return math.sqrt(n) / 2 * float((size * (n - size)).rsqrt().sum())


def _sizes(n: int, *, sure: bool) -> Tensor:
    """Probability of the sizes 1 ... n - 1, (n - 1,) float64, on the CPU; 0 for 1 and n - 1 where these are `sure`."""
    size = torch.arange(1, n, dtype=torch.float64, device="cpu")
    weight = (size * (n - size)).rsqrt()
    if sure:
        weight[0] = weight[-1] = 0
    return weight / weight.sum()
