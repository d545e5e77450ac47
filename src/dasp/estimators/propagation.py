"""The flagship: moments propagated at a few quadrature nodes, every player read off one backward pass."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..errors import InputError, InputTypeError, NumericsError
from ..game import Game, take_rows
from ..gaussian import Gaussian
from ..graph import Graph
from ..law import FULL
from ..propagate import Plan, Watch, make_plan, propagate
from ..special import legendre, lobatto
from .absent import Absent, both_ends, repeated
from .base import Estimate, Estimator
from .decisions import LEGENDRE, LOBATTO, at_one_point, decided, too_large
from .directions import active_directions
from .ends import single_steps, single_values
from .mixed import Mixed
from .preparation import check_graph, gradient
from .sampling import check_seed
from .second import differentiable_values, propagated_interactions
from .slopes import refuse_lost_slopes

MOST_NODES = 1024
LOST = 100.0
"""Times that a mean output may lie beyond what single players do before it counts as wrong."""
CACHED = 128 * 2**20
"""Bytes of one pass on a CPU; larger passes leave its caches and are slower."""
SCREENED = 16.0
"""Times that propagated values are less exact than plain evaluations, where ties are looked for among them."""
MOST_ROWS = 4096
"""Rows (samples times nodes times states) in one pass; more gains nothing."""


@dataclass(frozen=True, kw_only=True)
class Propagation(Estimator):
    """Deep approximate Shapley propagation, by one backward pass for all players.

    `phi_i = integral over q of dF/dq_i(q, ..., q)` (Owen, 1972), where F is the multilinear extension of the game. F is
    approximated by propagating the moments of random coalitions through the network (Ancona, Oztireli and Gross, 2019), the
    integral by quadrature, the derivatives by automatic differentiation. For another semivalue the integral is over its
    distribution of q, with the Gauss or Lobatto rule of that; one node for the Banzhaf value.

    Attributes:
        nodes: number of quadrature nodes, at least 1 (Lobatto: at least 2, both ends among them); None chooses what is exact
            where all players are enumerated, else for Legendre 4, for Lobatto 5 where no player is enumerated, else 4, or 3
            where the network has attention, whose rules are off by more than a node less costs; 3 against a background.
        rule: "legendre" (Gauss), or "lobatto", whose two ends are exact and cost 2 n plain evaluations a row; None chooses
            Lobatto for up to 64 players and one baseline; against a background the ends are means over all of its rows.
        rank: factors that carry covariance: 0 for none, "full" for one a player, a number for an active subspace of that
            size; None chooses "full" for up to 64 players, then 64, then 0 from 4,097 players on, less if the memory bound
            asks for it.
        mixture: number h of players whose 2^h states are enumerated instead of approximated. All n of them are exact with
            one baseline, where the nodes are enough: n/2 for Legendre, n/2 + 1 for Lobatto, rounded up, as nodes=None takes
            then; with fewer the integral over q is approximate. Of fewer players those with the largest steps at both ends
            (from the mean of a background) are taken, or, with Legendre and one baseline, which need no ends, those with
            the largest values at the same nodes while nobody is enumerated, one pass more each; players that are tied with
            one who is not taken are left out, so that equal players stay equal. Each target has its own; targets with
            others than the rest take as many passes again. None chooses, with full rank and Lobatto, one of up to 32
            players (all of up to 6 where nothing else is chosen), else 0.
        condition: whether nonlinearities condition on the player that dominates an element; needs rank "full"; None
            conditions where it can.
        clusters: of a background (`baseline=` rows of data): number K of clusters to propagate from, each with its own mean
            and covariance, weighted by their sizes; as many as rows is the mean over all of them. None takes 8.
        background_rank: factors that carry the covariance of a cluster; what they leave over is independent. None takes 4.
        seed: of the random coalitions that the active subspace is found with.
    """

    nodes: int | None = None
    rule: str | None = None
    rank: int | str | None = None
    mixture: int | None = None
    condition: bool | None = None
    clusters: int | None = None
    background_rank: int | None = None
    seed: int = 0
    semivalues: ClassVar[bool] = True
    takes_background: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name, value in (("nodes", self.nodes), ("rank", self.rank), ("mixture", self.mixture),
                            ("clusters", self.clusters), ("background_rank", self.background_rank)):
            named = value is None or (isinstance(value, str) and name == "rank")
            if not named and (isinstance(value, bool) or not isinstance(value, int)):
                raise InputTypeError(f"{name}: expected an int, got {type(value).__name__}")
        if not (self.condition is None or isinstance(self.condition, bool)):
            raise InputTypeError(f"condition: expected True, False or None, got {type(self.condition).__name__}")
        check_seed(self.seed)
        if self.nodes is not None and self.nodes > MOST_NODES:
            raise InputError(f"nodes must be at most {MOST_NODES}, got {self.nodes}")
        if self.rule not in (None, LEGENDRE, LOBATTO):
            raise InputError(f"rule is 'legendre', 'lobatto' or None, got {self.rule!r}")
        if self.nodes is not None and self.nodes < (2 if self.rule == LOBATTO else 1):
            raise InputError(f"nodes must be at least {2 if self.rule == LOBATTO else 1}, got {self.nodes}")
        if (isinstance(self.rank, str) and self.rank != FULL) or (isinstance(self.rank, int) and self.rank < 0):
            raise InputError(f"rank is a number of factors, 'full' or None, got {self.rank!r}")
        if self.mixture is not None and self.mixture < 0:
            raise InputError(f"mixture is a number of players, got {self.mixture}")
        if self.clusters is not None and self.clusters < 1:
            raise InputError(f"clusters must be at least 1, got {self.clusters}")
        if self.background_rank is not None and self.background_rank < 0:
            raise InputError(f"background_rank must be 0 or more, got {self.background_rank}")
        if self.condition and self.rank not in (None, FULL):
            raise InputError(
                f"condition=True needs a factor for every player, and rank is {self.rank!r}; set rank='full' or leave it out"
            )

    def estimate(self, game: Game, *, progress: bool = False) -> Estimate:
        """Shapley values of every row, target and player.

        Raises:
            CaptureError: the network cannot be captured as one graph.
            MissingRuleError: an operation on random values has no rule.
            NumericsError: moments or their derivatives are not finite; names the layer.
            MemoryBoundError: one row at one node does not fit the memory bound with the rank asked for.
        """
        work = _Work.prepare(self, game)
        if game.players.count == 1:  # its one step, whatever the weights
            step = (game.outputs - game.base_values).unsqueeze(2)
            return Estimate(step, None, 1.0 + game.rows_each, work.settings)
        parts = []
        propagations = 0.0
        bar = tqdm(total=game.batch, desc="propagating", unit="row", disable=not progress)
        plain = torch.autocast(game.device.type, enabled=False)
        with torch.inference_mode(False), torch.enable_grad(), plain, bar:
            for rows in torch.arange(game.batch, device=game.device).split(work.rows_at_once):
                values, passes = work.values(rows)
                parts.append(values)
                propagations += passes * len(rows)
                bar.update(len(rows))
        return Estimate(torch.cat(parts), None, work.evaluations, work.settings, propagations / game.batch)

    def interactions(self, game: Game, players: Tensor, *, progress: bool = False) -> Estimate:
        """Rows of the interactions of all pairs, (B, T, P, n), `integral of d2F/dq_i dq_j`; errors as for `estimate`."""
        _refuse_background(game, "interactions", "dasp.Exact()")
        return propagated_interactions(_Work.prepare(self, game), players, progress=progress)

    def differentiable(self, game: Game, inputs: tuple[Tensor, ...]) -> Estimate:
        """Values with a graph back to `inputs`, the game's, and to the weights; errors as for `estimate`."""
        _refuse_background(game, "values with a graph", "one baseline")
        return differentiable_values(_Work.prepare(self, game), inputs)


