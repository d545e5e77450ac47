"""Rules for values written or added to known places of others, and for rows looked up by integers; all exact."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from ..errors import MissingRuleError
from ..gaussian import Gaussian
from .families import Context, move_rule, moves
from .parts import times
from .registry import RULES, Rule

aten = torch.ops.aten


def _written(op: OpOverload) -> Callable[..., Tensor]:
    """Only the part of the source that has an index; torch (2.13) takes more, but has no gradient of it then."""

    def run(value: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
        result: Tensor = op(value, dim, index, source[tuple(slice(size) for size in index.shape)])
        return result

    return run


def _owners_of_put(labels: Tensor, indices: Any, source: Tensor, accumulate: bool = False) -> Tensor | None:
    """Of values written; where they are added, two players may meet."""
    result: Tensor = aten.index_put(labels, indices, source)
    return None if accumulate else result


def added(context: Context, value: Any, dim: int, index: Tensor, source: Any, *, alpha: float = 1) -> Gaussian:
    """`value` plus alpha times the slices of `source` at their places."""
    scaled = times(source, alpha) if isinstance(source, Gaussian) else source * alpha
    result: Gaussian = _unscaled.apply(context, value, dim, index, scaled)
    return result


def no_moments(context: Context, *args: Any, **options: Any) -> Gaussian:
    """A random index has no moments to look up by.

    Raises:
        MissingRuleError: always.
    """
    raise MissingRuleError("no moment rule for a lookup by an index that depends on several players")


def _looked_up(weight: Tensor, labels: Tensor, *args: Any) -> Tensor:
    """The owner of an index owns all of its row."""
    return labels.unsqueeze(-1).expand(*labels.shape, weight.shape[-1])


def _never(*args: Any, **options: Any) -> bool:
    return False


moves(aten.scatter.src, values=(0, 3), run=_written(aten.scatter.src))
moves(aten.index_copy.default, values=(0, 3))
moves(aten.diagonal_scatter.default, values=(0, 1))
RULES.add(replace(move_rule(aten.index_put.default, (0, 2)), owners=_owners_of_put))
RULES.add(replace(move_rule(aten.scatter_add.default, (0, 3), _written(aten.scatter_add.default)), owners=None))
_unscaled = move_rule(aten.index_add.default, (0, 3))
RULES.add(replace(_unscaled, owners=None, apply=added))
RULES.add(Rule(aten.embedding.default, True, no_moments, positions=(1,), owners=_looked_up, covers=_never))
