"""Rows folded into another axis, as attention folds its heads into the batch: which elements belong to which row.

In an axis of `rows * k` elements, row i has those from `i k` up to `(i + 1) k` if the batch axis came first when both were
joined. Whether it did is read off the shapes around the operation that joined them; where it cannot be, nothing is claimed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, fx

from .gaussian import Law
from .graph import Graph, is_pointwise

aten = torch.ops.aten

JOINING = frozenset(
    {aten.view.default, aten.reshape.default, aten._unsafe_view.default, aten.flatten.using_ints, aten.unflatten.int}
)
KEEPING = frozenset(
    {
        aten.transpose.int, aten.permute.default, aten.movedim.int, aten.clone.default, aten.contiguous.default,
        aten.unsqueeze.default, aten.squeeze.dim, aten.bmm.default, aten.baddbmm.default, aten.matmul.default,
        aten.softmax.int, aten._softmax.default, aten.log_softmax.int, aten._log_softmax.default,
    }
)  # fmt: skip
"""Beside pointwise operations, those that keep the order along an axis of rows that is as long before as after."""
ROWS = 1_000_003
"""A number of rows that no other size of a network is a multiple of."""


@dataclass(frozen=True)
class Fold:
    """An axis into which rows are folded.

    Attributes:
        axis: which.
        size: consecutive elements of a row.
    """

    axis: int
    size: int


def folds(graph: Graph) -> Mapping[fx.Node, Fold]:
    """The nodes with rows folded into another axis, rows first."""
    found: dict[fx.Node, Fold] = {}
    for node in graph.nodes:
        fold = _place(graph, node)
        if fold is None:
            continue
        if node.target in JOINING:
            rows_first = _rows_lead(graph, node.all_input_nodes[0], node, fold, found)
        elif node.target in KEEPING or is_pointwise(node.target):
            parents = [p for p in node.all_input_nodes if _place(graph, p) is not None]
            rows_first = bool(parents) and all(p in found and found[p].size == fold.size for p in parents)
        else:
            rows_first = False
        if rows_first:
            found[node] = fold
    return found


def _sizes(graph: Graph, node: fx.Node) -> list[int]:
    """The sizes of a node's value for `ROWS` rows; none where they hang on more than these."""
    shape = node.meta["val"].shape
    known = all(size.node.expr.free_symbols <= {graph.batch} for size in shape if isinstance(size, torch.SymInt))
    return [int(s.node.expr.subs(graph.batch, ROWS)) if isinstance(s, torch.SymInt) else s for s in shape] if known else []


def _place(graph: Graph, node: fx.Node) -> Fold | None:
    """The one axis that is a multiple of the number of rows, if there is none of rows alone."""
    if not isinstance(node.meta.get("val"), Tensor):
        return None
    many = [(i, size // ROWS) for i, size in enumerate(_sizes(graph, node)) if size and size % ROWS == 0]
    if len(many) != 1 or many[0][1] == 1:
        return None
    return Fold(*many[0])


def _rows_lead(graph: Graph, source: fx.Node, node: fx.Node, fold: Fold, found: Mapping[fx.Node, Fold]) -> bool:
    """Whether the axis of rows of the source, its own or a folded one, begins the axis into which it is joined."""
    axis = found[source].axis if source in found else graph.axis(source)
    before = _sizes(graph, source)
    return axis is not None and bool(before) and prod(before[:axis]) == prod(_sizes(graph, node)[: fold.axis])


@dataclass(frozen=True)
class FoldedLaw:
    """A law as rules see it along a folded axis."""

    law: Law
    size: int

    @property
    def conditioned(self) -> bool:
        """As that of the law."""
        return self.law.conditioned

    @property
    def factor_presence(self) -> Tensor | None:
        """That of the law, once for every element of a row, (R, rows * size)."""
        presence = self.law.factor_presence
        return None if presence is None else presence.repeat_interleave(self.size, 1)


def seen_by(law: Any, node: fx.Node, axis: int | None, found: Mapping[fx.Node, Fold]) -> tuple[Any, int | None]:
    """The law and the axis of rows for an operation: its own batch axis, or a folded one."""
    fold = found.get(node)
    if axis is not None or fold is None:
        return law, axis
    return FoldedLaw(law, fold.size), fold.axis
