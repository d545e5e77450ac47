"""A background: rows of data that stand in for absent players, and a few clusters of them with their moments.

Shapes: J rows, K clusters, R factors a cluster, D elements of all inputs together, `shape_i` that of input i.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .errors import InputError, MemoryBoundError

ROUNDS = 50
"""Rounds of k-means at most."""
CHUNK = 2**22
"""Numbers that one step over the rows may make."""
LARGEST_GRAM = 1024
"""Up to this many rows or elements, principal axes come from a decomposition; of more, from subspace iteration."""
COPIES = 3
"""Of all rows in float64, that are alive at once."""
STEP_BYTES = 64
"""Twice what a step of the search for centres makes for each number of its distances, in float64."""
SPARE = 8
ITERATIONS = 12
LEAST = 1e-6
"""Least metric of an element, as a part of the largest."""
STARTS = 4
"""Times that k-means starts afresh; the closest clusters are taken."""


@dataclass(frozen=True, eq=False)
class PerRow:
    """One baseline for each row that is explained, in place of one for all.

    Args:
        rows: as many as there are rows to explain, (B, *shape).

    >>> import torch, dasp
    >>> x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    >>> explainer = dasp.Explainer(torch.nn.Linear(2, 1), dasp.PerRow(x - 1), method=dasp.Exact())
    >>> explainer(x).values.shape
    torch.Size([2, 2])
    """

    rows: Tensor | np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Clusters:
    """A background as a mixture of K normal distributions, each with a few factors and an independent rest.

    Attributes:
        weights: part of the rows in each cluster, (K,).
        means: (K, *shape_i), one per input.
        factors: principal axes of the rows of a cluster, times their standard deviation, (R, K, *shape_i), one per input.
        rests: variance that they leave over, (K, *shape_i), one per input.
        of_rows: whether each is one row, which has no variance and may hold whole numbers.
    """

    weights: Tensor
    means: tuple[Tensor, ...]
    factors: tuple[Tensor, ...]
    rests: tuple[Tensor, ...]
    of_rows: bool = False

    @property
    def count(self) -> int:
        """The number of clusters K."""
        return len(self.weights)

    @property
    def rank(self) -> int:
        """The number of factors R of each."""
        return len(self.factors[0])


@dataclass(frozen=True, eq=False)
class Background:
    """J rows that stand in for absent players, each as likely as the others.

    Attributes:
        rows: (J, *shape_i), one tensor per input; row j of each goes together.
    """

    rows: tuple[Tensor, ...]

    @property
    def count(self) -> int:
        """The number of rows J."""
        return len(self.rows[0])

    @cached_property
    def kept(self) -> dict[Any, Any]:
        """What was made of these rows before: clusters, outputs."""
        return {}

    @cached_property
    def bounds(self) -> tuple[tuple[Tensor, Tensor], ...]:
        """The least and the largest number that each element holds, (1, *shape_i) twice for every input."""
        return tuple((part.amin(0, keepdim=True), part.amax(0, keepdim=True)) for part in self.rows)

    @cached_property
    def means(self) -> tuple[Tensor, ...]:
        """The mean row, (1, *shape_i) for every input; of whole numbers it is not rounded."""
        return tuple(part.double().mean(0, keepdim=True) for part in self.rows)

    def clusters(self, count: int, rank: int, metric: Sequence[Tensor], *, memory: int = 2**30) -> Clusters:
        """At most `count` clusters with `rank` factors each; `count` = J makes every row its own, without factors.

        k-means on elements times their metric (Lloyd 1982; started as Arthur and Vassilvitskii 2007, from fixed seeds), then
        the principal axes of every cluster in that metric. Nothing that is made of them grows with J.

        Args:
            count: K.
            rank: R.
            metric: how much a step of an element matters, (*shape_i) for every input.
            memory: bytes that this may take.

        Raises:
            InputError: a row holds whole numbers, which have no mean, and rows are not clusters of their own.
            MemoryBoundError: the rows take more than that in float64.
        """
        count = min(count, self.count)
        if count == self.count:
            return self._every_row()
        if not all(part.is_floating_point() for part in self.rows):
            raise InputError(
                "baseline: a background of whole numbers (token ids, categories) has no mean and no variance. Take "
                f"dasp.Propagation(clusters={self.count}), which propagates from every row, with as few rows as you need; "
                "or dasp.PermutationSampling(); or explain the embeddings."
            )
        needed = COPIES * 8 * sum(part.numel() for part in self.rows)
        if needed > memory:
            raise MemoryBoundError(
                f"baseline: putting {self.count:,} rows into clusters needs {needed / 2**20:,.3g} MiB, and the memory bound is "
                f"{memory / 2**20:,.3g} MiB. Raise memory=, or give fewer rows."
            )
        centred = torch.cat([part.flatten(1) for part in self.rows], 1).double()  # (J, D)
        middle = centred.mean(0)
        centred -= middle
        scale = torch.cat([part.flatten() for part in metric]).double()
        spread = centred.square().mean(0).sqrt()
        if not bool((scale * spread > 0).any()):  # nothing is known to matter
            scale = 1 / spread.where(spread > 0, torch.ones_like(spread))
        scale = scale.clamp(min=LEAST * float(scale.max()))
        centred *= scale
        owner = nearest(centred, count, memory=memory)
        rank = min(rank, *centred.shape)
        weights, means, factors, rests = [], [], [], []
        for cluster in owner.unique().tolist():
            mine = centred[owner == cluster]
            centre = mine.mean(0)
            mine -= centre
            axes = principal_axes(mine, rank)
            weights.append(len(mine) / self.count)
            means.append(middle + centre / scale)
            factors.append(axes / scale)
            rests.append((mine.square().mean(0) - axes.square().sum(0)).clamp(min=0) / scale.square())
        mean, load, rest = torch.stack(means), torch.stack(factors, 1), torch.stack(rests)
        weight = torch.tensor(weights, dtype=self.rows[0].dtype, device=centred.device)
        return Clusters(weight, self._parts(mean), self._parts(load), self._parts(rest))

    def _every_row(self) -> Clusters:
        floating = next((part.dtype for part in self.rows if part.is_floating_point()), torch.get_default_dtype())
        weights = torch.full((self.count,), 1 / self.count, dtype=floating, device=self.rows[0].device)
        nothing = tuple(p.new_zeros(()).expand_as(p) for p in self.rows)
        return Clusters(weights, self.rows, tuple(p.new_zeros(0, *p.shape) for p in self.rows), nothing, of_rows=True)

    def _parts(self, flat: Tensor) -> tuple[Tensor, ...]:
        """(..., D) as one (..., *shape_i) for every input."""
        sizes = [prod(part.shape[1:]) for part in self.rows]
        split = flat.split(sizes, -1)
        return tuple(
            one.reshape(*one.shape[:-1], *part.shape[1:]).to(part.dtype) for one, part in zip(split, self.rows, strict=True)
        )


def nearest(rows: Tensor, count: int, *, memory: int = 2**30) -> Tensor:
    """The cluster of each row (J, D) by k-means, (J,); some of `count` may stay empty, as where rows are equal.

    Distances (J, K) are never held together: a step takes at most about half of `memory` bytes, or 2^22 numbers.
    """
    numbers = min(CHUNK, memory // STEP_BYTES)
    found = [_lloyd(rows, count, torch.Generator("cpu").manual_seed(seed), numbers) for seed in range(STARTS)]
    return min(found, key=lambda one: one[0])[1]


def _lloyd(rows: Tensor, count: int, generator: torch.Generator, numbers: int) -> tuple[float, Tensor]:
    """The sum of squared distances, and the cluster of each row."""
    centres = _started(rows, count, generator, numbers)
    owner = torch.zeros(len(rows), dtype=torch.long, device=rows.device)
    total = float("inf")
    for round_ in range(ROUNDS):
        away, now = _closest(rows, centres, numbers)
        total, before, owner = float(away.sum()), owner, now
        if round_ and torch.equal(before, owner):
            break
        size = torch.bincount(owner, minlength=len(centres)).to(rows.dtype)
        sums = torch.zeros_like(centres).index_add(0, owner, rows)
        centres = torch.where((size > 0).unsqueeze(1), sums / size.clamp(min=1).unsqueeze(1), centres)
    return total, owner


def _started(rows: Tensor, count: int, generator: torch.Generator, numbers: int) -> Tensor:
    """First centres, far from each other: each is drawn in proportion to its squared distance from those before it."""
    chosen = [0]
    away = _closest(rows, rows[:1], numbers)[0]
    for _ in range(count - 1):
        total = away.cumsum(0)
        place = torch.rand((), generator=generator, dtype=torch.float64, device="cpu").to(rows.device) * total[-1]
        chosen.append(min(int(torch.searchsorted(total, place, right=True)), len(rows) - 1))
        away = torch.minimum(away, _closest(rows, rows[chosen[-1:]], numbers)[0])
    return rows[chosen]


def _closest(rows: Tensor, centres: Tensor, numbers: int) -> tuple[Tensor, Tensor]:
    """The squared distance of each row from the nearest centre, and which that is, (J,) each; `numbers` in one step."""
    sizes = centres.square().sum(1)
    step = max(1, numbers // max(1, *centres.shape))
    parts = [
        (some.square().sum(1, keepdim=True) + sizes - 2 * some @ centres.T).clamp(min=0).min(1) for some in rows.split(step)
    ]
    return torch.cat([part.values for part in parts]), torch.cat([part.indices for part in parts])


def principal_axes(centred: Tensor, rank: int, *, seed: int = 0) -> Tensor:
    """The leading axes of centred rows (J, D), times the standard deviations along them, (rank, D).

    Rows of fewer dimensions than `rank` leave axes of 0. Beyond 1,024 rows and elements the axes come from subspace
    iteration (Halko, Martinsson and Tropp 2011), from a fixed seed.
    """
    count, size = centred.shape
    axes = centred.new_zeros(rank, size)
    if min(count, size) <= LARGEST_GRAM:
        if count < size:
            values, vectors = torch.linalg.eigh(centred @ centred.T / count)
            scale = (count * values.clamp(min=0)).sqrt()
            directions = (vectors.T @ centred) / scale.where(scale > 0, torch.ones_like(scale)).unsqueeze(1)
        else:
            values, vectors = torch.linalg.eigh(centred.T @ centred / count)
            directions = vectors.T
        fine = values > values[-1:] * (1e3 * size * torch.finfo(values.dtype).eps)
        scaled = directions * (values.clamp(min=0) * fine).sqrt().unsqueeze(1)
        kept = scaled.flip(0)[:rank]
    else:
        generator = torch.Generator("cpu").manual_seed(seed)
        start = torch.randn(size, min(rank + SPARE, count, size), generator=generator, dtype=centred.dtype, device="cpu")
        basis = torch.linalg.qr(start.to(centred.device)).Q
        for _ in range(ITERATIONS):
            basis = torch.linalg.qr(centred.T @ (centred @ basis)).Q
        along = centred @ basis
        values, vectors = torch.linalg.eigh(along.T @ along / count)
        kept = ((basis @ vectors).T * values.clamp(min=0).sqrt().unsqueeze(1)).flip(0)[:rank]
    axes[: len(kept)] = kept
    return axes
