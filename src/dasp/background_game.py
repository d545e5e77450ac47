"""The game against a background: what a coalition is worth with the others' elements taken from the rows of a data set.

v_b(S) = mean over j of f_target(x_b on the elements of the players in S, row j of the background elsewhere): interventional
Shapley values (Janzing, Minorics and Bloebaum 2020). Shapes as in `game`; J rows of the background.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor

from .background import Background
from .errors import InputError
from .game import Game, evaluate_rows, goes_along, take_rows

Kept = TypeVar("Kept")

SPOT = 2
"""Rows that are evaluated again before what an earlier call made is taken."""
SAME = 1e-4


@dataclass(frozen=True, eq=False)
class BackgroundGame(Game):
    """One game for each row of a batch, all against the same background.

    Attributes:
        baselines: the rows of the background, (J, *shape_i).
        background: the same, with what is made of them once.
    """

    background: Background = field(kw_only=True)

    def of_rows(self, rows: Tensor) -> BackgroundGame:
        """The games of some rows (R,) alone, against the same background."""
        return replace(
            self,
            inputs=tuple(x[rows] for x in self.inputs),
            extra=take_rows(self.extra, rows, self.batch),
            targets=self.targets.of_rows(rows),
        )

    @property
    def rows_each(self) -> int:
        """Evaluations of the network that one value takes, J."""
        return self.background.count

    @cached_property
    def base_values(self) -> Tensor:
        """v of the empty coalition, the mean output over the background, (B, T)."""
        rows = torch.arange(self.batch, device=self.device)
        if self.follows_rows:
            return self.values(rows, torch.zeros(self.batch, self.players.count, dtype=torch.bool, device=self.device))
        mean = self._base_outputs.double().mean(0, keepdim=True).to(self._base_outputs.dtype)
        values = self.targets.select(mean.expand(self.batch, *mean.shape[1:]), rows)
        if not bool(values.isfinite().all()):
            bad = int((~self._base_outputs.isfinite()).reshape(self.rows_each, -1).any(1).nonzero()[0])
            raise InputError(
                f"the model gives NaN or infinity at row {bad} of the background. Look at the row, or leave it out."
            )
        return values

    @property
    def first_base_values(self) -> Tensor:
        """Outputs at the first row of the background, (B, T)."""
        first = torch.zeros(1, dtype=torch.long, device=self.device)
        return self.base_alone(torch.arange(self.batch, device=self.device), first)[:, 0]

    @property
    def follows_rows(self) -> bool:
        """Whether the output at the background hangs on which row is explained, by a further argument."""
        return any(goes_along(e, self.batch) for e in self.extra)

    @cached_property
    def _base_outputs(self) -> Tensor:
        """The model's outputs at the background, (J, *out), where they are the same for every row; kept between calls."""
        return self.keep("outputs", lambda: torch.cat([self._outputs_at(i) for i in self._every.split(self.chunk)]))

    @property
    def _every(self) -> Tensor:
        return torch.arange(self.rows_each, device=self.device)

    def keep(self, name: Hashable, make: Callable[[], Kept]) -> Kept:
        """What `make` gave for this background and model before, or gives now; nothing is kept beside further arguments.

        The weights must be those of then, and the outputs at the first rows too, as weights can change unseen.
        """
        if self.extra:
            return make()
        kept = self.background.kept
        first = self._outputs_at(self._every[:SPOT])
        weights = tuple((weight.data_ptr(), weight._version) for _, weight in self.model.weights())
        known = kept.get("first")
        same = known is not None and bool(((known - first).abs() <= SAME * known.abs().amax()).all())
        if not same or kept["weights"] != weights:
            kept.clear()
            kept.update(first=first, weights=weights)
        if name not in kept:
            kept[name] = make()
        found: Kept = kept[name]
        return found

    def _outputs_at(self, index: Tensor) -> Tensor:
        several = index if len(index) > 1 else index.repeat(2)  # as in `Game._evaluate`
        rows = torch.zeros_like(several)
        outputs = evaluate_rows(self.model, tuple(b[several] for b in self.baselines), self.extra, rows, self.batch)
        return outputs[: len(index)]

    def moved(self, rows: Tensor) -> Tensor:
        """Whether a player differs from any row of the background anywhere, (rows, 1, n); who does not adds nothing."""
        moved = torch.zeros(len(rows), self.players.count, dtype=torch.long, device=self.device)
        for x, (least, most), label in zip(self.inputs, self.background.bounds, self.players.labels, strict=True):
            away = (x[rows] != least) | (x[rows] != most)
            moved = moved.index_add(1, label.flatten(), away.long().flatten(1))
        return (moved > 0).unsqueeze(1)

    def alone(self, rows: Tensor, coalitions: Tensor, drawn: Tensor) -> Tensor:
        """v against one row of the background each: rows, coalitions (M, n) and `drawn` (M,), to (M, T).

        Raises:
            InputError: the model gives NaN or infinity at a coalition.
        """
        parts = []
        for some in torch.arange(len(rows), device=self.device).split(self.chunk):
            row, coalition, draw = rows[some], coalitions[some], drawn[some]
            values = self._evaluate(self._mixed(row, coalition, draw), row)
            self.refuse_non_finite(values, row, coalition, draw)
            parts.append(values)
        return torch.cat(parts)

    def base_alone(self, rows: Tensor, drawn: Tensor) -> Tensor:
        """v of nobody against each of the drawn rows of the background (G,), for rows (R,), to (R, G, T)."""
        row, draw = rows.repeat_interleave(len(drawn)), drawn.repeat(len(rows))
        if self.follows_rows:
            nobody = torch.zeros(1, self.players.count, dtype=torch.bool, device=self.device).expand(len(row), -1)
            values = self.alone(row, nobody, draw)
        else:
            values = self.targets.select(self._base_outputs[draw], row)
        return values.reshape(len(rows), len(drawn), -1)

    def table_alone(self, coalitions: Tensor, rows: Tensor, drawn: Tensor) -> Tensor:
        """`table` with one row of the background for each coalition, `drawn` (M,), in place of the mean over all."""
        row, index = rows.repeat_interleave(len(coalitions)), torch.arange(len(coalitions), device=self.device)
        index = index.repeat(len(rows))
        parts = [
            self.alone(row[some], coalitions[index[some]], drawn[index[some]])
            for some in torch.arange(len(row), device=self.device).split(self.chunk)
        ]
        if not parts:
            return torch.empty(len(rows), len(coalitions), self.targets.count, dtype=self.dtype, device=self.device)
        return torch.cat(parts).reshape(len(rows), len(coalitions), -1)

    def values(self, rows: Tensor, coalitions: Tensor) -> Tensor:
        """As in `Game`: the mean over all J rows of the background."""
        total = torch.zeros(len(rows), self.targets.count, dtype=torch.float64, device=self.device)
        dtype = self.dtype
        for drawn in torch.arange(self.rows_each, device=self.device).split(self.chunk):
            for some in torch.arange(len(rows), device=self.device).split(max(1, self.chunk // len(drawn))):
                row, coalition = (part[some].repeat_interleave(len(drawn), 0) for part in (rows, coalitions))
                values = self.alone(row, coalition, drawn.repeat(len(some)))
                total[some] += values.double().unflatten(0, (len(some), -1)).sum(1)
                dtype = values.dtype
        return (total / self.rows_each).to(dtype)

    def table(self, coalitions: Tensor, rows: Tensor) -> Tensor:
        """As in `Game`: the means over all J rows of the background, summed in float64, chunked under the memory bound."""
        total: Tensor | None = None
        dtype = self.dtype
        for some, several, drawn in self._blocks(len(coalitions), len(rows)):
            coalition, row = coalitions[some], rows[several]
            shape = len(row), len(coalition), len(drawn)
            masked = tuple(
                torch.where(z[None, :, None], x[row][:, None, None], b[drawn][None, None]).flatten(0, 2)
                for z, x, b in zip(self.players.spread(coalition), self.inputs, self.baselines, strict=True)
            )
            index = row.repeat_interleave(shape[1] * shape[2])
            values = self._evaluate(masked, index)
            if not bool(values.isfinite().all()):
                each = coalition.repeat_interleave(shape[2], 0).repeat(shape[0], 1)
                self.refuse_non_finite(values, index, each, drawn.repeat(shape[0] * shape[1]))
            if total is None:
                dtype = values.dtype
                size = len(rows), len(coalitions), self.targets.count
                total = torch.zeros(size, dtype=torch.float64, device=self.device)
            total[several, some] += values.reshape(*shape, -1).double().sum(2)
        if total is None:
            return torch.empty(len(rows), len(coalitions), self.targets.count, dtype=dtype, device=self.device)
        return (total / self.rows_each).to(dtype)

    def _blocks(self, coalitions: int, rows: int) -> Iterator[tuple[slice, slice, Tensor]]:
        """Coalitions, rows and rows of the background that fit one pass."""
        for drawn in torch.arange(self.rows_each, device=self.device).split(self.chunk):
            width = min(coalitions, max(1, self.chunk // len(drawn)))
            height = max(1, self.chunk // (max(1, width) * len(drawn)))
            for start in range(0, coalitions, max(1, width)):
                for first in range(0, rows, height):
                    yield slice(start, min(start + width, coalitions)), slice(first, min(first + height, rows)), drawn

    def masked(self, rows: Tensor, coalitions: Tensor) -> tuple[Tensor, ...]:
        """Against the first row of the background."""
        return self._mixed(rows, coalitions, torch.zeros_like(rows))

    def _mixed(self, rows: Tensor, coalitions: Tensor, drawn: Tensor) -> tuple[Tensor, ...]:
        return tuple(
            torch.where(z, x[rows], b[drawn])
            for z, x, b in zip(self.players.spread(coalitions), self.inputs, self.baselines, strict=True)
        )

    def _end(self, present: bool) -> Tensor:
        if not present:
            return self.base_values
        rows = torch.arange(self.batch, device=self.device)
        everybody = torch.ones(self.batch, self.players.count, dtype=torch.bool, device=self.device)
        return self.alone(rows, everybody, torch.zeros_like(rows))
