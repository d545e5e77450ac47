"""Refine betters its prior where that costs no more than the pairs that come next."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import dasp
from dasp.estimators.base import Estimate
from dasp.estimators.ladder import First, Ladder
from dasp.game import Game

torch.manual_seed(0)
SMALL = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 2)).double()
PARTS = [nn.Sequential(nn.Linear(10, 12), nn.ReLU(), nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 2)).double() for _ in range(7)]
GENERATOR = torch.Generator().manual_seed(1)
X = 2 * torch.randn(3, 20, dtype=torch.float64, generator=GENERATOR)
Y = 2 * torch.randn(2, 70, dtype=torch.float64, generator=GENERATOR)


class Wide(nn.Module):
    """Seven networks of ten players each, so that the values are known."""

    def forward(self, x: Tensor) -> Tensor:
        return sum(part(x[:, 10 * k : 10 * k + 10]) for k, part in enumerate(PARTS))


WIDE = Wide()


def explain(x: Tensor, model: nn.Module, **options: object) -> dasp.Attribution:
    return dasp.Explainer(model, 0.0, method=dasp.Refine(**options))(x, 0)


def names(found: dasp.Attribution) -> list[tuple[str, object]]:
    said = found.settings["better_priors"]
    return [(s["method"], s.get("samples", (s.get("mixture"), s.get("rank")))) for s in said]


def test_players_are_enumerated_once_that_costs_no_more_than_pairs() -> None:
    found = explain(X[:1], SMALL, tolerance=1e-4, budget=9_000)
    assert names(found) == [("Propagation", (2, "full")), ("Propagation", (4, "full"))]
    assert found.propagations > 10 * explain(X[:1], SMALL, tolerance=0.5).propagations
    assert max(found.settings["row_evaluations"]) <= 9_000


def test_of_many_players_gradients_and_all_factors_come_next() -> None:
    found = explain(Y, WIDE, tolerance=0.002, budget=12_000)
    kinds = names(found)
    assert ("VertexGradients", 256) in kinds
    assert ("VertexGradients", 1024) in kinds
    assert ("Propagation", (None, "full")) in kinds or ("Propagation", (0, "full")) in kinds
    assert max(found.settings["row_evaluations"]) <= 12_000
    assert found.evaluations <= 12_000
    parts = zip(PARTS, Y.split(10, 1), strict=True)
    truth = torch.cat([dasp.Explainer(part, 0.0, method=dasp.Exact())(y, 0).per_player for part, y in parts], 2)
    error, first = (
        ((values - truth).norm(dim=-1) / truth.norm(dim=-1)).mean()
        for values in (found.per_player, dasp.Explainer(WIDE, 0.0)(Y, 0).per_player)
    )
    assert error < 0.6 * first


def test_a_row_is_the_same_alone() -> None:
    together, alone = explain(Y, WIDE, tolerance=0.01, budget=3_500), explain(Y[1:], WIDE, tolerance=0.01, budget=3_500)
    torch.testing.assert_close(alone.per_player[0], together.per_player[1], rtol=1e-7, atol=1e-9)
    assert names(alone) == names(together)


def test_what_was_set_stays() -> None:
    for prior in (dasp.Propagation(mixture=0, rank="full"), dasp.VertexGradients(samples=16), None):
        found = explain(X[:1], SMALL, tolerance=1e-4, budget=2_000, prior=prior)
        assert not found.settings.get("better_priors")


class Unseen(nn.Module):
    """A network that gives no gradient."""

    def forward(self, x: Tensor) -> Tensor:
        return WIDE(x).detach() + 0 * x.sum(1, keepdim=True)


class Zeros(dasp.Estimator):
    def estimate(self, game: Game, *, progress: bool = False) -> Estimate:
        values = torch.zeros(game.batch, game.targets.count, game.players.count, dtype=torch.float64)
        return Estimate(values, None, 0.0, {})


def test_a_better_prior_that_is_refused_is_done_without_and_said_so() -> None:
    found = explain(Y, Unseen(), tolerance=1e-3, budget=4_000, prior=Zeros())
    assert [said["method"] for said in found.settings["better_priors"]] == ["VertexGradients"]
    assert "gradient of Unseen is 0" in found.settings["better_priors"][0]["refused"]


def test_an_argument_with_as_many_entries_as_rows_are_left_is_not_taken_apart() -> None:
    class Shifted(nn.Module):
        def forward(self, x: Tensor, shift: Tensor) -> Tensor:
            return WIDE(x) + shift.sum()

    shift = torch.ones(2, dtype=torch.float64)
    y = torch.cat((Y, 1e-3 * Y[1:]))  # the last is done at once
    explainer = dasp.Explainer(Shifted(), 0.0, method=dasp.Refine(tolerance=0.01, budget=3_500))
    found = explainer(y, 0, additional_forward_args=shift)
    plain = explain(y, WIDE, tolerance=0.01, budget=3_500)
    torch.testing.assert_close(found.per_player, plain.per_player, rtol=1e-7, atol=1e-9)


def test_rungs_are_passed_over_that_make_more_evaluations_than_are_left() -> None:
    first = Estimate(torch.zeros(1, 1, 80), None, 2.0, {"rank": 64, "mixture": None, "nodes": 4}, 4.0)
    ladder = Ladder([First(dasp.Propagation(), first, torch.zeros(1, 1, 80))], 80, 0)
    taken = [rung.estimator for rung in ladder.affordable(1e9, 3_000)]
    assert [type(e).__name__ for e in taken] == ["VertexGradients", "VertexGradients", "Propagation"]


def test_gradients_of_the_user_are_not_replaced_by_fewer() -> None:
    first = Estimate(torch.zeros(1, 1, 80), None, 2000.0, {}, 0.0)
    given = First(dasp.VertexGradients(samples=2000), first, torch.zeros(1, 1, 80))
    for firsts in ([given], [First(Zeros(), first, given.values), given]):
        samples = [rung.estimator.samples for rung in Ladder(firsts, 80, 0).affordable(1e9, 1e9)]
        assert samples == [4096]


def test_of_two_priors_of_a_class_the_first_is_bettered() -> None:
    estimate = Estimate(torch.zeros(1, 1, 80), None, 2.0, {"rank": 64, "mixture": None, "nodes": 4}, 4.0)
    firsts = [First(dasp.Propagation(seed=seed), estimate, torch.full((1, 1, 80), float(seed))) for seed in (1, 2)]
    ladder = Ladder(firsts, 80, 0)
    assert [float(values.mean()) for values in ladder.priors.values()] == [1.0, 2.0]
    better = [rung.estimator for rung in ladder.affordable(1e9, 1e9) if isinstance(rung.estimator, dasp.Propagation)]
    assert [(one.seed, one.rank) for one in better] == [(1, "full")]
