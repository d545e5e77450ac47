"""Whom the elements of each layer depend on: the windows that a network looks at its players through.

A player's elements are NaN, and what is computed from them becomes NaN. Only operations that are known to pass NaN on are
followed, as long as they give floating tensors and read nothing else that differs by row; all that comes after another one
counts as depending on everybody.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from ..errors import MemoryBoundError
from ..game import Game, goes_along, take_rows
from ..graph import Graph, layer_of
from ..rules import RULES

aten = torch.ops.aten
LOSES_NAN = {aten.fmax, aten.fmin, aten.nan_to_num, aten.sign}
"""Operations with a rule that may give a number for NaN; so do powers by a random exponent, and norms of order 0."""


class Reach:
    """Whom the elements of each node depend on, where those are few: pairs (player, element) by node."""

    def __init__(self, game: Game, graph: Graph, most: int) -> None:
        self.graph, self.most = graph, most
        self.inputs = graph.inputs[: len(game.inputs)]
        along = [
            node for node, e in zip(graph.inputs[len(game.inputs) :], game.extra, strict=True) if goes_along(e, game.batch)
        ]
        self.random = {*self.inputs, *along}  # and what depends on them
        for node in graph.nodes:
            value = node.meta.get("val")
            holds = isinstance(value, (Tensor, list, tuple))  # not how many rows there are
            if holds and any(parent in self.random for parent in node.all_input_nodes):
                self.random.add(node)
        self.counts: dict[fx.Node, Tensor] = {}
        self.found: dict[fx.Node, list[Tensor]] = {}
        self.stopped: list[str] = []

    @classmethod
    def of(cls, game: Game, graph: Graph, most: int) -> Reach:
        """By n evaluations of the first row, of nodes whose elements depend on `most` players or fewer each.

        Raises:
            MemoryBoundError: which elements depend on which players does not fit the memory bound.
        """
        n = game.players.count
        reach = cls(game, graph, most)
        nodes = reach._followed()
        row = torch.zeros(1, dtype=torch.long, device=game.device)
        whole = torch.ones(1, n, dtype=torch.bool, device=game.device)
        folded = graph.folded()
        for some in torch.arange(n, device=game.device).split(graph_rows(game, graph)):
            gone = torch.nn.functional.one_hot(some, n).bool()
            inputs = [
                x.expand(len(some), *x.shape[1:]).masked_fill(mask, torch.nan)
                for x, mask in zip(game.masked(row, whole), game.players.spread(gone), strict=True)
            ]
            extra = take_rows(game.extra, row.expand(len(some)), game.batch)
            env: dict[fx.Node, Any] = folded | dict(zip(graph.inputs, [*inputs, *extra], strict=True))
            values = graph.evaluated(env, nodes)
            for node, value in zip(nodes, values, strict=True):
                reach._add(node, value, some)
            nodes = [node for node in nodes if node in reach.counts]
            held = 8 * sum(len(part) for parts in reach.found.values() for part in parts)
            if held > game.memory:
                raise MemoryBoundError(
                    f"windows: which elements depend on which players takes more than {held / 2**20:,.3g} MiB, and the memory "
                    f"bound is {game.memory / 2**20:,.3g} MiB. Raise memory=, or leave windows= out."
                )
        return reach

    def _add(self, node: fx.Node, value: Tensor, players: Tensor) -> None:
        hit = value.isnan().reshape(len(players), -1)
        count = self.counts.get(node, 0) + hit.sum(0)
        if not hit.shape[1] or int(count.max()) > self.most:
            self.counts.pop(node, None)
            self.found.pop(node, None)
            return
        self.counts[node] = count
        entries = hit.nonzero()
        self.found.setdefault(node, []).append(torch.stack((players[entries[:, 0]], entries[:, 1]), 1).int())

    def sizes(self) -> list[int]:
        """Of the largest windows of some layer, the largest first; one player alone is none."""
        return sorted({int(count.max()) for count in self.counts.values()} - {0, 1}, reverse=True)

    def border(self, most: int) -> tuple[fx.Node, ...]:
        """The nodes with no larger windows that anything with larger ones reads, and the output if it is one."""
        local = {node for node, count in self.counts.items() if int(count.max()) <= most}
        return tuple(
            node
            for node in (*self.inputs, *self.graph.nodes)
            if node in local
            and (node is self.graph.output or any(user in self.random and user not in local for user in _readers(node)))
        )

    def _followed(self) -> list[fx.Node]:
        """Nodes on whose way from the inputs nothing loses NaN; `stopped` says what comes after them."""
        result = [node for node in self.inputs if _is_clear(self.graph, node)]
        clear = set(result)
        for node in self.graph.nodes:
            parents = [parent for parent in node.all_input_nodes if parent in self.random]
            if node not in self.random or not any(parent in clear for parent in parents):
                continue
            several = _has_several(node)
            passes = all(parent in clear for parent in parents) and _passes_nan(node, self.random)
            if passes and (several or _is_clear(self.graph, node)):
                clear.add(node)
                result += [] if several else [node]
            else:
                self.stopped.append(operation(node))
        return result

    def entries(self, layers: Sequence[fx.Node]) -> tuple[Tensor, Tensor, int]:
        """Players and elements that depend on them, of all layers after each other, and how many elements there are."""
        parts, start = [torch.zeros(0, 2, dtype=torch.long)], 0
        for node in layers:
            one = torch.cat(self.found[node]).long()
            parts.append(torch.stack((one[:, 0], one[:, 1] + start), 1))
            start += len(self.counts[node])
        both = torch.cat(parts[1:] or parts)
        return both[:, 0], both[:, 1], start


def operation(node: fx.Node) -> str:
    """What a node does, and in which layer; the name of an input."""
    return f"{node.target} (layer {layer_of(node)})" if node.op == "call_function" else node.name


def graph_rows(game: Game, graph: Graph) -> int:
    """Rows for which all values of a graph, and as many gradients, fit the memory bound; no more than go through the model."""
    each = 4 * graph.elements * torch.finfo(game.dtype).bits // 8
    return max(1, min(game.chunk, game.memory // each))


def _passes_nan(node: fx.Node, random: set[fx.Node]) -> bool:
    """Whether an operation gives NaN wherever it reads one."""
    if node.target is operator.getitem:
        return True
    target = node.target
    if target not in RULES.ops() or getattr(target, "namespace", "") != "aten":
        return False
    if target is aten.linalg_vector_norm.default:
        return len(node.args) < 2 or bool(node.args[1] != 0)
    if target is aten.pow.Tensor_Tensor:
        return node.args[1] not in random
    return target.overloadpacket not in LOSES_NAN


def _readers(node: fx.Node) -> Iterator[fx.Node]:
    """What uses a value; of an operation with several results the uses of each."""
    for user in node.users:
        if _has_several(user):
            yield from user.users
        else:
            yield user


def _has_several(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), (list, tuple))


def _is_clear(graph: Graph, node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.is_floating_point() and graph.axis(node) == 0


def grouped(member: Tensor, element: Tensor, count: int, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Elements that depend on somebody (E,), the group of each (E,), and the players of each group (G, n)."""
    generator = torch.Generator("cpu").manual_seed(0)
    mark = torch.randint(-(2**62), 2**62, (n,), generator=generator, device="cpu").to(member.device)
    sums = torch.zeros(count, dtype=torch.long, device=member.device).index_add(0, element, mark[member])
    some = torch.zeros(count, dtype=torch.bool, device=member.device)
    some[element] = True
    kept = some.nonzero()[:, 0]
    _, group = sums[kept].unique(return_inverse=True)
    place = torch.zeros(count, dtype=torch.long, device=member.device)
    place[kept] = group
    sets = torch.zeros(int(group.max()) + 1, n, dtype=torch.bool, device=member.device)
    sets[place[element], member] = True
    return kept, group, sets


def coloured(sets: Tensor) -> Tensor:
    """A colour for each player, those of a set all different: the first that no neighbour has, player by player."""
    n = sets.shape[1]
    together = (sets.double().T @ sets.double() > 0).cpu()
    colours = torch.full((n,), -1, dtype=torch.long, device="cpu")
    for player in range(n):
        taken = set(colours[together[player]].tolist())
        colours[player] = next(c for c in range(n) if c not in taken)
    return colours.to(sets.device)
