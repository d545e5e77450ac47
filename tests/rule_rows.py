"""The table of rules under test: one line or more for every registered operation, with sample arguments."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

aten = torch.ops.aten


@dataclass(frozen=True)
class X:
    """Stands for a random argument of this shape; if `above` is not 0, its means are above that."""

    shape: tuple[int, ...]
    above: float = 0.0


@dataclass(frozen=True)
class Row:
    """One line of the table.

    `tolerance` is the error allowed to an approximate rule, in the largest standard deviation of the result (three
    times that in the largest variance): about twice what was measured over some seeds. `rows` tells whether axis 0 is
    a batch axis of random arguments and result.
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


def positive(*shape: int, above: float = 5.0) -> X:
    """Far enough above 0 for roots and logarithms of Gaussian samples."""
    return X(shape, above)


def k(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


def affine(op: OpOverload, *args: Any, rows: bool = True, **kwargs: Any) -> Row:
    return Row(op, args, kwargs, rows=rows)


def curved(op: OpOverload, *args: Any, tolerance: float = 0.0, rows: bool = True, **kwargs: Any) -> Row:
    return Row(op, args, kwargs, affine=False, tolerance=tolerance, rows=rows)


TWICE = X(())  # the same random value as the argument before it
MASK = torch.tensor([True, False, False, True])
INDEX = torch.tensor([2, 0, 2])
COLUMNS = torch.tensor([[2, 0], [2, 3]])
SEEN = torch.tensor([[True, False, True], [True, True, False], [False, False, True]])
BIAS = torch.tensor([[0.0, 0.3], [-torch.inf, 1.0], [0.0, -torch.inf]], dtype=torch.float64)

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
    affine(aten.convolution.default, x(2, 1, 3, 3, 3), k(2, 1, 2, 2, 2), k(2), *[[1] * 3] * 3, False, [0] * 3, 1),
    affine(aten.convolution.default, x(2, 2, 4), k(2, 3, 3), k(3), [2], [1], [1], True, [1], 1),
    affine(aten.convolution.default, x(2, 4, 3, 3), k(4, 1, 2, 3), None, [2, 1], [0, 1], [1, 2], True, [1, 0], 2),
    affine(aten.convolution.default, x(2, 1, 2, 2, 3), k(1, 2, 2, 2, 2), k(2), [2] * 3, [0] * 3, [1] * 3, True, [0], 1),
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
    affine(aten._native_batch_norm_legit_no_training.default, x(2, 3), k(3), k(3), k(3), k(3) ** 2, 0.1, 1e-5),
    affine(aten._native_batch_norm_legit_no_training.default, x(2, 3, 2, 2), None, None, k(3), k(3) ** 2, 0.1, 1e-3),
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
    curved(aten.softmax.int, x(2, 4), 1, tolerance=0.05),
    curved(aten._softmax.default, x(2, 3, 2), -2, False, tolerance=0.05),
    curved(aten.log_softmax.int, x(2, 4), -1, tolerance=0.05),
    curved(aten._log_softmax.default, x(2, 3, 2), 1, False, tolerance=0.05),
)

PRODUCTS = (
    curved(aten.mm.default, x(2, 3), x(3, 2), tolerance=0.07, rows=False),
    curved(aten.bmm.default, x(2, 2, 3), x(2, 3, 2), tolerance=0.05),
    curved(aten.matmul.default, x(2, 2, 3), x(2, 3, 2), tolerance=0.05),
    curved(aten.matmul.default, x(2, 1, 2, 3), x(2, 2, 3, 2), tolerance=0.05),
    curved(aten.baddbmm.default, k(2, 2, 2), x(2, 2, 3), x(2, 3, 2), beta=0.5, alpha=2, tolerance=0.05, rows=False),
    curved(aten.baddbmm.default, x(2, 2, 2), x(2, 2, 3), x(2, 3, 2), beta=0.5, alpha=2, tolerance=0.05),
    curved(aten.addmm.default, x(3, 2), x(3, 3), k(3, 2), rows=False, beta=2),
    curved(aten.addmm.default, x(2, 2), x(2, 3), x(3, 2), tolerance=0.05, rows=False, beta=2, alpha=0.5),
    curved(aten.addmv.default, x(2), x(2, 3), x(3), tolerance=0.05, rows=False, alpha=2),
    affine(aten.addmm.default, x(2), k(3, 3), k(3, 2), rows=False, beta=2, alpha=3),
    affine(aten.addmm.default, x(2, 2), k(2, 3), k(3, 2), rows=False),
    affine(aten.addmv.default, k(2), x(2, 3), k(3), rows=False, beta=2, alpha=3),
    affine(aten.addmv.default, x(2), x(2, 3), k(3), beta=2, alpha=3),
    affine(aten.bilinear.default, x(2, 3), k(2, 4), k(5, 3, 4), k(5), rows=False),
    affine(aten.bilinear.default, k(2, 3), x(2, 4), k(5, 3, 4), rows=False),
    curved(aten.bilinear.default, x(2, 3), x(2, 4), k(2, 3, 4), k(2), tolerance=0.15),
    curved(aten.cosine_similarity.default, x(2, 4), x(2, 4), tolerance=0.5),
    curved(aten.cosine_similarity.default, x(2, 3, 2), k(2, 3, 1), tolerance=0.27, rows=False),
    curved(aten.cosine_similarity.default, x(2, 3, 2), x(2, 3, 1), -1, tolerance=0.35),
)

