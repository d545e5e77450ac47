"""Derivatives of the propagated extension beyond the first: interactions of players, and values that have a gradient.

Both need the propagated `F(q + shift)` as a differentiable function of every player's shift, enumerated ones among them: the
probabilities of their states follow the shift too, so that their derivatives are exact differences.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..errors import MemoryBoundError, NumericsError
from ..game import Game, take_rows
from ..law import FULL, CoalitionLaw
from ..propagate import propagate
from .absent import repeated
from .base import Estimate
from .directions import active_directions
from .ends import single_steps, single_values
from .mixed import Mixed
from .preparation import bytes_per_row

if TYPE_CHECKING:
    from .propagation import _Work

CACHED = 128 * 2**20
"""Bytes of one pass on a CPU; larger passes leave its caches and are slower."""


@dataclass(frozen=True)
class _Extension:
    """The weighted sum over nodes of the propagated extension, for some rows of a game.

    Attributes:
        work: the propagation, all its options decided.
        game: the game of the work, or the same with inputs that have gradients.
        folded: the network's constants, with or without gradients.
        rows: which rows, (R,).
        rank: as `CoalitionLaw` takes it.
        states: of the enumerated players, (2^h, h).
    """

    work: _Work
    game: Game
    folded: Any
    rows: Tensor
    rank: str | Tensor | None
    states: Tensor

    @classmethod
    def of(cls, work: _Work, game: Game, folded: Any, rows: Tensor) -> _Extension:
        """For these rows; directions of a subspace are found at the inputs as they are, and held."""
        rank: str | Tensor | None = FULL if work.options.rank == FULL else None
        if isinstance(work.options.rank, int) and work.options.rank > 0:
            rank = active_directions(work.game, rows, work.options.rank, seed=work.options.seed)
        codes = torch.arange(2**work.mixture, device=game.device).unsqueeze(1)
        states = (codes >> torch.arange(work.mixture, device=game.device)) & 1
        return cls(work, game, folded, rows, rank, states)

    def sums(self, shift: Tensor, index: Tensor, mixed: Mixed, targets: list[int]) -> Tensor:
        """`sum_k w_k F(q_k + shift)` over the nodes `index`, (R, targets); shift is (R, n), zeros."""
        work, game, states = self.work, self.game, self.states
        q, w = work.nodes.inner[index], work.nodes.weights[index]
        off, on, _ = replace(work, game=game)._fixed(self.rows, torch.zeros_like(self.rows), mixed, states)
        count = len(states)
        law = CoalitionLaw(
            q, shift.repeat(count, 1), grouped=game.players.grouped, conditioned=bool(work.options.condition),
            memory=game.memory, rank=self.rank.repeat(count, 1, 1) if isinstance(self.rank, Tensor) else self.rank,
        )  # fmt: skip
        every = self.rows.repeat(count * len(q))
        extra = take_rows(game.extra, every, game.batch)
        ends = [repeated(x, len(q)) for x in off], [repeated(x, len(q)) for x in on]
        mean = propagate(work.plan, law, *ends, extra, self.folded).mean
        values = game.targets.select(mean, every)[:, targets].reshape(len(q), count, len(self.rows), -1)
        own = shift.gather(1, mixed.players) * mixed.held  # (R, h); who is tied is random in both states
        present = (q[:, None, None] + own).unsqueeze(1)  # (K, 1, R, h)
        chance = torch.where(states.bool().unsqueeze(1), present, 1 - present).prod(-1)  # (K, states, R)
        return (w[:, None, None, None] * chance.unsqueeze(-1) * values).sum((0, 1))

    def mixed(self, ends: tuple[Tensor, Tensor] | None) -> tuple[dict[Mixed, list[int]], float]:
        """Who is enumerated for which targets, and the propagated passes a row that tell.

        `ends` are the marginal contributions to nobody and to everybody else, (R, T, n) each, where they are there already.
        """
        game, work = self.work.game, self.work
        targets = list(range(game.targets.count))
        if not work.mixture:
            return {Mixed.nobody(len(self.rows), game.device): targets}, 0.0
        if work.screened:
            return work._screen(self.rows, self.rank)
        first, last = ends or work._ends(game, self.rows)
        size = game.outputs[self.rows].abs() + game.base_values[self.rows].abs()
        return Mixed.by_target((first.abs() + last.abs()).detach(), work.mixture, size), 0.0


def _chunks(work: _Work, size: int) -> tuple[Tensor, ...]:
    """The inner nodes, `size` at a time."""
    count = len(work.nodes.inner)
    return torch.arange(count, device=work.game.device).split(size) if count else ()


def _slope(total: Tensor, shift: Tensor, *, graph: bool) -> Tensor:
    """`d total / d shift`, with its own graph or at least that of `total` kept; zeros where there is none."""
    if not total.requires_grad:
        return torch.zeros_like(shift)
    (slope,) = torch.autograd.grad(total, shift, create_graph=graph, retain_graph=True, allow_unused=True)
    return torch.zeros_like(shift) if slope is None else slope


def _refuse_not_finite(found: Tensor, what: str) -> None:
    if not bool(found.isfinite().all()):
        raise NumericsError(
            f"{what} are not finite, in {found.dtype}. Scale the inputs, or explain the model in float64 (model.double() "
            "and x.double())."
        )


# Interactions --------------------------------------------------------------------------------------------------------


def propagated_interactions(work: _Work, players: Tensor, *, progress: bool) -> Estimate:
    """Rows of the matrix of interactions, (B, T, P, n), for players (P,); 0 on its diagonal.

    Raises:
        MemoryBoundError: one row at one node does not fit the memory bound.
        NumericsError: a second derivative is not finite.
    """
    game = work.game
    rows_at_once, nodes_at_once = _second_order_sizes(work)
    parts, passes = [], 0.0
    plain = torch.autocast(game.device.type, enabled=False)
    bar = tqdm(total=game.batch * len(players), desc="interactions", unit="player", disable=not progress)
    with torch.inference_mode(False), torch.enable_grad(), plain, bar:
        folded = work.graph.folded()
        for rows in torch.arange(game.batch, device=game.device).split(rows_at_once):
            values, took = _hessian_rows(_Extension.of(work, game, folded, rows), players, nodes_at_once, bar)
            parts.append(values)
            passes += took * len(rows)
    values = torch.cat(parts)
    _refuse_not_finite(values, "interactions")
    pairs = 2 * _pair_count(players, game.players.count) if work.at_ends else 0
    settings = {**work.settings, "rows_at_once": rows_at_once, "nodes_at_once": nodes_at_once}
    return Estimate(values, None, work.evaluations + pairs, settings, passes / game.batch)


def _second_order_sizes(work: _Work) -> tuple[int, int]:
    """How many rows and nodes go through at once."""
    game, options = work.game, work.options
    key = (work.graph, game.players.key, game.targets.count, options.rank, options.condition, "second")
    rank = options.rank if options.rank is not None else 0
    each = game.model.keep(
        key, lambda: bytes_per_row(game, work.plan, rank, work.absent, conditioned=bool(options.condition), second=True)
    )
    states = 2**work.mixture
    if each * states > game.memory:
        raise MemoryBoundError(
            f"second derivatives of one row at one node need {each * states / 2**20:,.3g} MiB with rank {options.rank} and "
            f"mixture {work.mixture}, and the memory bound is {game.memory / 2**20:,.3g} MiB. Raise memory=, or lower "
            "rank= or mixture=."
        )
    memory = min(game.memory, max(CACHED, states * each)) if game.device.type == "cpu" else game.memory
    fit = int(memory / each)
    nodes = max(1, min(len(work.nodes.inner), fit // states))
    return max(1, fit // (states * nodes)), nodes


def _hessian_rows(of: _Extension, players: Tensor, nodes_at_once: int, bar: Any) -> tuple[Tensor, float]:
    """Rows of the matrix for some rows of the batch, (R, T, P, n), and the passes that each took."""
    work, game, rows = of.work, of.game, of.rows
    n = game.players.count
    result = torch.zeros(len(rows), game.targets.count, len(players), n, dtype=game.dtype, device=game.device)
    ends = None
    if work.at_ends:
        alone, without = single_values(game, rows)
        ends = single_steps(game, rows, alone, without)
        first, last = _pair_ends(game, rows, players, alone, without)
        result = result + work.nodes.first * first + work.nodes.last * last
    mixed, screening = of.mixed(ends)
    for index in _chunks(work, nodes_at_once):
        for held, targets in mixed.items():
            shift = torch.zeros(len(rows), n, dtype=game.dtype, device=game.device, requires_grad=True)
            sums = of.sums(shift, index, held, targets)
            for place, target in enumerate(targets):
                slope = _slope(sums[:, place].sum(), shift, graph=True)
                for p, player in enumerate(players.tolist()):
                    result[:, target, p] += _slope(slope[:, player].sum(), shift, graph=False).detach()
    bar.update(len(rows) * len(players))
    moved = game.moved(rows)[:, 0]  # (R, n)
    others = players.unsqueeze(1) != torch.arange(n, device=game.device)
    there = moved[:, players].unsqueeze(2) & moved.unsqueeze(1) & others
    passes = screening + len(work.nodes.inner) * len(of.states) * len(mixed) * (1 + len(players))
    return result.where(there.unsqueeze(1), torch.zeros_like(result)), passes


def _pair_count(players: Tensor, n: int) -> int:
    return len(players) * (n - 1) - len(players) * (len(players) - 1) // 2


def _pair_ends(game: Game, rows: Tensor, players: Tensor, alone: Tensor, without: Tensor) -> tuple[Tensor, Tensor]:
    """Second differences with nobody else and with everybody else, (R, T, P, n) each, from `single_values`; exact."""
    n = game.players.count
    every = torch.arange(n, device=game.device)
    place = torch.full((n,), -1, device=game.device).scatter(0, players, torch.arange(len(players), device=game.device))
    i, j = (players.repeat_interleave(n), every.repeat(len(players)))
    wanted = (i != j) & ((place[j] < 0) | (i < j))  # each pair once
    i, j = i[wanted], j[wanted]
    result = []
    size = max(1, game.memory // (64 * n))
    for present, single in ((False, alone.double()), (True, without.double())):
        start = (game.outputs if present else game.base_values)[rows].double()  # (R, T)
        matrix = torch.zeros(len(rows), game.targets.count, len(players), n, dtype=torch.float64, device=game.device)
        for a, b in zip(i.split(size), j.split(size), strict=True):
            both = game.table(((a.unsqueeze(1) == every) | (b.unsqueeze(1) == every)) ^ present, rows).double()
            found = (both - single[:, a] - single[:, b] + start.unsqueeze(1)).transpose(1, 2)
            matrix[:, :, place[a], b] = found
            back = place[b] >= 0
            matrix[:, :, place[b[back]], a[back]] = found[..., back]
        result.append(matrix.to(game.dtype))
    return result[0], result[1]


# Values with gradients -----------------------------------------------------------------------------------------------


def differentiable_values(work: _Work, inputs: tuple[Tensor, ...]) -> Estimate:
    """Values (B, T, n) with their graph back to the inputs, (B, *shape) each, and to the network's weights.

    Who is enumerated, who dominates an element and the directions of a subspace are held: the values are differentiable
    where these choices do not change.

    Raises:
        MemoryBoundError: the graph of all rows, which is kept, does not fit the memory bound.
        NumericsError: a value is not finite.
    """
    game = work.game
    live = replace(game, inputs=inputs)
    _refuse_large(work)
    parts, passes = [], 0.0
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(game.device.type, enabled=False):
        folded = work.graph.folded(live=True)
        for rows in torch.arange(game.batch, device=game.device).split(work.rows_at_once):
            values, took = _values(_Extension.of(work, live, folded, rows))
            parts.append(values)
            passes += took * len(rows)
    values = torch.cat(parts)
    _refuse_not_finite(values.detach(), "values")
    return Estimate(values, None, work.evaluations, {**work.settings, "create_graph": True}, passes / game.batch)


def _refuse_large(work: _Work) -> None:
    game = work.game
    needed = work.each * 2**work.mixture * max(1, len(work.nodes.inner)) * game.batch
    if needed > game.memory:
        raise MemoryBoundError(
            f"create_graph keeps the graph of all {game.batch} rows, about {needed / 2**20:,.3g} MiB, and the memory bound "
            f"is {game.memory / 2**20:,.3g} MiB. Raise memory=, explain fewer rows at once, or lower rank=, nodes= or "
            "mixture=."
        )


def _values(of: _Extension) -> tuple[Tensor, float]:
    work, game, rows = of.work, of.game, of.rows
    n = game.players.count
    total = torch.zeros(len(rows), game.targets.count, n, dtype=game.dtype, device=game.device)
    ends = None
    if work.at_ends:
        first, last = ends = _live_ends(of)
        total = total + work.nodes.first * first + work.nodes.last * last
    mixed, screening = of.mixed(ends)
    for index in _chunks(work, work.nodes_at_once):
        slopes: dict[int, Tensor] = {}
        for held, targets in mixed.items():
            shift = torch.zeros(len(rows), n, dtype=game.dtype, device=game.device, requires_grad=True)
            sums = of.sums(shift, index, held, targets)
            for place, target in enumerate(targets):
                slopes[target] = _slope(sums[:, place].sum(), shift, graph=True)
        total = total + torch.stack([slopes[target] for target in range(game.targets.count)], 1)
    return total, screening + len(work.nodes.inner) * len(of.states) * len(mixed)


def _live_ends(of: _Extension) -> tuple[Tensor, Tensor]:
    """Marginal contributions to nobody and to everybody else, (R, T, n) each, by the graph, with gradients."""
    game, rows = of.game, of.rows
    alone = torch.eye(game.players.count, dtype=torch.bool, device=game.device)
    ends = torch.zeros_like(alone[:1])
    coalitions = torch.cat((ends, ~ends, alone, ~alone))  # (2 + 2n, n)
    index = rows.repeat_interleave(len(coalitions))
    masked = [
        torch.where(z.unsqueeze(0), x[rows].unsqueeze(1), b.expand_as(x)[rows].unsqueeze(1)).flatten(0, 1)
        for z, x, b in zip(game.players.spread(coalitions), game.inputs, game.baselines, strict=True)
    ]
    outputs = of.work.graph.run([*masked, *take_rows(game.extra, index, game.batch)], of.folded)
    values = game.targets.select(outputs, index).unflatten(0, (len(rows), -1)).transpose(1, 2)  # (R, T, 2 + 2n)
    base, full, first, last = values.split((1, 1, len(alone), len(alone)), 2)
    return first - base, full - last
