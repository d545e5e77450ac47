"""Attention: scores, softmax and weighted sum, each on moments; never taken apart further."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..gaussian import Gaussian
from .bilinear import contraction
from .families import Context
from .parts import every, times
from .registry import RULES, Rule
from .softmax import softmax

aten = torch.ops.aten

Value = Gaussian | Tensor


def _transposed(value: Value) -> Value:
    return every(value, lambda part: part.mT) if isinstance(value, Gaussian) else value.mT


def _size(value: Value, axis: int) -> int:
    return (value.mean if isinstance(value, Gaussian) else value).shape[axis]


def _repeated(value: Value, heads: int) -> Value:
    """Groups of query heads share a head of keys and values (Ainslie et al., 2023)."""
    copies = heads // _size(value, -3)
    if isinstance(value, Gaussian):
        return every(value, lambda part: part.repeat_interleave(copies, -3))
    return value.repeat_interleave(copies, -3)


def attention(
    context: Context, query: Value, key: Value, value: Value, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
    is_causal: bool = False, *, scale: float | None = None, enable_gqa: bool = False,
) -> Gaussian:  # fmt: skip
    """`softmax(Q K' scale + mask) V` (Vaswani et al., 2017): `contraction`, `softmax`, `contraction`.

    As in torch, the causal mask starts at the upper left, and a query that may see no key gets 0.
    """
    if enable_gqa:
        key, value = (_repeated(part, _size(query, -3)) for part in (key, value))
    scale = 1 / math.sqrt(_size(query, -1)) if scale is None else scale
    if not isinstance(query, Gaussian) and not isinstance(key, Gaussian):
        known = aten.scaled_dot_product_attention(query, key, _identity(key), attn_mask, 0.0, is_causal, scale=scale)
        return contraction(known, value, torch.matmul)
    scores = _masked(times(contraction(query, _transposed(key), torch.matmul, context), scale), attn_mask, is_causal)
    return contraction(softmax(context, scores, -1), value, torch.matmul, context)


def _identity(key: Tensor) -> Tensor:
    """Values that make the attention weights themselves the result."""
    one = torch.eye(key.shape[-2], dtype=key.dtype, device=key.device)
    return one.expand(*key.shape[:-2], *one.shape)


def _masked(scores: Gaussian, mask: Tensor | None, is_causal: bool) -> Gaussian:
    mean = scores.mean
    if is_causal:
        allowed = torch.ones(mean.shape[-2:], dtype=torch.bool, device=mean.device).tril()
        mean = mean.masked_fill(~allowed, -torch.inf)
    if mask is not None:
        mean = mean.masked_fill(~mask, -torch.inf) if mask.dtype is torch.bool else mean + mask
    return Gaussian(mean, scores.factors, scores.rest)


def _covers(*args: Any, **kwargs: Any) -> bool:
    dropout = args[4] if len(args) > 4 else kwargs.get("dropout_p", 0.0)
    return float(dropout) == 0.0


def _weights_known(random: Sequence[int], args: Sequence[Any]) -> bool:
    """With known queries and keys, attention is a known average of its values."""
    return list(random) == [2]


RULES.add(
    Rule(
        aten.scaled_dot_product_attention.default, False, attention, positions=(0, 1, 2), many=True, covers=_covers,
        exact_if=_weights_known,
    )
)  # fmt: skip
