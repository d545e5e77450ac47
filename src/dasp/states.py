"""Operations on owned values, before players meet: both states run plainly; the absent one by rules where it is random."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from .errors import MissingRuleError
from .gaussian import Gaussian, Owned
from .graph import Graph, function_of, layer_of
from .remedies import refusal
from .rewrite import GETITEM
from .rules import RULES, Context


@dataclass(frozen=True)
class _Still:
    """The law of a value that hangs on no player."""

    conditioned: bool = False
    factor_presence: Tensor | None = None


STILL: Any = _Still()


def two_states(graph: Graph, labels: Any, node: fx.Node, env: Mapping[fx.Node, Any]) -> Any:
    """Run a node on both states of its owned arguments.

    Raises:
        MissingRuleError: the absent state is random, and the operation has no rule.
    """

    def picked(name: str) -> tuple[Any, dict[str, Any]]:
        def pick(parent: fx.Node) -> Any:
            value = env[parent]
            several = isinstance(value, list)
            found = [_state(v, name) for v in (value if several else [value])]
            return found if several else found[0]

        return fx.node.map_arg(node.args, pick), dict(fx.node.map_arg(node.kwargs, pick))

    axis = graph.axis(node)
    owned = [v for p in node.all_input_nodes for v in (env[p] if isinstance(env[p], list) else [env[p]])]
    random = any(isinstance(v, Owned) and v.absent is not None for v in owned)
    on = _run(node, *picked("on"))
    off = _absent(node, axis, *picked("absent")) if random else _run(node, *picked("off"))
    if isinstance(on, Tensor):
        assert axis is not None
        return Owned.of(off, on, labels, axis)
    return [
        Owned.of(a, b, torch.empty(0), _item_axis(graph, node, i)) if isinstance(b, Tensor) else b
        for i, (a, b) in enumerate(zip(off, on, strict=True))
    ]


def _state(value: Any, name: str) -> Any:
    if not isinstance(value, Owned):
        return value
    state = getattr(value, name)
    return value.off if state is None else state


def _run(node: fx.Node, args: Any, kwargs: dict[str, Any]) -> Any:
    return function_of(node)(*args, **kwargs)


def _absent(node: fx.Node, axis: int | None, args: Any, kwargs: dict[str, Any]) -> Any:
    """Moments of the result where everybody is absent; plain where that is not random after all."""
    positions = [i for i, a in enumerate(args) if _random(a)]
    rule = RULES.find(node.target)
    if rule is None or not rule.accepts(positions, args, kwargs) or any(_random(a) for a in kwargs.values()):
        raise MissingRuleError(refusal([(str(node.target), layer_of(node))]))
    return rule.apply(Context(STILL, axis), *args, **kwargs)


def _random(argument: Any) -> bool:
    return any(isinstance(a, Gaussian) for a in (argument if isinstance(argument, (list, tuple)) else [argument]))


def _item_axis(graph: Graph, node: fx.Node, index: int) -> int:
    for user in node.users:
        if user.target is GETITEM and user.args[1] == index:
            axis = graph.axis(user)
            if axis is not None:
                return axis
    return 0
