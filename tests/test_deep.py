"""Sixteen layers deep in float32: values stay finite and near enumeration, or an error says where they stopped being so.

The weights are random, at a scale at which the signal neither dies nor explodes; bounds are about one and a half times the
largest error that was measured over the rows.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dasp
from dasp.model import Model

DEPTH = 16
PLAYERS = 8
WIDTH = 16


def scaled(layer: nn.Linear, gain: float) -> nn.Linear:
    """Weights of standard deviation `gain / sqrt(inputs)`."""
    nn.init.normal_(layer.weight, std=gain / layer.in_features**0.5)
    return layer


def mlp(activation: type[nn.Module], gain: float) -> nn.Module:
    layers: list[nn.Module] = []
    for depth in range(DEPTH):
        layers += [scaled(nn.Linear(WIDTH if depth else PLAYERS, WIDTH), gain), activation()]
    return nn.Sequential(*layers, nn.Linear(WIDTH, 1))


class Encoder(nn.Module):
    """Two tokens of four features each, with learned places."""

    def __init__(self, *, norm_first: bool) -> None:
        super().__init__()
        self.embed, self.places = nn.Linear(4, 8), nn.Parameter(torch.randn(2, 8) / 2)
        self.body = nn.Sequential(
            *(nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True, norm_first=norm_first) for _ in range(DEPTH))
        )
        self.norm, self.last = nn.LayerNorm(8), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Any:
        return self.last(self.norm(self.body(self.embed(x) + self.places)).mean(1))


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels)
        self.last = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.last(self.norm(self.first(x)).relu())


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv2d(1, 4, 3, padding=1), nn.Sequential(*(Block(4) for _ in range(DEPTH)))
        self.last = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Any:
        return self.last(self.body(self.stem(x)).relu().mean((2, 3)))


class Lstm(nn.Module):
    """Sixteen layers over two steps, the gates nearly open: at the weights of torch no signal arrives, 1e-14 of 0.2."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.last = nn.LSTM(4, 8, DEPTH, batch_first=True), nn.Linear(8, 1)
        with torch.no_grad():
            for name, weight in self.body.named_parameters():
                if name.startswith("weight_ih"):
                    nn.init.normal_(weight, std=1.3 / weight.shape[1] ** 0.5)
                if name.startswith("bias_ih"):
                    weight[:16] = weight[24:] = 2.0  # input, forget and output gate

    def forward(self, x: Tensor) -> Any:
        return self.last(self.body(x)[0][:, -1])


@dataclass(frozen=True)
class Case:
    """A deep network with 8 players.

    Attributes:
        model: makes it.
        shape: of a row.
        bounds: of the relative error of the default, of `rank=0` and of `condition=False`.
        players: None for every element.
    """

    model: Callable[[], nn.Module]
    shape: tuple[int, ...]
    bounds: tuple[float, float, float]
    players: Any = None


DEEP: dict[str, Case] = {
    "MLP, ReLU": Case(lambda: mlp(nn.ReLU, 2**0.5), (8,), (0.18, 0.37, 0.21)),
    "MLP, tanh": Case(lambda: mlp(nn.Tanh, 1.1), (8,), (0.034, 0.27, 0.1)),
    "MLP, GELU": Case(lambda: mlp(nn.GELU, 1.3), (8,), (0.24, 0.7, 0.26)),
    "residual CNN": Case(Residual, (1, 4, 8), (0.072, 0.31, 0.175), dasp.players.grid(2, 2)),
    "LSTM": Case(Lstm, (2, 4), (0.055, 0.9, 0.32)),
    "pre-norm encoder": Case(lambda: Encoder(norm_first=True), (2, 4), (0.05, 0.26, 0.115)),
    "post-norm encoder": Case(lambda: Encoder(norm_first=False), (2, 4), (0.076, 0.95, 0.62)),
}
METHODS = (dasp.Propagation(), dasp.Propagation(rank=0), dasp.Propagation(condition=False))
SLOW = {"residual CNN", "LSTM", "pre-norm encoder", "post-norm encoder"}
LONG = SLOW - {"LSTM"}


