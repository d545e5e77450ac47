"""Run a captured network on random coalitions: a plan says what is random where, then moments flow through the graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload

from .errors import CaptureError, DaspError, MissingRuleError, NumericsError, RuleFault
from .folding import Fold, folds, seen_by
from .gaussian import Gaussian, Law, Owned
from .graph import ASSERTIONS, Graph, call, is_pointwise, layer_of
from .ready import LIKE, SIZES
from .remedies import INDICES, refusal
from .rewrite import GETITEM
from .rules import RULES, Context, LinearRule
from .states import two_states

PLAN_ROWS = 2
Watch = Callable[[fx.Node, Any], None]
"""Called with every node and its value."""


class Kind(Enum):
    """What a node's value is."""

    PLAIN = "plain"  # known, whatever the coalition
    OWNED = "owned"  # each element depends on one player: two exact states
    RANDOM = "random"  # a Gaussian


class Support(Enum):
    """How well an operation on random values is covered."""

    EXACT = "exact"
    APPROXIMATE = "approximate"
    MISSING = "missing"


@dataclass(frozen=True)
class OpSupport:
    """One operation of a network that meets random values.

    Attributes:
        op: the ATen overload, as in `aten.relu.default`.
        layer: the layer it belongs to.
        support: exact for the random arguments of this call (see `dasp.rules.Rule.exact`), approximate, or missing.
        random: how many arguments of the call are random.
    """

    op: str
    layer: str
    support: Support
    random: int = 1


@dataclass(frozen=True)
class Plan:
    """What each node of a graph is, for one way to split the inputs into players.

    Attributes:
        graph: the network.
        kinds: by node.
        labels: owners of the elements of owned nodes (without the batch axis; a tuple for several results).
        support: every operation that meets random values, in order.
        folds: where rows are folded into another axis.
    """

    graph: Graph
    kinds: Mapping[fx.Node, Kind]
    labels: Mapping[fx.Node, Any]
    support: tuple[OpSupport, ...]
    folds: Mapping[fx.Node, Fold]

    def require_rules(self) -> None:
        """Refuse the network unless every operation has a rule.

        Raises:
            MissingRuleError: lists all operations without one, with their layers, and what to do instead.
        """
        missing = [(s.op, s.layer) for s in self.support if s.support is Support.MISSING]
        if missing:
            raise MissingRuleError(refusal(missing))


def make_plan(graph: Graph, labels: Sequence[Tensor], extra: Sequence[Any], rows: int) -> Plan:
    """Mark what is random, and list every operation that meets it, before anything is propagated.

    Args:
        graph: the network.
        labels: owners of the elements of each input, 1-based, 0 for nobody, (*input without batch axis).
        extra: further arguments; tensors with `rows` rows follow the batch.
        rows: number of rows of the inputs.
    """
    marker = _Marker(graph)
    for node, owner in zip(graph.inputs, labels, strict=False):
        marker.enter(node, owner.unsqueeze(0).expand(PLAN_ROWS, *owner.shape), Kind.OWNED)
    for node, value in zip(graph.inputs[len(labels) :], extra, strict=True):
        marker.enter(node, _first_rows(value, rows), Kind.PLAIN)
    for node, value in graph.folded().items():
        marker.enter(node, value, Kind.PLAIN)
    for node in graph.nodes:
        if _draws(node.target):  # whatever it depends on
            marker.enter_random(node)
        elif node not in marker.kinds:
            marker.mark(node)
    return marker.plan()


def _first_rows(value: Any, rows: int) -> Any:
    if isinstance(value, Tensor) and value.dim() > 0 and value.shape[0] == rows:
        return value[:1].expand(PLAN_ROWS, *value.shape[1:])
    return value


def _draws(target: Any) -> bool:
    """Whether an operation draws random numbers; those with a rule do so only in calls that it does not cover."""
    tagged = isinstance(target, OpOverload) and torch.Tag.nondeterministic_seeded in target.tags
    return tagged and RULES.find(target) is None