ATTENTION = (
    curved(aten.scaled_dot_product_attention.default, *[x(2, 1, 3, 2)] * 3, tolerance=0.2),
    curved(aten.scaled_dot_product_attention.default, *[x(2, 1, 3, 2)] * 3, None, 0.0, True, tolerance=0.2),
    curved(aten.scaled_dot_product_attention.default, *[x(2, 1, 3, 2)] * 3, SEEN, scale=0.3, tolerance=0.1),
    curved(aten.scaled_dot_product_attention.default, x(2, 3, 2), x(2, 2, 2), x(2, 2, 4), BIAS, tolerance=0.12),
    curved(
        aten.scaled_dot_product_attention.default, x(2, 4, 2, 2), x(2, 2, 2, 2), x(2, 2, 2, 2), enable_gqa=True, tolerance=0.2
    ),
    curved(aten.scaled_dot_product_attention.default, x(2, 3, 2), k(3, 2), k(3, 4), tolerance=0.2),
    curved(aten.scaled_dot_product_attention.default, k(3, 2), x(2, 3, 2), k(3, 4), tolerance=0.2),
    affine(aten.scaled_dot_product_attention.default, k(1, 3, 2), k(1, 3, 2), x(2, 3, 4), SEEN),
)

NORMS = (
    curved(aten.layer_norm.default, x(2, 5), [5], k(5), k(5), tolerance=0.25),
    curved(aten.layer_norm.default, x(2, 3, 4), [3, 4], tolerance=0.1),
    curved(aten.native_layer_norm.default, x(2, 5), [5], k(5), None, 0.1, tolerance=0.15),
    curved(aten.rms_norm.default, x(2, 5), [5], k(5), 1e-3, tolerance=0.2),
    curved(aten.rms_norm.default, x(2, 3, 2), [3, 2], tolerance=0.15),
    curved(aten.group_norm.default, x(2, 4, 3), 2, k(4), k(4), tolerance=0.2),
    curved(aten.group_norm.default, x(2, 3, 2, 2), 1, None, None, 0.1, tolerance=0.1),
    curved(aten.instance_norm.default, x(2, 2, 5), k(2), k(2), None, None, True, 0.1, 1e-5, True, tolerance=0.15),
    affine(aten.instance_norm.default, x(2, 2, 3), k(2), k(2), k(2), k(2) ** 2, False, 0.1, 1e-5, True),
    curved(aten.var.correction, x(2, 5), [1]),
    curved(aten.var.correction, x(2, 3, 2), [-1, 1], correction=0, keepdim=True),
    curved(aten.var.correction, x(3, 2), rows=False),
    curved(aten.std.correction, x(2, 5), [1], tolerance=0.16),
    curved(aten.std.correction, x(2, 3, 2), [1], correction=0, keepdim=True, tolerance=0.3),
    curved(aten.var_mean.correction, x(2, 5), [1], correction=1),
    curved(aten.linalg_vector_norm.default, x(2, 5), 2, [1], True, tolerance=0.16),
    curved(aten.linalg_vector_norm.default, x(2, 3, 2), 2, [1, 2], tolerance=0.18),
    curved(aten.linalg_vector_norm.default, x(2, 5), 1, [1], tolerance=0.05),
    curved(aten.linalg_vector_norm.default, x(2, 5), float("inf"), [1], tolerance=0.3),
    curved(aten.linalg_vector_norm.default, x(2, 2), -float("inf"), [1], tolerance=0.45),
    curved(aten.prod.dim_int, x(2, 3), 1, tolerance=0.33),
    curved(aten.prod.dim_int, x(2, 2, 2), -2, True),
)

