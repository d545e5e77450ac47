"""The published estimator, against its formulas written out by hand, one player, size and unit at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dasp
from dasp.estimators.directions import SAMPLES_PER_DIRECTION
from dasp.gaussian import Owned
from dasp.rules import RULES, LinearRule
from dasp.size_law import Shared, SizeLaw

# The reference: float64, dense matrices, no library code.


def first_layer(layer: nn.Module, shape: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """The first layer as a matrix (units, elements), its bias (units,), and which elements each unit sees."""
    size = math.prod(shape)
    basis = torch.eye(size, dtype=torch.float64).reshape(size, *shape)
    bias = layer(torch.zeros(1, *shape, dtype=torch.float64)).flatten()
    matrix = layer(basis).flatten(1).T - bias[:, None]
    ones = [p.clone() for p in layer.parameters()]
    with torch.no_grad():
        for p in layer.parameters():
            p.fill_(1.0)
        seen = (layer(basis) - layer(torch.zeros_like(basis))).flatten(1).T > 0.5
        for p, before in zip(layer.parameters(), ones, strict=True):
            p.copy_(before)
    return matrix.detach(), bias.detach(), seen


def relu_moments(mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
    """First and second central moment of max(0, X), from the raw moments of a rectified normal."""
    s = var.sqrt().clamp(min=1e-300)
    a = mean / s
    above, density = torch.special.ndtr(a), torch.exp(-a * a / 2) / math.sqrt(2 * math.pi)
    first = mean * above + s * density
    second = (mean * mean + var) * above + mean * s * density
    return first.where(var > 0, mean.clamp(min=0)), (second - first * first).clamp(min=0).where(var > 0, 0 * var)


@torch.no_grad()
def reference(model: nn.Sequential, x: Tensor, baseline: Tensor, labels: Tensor, sizes: int, target: int) -> Tensor:
    """Ancona et al. 2019: first linear layer, ReLU, and a chain of Linear and ReLU; one input (*shape)."""
    matrix, bias, seen = first_layer(model[0], x.shape)
    n = int(labels.max()) + 1
    step, owner = (x - baseline).flatten(), labels.flatten()
    start = matrix @ baseline.flatten() + bias
    values = torch.zeros(n, dtype=torch.float64)
    adds = torch.stack([matrix[:, owner == g] @ step[owner == g] for g in range(n)], 1).tolist()  # unit by player
    sees = torch.stack([seen[:, owner == g].any(1) for g in range(n)], 1).tolist()
    for i in range(n):
        for place in range(sizes):
            k = (place + 0.5) * n / sizes - 0.5
            mean, var = start.clone(), torch.zeros_like(start)
            for unit in range(len(matrix)):
                others = [adds[unit][g] for g in range(n) if g != i and sees[unit][g]]
                c = len(others)
                j = k * c / (n - 1)
                if c > 0:
                    mean[unit] += j * sum(others) / c
                if c > 1:
                    spread = sum(d * d for d in others) / c - (sum(others) / c) ** 2
                    var[unit] = max(0.0, j * spread * (1 - (j - 1) / (c - 1)))
            joined = mean + matrix[:, owner == i] @ step[owner == i]
            outputs = []
            for m in (mean, joined):
                m, v = relu_moments(m, var)
                for layer in model[1:]:
                    if isinstance(layer, nn.Linear):
                        m, v = layer.weight @ m + layer.bias, layer.weight.square() @ v
                    elif isinstance(layer, nn.ReLU) and layer is not model[1]:
                        m, v = relu_moments(m, v)
                outputs.append(float(m[target]))
            values[i] += (outputs[1] - outputs[0]) / sizes
    return values


LAYERS: dict[str, tuple[tuple[int, ...], Any]] = {
    "dense": ((7,), lambda: nn.Linear(7, 9)),
    "dense without bias": ((7,), lambda: nn.Linear(7, 9, bias=False)),
    "conv1d": ((2, 9), lambda: nn.Conv1d(2, 3, 3, stride=2, padding=1)),
    "conv1d dilated": ((2, 9), lambda: nn.Conv1d(2, 3, 3, dilation=2, bias=False)),
    "conv2d": ((1, 4, 6), lambda: nn.Conv2d(1, 3, (2, 3), padding=(1, 0))),
    "conv2d strided, not square": ((2, 3, 5), lambda: nn.Conv2d(2, 4, 2, stride=(1, 2), padding=1, groups=2)),
    "conv3d": ((1, 2, 3, 3), lambda: nn.Conv3d(1, 2, 2, padding=1)),
}


def network(name: str) -> tuple[nn.Sequential, tuple[int, ...]]:
    torch.manual_seed(len(name))
    shape, build = LAYERS[name]
    first = build().double()
    units = first(torch.zeros(1, *shape, dtype=torch.float64)).numel()
    rest = [nn.Linear(units, 8), nn.ReLU(), nn.Linear(8, 3)]
    return nn.Sequential(first, nn.ReLU(), nn.Flatten(), *rest).double().eval(), shape


@cache
def captured(name: str) -> tuple[dasp.Model, nn.Sequential, tuple[int, ...]]:
    """A network that is captured once for many tests, itself, and the shape of its rows."""
    model, shape = network(name)
    return dasp.Model(model), model, shape


def inputs(shape: Sequence[int], rows: int = 2) -> Tensor:
    return torch.randn(rows, *shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


@pytest.mark.parametrize("sizes", [1, 3, "n"])
@pytest.mark.parametrize("name", LAYERS)
def test_the_published_formulas(name: str, sizes: int | str) -> None:
    once, model, shape = captured(name)
    x = inputs(shape)
    baseline = torch.linspace(-0.3, 0.4, math.prod(shape), dtype=torch.float64).reshape(shape)
    labels = torch.arange(math.prod(shape)).reshape(shape)
    count = math.prod(shape) if sizes == "n" else int(sizes)
    found = dasp.Explainer(once, baseline, method=dasp.DASP(sizes=count))(x, 1)
    expected = torch.stack([reference(model, row, baseline, labels, count, 1) for row in x])
    torch.testing.assert_close(found.per_player[:, 0], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["dense", "conv1d", "conv2d"])
def test_the_published_formulas_for_groups(name: str) -> None:
    model, shape = network(name)
    x = inputs(shape)
    labels = (torch.arange(math.prod(shape)) * 5 // math.prod(shape)).reshape(shape)
    found = dasp.Explainer(model, 0.0, method=dasp.DASP(sizes=5), players=labels)(x, 2)
    expected = torch.stack([reference(model, row, 0 * row, labels, 5, 2) for row in x])
    torch.testing.assert_close(found.per_player[:, 0], expected, rtol=1e-6, atol=1e-6)


def test_single_precision_follows() -> None:
    model, shape = network("conv2d")
    x = inputs(shape)
    double = dasp.Explainer(model, 0.0, method=dasp.DASP(sizes=6))(x, 1).per_player
    single = dasp.Explainer(model.float(), 0.0, method=dasp.DASP(sizes=6))(x.float(), 1).per_player
    assert single.dtype is torch.float32
    torch.testing.assert_close(single.double(), double, rtol=1e-3, atol=1e-5)


# The law itself, against every coalition of a size.


def law_of(n: int, k: int, player: int, rank: str | Tensor | None, samples: int = 1) -> SizeLaw:
    sizes = torch.tensor([float(k)], dtype=torch.float64)
    chosen = torch.tensor([player])
    return SizeLaw(chosen, sizes, samples=samples, count=n, grouped=False, rank=rank, shared=Shared(), memory=2**30)


def enumerated(off: Tensor, on: Tensor, matrix: Tensor, k: int, player: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean without and with the player (2, *out), and covariance (out, out), over all coalitions of k others."""
    n = len(off)
    means, covs = [], []
    for joined in (False, True):
        results = []
        for chosen in combinations([g for g in range(n) if g != player], k):
            z = torch.zeros(n, dtype=torch.float64)
            z[list(chosen)] = 1
            z[player] = float(joined)
            results.append(matrix @ (off + z * (on - off)))
        stacked = torch.stack(results)
        means.append(stacked.mean(0))
        centred = stacked - stacked.mean(0)
        covs.append(centred.T @ centred / len(stacked))
    torch.testing.assert_close(covs[0], covs[1])
    return torch.stack(means), covs[0], torch.diagonal(covs[0])


