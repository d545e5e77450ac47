"""Equivalent graphs that moments pass more accurately, or that any number of rows passes."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

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
WITH_INDICES = (MAX_POOLS - {aten.max_pool1d.default, aten.max_pool2d.default, aten.max_pool3d.default}) | {
    aten.max.dim, aten.min.dim,
}  # fmt: skip
CHECKS = frozenset({aten._assert_tensor_metadata.default, aten._assert_scalar.default, aten._assert_async.msg})
BAGS = frozenset({aten._embedding_bag.default, aten._embedding_bag_forward_only.default})
VIEWS = frozenset({aten.view.default, aten.reshape.default, aten._unsafe_view.default})
COPIES = frozenset({aten.expand.default, aten.clone.default, aten.contiguous.default, aten.alias.default})
NEGLIGIBLE = 1e-6
"""Lengths that a clamp keeps at least this long are those of numbers of size one."""
INCREASING = frozenset(
    {aten.relu.default, aten.relu6.default, aten.sigmoid.default, aten.tanh.default, aten.hardtanh.default,
     aten.hardsigmoid.default, aten.softplus.default, aten.selu.default, aten.clone.default,
     aten.contiguous.default}
)  # fmt: skip
"""Pointwise operations that never decrease, whatever their parameters."""


WITH_EFFECTS = torch.ops.higher_order.with_effects


def drop_checks(graph: fx.Graph) -> None:
    """Take out the checks of linear algebra (that a matrix has an inverse), which hold a token; the model still makes them."""
    for node in list(graph.nodes):
        if node.target is WITH_EFFECTS and node.args[1] is aten._linalg_check_errors.default:
            for token in list(node.users):
                token.replace_all_uses_with(node.args[0])
                graph.erase_node(token)
            graph.erase_node(node)


def keep_rows(graph: fx.Graph) -> None:
    """What would hold for one number of rows only: checks of values are dropped, bags opened, squeezed axes named."""
    for node in reversed(list(graph.nodes)):
        if node.target in CHECKS:
            graph.erase_node(node)
    graph.eliminate_dead_code()
    for node in list(graph.nodes):
        if node.target in BAGS:
            _open_bag(graph, node)
        elif node.op == "call_function" and node.target in SQUEEZES:
            _name_axes(node)
    join_norms(graph)
    join_shrinks(graph)


def _name_axes(node: fx.Node) -> None:
    """Name the axes that a `squeeze` drops, so that a batch of one row keeps its batch axis."""
    source: Any = node.args[0]
    value = source.meta.get("val")
    if isinstance(value, Tensor):
        asked: Any = node.args[1] if len(node.args) > 1 else list(range(value.dim()))
        axes = [asked] if isinstance(asked, int) else list(asked)
        node.args = (source, [a for a in axes if isinstance(value.shape[a], int) and value.shape[a] == 1])
        node.target = aten.squeeze.dims


def _insert(before: fx.Node, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
    """A new node in front of another, with the shape of its value and the layer of the other."""
    with before.graph.inserting_before(before):
        node = before.graph.call_function(target, args, kwargs)
    value = target(*fx.node.map_arg(args, _value), **fx.node.map_arg(kwargs, _value))
    node.meta = {**before.meta, "val": value}
    return node


def _value(node: fx.Node) -> Any:
    return node.meta["val"]


def _become(node: fx.Node, target: Any, *args: Any) -> None:
    """Change what a node does; its value stays the same, and so does who uses it."""
    node.target, node.args, node.kwargs = target, args, {}


def _open_bag(graph: fx.Graph, bag: fx.Node) -> None:
    """An embedding bag over the rows of a matrix of indices, as a lookup and a reduction; players meet in the second.

    Bags of other lengths, and those whose largest elements are asked for while some entries are padding, stay as they are.
    """
    defaults: tuple[Any, ...] = (False, 0, False, None, False, -1)
    given: tuple[Any, ...] = (*bag.args, *defaults[len(bag.args) - 3 :])
    weight, flat, offsets, _, mode, _, scale, last, padding = given
    indices: Any = flat.args[0] if flat.target in VIEWS else None
    users: list[Any] = list(bag.users)
    if indices is None or indices.meta["val"].dim() != 2 or offsets.target is not aten.arange.start_step:
        return
    size = indices.meta["val"].shape[1]
    if offsets.args[0] != 0 or offsets.args[2] != size or last or len(users) != 1 or users[0].args[1] != 0:
        return
    if mode == 2 and padding >= 0:
        return
    result = users[0]
    rows = _insert(result, aten.embedding.default, weight, indices)
    if scale is not None:
        each = _insert(result, aten.view.default, scale, [-1, size])
        rows = _insert(result, aten.mul.Tensor, rows, _insert(result, aten.unsqueeze.default, each, -1))
    count: Any = size
    if padding >= 0:
        real = _insert(result, aten.ne.Scalar, indices, padding)
        real = _insert(result, aten._to_copy.default, real, dtype=rows.meta["val"].dtype)
        count = _insert(result, aten.sum.dim_IntList, real, [1], True)
        count = _insert(result, aten.clamp_min.default, count, 1)
        rows = _insert(result, aten.mul.Tensor, rows, _insert(result, aten.unsqueeze.default, real, -1))
    if mode == 2:
        _become(result, aten.amax.default, rows, [1])
    elif mode == 1:
        _become(result, aten.div.Tensor, _insert(result, aten.sum.dim_IntList, rows, [1]), count)
    else:
        _become(result, aten.sum.dim_IntList, rows, [1])
    graph.erase_node(bag)


@dataclass(frozen=True)
class _Length:
    """A denominator that is `sqrt(scale * mean over axes of source^2 + eps)`, of the source or of the source centred."""

    source: fx.Node
    axes: tuple[int, ...]
    eps: float
    scale: float
    centred: bool


def join_norms(graph: fx.Graph) -> None:
    """Normalisations written out, as one operation each: RMS norm, layer norm, vectors of unit length."""
    for node in list(graph.nodes):
        if node.op != "call_function" or len(node.args) != 2:
            continue
        first, second = node.args
        if node.target is aten.div.Tensor:
            _join(node, first, _root(second))
        elif node.target is aten.mul.Tensor and not _join(node, first, _inverse_root(second)):
            _join(node, second, _inverse_root(first))
    graph.eliminate_dead_code()


def _join(node: fx.Node, value: Any, length: _Length | None) -> bool:
    """Replace `value / length` where it is a normalisation, and tell whether it was one."""
    if not isinstance(value, fx.Node) or length is None:
        return False
    uncentred = _uncentred(value, length.axes)
    if length.source is not (uncentred if length.centred else value):
        return False
    source = value if uncentred is None else uncentred
    shape = source.meta["val"].shape
    if node.meta["val"].shape != shape or any(not isinstance(shape[a], int) for a in length.axes):
        return False
    sizes, eps = [shape[a] for a in length.axes], length.eps / length.scale
    order = [a for a in range(len(shape)) if a not in length.axes] + list(length.axes)
    back = [order.index(a) for a in range(len(shape))]
    steps: list[tuple[Any, ...]] = []
    if order != sorted(order):
        steps.append((aten.permute.default, order))
    if uncentred is None:
        steps.append((aten.rms_norm.default, sizes, None, eps))
    else:
        steps.append((aten.layer_norm.default, sizes, None, None, eps, False))
    if length.scale != 1:
        steps.append((aten.mul.Scalar, length.scale**-0.5))
    if order != sorted(order):
        steps.append((aten.permute.default, back))
    for target, *options in steps[:-1]:
        source = _insert(node, target, source, *options)
    target, *options = steps[-1]
    _become(node, target, source, *options)
    return True


def join_shrinks(graph: fx.Graph) -> None:
    """Hard and soft shrinkage, which torch (2.13) takes apart into a choice whatever it is asked to keep."""
    for node in list(graph.nodes):
        if node.target is not aten.where.self or not isinstance(node.args[0], fx.Node):
            continue
        test, first, second = node.args
        size: Any = test.args[0] if _is(test, aten.le.Scalar, aten.gt.Scalar) else None
        if not _is(size, aten.abs.default):
            continue
        source, limit = size.args[0], test.args[1]
        if test.target is aten.le.Scalar and second is source and _is_number(first, 0):
            _become(node, aten.hardshrink.default, source, limit)
        elif _is(first, aten.sub.Tensor) and first.args[0] is source and _is_multiple(second, source, 0):
            step = first.args[1]
            if _is_multiple(step, None, limit) and _is(step.args[0], aten.sign.default) and step.args[0].args[0] is source:
                _become(node, aten.softshrink.default, source, limit)
    graph.eliminate_dead_code()


def _is_number(node: Any, number: float) -> bool:
    return node == number or (_is(node, aten.scalar_tensor.default, aten.full.default) and number in node.args)


def _is_multiple(node: Any, source: fx.Node | None, factor: float) -> bool:
    """Whether a node is `source` (None: anything) times a factor."""
    return _is(node, aten.mul.Tensor) and node.args[1] == factor and source in (None, node.args[0])


def _plain(node: Any) -> Any:
    """What a node copies or repeats."""
    while isinstance(node, fx.Node) and node.target in COPIES:
        node = node.args[0]
    return node


def _is(node: Any, *targets: Any) -> bool:
    return isinstance(node, fx.Node) and node.target in targets


def _axes_of(node: fx.Node, asked: Any) -> tuple[int, ...]:
    dims = node.meta["val"].dim()
    return tuple(sorted(a % dims for a in asked)) if asked else tuple(range(dims))


def _root(node: Any) -> _Length | None:
    """A denominator that is a length: a root of a mean or sum of squares, or a norm, kept from 0 by a small number."""
    node, least = _plain(node), 0.0
    if _is(node, aten.clamp_min.default) and 0 <= node.args[1] <= NEGLIGIBLE:
        node, least = _plain(node.args[0]), node.args[1]
    if _is(node, aten.linalg_vector_norm.default):
        defaults: tuple[Any, ...] = (2, None, False)
        given: tuple[Any, ...] = tuple(node.args)
        source, order, axes, keepdim = (*given, *defaults[len(given) - 1 :])
        if order != 2 or not keepdim or node.kwargs:
            return None
        axes = _axes_of(source, axes)
        return _Length(source, axes, least**2, float(_count(source, axes)), False)
    root = _is(node, aten.sqrt.default) or (_is(node, aten.pow.Tensor_Scalar) and node.args[1] == 0.5)
    return _square(_plain(node.args[0])) if root and least == 0 else None


def _inverse_root(node: Any) -> _Length | None:
    """A factor that is one over such a length."""
    node = _plain(node)
    if _is(node, aten.rsqrt.default) or (_is(node, aten.pow.Tensor_Scalar) and node.args[1] == -0.5):
        return _square(_plain(node.args[0]))
    if _is(node, aten.reciprocal.default):
        return _root(node.args[0])
    return None


def _count(source: fx.Node, axes: Sequence[int]) -> int:
    count = 1
    for a in axes:
        size = source.meta["val"].shape[a]
        count *= size if isinstance(size, int) else 0
    return count


def _square(node: Any) -> _Length | None:
    """A mean or sum of squares, or a variance, plus a known number, all with their axes kept."""
    eps = 0.0
    if _is(node, aten.add.Tensor, aten.add.Scalar) and isinstance(node.args[1], (int, float)) and not node.kwargs:
        node, eps = _plain(node.args[0]), float(node.args[1])
    if _is(node, aten.var.correction):
        source: Any = node.args[0]
        axes = _axes_of(source, node.args[1] if len(node.args) > 1 else None)
        count = _count(source, axes)
        correction = node.kwargs.get("correction")
        freedom = count - (1 if correction is None else correction)
        if not node.kwargs.get("keepdim") or freedom <= 0:
            return None
        return _Length(source, axes, eps, count / freedom, True)
    if not _is(node, aten.mean.dim, aten.sum.dim_IntList) or len(node.args) < 3 or not node.args[2] or node.kwargs:
        return None
    square = _plain(node.args[0])
    power = _is(square, aten.pow.Tensor_Scalar, aten.mul.Tensor) and square.args[1] in (2, square.args[0])
    if not power and not _is(square, aten.square.default):
        return None
    source = square.args[0]
    axes = _axes_of(source, node.args[1])
    scale = 1.0 if node.target is aten.mean.dim else float(_count(source, axes))
    return _Length(source, axes, eps, scale, False) if scale else None


def _uncentred(node: fx.Node, axes: Sequence[int]) -> fx.Node | None:
    """`x` if the node is `x - mean(x)` over these axes."""
    if not _is(node, aten.sub.Tensor) or node.kwargs or len(node.args) != 2:
        return None
    source: Any = node.args[0]
    mean = _plain(node.args[1])
    if not isinstance(source, fx.Node) or not _is(mean, aten.mean.dim) or mean.args[0] is not source:
        return None
    if len(mean.args) < 3 or not mean.args[2] or mean.kwargs or _axes_of(source, mean.args[1]) != tuple(axes):
        return None
    return source


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
