"""Which players a propagation enumerates: those that move an output most, as far as they stand out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

TIE = 64
"""Steps this many rounding errors apart are tied."""


@dataclass(frozen=True, eq=False)
class Mixed:
    """Players whose states are enumerated, for every row.

    Attributes:
        players: which, in their order, (rows, h).
        held: whether each of them is; one that is not is random in both of its states, (rows, h).
    """

    players: Tensor
    held: Tensor

    @property
    def count(self) -> int:
        """How many players a row has here."""
        return self.players.shape[1]

    @classmethod
    def nobody(cls, rows: int, device: torch.device) -> Mixed:
        """No player at all."""
        return cls(torch.empty(rows, 0, dtype=torch.long, device=device), torch.empty(rows, 0, dtype=torch.bool, device=device))

    @classmethod
    def largest(cls, steps: Tensor, count: int, size: Tensor) -> Mixed:
        """The players with the largest steps, but those that are tied with one who is left out: equal players stay equal.

        Args:
            steps: how much each player moves the output, (rows, n).
            count: how many players.
            size: magnitude of the outputs that steps are differences of, (rows,); their rounding tells what a tie is.
        """
        top = steps.topk(min(count + 1, steps.shape[1]))
        held = torch.ones_like(top.indices[:, :count], dtype=torch.bool)
        if top.values.shape[1] > count:
            left_out = top.values[:, count:]
            rounding = TIE * torch.finfo(steps.dtype).eps * (size.unsqueeze(1) + left_out)
            held = top.values[:, :count] > left_out + rounding
        players, order = top.indices[:, :count].sort(1)
        return cls(players, held.gather(1, order))

    @classmethod
    def by_target(cls, steps: Tensor, count: int, size: Tensor) -> dict[Mixed, list[int]]:
        """The choice for each target alone, and the targets that share it, so that a target has the same values in any company.

        Args:
            steps: (rows, targets, n).
            count: how many players.
            size: (rows, targets).
        """
        groups: dict[Mixed, list[int]] = {}
        for target in range(steps.shape[1]):
            own = cls.largest(steps[:, target], count, size[:, target])
            same = next((known for known in groups if known.equals(own)), own)
            groups.setdefault(same, []).append(target)
        return groups

    def repeated(self, times: int) -> Mixed:
        """Every row several times in a row."""
        return Mixed(self.players.repeat_interleave(times, 0), self.held.repeat_interleave(times, 0))

    def equals(self, other: Mixed) -> bool:
        """Whether the same players are held in every row."""
        return torch.equal(self.players, other.players) and torch.equal(self.held, other.held)