@pytest.mark.parametrize("k", [0, 1, 3, 5])
def test_factors_hold_the_exact_covariance(k: int) -> None:
    n, player = 6, 2
    generator = torch.Generator().manual_seed(1)
    off, on = torch.randn(2, n, generator=generator, dtype=torch.float64)
    matrix = torch.randn(4, n, generator=generator, dtype=torch.float64)
    means, covariance, variance = enumerated(off, on, matrix, k, player)
    rule = RULES.find(torch.ops.aten.linear.default)
    assert isinstance(rule, LinearRule)
    assert rule.build is not None
    linear = rule.build([None, matrix], {}, 0)
    owned = Owned(off.expand(2, -1), on.expand(2, -1), torch.arange(1, n + 1), 0)
    found = law_of(n, k, player, "full").meet(owned, linear, 0)
    assert found.factors is not None
    torch.testing.assert_close(found.mean, means)
    for state in range(2):
        torch.testing.assert_close(found.factors[:, state].T @ found.factors[:, state], covariance)
    directions = torch.linalg.qr(torch.randn(n, 3, generator=generator, dtype=torch.float64)).Q[None]
    some = law_of(n, k, player, directions).meet(owned, linear, 0)
    torch.testing.assert_close(some.var, variance.expand(2, -1))
    torch.testing.assert_close(some.mean, means)
    assert float(some.rest.min()) >= 0
    basis = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64)).Q[None]
    whole = law_of(n, k, player, basis).meet(owned, linear, 0)
    assert whole.factors is not None
    for state in range(2):  # directions that span everything hold the same covariance
        torch.testing.assert_close(whole.factors[:, state].T @ whole.factors[:, state], covariance)
    own = law_of(n, k, player, "full").moments(owned)
    means, covariance, variance = enumerated(off, on, torch.eye(n, dtype=torch.float64), k, player)
    assert own.factors is not None
    torch.testing.assert_close(own.mean, means)
    torch.testing.assert_close(own.factors[:, 1].T @ own.factors[:, 1] + torch.diag(own.rest[1]), covariance)
    plain = law_of(n, k, player, None).moments(owned)
    torch.testing.assert_close(plain.var, variance.expand(2, -1))
    ranked = law_of(n, k, player, directions).moments(owned)
    torch.testing.assert_close(ranked.var, variance.expand(2, -1))
    spanned = law_of(n, k, player, basis).moments(owned)
    assert spanned.factors is not None
    torch.testing.assert_close(spanned.factors[:, 1].T @ spanned.factors[:, 1] + torch.diag(spanned.rest[1]), covariance)


