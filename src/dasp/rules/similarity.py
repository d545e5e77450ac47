"""The rule for cosine similarity."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..gaussian import Gaussian
from .bilinear import contraction
from .families import Context
from .normalising import normalised_rows
from .parts import broadcast, every, places, row_axis, sole_owner, times
from .registry import RULES, Rule

aten = torch.ops.aten


def unit(context: Context, x: Gaussian, eps: float) -> Gaussian:
    """`x / |x|` along the last axis, see `normalised_rows`; `context` is that of x.

    In torch the length counts as `eps` where it is smaller; here `|x|^2 + eps^2` counts as its square.
    """
    size = x.mean.shape[-1]
    return times(normalised_rows(context, x, eps**2 / size, centred=False), size**-0.5)


def cosine_similarity(context: Context, x: Any, y: Any, dim: int = 1, eps: float = 1e-8) -> Gaussian:
    """`sum x y / (|x| |y|)` along an axis: `unit`, then `contraction`."""
    shape = torch.broadcast_shapes(*((v.mean if isinstance(v, Gaussian) else v).shape for v in (x, y)))
    over = places(len(shape), dim)
    axis = row_axis(context.axis, len(shape), over, False)
    rows = None if axis is None else axis - (over[0] < axis)

    def direction(value: Any) -> Any:
        if isinstance(value, Gaussian):
            last = every(broadcast(value, shape), lambda part: part.movedim(over[0] - len(shape), -1))
            return unit(Context(context.law, rows), last, eps)
        last = value.expand(shape).movedim(over[0], -1)
        return last / last.norm(dim=-1, keepdim=True).clamp(min=eps)

    if x is y:
        alike = direction(x)
        return contraction(alike, alike, _dot, context)
    return contraction(direction(x), direction(y), _dot, context)


def _dot(x: Tensor, y: Tensor) -> Tensor:
    return (x * y).sum(-1)


def _owners(x: Tensor, y: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor | None:
    labels = torch.stack(torch.broadcast_tensors(x, y), -1).movedim(dim % max(x.dim(), y.dim()), -1).flatten(-2)
    return sole_owner(labels, -1, False)


RULES.add(Rule(aten.cosine_similarity.default, False, cosine_similarity, positions=(0, 1), many=True, owners=_owners))
