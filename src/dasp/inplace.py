"""Operations that write into their argument (`x += y`, `ReLU(inplace=True)`), as those that return what they would write.

That is the same where nobody sees the memory that they write into but those who read the value afterwards.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload

aten = torch.ops.aten

NAMES = (
    "abs", "add", "addcdiv", "addcmul", "alpha_dropout", "ceil", "celu", "clamp", "clamp_max", "clamp_min", "cos", "div",
    "dropout", "elu", "erf", "exp", "expm1", "feature_dropout", "floor", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu",
    "log", "log1p", "mish", "mul", "neg", "reciprocal", "relu", "relu6", "rsqrt", "selu", "sigmoid", "silu", "sin", "sqrt",
    "square", "sub", "tanh", "threshold",
)  # fmt: skip
TWINS: dict[Any, Any] = {
    getattr(getattr(aten, name + "_"), overload): getattr(getattr(aten, name), overload)
    for name in NAMES
    for overload in set(getattr(aten, name + "_").overloads()) & set(getattr(aten, name).overloads())
} | {aten.pow_.Scalar: aten.pow.Tensor_Scalar, aten.pow_.Tensor: aten.pow.Tensor_Tensor}
"""Operations that write into their first argument, and what returns the same: of one dtype if all arguments have it."""

OWN = frozenset(
    {aten.linear.default, aten.bilinear.default, aten.matmul.default, aten.layer_norm.default, aten.rms_norm.default,
     aten.group_norm.default, aten.instance_norm.default, aten.scaled_dot_product_attention.default, aten.softmax.int,
     aten.avg_pool1d.default, aten.adaptive_avg_pool1d.default, aten.adaptive_avg_pool2d.default,
     aten.adaptive_avg_pool3d.default, aten.max_pool1d.default, aten.max_pool2d.default, aten.max_pool3d.default,
     aten.relu6.default, aten.square.default}
)  # fmt: skip
"""Of those that torch writes as several others, some whose value is never an argument or a view of one."""


def out_of_place(node: fx.Node) -> bool:
    """Make a node return what it would write into its first argument.

    Args:
        node: a call of an operation that changes its arguments.

    Returns:
        Whether it could be done; if not, nothing is changed. It cannot where the argument comes from outside the program or
        shares its memory with another value, or where arguments have several dtypes.
    """
    twin = TWINS.get(node.target)
    source = node.args[0] if node.args else None
    if twin is None or not isinstance(source, fx.Node) or not _of_its_own(source):
        return False
    values = [parent.meta.get("val") for parent in node.all_input_nodes]
    if len({value.dtype for value in values if isinstance(value, Tensor)}) != 1:
        return False
    others = [user for user in source.users if user is not node]
    if not all(node < user or _of_its_own(user) or _looks_only(user) for user in others):
        return False
    source.replace_all_uses_with(node, delete_user_cb=lambda user: node < user)
    node.target = twin
    return True


def is_composite(target: Any) -> bool:
    """Whether torch writes an operation as several others."""
    key = torch._C.DispatchKey.CompositeImplicitAutograd
    return isinstance(target, OpOverload) and target.has_kernel_for_dispatch_key(key)


def _of_its_own(node: fx.Node) -> bool:
    """Whether a node's value surely shares its memory with no other."""
    target: Any = node.target
    if target is operator.getitem:
        parent = node.args[0]
        return isinstance(parent, fx.Node) and _of_its_own(parent)
    if not isinstance(target, OpOverload) or (is_composite(target) and target not in OWN):
        return False
    returns = target._schema.returns
    return bool(returns) and all(isinstance(one.type, torch.TensorType) and one.alias_info is None for one in returns)


def _looks_only(node: fx.Node) -> bool:
    """Whether a node returns nothing, or numbers, which is what checks and sizes do."""
    target: Any = node.target
    if not isinstance(target, OpOverload) or target._schema.is_mutable:
        return False
    return all(isinstance(one.type, (torch.IntType, torch._C.SymIntType)) for one in target._schema.returns)