def _has_shape(node: fx.Node, batch: Any) -> bool:
    """Whether a node gives tensors whose sizes are known but for the number of rows."""
    value = node.meta.get("val")
    parts = value if isinstance(value, (list, tuple)) else [value]
    sizes: list[Any] = [size for part in parts if isinstance(part, Tensor) for size in part.shape]
    known = all(size.node.expr.free_symbols <= {batch} for size in sizes if isinstance(size, torch.SymInt))
    return known and isinstance(value, (Tensor, list, tuple))


class _Marker:
    """The pass over the graph: owner labels stand in for owned values, empty tensors for random ones.

    Where the shape of a random value hangs on values, None stands in for it and for all that follows.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.kinds: dict[fx.Node, Kind] = {}
        self.values: dict[fx.Node, Any] = {}
        self.support: list[OpSupport] = []

    def enter(self, node: fx.Node, value: Any, kind: Kind) -> None:
        self.values[node] = value
        self.kinds[node] = kind

    def mark(self, node: fx.Node) -> None:
        """Decide what one node is; all nodes before it are decided."""
        if any(self.kinds[p] is Kind.RANDOM and self.values[p] is None for p in node.all_input_nodes):
            harmless = node.target in LIKE or node.target is GETITEM or RULES.find(node.target) is not None
            if not harmless and isinstance(node.meta.get("val"), (Tensor, list, tuple)):
                self.support.append(OpSupport(str(node.target), layer_of(node), Support.MISSING))
            self.enter(node, None, Kind.RANDOM)
            return
        kinds = {self.kinds[parent] for parent in node.all_input_nodes}
        if node.target in SIZES or node.target in ASSERTIONS or kinds <= {Kind.PLAIN}:
            self.enter(node, call(node, self.values), Kind.PLAIN)
            return
        if node.target in LIKE:
            known = {p: self.values[p] if self.kinds[p] is Kind.PLAIN else self._blank(p) for p in node.all_input_nodes}
            self.enter(node, call(node, known), Kind.PLAIN)
            return
        if node.target is GETITEM:
            source: Any = node.args[0]
            item = self.values[source][node.args[1]]
            self.enter(node, item, self.kinds[source])
            whole = isinstance(item, Tensor) and not item.is_floating_point()
            if whole and self.kinds[source] is Kind.RANDOM and RULES.find(source.target) is not None:
                self.support.append(OpSupport(f"{source.target} {INDICES}", layer_of(source), Support.MISSING))
            return
        if Kind.RANDOM not in kinds:
            owners = self._owners(node)
            if owners is not None and (not isinstance(owners, Tensor) or self.graph.axis(node) is not None):
                self.enter(node, owners, Kind.OWNED)
                return
        self.enter_random(node)

    def _blank(self, node: fx.Node) -> Tensor:
        """Zeros with the shape, dtype and device of a node's value."""
        return torch.zeros_like(self.graph.stand_in(node, PLAN_ROWS), device=node.meta["val"].device)

    def _owners(self, node: fx.Node) -> Any:
        """Owner labels of a node's result, None where players mix or nobody can tell.

        Labels hold for every row, so they must not follow known values that differ from row to row.
        """
        if is_pointwise(node.target):
            if len(node.target._schema.returns) != 1:  # type: ignore[union-attr]
                return None
            owned = [p for p in node.all_input_nodes if self.kinds[p] is Kind.OWNED]
            shapes = [v.shape for p in node.all_input_nodes if isinstance(v := self.values[p], Tensor)]
            return _one_owner([self.values[p] for p in owned], torch.broadcast_shapes(*shapes))
        rule = RULES.find(node.target)
        positions = [i for i, a in enumerate(node.args) if self._has(a, Kind.OWNED)]
        if rule is None or not rule.takes(positions):
            return None
        if isinstance(rule, LinearRule) and rule.build is not None:
            if len(positions) > 1:  # products of two players belong to both
                return None
            args = list(self._plain(node.args))
            return rule.build(args, dict(self._plain(node.kwargs)), positions[0]).owners(args[positions[0]])
        options = [a for i, a in enumerate(node.args) if i not in rule.positions]
        if rule.owners is None or any(self._follows_rows(a) for a in (*options, *node.kwargs.values())):
            return None
        args = [self._labelled(a) if i in rule.positions else self._plain(a) for i, a in enumerate(node.args)]
        return rule.owners(*args, **self._plain(node.kwargs))

    def _follows_rows(self, argument: Any) -> bool:
        found: list[bool] = []
        fx.node.map_arg(argument, lambda n: found.append(self.graph.axis(n) is not None))
        return any(found)

    def enter_random(self, node: fx.Node) -> None:
        """A random result, and whether there is a rule for it."""
        rule = RULES.find(node.target)
        positions = [i for i, a in enumerate(node.args) if self._has(a, Kind.OWNED) or self._has(a, Kind.RANDOM)]
        hidden = any(self._has(a, Kind.OWNED) or self._has(a, Kind.RANDOM) for a in node.kwargs.values())
        covered = rule is not None and not hidden and rule.accepts(positions, node.args, node.kwargs)
        support = Support.MISSING
        if rule is not None and covered:
            support = Support.EXACT if rule.is_exact(positions, node.args) else Support.APPROXIMATE
        self.support.append(OpSupport(str(node.target), layer_of(node), support, len(positions)))
        shaped = _has_shape(node, self.graph.batch)
        self.enter(node, self.graph.stand_in(node, PLAN_ROWS) if shaped else None, Kind.RANDOM)

    def _has(self, argument: Any, kind: Kind) -> bool:
        found: list[bool] = []
        fx.node.map_arg(argument, lambda n: found.append(self.kinds[n] is kind))
        return any(found)

    def _plain(self, argument: Any) -> Any:
        return fx.node.map_arg(argument, self.values.__getitem__)

    def _labelled(self, argument: Any) -> Any:
        def label(node: fx.Node) -> Any:
            value = self.values[node]
            if self.kinds[node] is Kind.PLAIN and isinstance(value, Tensor):
                return torch.zeros_like(value, dtype=torch.long)
            return value

        return fx.node.map_arg(argument, label)

    def plan(self) -> Plan:
        """The finished plan."""
        labels: dict[fx.Node, Any] = {}
        for node, kind in self.kinds.items():
            if kind is Kind.OWNED:
                labels[node] = self._without_batch(node)
        refused = any(one.support is Support.MISSING for one in self.support)  # then shapes need not be known
        return Plan(self.graph, self.kinds, labels, tuple(self.support), {} if refused else folds(self.graph))

    def _without_batch(self, node: fx.Node) -> Any:
        value = self.values[node]
        axis = self.graph.axis(node)
        if not isinstance(value, Tensor) or axis is None:
            return None
        return value.select(axis, 0).clone()