# What holds for any estimator.


@pytest.mark.parametrize("rank", [0, 2, "full"])
def test_linear_networks_are_exact(rank: int | str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 2)).double()
    x = inputs((5,))
    found = dasp.Explainer(model, 0.2, method=dasp.DASP(sizes=3, rank=rank))(x, 1)
    exact = dasp.Explainer(model, 0.2, method=dasp.Exact())(x, 1)
    torch.testing.assert_close(found.per_player, exact.per_player)


@pytest.mark.parametrize("rank", [0, 4, "full"])
def test_the_same_in_parts_as_at_once(rank: int | str) -> None:
    model, _, shape = captured("conv2d")
    x = inputs(shape, 5)
    large = dasp.Explainer(model, 0.0, method=dasp.DASP(sizes=6, rank=rank))(x, [0, 2])
    small = dasp.Explainer(model, 0.0, method=dasp.DASP(sizes=6, rank=rank), memory=400_000)(x, [0, 2])
    assert small.settings["players_at_once"] < large.settings["players_at_once"]
    torch.testing.assert_close(small.values, large.values, rtol=1e-9, atol=1e-12)
    alone = dasp.Explainer(model, 0.0, method=dasp.DASP(sizes=6, rank=rank))(x[3:4], [0, 2])
    torch.testing.assert_close(alone.per_player[0, 1], large.per_player[3, 1], rtol=1e-9, atol=1e-12)
    assert large.propagations == 2 * 24 * 6


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("name", ["dense", "conv1d"])
def test_as_many_directions_as_players_are_full_rank(name: str, grouped: bool) -> None:
    model, _, shape = captured(name)
    x = inputs(shape)
    labels = (torch.arange(math.prod(shape)) * 5 // math.prod(shape)).reshape(shape) if grouped else None
    full, ranked, plain = (
        dasp.Explainer(model, 0.0, method=dasp.DASP(sizes=5, rank=rank), players=labels)(x, 1) for rank in ("full", 99, 0)
    )
    torch.testing.assert_close(ranked.per_player, full.per_player, rtol=1e-6, atol=1e-8)
    assert float((full.per_player - plain.per_player).norm() / plain.per_player.norm()) > 0.01  # factors do something
    assert ranked.settings["rank"] == full.per_player.shape[2]  # what was taken, not what was asked for
    assert ranked.evaluations == SAMPLES_PER_DIRECTION * full.per_player.shape[2]


class Signs(nn.Module):
    """Truth values of the input where players meet, summed and in a product."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.mix = nn.Linear(4, 4).double()

    def forward(self, x: Tensor) -> Any:
        return (self.mix(x) * (x > 0)).sum(1) + (x > 0.5).sum(1)


@pytest.mark.parametrize("rank", [0, 2, "full"])
def test_truth_values_are_numbers(rank: int | str) -> None:
    x = inputs((4,))
    exact = dasp.Explainer(Signs(), 0.0, method=dasp.Exact())(x)
    found = dasp.Explainer(Signs(), 0.0, method=dasp.DASP(sizes=4, rank=rank))(x)
    assert float((found.values - exact.values).norm() / exact.values.norm()) < 0.25


class Residual(nn.Module):
    """Players meet in a convolution, and each goes around it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.mix = nn.Conv1d(1, 1, 3, padding=1).double()
        self.head = nn.Linear(8, 2).double()

    def forward(self, x: Tensor, y: Tensor) -> Any:
        return self.head(torch.cat((torch.relu(self.mix(x) + x).flatten(1), torch.tanh(y)), 1))


@pytest.mark.parametrize("rank", [0, "full"])
def test_residual_network_with_two_inputs(rank: int | str) -> None:
    model = Residual()
    x, y = inputs((1, 5)), inputs((3,))
    exact = dasp.Explainer(model, 0.0, method=dasp.Exact())((x, y), 1)
    found = dasp.Explainer(model, 0.0, method=dasp.DASP(sizes=8, rank=rank))((x, y), 1)
    error = (found.per_player - exact.per_player).norm() / exact.per_player.norm()
    assert float(error) < 0.08


def test_players_that_do_not_differ_get_nothing() -> None:
    model, shape = network("dense")
    x = inputs(shape)
    x[:, 3] = 0
    x[1] = 0
    x[1, 2] = 1.5
    found = dasp.Explainer(model, 0.0, method=dasp.DASP(sizes=7))(x, 1)
    assert float(found.per_player[:, :, 3].abs().max()) == 0
    assert int((found.per_player[1] != 0).sum()) == 1
    torch.testing.assert_close(found.per_player[1].sum(), found.output[1] - found.base_value[1])  # nobody to mix with


def test_one_player_alone() -> None:
    model, shape = network("dense")
    x = inputs(shape)
    found = dasp.Explainer(model, 0.0, method=dasp.DASP(), players=torch.zeros(shape, dtype=torch.long))(x, 0)
    torch.testing.assert_close(found.per_player[:, 0, 0], found.output - found.base_value)
    assert found.settings["sizes"] == 1


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"sizes": 0}, dasp.InputError, "at least 1"),
        ({"sizes": 2.5}, dasp.InputTypeError, "expected an int"),
        ({"sizes": True}, dasp.InputTypeError, "expected an int"),
        ({"rank": "most"}, dasp.InputError, "rank is a number"),
        ({"rank": -1}, dasp.InputError, "rank is a number"),
        ({"seed": -1}, dasp.InputError, "seed"),
    ],
)
def test_wrong_options(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        dasp.DASP(**options)


def test_more_sizes_than_players() -> None:
    model, shape = network("dense")
    with pytest.raises(dasp.InputError, match="7 players"):
        dasp.Explainer(model, 0.0, method=dasp.DASP(sizes=8))(inputs(shape), 1)


def test_no_memory() -> None:
    model, shape = network("dense")
    with pytest.raises(dasp.MemoryBoundError, match="Raise memory="):
        dasp.Explainer(model, 0.0, method=dasp.DASP(sizes=7), memory=100)(inputs(shape), 1)


class Huge(nn.Module):
    def forward(self, x: Tensor) -> Any:
        return (x @ torch.ones(4, 4) * 1e38).relu() * 1e-30


def test_overflow_is_named() -> None:
    with pytest.raises(dasp.DaspError, match="finite"):
        dasp.Explainer(Huge(), 0.0, method=dasp.DASP(sizes=2))(torch.tensor([[0.1, 0.2, 0.3, -0.2]]), 0)


def test_overflow_that_a_later_layer_hides_is_named() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))
    rows = torch.linspace(-1, 1, 12).reshape(2, 6) * 1e20
    with pytest.raises(dasp.NumericsError, match=r"variance of aten.linear.default \(layer 0\) is not finite"):
        dasp.Explainer(model, 0.0, method=dasp.DASP())(rows)