EXTREMES = (
    curved(aten.maximum.default, x(2, 5), x(2, 5)),
    curved(aten.maximum.default, x(2, 1), k(3)),
    curved(aten.maximum.default, x(2, 1, 2), x(2, 3, 1)),
    affine(aten.maximum.default, x(2, 3), TWICE),
    curved(aten.minimum.default, x(2, 5), x(2, 5)),
    curved(aten.minimum.default, k(3), x(2, 1)),
    affine(aten.minimum.default, x(2, 3), TWICE),
    curved(aten.fmax.default, x(2, 5), x(2, 5)),
    curved(aten.fmin.default, x(2, 5), k(5)),
    curved(aten.logaddexp.default, x(2, 5), x(2, 5)),
    curved(aten.logaddexp.default, x(2, 1), k(3)),
    curved(aten.clamp.Tensor, x(2, 5), -k(5).abs(), k(5).abs(), tolerance=0.2),
    curved(aten.clamp.Tensor, x(2, 5), None, k(5)),
    curved(aten.clamp.Tensor, x(2, 5), x(2, 5)),
    curved(aten.clamp_min.Tensor, x(2, 5), k(5)),
    curved(aten.clamp_max.Tensor, x(2, 5), k(5)),
    curved(aten.amax.default, x(2, 4), [1], tolerance=0.13),
    curved(aten.amax.default, x(2, 3, 2), [-1, 1], True, tolerance=0.15),
    curved(aten.amax.default, x(2, 3), [], rows=False, tolerance=0.18),
    curved(aten.amin.default, x(2, 7), [1], tolerance=0.15),
    curved(aten.max.dim, x(2, 3), 1, tolerance=0.05),
    curved(aten.max.dim, x(2, 2, 2), -1, True),
    curved(aten.min.dim, x(2, 3, 2), 1, tolerance=0.05),
    curved(aten.max.default, x(2, 2), rows=False, tolerance=0.14),
    curved(aten.min.default, x(2, 2), rows=False, tolerance=0.16),
    curved(aten.logsumexp.default, x(2, 4), [1], tolerance=0.08),
    curved(aten.logsumexp.default, x(2, 3, 2), [-1, 1], True, tolerance=0.1),
)

POWERS = (
    curved(aten.sqrt.default, positive(2, 5), tolerance=0.04),
    curved(aten.rsqrt.default, positive(2, 5), tolerance=0.09),
    curved(aten.reciprocal.default, positive(2, 5), tolerance=0.13),
    *(
        curved(op, positive(2, 5), tolerance=0.06)
        for op in (aten.log.default, aten.log2.default, aten.log10.default, aten.log1p.default)
    ),
    curved(aten.pow.Tensor_Scalar, positive(2, 5), 0.5, tolerance=0.04),
    curved(aten.pow.Tensor_Scalar, positive(2, 5), 1.5, tolerance=0.05),
    curved(aten.pow.Tensor_Scalar, positive(2, 5), -0.5, tolerance=0.09),
    curved(aten.pow.Tensor_Scalar, positive(2, 5), -1, tolerance=0.13),
    curved(aten.pow.Tensor_Scalar, positive(2, 5), -2, tolerance=0.3),
    curved(aten.pow.Tensor_Scalar, positive(2, 5), -3, tolerance=0.6),
    *(curved(aten.pow.Tensor_Scalar, x(2, 5), p) for p in (3, 4, 5.0)),
    affine(aten.pow.Tensor_Scalar, x(2, 5), 1),
    curved(aten.pow.Scalar, 1.5, x(2, 5)),
    curved(aten.pow.Tensor_Tensor, x(2, 5), torch.tensor(3.0, dtype=torch.float64)),
    curved(aten.pow.Tensor_Tensor, positive(2, 5), k(5), tolerance=0.04),
    curved(aten.pow.Tensor_Tensor, k(5).abs(), x(2, 5)),
    curved(aten.pow.Tensor_Tensor, positive(2, 1), x(2, 5), tolerance=0.6),
    curved(aten.div.Tensor, x(2, 5), positive(2, 5), tolerance=0.06),
    curved(aten.div.Tensor, x(2, 3, 4), positive(2, 1, 4), tolerance=0.06),
    curved(aten.div.Tensor, 2.0, positive(2, 5), tolerance=0.13),
)

