"""Operations that write into their argument (`x += y`, `ReLU(inplace=True)`), as those that return what they would write.

That is the same where nobody sees the memory that they write into but those who read the value afterwards.
"""

from __future__ import annotations

import operator
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload

aten = torch.ops.aten


def out_of_place(node: fx.Node, kept: Collection[Any]) -> bool:
    """Make a node return what it would write into its first argument.

    Args:
        node: a call of an operation that changes its arguments.
        kept: operations known to return a value of their own though torch writes them as several others.

    Returns:
        Whether it could be done; if not, nothing is changed. It cannot where the argument comes from outside the program or
        shares its memory with another value, or where the operation would return another dtype than it writes.
    """
    target: Any = node.target
    name = target._schema.name.removeprefix("aten::")
    twin = getattr(getattr(aten, name.removesuffix("_"), None), target._overloadname, None)
    source = node.args[0] if node.args else None
    if twin is None or not name.endswith("_") or not isinstance(source, fx.Node) or not _of_its_own(source, kept):
        return False
    if {value.dtype for value in map(_value, node.all_input_nodes) if isinstance(value, Tensor)} != {_value(source).dtype}:
        return False
    others = [user for user in source.users if user is not node]
    if not all(node < user or _of_its_own(user, kept) for user in others):
        return False
    source.replace_all_uses_with(node, delete_user_cb=lambda user: node < user)
    node.target = twin
    return True


def _value(node: fx.Node) -> Any:
    return node.meta.get("val")


def _of_its_own(node: fx.Node, kept: Collection[Any]) -> bool:
    """Whether a node's value shares its memory with no other."""
    target: Any = node.target
    if target is operator.getitem:
        parent = node.args[0]
        return isinstance(parent, fx.Node) and _of_its_own(parent, kept)
    if not isinstance(target, OpOverload) or any(value.alias_info is not None for value in target._schema.returns):
        return False
    if not any(isinstance(value.type, torch.TensorType) for value in target._schema.returns):
        return True  # it reads a size, or checks
    composite = target.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd)
    return target in kept or not composite
