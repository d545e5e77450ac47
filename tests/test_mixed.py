"""Which players are enumerated: those that stand out, each target for itself, and nobody where players are tied."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dasp
from dasp.estimators.mixed import Mixed
from dasp.special import legendre


def test_the_largest_in_their_order_without_ties() -> None:
    steps = torch.tensor([[3.0, 1.0, 2.0, 0.5], [1.0, 1.0, 1.0, 0.0], [2.0, 5.0, 2.0, 0.0]])
    mixed = Mixed.largest(steps, 2, torch.ones(3))
    assert mixed.players[0].tolist() == [0, 2]
    assert mixed.held.sum(1).tolist() == [2, 0, 1]
    assert mixed.players[2][mixed.held[2]].tolist() == [1]
    assert Mixed.largest(steps, 4, torch.ones(3)).held.all()


def test_targets_that_agree_share_a_choice() -> None:
    steps = torch.tensor([[[3.0, 1.0, 2.0], [1.0, 3.0, 2.0], [9.0, 1.0, 0.0]]])
    groups = Mixed.by_target(steps, 1, torch.ones(1, 3))
    assert sorted(groups.values()) == [[0, 2], [1]]


def test_a_tie_up_to_rounding_of_what_steps_are_differences_of() -> None:
    steps = torch.tensor([[1.0, 1.0 + 1e-4, 0.1]])
    assert not Mixed.largest(steps, 1, torch.tensor([1e3])).held.any()
    assert Mixed.largest(steps, 1, torch.tensor([1.0])).held.all()


class Twins(nn.Module):
    """Players 0 and 1 are interchangeable, and lead."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(9, 12), nn.Tanh(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 2)).double()
        with torch.no_grad():
            self.layers[0].weight[:, 1] = self.layers[0].weight[:, 0]
            self.layers[0].weight[:, :2] *= 3

    def forward(self, x: Tensor) -> Any:
        return self.layers(x)


