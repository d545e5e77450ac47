"""Equivalent graphs that moments pass more accurately, or that any number of rows passes."""

from __future__ import annotations

import operator

import torch
from torch import Tensor, fx

aten = torch.ops.aten

GETITEM = operator.getitem
MAX_POOLS = frozenset(
    {aten.max_pool1d.default, aten.max_pool2d.default, aten.max_pool3d.default, aten.adaptive_max_pool1d.default,
     aten.adaptive_max_pool2d.default, aten.adaptive_max_pool3d.default, aten.max_pool2d_with_indices.default,
     aten.max_pool3d_with_indices.default}
)  # fmt: skip
SQUEEZES = frozenset({aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims})
WITH_INDICES = MAX_POOLS - {aten.max_pool1d.default, aten.max_pool2d.default, aten.max_pool3d.default}
INCREASING = frozenset(
    {aten.relu.default, aten.relu6.default, aten.sigmoid.default, aten.tanh.default, aten.hardtanh.default,
     aten.hardsigmoid.default, aten.softplus.default, aten.selu.default, aten.clone.default}
)  # fmt: skip
"""Pointwise operations that never decrease, whatever their parameters."""


def keep_rows(graph: fx.Graph) -> None:
    """Name the axes that every `squeeze` drops, so that a batch of one row keeps its batch axis."""
    for node in graph.nodes:
        if node.op == "call_function" and node.target in SQUEEZES:
            source, *given = node.args
            value = source.meta.get("val")
            if isinstance(value, Tensor):
                asked = given[0] if given else list(range(value.dim()))
                axes = [asked] if isinstance(asked, int) else list(asked)
                node.args = (source, [a for a in axes if isinstance(value.shape[a], int) and value.shape[a] == 1])
                node.target = aten.squeeze.dims


def pool_first(graph: fx.Graph) -> list[tuple[fx.Node, fx.Node]]:
    """Put increasing activations behind the max pooling that follows them; the network computes the same.

    The maximum of two Gaussians is nearer to a Gaussian than that of two rectified ones, and fewer elements are rectified.
    """
    swapped = []
    for pool in list(graph.nodes):
        if pool.op != "call_function" or pool.target not in MAX_POOLS:
            continue
        activation = pool.args[0]
        while _increases(activation) and len(activation.users) == 1:
            last = pool
            if pool.target in WITH_INDICES:
                if any(user.target is not GETITEM or user.args[1] != 0 for user in pool.users) or len(pool.users) != 1:
                    break
                last = next(iter(pool.users))
            with graph.inserting_after(last):
                after = graph.call_function(activation.target, (last, *activation.args[1:]), activation.kwargs)
            after.meta = {**activation.meta, "val": last.meta.get("val")}
            last.replace_all_uses_with(after, delete_user_cb=lambda user, after=after: user is not after)
            pool.args = (activation.args[0], *pool.args[1:])
            graph.erase_node(activation)
            swapped.append((last, after))
            activation = pool.args[0]
    return swapped


def _increases(node: fx.Node) -> bool:
    """Whether a node never decreases as its argument grows, so that a maximum may be taken before it."""
    if node.target in (aten.leaky_relu.default, aten.elu.default):
        return all(isinstance(p, (int, float)) and p >= 0 for p in node.args[1:])
    return node.target in INCREASING
