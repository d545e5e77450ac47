"""Interactions of pairs of players: what was asked for, and the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .errors import InputError, InputTypeError, MemoryBoundError, MissingExtraError
from .handover import column, interaction_values
from .notebook import interactions_as_html

if TYPE_CHECKING:
    import pandas
    import shapiq

    from .attribution import Attribution

Pairs = str | int | Sequence[tuple[int, int]] | Tensor | np.ndarray[Any, Any] | None


@dataclass(frozen=True, eq=False, repr=False)
class Interactions:
    """Interactions of n players in B rows: what two players add together beyond what each adds alone.

    Shapley interaction indices (Grabisch and Roubens, 1999), or those of the explainer's semivalue. Above 0, two players
    reinforce each other; below, they stand in for each other.

    Attributes:
        values: (B, n, n), symmetric, 0 on the diagonal; or (B, P) where pairs were chosen. Several targets add an axis T
            after the rows.
        pairs: the pairs chosen, int64 (P, 2), or None for the whole matrix.
        names: one name a player.
        target: the target as it was asked, in types JSON can hold.
        several: whether several targets were asked.
        method: the estimator's class name.
        settings: every option of the method, defaults and choices included.
        evaluations: plain network evaluations per row.
        propagations: propagated passes per row, backward ones for a player's row among them.
        seconds: wall time in all.
    """

    values: Tensor
    pairs: Tensor | None
    names: tuple[str, ...]
    target: Any
    several: bool
    method: str
    settings: dict[str, Any]
    evaluations: float
    propagations: float
    seconds: float

    def __repr__(self) -> str:
        what = "all pairs" if self.pairs is None else f"{len(self.pairs)} pairs"
        return f"Interactions({self.method}, rows={len(self.values)}, players={len(self.names)}, {what})"

    def _repr_html_(self) -> str:
        """What a notebook shows: how they were found, and the largest pairs of the first rows."""
        return interactions_as_html(self)

    @property
    def per_target(self) -> Tensor:
        """The values as (B, T, n, n) or (B, T, P), whatever was asked."""
        return self.values if self.several else self.values.unsqueeze(1)

    @property
    def listed(self) -> tuple[Tensor, Tensor]:
        """The pairs (P, 2), each once, and their values (B, T, P)."""
        if self.pairs is not None:
            return self.pairs, self.per_target
        n = len(self.names)
        i, j = torch.triu_indices(n, n, 1, device=self.values.device)
        return torch.stack((i, j), 1), self.per_target[..., i, j]

    def to_frame(self) -> pandas.DataFrame:
        """A pandas DataFrame, a line for each sample, target and pair: sample, target (its place), first, second, value.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise MissingExtraError("to_frame needs pandas: pip install 'dasp[table]'.") from None
        pairs, values = self.listed
        rows, targets, count = values.shape
        first, second = ([self.names[i] for i in side.tolist()] for side in pairs.unbind(1))
        return pandas.DataFrame(
            {
                "sample": [row for row in range(rows) for _ in range(targets * count)],
                "target": [target for target in range(targets) for _ in range(count)] * rows,
                "first": first * (rows * targets),
                "second": second * (rows * targets),
                "value": column(values.reshape(-1)),
            }
        )

    def to_shapiq(
        self, attribution: Attribution | None = None, row: int = 0, *, target_index: int = 0, index: str | None = None
    ) -> shapiq.InteractionValues:
        """One row and target as `shapiq.InteractionValues` (Muschalik et al., 2024, https://arxiv.org/abs/2410.01649).

        Args:
            attribution: the same explainer's values of the same rows, which are order 1, with their base value; without it
                there is order 2 only.
            row: of the batch, from 0.
            target_index: which of several targets, from 0.
            index: "SII" as they are ("BII" for Banzhaf interactions), by default; or "k-SII", of which all orders add up to
                output - base value: shapiq takes half of each interaction from its players' values.

        Raises:
            MissingExtraError: shapiq is not installed.
            InputError: no such row or target; an attribution of something else; or an index that these are not, or that needs
                all pairs and an attribution.
        """
        made: shapiq.InteractionValues = interaction_values(self, attribution, row, target_index, index)
        return made