CURVES = (
    *(
        curved(op, x(2, 5))
        for op in (
            aten.celu.default, aten.softshrink.default, aten.hardshrink.default, aten.sign.default, aten.erfc.default,
            aten.atan.default, aten.expm1.default, aten.exp2.default, aten.rrelu.default,
        )
    ),
    curved(aten.sinh.default, x(2, 5), tolerance=0.001),
    curved(aten.cosh.default, x(2, 5), tolerance=0.001),
    curved(aten.celu.default, x(2, 5), 0.3),
    curved(aten.hardshrink.default, x(2, 5), 0.2),
    curved(aten.threshold.default, x(2, 5), 0.3, -0.7),
    curved(aten.lerp.Tensor, x(2, 5), x(2, 5), x(2, 5), tolerance=0.15),
    curved(aten.lerp.Tensor, x(2, 5), k(5), x(2, 5), tolerance=0.2),
    affine(aten.lerp.Tensor, k(5), k(5) + 1, x(2, 5)),
    affine(aten.lerp.Tensor, x(2, 5), x(2, 5), k(5)),
    affine(aten.lerp.Scalar, x(2, 5), x(2, 5), 0.3),
    affine(aten.lerp.Scalar, k(2, 5), x(2, 5), 0.3, rows=False),
)  # fmt: skip

RESIZED = (
    affine(aten.upsample_linear1d.vec, x(2, 1, 3), None, False, [2.0]),
    affine(aten.upsample_linear1d.vec, x(2, 2, 3), [5], True, None),
    affine(aten.upsample_linear1d.default, x(2, 1, 5), [3], False, 0.7),
    affine(aten.upsample_bilinear2d.vec, x(2, 1, 2, 3), None, False, [2.0, 1.5]),
    affine(aten.upsample_bilinear2d.vec, x(2, 2, 3, 2), [2, 5], True, None),
    affine(aten.upsample_bilinear2d.default, x(2, 1, 3, 2), [2, 3], False, None, None),
    affine(aten.upsample_trilinear3d.vec, x(2, 1, 2, 3, 2), None, False, [1.0, 2.0, 1.5]),
    affine(aten.upsample_trilinear3d.default, x(2, 1, 2, 2, 2), [3, 1, 2], True),
    affine(aten.upsample_bicubic2d.vec, x(2, 1, 3, 4), [5, 6], False, None),
    affine(aten.upsample_bicubic2d.default, x(2, 1, 3, 4), [2, 6], True),
    affine(aten._upsample_bilinear2d_aa.vec, x(2, 1, 5, 4), [2, 3], False, None),
    affine(aten._upsample_bilinear2d_aa.default, x(2, 1, 5, 4), [2, 3], False),
    affine(aten._upsample_bicubic2d_aa.vec, x(2, 1, 5, 4), [3, 3], False, None),
    affine(aten._upsample_bicubic2d_aa.default, x(2, 1, 4, 5), [3, 2], False),
    affine(aten.upsample_nearest1d.vec, x(2, 2, 3), None, [2.0]),
    affine(aten.upsample_nearest3d.vec, x(2, 1, 2, 2, 2), [3, 4, 2], None),
    affine(aten.col2im.default, x(2, 4, 6), [3, 4], [2, 2], [1, 1], [0, 0], [1, 1]),
)

PLACED = (
    affine(aten.scatter.src, x(2, 4), 1, COLUMNS, x(2, 3), rows=False),
    affine(aten.scatter.src, k(2, 4), 1, COLUMNS, x(2, 2), rows=False),
    affine(aten.scatter.value, x(2, 4), 1, COLUMNS, 0.7, rows=False),
    affine(aten.scatter_add.default, x(2, 4), 1, COLUMNS, x(2, 3), rows=False),
    affine(aten.index_copy.default, x(2, 4), 1, INDEX[:2], x(2, 2)),
    affine(aten.index_add.default, x(2, 4, 2), 1, INDEX, x(2, 3, 2), alpha=-2),
    affine(aten.index_add.default, x(2, 4), 1, INDEX, k(2, 3), alpha=2, rows=False),
    affine(aten.index_add.default, k(2, 4), 1, INDEX, x(2, 3), alpha=2, rows=False),
    affine(aten.index_put.default, x(2, 4), [None, INDEX[:2]], x(2, 2)),
    affine(aten.index_put.default, x(2, 4), [None, INDEX], x(2, 3), True),
    affine(aten.index_put.default, x(2, 4), [None, MASK], torch.tensor(0.5, dtype=torch.float64)),
    affine(aten.index_put.default, k(2, 4), [torch.tensor([[0], [1]]), INDEX[:2]], x(2, 2), rows=False),
    affine(aten.diagonal_scatter.default, x(2, 3, 3), x(2, 2), 1, 1, 2),
    affine(aten.nan_to_num.default, x(2, 4)),
)

TABLE = (
    *LINEAR, *ARITHMETIC, *MOVES, *ELEMENTWISE, *POOLS, *SOFT, *PRODUCTS, *ATTENTION, *NORMS, *EXTREMES, *POWERS, *CURVES,
    *RESIZED, *PLACED,
)  # fmt: skip
