"""Every registered rule, one line each or more, against an oracle that knows nothing of it.

Affine operations: against their matrix, read off unit vectors. All others: against Monte Carlo in float64, within six
standard errors of the samples; approximate rules within that and their tolerance. The table is in `rule_rows`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from dasp.errors import InputError
from dasp.gaussian import Gaussian
from dasp.rules import RULES, Context

from .rule_rows import TABLE, TWICE, Row, X

aten = torch.ops.aten

FACTORS = 3
SAMPLES = 40_000
VARIANCES = (1.0, 0.0, 0.3, 4.0, 1e-4)  # of the elements of one value, in turn
WITHOUT_MOMENTS = {aten.embedding.default}  # they look integers up, and refuse random ones
MODERATE = (0.5, 0.2, 0.0, 0.8, 0.4)


@dataclass(frozen=True)
class Plain:
    """A law under which nonlinearities condition on nobody."""

    conditioned: bool = False
    factor_presence: Tensor | None = None


every_row = pytest.mark.parametrize("row", [pytest.param(r, id=r.name) for r in TABLE])


def test_every_registered_rule_has_a_row() -> None:
    missing = set(RULES.ops()) - {row.op for row in TABLE} - WITHOUT_MOMENTS
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


def plain(row: Row, values: list[Tensor], count: int | None = None) -> list[Tensor]:
    """The operation itself, without what its rule does not give (indices, saved statistics): it gives `count` results."""
    results = listed(row.op(*filled(row, values), **row.kwargs))
    count = len(moments(row, [deterministic(v) for v in values])) if count is None else count
    return [r for r in results if r.is_floating_point()][:count]


def moments(row: Row, values: list[Gaussian]) -> list[Gaussian]:
    rule = RULES.find(row.op)
    assert rule is not None
    args = filled(row, values)
    lists = [a if isinstance(a, list) else [a] for a in args]
    random = [i for i, several in enumerate(lists) if any(isinstance(a, Gaussian) for a in several)]
    assert rule.accepts(random, args, row.kwargs)
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
        mean = mean.abs() + place.above if place.above else mean
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


def sampled(row: Row, values: list[Gaussian], seed: int = 1) -> tuple[list[Tensor], Tensor]:
    """Results (SAMPLES, *out) each, and the factors (SAMPLES, R) that they came from."""
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(SAMPLES, FACTORS, generator=g, dtype=torch.float64)
    draws = []
    for v in values:
        noise = torch.randn(SAMPLES, *v.mean.shape, generator=g, dtype=torch.float64)
        draws.append(v.mean + torch.tensordot(z, torch.as_tensor(v.factors), 1) + v.rest.sqrt() * noise)
    if row.rows:
        results = plain(row, [d.flatten(0, 1) for d in draws])
        return [out.reshape(SAMPLES, -1, *out.shape[1:]) for out in results], z
    count = len(moments(row, values))
    rows = [plain(row, list(d), count) for d in zip(*draws, strict=True)]
    return [torch.stack(out) for out in zip(*rows, strict=True)], z


def compare(found: Tensor, samples: Tensor, allowed: Tensor | float) -> None:
    """Within six standard errors of the mean of samples (SAMPLES, ...), and what is allowed."""
    error = samples.std(0) / SAMPLES**0.5
    close(found, samples.mean(0), 6 * error + allowed + 1e-6)


@pytest.mark.parametrize("row", [pytest.param(r, id=r.name) for r in TABLE if not r.affine])
def test_curved_rules_agree_with_monte_carlo(row: Row) -> None:
    values = draw(row, variances=MODERATE if row.tolerance else VARIANCES)
    several, z = sampled(row, values)
    for result, samples in zip(moments(row, values), several, strict=True):
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
        results = moments(row, [Gaussian(*triple) for triple in triples])
        return tuple(p for result in results for p in (result.mean, result.var))

    leaves = [p.clone().requires_grad_() for v in values for p in parts(v)]
    assert torch.autograd.gradcheck(f, leaves, fast_mode=True, atol=1e-4)


@every_row
def test_gradients_are_finite_without_variance(row: Row) -> None:
    values = draw(row, variances=(0.0, 1.0))
    leaves = [p.clone().requires_grad_() for v in values for p in parts(v)]
    triples = zip(leaves[::3], leaves[1::3], leaves[2::3], strict=True)
    results = moments(row, [Gaussian(*triple) for triple in triples])
    total = torch.stack([r.mean.sum() + r.var.sum() for r in results]).sum() + 0 * leaves[0].sum()
    for gradient in torch.autograd.grad(total, leaves, allow_unused=True):
        assert gradient is None or gradient.isfinite().all()


@every_row
def test_without_factors_the_rests_are_all_the_variance(row: Row) -> None:
    values = [replace(v, factors=torch.zeros_like(torch.as_tensor(v.factors))) for v in draw(row)]
    bare = [replace(v, factors=None) for v in values]
    for result, other in zip(moments(row, values), moments(row, bare), strict=True):
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
        one = slice(b, b + 1)
        one_row = [Gaussian(v.mean[one], torch.as_tensor(v.factors)[:, one], v.rest[one]) for v in values]
        alone = moments(row, one_row)
        for single, every in zip(alone, together, strict=True):
            close(single.mean, every.mean[one], 1e-12)
            close(single.var, every.var[one], 1e-12)


# Conditioning on the player that dominates an element --------------------------------------------------------------


@pytest.mark.parametrize(
    "row", [pytest.param(r, id=r.name) for r in TABLE if r.op in (aten.relu.default, aten.tanh.default)]
)
def test_conditioned_rules_mix_the_two_states_of_the_dominant_player(row: Row) -> None:
    """The dominant factor stands for a player, present with probability q; the others are Gaussian."""
    (value,) = draw(row, variances=(1.0, 0.3, 2.0))
    g = torch.Generator().manual_seed(4)
    presence = 0.1 + 0.8 * torch.rand(FACTORS, value.mean.shape[0], generator=g, dtype=torch.float64)
    rule = RULES.find(row.op)
    assert rule is not None
    result = rule.apply(Context(Plain(True, presence), 0), value)
    factors = torch.as_tensor(value.factors)
    q = presence.unsqueeze(-1).expand_as(factors)
    uniform = torch.rand(SAMPLES, *factors.shape[:2], 1, generator=g, dtype=torch.float64)
    player = ((uniform < q).double() - q) / (q * (1 - q)).sqrt()
    dominant = torch.arange(FACTORS).reshape(-1, 1, 1) == factors.square().argmax(0)
    z = torch.where(dominant, player, torch.randn(SAMPLES, *factors.shape, generator=g, dtype=torch.float64))
    noise = torch.randn(SAMPLES, *value.mean.shape, generator=g, dtype=torch.float64)
    samples = row.op(value.mean + (z * factors).sum(1) + value.rest.sqrt() * noise)
    centred = samples - samples.mean(0)
    compare(result.mean, samples, 0.0)
    compare(result.var, centred.square(), 0.0)
    for r in range(FACTORS):
        compare(result.factors[r], centred * z[:, r], 0.01 * samples.std(0))


def test_a_dominant_player_alone_is_exact() -> None:
    """Two states are two states, whatever the function."""
    off, on, q = torch.tensor([[-1.0, 2.0]]).double(), torch.tensor([[3.0, -0.5]]).double(), 0.3
    load = (q * (1 - q)) ** 0.5 * (on - off)
    value = Gaussian(off + q * (on - off), load.unsqueeze(0), torch.zeros_like(off))
    rule = RULES.find(aten.relu.default)
    assert rule is not None
    result = rule.apply(Context(Plain(True, torch.tensor([[q]], dtype=torch.float64)), 0), value)
    close(result.mean, q * on.relu() + (1 - q) * off.relu())
    close(result.var, q * (1 - q) * (on.relu() - off.relu()).square())


def test_an_operation_is_registered_once() -> None:
    rule = RULES.find(aten.relu.default)
    assert rule is not None
    with pytest.raises(InputError, match=r"aten\.relu\.default has a moment rule already"):
        RULES.add(rule)