def _refuse_background(game: Game, what: str, instead: str) -> None:
    if game.rows_each > 1:
        raise InputError(f"{what} are not propagated against a background; take {instead}.")


@dataclass(frozen=True)
class _Nodes:
    """Quadrature of the inner nodes by propagation, and the weights of the two exact ends (0: none)."""

    inner: Tensor
    weights: Tensor
    first: float
    last: float


def _quadrature(options: Propagation, game: Game) -> _Nodes:
    count = options.nodes or 1
    if game.semivalue is not None:
        found = game.semivalue.quadrature(game.players.count, count, ends=options.rule == LOBATTO)
        inner, mass = (torch.as_tensor(x, dtype=game.dtype, device=game.device) for x in (found.inner, found.weights))
        return _Nodes(inner, mass, found.first, found.last)
    rule = (lobatto if options.rule == LOBATTO else legendre)(count)
    points = torch.as_tensor(rule.nodes, dtype=game.dtype, device=game.device)
    weights = torch.as_tensor(rule.weights, dtype=game.dtype, device=game.device)
    if options.rule == LOBATTO:
        return _Nodes(points[1:-1], weights[1:-1], float(weights[0]), float(weights[-1]))
    return _Nodes(points, weights, 0.0, 0.0)


@dataclass(frozen=True)
class _Work:
    """One estimate under way: everything that is the same for all chunks of rows."""

    options: Propagation
    game: Game
    graph: Graph
    plan: Plan
    nodes: _Nodes
    rows_at_once: int
    nodes_at_once: int
    clusters_at_once: int
    absent: Absent
    each: float

    @classmethod
    def prepare(cls, options: Propagation, game: Game) -> _Work:
        n = game.players.count
        if (options.mixture or 0) > n:
            raise InputError(f"mixture is {options.mixture}, and there are only {n} players")
        graph = game.model.capture(game.inputs, game.extra)
        plan = make_plan(graph, [label + 1 for label in game.players.labels], game.extra, game.batch)
        plan.require_rules()
        check_graph(game, graph)
        absent = Absent.of(game, graph, options.clusters, options.background_rank)
        if absent.clusters is not None:
            options = replace(options, clusters=absent.count, background_rank=absent.rank)
        options, each = decided(options, game, plan, absent)
        nodes = _quadrature(options, game)
        states = 2 ** (options.mixture or 0)
        fit = int(game.memory / each)
        if fit < states:
            raise too_large(options, each * states, game.memory)
        together = max(1, len(nodes.inner))
        if game.device.type == "cpu":
            fit = min(fit, max(states, int(CACHED / each)))
        nodes_at_once = min(together, fit // states)
        most = max(1, min(fit, MOST_ROWS) // (states * nodes_at_once))
        clusters_at_once = min(absent.count, most)
        rows_at_once = most // clusters_at_once
        return cls(options, game, graph, plan, nodes, rows_at_once, nodes_at_once, clusters_at_once, absent, each)

    @property
    def settings(self) -> dict[str, Any]:
        """Every option in force."""
        options = self.options
        return {
            "nodes": options.nodes, "rule": options.rule, "rank": options.rank, "mixture": options.mixture,
            "condition": options.condition, "clusters": options.clusters, "background_rank": options.background_rank,
            "seed": options.seed, "rows_at_once": self.rows_at_once, "nodes_at_once": self.nodes_at_once,
        }  # fmt: skip

    @property
    def mixture(self) -> int:
        """How many players are enumerated."""
        return self.options.mixture or 0

    @property
    def ended(self) -> bool:
        """Whether both ends are evaluated."""
        return self.options.rule == LOBATTO or self.at_ends or (self.mixture > 0 and not self.screened)

    @property
    def screened(self) -> bool:
        """Whether passes with nobody enumerated tell which players to enumerate: they cost less than the ends."""
        some = 0 < self.mixture < self.game.players.count
        plain = self.absent.clusters is None and not at_one_point(self.game)
        return some and plain and self.options.rule == LEGENDRE

    @property
    def at_ends(self) -> bool:
        """Whether the exact ends have a weight in the quadrature."""
        return bool(self.nodes.first or self.nodes.last)

    @property
    def evaluations(self) -> float:
        """Plain evaluations per row."""
        n = self.game.players.count
        each = self.game.rows_each if self.at_ends else 1
        ends = (2 * n + 2) * each if self.ended else 0
        gradients = _sampled_gradients(self.options.rank)
        return float(ends + gradients)

    def values(self, rows: Tensor) -> tuple[Tensor, float]:
        """Shapley values of some rows, (rows, T, n), and the propagated passes that each of them took."""
        game, options = self.game, self.options
        n, targets = game.players.count, game.targets.count
        total = torch.zeros(len(rows), targets, n, dtype=game.dtype, device=game.device)
        mixed = {Mixed.nobody(len(rows), game.device): list(range(targets))}
        reach: Tensor | None = None
        if self.ended:
            first, last = self._ends(game if self.at_ends else self.absent.one_baseline(), rows)
            total = total + self.nodes.first * first + self.nodes.last * last
            size = game.outputs[rows].abs() + game.base_values[rows].abs()
            mixed = Mixed.by_target(first.abs() + last.abs(), self.mixture, size)
            if self.absent.clusters is None:
                whole = (game.outputs - game.base_values)[rows].abs()
                reach = torch.maximum(first.abs().amax(-1), whole + last.abs().amax(-1))
        moved = game.moved(rows)
        if not len(self.nodes.inner):
            return total.where(moved, torch.zeros_like(total)), 0.0
        rank: str | Tensor | None = None
        if options.rank == FULL:
            rank = FULL
        elif isinstance(options.rank, int) and options.rank > 0:
            rank = active_directions(game, rows, options.rank, seed=options.seed)
        passes = 0.0
        if self.screened:
            mixed, passes = self._screen(rows, rank)
        inner, more = self._inner(rows, rank, mixed, reach)
        total = total + inner
        return total.where(moved, torch.zeros_like(total)), passes + more

    def _screen(self, rows: Tensor, rank: str | Tensor | None) -> tuple[dict[Mixed, list[int]], float]:
        """Who is enumerated for which targets, by their values while nobody is, and the passes that each row took."""
        game = self.game
        nobody = {Mixed.nobody(len(rows), game.device): list(range(game.targets.count))}
        alone, passes = self._inner(rows, rank, nobody, None)
        size = alone.abs().sum(-1) + game.outputs[rows].abs() + game.base_values[rows].abs()
        return Mixed.by_target(alone.abs(), self.mixture, SCREENED * size), passes

    def _inner(
        self, rows: Tensor, rank: str | Tensor | None, mixed: dict[Mixed, list[int]], reach: Tensor | None
    ) -> tuple[Tensor, float]:
        """The share of the inner nodes, (rows, T, n), and the propagated passes that each row took."""
        game = self.game
        total = torch.zeros(len(rows), game.targets.count, game.players.count, dtype=game.dtype, device=game.device)
        folded, passes = self.graph.folded(), 0.0
        for held, some in mixed.items():
            states = _states(held.count, game.device)
            passes += len(self.nodes.inner) * len(states) * self.absent.count
            for index in torch.arange(len(self.nodes.inner), device=game.device).split(self.nodes_at_once):
                q, w = self.nodes.inner[index], self.nodes.weights[index]
                for part in torch.arange(self.absent.count, device=game.device).split(self.clusters_at_once):
                    shares = self._nodes(rows, part, q, w, rank, held, some, states, folded, reach)
                    total[:, some] += torch.einsum("k,bktn->btn", self.absent.weights[part], shares)
        return total, passes

    @staticmethod
    def _ends(game: Game, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Exact marginal contributions to nobody and to everybody else, (rows, T, n) each."""
        return single_steps(game, rows, *single_values(game, rows))

    def _nodes(
        self, rows: Tensor, clusters: Tensor, q: Tensor, w: Tensor, rank: str | Tensor | None, mixed: Mixed, targets: list[int],
        states: Tensor, folded: Any, reach: Tensor | None,
    ) -> Tensor:  # fmt: skip
        """The share of some nodes in the values of some rows and targets, from each of some clusters, (rows, K, targets, n).

        `reach` (rows, T) is how far single players take the output from its base value, where that is known.
        """
        game, h, each = self.game, mixed.count, len(clusters)
        rows, cluster, mixed = rows.repeat_interleave(each), clusters.repeat(len(rows)), mixed.repeated(each)
        if isinstance(rank, Tensor):
            rank = rank.repeat_interleave(each, 0)
        count, samples = len(states), len(states) * len(rows)
        off, on, free = self._fixed(rows, cluster, mixed, states)
        shift = torch.zeros(samples, game.players.count, dtype=game.dtype, device=game.device, requires_grad=True)
        every = rows.repeat(count * len(q))
        extra = take_rows(game.extra, every, game.batch)
        ends = [repeated(x, len(q)) for x in off], [repeated(x, len(q)) for x in on]

        def means(shift: Tensor, watch: Watch | None = None) -> Tensor:
            law = self.absent.law(
                q, shift, free=free, grouped=game.players.grouped, conditioned=bool(self.options.condition), memory=game.memory,
                rank=rank.repeat(count, 1, 1) if isinstance(rank, Tensor) else rank,
            )  # fmt: skip
            result = propagate(self.plan, law, *ends, extra, folded, watch=watch)
            return game.targets.select(result.mean, every)[:, targets]

        values = means(shift).reshape(len(q), count, len(rows), -1)
        if reach is not None:
            self._refuse_lost(rows, values.detach(), reach[:, targets], targets)
        chance = torch.where(states.bool(), q[:, None, None], 1 - q[:, None, None])  # (K, states, h)
        weights = w[:, None] * chance.prod(-1)
        share = []
        for target in range(len(targets)):
            loss = (weights[:, :, None] * values[..., target]).sum()
            share.append(gradient(loss, shift, keep=target + 1 < len(targets)).unflatten(0, (count, -1)).sum(0))
        phi = torch.stack(share, 1)
        if not bool(phi.isfinite().all()):
            refuse_lost_slopes(means, shift)
        if h:
            own = torch.stack([self._held(j, states, chance, w, values.detach()) for j in range(h)], -1)
            own = own.to(phi.dtype) * mixed.held.unsqueeze(1)
            phi = phi.scatter_add(2, mixed.players.unsqueeze(1).expand(-1, phi.shape[1], -1), own)
        shares: Tensor = phi.detach().unflatten(0, (-1, each))
        return shares

    def _refuse_lost(self, rows: Tensor, values: Tensor, reach: Tensor, targets: list[int]) -> None:
        """Refuse mean outputs (K, states, rows, T) far beyond what the network gives: they are means of its outputs."""
        base = self.game.base_values[rows][:, targets]
        rounding = LOST * torch.finfo(base.dtype).eps * base.abs()
        lost = ((values - base).abs().amax((0, 1)) > LOST * (reach + rounding)).any(1)
        if bool(lost.any()):
            row = int(rows[int(lost.nonzero()[0])])
            raise NumericsError(
                f"the propagated mean output of row {row} lies more than {LOST:.0f} times farther from the base value than any "
                "single player takes the output: the moments have lost the network (an exp, a power or a quotient of widely "
                "spread values). Use dasp.Refine(prior=None) or dasp.PermutationSampling(), which only evaluate it."
            )

    @staticmethod
    def _held(j: int, states: Tensor, chance: Tensor, w: Tensor, values: Tensor) -> Tensor:
        """Share of the enumerated player j: its steps in every state of the other enumerated players, (rows, T)."""
        present = states[:, j].nonzero()[:, 0]
        others = torch.cat((chance[:, present, :j], chance[:, present, j + 1 :]), -1).prod(-1)  # (K, states / 2)
        steps = values[:, present] - values[:, present - 2**j]  # (K, states / 2, rows, T)
        return torch.einsum("ks,ksbt->bt", (w[:, None] * others).to(steps.dtype), steps)

    def _fixed(
        self, rows: Tensor, cluster: Tensor, mixed: Mixed, states: Tensor
    ) -> tuple[list[Tensor | Gaussian], list[Tensor], Tensor | None]:
        """Both ends of the inputs with the mixed players held in each of their states, (states * rows, *input) each, and who is
        not held, (states * rows, n)."""
        game = self.game
        off = [repeated(part, len(states)) for part in self.absent.off(rows, cluster)]
        on = [repeated(x[rows], len(states)) for x in game.inputs]
        if not mixed.count:
            return off, on, None
        held = torch.zeros(len(states), len(rows), game.players.count, dtype=torch.long, device=game.device)
        where = mixed.players.unsqueeze(0).expand(len(states), -1, -1)
        signs = (2 * states - 1).unsqueeze(1) * mixed.held.long()  # -1 absent, 1 present, 0 free
        held = held.scatter(2, where, signs).flatten(0, 1)
        ends = [both_ends(*part) for part in zip(off, on, game.players.spread(held), strict=True)]
        return [a for a, _ in ends], [b for _, b in ends], (held == 0).to(game.dtype)


def _states(mixture: int, device: torch.device) -> Tensor:
    """All states of the mixed players, (2^h, h), 0 or 1."""
    codes = torch.arange(2**mixture, device=device).unsqueeze(1)
    return (codes >> torch.arange(mixture, device=device)) & 1


def _sampled_gradients(rank: int | str | None) -> int:
    return 4 * rank if isinstance(rank, int) else 0