@dataclass(frozen=True)
class Deep:
    """A network of the table, captured once for all methods, with rows and their truth."""

    case: Case
    network: nn.Module
    model: Model
    x: Tensor
    truth: Tensor

    def error(self, method: dasp.Estimator) -> float:
        """Largest relative error over the rows, of finite values."""
        found = dasp.Explainer(self.model, 0.0, method=method, players=self.case.players)(self.x).per_player
        assert found.dtype == torch.float32
        assert found.isfinite().all()
        return float(((found - self.truth).flatten(1).norm(dim=1) / self.truth.flatten(1).norm(dim=1)).max())


@cache
def deep(name: str) -> Deep:
    case = DEEP[name]
    torch.manual_seed(0)
    network = case.model().eval()
    model = Model(network)
    x = torch.randn(3, *case.shape, generator=torch.Generator().manual_seed(1))
    result = dasp.Explainer(model, 0.0, method=dasp.Exact(), players=case.players)(x)
    assert result.per_player.abs().max() > 1e-3 * result.output.abs().max()  # a signal arrives, far above rounding
    return Deep(case, network, model, x, result.per_player)


@pytest.fixture(scope="module", params=[pytest.param(one, marks=pytest.mark.long if one in LONG else ()) for one in DEEP])
def network(request: pytest.FixtureRequest) -> Deep:
    return deep(request.param)


@pytest.mark.parametrize("index", range(len(METHODS)), ids=["default", "rank 0", "unconditioned"])
def test_values_of_deep_networks_are_finite_and_near_the_truth(network: Deep, index: int) -> None:
    assert network.error(METHODS[index]) < network.case.bounds[index]


@pytest.mark.parametrize("name", [one for one in DEEP if one not in SLOW])
def test_float32_gives_the_values_of_float64(name: str) -> None:
    """So the bounds above are about the method, not about rounding: 16 layers cost about two digits of seven."""
    narrow = deep(name)
    wide = Model(copy.deepcopy(narrow.network).double())
    for method in METHODS:
        values = dasp.Explainer(narrow.model, 0.0, method=method)(narrow.x).per_player
        expected = dasp.Explainer(wide, 0.0, method=method)(narrow.x.double()).per_player
        assert (values - expected).norm() < 1e-4 * expected.norm()


LARGEST = torch.finfo(torch.float32).max


def test_a_variance_that_overflows_is_refused_and_its_layer_named() -> None:
    """Weights of 30 a layer: the values stay below 1e24, but from some layer on their variance is above what float32 holds."""
    torch.manual_seed(0)
    network, x = mlp(nn.ReLU, 30.0).eval(), torch.randn(2, PLAYERS, generator=torch.Generator().manual_seed(1))
    assert network(x).isfinite().all()
    said = r"variance of aten\.linear\.default \(layer \d+\).*float32.*float64"
    with pytest.raises(dasp.NumericsError, match=said) as caught:
        dasp.Explainer(network, 0.0)(x)
    named = int(re.findall(r"layer (\d+)", str(caught.value))[0])
    network, x = network.double(), x.double()
    coalitions = torch.cartesian_prod(*[torch.arange(2)] * PLAYERS).double()
    seen = [layer(coalitions * x[:1]).var(0).max() for layer in (network[: i + 1] for i in range(0, 2 * DEPTH, 2))]
    assert seen[named // 2] > LARGEST > seen[named // 2 - 1]  # the first layer at which it is
    truth = dasp.Explainer(network, 0.0, method=dasp.Exact())(x).per_player
    assert (dasp.Explainer(network, 0.0)(x).per_player - truth).norm() < 0.1 * truth.norm()


def test_an_overflow_in_one_of_several_results_names_the_operation() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(PLAYERS, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 1)).eval()
    nn.init.constant_(network[1].weight, 1e20)
    with pytest.raises(dasp.NumericsError, match=r"variance of aten\._native_batch_norm\S* \(layer 1\)"):
        dasp.Explainer(network, 0.0)(torch.randn(2, PLAYERS))
