"""Every registered rule, one line each or more, against an oracle that knows nothing of it.

Affine operations: against their matrix, read off unit vectors. All others: against Monte Carlo in float64, within six
standard errors of the samples; approximate rules within that and a measured share of the result's standard deviation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._ops import OpOverload

from dasp.gaussian import Gaussian
from dasp.rules import RULES, Context

aten = torch.ops.aten

FACTORS = 3
SAMPLES = 40_000
VARIANCES = (1.0, 0.0, 0.3, 4.0, 1e-4)  # of the elements of one value, in turn
MODERATE = (0.5, 0.2, 0.0, 0.8, 0.4)


@dataclass(frozen=True)
class Plain:
    """A law under which nonlinearities condition on nobody."""

    conditioned: bool = False
    factor_presence: Tensor | None = None


@dataclass(frozen=True)
class X:
    """Stands for a random argument of this shape."""

    shape: tuple[int, ...]


@dataclass(frozen=True)
class Row:
    """One line of the table.

    `tolerance` is the error allowed to an approximate rule, in the largest standard deviation of the result (three
    times that in the largest variance): twice what was measured over some seeds; `rows` tells whether axis 0 is a batch axis of random arguments and result.
    """

    op: OpOverload
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    affine: bool = True
    tolerance: float = 0.0
    rows: bool = True

    @property
    def name(self) -> str:
        shown = [str(tuple(a.shape)) if isinstance(a, (X, Tensor)) else str(a) for a in self.args]
        return f"{self.op}-{','.join(shown)}".replace(" ", "")


def x(*shape: int) -> X:
    return X(shape)


def k(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


def affine(op: OpOverload, *args: Any, rows: bool = True, **kwargs: Any) -> Row:
    return Row(op, args, kwargs, rows=rows)


def curved(op: OpOverload, *args: Any, tolerance: float = 0.0, rows: bool = True, **kwargs: Any) -> Row:
    return Row(op, args, kwargs, affine=False, tolerance=tolerance, rows=rows)


TWICE = X(())  # the same random value as the argument before it
MASK = torch.tensor([True, False, False, True])
INDEX = torch.tensor([2, 0, 2])

LINEAR = (
    affine(aten.linear.default, x(2, 4), k(3, 4), k(3)),
    affine(aten.linear.default, x(2, 3, 4), k(2, 4)),
    affine(aten.mm.default, x(2, 4), k(4, 3)),
    affine(aten.mm.default, k(3, 2), x(2, 4), rows=False),
    affine(aten.bmm.default, x(2, 3, 4), k(2, 4, 2), rows=False),
    affine(aten.bmm.default, k(2, 3, 4), x(2, 4, 2), rows=False),
    affine(aten.matmul.default, x(2, 4), k(4)),
    affine(aten.matmul.default, x(2, 3, 4), k(4, 2)),
    affine(aten.matmul.default, k(3, 4), x(2, 4, 2)),
    affine(aten.matmul.default, k(5, 3), x(2, 2, 3, 2)),
    affine(aten.addmm.default, k(3), x(2, 4), k(4, 3), beta=0.5, alpha=-2.0),
    affine(aten.addmm.default, k(3), x(2, 4), k(4, 3)),
    affine(aten.addmm.default, k(3, 4), k(3, 2), x(2, 4), rows=False, alpha=3),
    affine(aten.baddbmm.default, k(2, 3, 2), x(2, 3, 4), k(2, 4, 2), rows=False, beta=2, alpha=0.5),
    affine(aten.baddbmm.default, k(2, 3, 2), k(2, 3, 4), x(2, 4, 2), rows=False),
    affine(aten.convolution.default, x(2, 2, 7), k(3, 2, 3), k(3), [1], [0], [1], False, [0], 1),
    affine(aten.convolution.default, x(2, 4, 9), k(6, 2, 3), None, [2], [1], [2], False, [0], 2),
    affine(aten.convolution.default, x(2, 2, 5, 4), k(3, 2, 3, 2), k(3), [2, 1], [1, 0], [1, 2], False, [0, 0], 1),
    affine(aten.convolution.default, x(2, 2, 4, 4), k(2, 1, 3, 3), k(2), [1, 1], [1, 1], [1, 1], False, [0, 0], 2),
    affine(aten.convolution.default, x(2, 1, 3, 3, 3), k(2, 1, 2, 2, 2), k(2), [1] * 3, [1] * 3, [1] * 3, False, [0] * 3, 1),
    affine(aten.convolution.default, x(2, 2, 4), k(2, 3, 3), k(3), [2], [1], [1], True, [1], 1),
    affine(aten.convolution.default, x(2, 4, 3, 3), k(4, 1, 2, 3), None, [2, 1], [0, 1], [1, 2], True, [1, 0], 2),
    affine(aten.convolution.default, x(2, 1, 2, 2, 3), k(1, 2, 2, 2, 2), k(2), [2] * 3, [0] * 3, [1] * 3, True, [0] * 3, 1),
    affine(aten.mean.dim, x(2, 3, 4), [-1]),
    affine(aten.mean.dim, x(2, 3, 4), [1, 2], True),
    affine(aten.mean.dim, x(3, 4), None, rows=False),
    affine(aten.mean.default, x(3, 4), rows=False),
    affine(aten.sum.dim_IntList, x(2, 3, 4), [1], True),
    affine(aten.sum.dim_IntList, x(2, 3, 4), [-1, 1]),
    affine(aten.sum.default, x(3, 4), rows=False),
    affine(aten.cumsum.default, x(2, 5), 1),
    affine(aten.cumsum.default, x(2, 3, 2), -2),
    affine(aten.avg_pool1d.default, x(2, 2, 7), [3]),
    affine(aten.avg_pool1d.default, x(2, 2, 7), [3], [2], [1], True, False),
    affine(aten.avg_pool1d.default, x(2, 2, 8), [3], [2], [1], True, True),
    affine(aten.avg_pool2d.default, x(2, 2, 4, 5), [2, 3]),
    affine(aten.avg_pool2d.default, x(2, 1, 5, 6), [3, 3], [2, 2], [1, 1], True, False),
    affine(aten.avg_pool2d.default, x(2, 1, 5, 6), [3, 3], [2, 2], [1, 1], True, True),
    affine(aten.avg_pool2d.default, x(2, 1, 4, 4), [3, 2], [1, 2], [1, 0], False, True, 5),
    affine(aten.avg_pool2d.default, x(2, 4, 4), [2, 2]),
    affine(aten.avg_pool3d.default, x(2, 1, 3, 3, 4), [2, 2, 2], [1, 2, 2], [1, 0, 1], True, False),
    affine(aten.avg_pool3d.default, x(2, 1, 3, 3, 2), [2, 2, 2], [1, 1, 1], [0, 0, 0], False, True, 3),
    affine(aten.adaptive_avg_pool1d.default, x(2, 2, 7), [3]),
    affine(aten.adaptive_avg_pool2d.default, x(2, 1, 5, 7), [2, 3]),
    affine(aten.adaptive_avg_pool3d.default, x(2, 1, 3, 4, 5), [2, 2, 3]),
    affine(aten._adaptive_avg_pool2d.default, x(2, 2, 3, 5), [2, 1]),
    affine(aten._adaptive_avg_pool3d.default, x(2, 1, 3, 2, 4), [2, 2, 3]),
    affine(aten._native_batch_norm_legit_no_training.default, x(2, 3), k(3), k(3), k(3), k(3).square(), 0.1, 1e-5),
    affine(aten._native_batch_norm_legit_no_training.default, x(2, 3, 2, 2), None, None, k(3), k(3).square(), 0.1, 1e-3),
)

ARITHMETIC = (
    affine(aten.add.Tensor, x(2, 3), 2),
    affine(aten.add.Tensor, x(2, 3), k(3), alpha=-2),
    affine(aten.add.Tensor, k(2, 3), x(2, 3), alpha=3, rows=False),
    affine(aten.add.Tensor, torch.tensor(0.7, dtype=torch.float64), x(2, 3)),
    affine(aten.add.Tensor, x(2, 1), k(3)),
    affine(aten.add.Tensor, k(4, 1, 1), x(2, 1), rows=False),
    affine(aten.add.Tensor, x(2, 3), x(2, 3), alpha=0.5),
    affine(aten.add.Tensor, x(2, 4), x(2, 1)),
    affine(aten.add.Tensor, x(2, 1, 3), x(2, 4, 1)),
    affine(aten.add.Tensor, x(2, 3), TWICE, alpha=3),
    affine(aten.sub.Tensor, x(2, 3), TWICE),
    affine(aten.sub.Tensor, 1.0, x(2, 3)),
    affine(aten.sub.Tensor, k(3), x(2, 3), alpha=2),
    affine(aten.sub.Tensor, x(2, 1), k(3), alpha=2),
    affine(aten.sub.Tensor, x(2, 3), x(2, 3), alpha=2),
    affine(aten.mul.Tensor, x(2, 3), k(3)),
    affine(aten.mul.Tensor, 3, x(2, 3)),
    affine(aten.mul.Tensor, k(3), x(2, 1)),
    affine(aten.mul.Tensor, x(2, 3), torch.tensor(-1.5, dtype=torch.float64)),
    affine(aten.add.Scalar, x(2, 3), 2, 3),
    affine(aten.add.Scalar, x(2, 3), 2.5),
    affine(aten.sub.Scalar, x(2, 3), 2, 3),
    affine(aten.mul.Scalar, x(2, 3), -2),
    affine(aten.div.Tensor, x(2, 3), k(3)),
    affine(aten.div.Tensor, x(2, 1), k(3)),
    affine(aten.div.Tensor, x(2, 3), 3),
    affine(aten.div.Scalar, x(2, 3), 3),
    affine(aten.rsub.Scalar, x(2, 3), 1),
    affine(aten.rsub.Scalar, x(2, 3), 1, 2),
    affine(aten.neg.default, x(2, 3)),
    curved(aten.mul.Tensor, x(2, 5), x(2, 5)),
    curved(aten.mul.Tensor, x(2, 4), x(2, 1)),
    curved(aten.mul.Tensor, x(2, 5), TWICE),
    curved(aten.square.default, x(2, 5)),
    curved(aten.pow.Tensor_Scalar, x(2, 5), 2),
)

MOVES = (
    affine(aten.view.default, x(2, 3, 4), [-1, 12]),
    affine(aten.reshape.default, x(2, 3, 4), [-1, 4, 3]),
    affine(aten._unsafe_view.default, x(2, 6), [-1, 3, 2]),
    affine(aten.clone.default, x(2, 3), memory_format=torch.contiguous_format),
    affine(aten.contiguous.default, x(2, 3)),
    affine(aten.alias.default, x(2, 3)),
    affine(aten.detach.default, x(2, 3)),
    affine(aten.lift_fresh_copy.default, x(2, 3)),
    affine(aten._to_copy.default, x(2, 3), dtype=torch.float64),
    affine(aten.permute.default, x(2, 3, 4), [0, 2, 1]),
    affine(aten.permute.default, x(2, 3, 4), [2, 0, 1], rows=False),
    affine(aten.transpose.int, x(2, 3, 4), -1, 1),
    affine(aten.t.default, x(2, 3), rows=False),
    affine(aten.movedim.int, x(2, 3, 4), 1, -1),
    affine(aten.expand.default, x(2, 1, 3), [-1, 4, 3]),
    affine(aten.expand.default, x(2, 3), [4, 2, 3], rows=False),
    affine(aten.unsqueeze.default, x(2, 3), -1),
    affine(aten.squeeze.dim, x(2, 1, 3), 1),
    affine(aten.squeeze.dims, x(2, 1, 3, 1), [1, -1]),
    affine(aten.flatten.using_ints, x(2, 3, 4), 1, -1),
    affine(aten.unflatten.int, x(2, 6), 1, [2, 3]),
    affine(aten.slice.Tensor, x(2, 7), 1, 1, 6, 2),
    affine(aten.select.int, x(2, 3, 4), -1, -2),
    affine(aten.narrow.default, x(2, 5), 1, 1, 3),
    affine(aten.diagonal.default, x(2, 3, 4), 1, 1, 2),
    affine(aten.flip.default, x(2, 3, 4), [1, 2]),
    affine(aten.roll.default, x(2, 5), [2], [1]),
    affine(aten.repeat.default, x(2, 3), [1, 2]),
    affine(aten.split.Tensor, x(2, 5), 2, 1),
    affine(aten.split_with_sizes.default, x(2, 5), [1, 4], 1),
    affine(aten.unbind.int, x(2, 3), 1),
    affine(aten.chunk.default, x(2, 5), 2, 1),
    affine(aten.index_select.default, x(2, 4), 1, INDEX),
    affine(aten.index.Tensor, x(2, 4, 3), [None, INDEX]),
    affine(aten.index.Tensor, x(2, 4, 3), [None, INDEX, INDEX]),
    affine(aten.gather.default, x(2, 4), 1, torch.tensor([[3, 3, 0], [1, 0, 2]]), rows=False),
    affine(aten.unfold.default, x(2, 7), 1, 3, 2),
    affine(aten.pixel_shuffle.default, x(2, 4, 2, 2), 2),
    affine(aten.pixel_unshuffle.default, x(2, 1, 4, 4), 2),
    affine(aten.channel_shuffle.default, x(2, 4, 2, 1), 2),
    affine(aten.tril.default, x(2, 3, 3), 1),
    affine(aten.triu.default, x(2, 3, 3)),
    affine(aten.reflection_pad1d.default, x(2, 2, 4), [1, 2]),
    affine(aten.reflection_pad2d.default, x(2, 1, 3, 3), [1, 2, 0, 1]),
    affine(aten.reflection_pad3d.default, x(2, 1, 2, 2, 3), [1, 2, 0, 1, 1, 0]),
    affine(aten.replication_pad1d.default, x(2, 2, 3), [1, 2]),
    affine(aten.replication_pad2d.default, x(2, 1, 3, 2), [1, 2, 0, 1]),
    affine(aten.replication_pad3d.default, x(2, 1, 2, 2, 2), [1, 2, 0, 1, 1, 0]),
    affine(aten.upsample_nearest1d.default, x(2, 2, 3), [5]),
    affine(aten.upsample_nearest2d.default, x(2, 1, 2, 3), [4, 5]),
    affine(aten.upsample_nearest3d.default, x(2, 1, 2, 2, 2), [3, 4, 2]),
    affine(aten.upsample_nearest2d.vec, x(2, 1, 2, 3), None, [2.0, 2.0]),
    affine(aten.cat.default, [x(2, 3), x(2, 2)], 1),
    affine(aten.cat.default, [k(2, 3), x(2, 2), k(2, 1)], -1, rows=False),
    affine(aten.stack.default, [x(2, 3), x(2, 3)], 1),
    affine(aten.stack.default, [x(2, 3), k(2, 3)], -1, rows=False),
    affine(aten.where.self, MASK, x(2, 4), x(2, 4)),
    affine(aten.where.self, MASK, x(2, 4), torch.tensor(3.0, dtype=torch.float64)),
    affine(aten.where.self, MASK, k(4), x(2, 1)),
    affine(aten.slice_scatter.default, x(2, 5), x(2, 2), 1, 1, 5, 2),
    affine(aten.slice_scatter.default, k(2, 5), x(2, 2), 1, 3, 2**63 - 1, rows=False),
    affine(aten.slice_scatter.default, x(2, 5), x(2, 2), 1, -2),
    affine(aten.select_scatter.default, x(2, 3), x(2), 1, 1),
    affine(aten.copy.default, x(2, 3), x(3), rows=False),
    affine(aten.copy.default, x(2, 3), torch.tensor(0.5, dtype=torch.float64)),
    affine(aten.copy.default, k(2, 3), x(2, 1), rows=False),
    affine(aten.copy.default, x(2, 4), x(2, 1)),
    affine(aten.squeeze.default, x(2, 1, 3), rows=False),
    affine(aten.constant_pad_nd.default, x(2, 3, 3), [1, 2, -1, 1], 0.7),
    affine(aten.constant_pad_nd.default, x(2, 3), [1, 1]),
    affine(aten.masked_fill.Scalar, x(2, 4), MASK, 2.5),
    affine(aten.masked_fill.Tensor, x(2, 4), MASK, torch.tensor(2.5, dtype=torch.float64)),
)

ELEMENTWISE = (
    *(
        curved(op, x(2, 5))
        for op in (
            aten.relu.default, aten.leaky_relu.default, aten.abs.default, aten.hardtanh.default, aten.relu6.default,
            aten.hardsigmoid.default, aten.hardswish.default, aten.elu.default, aten.sigmoid.default, aten.tanh.default,
            aten.silu.default, aten.mish.default, aten.softplus.default, aten.log_sigmoid.default, aten.gelu.default,
            aten.erf.default, aten.exp.default, aten.sin.default, aten.cos.default,
        )
    ),
    curved(aten.leaky_relu.default, x(2, 5), 0.3),
    curved(aten._prelu_kernel.default, x(2, 3), k(3)),
    curved(aten.hardtanh.default, x(2, 5), -0.5, 2.0),
    curved(aten.clamp.default, x(2, 5), -0.5, 0.8),
    curved(aten.clamp.default, x(2, 5), -0.5),
    curved(aten.clamp.default, x(2, 5), None, 0.5),
    curved(aten.clamp_min.default, x(2, 5), 0.4),
    curved(aten.clamp_max.default, x(2, 5), 0.4),
    curved(aten.elu.default, x(2, 5), 1.6732632423543772, 1.0507009873554805),
    curved(aten.elu.default, x(2, 5), 0.7, 1.0, 1 / 0.7),
    curved(aten.softplus.default, x(2, 5), 2.0, 30.0),
    curved(aten.gelu.default, x(2, 5), approximate="tanh"),
)  # fmt: skip

POOLS = (
    curved(aten.max_pool1d.default, x(2, 2, 6), [2]),  # the larger of two is exact
    curved(aten.max_pool1d.default, x(2, 1, 7), [2], [2], [1], 1, True),
    curved(aten.max_pool1d.default, x(2, 1, 8), [3], [1], [1], 2, tolerance=0.08),
    curved(aten.max_pool2d.default, x(2, 1, 4, 6), [2, 3], tolerance=0.12),
    curved(aten.max_pool2d.default, x(2, 1, 5, 6), [3, 3], [2, 2], [1, 1], [1, 1], True, tolerance=0.12),
    curved(aten.max_pool2d.default, x(2, 5, 5), [3], [1], [1], [2], tolerance=0.12),
    curved(aten.max_pool3d.default, x(2, 1, 2, 4, 3), [2, 2, 2], [1, 2, 1], [0, 1, 0], tolerance=0.12),
    curved(aten.max_pool1d_with_indices.default, x(2, 1, 7), [3], [2], [1], [1], True, tolerance=0.08),
    curved(aten.max_pool2d_with_indices.default, x(2, 1, 4, 4), [2, 2], tolerance=0.08),
    curved(aten.max_pool3d_with_indices.default, x(2, 1, 2, 2, 4), [2, 2, 2], tolerance=0.12),
    curved(aten.adaptive_max_pool1d.default, x(2, 1, 7), [3], tolerance=0.08),
    curved(aten.adaptive_max_pool2d.default, x(2, 1, 3, 5), [2, 2], tolerance=0.12),
    curved(aten.adaptive_max_pool3d.default, x(2, 1, 2, 3, 3), [2, 2, 2], tolerance=0.08),
)

SOFT = (
    curved(aten.softmax.int, x(2, 4), 1, tolerance=0.25),
    curved(aten._softmax.default, x(2, 3, 2), -2, False, tolerance=0.25),
    curved(aten.log_softmax.int, x(2, 4), -1, tolerance=0.05),
    curved(aten._log_softmax.default, x(2, 3, 2), 1, False, tolerance=0.05),
)

TABLE = (*LINEAR, *ARITHMETIC, *MOVES, *ELEMENTWISE, *POOLS, *SOFT)
every_row = pytest.mark.parametrize("row", [pytest.param(r, id=r.name) for r in TABLE])


def test_every_registered_rule_has_a_row() -> None:
    missing = set(RULES.ops()) - {row.op for row in TABLE}
    assert not missing, f"no row in the table for {sorted(map(str, missing))}"


# How a row is run --------------------------------------------------------------------------------------------------


def placeholders(row: Row) -> list[X]:
    flat = [a for arg in row.args for a in (arg if isinstance(arg, list) else [arg])]
    return [a for a in flat if isinstance(a, X) and a is not TWICE]


def filled(row: Row, values: list[Any]) -> list[Any]:
    """The arguments of a row with values in place of its placeholders."""
    queue: Iterator[Any] = iter(values)
    last: Any = None

    def fill(argument: Any) -> Any:
        nonlocal last
        if isinstance(argument, X):
            last = last if argument is TWICE else next(queue)
            return last
        return argument

    return [[fill(b) for b in a] if isinstance(a, list) else fill(a) for a in row.args]


def listed(result: Any) -> list[Any]:
    """The values in a result, which may be one, or several and things that are none."""
    return [r for r in result if isinstance(r, (Tensor, Gaussian))] if isinstance(result, (list, tuple)) else [result]


def plain(row: Row, values: list[Tensor]) -> list[Tensor]:
    """The operation itself, without what its rule does not give (indices, saved statistics)."""
    results = listed(row.op(*filled(row, values), **row.kwargs))
    shapes = len(moments(row, [deterministic(v) for v in values]))
    return [r for r in results if r.is_floating_point()][:shapes]


def moments(row: Row, values: list[Gaussian]) -> list[Gaussian]:
    rule = RULES.find(row.op)
    assert rule is not None
    args = filled(row, values)
    random = [i for i, a in enumerate(args) if any(isinstance(b, Gaussian) for b in (a if isinstance(a, list) else [a]))]
    assert rule.accepts(random, args)
    return listed(rule.apply(Context(Plain(), 0 if row.rows else None), *args, **row.kwargs))


def deterministic(value: Tensor) -> Gaussian:
    return Gaussian(value, None, torch.zeros_like(value))


def draw(row: Row, *, seed: int = 0, variances: tuple[float, ...] = VARIANCES) -> list[Gaussian]:
    """Random values for a row; every element has its own variance, half of it explained by the shared factors."""
    g = torch.Generator().manual_seed(seed)
    values = []
    for place in placeholders(row):
        shape = place.shape
        mean = torch.randn(shape, generator=g, dtype=torch.float64)
        size = mean.numel()
        var = torch.tensor(variances, dtype=torch.float64).repeat(size)[:size].reshape(shape)
        loadings = torch.randn(FACTORS, *shape, generator=g, dtype=torch.float64)
        loadings = loadings * (0.5 * var / loadings.square().sum(0)).sqrt()
        values.append(Gaussian(mean, loadings, 0.5 * var))
    return values


def parts(value: Gaussian) -> tuple[Tensor, ...]:
    return (value.mean, value.rest) if value.factors is None else (value.mean, value.factors, value.rest)


def close(found: Tensor, wanted: Tensor, atol: float | Tensor = 1e-10) -> None:
    assert found.shape == wanted.shape
    excess = ((found - wanted).abs() - 1e-9 * wanted.abs() - atol).max()
    assert excess <= 0, f"off by {float(excess):.3g} more than allowed"


# Affine rules: the matrix of the operation, read off unit vectors --------------------------------------------------


@pytest.mark.parametrize("row", [pytest.param(r, id=r.name) for r in TABLE if r.affine])
def test_affine_rules_carry_mean_factors_and_rest_through_the_matrix(row: Row) -> None:
    values = draw(row)
    results = moments(row, values)
    centre = [v.mean for v in values]
    sizes = [v.numel() for v in centre]

    def f(flat: Tensor) -> Tensor:
        split = [p.reshape(c.shape) for p, c in zip(flat.split(sizes), centre, strict=True)]
        return torch.cat([r.flatten() for r in plain(row, split)])

    at = torch.cat([c.flatten() for c in centre])
    matrix = torch.stack([f(at + unit) - f(at) for unit in torch.eye(len(at), dtype=torch.float64)], 1)
    factors = torch.cat([torch.as_tensor(v.factors).reshape(FACTORS, -1) for v in values], 1)
    rest = torch.cat([v.rest.flatten() for v in values])
    assert [r.mean.shape for r in results] == [r.shape for r in plain(row, centre)]
    close(torch.cat([r.mean.flatten() for r in results]), f(at))
    close(torch.cat([torch.as_tensor(r.factors).reshape(FACTORS, -1) for r in results], 1), factors @ matrix.T)
    close(torch.cat([r.rest.flatten() for r in results]), matrix.square() @ rest)


# Other rules: Monte Carlo ------------------------------------------------------------------------------------------


def sampled(row: Row, values: list[Gaussian], seed: int = 1) -> tuple[Tensor, Tensor]:
    """Results (SAMPLES, *out) and the factors (SAMPLES, R) that they came from."""
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(SAMPLES, FACTORS, generator=g, dtype=torch.float64)
    draws = []
    for v in values:
        noise = torch.randn(SAMPLES, *v.mean.shape, generator=g, dtype=torch.float64)
        draws.append(v.mean + torch.tensordot(z, torch.as_tensor(v.factors), 1) + v.rest.sqrt() * noise)
    if row.rows:
        stacked = [d.flatten(0, 1) for d in draws]
        out = plain(row, stacked)[0]
        return out.reshape(SAMPLES, -1, *out.shape[1:]), z
    return torch.stack([plain(row, list(d))[0] for d in zip(*draws, strict=True)]), z


def compare(found: Tensor, samples: Tensor, allowed: Tensor | float) -> None:
    """Within six standard errors of the mean of samples (SAMPLES, ...), and what is allowed."""
    error = samples.std(0) / SAMPLES**0.5
    close(found, samples.mean(0), 6 * error + allowed + 1e-6)


@pytest.mark.parametrize("row", [pytest.param(r, id=r.name) for r in TABLE if not r.affine])
def test_curved_rules_agree_with_monte_carlo(row: Row) -> None:
    values = draw(row, variances=MODERATE if row.tolerance else VARIANCES)
    (result,) = moments(row, values)
    samples, z = sampled(row, values)
    deviation = row.tolerance * samples.std(0).max()
    compare(result.mean, samples, deviation)
    centred = samples - samples.mean(0)
    compare(result.var, centred.square(), 3 * row.tolerance * samples.var(0).max())
    assert result.factors is not None
    for loading, factor in zip(result.factors, z.T, strict=True):
        compare(loading, centred * factor.reshape(-1, *[1] * loading.dim()), deviation)


# What holds for every rule -----------------------------------------------------------------------------------------


@every_row
def test_without_variance_a_rule_is_its_operation(row: Row) -> None:
    values = draw(row, variances=(0.0,))
    for result, wanted in zip(moments(row, values), plain(row, [v.mean for v in values]), strict=True):
        close(result.mean, wanted)
        assert result.factors is not None
        assert not result.factors.any()
        close(result.rest, torch.zeros_like(wanted), 1e-14)


@every_row
def test_gradients_are_those_of_finite_differences(row: Row) -> None:
    values = draw(row, variances=(0.9, 0.2, 2.0))

    def f(*leaves: Tensor) -> tuple[Tensor, ...]:
        triples = zip(leaves[::3], leaves[1::3], leaves[2::3], strict=True)
        results = moments(row, [Gaussian(m, l, r) for m, l, r in triples])
        return tuple(p for result in results for p in (result.mean, result.var))

    leaves = [p.clone().requires_grad_() for v in values for p in parts(v)]
    assert torch.autograd.gradcheck(f, leaves, fast_mode=True, atol=1e-4)


@every_row
def test_gradients_are_finite_without_variance(row: Row) -> None:
    values = draw(row, variances=(0.0, 1.0))
    leaves = [p.clone().requires_grad_() for v in values for p in parts(v)]
    triples = zip(leaves[::3], leaves[1::3], leaves[2::3], strict=True)
    results = moments(row, [Gaussian(m, l, r) for m, l, r in triples])
    total = torch.stack([r.mean.sum() + r.var.sum() for r in results]).sum() + 0 * leaves[0].sum()
    for gradient in torch.autograd.grad(total, leaves, allow_unused=True):
        assert gradient is None or gradient.isfinite().all()


@every_row
def test_without_factors_the_rests_are_all_the_variance(row: Row) -> None:
    values = [replace(v, factors=torch.zeros_like(torch.as_tensor(v.factors))) for v in draw(row)]
    for result, other in zip(moments(row, values), moments(row, [replace(v, factors=None) for v in values]), strict=True):
        assert other.factors is None
        close(other.mean, result.mean, 1e-12)
        close(other.rest, result.var, 1e-12)


@every_row
def test_float32_is_float64_to_rounding(row: Row) -> None:
    def cast(argument: Any, dtype: torch.dtype) -> Any:
        if isinstance(argument, list):
            return [cast(a, dtype) for a in argument]
        return argument.to(dtype) if isinstance(argument, Tensor) and argument.is_floating_point() else argument

    values = draw(row)
    narrow = replace(row, args=tuple(cast(a, torch.float32) for a in row.args))
    if row.op is aten._to_copy.default:
        narrow = replace(narrow, kwargs={"dtype": torch.float32})
    small = [Gaussian(*(p.float() for p in parts(v))) for v in values]
    for result, other in zip(moments(row, values), moments(narrow, small), strict=True):
        for wanted, found in zip(parts(result), parts(other), strict=True):
            assert found.dtype == torch.float32
            close(found.double(), wanted, 2e-5 + 2e-5 * wanted.abs())


@pytest.mark.parametrize("row", [pytest.param(r, id=r.name) for r in TABLE if r.rows])
def test_rows_are_alone_in_a_batch(row: Row) -> None:
    values = draw(row)
    together = moments(row, values)
    for b in range(2):
        alone = moments(row, [Gaussian(v.mean[b : b + 1], torch.as_tensor(v.factors)[:, b : b + 1], v.rest[b : b + 1]) for v in values])
        for one, all_rows in zip(alone, together, strict=True):
            close(one.mean, all_rows.mean[b : b + 1], 1e-12)
            close(one.var, all_rows.var[b : b + 1], 1e-12)
