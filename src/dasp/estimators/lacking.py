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
AT_ONCE = 2**20
"""Entries of coalitions that are held in float64 at a time."""


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
        places = torch.rand(count, each, generator=generator, dtype=torch.float64, device="cpu")
        places = (torch.arange(each, device="cpu") + places) / each
        size = 1 + torch.searchsorted(_sizes(n).cumsum(0), places).clamp(max=n - 2)
        members = torch.empty(count, each, n, dtype=torch.bool, device="cpu")
        for some in torch.arange(count, device="cpu").split(max(1, AT_ONCE // (each * n))):
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
        each = len(self.members) // self.count
        result = torch.empty(len(residuals), self.count, n, dtype=torch.float64, device=residuals.device)
        for some in torch.arange(self.count, device=residuals.device).split(max(1, AT_ONCE // (each * n))):
            pairs = slice(int(some[0]) * each, (int(some[-1]) + 1) * each)
            centred = self.members[pairs].double() - (size[pairs].double() / n).unsqueeze(1)
            weighted = (residuals[:, pairs] * weight[pairs]).unflatten(1, (len(some), each))  # (Q, blocks, each)
            result[:, some] = torch.einsum("qbe,ben->qbn", weighted, centred.unflatten(0, (len(some), each))) / each
        return result.add_((gap / n)[:, None, None])

    def foretold(self, values: Tensor) -> Tensor:
        """The differences of a game that is linear with these values (Q, n), (Q, M)."""
        step = max(1, AT_ONCE // self.members.shape[1])
        return torch.cat([values @ (2 * some.double() - 1).T for some in self.members.split(step)], 1)


def _sizes(n: int) -> Tensor:
    """Probability of the sizes 1 ... n - 1, (n - 1,) float64, on the CPU."""
    size = torch.arange(1, n, dtype=torch.float64, device="cpu")
    weight = (size * (n - size)).rsqrt()
    return weight / weight.sum()
