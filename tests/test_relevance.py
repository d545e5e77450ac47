"""How much each player matters, learnt: the process in closed form against a list of all interactions, and what it gains."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

import dasp
from dasp.estimators import posterior, regression, relevance, waves
from dasp.estimators.relevance import RelevanceProcess
from dasp.memory import peak_bytes

N = 12
torch.manual_seed(0)
MODEL = nn.Sequential(nn.Linear(N, 32), nn.Tanh(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 2)).double()
UNEVEN = 3.0 * 0.6 ** torch.arange(N, dtype=torch.float64)
X = UNEVEN * torch.randn(3, N, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
TRUTH = dasp.Explainer(MODEL, 0.0, method=dasp.Exact())(X, [0, 1]).per_player


def explain(x: Tensor = X, memory: int = 2**30, **options: object) -> dasp.Attribution:
    return dasp.Explainer(MODEL, 0.0, method=dasp.Regression(**options), memory=memory)(x, [0, 1])


def errors(found: dasp.Attribution) -> Tensor:
    return (found.per_player - TRUTH).norm(dim=-1) / TRUTH.norm(dim=-1)


@pytest.mark.parametrize("n", [1, 2, 5, 6])
def test_the_process_is_that_of_all_interactions_listed(n: int) -> None:
    generator = torch.Generator().manual_seed(0)
    faded = torch.tensor([[0.01], [0.2], [1.0], [5.0]], dtype=torch.float64)
    process = RelevanceProcess(
        torch.rand(4, n, dtype=torch.float64, generator=generator) * faded,
        torch.tensor([0.1, 0.4, 0.3, 0.2], dtype=torch.float64),
    )
    odd = [c for k in range(1, n + 1, 2) for c in itertools.combinations(range(n), k)]
    variance = torch.zeros(len(odd), dtype=torch.float64)
    for strength, share in zip(process.strengths, process.shares, strict=True):
        each = torch.stack([strength.tanh()[list(c)].prod() for c in odd])
        variance += share * each / each.sum()
    signs = torch.tensor([*itertools.product([-1.0, 1.0], repeat=n)], dtype=torch.float64)
    interactions = torch.stack([signs[:, list(c)].prod(1) for c in odd])  # (T, 2^n)
    shares = torch.tensor([[(i in c) / len(c) for c in odd] for i in range(n)], dtype=torch.float64)
    of_differences = (interactions.T * variance) @ interactions
    torch.testing.assert_close(process.differences(signs, signs), of_differences, rtol=0, atol=1e-14)
    torch.testing.assert_close(process.values(signs), (shares * variance) @ interactions, rtol=0, atol=1e-14)
    torch.testing.assert_close(process.prior(), (shares * variance) @ shares.T, rtol=0, atol=1e-14)


def test_many_players_and_large_relevances_stay_finite() -> None:
    strengths = torch.tensor([[1e-5], [0.1], [6.0]], dtype=torch.float64).expand(3, 800)
    process = RelevanceProcess(strengths, torch.full((3,), 1 / 3, dtype=torch.float64))
    signs = 2 * torch.randint(0, 2, (5, 800), generator=torch.Generator().manual_seed(0)).double() - 1
    assert torch.allclose(process.differences(signs, signs).diagonal(), torch.ones(5, dtype=torch.float64))
    assert process.values(signs).isfinite().all()
    assert process.prior().isfinite().all()
    assert (torch.linalg.eigvalsh(process.prior()) > -1e-12).all()


# Of 127 pairs 96 are learnt from, the others judge.
@pytest.mark.parametrize("budget", [256, pytest.param(768, marks=pytest.mark.long)])
def test_unequal_players_are_known_better_and_standard_errors_cover_it(budget: int) -> None:
    equal, learnt = (explain(budget=budget, relevance=learn) for learn in (False, True))
    assert errors(learnt).mean() < 0.65 * errors(equal).mean()
    assert ((learnt.per_player - TRUTH) / learnt.standard_errors).square().mean() < 1.5
    assert learnt.settings["relevance"] is True
    assert learnt.gap.abs().max() < 1e-13


def test_a_prior_joins_it() -> None:
    prior = dasp.Propagation()
    both, alone = (explain(budget=64, prior=p, relevance=True) for p in (prior, None))
    assert errors(both).mean() < 0.7 * errors(alone).mean()
    found = explain(budget=64, prior=(prior, dasp.Propagation(mixture=4)), relevance=True)
    assert errors(found).mean() < 0.7 * errors(alone).mean()


@pytest.mark.parametrize(
    "options",
    [pytest.param({"budget": 128}, marks=pytest.mark.long), {"budget": 128, "prior": dasp.Propagation()},
     pytest.param({"budget": 600}, marks=pytest.mark.long)],
)  # fmt: skip
def test_a_row_has_the_same_values_alone_as_together(options: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (posterior, regression):
        monkeypatch.setattr(module, "MOST_FITTED", 256)  # of 600 evaluations some correct what the others give
    for learner in (posterior, relevance, waves):
        monkeypatch.setattr(learner, "LEARNT_FROM", 128)
    x = X.clone()
    x[1] = 0  # nobody plays
    x[2, 4:6] = 0
    together = explain(x, relevance=True, **options)
    for row in range(3):
        alone = explain(x[row : row + 1], relevance=True, **options)
        assert torch.allclose(alone.per_player[0], together.per_player[row], rtol=0, atol=1e-6)
        assert torch.allclose(alone.standard_errors[0], together.standard_errors[row], rtol=1e-3, atol=1e-9)


def test_games_that_never_move_and_games_of_one_player_are_left_alone() -> None:
    class Third(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack((x[:, 2].exp(), 0 * x[:, 0] + 4), 1)

    found = dasp.Explainer(Third(), 0.0, method=dasp.Regression(budget=200, relevance=True))(X, [0, 1])
    expected = torch.zeros_like(found.per_player)
    expected[:, 0, 2] = X[:, 2].exp() - 1
    assert torch.allclose(found.per_player, expected, rtol=0, atol=1e-5)
    assert not found.per_player[:, 1].any()


def test_the_callers_modes_are_left_as_they_were() -> None:
    with torch.no_grad():
        inside = explain(budget=64, relevance=True)
        assert not torch.is_grad_enabled()
    with torch.inference_mode():
        inferred = explain(budget=64, relevance=True)
    assert torch.equal(inside.per_player, inferred.per_player)
    assert not inside.per_player.requires_grad


def test_float32_games_are_fitted_in_float64() -> None:
    single = dasp.Explainer(MODEL.float(), 0.0, method=dasp.Regression(budget=192, relevance=True))(X.float(), [0, 1])
    MODEL.double()
    assert torch.allclose(single.per_player.double(), explain(budget=192, relevance=True).per_player, rtol=0, atol=1e-3)


def test_the_memory_bound_is_kept() -> None:
    model, x, bound = nn.Linear(150, 1), torch.ones(1, 150), int(21e6)
    learning = dasp.Regression(budget=402, relevance=True)
    explainer = dasp.Explainer(model, 0.0, method=learning, memory=bound)
    assert peak_bytes(lambda: explainer(x)) < bound
    with pytest.raises(dasp.MemoryBoundError, match=r"200 pairs of coalitions of 150 players needs"):
        dasp.Explainer(model, 0.0, method=learning, memory=bound // 2)(x)


def test_relevance_is_a_choice() -> None:
    with pytest.raises(dasp.errors.InputTypeError, match="relevance must be True or False, got str"):
        dasp.Regression(relevance="yes")
