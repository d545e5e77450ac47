"""Softmax and log-softmax: exact in the mean for two scores, near for more, at any spread; masked scores stay out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dasp
from dasp.gaussian import Gaussian
from dasp.rules import RULES, Context

aten = torch.ops.aten


class Plain:
    """No players: nothing to condition on."""

    conditioned = False
    factor_presence = None


def scores(classes: int, scale: float, seed: int = 0) -> Gaussian:
    generator = torch.Generator().manual_seed(seed)
    mean, factors, rest = (
        torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((2, classes), (3, 2, classes), (2, classes))
    )
    return Gaussian(scale * mean, scale * factors, scale**2 * rest.square())


def sampled(value: Gaussian, function: Any, draws: int = 400_000) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    assert value.factors is not None
    shared = torch.randn(draws, len(value.factors), generator=generator, dtype=torch.float64)
    own = torch.randn(draws, *value.mean.shape, generator=generator, dtype=torch.float64)
    x = value.mean + torch.einsum("dr,rbc->dbc", shared, value.factors) + own * value.rest.sqrt()
    result: Tensor = function(x).mean(0)
    return result


@pytest.mark.parametrize("scale", [0.3, 2.0, 20.0])
@pytest.mark.parametrize(("op", "function"), [
    (aten.softmax.int, lambda x: x.softmax(-1)), (aten.log_softmax.int, lambda x: x.log_softmax(-1)),
], ids=["softmax", "log_softmax"])  # fmt: skip
@pytest.mark.parametrize("classes", [2, 3, 7])
def test_means(op: Any, function: Any, classes: int, scale: float) -> None:
    # Two scores are exact up to Monte Carlo; of seven, whose standard deviation is about 2 scale, the largest errors
    # measured are 0.12 of a probability and 0.29 scale of a logarithm.
    tolerance = {"softmax": {2: 0.004, 3: 0.04, 7: 0.13}, "log_softmax": {2: 0.01, 3: 0.05, 7: 0.3}}
    value = scores(classes, scale)
    rule = RULES.find(op)
    assert rule is not None
    found = rule.apply(Context(Plain(), 0), value, 1).mean
    truth = sampled(value, function)
    unit = 1.0 if op is aten.softmax.int else scale
    kind = "softmax" if op is aten.softmax.int else "log_softmax"
    assert (found - truth).abs().max() < tolerance[kind][classes] * unit


def test_one_score_is_known() -> None:
    value = scores(1, 1.0)
    for op, known in ((aten.softmax.int, 1.0), (aten.log_softmax.int, 0.0)):
        rule = RULES.find(op)
        assert rule is not None
        result = rule.apply(Context(Plain(), 0), value, 1)
        assert torch.equal(result.mean, torch.full_like(result.mean, known))
        assert result.var.abs().max() == 0


@pytest.mark.parametrize("weight", [1.0, 20.0], ids=["mild", "confident"])
def test_two_classes_are_a_sigmoid(weight: float) -> None:
    torch.manual_seed(0)
    x, layer = 2 * torch.randn(10, 7, dtype=torch.float64), nn.Linear(7, 2).double()
    layer.weight.data *= weight
    difference = nn.Linear(7, 1).double()
    difference.weight.data = layer.weight.data[:1] - layer.weight.data[1:]
    difference.bias.data = layer.bias.data[:1] - layer.bias.data[1:]
    for softmax, sigmoid in ((nn.Softmax(1), nn.Sigmoid()), (nn.LogSoftmax(1), nn.LogSigmoid())):
        found = dasp.Explainer(nn.Sequential(layer, softmax))(x, 0).values
        same = dasp.Explainer(nn.Sequential(difference, sigmoid))(x).values
        torch.testing.assert_close(found, same, rtol=1e-6, atol=1e-8)


def test_confident_classifier_against_exact_values() -> None:
    torch.manual_seed(0)
    x, layer = 2 * torch.randn(10, 8), nn.Linear(8, 5)
    layer.weight.data *= 20
    model = nn.Sequential(layer, nn.LogSoftmax(1))
    exact = dasp.Explainer(model, method=dasp.Exact())(x, 2).per_player
    found = dasp.Explainer(model)(x, 2).per_player
    assert (found - exact).norm() < 0.06 * exact.norm()


def test_dtype_argument() -> None:
    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(8, 4), nn.Linear(4, 1).double()

        def forward(self, x: Tensor) -> Any:
            return self.last(self.first(x).softmax(1, dtype=torch.float64))

    torch.manual_seed(0)
    x, model = torch.randn(3, 8), Wide()
    exact = dasp.Explainer(model, method=dasp.Exact())(x).per_player
    assert (dasp.Explainer(model)(x).per_player - exact).norm() < 0.05 * exact.norm()
