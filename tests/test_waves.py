"""Games that bend along sums of their players: waves in closed form against every coalition, and what directions gain."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

import dasp
from dasp.estimators import posterior
from dasp.estimators.exact import shapley_weights
from dasp.estimators.posterior import tells_directions
from dasp.estimators.relevance import FADINGS, RelevanceProcess
from dasp.estimators.waves import WaveProcess, _bent, _draw

N = 12
X = torch.randn(3, N, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


class Bent(nn.Module):
    """Far from linear, along two sums of all players, as what a recurrent network counts."""

    def forward(self, x: Tensor) -> Tensor:
        first, second = x.sum(1), x @ torch.linspace(-1, 1, N, dtype=x.dtype, device=x.device)
        return torch.stack(((1.5 * first).tanh() * second, (first - 1).abs()), 1)


def explain(budget: int, x: Tensor = X, **options: object) -> dasp.Attribution:
    return dasp.Explainer(Bent(), 0.0, method=dasp.Regression(budget=budget, **options))(x, [0, 1])


TRUTH = dasp.Explainer(Bent(), 0.0, method=dasp.Exact())(X, [0, 1]).per_player


def errors(found: dasp.Attribution) -> Tensor:
    return (found.per_player - TRUTH).norm(dim=-1) / TRUTH.norm(dim=-1)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("n", [1, 2, 5, 6])
def test_values_of_waves_are_those_of_every_coalition(n: int) -> None:
    rest = RelevanceProcess.faded(random(n), random(len(FADINGS)))
    process = WaveProcess(random(40, n), 0.7, rest)
    signs = torch.tensor([*itertools.product([-1.0, 1.0], repeat=n)], dtype=torch.float64)
    half = signs[signs[:, 0] > 0]
    weights = shapley_weights(half > 0)
    covariance = process.differences(half, half)
    waves = (half @ process.waves.T).sin()
    expected = 2 * 0.7 / 40 * waves @ waves.T + 0.3 * rest.differences(half, half)
    torch.testing.assert_close(covariance, expected, rtol=0, atol=1e-14)
    torch.testing.assert_close(process.values(half), weights.T @ covariance, rtol=0, atol=1e-14)
    torch.testing.assert_close(process.prior(), weights.T @ covariance @ weights, rtol=0, atol=1e-14)


def test_waves_come_near_to_the_distances_that_are_learnt() -> None:
    metric, shares = 0.3 * torch.eye(6).double() + 0.1 * random(6, 6), random(len(FADINGS)).softmax(0)
    signs = random(100, 6, seed=1).sign()
    waves = (signs @ _draw(metric, shares).T).sin()
    distance = _bent(signs @ metric, shares) - 2 / waves.shape[1] * waves @ waves.T
    assert distance.abs().max() < 0.03


def test_games_that_bend_along_sums_are_known_better_and_standard_errors_cover_it(monkeypatch: pytest.MonkeyPatch) -> None:
    equal, learnt = explain(192), explain(192, relevance=True)
    monkeypatch.setattr(posterior, "tells_directions", lambda n, pairs: False)
    players_alone = explain(192, relevance=True)
    assert errors(learnt).mean() < 0.4 * min(errors(equal).mean(), errors(players_alone).mean())
    smooth = (learnt.per_player - TRUTH)[:, 0] / learnt.standard_errors[:, 0]
    assert smooth.square().mean() < 1.5


def test_a_prior_joins_them_and_other_rows_do_not_matter() -> None:
    x = X[:2].clone()
    x[1, 4:6] = 0
    options = {"prior": dasp.Propagation(), "relevance": True}
    together = explain(100, x, **options)
    for row in range(2):
        alone = explain(100, x[row : row + 1], **options)
        assert torch.allclose(alone.per_player[0], together.per_player[row], rtol=0, atol=1e-6)


def test_a_row_of_a_float32_network_is_nearly_the_same_alone_and_torchs_usual_dtype_does_not_matter() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(N, 64), nn.Tanh(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
    explainer = dasp.Explainer(model, 0.0, method=dasp.Regression(budget=192, relevance=True))
    together = explainer(X.float())
    alone = explainer(X[:1].float())
    errors = together.standard_errors[0]
    assert ((alone.values - together.values[:1]).abs() < 0.02 * errors).all()
    torch.set_default_dtype(torch.float64)
    try:
        again = explainer(X.float())
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(again.values, together.values)


def test_rows_of_fewer_players_whose_directions_are_learnt_keep_the_memory_bound() -> None:
    x = random(2, 60)
    x[1, 30:] = 0
    method = dasp.Regression(budget=1000, relevance=True)
    explainer = dasp.Explainer(nn.Linear(60, 1).double(), 0.0, method=method, memory=37 * 2**20)
    with pytest.raises(dasp.MemoryBoundError, match="499 pairs of coalitions of 30 players"):
        explainer(x)


def test_few_pairs_of_many_players_are_not_asked_for_directions() -> None:
    assert tells_directions(12, 64)
    assert not tells_directions(4, 5)
    assert not tells_directions(64, 1000)
    assert not tells_directions(784, 4096)
