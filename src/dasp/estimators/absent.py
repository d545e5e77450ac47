"""What absent players hold where moments are propagated: a baseline, or clusters of a background with their moments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..background import Clusters
from ..background_law import BackgroundLaw
from ..game import Game
from ..gaussian import Gaussian
from ..law import CoalitionLaw


@dataclass(frozen=True, eq=False)
class Absent:
    """The game's baselines, or its background in clusters.

    Attributes:
        game: the game.
        clusters: None for one baseline a row.
    """

    game: Game
    clusters: Clusters | None

    @property
    def count(self) -> int:
        """Propagations that an input takes, one from each cluster."""
        return 1 if self.clusters is None else self.clusters.count

    @property
    def weights(self) -> Tensor:
        """Of the clusters, (K,)."""
        if self.clusters is None:
            return torch.ones(1, dtype=self.game.dtype, device=self.game.device)
        return self.clusters.weights.to(self.game.dtype)

    @property
    def rank(self) -> int:
        """Factors of the background."""
        return 0 if self.clusters is None else self.clusters.rank

    def off(self, rows: Tensor, cluster: Tensor) -> list[Tensor | Gaussian]:
        """Inputs with everybody absent, (M, *shape_i) each, for rows (M,) and their clusters (M,)."""
        if self.clusters is None:
            return [b.expand_as(x)[rows] for x, b in zip(self.game.inputs, self.game.baselines, strict=True)]
        means = [mean[cluster] for mean in self.clusters.means]
        if not self.rank:
            return list(means)
        return [
            Gaussian(mean, load[:, cluster], rest[cluster])
            for mean, load, rest in zip(means, self.clusters.factors, self.clusters.rests, strict=True)
        ]

    def law(self, nodes: Tensor, shift: Tensor, *, free: Tensor | None = None, **options: Any) -> CoalitionLaw:
        """The law of coalitions for these; `free` (samples, n) is 0 for players that are held in one state."""
        if not self.rank:
            return CoalitionLaw(nodes, shift, **options)
        return BackgroundLaw(nodes, shift, rank_behind=self.rank, free=free, **options)


def both_ends(off: Tensor | Gaussian, on: Tensor, sign: Tensor) -> tuple[Tensor | Gaussian, Tensor]:
    """Values of everybody absent and present, with elements held: absent where `sign` is -1, present where it is 1."""
    if isinstance(off, Tensor):
        return torch.where(sign > 0, on, off), torch.where(sign < 0, off, on)
    assert off.factors is not None
    random = (sign <= 0).to(on.dtype)
    held = Gaussian(torch.where(sign > 0, on, off.mean), off.factors * random, off.rest * random)
    return held, torch.where(sign < 0, off.mean, on)


def repeated(value: Tensor | Gaussian, copies: int) -> Any:
    """Rows several times, one whole set after the other."""
    if isinstance(value, Tensor):
        return value.repeat(copies, *[1] * (value.dim() - 1))
    assert value.factors is not None
    factors = value.factors.repeat(1, copies, *[1] * (value.mean.dim() - 1))
    return Gaussian(repeated(value.mean, copies), factors, repeated(value.rest, copies))