@pytest.mark.parametrize("mixture", [None, 1, 2, 3])
def test_equal_players_stay_equal(mixture: int | None) -> None:
    x = torch.linspace(-1, 1, 9, dtype=torch.float64).repeat(2, 1)
    x[:, :2] = 1.5
    values = dasp.Explainer(Twins(), method=dasp.Propagation(mixture=mixture))(x, 1).per_player[:, 0]
    torch.testing.assert_close(values[:, 0], values[:, 1], rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("mixture", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_equal_players_stay_equal_without_exact_ends(mixture: int, dtype: torch.dtype) -> None:
    x = torch.linspace(-1, 1, 9, dtype=dtype).repeat(2, 1)
    x[:, :2] = 1.5
    method = dasp.Propagation(mixture=mixture, rule="legendre", nodes=2)
    values = dasp.Explainer(Twins().to(dtype), method=method)(x, 1).per_player[:, 0]
    torch.testing.assert_close(values[:, 0], values[:, 1], rtol=1e-4 if dtype == torch.float32 else 1e-8, atol=1e-12)


def test_without_exact_ends_the_nodes_themselves_choose() -> None:
    x = torch.randn(3, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    options: dict[str, Any] = {"rule": "legendre", "nodes": 3}
    model = dasp.Model(Twins())
    alone = dasp.Explainer(model, method=dasp.Propagation(mixture=0, **options))(x, 0)
    result = dasp.Explainer(model, method=dasp.Propagation(mixture=2, **options))(x, 0)
    assert alone.evaluations == result.evaluations == 0
    assert (alone.propagations, result.propagations) == (3, 3 + 3 * 4)
    # Each row holds those whose values are largest while nobody is enumerated.
    for row in range(3):
        two = alone.per_player[row, 0].abs().topk(2).indices.sort().values
        expected = _by_hand(model, x[row], two.tolist(), **options)
        others = expected != 0
        assert int(others.sum()) == 7
        torch.testing.assert_close(result.per_player[row, 0, others], expected[others], rtol=1e-9, atol=1e-12)


def _by_hand(model: dasp.Model, x: Tensor, held: list[int], nodes: int, rule: str) -> Tensor:
    """Values of the others (0 at those held), by one propagation for each node and each state of those held."""
    total = torch.zeros_like(x)
    quadrature = legendre(nodes)
    for q, w in zip(quadrature.nodes, quadrature.weights, strict=True):
        at_q = {"method": dasp.Propagation(mixture=0, rule=rule, nodes=1), "semivalue": dasp.Banzhaf(q)}
        for state in itertools.product((0, 1), repeat=len(held)):
            baseline, row = torch.zeros_like(x), x.clone()
            baseline[held] = row[held] = x[held] * torch.tensor(state, dtype=x.dtype)
            chance = math.prod(q if present else 1 - q for present in state)
            total += w * chance * dasp.Explainer(model, baseline, **at_q)(row.unsqueeze(0), 0).per_player[0, 0]
    return total


def test_with_nobody_to_hold_it_is_as_without() -> None:
    x = torch.full((1, 9), 0.5, dtype=torch.float64)
    model = nn.Sequential(nn.Linear(9, 6), nn.Tanh(), nn.Linear(6, 1)).double()
    with torch.no_grad():
        model[0].weight[:] = model[0].weight[:, :1]  # all nine are equal
    options = {"nodes": 4, "rule": "lobatto", "rank": "full"}
    with_one = dasp.Explainer(model, method=dasp.Propagation(mixture=1, **options))(x).values
    without = dasp.Explainer(model, method=dasp.Propagation(mixture=0, **options))(x).values
    torch.testing.assert_close(with_one, without, rtol=1e-10, atol=1e-13)


def test_a_row_and_a_target_are_as_alone() -> None:
    x = torch.randn(4, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    explainer = dasp.Explainer(Twins())
    together = explainer(x, [0, 1]).per_player
    for row in range(4):
        for target in range(2):
            alone = explainer(x[row : row + 1], target).per_player[0, 0]
            torch.testing.assert_close(together[row, target], alone, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("n", [1, 3, 5, 8, pytest.param(13, marks=pytest.mark.long)])
@pytest.mark.parametrize("semivalue", [None, dasp.Banzhaf(0.3), dasp.BetaShapley(0.5, 4)], ids=str)
def test_nodes_are_enough_where_everybody_is_enumerated(n: int, semivalue: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(n, 32), nn.LayerNorm(32), nn.ReLU(), nn.Linear(32, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 1)
    )
    rows = torch.randn(2, n)
    for dtype, most in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        x, same = rows.to(dtype), dasp.Model(model.to(dtype))
        exact = dasp.Explainer(same, 0.0, method=dasp.Exact(), semivalue=semivalue)(x).per_player.double()
        for options in ({}, {"rule": "legendre"}):
            found = dasp.Explainer(same, 0.0, method=dasp.Propagation(mixture=n, **options), semivalue=semivalue)(x)
            assert ((found.per_player.double() - exact).norm(dim=-1) / exact.norm(dim=-1)).max() < most
    if n == 13:  # what was asked for is taken, though it is not enough
        few = dasp.Explainer(same, 0.0, method=dasp.Propagation(mixture=n, nodes=1), semivalue=semivalue)(x)
        assert few.settings["nodes"] == 1
        far = ((few.per_player - exact).norm(dim=-1) / exact.norm(dim=-1)).min()
        assert far < 1e-5 if isinstance(semivalue, dasp.Banzhaf) else far > 1e-3


@pytest.mark.parametrize("network", ["relu", "norm", "attention"])
def test_enumerating_everybody_is_exact(network: str) -> None:
    torch.manual_seed(2)
    models = {
        "relu": nn.Sequential(nn.Linear(9, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 1)),
        "norm": nn.Sequential(nn.Linear(9, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 1)),
        "attention": nn.Sequential(
            nn.Unflatten(1, (3, 3)), nn.Linear(3, 8), nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True),
            nn.Flatten(), nn.Linear(24, 1),
        ),
    }  # fmt: skip
    x = torch.randn(3, 9)
    model = dasp.Model(models[network])
    exact = dasp.Explainer(model, 0.0, method=dasp.Exact())(x).per_player.double()
    # Five nodes integrate the polynomials of degree 8 that the multilinear extension of nine players has along the diagonal.
    for rule in ("legendre", "lobatto"):
        nodes = 5 if rule == "legendre" else 6
        every = dasp.Propagation(mixture=9, nodes=nodes, rule=rule)
        found = dasp.Explainer(model, 0.0, method=every)(x).per_player.double()
        assert ((found - exact).norm(dim=-1) / exact.norm(dim=-1)).max() < 1e-5