def _one_owner(labels: Sequence[Tensor], shape: torch.Size) -> Tensor | None:
    """Labels of a pointwise result, None if two players meet in an element."""
    result = torch.zeros(shape, dtype=torch.long, device=labels[0].device)
    for label in labels:
        other = label.expand(shape)
        if bool(((result > 0) & (other > 0) & (result != other)).any()):
            return None
        result = torch.maximum(result, other)
    return result


def propagate(
    plan: Plan,
    law: Law,
    off: Sequence[Tensor | Gaussian],
    on: Sequence[Tensor],
    extra: Sequence[Any],
    folded: Mapping[fx.Node, Any],
    *,
    watch: Watch | None = None,
) -> Gaussian:
    """Moments of the network's result.

    Args:
        plan: what is random where.
        law: distribution of the coalitions.
        off: the inputs with all players absent, (rows, *input) each; moments where these are random.
        on: the inputs with all players present, (rows, *input) each.
        extra: further arguments, for these rows.
        folded: values of the constant nodes, from `Graph.folded`.
        watch: called with every node and its value.

    Returns:
        Moments (rows, *out).
    """
    graph = plan.graph
    env: dict[fx.Node, Any] = dict(folded)
    for node, a, b in zip(graph.inputs, off, on, strict=False):
        env[node] = Owned.of(a, b, plan.labels[node], 0)
    env.update(zip(graph.inputs[len(off) :], extra, strict=True))
    last = _last_uses(graph)
    for node in graph.nodes:
        if node not in env:
            env[node] = _step(plan, law, node, env)
            if watch is not None:
                watch(node, env[node])
        for done in last.get(node, ()):
            if done is not graph.output:
                env[done] = None
    result = env[graph.output]
    if isinstance(result, Owned):
        return law.moments(result)
    if isinstance(result, Tensor):
        return Gaussian(result, None, torch.zeros_like(result))
    if not isinstance(result, Gaussian):
        raise CaptureError("the model does not return a tensor")
    return result


