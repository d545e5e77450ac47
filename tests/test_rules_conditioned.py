"""Where factors are players: rules know both states of the player that dominates, and products of two states are exact.

Against Monte Carlo with players that are present or absent. One of them moves the arguments most, the others less.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dasp.gaussian import Gaussian
from dasp.rules import RULES, Context

from .rule_rows import TABLE, Row
from .test_rules import FACTORS, Plain, draw, filled, listed, plain

aten = torch.ops.aten

SAMPLES = 20_000
NOISE = 0.03  # of the samples, in the largest standard deviation of a result
EXACT = frozenset(
    {aten.mul.Tensor, aten.square.default, aten.bmm.default, aten.matmul.default, aten.baddbmm.default, aten.bilinear.default,
     aten.var.correction, aten.var_mean.correction, aten.lerp.Tensor}
)  # fmt: skip
"""Means and loadings are exact for players; of products of three, of two."""
HARD = {  # the largest errors measured, in standard deviations, where they are above 0.2
    aten.max_pool2d.default: 0.35, aten.max_pool3d_with_indices.default: 0.3, aten.adaptive_max_pool2d.default: 0.3,
    aten.cosine_similarity.default: 0.45, aten.scaled_dot_product_attention.default: 0.4, aten.amax.default: 0.4,
    aten.linalg_vector_norm.default: 0.35, aten.prod.dim_int: 0.3, aten.amin.default: 0.3, aten.max.dim: 0.3,
    aten.pow.Tensor_Scalar: 0.35, aten.pow.Tensor_Tensor: 0.35,
}  # fmt: skip

CURVED = [row for row in TABLE if not row.affine and row.rows]


def players(row: Row) -> tuple[list[Gaussian], Tensor]:
    """Arguments that depend on players, the first of them most, and the probabilities (R, rows) that they are present."""
    g = torch.Generator().manual_seed(7)
    values = []
    for value in draw(row, variances=(0.5, 0.3, 0.8)):
        weight = torch.tensor([2.0, 1.0, 1.0], dtype=torch.float64).reshape(-1, *[1] * value.mean.dim())
        values.append(Gaussian(value.mean, torch.as_tensor(value.factors) * weight, 0.2 * value.rest))
    return values, 0.15 + 0.7 * torch.rand(FACTORS, values[0].mean.shape[0], generator=g, dtype=torch.float64)


def sampled(row: Row, values: list[Gaussian], q: Tensor) -> tuple[list[Tensor], Tensor]:
    """Results (SAMPLES, rows, *out), and the players' factors (SAMPLES, R, rows)."""
    g = torch.Generator().manual_seed(8)
    present = torch.rand(SAMPLES, *q.shape, generator=g, dtype=torch.float64) < q
    z = (present.double() - q) / (q * (1 - q)).sqrt()
    draws = []
    for v in values:
        noise = torch.randn(SAMPLES, *v.mean.shape, generator=g, dtype=torch.float64)
        draws.append(v.mean + torch.einsum("srb,rb...->sb...", z, torch.as_tensor(v.factors)) + v.rest.sqrt() * noise)
    results = plain(row, [d.flatten(0, 1) for d in draws])
    return [out.reshape(SAMPLES, -1, *out.shape[1:]) for out in results], z


def errors(row: Row, values: list[Gaussian], law: Plain, truth: tuple[list[Tensor], Tensor]) -> tuple[float, float]:
    """Largest error of means and loadings, and of variances, in standard deviations and variances of a result."""
    rule = RULES.find(row.op)
    assert rule is not None
    results = listed(rule.apply(Context(law, 0), *filled(row, values), **row.kwargs))
    worst = worst_var = 0.0
    for result, samples in zip(results, truth[0], strict=True):
        centred, deviation = samples - samples.mean(0), float(samples.std(0).max())
        loadings = torch.einsum("srb,sb...->rb...", truth[1], centred) / SAMPLES
        first = max(float((result.mean - samples.mean(0)).abs().max()), float((result.factors - loadings).abs().max()))
        worst = max(worst, first / deviation)
        worst_var = max(worst_var, float((result.var - samples.var(0)).abs().max()) / deviation**2)
    return worst, worst_var


@pytest.mark.parametrize("row", [pytest.param(r, id=r.name) for r in CURVED])
def test_two_states_of_a_player_are_nearer_than_a_gaussian(row: Row) -> None:
    values, q = players(row)
    truth = sampled(row, values, q)
    found, var = errors(row, values, Plain(True, q), truth)
    without, _ = errors(row, values, Plain(), truth)
    assert found < without + NOISE or row.op is aten.cosine_similarity.default
    assert found < (NOISE if row.op in EXACT else HARD.get(row.op, 0.2))
    assert var < 0.8
