"""Refine: ends below the tolerance that it claims, says why it ended, and loses nothing."""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import dasp
from dasp.bounds import upper_bound
from dasp.estimators.base import Estimate
from dasp.estimators.lacking import Blocks
from dasp.game import Game

torch.manual_seed(0)
MODEL = nn.Sequential(nn.Linear(14, 24), nn.ReLU(), nn.Linear(24, 12), nn.ReLU(), nn.Linear(12, 2)).double()
X = 1.5 * torch.randn(24, 14, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


ONCE = dasp.Model(MODEL)  # captured once for many tests


def explain(x: Tensor = X, model: nn.Module | dasp.Model = ONCE, target: object = 0, **options: object) -> dasp.Attribution:
    return dasp.Explainer(model, 0.0, method=dasp.Refine(**options))(x, target)


@pytest.fixture(scope="module")
def truth() -> Tensor:
    return dasp.Explainer(MODEL, 0.0, method=dasp.Exact())(X, [0, 1]).per_player


def relative(found: Tensor, truth: Tensor) -> Tensor:
    return (found - truth).norm(dim=-1) / truth.norm(dim=-1)


@pytest.mark.parametrize("tolerance", [0.1, 0.03])
def test_ends_below_the_tolerance_and_its_bounds_hold(truth: Tensor, tolerance: float) -> None:
    errors, ended, bounds = [], [], []
    for seed in range(2):
        found = explain(tolerance=tolerance, seed=seed)
        errors.append(relative(found.per_player[:, 0], truth[:, 0]))
        ended += found.settings["ended"]
        bounds.append(torch.tensor(found.settings["measured_bound"])[:, 0])
    error, bound = torch.cat(errors), torch.cat(bounds)
    assert set(ended) <= {"tolerance", "exact"}
    assert (error <= tolerance).double().mean() >= 0.95
    assert (error <= bound + 1e-9).double().mean() >= 0.95
    assert (bound <= tolerance).all()


def test_a_tighter_tolerance_costs_more_and_ends_exact(truth: Tensor) -> None:
    loose, tight, exact = (explain(X[:8], tolerance=t) for t in (0.3, 0.05, 1e-3))
    assert loose.evaluations < tight.evaluations < exact.evaluations
    assert set(exact.settings["ended"]) == {"exact"}
    torch.testing.assert_close(exact.per_player[:, 0], truth[:8, 0], rtol=0, atol=1e-10)


def test_where_all_coalitions_fit_the_budget_it_is_exact(truth: Tensor) -> None:
    found = explain(budget=2**14, target=[0, 1])
    assert set(found.settings["ended"]) == {"exact"}
    assert found.settings["measured_bound"] == [[0.0, 0.0]] * len(X)
    torch.testing.assert_close(found.per_player, truth, rtol=0, atol=1e-10)


def test_a_budget_is_kept_and_what_was_not_reached_is_not_claimed(truth: Tensor) -> None:
    found = explain(tolerance=0.001, budget=400)
    assert set(found.settings["ended"]) == {"budget"}
    assert max(found.settings["row_evaluations"]) <= 400
    bound = torch.tensor(found.settings["measured_bound"])[:, 0]
    assert (bound > 0.001).all()
    assert (relative(found.per_player[:, 0], truth[:, 0]) <= bound).double().mean() > 0.9
    assert (found.gap.abs() < 0.2).all()


@pytest.mark.parametrize("budget", [18, 40, 66, 68, 70, 72, 82, 134])
def test_no_budget_leaves_too_little_for_its_last_audit(budget: int) -> None:
    found = explain(X[:3], tolerance=1e-4, budget=budget)
    assert set(found.settings["ended"]) == {"budget"}
    assert max(found.settings["row_evaluations"]) <= budget
    assert torch.tensor(found.settings["measured_bound"]).isfinite().all()


def test_every_target_is_below_the_tolerance(truth: Tensor) -> None:
    found = explain(tolerance=0.05, target=[0, 1])
    assert (relative(found.per_player, truth) <= 0.05).double().mean() >= 0.95


def test_a_row_is_the_same_alone_and_from_a_seed() -> None:
    x = X[:8]
    together, alone = explain(x, tolerance=0.05), explain(X[3:4], tolerance=0.05)
    torch.testing.assert_close(alone.per_player[0], together.per_player[3], rtol=1e-9, atol=1e-9)
    assert alone.settings["row_evaluations"] == together.settings["row_evaluations"][3:4]
    assert torch.equal(explain(x, tolerance=0.05).per_player, together.per_player)
    assert not torch.equal(explain(x, tolerance=0.05, seed=1).per_player, together.per_player)


def test_an_audit_does_not_use_the_coalitions_of_refine(truth: Tensor) -> None:
    found = explain(X[:4], tolerance=0.1)
    audits = [found.audit(800, seed=seed).squared_error[:, 0] for seed in range(30)]
    square = (found.per_player[:, 0] - truth[:4, 0]).square().sum(-1)
    mean, spread = torch.stack(audits).mean(0), torch.stack(audits).std(0) / 30**0.5
    assert ((mean - square).abs() < 4 * spread).all()


def test_players_and_rows_at_the_baseline() -> None:
    x = X[:3].clone()
    x[0] = 0.0
    x[1, :6] = 0.0
    found = explain(x, tolerance=0.05)
    exact = dasp.Explainer(MODEL, 0.0, method=dasp.Exact())(x, 0)
    assert found.settings["ended"][0] == "exact"
    assert (found.per_player[0] == 0).all()
    assert (found.per_player[1, 0, :6] == 0).all()
    assert (relative(found.per_player, exact.per_player)[1:] < 0.05).all()


def test_a_network_that_the_prior_refuses_is_done_without_and_said_so(truth: Tensor) -> None:
    class Sorted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return MODEL(x) + 0.1 * x.sort(1).values[:, -2:]

    exact = dasp.Explainer(Sorted(), 0.0, method=dasp.Exact())(X, 0).per_player
    with pytest.warns(UserWarning, match=r"(?s)goes on without Propagation, which refuses this network.*sort"):
        found = explain(model=Sorted(), tolerance=0.1)
    assert "sort" in found.settings["prior"]["refused"]
    assert (relative(found.per_player, exact) <= 0.1).double().mean() >= 0.95


def test_several_priors(truth: Tensor) -> None:
    class Refuses(dasp.Estimator):
        def estimate(self, game: Game, *, progress: bool = False) -> Estimate:
            raise dasp.MissingRuleError("no rule")

    good, gradients = dasp.Propagation(), dasp.VertexGradients(samples=64)
    with pytest.warns(UserWarning, match="goes on without Refuses"):
        found = explain(tolerance=0.05, budget=4000, prior=[good, Refuses(), gradients])
    assert [said["method"] for said in found.settings["prior"]] == ["Propagation", "Refuses", "VertexGradients"]
    assert found.settings["prior"][1]["refused"] == "no rule"
    error = relative(found.values, truth[:, 0])
    assert found.settings["ended"] == ["tolerance"] * len(X)
    assert bool((error <= torch.tensor(found.settings["measured_bound"])[:, 0]).all())
    assert bool((error <= 0.05).all())
    once = explain(tolerance=0.05, budget=4000, prior=(gradients,))
    assert torch.equal(once.values, explain(tolerance=0.05, budget=4000, prior=gradients).values)
    assert torch.equal(explain(tolerance=0.2, prior=()).values, explain(tolerance=0.2, prior=None).values)


def test_without_a_prior() -> None:
    exact = dasp.Explainer(MODEL, 0.0, method=dasp.Exact())(X, 0).per_player
    found = explain(tolerance=0.1, prior=None)
    assert found.settings["prior"] is None
    assert found.propagations == 0
    assert (relative(found.per_player, exact) <= 0.1).double().mean() >= 0.95


def test_rounding_is_not_taken_for_the_truth() -> None:
    model = nn.Sequential(nn.Linear(14, 8), nn.ReLU(), nn.Linear(8, 1))
    with torch.no_grad():
        model[2].bias += 1e5
        model[2].weight *= 1e-2
    found = dasp.Explainer(model, 0.0, method=dasp.Refine(tolerance=0.001))(X[:3].float())
    assert set(found.settings["ended"]) == {"rounding"}


def test_float32_and_float64_agree() -> None:
    single = nn.Sequential(nn.Linear(14, 24), nn.ReLU(), nn.Linear(24, 12), nn.ReLU(), nn.Linear(12, 2))
    single.load_state_dict(MODEL.state_dict())
    found = dasp.Explainer(single, 0.0, method=dasp.Refine(tolerance=0.05))(X[:6].float(), 0)
    torch.testing.assert_close(found.per_player.double(), explain(X[:6], tolerance=0.05).per_player, rtol=0.02, atol=2e-3)


def test_work_is_kept_and_gone_on_with(tmp_path: Path) -> None:
    calls = 0

    class Counted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            nonlocal calls
            calls += len(x)
            return MODEL(x)

    model, keep = Counted(), tmp_path / "pairs.safetensors"
    first = explain(X[:4], model, tolerance=0.1, keep=keep, prior=None)
    spent, calls = calls, 0
    again = explain(X[:4], model, tolerance=0.1, keep=keep, prior=None)
    assert torch.equal(again.per_player, first.per_player)
    assert calls < spent / 4
    calls = 0
    further = explain(X[:4], model, tolerance=0.04, keep=keep, prior=None)
    resumed, calls = calls, 0
    fresh = explain(X[:4], model, tolerance=0.04, prior=None)
    assert torch.equal(further.per_player, fresh.per_player)
    assert resumed < calls
    with pytest.raises(dasp.DataFileError, match="belongs to another model, other rows"):
        explain(X[4:8], model, keep=keep, prior=None)
    with pytest.raises(dasp.DataFileError, match="cannot read"):
        (tmp_path / "no").write_text("nothing")
        explain(X[:4], model, keep=tmp_path / "no")


def test_an_interruption_keeps_what_was_spent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(nn.Module):
        left = 500

        def forward(self, x: Tensor) -> Tensor:
            self.left -= len(x)
            if self.left < 0:
                raise KeyboardInterrupt
            return MODEL(x)

    model, keep = Interrupted(), tmp_path / "pairs.safetensors"
    with pytest.raises(KeyboardInterrupt):
        explain(X[:2], model, tolerance=0.01, keep=keep, prior=None)
    assert keep.exists()
    model.left = 10**9
    resumed = explain(X[:2], model, tolerance=0.01, keep=keep, prior=None)
    assert torch.equal(resumed.per_player, explain(X[:2], tolerance=0.01, prior=None).per_player)


def test_settings_are_json_and_saved(tmp_path: Path) -> None:
    found = explain(X[:2], tolerance=0.1)
    json.dumps(found.settings)
    loaded = dasp.Attribution.load(found.save(tmp_path / "values"))
    assert loaded.settings == found.settings
    assert loaded.settings["ended"] == ["tolerance"] * 2


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"tolerance": 0}, dasp.InputError, "above 0"),
        ({"tolerance": "2 %"}, dasp.InputTypeError, "tolerance must be a number"),
        ({"budget": 1}, dasp.InputError, "at least 2"),
        ({"budget": 1e4}, dasp.InputTypeError, "budget must be an int"),
        ({"confidence": 1.0}, dasp.InputError, "confidence"),
        ({"confidence": 0.2}, dasp.InputError, "confidence"),
        ({"prior": "none"}, dasp.InputTypeError, "prior must be an estimator"),
        ({"prior": dasp.Refine()}, dasp.InputError, "another estimator"),
        ({"prior": (dasp.Propagation(), 3)}, dasp.InputTypeError, "None, got int"),
        ({"prior": (dasp.Propagation(), dasp.Refine())}, dasp.InputError, "another estimator"),
        ({"seed": -1}, dasp.InputError, "seed"),
    ],
)
def test_bad_options(options: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        dasp.Refine(**options)


def test_what_cannot_be_done_is_refused_before_it_starts() -> None:
    with pytest.raises(dasp.CostError, match="give budget=18 or more"):
        explain(budget=17)
    with pytest.raises(dasp.CostError, match="give budget=34 or more"):
        explain(budget=33, prior=None)
    with pytest.raises(dasp.InputError, match=r"below what torch.float32 resolves.*explain the model in float64"):
        dasp.Explainer(nn.Linear(14, 1), 0.0, method=dasp.Refine(tolerance=1e-8))(X.float())


@pytest.mark.parametrize("skewed", [False, True])
@pytest.mark.parametrize("count", [8, 20, 80])
@pytest.mark.parametrize(("spread", "most"), [(0.5, 1.4), (1.0, 1.8), (2.0, 2.8)])
def test_the_bound_fails_as_seldom_as_it_says_and_is_near(skewed: bool, count: int, spread: float, most: float) -> None:
    """Estimates whose mean is off by `spread` times 0.077, where the error is 0.1; skewed ones are log-normal."""
    generator = torch.Generator().manual_seed(0)
    size, error = 12, 0.1
    away = torch.randn(1000, 1, size, generator=generator, dtype=torch.float64)
    away = error * away / away.norm(dim=-1, keepdim=True)
    phi = torch.ones(size, dtype=torch.float64) / size**0.5
    noise = torch.randn(1000, count, size, generator=generator, dtype=torch.float64)
    if skewed:
        noise = (noise.exp() - math.exp(0.5)) / math.sqrt(math.exp(2) - math.exp(1))
    _, bound = upper_bound(away + spread * 0.2 * math.sqrt(count / 80) * noise, phi - away[:, 0], 0.95)
    assert (bound >= error).double().mean() > 0.935
    assert bound.median() < most * error
    assert bound.quantile(0.95) < 2 * most * error


@pytest.mark.parametrize("n", [2, 3, 7])
def test_estimates_of_what_is_lacking_are_unbiased(n: int) -> None:
    generator = torch.Generator().manual_seed(2)
    game = torch.randn(2**n, generator=generator, dtype=torch.float64)
    codes = 2 ** torch.arange(n)
    members = (torch.arange(2**n).unsqueeze(1) & codes) > 0
    truth = dasp.estimators.exact.shapley_weights(members).T @ game
    blocks = Blocks.draw(n, 40_000, generator)
    place = (blocks.members * codes).sum(1)
    found = blocks.estimates((game[place] - game[2**n - 1 - place]).unsqueeze(0), (game[-1] - game[0]).unsqueeze(0))[0]
    assert ((found.mean(0) - truth).abs() < 4.5 * found.std(0) / len(found) ** 0.5 + 1e-9).all()
    torch.testing.assert_close(found.sum(1), (game[-1] - game[0]).expand(len(found)))


def test_a_coalition_without_a_value_is_named_and_handed_over() -> None:
    class Log(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (1.0 - x[:, :1] + x[:, 1:2]).log() + MODEL(x)[:, :1]

    x = X[:2].clone()
    x[:, 0], x[:, 1] = 1.5, 1.0
    with pytest.raises(dasp.CoalitionError, match=r"gives NaN for row \d with .* players present") as caught:
        dasp.Explainer(Log(), 0.0, method=dasp.Refine(prior=None))(x)
    found = pickle.loads(pickle.dumps(caught.value))
    assert found.coalition[0]
    assert not found.coalition[1]
    assert not Log()(found.inputs[0]).isfinite().all()


def test_a_prior_of_zeros_is_not_taken_for_rounding() -> None:
    class Zeros(dasp.Estimator):
        def estimate(self, game: Game, *, progress: bool = False) -> Estimate:
            shape = game.batch, game.targets.count, game.players.count
            return Estimate(torch.zeros(shape, dtype=torch.float64), None, 0.0, {})

    found = explain(X[:2], tolerance=0.1, prior=Zeros())
    assert found.settings["ended"] == ["tolerance", "tolerance"]
