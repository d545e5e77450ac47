"""What layers make of windows of the input: a surrogate whose Shapley values a few evaluations tell for all windows at once.

Early layers of a convolutional network look at a few players each. Any sum of their elements, g(S) = w . h(S), is a sum of
games of few players. Colour the players so that no element depends on two of one colour; then a coalition of colours shows
every element a coalition of its own players, and what depends on a player is a game of the colours, in which the player's value
is that of its colour. So one set of coalitions of few colours serves all players. (Jacobians that are sparse are compressed in
the same way: Curtis, Powell, Reid 1974; Coleman and More 1983.) The weights w are the directions along which the rest of the
network responds (an active subspace of a layer: Constantine 2015), each times what fits the differences best.

Legend: n players, C colours, E elements that depend on players, G groups of them that depend on the same players, K directions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, fx
from tqdm.auto import tqdm

from ..background_game import BackgroundGame
from ..errors import InputError, NumericsError
from ..game import Game, take_rows
from ..graph import Graph
from .designs import MOST_PLAYERS, choose_pairs
from .odd_games import differences, every_pair
from .preparation import check_graph
from .reach import Reach, coloured, graph_rows, grouped, operation
from .sampling import stream

DIRECTIONS = 16
PAIRS_EACH = 16
"""A direction is fitted to as many pairs or more."""
GRADIENTS = 64
PART = 20
"""Pairs of colours are one in so many of the evaluations: a tenth of the budget."""
TRIALS = 16
SAME, SAME_LAYER = 1000.0, 16.0
"""Rounding errors by which an element may differ that does not depend on what was changed: its own, and of the largest one."""
INSTEAD = "Leave windows= out"
_NAMED = 3


class Settings(Protocol):
    """What windows ask of a regression."""

    @property
    def budget(self) -> int:
        """Evaluations a row."""

    @property
    def seed(self) -> int:
        """Of the coalitions."""

    def judge(self, members: Tensor, differences: Tensor, priors: Sequence[Tensor], memory: int) -> Any:
        """Values and standard errors of games from their differences."""

    def row_bytes(self, n: int, pairs: int, targets: int) -> int:
        """What that takes for each game."""


@dataclass(frozen=True, eq=False)
class Windows:
    """The last layers of a network whose elements depend on few players each; nothing else reaches the rest of it.

    Attributes:
        game: whose network it is.
        graph: of the network.
        layers: the nodes whose values are the elements, one after the other.
        kept: which of these depend on players at all, (E,) int64.
        group: of each of those, (E,) int64.
        sets: the players of each group, (G, n) bool.
        colours: of each player, (n,) int64, 0 to C - 1.
    """

    game: Game
    graph: Graph
    layers: tuple[fx.Node, ...]
    kept: Tensor
    group: Tensor
    sets: Tensor
    colours: Tensor

    @classmethod
    def of(cls, game: Game) -> Windows:
        """Find them, by n evaluations with the elements of a player NaN each, and 32 more that try what was found.

        Raises:
            CaptureError: the network cannot be captured as one graph.
            InputError: there are none, or whole numbers or a background are explained.
            MemoryBoundError: who depends on whom does not fit the memory bound.
        """
        if isinstance(game, BackgroundGame):
            raise InputError(f"windows are those of one baseline, not of a background. {INSTEAD}.")
        for i, x in enumerate(game.inputs):
            if not x.is_floating_point():
                raise InputError(f"windows: input {i} holds {x.dtype}; explain embeddings of whole numbers. {INSTEAD}.")
        graph = game.model.capture(game.inputs, game.extra)
        check_graph(game, graph)
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(game.device.type, enabled=False):
            most = min(MOST_PLAYERS, game.players.count // 2)
            reach = Reach.of(game, graph, most)
            many = ""
            for size in reach.sizes():
                layers = reach.border(size)
                member, element, count = reach.entries(layers)
                if not len(member):
                    continue
                kept, group, sets = grouped(member, element, count, game.players.count)
                found = cls(game, graph, layers, kept, group, sets, coloured(sets))
                if found.colour_count <= most:
                    found._try()
                    return found
                many = f"; those of {', '.join(found.names)} depend on up to {size} and take {found.colour_count} colours"
        stopped = f" Not followed: {', '.join(reach.stopped[:_NAMED])}." if reach.stopped else ""
        raise InputError(
            f"no layer of {game.model.name} was found whose elements depend on a few players each, from two (what depends on "
            f"one alone a regression knows anyway) to {most}, told apart by as many colours{many}.{stopped} {INSTEAD}."
        )

    @property
    def colour_count(self) -> int:
        """C."""
        return int(self.colours.max()) + 1

    @property
    def names(self) -> list[str]:
        """Of the layers; inputs that reach the rest directly are among them."""
        return [operation(node) for node in self.layers]

    def pairs(self, budget: int) -> int:
        """Of coalitions of colours, of an evaluation budget; all of them where those are no more."""
        return int(min(budget // PART, 2 ** (self.colour_count - 1) - 1))

    def evaluations(self, budget: int) -> int:
        """What the surrogate takes: who depends on whom, gradients (two each), and pairs of colours."""
        return self.fixed + 2 * self.pairs(budget)

    @property
    def fixed(self) -> int:
        """Evaluations whatever the budget: who depends on whom, what tries that, gradients, and both ends twice."""
        return self.game.players.count + 2 * TRIALS + 2 * GRADIENTS + 4

    def row_bytes(self, budget: int) -> int:
        """For a row: gradients, several copies of them alive at once, directions, features, what depends on each player."""
        elements = len(self.kept) * (4 * GRADIENTS + 3 * DIRECTIONS)
        each = elements + 2 * DIRECTIONS * budget + 2 * self.game.players.count * self.pairs(budget)
        return 8 * self.game.targets.count * each

    def least(self, others: int) -> int:
        """The least budget that leaves so many evaluations for all else."""
        budget = others + self.evaluations(0)
        while budget - self.evaluations(budget) < others:
            budget += 1
        return budget

    def directions(self, rows: Tensor, count: int, seed: int) -> Tensor:
        """Orthonormal directions of the elements along which the output bends, (R, T, K, E) float64, the strongest first."""
        count = max(1, min(DIRECTIONS, count // PAIRS_EACH))
        generator = stream(seed)
        n, samples = self.game.players.count, GRADIENTS // 2
        chance = torch.rand(samples, 1, generator=generator, device="cpu")
        half = torch.rand(samples, n, generator=generator, device="cpu") < chance
        coalitions = torch.cat((half, ~half)).to(self.game.device)
        parts = []
        for row in rows.split(1):
            slopes = torch.cat([self._slopes(row, some) for some in coalitions.split(self.at_once)], 1)  # (T, M, E)
            slopes = slopes.where(slopes.isfinite(), 0.0)  # any direction will do, and these say nothing
            scale = slopes.abs().amax((1, 2), keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
            _, vectors = torch.linalg.eigh((slopes / scale) @ (slopes / scale).mT)
            leading = (slopes / scale).mT @ vectors[..., -count:].flip(-1)  # (T, E, K)
            length = leading.norm(dim=1, keepdim=True)
            parts.append((leading / length.clamp(min=torch.finfo(torch.float64).tiny)).mT)
        return torch.stack(parts)

    def beside(
        self, rows: Tensor, which: Tensor, members: Tensor, options: Settings, bar: tqdm
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Differences and what the surrogate leaves over of them, (2, R, T, M + 1); its values and errors, (2, R, T, k).

        The first of the two is the game itself, of which nothing is known.

        Args:
            rows: of the game, (R,).
            which: players of each row that are looked at, (R, k).
            members: coalitions of those, everybody last, (M + 1, k).
            options: of the regression.
            bar: shows evaluations.
        """
        targets = self.game.targets.count
        directions = self.directions(rows, len(members) - 1, options.seed)
        both = differences(self.game, rows, which, members, bar, _Features(self, rows, directions))
        found, features = both[:, :targets], both[:, targets:].unflatten(1, (targets, -1)).mT  # (R, T, M + 1, K)
        factors = fitted(features[:, :, :-1], found[:, :, :-1])
        weights = torch.einsum("rtk,rtke->rte", factors, directions)
        bar.update(len(rows) * (self.fixed - 2))
        each = [self._known(row, one, options, bar) for row, one in zip(rows.split(1), weights, strict=True)]
        values, variances = (torch.stack(part).gather(2, _along(which, targets)) for part in zip(*each, strict=True))
        surrogate = (features @ factors.unsqueeze(-1)).squeeze(-1)
        missing = surrogate[..., -1:] - values.sum(2, keepdim=True)  # shared by how little is known of each
        whole = variances.sum(2, keepdim=True)
        share = variances / whole.clamp(min=torch.finfo(torch.float64).tiny)
        rounding = SAME * torch.finfo(self.game.dtype).eps * (values.abs().sum(2, keepdim=True) + surrogate.abs().amax())
        if bool((missing.abs() > rounding).logical_and(whole == 0).any()):  # all coalitions of colours add up
            raise self._hidden()
        known = torch.stack((torch.zeros_like(values), values + share * missing))
        return torch.stack((found, found - surrogate)), known, torch.stack((torch.zeros_like(values), variances.sqrt()))

    def _known(self, row: Tensor, weights: Tensor, options: Settings, bar: tqdm) -> tuple[Tensor, Tensor]:
        """Shapley values of sums of the elements with weights (T, E) for a row, and their variances, (T, n)."""
        count, pairs = self.colour_count, self.pairs(options.budget)
        device = self.game.device
        every = pairs == 2 ** (count - 1) - 1
        drawn = every_pair(count, device) if every else choose_pairs(count, pairs, options.seed).to(device)
        members = torch.cat((drawn, torch.ones(1, count, dtype=torch.bool, device=device)))
        parts = self.parts(row, weights, members, bar)  # (T, n, M + 1)
        step = max(1, self.game.memory // (2 * options.row_bytes(count, pairs, 1)))
        values, errors = [], []
        for some, colour in zip(parts.flatten(0, 1).split(step), self.colours.repeat(len(weights)).split(step), strict=True):
            judged = options.judge(members, some, (), self.game.memory)
            values.append(judged.values.gather(1, colour.unsqueeze(1)))
            errors.append(judged.standard_errors.gather(1, colour.unsqueeze(1)))
        shape = parts.shape[:2]
        return torch.cat(values).reshape(shape), torch.cat(errors).square().reshape(shape)

    def parts(self, row: Tensor, weights: Tensor, members: Tensor, bar: tqdm) -> Tensor:
        """Differences of what depends on each player, of weights (T, E), at coalitions of colours (M, C), (T, n, M)."""
        found = []
        for some in members.split(max(1, self.at_once // 2)):
            players = some[:, self.colours]
            h = self._elements(row.repeat(2 * len(some)), torch.cat((players, ~players))).double()
            self.refuse_non_finite(h)
            h = h[: len(some)] - h[len(some) :]
            groups = torch.zeros(len(weights), len(some), len(self.sets), dtype=torch.float64, device=h.device)
            groups.index_add_(2, self.group, weights.unsqueeze(1) * h)
            found.append((groups @ self.sets.double()).mT)
            bar.update(2 * len(some))
        return torch.cat(found, 2)

    def refuse_non_finite(self, elements: Tensor) -> None:
        """Refuse infinite elements: no sum of them is known.

        Raises:
            NumericsError: there are some.
        """
        if not bool(elements.isfinite().all()):
            raise NumericsError(
                f"{', '.join(self.names)}: elements are infinite or NaN at some coalition, though the output is not, so no "
                f"sum of them is known. {INSTEAD}."
            )

    @property
    def at_once(self) -> int:
        """Evaluations of the graph at once."""
        return min(graph_rows(self.game, self.graph), max(1, self.game.memory // (64 * len(self.kept))))

    def _run(self, index: Tensor, coalitions: Tensor) -> dict[fx.Node, Any]:
        game = self.game
        masked = [*game.masked(index, coalitions), *take_rows(game.extra, index, game.batch)]
        return self.graph.folded() | dict(zip(self.graph.inputs, masked, strict=True))

    def _elements(self, index: Tensor, coalitions: Tensor) -> Tensor:
        """(M, E)."""
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(self.game.device.type, enabled=False):
            return self._flat(self.graph.evaluated(self._run(index, coalitions), self.layers))

    def _flat(self, values: Sequence[Tensor]) -> Tensor:
        return torch.cat([value.reshape(len(value), -1) for value in values], 1)[:, self.kept]

    def _both(self, index: Tensor, coalitions: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs (M, T) and elements (M, E)."""
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(self.game.device.type, enabled=False):
            *layers, output = self.graph.evaluated(self._run(index, coalitions), (*self.layers, self.graph.output))
            return self.game.targets.select(output, index), self._flat(layers)

    def _slopes(self, row: Tensor, coalitions: Tensor) -> Tensor:
        """Derivatives of the outputs by the elements at coalitions (M, n), (T, M, E) float64."""
        index = row.repeat(len(coalitions))
        with torch.inference_mode(False), torch.autocast(self.game.device.type, enabled=False):
            with torch.no_grad():
                env = self._run(index, coalitions)
                layers = self.graph.evaluated(env, self.layers)
            leaves = [value.detach().requires_grad_() for value in layers]
            with torch.enable_grad():
                (output,) = self.graph.evaluated(env | dict(zip(self.layers, leaves, strict=True)), (self.graph.output,))
                values = self.game.targets.select(output, index)
            slopes = []
            for target in range(values.shape[1]):
                keep = target + 1 < values.shape[1]
                if values.requires_grad:
                    found = self._gradient(values[:, target].sum(), leaves, keep=keep)
                else:
                    found = tuple(torch.zeros_like(leaf) for leaf in leaves)
                slopes.append(self._flat(found).double())
        return torch.stack(slopes)

    def _gradient(self, value: Tensor, leaves: list[Tensor], *, keep: bool) -> tuple[Tensor, ...]:
        try:
            return torch.autograd.grad(value, leaves, retain_graph=keep, materialize_grads=True)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:300]
            raise InputError(
                f"windows: what follows {', '.join(self.names)} cannot be differentiated: {reason.rstrip('.')}. {INSTEAD}."
            ) from error

    def _try(self) -> None:
        """Refuse elements that change where nobody changes whom they seem to depend on."""
        n = self.game.players.count
        generator = torch.Generator("cpu").manual_seed(0)
        index = torch.arange(TRIALS, device=self.game.device) * max(1, self.game.batch // TRIALS) % self.game.batch
        before = (torch.rand(TRIALS, n, generator=generator, device="cpu") < 0.5).to(self.game.device)
        part = 1 / (1 + int(self.sets.sum(1).max()))  # so that many elements stay as they are
        changed = (torch.rand(TRIALS, n, generator=generator, device="cpu") < part).to(self.game.device)
        for trial, rows in enumerate(index.split(self.at_once)):
            some = slice(trial * self.at_once, trial * self.at_once + len(rows))
            first, second = self._elements(rows, before[some]), self._elements(rows, before[some] ^ changed[some])
            same = ~(changed[some].double() @ self.sets.double().T > 0)[:, self.group]  # (M, E)
            size = torch.maximum(first.abs(), second.abs())
            size = size.where(size.isfinite(), 0.0)
            rounding = torch.finfo(first.dtype).eps * (SAME * size.amax(0) + SAME_LAYER * size.amax())
            equal = (first == second) | ((first - second).abs() <= rounding) | (first.isnan() & second.isnan())
            if bool((same & ~equal).any()):
                raise self._hidden()

    def _hidden(self) -> InputError:
        return InputError(
            f"{', '.join(self.names)}: elements change with players that their operations do not seem to read, so windows "
            f"cannot be told. {INSTEAD}."
        )


@dataclass(frozen=True, eq=False)
class _Features:
    """Outputs, then the elements' sums along directions (R, T, K, E) of rows (R,), as T + T K columns of a table."""

    windows: Windows
    rows: Tensor
    directions: Tensor

    def table(self, coalitions: Tensor, rows: Tensor) -> Tensor:
        """Of coalitions (M, n) for some of the rows (A,): (A, M, T + T K) float64."""
        result = []
        for row in rows.split(1):
            own = self.directions[int((self.rows == row).nonzero()[0])]
            parts = []
            for some in coalitions.split(self.windows.at_once):
                outputs, elements = self.windows._both(row.repeat(len(some)), some)
                self.windows.game.refuse_non_finite(outputs, row.repeat(len(some)), some)
                self.windows.refuse_non_finite(elements)
                parts.append(torch.cat((outputs.double(), elements.double() @ own.flatten(0, 1).T), 1))
            result.append(torch.cat(parts))
        return torch.stack(result)


def fitted(features: Tensor, differences: Tensor) -> Tensor:
    """The factors of K features (..., M, K) whose sum comes nearest to differences (..., M), (..., K)."""
    gram = features.mT @ features
    factors: Tensor = torch.linalg.pinv(gram, rtol=1e-10, hermitian=True) @ (features.mT @ differences.unsqueeze(-1))
    return factors.squeeze(-1)


def _along(which: Tensor, targets: int) -> Tensor:
    return which.unsqueeze(1).expand(-1, targets, -1)
