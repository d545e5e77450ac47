"""Rules for operations that only carry elements around: views, permutations, joins, cuts, padding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from ..gaussian import Gaussian
from .families import Context, moves
from .registry import RULES, Rule

aten = torch.ops.aten


def _reshape(value: Tensor, shape: list[int]) -> Tensor:
    return value.reshape(shape)


def _same(value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return value


def _cast(value: Tensor, *args: Any, dtype: torch.dtype | None = None, **kwargs: Any) -> Tensor:
    """A copy in another floating dtype; labels, which are integers, stay as they are."""
    return value if dtype is None or not value.is_floating_point() else value.to(dtype)


def _stays_floating(*args: Any, dtype: torch.dtype | None = None, **kwargs: Any) -> bool:
    """Rounding a random value to integers does not only carry it around."""
    return dtype is None or dtype.is_floating_point


def copied(value: Tensor, source: Tensor, *args: Any) -> Tensor:
    """`source` in the shape and dtype of `value`: what assigning to a part of a tensor leaves in a graph."""
    return source.to(value.dtype).expand(value.shape)


def _nearest(op: OpOverload) -> Callable[..., Tensor]:
    """Nearest upsampling of integers too: owner labels are, and the operation takes floating values only."""

    def run(value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        result: Tensor = op(value if value.is_floating_point() else value.double(), *args, **kwargs)
        return result.to(value.dtype)

    return run


def _slice_scatter(
    value: Tensor, source: Tensor, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Tensor:
    """`slice_scatter` with its bounds inside the tensor; vmap (torch 2.13) cannot take the open end of a slice."""
    first, last, _ = slice(start, end, step).indices(value.shape[dim])
    result: Tensor = aten.slice_scatter(value, source, dim, first, last, step)
    return result


def _select_scatter(value: Tensor, source: Tensor, dim: int, index: int) -> Tensor:
    """`select_scatter` as a slice of length one: under vmap its own gradient is wrong (torch 2.13)."""
    first = index % value.shape[dim]
    return _slice_scatter(value, source.unsqueeze(dim), dim, first, first + 1)


moves(aten.view.default, aten.reshape.default, aten._unsafe_view.default, run=_reshape)
moves(aten.clone.default, aten.contiguous.default, aten.alias.default, aten.detach.default, run=_same)
moves(aten.lift_fresh_copy.default, run=_same)
moves(aten._to_copy.default, run=_cast, covers=_stays_floating)
moves(
    aten.permute.default, aten.transpose.int, aten.t.default, aten.movedim.int, aten.expand.default,
    aten.unsqueeze.default, aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims, aten.flatten.using_ints,
    aten.unflatten.int, aten.slice.Tensor, aten.select.int, aten.narrow.default, aten.diagonal.default,
    aten.flip.default, aten.roll.default, aten.repeat.default, aten.split.Tensor, aten.split_with_sizes.default,
    aten.unbind.int, aten.chunk.default, aten.index_select.default, aten.index.Tensor, aten.gather.default,
    aten.unfold.default, aten.pixel_shuffle.default, aten.pixel_unshuffle.default,
    aten.channel_shuffle.default, aten.tril.default, aten.triu.default,
    aten.reflection_pad1d.default, aten.reflection_pad2d.default, aten.reflection_pad3d.default,
    aten.replication_pad1d.default, aten.replication_pad2d.default, aten.replication_pad3d.default,
)  # fmt: skip
for _op in (
    aten.upsample_nearest1d.default, aten.upsample_nearest2d.default, aten.upsample_nearest3d.default,
    aten.upsample_nearest1d.vec, aten.upsample_nearest2d.vec, aten.upsample_nearest3d.vec,
):  # fmt: skip
    moves(_op, run=_nearest(_op))
moves(aten.cat.default, aten.stack.default)
moves(aten.where.self, values=(1, 2))
moves(aten.copy.default, values=(0, 1), run=copied)
moves(aten.slice_scatter.default, values=(0, 1), run=_slice_scatter)
moves(aten.select_scatter.default, values=(0, 1), run=_select_scatter)


def _pad(context: Context, value: Gaussian, pad: list[int], fill: float = 0.0) -> Gaussian:
    """Padding with a known number: that number in the mean, zero in variances and loadings; exact."""

    def zeros(part: Tensor) -> Tensor:
        result: Tensor = aten.constant_pad_nd(part, pad, 0.0)
        return result

    return Gaussian(
        aten.constant_pad_nd(value.mean, pad, fill), value.map_factors(zeros), zeros(value.rest)
    )


def _pad_owners(labels: Tensor, pad: list[int], fill: float = 0.0) -> Tensor:
    result: Tensor = aten.constant_pad_nd(labels, pad, 0)
    return result


def _masked_fill(context: Context, value: Gaussian, mask: Tensor, fill: float | Tensor) -> Gaussian:
    """Known elements overwritten by a known number: no variance and no loadings there; exact."""

    def zeros(part: Tensor) -> Tensor:
        return part.masked_fill(mask, 0.0)

    return Gaussian(value.mean.masked_fill(mask, fill), value.map_factors(zeros), zeros(value.rest))


def _masked_owners(labels: Tensor, mask: Tensor, fill: float | Tensor) -> Tensor:
    return labels.masked_fill(mask, 0)


def _scatter_value(context: Context, value: Gaussian, dim: int, index: Tensor, fill: float) -> Gaussian:
    """Known places overwritten by a known number; exact."""

    def zeros(part: Tensor) -> Tensor:
        return part.scatter(dim, index, 0.0)

    return Gaussian(value.mean.scatter(dim, index, fill), value.map_factors(zeros), zeros(value.rest))


def _scatter_owners(labels: Tensor, dim: int, index: Tensor, fill: float) -> Tensor:
    return labels.scatter(dim, index, 0)


def _finite(
    context: Context, value: Gaussian, nan: float | None = None, posinf: float | None = None, neginf: float | None = None
) -> Gaussian:
    """A finite value is its own; of infinite means, the number asked for."""
    return Gaussian(value.mean.nan_to_num(nan, posinf, neginf), value.factors, value.rest)


RULES.add(Rule(aten.constant_pad_nd.default, True, _pad, owners=_pad_owners))
RULES.add(Rule(aten.scatter.value, True, _scatter_value, owners=_scatter_owners))
RULES.add(Rule(aten.nan_to_num.default, True, _finite, owners=_same))
for _op in (aten.masked_fill.Scalar, aten.masked_fill.Tensor):
    RULES.add(Rule(_op, True, _masked_fill, owners=_masked_owners))
