"""Values that have a gradient: against finite differences, by input and weights, and what is refused."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dasp
from dasp.errors import InputError, MemoryBoundError
from dasp.rules import RULES
from dasp.testing.samples import AGAIN, FACTORS, Case, Law, Random, Sample, parts

from .rule_rows import TABLE, TWICE, Row, X


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(nn.Linear(7, 6), nn.ReLU(), nn.Dropout(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2)).double()


def convolution() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 2)
        ).double()  # fmt: skip


def rows(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def check(model: nn.Module, x: Tensor, tolerance: float = 1e-5, **options: Any) -> None:
    """The gradient of a function of the values along one direction of inputs and weights, against a difference."""
    explainer = dasp.Explainer(model, 0.0, **options)
    leaves = [x, *model.parameters()]
    direction = [torch.randn(t.shape, dtype=t.dtype, generator=torch.Generator().manual_seed(5)) for t in leaves]
    centre = [t.detach().clone() for t in leaves]

    def at(step: float, graph: bool) -> Tensor:
        with torch.no_grad():
            for leaf, start, d in zip(leaves, centre, direction, strict=True):
                leaf.copy_(start + step * d)
        values = explainer(x, 0, create_graph=graph).values
        assert isinstance(values, Tensor)
        return (values * torch.arange(1, values.numel() + 1).reshape(values.shape)).sin().sum()

    plain = at(0.0, False)
    x.requires_grad_()
    value = at(0.0, True)
    torch.testing.assert_close(value.detach(), plain)
    gradients = torch.autograd.grad(value, leaves, allow_unused=True)
    found = sum(float((g * d).sum()) for g, d in zip(gradients, direction, strict=True) if g is not None)
    x.requires_grad_(False)
    e = 1e-6
    wanted = float(at(e, False) - at(-e, False)) / (2 * e)
    at(0.0, False)
    assert found == pytest.approx(wanted, rel=tolerance, abs=tolerance)


@pytest.mark.parametrize(
    "method",
    [
        dasp.Propagation(),
        dasp.Propagation(mixture=0, condition=False),
        dasp.Propagation(mixture=0),
        dasp.Propagation(mixture=2, rule="legendre", nodes=3),
        dasp.Propagation(rank=0, nodes=3, rule="legendre"),
    ],
)
def test_gradients_are_those_of_the_values(method: dasp.Propagation) -> None:
    check(network(), rows(2, 7), method=method)


@pytest.mark.parametrize("semivalue", [dasp.Banzhaf(), dasp.BetaShapley(2, 1)], ids=str)
def test_semivalues_have_gradients_too(semivalue: Any) -> None:
    check(network(), rows(2, 7), semivalue=semivalue)


@pytest.mark.parametrize("rank", [0, "full"])
def test_groups_and_convolutions(rank: Any) -> None:
    players = torch.arange(36).reshape(1, 6, 6) // 5
    check(convolution().eval(), rows(2, 1, 6, 6), method=dasp.Propagation(rank=rank, mixture=0), players=players)
    check(convolution().eval(), rows(2, 1, 6, 6), method=dasp.Propagation(rank=0))


class Recurrent(nn.Module):
    """An LSTM over eight steps."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.out = nn.LSTM(4, 6, batch_first=True), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.lstm(x)[0][:, -1])


