"""What absent players hold where moments are propagated: a baseline, or clusters of a background with their moments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..background import Clusters
from ..background_game import BackgroundGame
from ..background_law import BackgroundLaw
from ..errors import InputError
from ..game import Game
from ..gaussian import Gaussian
from ..graph import Graph
from ..law import CoalitionLaw

CLUSTERS = 8
"""Of a background, and the factors of each, that are propagated where nothing else is asked for."""
BACKGROUND_RANK = 4
POINTS = 256
"""Gradients that tell how much elements matter."""


@dataclass(frozen=True, eq=False)
class Absent:
    """The game's baselines, or its background in clusters.

    Attributes:
        game: the game.
        clusters: None for one baseline a row.
    """

    game: Game
    clusters: Clusters | None

    @classmethod
    def of(cls, game: Game, graph: Graph, clusters: int | None, rank: int | None) -> Absent:
        """For a game, with the clusters and factors asked for; None takes 8 and 4.

        Raises:
            InputError: they are asked for without a background, or it holds whole numbers.
            MemoryBoundError: its rows do not fit the memory bound.
        """
        if not isinstance(game, BackgroundGame):
            for name, asked in (("clusters", clusters), ("background_rank", rank)):
                if asked is not None:
                    raise InputError(f"{name} is for a background: give rows of data as the baseline, or leave it out.")
            return cls(game, None)
        count, factors = CLUSTERS if clusters is None else clusters, BACKGROUND_RANK if rank is None else rank

        def made() -> Clusters:
            with torch.enable_grad(), torch.autocast(game.device.type, enabled=False):
                metric = slopes(game, graph)
            return game.background.clusters(count, factors, metric, memory=game.memory)

        return cls(game, game.keep(("clusters", count, factors, game.players.key), made))

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

    @property
    def random(self) -> bool:
        """Whether what absent players hold has a variance."""
        return self.clusters is not None and not self.clusters.of_rows

    def one_baseline(self) -> Game:
        """The game against the mean of the background; against its first row where it holds whole numbers."""
        game = self.game
        if not isinstance(game, BackgroundGame):
            return game
        pairs = zip(game.background.means, game.baselines, strict=True)
        means = tuple(m.to(b.dtype) if b.is_floating_point() else b[:1] for m, b in pairs)
        return Game(game.model, game.inputs, means, game.extra, game.players, game.targets, game.memory)

    def off(self, rows: Tensor, cluster: Tensor) -> list[Tensor | Gaussian]:
        """Inputs with everybody absent, (M, *shape_i) each, for rows (M,) and their clusters (M,)."""
        if self.clusters is None:
            return [b.expand_as(x)[rows] for x, b in zip(self.game.inputs, self.game.baselines, strict=True)]
        means = [mean[cluster] for mean in self.clusters.means]
        if not self.random:
            return list(means)
        return [
            Gaussian(mean, load[:, cluster] if self.rank else None, rest[cluster])
            for mean, load, rest in zip(means, self.clusters.factors, self.clusters.rests, strict=True)
        ]

    def law(self, nodes: Tensor, shift: Tensor, *, free: Tensor | None = None, **options: Any) -> CoalitionLaw:
        """The law of coalitions for these; `free` (samples, n) is 0 for players that are held in one state."""
        if not self.random:
            return CoalitionLaw(nodes, shift, **options)
        return BackgroundLaw(nodes, shift, rank_behind=self.rank, free=free, **options)


def slopes(game: BackgroundGame, graph: Graph) -> list[Tensor]:
    """How much a step of each element moves the outputs: root mean square of the gradient, (*shape_i) for every input.

    At random mixtures of two rows of the background, from a fixed seed; of all outputs together, with random signs. Ones
    where the outputs hang on which row is explained, as clusters must not.
    """
    floating = all(b.is_floating_point() for b in game.baselines)
    if game.follows_rows or not floating:
        return [torch.ones_like(b[0]) for b in game.baselines]
    generator = torch.Generator("cpu").manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, device="cpu").to(game.device)

    total = [torch.zeros_like(b[0]) for b in game.baselines]
    one, two = (drawn(2, POINTS) * game.rows_each).long().clamp(max=game.rows_each - 1)
    chance, places = drawn(POINTS, 1), drawn(POINTS, game.players.count)
    signs: Tensor | None = None
    together = max(2, game.chunk // 6 * 2)  # an even number: a graph is not run on one row
    for some in torch.arange(POINTS, device=game.device).split(together):
        mixed = game.players.spread(places[some] < chance[some])
        points = [torch.where(z, b[one[some]], b[two[some]]) for z, b in zip(mixed, game.baselines, strict=True)]
        points = [point.requires_grad_() for point in points]
        outputs = graph.run([*points, *game.extra]).reshape(len(some), -1)
        if signs is None:
            signs = torch.where(drawn(POINTS, outputs.shape[1]) < 0.5, -1.0, 1.0).to(outputs.dtype)
        if outputs.requires_grad:
            found = torch.autograd.grad((outputs * signs[some]).sum(), points, allow_unused=True)
            total = [t if g is None else t + g.square().sum(0) for t, g in zip(total, found, strict=True)]
    return [(part / POINTS).sqrt() for part in total]


def both_ends(off: Tensor | Gaussian, on: Tensor, sign: Tensor) -> tuple[Tensor | Gaussian, Tensor]:
    """Values of everybody absent and present, with elements held: absent where `sign` is -1, present where it is 1."""
    if isinstance(off, Tensor):
        return torch.where(sign > 0, on, off), torch.where(sign < 0, off, on)
    random = (sign <= 0).to(on.dtype)
    factors = None if off.factors is None else off.factors * random
    held = Gaussian(torch.where(sign > 0, on, off.mean), factors, off.rest * random)
    return held, torch.where(sign < 0, off.mean, on)


def repeated(value: Tensor | Gaussian, copies: int) -> Any:
    """Rows several times, one whole set after the other."""
    if isinstance(value, Tensor):
        return value.repeat(copies, *[1] * (value.dim() - 1))
    tail = [1] * (value.mean.dim() - 1)
    factors = None if value.factors is None else value.factors.repeat(1, copies, *tail)
    return Gaussian(repeated(value.mean, copies), factors, repeated(value.rest, copies))