@dataclass(frozen=True)
class Asked:
    """Which pairs were asked for.

    Attributes:
        players: whose rows of the matrix must be found, sorted.
        pairs: the pairs chosen, in order; None for the whole matrix.
        top: how many of the largest are kept, or None.
    """

    players: tuple[int, ...]
    pairs: tuple[tuple[int, int], ...] | None
    top: int | None

    @classmethod
    def of(cls, pairs: Pairs, top: int | None, n: int) -> Asked:
        """From the arguments of `Explainer.interactions`, for n players.

        Raises:
            InputTypeError, InputError: they name no pairs of these players.
        """
        if top is not None and (isinstance(top, bool) or not isinstance(top, int)):
            raise InputTypeError(f"top: expected an int, got {type(top).__name__}.")
        if top is not None and top < 1:
            raise InputError(f"top must be at least 1, got {top}.")
        if pairs is None or (isinstance(pairs, str) and pairs == "all"):
            return cls(tuple(range(n)), None, top)
        if isinstance(pairs, int) and not isinstance(pairs, bool):
            player = _player(pairs, n)
            return cls((player,), tuple((player, j) for j in range(n) if j != player), top)
        if isinstance(pairs, str) or not isinstance(pairs, Sequence):
            raise InputTypeError(f"pairs: expected 'all', a player's number or a list of pairs of them, got {pairs!r}.")
        chosen = []
        for pair in pairs:
            if not isinstance(pair, Sequence) or len(pair) != 2:
                raise InputTypeError(f"pairs: expected pairs of players' numbers, as [(0, 3)], got {pair!r}.")
            i, j = (_player(one, n) for one in pair)
            if i == j:
                raise InputError(f"pairs: ({i}, {j}) is one player; interactions are between two.")
            chosen.append((i, j))
        if not chosen:
            raise InputError("pairs: none given. Leave it out for all.")
        return cls(tuple(sorted({i for i, _ in chosen})), tuple(chosen), top)

    def check_size(self, rows: int, targets: int, n: int, memory: int) -> None:
        """Refuse a result that does not fit the memory bound, in float64 with a copy.

        Raises:
            MemoryBoundError: says what to ask for instead.
        """
        needed = 16 * rows * targets * len(self.players) * n
        if needed > memory:
            raise MemoryBoundError(
                f"the interactions of {len(self.players):,} players with {n:,} in {rows} row(s) need "
                f"{needed / 2**20:,.0f} MiB, and the memory bound is {memory / 2**20:,.0f} MiB. Ask for one player (pairs=3) or"
                " some pairs, for fewer rows at once, group elements into players, or raise memory=."
            )

    def taken(self, found: Tensor) -> tuple[Tensor, Tensor | None]:
        """From rows of the matrix (B, T, P, n): the values asked for, and their pairs."""
        n = found.shape[-1]
        if self.pairs is None and self.top is None:
            return (found + found.mT) / 2, None
        if self.pairs is None:
            pairs = torch.triu_indices(n, n, 1, device=found.device).T
            found = (found + found.mT) / 2
        else:
            pairs = torch.tensor(self.pairs, dtype=torch.int64, device=found.device).reshape(-1, 2)
        row = torch.zeros(n, dtype=torch.int64, device=found.device)
        row[torch.tensor(self.players, device=found.device)] = torch.arange(len(self.players), device=found.device)
        values = found[..., row[pairs[:, 0]], pairs[:, 1]]
        if self.top is not None:
            best = values.abs().mean((0, 1)).topk(min(self.top, len(pairs))).indices
            pairs, values = pairs[best], values[..., best]
        return values, pairs


def as_numbers(pairs: Any) -> Any:
    """Tensors, arrays and what they hold as lists and ints, which JSON can hold."""
    if isinstance(pairs, Tensor | np.ndarray | np.generic):
        return pairs.tolist()
    return [as_numbers(one) for one in pairs] if isinstance(pairs, list | tuple) else pairs


def _player(value: object, n: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputTypeError(f"pairs: a player is given by its number, got {value!r}.")
    if not 0 <= value < n:
        raise InputError(f"pairs: there is no player {value}; the {n} players are counted from 0.")
    return value
