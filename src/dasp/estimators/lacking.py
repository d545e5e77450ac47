"""What given values lack, without bias, from random pairs of coalitions: the raw material of audits.

With r(S) = v(S) less a surrogate game whose Shapley values are known, and z = 1 for the members of S, else 0, the Shapley
values of r are (the weights of Charnes, Golany, Keane, Rousseau 1988; the normal matrix is known: Covert and Lee 2021)

    r(all) / n + sum over S of n / (C(n, s) s (n - s)) r(S) (z - s / n),   s = |S|.

Sizes are drawn with probability p_s ~ 1 / sqrt(s (n - s)), which is best where r(S) is as large at every size, and a coalition
comes with its complement, so that only r(S) - r(complement) matters. The surrogate takes the variance away; it adds no bias.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

FEWEST_BLOCKS = 8
USUAL_BLOCKS = 24


@dataclass(frozen=True, eq=False)
class Blocks:
    """Independent blocks of pairs; within a block the sizes are spread evenly over their distribution.

    Attributes:
        members: one coalition of each pair, block by block, (blocks * each, n) bool.
        count: how many blocks.
    """

    members: Tensor
    count: int

    @classmethod
    def draw(cls, n: int, pairs: int, generator: torch.Generator) -> Blocks:
        """At most `pairs` pairs for n >= 2 players, drawn on the CPU, so that a seed means the same everywhere.

        Blocks hold up to n // 2 pairs, but fewer where there would not be 24 of them.
        """
        count, each = cls.sizes(n, pairs)
        places = (torch.arange(each) + torch.rand(count, each, generator=generator, dtype=torch.float64)) / each
        size = 1 + torch.searchsorted(_sizes(n).cumsum(0), places).clamp(max=n - 2)
        members = torch.empty(count, each, n, dtype=torch.bool, device="cpu")
        for some in torch.arange(count).split(max(1, 2**22 // (each * n))):
            keys = torch.rand(len(some), each, n, generator=generator, dtype=torch.float64, device="cpu")
            members[some] = keys.argsort(-1).argsort(-1) < size[some].unsqueeze(-1)
        return cls(members.flatten(0, 1), count)

    @staticmethod
    def sizes(n: int, pairs: int) -> tuple[int, int]:
        """How many blocks, and how many pairs in each."""
        each = max(1, min(n // 2, pairs // USUAL_BLOCKS))
        return pairs // each, each

    def to(self, device: torch.device) -> Blocks:
        """The same on a device."""
        return Blocks(self.members.to(device), self.count)

    def estimates(self, residuals: Tensor, gap: Tensor) -> Tensor:
        """The Shapley values of r, without bias, one estimate a block.

        Args:
            residuals: r(S) - r(complement), (Q, M) float64.
            gap: r(all), (Q,).

        Returns:
            (Q, blocks, n), float64.
        """
        n = self.members.shape[1]
        size = self.members.sum(1)
        weight = n / (2 * (size * (n - size)) * _sizes(n).to(size.device)[size - 1])
        centred = (self.members.double() - (size.double() / n).unsqueeze(1)).unflatten(0, (self.count, -1))
        weighted = (residuals * weight).unflatten(1, (self.count, -1))  # (Q, blocks, each)
        mean: Tensor = torch.einsum("qbe,ben->qbn", weighted, centred) / centred.shape[1]
        return mean + (gap / n)[:, None, None]


def _sizes(n: int) -> Tensor:
    """Probability of the sizes 1 ... n - 1, (n - 1,) float64, on the CPU."""
    size = torch.arange(1, n, dtype=torch.float64, device="cpu")
    weight = (size * (n - size)).rsqrt()
    return weight / weight.sum()