def refuse_infinite(node: fx.Node, value: Any) -> None:
    """Watch for moments that are not finite.

    Raises:
        NumericsError: names the operation and its layer.
    """
    source: Any = node.args[0] if node.target is GETITEM else node  # a part of a result is named by what gave it
    for name, part in (("mean", value.mean), ("variance", value.var)) if isinstance(value, Gaussian) else ():
        if not bool(part.isfinite().all()):
            raise NumericsError(
                f"the {name} of {source.target} (layer {layer_of(source)}) is not finite at some coalitions, in {part.dtype}. "
                "If a mask of -inf hangs on the players (padding found from token ids inside the model), give the mask as a "
                "further argument; else scale the inputs, or explain the model in float64 (model.double() and x.double())."
            )


def _last_uses(graph: Graph) -> dict[fx.Node, list[fx.Node]]:
    last: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        for parent in node.all_input_nodes:
            last[parent] = node
    uses: dict[fx.Node, list[fx.Node]] = {}
    for parent, node in last.items():
        uses.setdefault(node, []).append(parent)
    return uses


def _step(plan: Plan, law: Law, node: fx.Node, env: Mapping[fx.Node, Any]) -> Any:
    kind = plan.kinds[node]
    if kind is Kind.PLAIN:
        return call(node, {p: _shaped(env[p]) for p in node.all_input_nodes})
    if node.target is GETITEM:
        source: Any = node.args[0]
        item = env[source][node.args[1]]
        return replace(item, labels=plan.labels[node]) if isinstance(item, Owned) else item
    if kind is Kind.OWNED:
        return two_states(plan.graph, plan.labels[node], node, env)
    rule = RULES.find(node.target)
    assert rule is not None  # the plan has been checked
    axis = plan.graph.axis(node)
    args: list[Any] = list(fx.node.map_arg(node.args, env.__getitem__))
    kwargs: dict[str, Any] = dict(fx.node.map_arg(node.kwargs, env.__getitem__))
    if isinstance(rule, LinearRule) and rule.build is not None and axis is not None:
        owned = [i for i, a in enumerate(args) if isinstance(a, Owned)]
        known_rows = any(plan.graph.axis(p) is not None for p in node.all_input_nodes if plan.kinds[p] is Kind.PLAIN)
        alone = len(owned) == 1 and not any(isinstance(a, Gaussian) for a in args)
        if alone and not known_rows:  # players meet at the rows of one node, known values have those of all
            return law.meet(args[owned[0]], rule.build(args, kwargs, owned[0]), axis)
    known: dict[int, Gaussian] = {}

    def random(value: Any) -> Any:
        if isinstance(value, Owned):  # the same value twice stays one operand
            return known.setdefault(id(value), law.moments(value))
        return value

    args = [type(a)(random(b) for b in a) if isinstance(a, (list, tuple)) else random(a) for a in args]
    try:
        return rule.apply(Context(*seen_by(law, node, axis, plan.folds)), *args, **kwargs)
    except (DaspError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise RuleFault(
            f"the moment rule of {node.target} failed in layer {layer_of(node)}: {type(error).__name__}: {error}. If the rule "
            "is yours, dasp.testing.check_rule finds out why; else use dasp.PermutationSampling(), and please report it."
        ) from error


def _shaped(value: Any) -> Any:
    """A plain tensor with the shape of a value, for operations that read shapes."""
    if isinstance(value, Owned):
        return value.off
    return value.mean if isinstance(value, Gaussian) else value
