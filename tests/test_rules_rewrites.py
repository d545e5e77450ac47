"""Graphs are put into forms that moments pass better, and compute the same: norms written out, bags, checks, shrinkage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dasp
from dasp.graph import Graph, capture

aten = torch.ops.aten


class Of(nn.Module):
    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(*inputs)


def captured(function: Callable[..., Tensor] | nn.Module, *inputs: Tensor) -> Graph:
    """The graph, which computes the same for other rows."""
    module = function if isinstance(function, nn.Module) else Of(function)
    graph = capture(module.eval(), inputs, (), inputs[0].shape[0])
    for rows in (1, 3):
        others = [x.flip(1)[:1].repeat(rows, *[1] * (x.dim() - 1)) for x in inputs]
        torch.testing.assert_close(graph.run(others), module(*others))
    return graph


def operations(graph: Graph) -> set[Any]:
    return {node.target for node in graph.nodes}


def mean_square(x: Tensor, axis: Any = -1) -> Tensor:
    return x.pow(2).mean(axis, keepdim=True)


def centred(x: Tensor, axis: Any = -1) -> Tensor:
    return x - x.mean(axis, keepdim=True)


NORMS: dict[str, tuple[Callable[[Tensor], Tensor], Any]] = {
    "x rsqrt": (lambda x: x * torch.rsqrt(mean_square(x) + 1e-3), aten.rms_norm.default),
    "rsqrt x": (lambda x: torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-3) * x, aten.rms_norm.default),
    "x / sqrt": (lambda x: x / torch.sqrt((x * x).mean((1, 2), keepdim=True) + 1e-3), aten.rms_norm.default),
    "x / power": (lambda x: x / (mean_square(x) + 1e-3) ** 0.5, aten.rms_norm.default),
    "power x": (lambda x: x * (mean_square(x) + 1e-3).pow(-0.5), aten.rms_norm.default),
    "reciprocal": (lambda x: x * torch.reciprocal(torch.sqrt(mean_square(x) + 1e-3)), aten.rms_norm.default),
    "sum": (lambda x: x / torch.sqrt(x.pow(2).sum(1, keepdim=True) + 1e-3), aten.rms_norm.default),
    "no number added": (lambda x: x / mean_square(x).sqrt(), aten.rms_norm.default),
    "normalize": (lambda x: F.normalize(x, dim=1), aten.rms_norm.default),
    "over norm": (lambda x: x / x.norm(dim=(1, 2), keepdim=True), aten.rms_norm.default),
    "var": (lambda x: centred(x) / torch.sqrt(x.var(-1, keepdim=True) + 1e-3), aten.layer_norm.default),
    "biased var": (lambda x: centred(x) * torch.rsqrt(x.var(-1, keepdim=True, correction=0) + 1e-3), aten.layer_norm.default),
}


def centred_once(x: Tensor) -> Tensor:
    difference = centred(x, 1)
    return difference / torch.sqrt(difference.pow(2).mean(1, keepdim=True) + 1e-3)


@pytest.mark.parametrize("name", NORMS)
def test_norms_written_out_are_one_operation(name: str) -> None:
    function, op = NORMS[name]
    found = operations(captured(function, torch.randn(2, 4, 3, dtype=torch.float64)))
    assert op in found
    assert not found & {aten.div.Tensor, aten.rsqrt.default, aten.sqrt.default, aten.pow.Tensor_Scalar}


def test_a_norm_of_centred_values_is_a_layer_norm() -> None:
    assert aten.layer_norm.default in operations(captured(centred_once, torch.randn(2, 4, 3, dtype=torch.float64)))


OTHERS: dict[str, Callable[[Tensor], Tensor]] = {
    "another value": lambda x: x.tanh() / torch.sqrt(mean_square(x) + 1),
    "not centred": lambda x: x / torch.sqrt(x.var(-1, keepdim=True) + 1),
    "centred over another axis": lambda x: centred(x, 1) / torch.sqrt(x.var(-1, keepdim=True) + 1),
    "cube": lambda x: x / torch.sqrt(x.abs().pow(3).mean(-1, keepdim=True) + 1),
    "axes dropped": lambda x: x.mean(1) / torch.sqrt(x.pow(2).mean((1, 2)) + 1).unsqueeze(1),
    "clamped far from 0": lambda x: x / x.norm(dim=1, keepdim=True).clamp(min=0.5),
    "a number added to the norm": lambda x: x / (x.norm(dim=1, keepdim=True) + 0.5),
    "norm of order 1": lambda x: x / x.norm(p=1, dim=1, keepdim=True),
    "wider": lambda x: x[:, :1] / torch.sqrt(mean_square(x[:, :1], 1) + torch.ones(4, 1)),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_only_looks_like_a_norm_stays(name: str) -> None:
    found = operations(captured(OTHERS[name], torch.randn(2, 4, 3)))
    assert not found & {aten.rms_norm.default, aten.layer_norm.default}


@pytest.mark.parametrize(("function", "op"), [(F.hardshrink, aten.hardshrink), (F.softshrink, aten.softshrink)])
def test_shrinkage_is_one_operation(function: Callable[[Tensor], Tensor], op: Any) -> None:
    assert operations(captured(lambda x: function(x, 0.3), torch.randn(2, 9))) == {op.default}


IDS = torch.tensor([[1, 2, 3, 3], [0, 4, 2, 1], [4, 4, 0, 0]])


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("padding", [None, 0])
def test_bags_of_embeddings(mode: str, padding: int | None) -> None:
    """The sum or mean of embeddings is additive, so players are exact; of the largest, nearly."""
    torch.manual_seed(0)
    bag = nn.EmbeddingBag(5, 3, mode=mode, padding_idx=padding).double()
    model = nn.Sequential(bag, nn.Linear(3, 1).double())
    if mode == "max" and padding is not None:  # stays as it is, and is refused
        with pytest.raises(dasp.MissingRuleError, match="_embedding_bag"):
            explained(model, IDS, dasp.Propagation(rank="full"))
        return
    exact = explained(model, IDS, dasp.Exact())
    found = explained(model, IDS, dasp.Propagation(rank="full"))
    tolerance = {"sum": 1e-9, "mean": 1e-9 if padding is None else 0.15, "max": 0.1}[mode]
    assert (found - exact).norm() < tolerance * exact.norm()


def explained(model: nn.Module, ids: Tensor, method: Any) -> Tensor:
    players = torch.arange(ids.shape[1])
    return dasp.Explainer(model, 1, players=players, method=method)(ids).per_player.flatten(1)


def test_weighted_bags() -> None:
    weights = torch.linspace(-1, 1, 4)
    table = torch.randn(5, 3)

    def weighted(ids: Tensor) -> Tensor:
        return F.embedding_bag(ids, table, mode="sum", per_sample_weights=weights.expand(ids.shape[0], 4))

    assert aten.embedding.default in operations(captured(weighted, IDS))


def test_checks_of_values_are_dropped() -> None:
    """`one_hot` checks that its classes exist, which would mix all players."""
    torch.manual_seed(0)
    weight = torch.randn(4, 5)

    def scored(ids: Tensor) -> Tensor:
        return (F.one_hot(ids, 5) * weight).sum((1, 2)).tanh().unsqueeze(1)

    exact = explained(Of(scored), IDS, dasp.Exact())
    found = explained(Of(scored), IDS, dasp.Propagation(rank="full"))
    assert (found - exact).norm() < 0.05 * exact.norm()


def test_a_lookup_by_several_players_is_refused_by_name() -> None:
    table = torch.randn(20, 2)
    with pytest.raises(dasp.MissingRuleError, match=r"aten\.embedding\.default"):
        explained(Of(lambda ids: F.embedding(ids.sum(1), table).sum(1)), IDS, dasp.Propagation())