class Attending(nn.Module):
    """A transformer layer over eight embedded tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Embedding(11, 8), nn.Linear(8, 2)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation="gelu")

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.layer(self.embed(x)).mean(1))


@pytest.mark.parametrize("kind", [pytest.param(Recurrent, marks=pytest.mark.long), Attending])
def test_deep_networks_by_their_weights_and_in_pairs(kind: type[nn.Module]) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = kind().double().eval()
    words = torch.randint(1, 11, (2, 8), generator=torch.Generator().manual_seed(0))
    x = rows(2, 8, 4) if kind is Recurrent else words
    players = torch.arange(8).unsqueeze(1).expand(8, 4) if kind is Recurrent else torch.arange(8)
    explainer = dasp.Explainer(model, 0, players=players)
    weights = list(model.parameters())
    steps = [torch.randn(w.shape, dtype=w.dtype, generator=torch.Generator().manual_seed(2)) for w in weights]
    gradients = torch.autograd.grad(explainer(x, 0, create_graph=True).per_player.sin().sum(), weights)
    found = sum(float((g * d).sum()) for g, d in zip(gradients, steps, strict=True))
    sides = []
    for step in (1e-6, -2e-6):
        with torch.no_grad():
            for weight, d in zip(weights, steps, strict=True):
                weight.add_(step * d)
        sides.append(float(explainer(x, 0).per_player.sin().sum()))
    assert found == pytest.approx((sides[0] - sides[1]) / 2e-6, rel=1e-5)
    exact = dasp.Explainer(model, 0, players=players, method=dasp.Exact()).interactions(x, 0).values
    assert float((explainer.interactions(x, 0).values - exact).norm() / exact.norm()) < 0.1


def test_gradcheck_by_the_input() -> None:
    explainer = dasp.Explainer(network(), 0.0)
    x = rows(1, 7).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: explainer(x, 1, create_graph=True).values, (x,), atol=1e-6)


def test_a_player_at_its_baseline_has_the_slope_of_its_value() -> None:
    x = rows(1, 7)
    x[0, 3] = 0
    x.requires_grad_()
    model = nn.Linear(7, 1).double()
    result = dasp.Explainer(model, 0.0)(x, create_graph=True)
    assert isinstance(result.values, Tensor)
    (slope,) = torch.autograd.grad(result.values.sum(), x)
    torch.testing.assert_close(slope, model.weight.detach())


def test_weights_that_were_stepped_are_seen_and_modes_kept() -> None:
    model, x = convolution().train(), rows(3, 1, 6, 6)
    model[1].running_mean.normal_()
    explainer, optimiser = dasp.Explainer(model, 0.0), torch.optim.SGD(model.parameters(), lr=0.1)
    statistics = model[1].running_mean.clone()
    before = explainer(x, 0, create_graph=True)
    loss = before.per_player.square().sum()
    loss.backward()
    optimiser.step()
    after = explainer(x, 0, create_graph=True)
    assert float(after.per_player.square().sum().detach()) < float(loss.detach())
    torch.testing.assert_close(after.per_player.detach(), dasp.Explainer(model, 0.0)(x, 0).per_player)
    assert model.training
    assert model[2].training
    torch.testing.assert_close(model[1].running_mean, statistics, rtol=0, atol=0)


def test_what_comes_with_the_values_can_be_read() -> None:
    result = dasp.Explainer(network(), 0.0)(rows(2, 7), 0, create_graph=True)
    assert isinstance(result.values, Tensor)
    assert result.values.requires_grad
    assert not result.gap.requires_grad
    assert len(result.to_frame()) == 2
    assert result.settings["create_graph"] is True
    assert bool(result.audit(600).relative_error.isfinite().all())


def test_single_precision_and_a_caller_without_gradients() -> None:
    model = network().float()
    with torch.no_grad():
        result = dasp.Explainer(model, 0.0)(rows(2, 7).float(), 0, create_graph=True)
    assert isinstance(result.values, Tensor)
    gradients = torch.autograd.grad(result.values.square().sum(), list(model.parameters()), allow_unused=True)
    assert all(bool(g.isfinite().all()) for g in gradients if g is not None)


def test_others_and_too_many_rows_are_refused() -> None:
    for method in (dasp.Exact(), dasp.PermutationSampling(), dasp.VertexGradients(), dasp.DASP()):
        with pytest.raises(InputError, match=rf"{type(method).__name__} have no graph. Use method=dasp.Propagation"):
            dasp.Explainer(network(), 0.0, method=method)(rows(2, 7), 0, create_graph=True)
    with pytest.raises(MemoryBoundError, match="keeps the graph of all 500 rows"):
        dasp.Explainer(network(), 0.0, memory=1_000_000)(rows(500, 7), 0, create_graph=True)


@pytest.mark.long
def test_the_example_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sklearn")
    threads = torch.get_num_threads()
    monkeypatch.setattr(sys, "argv", ["attribution_prior.py", "--quick"])
    try:
        runpy.run_path(str(Path(__file__).parents[1] / "examples" / "attribution_prior.py"), run_name="__main__")
    finally:
        torch.set_num_threads(threads)
    shares = [float(found) for found in re.findall(r"(\d+\.\d)% ", capsys.readouterr().out)][::4]
    assert shares[1] < 0.7 * shares[0]


# Every rule ------------------------------------------------------------------------------------------------------------


def placed(argument: Any) -> Any:
    if argument is TWICE:
        return AGAIN
    if isinstance(argument, X):
        return Random(argument.shape, argument.above)
    return type(argument)(placed(a) for a in argument) if isinstance(argument, (list, tuple)) else argument


def slopes(case: Case, leaves: list[Tensor], law: Law, *, graph: bool) -> list[Tensor]:
    """Gradients of a random sum over all that the rule gives."""
    values = [dasp.gaussian.Gaussian(*some) for some in zip(leaves[::3], leaves[1::3], leaves[2::3], strict=True)]
    g = torch.Generator().manual_seed(5)
    total = leaves[0].sum() * 0
    for result in case.moments(values, law):
        for part in (*parts(result)[:-1], result.var):
            total = total + (part * torch.randn(part.shape, generator=g, dtype=part.dtype)).sum()
    found = torch.autograd.grad(total, leaves, create_graph=graph, allow_unused=True)
    return [torch.zeros_like(leaf) if one is None else one for leaf, one in zip(leaves, found, strict=True)]


@pytest.mark.parametrize("conditioned", [False, True])
@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_every_rule_has_second_derivatives(row: Row, conditioned: bool) -> None:
    if conditioned and not row.rows:
        return  # without rows there is nobody to condition on
    rule = RULES.find(row.op)
    assert rule is not None
    case = Case(row.op, rule, Sample(tuple(placed(a) for a in row.args), row.kwargs, row.rows))
    values = case.draw((0.5, 0.2, 0.7, 0.8, 0.4), seed=3)
    count = values[0].mean.shape[0]
    q = torch.tensor((0.3, 0.6), dtype=torch.float64).repeat(count)[:count]
    law = Law(True, torch.stack((q, *[torch.full_like(q, 0.5)] * (FACTORS - 1)))) if conditioned else Law()
    leaves = [part.clone().requires_grad_() for value in values for part in parts(value)]
    g = torch.Generator().manual_seed(0)
    steps = [torch.randn(t.shape, generator=g, dtype=t.dtype) * (t.detach().abs() + 0.1) for t in leaves]
    along = sum(((s * d).sum() for s, d in zip(slopes(case, leaves, law, graph=True), steps, strict=True)), torch.zeros(()))
    along = along + 0 * sum((leaf.square().sum() for leaf in leaves), torch.zeros(()))
    found = torch.autograd.grad(along, leaves)
    e = 1e-6
    sides = []
    for side in (e, -e):
        moved = [(leaf + side * d).detach().requires_grad_() for leaf, d in zip(leaves, steps, strict=True)]
        sides.append(slopes(case, moved, law, graph=False))
    wanted = [(a - b) / (2 * e) for a, b in zip(*sides, strict=True)]
    far = max(float((a - b).norm()) for a, b in zip(found, wanted, strict=True))
    assert far <= 1e-3 * (1 + max(float(b.norm()) for b in wanted))
