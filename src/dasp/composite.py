"""Operations that torch writes as several others, taken apart one by one in the graph that holds them.

`ExportedProgram.run_decompositions` traces the whole program again for the sake of one such operation.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import cache
from typing import Any

import torch
from torch import fx
from torch._dispatch.python import enable_python_dispatcher
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

aten = torch.ops.aten

COMPOSITE = frozenset(
    {aten.einsum.default, aten.lstm.input, aten.gru.input, aten.rnn_tanh.input, aten.rnn_relu.input, aten.tile.default}
)  # fmt: skip
"""Operations that act on nothing but their result, and whose parts need no knowledge of what is around them."""

INHERITED = ("nn_module_stack", "stack_trace")
"""What an operation says of where it is written, and its parts say too."""


def take_apart(graph: fx.Graph, node: fx.Node, kept: Collection[Any]) -> list[fx.Node] | None:
    """Put what a node is made of in its place.

    Args:
        graph: it is changed.
        node: a call of one of `COMPOSITE`, whose arguments have stand-in values.
        kept: operations that are fine as they are; others are taken apart too.

    Returns:
        The new nodes in their order; None, and the graph stays as it is, if a part changes its arguments.
    """
    leaves, tree = pytree.tree_flatten((node.args, node.kwargs))
    places = [place for place, leaf in enumerate(leaves) if isinstance(leaf, fx.Node)]
    sources = [leaves[place] for place in places]

    def run(*values: Any) -> Any:
        filled = list(leaves)
        for place, value in zip(places, values, strict=True):
            filled[place] = value
        args, kwargs = pytree.tree_unflatten(filled, tree)
        target: Any = node.target
        return target(*args, **kwargs)

    table = {op: how for op, how in decompositions().items() if op not in kept}
    given = [source.meta["val"] for source in sources]
    # mkldnn would run an LSTM as one opaque operation; the flag is of the whole process, as in torch's own decompositions.
    with torch.no_grad(), enable_python_dispatcher(), torch.backends.mkldnn.flags(enabled=False):
        # Before it is dispatched an operation that is kept is still whole, as `linear` among the parts of an LSTM.
        traced = make_fx(run, decomposition_table=table, pre_dispatch=True)
        parts = traced(*given).graph
    calls = [part for part in parts.nodes if part.op == "call_function"]
    if len(calls) + len(sources) + 1 != len(parts.nodes) or any(_mutates(part) for part in calls):
        return None
    copies = dict(zip([part for part in parts.nodes if part.op == "placeholder"], sources, strict=True))
    inherited = {name: node.meta[name] for name in INHERITED if name in node.meta}
    with graph.inserting_before(node):
        for part in calls:
            copies[part] = graph.node_copy(part, copies.__getitem__)
            copies[part].meta = {**part.meta, **inherited}
    result = next(part for part in parts.nodes if part.op == "output").args[0]
    if isinstance(result, fx.Node):
        node.replace_all_uses_with(copies[result])
    else:
        for item in list(node.users):  # each takes one of several results
            item.replace_all_uses_with(copies[result[item.args[1]]])
            graph.erase_node(item)
    graph.erase_node(node)
    return [copies[part] for part in calls]


@cache
def decompositions() -> dict[Any, Any]:
    """What torch takes apart unless told not to, and how; to list it takes as long as to export a small network."""
    return dict(torch.export.default_decompositions().items())


def _mutates(part: fx.Node) -> bool:
    schema = getattr(part.target, "_schema", None)
    return schema is not None and schema.is_mutable
