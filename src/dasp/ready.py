"""Programs that need no decomposition: read as they were exported, which takes a part of the time.

`ExportedProgram.run_decompositions` traces a program once more. Most networks hold nothing that it would take apart but a
few operations whose other name is known, which are renamed here, and a few that `composite` takes apart one by one.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from .composite import COMPOSITE, decompositions, take_apart
from .inplace import is_composite, out_of_place
from .rewrite import CHECKS

aten = torch.ops.aten

SIZES = frozenset({aten.sym_size.int, aten.sym_numel.default, aten.sym_stride.int, aten.sym_storage_offset.default})
"""Operations that read the shape of a value and not the value."""

LIKE = frozenset(
    {
        aten.full_like.default, aten.zeros_like.default, aten.ones_like.default, aten.empty_like.default,
        aten.new_full.default, aten.new_zeros.default, aten.new_ones.default, aten.new_empty.default,
    }
)  # fmt: skip
"""Operations that make a known value with the shape or dtype of another, and read nothing else of it."""

BUILT_IN = frozenset({"_operator", "math", "builtins", "torch"})
"""Modules of functions on sizes, and of `getitem`."""


def as_exported(program: ExportedProgram, kept: Collection[Any]) -> fx.Graph | None:
    """A copy of a program's graph if it says all that decomposing would make of it, else None.

    Args:
        program: as it was exported; stays as it is.
        kept: operations that are fine as they are; others are decomposed if torch has a way to.
    """
    kept = frozenset(kept)
    kinds = [spec.kind for spec in program.graph_signature.input_specs]
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    result: Any = graph.graph_copy(program.graph, copies)
    graph.output(result)
    given = [node for node in graph.nodes if node.op == "placeholder"]
    moving = {node for node, kind in zip(given, kinds, strict=True) if kind is InputKind.USER_INPUT}
    for node in graph.nodes:  # goes on where nodes are put in front of this one, or it and others are taken out
        if node.op == "get_attr":
            return None
        if node.op != "call_function":
            continue
        target: Any = node.target
        if not isinstance(target, OpOverload):
            if getattr(target, "__module__", None) not in BUILT_IN:
                return None
        elif target.namespace != "aten" or not (target._schema.returns or target in CHECKS):
            return None  # it acts beside its result
        elif target._schema.is_mutable and not out_of_place(node):
            return None
        target = node.target
        rename = RENAMED.get(target)
        renamed = node if rename is None else rename(graph, node)
        if renamed is None:
            continue  # it did nothing, and is gone
        if renamed.target is aten.batch_norm.default:
            return None  # it may change its moving statistics, whatever it normalises
        reads = target not in SIZES and target not in LIKE and any(parent in moving for parent in renamed.all_input_nodes)
        if reads:
            if _whole(renamed.target, kept):
                moving.add(renamed)
                continue
            parts = take_apart(graph, renamed, kept) if renamed.target in COMPOSITE else None
            if parts is None or not all(_whole(part.target, kept) for part in parts):
                return None
            moving.update(parts)
    graph.eliminate_dead_code()
    return graph


def _whole(target: Any, kept: Collection[Any]) -> bool:
    """Whether decomposing would leave an operation as it is, or something that reads sizes only."""
    return target in kept or target in SIZES or not (target in decompositions() or is_composite(target))


def _alias(graph: fx.Graph, node: fx.Node) -> fx.Node:
    """The operation under the name that others know it by."""
    del graph
    target: Any = node.target
    name = ALIASES[target._schema.name.removeprefix("aten::")]
    node.target = getattr(getattr(aten, name), target._overloadname)
    return node


def _drop(graph: fx.Graph, node: fx.Node) -> None:
    source: Any = node.args[0]
    node.replace_all_uses_with(source)
    graph.erase_node(node)


def _dropout(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    if node.args[2] is not False:
        return node
    _drop(graph, node)
    return None


def _to(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """A change of dtype or device: one that changes nothing goes, one to a dtype is renamed, others stay as they are."""
    target: Any = node.target
    names = [argument.name for argument in target._schema.arguments]
    given: dict[str, Any] = dict(zip(names, node.args, strict=False)) | node.kwargs
    if given.get("copy") or given.get("memory_format") not in (None, torch.preserve_format):
        return node
    source = given["self"]
    before, after = source.meta.get("val"), node.meta["val"]
    if isinstance(before, Tensor) and (before.dtype, before.device) == (after.dtype, after.device):
        _drop(graph, node)
        return None
    if target is aten.to.dtype:
        node.target, node.args, node.kwargs = aten._to_copy.default, (source,), {"dtype": given["dtype"]}
    return node


def _where(graph: fx.Graph, node: fx.Node) -> fx.Node:
    """A choice between a value and a number of the same dtype."""
    condition, *choices = node.args
    result: Tensor = node.meta["val"]
    dtypes = {getattr(choice.meta["val"], "dtype", None) for choice in choices if isinstance(choice, fx.Node)}
    if dtypes != {result.dtype}:
        return node
    with graph.inserting_before(node):
        for place, choice in enumerate(choices):
            if not isinstance(choice, fx.Node):
                options: dict[str, Any] = {"dtype": result.dtype, "device": result.device}
                number = graph.call_function(aten.scalar_tensor.default, (choice,), options)
                number.meta = {**node.meta, "val": result.new_empty(())}
                choices[place] = number
    node.target, node.args = aten.where.self, (condition, *choices)
    return node


def _pad(graph: fx.Graph, node: fx.Node) -> fx.Node:
    """A constant around a value; other ways to pad stay."""
    del graph
    names = ("x", "widths", "mode", "value")
    given: dict[str, Any] = {"mode": "constant", "value": None} | dict(zip(names, node.args, strict=False))
    if given["mode"] == "constant" and not node.kwargs:
        node.target = aten.constant_pad_nd.default
        node.args = (given["x"], given["widths"], given["value"] or 0.0)
    return node


def _convolution(graph: fx.Graph, node: fx.Node) -> fx.Node:
    names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
    defaults = {"bias": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1}
    given: dict[str, Any] = defaults | dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
    dims = given["weight"].meta["val"].dim() - 2
    if node.meta["val"].dim() != dims + 2:  # of one row without a batch axis
        return node

    def each(name: str) -> list[Any]:
        value = given[name]
        several = [value] if isinstance(value, int) else list(value)
        return several * dims if len(several) == 1 else several

    x, weight, bias = (given[name] for name in names[:3])
    sizes = (each("stride"), each("padding"), each("dilation"))
    node.target = aten.convolution.default
    node.args, node.kwargs = (x, weight, bias, *sizes, False, [0] * dims, given["groups"]), {}
    return node


def _batch_norm(graph: fx.Graph, node: fx.Node) -> fx.Node:
    """Of moving statistics; the one that takes those of the batch stays, and is taken apart and refused."""
    given: Any = node.args
    x, weight, bias, mean, var, training, momentum, eps = given[:8]
    if training is not False or mean is None or var is None:
        return node
    target = aten._native_batch_norm_legit_no_training.default
    with graph.inserting_before(node):
        several = graph.call_function(target, (x, weight, bias, mean, var, momentum, eps))
        several.meta = {**node.meta, "val": (node.meta["val"], None, None)}
    node.target, node.args, node.kwargs = operator.getitem, (several, 0), {}
    return node


ALIASES = {
    "__and__": "bitwise_and", "__or__": "bitwise_or", "__xor__": "bitwise_xor", "not_equal": "ne", "greater": "gt",
    "less": "lt", "greater_equal": "ge", "less_equal": "le", "multiply": "mul", "subtract": "sub", "divide": "div",
    "true_divide": "div", "absolute": "abs", "negative": "neg", "concat": "cat", "concatenate": "cat", "arctan": "atan",
    "clip": "clamp",
}  # fmt: skip
"""Operations that torch has under two names, by the one that is never decomposed."""

RENAMED: dict[Any, Callable[[fx.Graph, fx.Node], fx.Node | None]] = {
    aten.dropout.default: _dropout,
    aten.alpha_dropout.default: _dropout,
    aten.feature_dropout.default: _dropout,
    aten.feature_alpha_dropout.default: _dropout,
    aten.to.dtype: _to,
    aten.to.dtype_layout: _to,
    aten.to.device: _to,
    aten.where.ScalarOther: _where,
    aten.where.ScalarSelf: _where,
    aten.pad.default: _pad,
    aten.conv1d.default: _convolution,
    aten.conv2d.default: _convolution,
    aten.conv3d.default: _convolution,
    aten.batch_norm.default: _batch_norm,
    **{
        getattr(getattr(aten, name), overload): _alias
        for name, other in ALIASES.items()
        for overload in set(getattr(aten, name).overloads()) & set(getattr(aten, other).overloads())
    },
}
