"""DASP as it was published: two propagations for every player and coalition size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..errors import InputError, InputTypeError, MemoryBoundError, NumericsError
from ..game import Game, take_rows
from ..gaussian import Gaussian
from ..law import FULL
from ..memory import peak_bytes
from ..propagate import Plan, make_plan, propagate, refuse_infinite
from ..size_law import Shared, SizeLaw
from .base import Estimate, Estimator
from .directions import SAMPLES_PER_DIRECTION, active_directions
from .preparation import check_graph
from .sampling import check_seed

DEFAULT_SIZES = 8
MOST_ROWS = 4096
"""Rows (samples times players times sizes times two) in one pass; more gains nothing."""
CACHED = 64 * 2**20
"""Bytes of one pass on a CPU; larger passes leave its caches and are slower."""


@dataclass(frozen=True, kw_only=True)
class DASP(Estimator):
    """Deep approximate Shapley propagation (Ancona, Oztireli and Gross, ICML 2019), the published algorithm.

    `phi_i = mean over sizes k of E f(S + i) - E f(S)`, S a random coalition of k others. Each expectation is one propagation
    of means and variances; the first layer takes the moments of sampling without replacement. That makes two propagations
    for each player and each size; `Propagation` reads all players off one backward pass instead, and is nearer to the truth.

    The network is propagated as for `Propagation`: maxima are taken before an increasing activation, and small pooling windows
    in every order. The authors' code takes them in turn, does not centre its sizes (here 10 players at 5 sizes form
    coalitions of 0.5, 2.5, ...), and leaves out strides, dilation, missing biases and other baselines than zero.

    Attributes:
        sizes: coalition sizes K, the centres of K equal parts of 0..n-1; n takes every size; None takes 8, or n if there
            are fewer players.
        rank: factors that carry covariance through the network: 0 for none, as published; "full" for one a player; a
            number for an active subspace of that size.
        seed: of the random coalitions that the active subspace is found with.
    """

    sizes: int | None = None
    rank: int | str = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value in (("sizes", self.sizes), ("rank", self.rank)):
            named = (value is None and name == "sizes") or (isinstance(value, str) and name == "rank")
            if not named and (isinstance(value, bool) or not isinstance(value, int)):
                raise InputTypeError(f"{name}: expected an int, got {type(value).__name__}")
        check_seed(self.seed)
        if self.sizes is not None and self.sizes < 1:
            raise InputError(f"sizes must be at least 1, got {self.sizes}")
        if (isinstance(self.rank, str) and self.rank != FULL) or (isinstance(self.rank, int) and self.rank < 0):
            raise InputError(f"rank is a number of factors or 'full', got {self.rank!r}")

    def estimate(self, game: Game, *, progress: bool = False) -> Estimate:
        """Values of every row, target and player.

        Raises:
            InputError: there are more sizes than players.
            CaptureError: the network cannot be captured as one graph.
            MissingRuleError: an operation on random values has no rule.
            NumericsError: moments are not finite; names the layer.
            MemoryBoundError: one player at one size does not fit the memory bound.
        """
        n = game.players.count
        sizes = self._sizes(n)
        graph = game.model.capture(game.inputs, game.extra)
        plan = make_plan(graph, [label + 1 for label in game.players.labels], game.extra, game.batch)
        plan.require_rules()
        check_graph(game, graph)
        plain = torch.autocast(game.device.type, enabled=False)
        bar = tqdm(total=game.batch * n, desc="propagating", unit="player", disable=not progress)
        with torch.inference_mode(False), torch.no_grad(), plain, bar:
            work = _Work(self, game, plan, coalition_sizes(n, sizes, game), int(game.memory))
            parts = []
            for rows in torch.arange(game.batch, device=game.device).split(work.rows_at_once):
                parts.append(work.values(rows, bar))
        settings: dict[str, Any] = {
            "sizes": sizes, "rank": work.rank, "seed": self.seed, "rows_at_once": work.rows_at_once,
            "players_at_once": work.players_at_once, "sizes_at_once": work.sizes_at_once,
        }  # fmt: skip
        gradients = float(SAMPLES_PER_DIRECTION * work.directions)
        return Estimate(torch.cat(parts), None, gradients, settings, 2.0 * n * sizes)

    def _sizes(self, players: int) -> int:
        if self.sizes is None:
            return min(DEFAULT_SIZES, players)
        if self.sizes > players:
            raise InputError(f"sizes is {self.sizes}, and {players} players form coalitions of {players} sizes at most")
        return self.sizes


def coalition_sizes(players: int, sizes: int, game: Game) -> Tensor:
    """Centres of `sizes` equal parts of 0..n-1, (K,); whole numbers, all of them, where sizes is n."""
    place = torch.arange(sizes, dtype=game.dtype, device=game.device)
    return (place + 0.5) * players / sizes - 0.5


class _Work:
    """One estimate under way: everything that is the same for all chunks of rows."""

    def __init__(self, options: DASP, game: Game, plan: Plan, sizes: Tensor, memory: int) -> None:
        self.options = options
        self.game = game
        self.plan = plan
        self.sizes = sizes
        self.folded = plan.graph.folded()
        n = game.players.count
        first = torch.arange(2, device=game.device) % game.batch
        self.rank = min(options.rank, n) if isinstance(options.rank, int) else options.rank
        self.directions = self.rank if isinstance(self.rank, int) else 0
        stand_in = None
        if self.directions:
            stand_in = torch.full((2, n, self.directions), n**-0.5, dtype=game.dtype, device=game.device)
        shared, one = Shared(stand_in), torch.zeros_like(first[:1])
        self._differences(first, one, sizes[:1], shared)  # what all rows share is not a matter of rows
        each = peak_bytes(lambda: self._differences(first, one, sizes[:1], shared)) / 4
        if each * 2 > memory:
            raise MemoryBoundError(
                f"one player at one size needs {each / 2**19:,.3g} MiB with rank {self.rank}, and the memory bound is "
                f"{memory / 2**20:,.3g} MiB. Raise memory=, or lower rank=."
            )
        bound = min(memory, max(CACHED, 2 * each)) if game.device.type == "cpu" else memory
        fit = min(int(bound / each), MOST_ROWS) // 2
        self.sizes_at_once = max(1, min(len(sizes), fit))
        self.players_at_once = max(1, min(n, fit // self.sizes_at_once))
        self.rows_at_once = max(1, fit // (self.sizes_at_once * n))

    def values(self, rows: Tensor, bar: Any) -> Tensor:
        """Values of some rows, (rows, T, n)."""
        game = self.game
        shared = Shared()
        if self.directions:
            with torch.enable_grad():
                shared = Shared(active_directions(game, rows, self.directions, seed=self.options.seed))
        parts = []
        for players in torch.arange(game.players.count, device=game.device).split(self.players_at_once):
            chunks = [self._differences(rows, players, sizes, shared) for sizes in self.sizes.split(self.sizes_at_once)]
            parts.append(torch.cat(chunks, 1).mean(1))  # (P, rows, T)
            bar.update(len(rows) * len(players))
        moved = game.moved(rows)
        values = torch.cat(parts).permute(1, 2, 0)
        return values.where(moved, torch.zeros_like(values))

    def _differences(self, rows: Tensor, players: Tensor, sizes: Tensor, shared: Shared) -> Tensor:
        """Marginal contributions to coalitions of some sizes, (P, K, rows, T)."""
        game = self.game
        rank = FULL if self.rank == FULL else shared.directions
        law = SizeLaw(
            players, sizes, samples=len(rows), count=game.players.count, grouped=game.players.grouped, rank=rank, shared=shared,
            memory=game.memory,
        )  # fmt: skip
        copies = 2 * len(players) * len(sizes)
        every = rows.repeat(copies)
        off = [_repeated(b.expand_as(x)[rows], copies) for x, b in zip(game.inputs, game.baselines, strict=True)]
        on = [_repeated(x[rows], copies) for x in game.inputs]
        extra = take_rows(game.extra, every, game.batch)
        spread = torch.zeros((), dtype=torch.float64, device=game.device)

        def add_up(_: Any, value: Any) -> None:
            if isinstance(value, Gaussian):
                spread.add_(value.var.sum())

        result = propagate(self.plan, law, off, on, extra, self.folded, watch=add_up)
        values = game.targets.select(result.mean, every)
        if not bool(values.isfinite().all() & spread.isfinite()):  # an infinite variance can end in a finite output
            law.meetings = 0
            propagate(self.plan, law, off, on, extra, self.folded, watch=refuse_infinite)
            raise NumericsError(f"the propagated outputs are not finite, in {game.dtype}. Scale the inputs, or use float64.")
        without, joined = values.reshape(2, len(players), len(sizes), len(rows), -1).unbind(0)
        return joined - without


def _repeated(value: Tensor, copies: int) -> Tensor:
    return value.repeat(copies, *[1] * (value.dim() - 1))
