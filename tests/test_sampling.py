"""Permutation sampling: unbiased, honest standard errors, reproducible, the same alone as in a batch."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import dasp
from dasp.estimators.sampling import pair_estimates, stream
from dasp.memory import peak_bytes


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2)).double()


@pytest.fixture(scope="module")
def x() -> Tensor:
    return 2 * torch.randn(5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def sample(model: nn.Module, x: Tensor, memory: int = 2**30, **options: object) -> dasp.Attribution:
    method = dasp.PermutationSampling(**options)
    return dasp.Explainer(model, 0.0, method=method, memory=memory)(x, [0, 1])


def test_errors_are_as_large_as_the_standard_errors_say(model: nn.Module, x: Tensor) -> None:
    truth = dasp.Explainer(model, 0.0, method=dasp.Exact())(x, [0, 1])
    scores = []
    for seed in range(40):
        found = sample(model, x, permutations=40, seed=seed)
        assert isinstance(found.standard_errors, Tensor)
        scores.append((found.per_player - truth.per_player) / found.standard_errors)
    score = torch.stack(scores)  # (40 seeds, 5, 2, 8)
    # Student's t with 19 degrees of freedom: mean 0, variance 19/17.
    assert score.mean(0).abs().max() < 4.5 * math.sqrt(19 / 17 / 40)
    assert score.square().mean().item() == pytest.approx(19 / 17, rel=0.1)


def test_two_players_need_one_pair() -> None:
    # An order and its reverse are all orders of two players.
    class Product(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.prod(-1)

    explainer = dasp.Explainer(Product(), 1.0, method=dasp.PermutationSampling(permutations=2))
    found = explainer(torch.tensor([[2.0, 3.0]]))
    assert found.values.tolist() == [[2.0, 3.0]]
    assert found.standard_errors is None
    assert found.evaluations == 4


def test_one_player_gets_the_difference() -> None:
    found = dasp.Explainer(nn.Linear(3, 1), 0.0, method=dasp.PermutationSampling(), players=torch.tensor([0, 0, 0]))(
        torch.ones(2, 3)
    )
    assert torch.allclose(found.values[:, 0], found.output - found.base_value)
    assert found.evaluations == 2


def test_values_add_up_whatever_the_number_of_permutations(model: nn.Module, x: Tensor) -> None:
    for permutations in (2, 6):
        assert sample(model, x, permutations=permutations).gap.abs().max() < 1e-13


def test_a_seed_gives_the_same_values_and_another_one_others(model: nn.Module, x: Tensor) -> None:
    first = sample(model, x, permutations=4, seed=3)
    assert torch.equal(first.per_player, sample(model, x, permutations=4, seed=3).per_player)
    assert not torch.allclose(first.per_player, sample(model, x, permutations=4, seed=4).per_player)


@pytest.mark.parametrize("tolerance", [None, 0.05])
@pytest.mark.parametrize("memory", [1, 20_000, 2**30])
def test_a_row_has_the_same_value_alone_as_in_a_batch(
    model: nn.Module, x: Tensor, memory: int, tolerance: float | None
) -> None:
    options = {"permutations": 32, "tolerance": tolerance}
    together = sample(model, x, **options)
    for row in range(len(x)):
        alone = sample(model, x[row : row + 1], memory, **options)
        assert torch.allclose(alone.per_player[0], together.per_player[row], rtol=0, atol=1e-12)
        assert isinstance(alone.standard_errors, Tensor)
        assert isinstance(together.standard_errors, Tensor)
        assert torch.allclose(alone.standard_errors[0], together.standard_errors[row], rtol=0, atol=1e-12)


def test_evaluations_are_counted_as_they_are_made(model: nn.Module, x: Tensor) -> None:
    rows = 0

    class Counted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, x: Tensor) -> Tensor:
            nonlocal rows
            rows += x.shape[0]
            y: Tensor = self.inner(x)
            return y

    found = sample(Counted(), x, permutations=20)
    assert found.evaluations == 2 + 20 * 7
    # Two rows to learn the output's shape, two to measure memory and six in other company come on top, once a call.
    assert rows == 5 * found.evaluations + 10


def test_tolerance_stops_each_row_when_its_errors_are_small(model: nn.Module, x: Tensor) -> None:
    found = sample(model, x, permutations=4000, tolerance=0.03)
    used = found.settings["permutations_used"]
    assert all(found.settings["tolerance_reached"])
    assert max(used) < 4000
    assert len(set(used)) > 1
    assert all(count % 16 == 0 for count in used)
    assert isinstance(found.standard_errors, Tensor)
    reached = found.standard_errors.norm(dim=-1) / found.per_player.norm(dim=-1)
    assert reached.max() <= 0.03
    assert found.evaluations == 2 + 7 * sum(used) / 5
    truth = dasp.Explainer(model, 0.0, method=dasp.Exact())(x, [0, 1])
    error = (found.per_player - truth.per_player).norm(dim=-1) / truth.per_player.norm(dim=-1)
    assert error.max() < 0.09


def test_tolerance_out_of_reach_is_said(model: nn.Module, x: Tensor) -> None:
    found = sample(model, x, permutations=8, tolerance=1e-9)
    assert found.settings["permutations_used"] == [8] * 5
    assert found.settings["tolerance_reached"] == [False] * 5


def test_pairs_are_the_same_however_they_are_grouped(model: nn.Module, x: Tensor) -> None:
    def pairs(memory: int) -> Tensor:
        explainer = dasp.Explainer(model, 0.0, method=dasp.Exact(), memory=memory)
        game = explainer(x[:2], 0).auditor.args[0]
        found = list(pair_estimates(game, torch.arange(2), 12, stream(0, audit=False)))
        assert (len(found) == 1) is (memory > 2**20)
        return torch.cat(found)

    many = pairs(2**30)
    assert many.shape == (12, 2, 1, 8)
    assert torch.allclose(many, pairs(20_000), rtol=0, atol=1e-13)


def test_audit_stream_differs_from_every_estimator_stream() -> None:
    drawn = {tuple(torch.randperm(20, generator=stream(s, audit=a)).tolist()) for s in range(50) for a in (False, True)}
    assert len(drawn) == 100


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"permutations": 3}, dasp.InputError, "even number"),
        ({"permutations": 0}, dasp.InputError, "at least 2"),
        ({"permutations": 4.0}, dasp.InputTypeError, "must be an int, got float"),
        ({"seed": -1}, dasp.InputError, "seed must be from 0"),
        ({"seed": True}, dasp.InputTypeError, "got bool"),
        ({"tolerance": 0.0}, dasp.InputError, "above 0"),
        ({"tolerance": float("nan")}, dasp.InputError, "above 0"),
        ({"tolerance": "1%"}, dasp.InputTypeError, "a number or None"),
    ],
)
def test_bad_options(options: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        dasp.PermutationSampling(**options)


def test_float32_agrees_with_float64(model: nn.Module, x: Tensor) -> None:
    double = sample(model, x, permutations=8)
    single = sample(nn.Sequential(*model.children()).float(), x.float(), permutations=8)
    model.double()
    assert isinstance(single.values, Tensor)
    assert single.values.dtype == torch.float32
    assert torch.allclose(single.per_player.double(), double.per_player, atol=1e-5)


@pytest.mark.parametrize(("players", "rows"), [(2, 20), (40, 50)])
def test_the_memory_bound_is_kept(players: int, rows: int) -> None:
    bound = 2**20
    explainer = dasp.Explainer(nn.Linear(players, 3), 0.0, method=dasp.Exact(force=True), memory=bound)
    made = dasp.Explainer(nn.Linear(2, 3), 0.0, method=dasp.Exact(), memory=bound)(torch.ones(rows, 2), [0, 1, 2])
    game = replace(
        made.auditor.args[0], model=explainer.model, inputs=(torch.ones(rows, players),),
        baselines=(torch.zeros(1, players),), players=dasp.Players.elements([(players,)]),
    )  # fmt: skip
    game.chunk  # noqa: B018 - measured once, outside the bound
    method = dasp.PermutationSampling(permutations=2000 // players)
    assert peak_bytes(lambda: method.estimate(game)) < 1.2 * bound
