"""What could go wrong without a word: stale graphs and plans, numbers that are not finite, memory, tiny games."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dasp
from dasp.memory import peak_bytes


def error(model: nn.Module, x: Tensor, extra: Any = None, **options: Any) -> float:
    exact = dasp.Explainer(model, method=dasp.Exact())(x, additional_forward_args=extra).per_player
    found = dasp.Explainer(model, method=dasp.Propagation(**options))(x, additional_forward_args=extra).per_player
    return float((found - exact).norm() / exact.norm())


class Picked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(7, 7), nn.Linear(7, 1)
        self.order = nn.Buffer(torch.arange(7))

    def forward(self, x: Tensor, index: Tensor | None = None) -> Any:
        return self.last(torch.tanh(self.first(x.index_select(1, self.order if index is None else index))))


def test_owners_follow_an_index_that_is_an_argument() -> None:
    torch.manual_seed(0)
    model, x = Picked(), torch.randn(2, 7)
    explainer, exact = dasp.Explainer(model), dasp.Explainer(model, method=dasp.Exact())
    for index in (torch.arange(7), torch.tensor([6, 0, 1, 2, 5, 4, 3])):
        truth = exact(x, additional_forward_args=index).per_player
        found = explainer(x, additional_forward_args=index).per_player
        assert (found - truth).norm() < 0.02 * truth.norm()


def test_owners_follow_an_index_that_is_a_buffer_changed_in_place() -> None:
    torch.manual_seed(0)
    model, x = Picked(), torch.randn(2, 7)
    explainer = dasp.Explainer(model)
    explainer(x)
    model.order.copy_(torch.tensor([6, 0, 1, 2, 5, 4, 3]))
    truth = dasp.Explainer(model, method=dasp.Exact())(x).per_player
    assert (explainer(x).per_player - truth).norm() < 0.02 * truth.norm()


class Scaled(nn.Module):
    """Its scale is no parameter, so a graph does not follow it."""

    def __init__(self, offset: float) -> None:
        super().__init__()
        self.scale, self.offset = 1.0, offset

    def forward(self, x: Tensor) -> Any:
        return F.relu(x.sum(1)) * self.scale + self.offset


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_a_stale_graph_is_refused_at_any_row_and_offset(offset: float) -> None:
    x = torch.tensor([[1.0, 2.0], [-5.0, -5.0]])  # the row farthest from its baseline gives 0
    model = Scaled(offset)
    explainer = dasp.Explainer(model)
    explainer(x)
    model.scale = 5.0
    with pytest.raises(dasp.CaptureError, match="other values than Scaled"):
        explainer(x)


class Product(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Any:
        return (self.a(x) * self.b(x)).relu().sum(1)


def test_moments_that_overflow_name_the_layer() -> None:
    torch.manual_seed(0)
    x = 1e10 * torch.randn(2, 8)
    with pytest.raises(dasp.NumericsError, match=r"aten\.mul.*Product.*float64"):
        dasp.Explainer(Product(), method=dasp.Propagation(mixture=0))(x)
    assert dasp.Explainer(Product().double())(x.double()).per_player.isfinite().all()


def test_derivatives_that_overflow_name_the_layer() -> None:
    class Powers(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.abs().pow(0.3)

    model = nn.Sequential(nn.Linear(3, 4, bias=False), Powers(), nn.Linear(4, 1))
    with torch.no_grad():
        model[0].weight.mul_(1e-20)
    for rank in (0, "full"):
        method = dasp.Propagation(mixture=0, rank=rank)
        with pytest.raises(dasp.NumericsError, match=r"a derivative .*float32: that of aten.pow.Tensor_Scalar \(layer 1\)"):
            dasp.Explainer(model, 0.1, method=method)(torch.randn(2, 3))


@pytest.mark.parametrize("seed", range(5))
def test_gradients_of_low_rank_have_an_active_subspace(seed: int) -> None:
    torch.manual_seed(seed)
    model, x = nn.Sequential(nn.Linear(100, 3), nn.ReLU(), nn.Linear(3, 1)), torch.randn(1, 100)
    once = dasp.Model(model)
    low = dasp.Explainer(once)(x).per_player
    full = dasp.Explainer(once, method=dasp.Propagation(rank="full", condition=False))(x).per_player
    torch.testing.assert_close(low, full, rtol=1e-3, atol=1e-4)  # three directions are all there are


@pytest.mark.parametrize("reduce", [
    lambda h: h.sum(1, keepdim=True, dtype=torch.float64), lambda h: h.mean(1, keepdim=True, dtype=torch.float64),
    lambda h: h.cumsum(1, dtype=torch.float64)[:, 2:3],
], ids=["sum", "mean", "cumsum"])  # fmt: skip
def test_reductions_in_another_dtype(reduce: Any) -> None:
    class Reduced(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(8, 4), nn.Linear(1, 1).double()

        def forward(self, x: Tensor) -> Any:
            return self.last(reduce(self.first(x).relu()))

    torch.manual_seed(0)
    assert error(Reduced(), torch.randn(3, 8)) < 0.05


def test_an_operation_of_several_results_before_players_meet_is_refused() -> None:
    class Mantissa(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(8, 1)

        def forward(self, x: Tensor) -> Any:
            return self.last(torch.frexp(x)[0])

    with pytest.raises(dasp.MissingRuleError, match="frexp"):
        dasp.Explainer(Mantissa())(torch.randn(2, 8))


@pytest.mark.parametrize("players", [1, 2, 5, 6])
def test_tiny_games_are_enumerated(players: int) -> None:
    torch.manual_seed(players)
    model = nn.Sequential(nn.Linear(players, 16), nn.ReLU(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 1)).double()
    x = torch.randn(20, players, dtype=torch.float64)
    assert error(model, x) < 1e-12
    assert error(model, x, rank="full", mixture=0) > 1e-4 or players == 1  # who chooses settings gets them


def test_the_same_values_under_autocast() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1)), torch.randn(3, 8)
    explainer = dasp.Explainer(model)
    plain = explainer(x).per_player
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(explainer(x).per_player, plain)


@pytest.mark.parametrize(("options", "target", "players"), [
    ({}, 0, None), ({}, [0, 1, 2], None), ({"mixture": 3}, 0, None), ({}, 0, dasp.players.grid(2, 2)),
    ({"condition": False}, 0, None), ({"rank": 0}, 0, None), ({"rank": 12}, [0, 1], None),
], ids=["default", "targets", "mixture", "patches", "full", "diagonal", "subspace"])  # fmt: skip
def test_memory_bound_of_every_mode(options: dict[str, Any], target: Any, players: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 4))
    x, bound = torch.randn(24, 1, 8, 8), 16 * 2**20
    method = dasp.Propagation(**options)
    explainer = dasp.Explainer(model, method=method, players=players, memory=bound)
    explainer(x[:2], target)
    assert peak_bytes(lambda: explainer(x, target)) < 1.25 * bound
