"""Regression on pairs: exact where it can be, honest standard errors, a prior that helps and never rules."""

from __future__ import annotations

import copy
import itertools
import math
from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn

import dasp
from dasp.estimators import posterior, regression
from dasp.estimators.designs import choose_pairs
from dasp.estimators.exact import shapley_weights
from dasp.estimators.odd_games import Fit, OddProcess, draw_pairs, every_pair, held_out
from dasp.memory import peak_bytes

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Given(dasp.Estimator):
    values: Tensor

    def estimate(self, game: dasp.game.Game, *, progress: bool = False) -> dasp.Estimate:
        return dasp.Estimate(self.values, None, 7.0, {"from": "a test"}, 2.0)


torch.manual_seed(0)
MODEL = nn.Sequential(nn.Linear(9, 24), nn.ReLU(), nn.Linear(24, 12), nn.ReLU(), nn.Linear(12, 2)).double()
X = 2 * torch.randn(6, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def exact(x: Tensor = X, model: nn.Module = MODEL) -> Tensor:
    return dasp.Explainer(model, 0.0, method=dasp.Exact())(x, [0, 1]).per_player


TRUTH = exact()


def explain(x: Tensor = X, model: nn.Module = MODEL, memory: int = 2**30, **options: object) -> dasp.Attribution:
    return dasp.Explainer(model, 0.0, method=dasp.Regression(**options), memory=memory)(x, [0, 1])


def relative(found: dasp.Attribution, truth: Tensor = TRUTH) -> Tensor:
    return (found.per_player - truth).norm(dim=-1) / truth.norm(dim=-1)


def mean_error(**options: object) -> float:
    return float(torch.stack([relative(explain(seed=s, **options)) for s in range(6)]).mean())


def squares(found: dasp.Attribution) -> Tensor:
    """Errors in standard errors, squared."""
    return ((found.per_player - TRUTH) / found.standard_errors).square()


@pytest.mark.parametrize("n", [1, 2, 3, 4, 8])
def test_a_budget_for_all_coalitions_is_exact(n: int) -> None:
    model = nn.Sequential(nn.Linear(n, 16), nn.Tanh(), nn.Linear(16, 2)).double()
    x = torch.randn(3, n, dtype=torch.float64)
    found = explain(x, model, budget=2**n)
    assert torch.allclose(found.per_player, exact(x, model), rtol=0, atol=1e-13)
    assert not found.standard_errors.any()
    assert found.evaluations == max(2, 2**n)


def test_error_falls_with_the_budget_and_is_below_that_of_permutations() -> None:
    found = {b: mean_error(budget=b) for b in (20, 72, 144, 288, 510)}
    assert found[72] < 0.6 * found[20]
    assert found[288] < 0.25 * found[72]
    assert found[510] < 0.15 * found[288]
    sampled = dasp.Explainer(MODEL, 0.0, method=dasp.PermutationSampling(permutations=18))(X, [0, 1])
    assert sampled.evaluations == 146
    assert found[144] < 0.5 * relative(sampled).mean()


@pytest.mark.parametrize(("budget", "most"), [(20, 3.0), (36, 1.5), (72, 1.5), (288, 1.5)])
def test_errors_are_as_large_as_the_standard_errors_say(budget: int, most: float) -> None:
    assert 0.7 < torch.stack([squares(explain(budget=budget, seed=s)) for s in range(20)]).mean() < most


def test_an_additive_game_is_found_exactly() -> None:
    model = nn.Linear(30, 2).double()
    x = torch.randn(2, 30, dtype=torch.float64)
    assert torch.allclose(explain(x, model, budget=120).per_player, x.unsqueeze(1) * model.weight, rtol=0, atol=1e-6)


@pytest.mark.parametrize("prior", [None, dasp.PermutationSampling(permutations=2)])
def test_a_perfect_fit_is_not_taken_for_proof(prior: dasp.Estimator | None) -> None:
    """A sum, and more where five players are present and five are not: hardly ever drawn, and beside it all pairs fit."""

    class Rare(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            one = x.sum(1) + 20 * x[:, :5].prod(1) * (1 - x[:, 5:10]).prod(1)
            return torch.stack((one, 3 * one), 1)

    x = torch.ones(1, 16, dtype=torch.float64)
    truth, unseen = exact(x, Rare()), False
    for budget in (48, 64, 128):
        found = explain(x, Rare(), budget=budget, prior=prior)
        unseen |= torch.allclose(found.per_player[:, 0], torch.ones_like(truth[:, 0]), rtol=0, atol=1e-6)
        error, expected = (found.per_player - truth).norm(dim=-1), found.standard_errors.norm(dim=-1)
        assert (error < 3 * expected).all()
        assert (expected < 0.1 * truth.norm(dim=-1)).all()
    assert unseen
    assert not explain(x[:, :7], nn.Linear(7, 2).double(), budget=128, prior=prior).standard_errors.any()


def prior_off_by(error: float, seed: int = 2) -> Given:
    noise = torch.randn(TRUTH.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return Given(TRUTH + error * TRUTH.square().mean(-1, keepdim=True).sqrt() * noise)


def test_a_good_prior_stays_and_a_bad_one_goes() -> None:
    alone = {b: mean_error(budget=b) for b in (36, 144)}
    good = prior_off_by(0.02)
    assert mean_error(budget=36, prior=good) < 0.035 < 0.4 * alone[36]
    assert mean_error(budget=144, prior=good) < min(0.025, alone[144])
    assert mean_error(budget=144, prior=prior_off_by(1.0)) < 1.1 * alone[144]
    assert mean_error(budget=144, prior=Given(torch.zeros_like(TRUTH))) < 1.2 * alone[144]


@pytest.mark.parametrize("error", [0.05, 0.2])
def test_standard_errors_with_a_prior_are_honest(error: float) -> None:
    found = [explain(budget=108, seed=s, prior=prior_off_by(error, s)) for s in range(10)]
    assert 0.5 < torch.stack([squares(f) for f in found]).mean() < 2.2


def test_the_prior_counts() -> None:
    found = explain(budget=40, prior=prior_off_by(0.1))
    assert (found.evaluations, found.propagations) == (40 + 7, 2)
    assert found.settings["prior"] == {"method": "Given", "from": "a test", "evaluations": 7.0}


def test_of_several_priors_the_nearer_one_counts_more() -> None:
    good, bad = prior_off_by(0.03), prior_off_by(0.6, 1)
    for budget, bound in ((36, 1.6), (144, 1.15)):
        alone = mean_error(budget=budget, prior=good)
        assert mean_error(budget=budget, prior=(good, bad)) < bound * alone
        assert mean_error(budget=budget, prior=(good, bad)) < mean_error(budget=budget, prior=bad)
    two = mean_error(budget=36, prior=[prior_off_by(0.06, 2), prior_off_by(0.06, 3)])
    assert two < 0.9 * mean_error(budget=36, prior=prior_off_by(0.06, 2))
    found = explain(budget=36, prior=(good, bad))
    assert [said["method"] for said in found.settings["prior"]] == ["Given", "Given"]
    assert (found.evaluations, found.propagations) == (36 + 2 * 7, 2 * 2)
    same_alone(X, budget=60, prior=(dasp.Propagation(nodes=2, rank=0), dasp.Propagation(nodes=3)))
    with pytest.raises(dasp.InputTypeError, match="prior must be an estimator"):
        dasp.Regression(prior=(good, 3))


def test_ridge_weighs_the_prior() -> None:
    prior = prior_off_by(0.3)
    plain, without = explain(budget=40), explain(budget=40, prior=prior, ridge=0)
    assert torch.equal(plain.per_player, without.per_player)
    assert without.evaluations == plain.evaluations
    kept = explain(budget=40, prior=prior, ridge=1e12).per_player
    assert torch.allclose(kept, prior.values + (TRUTH - prior.values).sum(-1, keepdim=True) / 9, atol=1e-8)
    between = explain(budget=40, prior=prior, ridge=1.0)
    assert ((between.per_player - kept).norm(dim=-1) < (plain.per_player - kept).norm(dim=-1)).all()
    assert (between.standard_errors.norm(dim=-1) < plain.standard_errors.norm(dim=-1)).all()
    equal = explain(budget=40, ridge=1e12)
    assert torch.allclose(equal.per_player, TRUTH.mean(-1, keepdim=True).expand_as(TRUTH), atol=1e-8)


@pytest.mark.parametrize(("n", "power"), [(1, 3.0), (2, 3.0), (5, 3.0), (6, 1.5), (7, 9.0)])
def test_covariances_are_sums_over_all_odd_interactions(n: int, power: float) -> None:
    sets = [t for k in range(1, n + 1, 2) for t in itertools.combinations(range(n), k)]
    inside = torch.tensor([[float(i in t) for i in range(n)] for t in sets], dtype=torch.float64)  # (K, n)
    energy = sum(float(k) ** -power for k in range(1, n + 1, 2))
    variance = torch.tensor([len(t) ** -power / energy / math.comb(n, len(t)) for t in sets], dtype=torch.float64)
    values = inside / inside.sum(1, keepdim=True)  # of one interaction of size 1
    members = torch.tensor(list(itertools.product([False, True], repeat=n)))
    signs = 2 * members.double() - 1
    characters = torch.where(inside.bool().unsqueeze(0), signs.unsqueeze(1), 1.0).prod(2)  # (2^n, K)
    process = OddProcess.of(n, power, CPU)
    assert torch.allclose(process.differences(signs, signs), (characters * variance) @ characters.T, atol=1e-14)
    assert torch.allclose(process.values(signs), (values.T * variance) @ characters.T, atol=1e-14)
    assert torch.allclose(process.prior(), (values.T * variance) @ values, atol=1e-14)


def test_covariances_of_many_players_stay_within_bounds() -> None:
    process = OddProcess.of(1500, 2.0, CPU)
    assert process.differ[0].item() == pytest.approx(1)
    assert process.differ.abs().max() <= 1 + 1e-12
    assert torch.allclose(process.differ, -process.differ.flip(0), atol=1e-12)  # odd games
    assert process.values(torch.ones(1, 1500, dtype=torch.float64)).sum().item() == pytest.approx(1)  # efficiency


def odd_game(n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Members of all pairs with everybody last, random differences (2, 2^(n-1)), and their values (2, n)."""
    members = torch.cat((every_pair(n, CPU), torch.ones(1, n, dtype=torch.bool)))
    differences = torch.randn(2, len(members), dtype=torch.float64, generator=torch.Generator().manual_seed(n))
    return members, differences, differences @ shapley_weights(members)


@pytest.mark.parametrize("power", [2, 6])
def test_a_process_that_has_seen_all_pairs_knows_the_values(power: float) -> None:
    members, differences, values = odd_game(6)
    fit = Fit.of(OddProcess.of(6, power, CPU), members, differences)
    assert torch.allclose(fit.values, values, atol=1e-5)
    assert fit.covariance.diagonal().abs().max() < 1e-9


def test_errors_of_leaving_one_out_are_those_of_leaving_it_out() -> None:
    members, differences, process = odd_game(5)[0][4:], odd_game(5)[1][:, 4:], OddProcess.of(5, 3, CPU)
    missed = []
    for j in range(len(members) - 1):
        rest = [k for k in range(len(members)) if k != j]
        fit = Fit.of(process, members[rest], differences[:, rest])
        z = 2 * members[j : j + 1].double() - 1
        cross = process.differences(z, fit.signs)
        left = 1 - cross @ torch.linalg.solve(process.differences(fit.signs, fit.signs), cross.T)
        missed.append((differences[:, j] - fit.surrogate(members[j : j + 1])[:, 0]).square() / left[0, 0])
    assert torch.allclose(Fit.of(process, members, differences).size, torch.stack(missed).mean(0), rtol=1e-6)


def test_held_out_pairs_correct_without_bias() -> None:
    members, differences, values = odd_game(6)
    order = torch.randperm(31, generator=torch.Generator().manual_seed(0))
    seen = torch.cat((order[:12], torch.tensor([31])))
    fit = Fit.of(OddProcess.of(6, 3, CPU), members[seen], differences[:, seen])
    rest = order[12:]
    lacking, variance = held_out(fit, members[rest], differences[:, rest], 5)
    assert torch.allclose(fit.values + lacking, values, atol=1e-8)  # all that are left
    assert not variance.any()
    found, variances, generator = [], [], torch.Generator().manual_seed(1)
    sizes = torch.minimum(members[rest].sum(1), 6 - members[rest].sum(1))
    for _ in range(2000):
        parts = [(sizes == k).nonzero()[:, 0] for k in (1, 2, 3)]
        some = rest[torch.cat([p[torch.randperm(len(p), generator=generator)[: (len(p) + 1) // 2]] for p in parts])]
        lacking, variance = held_out(fit, members[some], differences[:, some], 100)
        found.append(fit.values + lacking)
        variances.append(variance)
    spread = torch.stack(found).var(0)
    assert ((torch.stack(found).mean(0) - values).abs() < 4.5 * (spread / 2000).sqrt()).all()
    part = spread.sum(-1) / torch.stack(variances).mean(0)
    assert ((part > 0.4) & (part < 1.1)).all()


@pytest.mark.parametrize(("n", "count"), [(4, 5), (9, 17), (10, 60), (10, 500), (18, 400), (60, 100), (61, 119)])
def test_drawn_pairs_are_different_and_of_all_sizes_alike(n: int, count: int) -> None:
    drawn = draw_pairs(n, count, torch.Generator().manual_seed(0))
    assert drawn.shape == (count, n)
    assert len(torch.cat((drawn, ~drawn)).unique(dim=0)) == 2 * count
    size = torch.minimum(drawn.sum(1), n - drawn.sum(1))
    assert size.min() >= 1
    counts = torch.bincount(size, minlength=n // 2 + 1)[1:].tolist()
    coalitions = [2 * c if 2 * k == n else c for k, c in enumerate(counts, 1)]  # of size k; of the middle both halves
    some = [c for k, c in enumerate(coalitions, 1) if c < math.comb(n, k)]
    assert max(some) - min(some) <= 3
    assert all(c <= max(some) + 3 for k, c in enumerate(coalitions, 1) if c == math.comb(n, k))


def test_every_player_is_drawn_as_often() -> None:
    present = torch.zeros(11)
    for seed in range(400):
        drawn = draw_pairs(11, 40, torch.Generator().manual_seed(seed))
        present += torch.where(drawn.sum(1, keepdim=True) <= 5, drawn, ~drawn).sum(0)
    mean = present.mean()
    assert ((present - mean).abs() < 4.5 * mean.sqrt()).all()


def same_alone(x: Tensor, **options: object) -> None:
    together = explain(x, **options)
    assert together.gap.abs().max() < 1e-14
    for row in (0, 3):
        alone = explain(x[row : row + 1], memory=600_000, **options)
        assert torch.allclose(alone.per_player[0], together.per_player[row], rtol=0, atol=1e-9)
        assert torch.allclose(alone.standard_errors[0], together.standard_errors[row], rtol=0, atol=1e-9)
    for target in (0, 1):
        one = dasp.Explainer(MODEL, 0.0, method=dasp.Regression(**options))(x, target)
        assert torch.allclose(one.per_player[:, 0], together.per_player[:, target], rtol=0, atol=1e-9)


def test_pairs_beyond_those_fitted_lower_the_error_and_standard_errors_stay_honest(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (posterior, regression):
        monkeypatch.setattr(module, "MOST_FITTED", 60)
    monkeypatch.setattr(regression, "SCREENED", 40)
    monkeypatch.setattr(regression, "choose_pairs", partial(choose_pairs, most=30))
    same_alone(X, budget=300)
    errors = []
    for budget in (122, 242, 450):
        found = [explain(budget=budget, seed=s) for s in range(12)]
        errors.append(torch.stack([relative(f) for f in found]).mean())
        assert 0.5 < torch.stack([squares(f) for f in found]).mean() < 1.8
    assert errors[1] < 0.75 * errors[0]
    assert errors[2] < 0.6 * errors[1]


@pytest.mark.parametrize("options", [{}, {"prior": dasp.Propagation(nodes=2, rank=0)}, {"ridge": 0.5}])
def test_a_row_and_a_target_have_the_same_values_alone_as_together(options: dict[str, object]) -> None:
    x = X.clone()
    x[3, 4:6] = 0  # another number of players
    same_alone(x, budget=60, **options)


def test_a_seed_gives_the_same_values_and_another_one_others() -> None:
    first, again, other = (explain(budget=60, seed=seed).per_player for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


def test_players_and_rows_at_the_baseline_and_constant_models_get_zeros() -> None:
    x = X.clone()
    x[1, 2:6] = 0  # five players left: 32 evaluations are exact
    x[2] = 0
    found = explain(x, budget=40)
    assert torch.allclose(found.per_player[1], exact(x)[1], atol=1e-13)
    assert not found.per_player[1, :, 2:6].any()
    assert not found.per_player[2].any()
    assert not found.standard_errors[1:3].any()
    assert (found.standard_errors[0] > 0).all()
    assert found.evaluations == pytest.approx((4 * 40 + 32 + 2) / 6)
    constant = explain(torch.full((2, 9), 0.5), nn.Sequential(nn.ReLU(), nn.Hardtanh(5.0, 6.0)), budget=50)
    assert not torch.cat((constant.per_player, constant.standard_errors)).any()


def test_groups_of_elements_are_players() -> None:
    mask = torch.tensor([0, 1, 2, 3, 4, 5, 0, 1, 2])
    methods = dasp.Regression(budget=50), dasp.Exact()
    found, truth = (dasp.Explainer(MODEL, 0.0, method=method, players=mask)(X, [0, 1]) for method in methods)
    assert found.per_player.shape == (6, 2, 6)
    assert relative(found, truth.per_player).mean() < 0.05


def test_evaluations_are_counted_as_they_are_made(capsys: pytest.CaptureFixture[str]) -> None:
    rows = 0

    class Counted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            nonlocal rows
            rows += x.shape[0]
            y: Tensor = MODEL(x)
            return y

    found = dasp.Explainer(Counted(), 0.0, method=dasp.Regression(budget=61))(X, [0, 1], progress=True)
    assert found.evaluations == 60
    assert "348/348" in capsys.readouterr().err
    # Two rows to learn the output's shape, two to measure memory and six in other company come on top, once a call.
    assert rows == 6 * found.evaluations + 10


def test_float32_agrees_with_float64() -> None:
    single = explain(X.float(), copy.deepcopy(MODEL).float(), budget=80)
    assert single.per_player.dtype == torch.float32
    assert torch.allclose(single.per_player.double(), explain(budget=80).per_player, atol=1e-4)


def test_the_memory_bound_is_kept() -> None:
    bound, players, rows = 2**23, 40, 50
    explainer = dasp.Explainer(nn.Linear(players, 3), 0.0, method=dasp.Exact(force=True), memory=bound)
    made = dasp.Explainer(nn.Linear(2, 3), 0.0, method=dasp.Exact(), memory=bound)(torch.ones(rows, 2), [0, 1, 2])
    game = replace(
        made.auditor.args[0], model=explainer.model, inputs=(torch.ones(rows, players),),
        baselines=(torch.zeros(1, players),), players=dasp.Players.elements([(players,)]),
    )  # fmt: skip
    game.chunk  # noqa: B018 - measured once, outside the bound
    prior = Given(torch.ones(rows, 3, players))
    assert peak_bytes(lambda: dasp.Regression(budget=400, prior=prior).estimate(game)) < bound
    with pytest.raises(dasp.MemoryBoundError, match=r"9,999 pairs of coalitions of 40 players needs .* lower budget="):
        dasp.Regression(budget=20_000).estimate(game)


@pytest.mark.parametrize("prior", [None, dasp.PermutationSampling(permutations=2)])
def test_the_memory_bound_is_kept_with_hardly_more_pairs_than_players(prior: dasp.Estimator | None) -> None:
    model, x, bound = nn.Linear(300, 1), torch.ones(1, 300), int(13.2e6)
    explainer = dasp.Explainer(model, 0.0, method=dasp.Regression(budget=602, prior=prior), memory=bound)
    assert peak_bytes(lambda: explainer(x)) < bound
    explainer = dasp.Explainer(model, 0.0, method=dasp.Regression(budget=602, prior=prior), memory=bound // 2)
    with pytest.raises(dasp.MemoryBoundError, match=r"300 pairs of coalitions of 300 players needs"):
        explainer(x)


def test_outputs_too_large_to_be_squared_are_refused() -> None:
    model = nn.Linear(20, 1).double()
    model.weight.data.fill_(1e300)
    for method in (dasp.Regression(budget=100), dasp.Regression(budget=100, relevance=True)):
        with pytest.raises(dasp.NumericsError, match="Explain the output divided by a number"):
            dasp.Explainer(model, 0.0, method=method)(torch.ones(2, 20, dtype=torch.float64))


def test_a_budget_too_small_is_refused_with_the_least_that_works() -> None:
    with pytest.raises(dasp.CostError, match=r"too small for 9 players .* budget=20 or more"):
        explain(budget=19)
    with pytest.raises(dasp.CostError, match="budget=8 or more"):
        dasp.Explainer(nn.Linear(3, 1), 0.0, method=dasp.Regression(budget=7))(torch.ones(1, 3))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"budget": 10.0}, TypeError, "budget must be an int, got float"), ({"budget": True}, TypeError, "got bool"),
        ({"budget": 1}, ValueError, "at least 2"), ({"prior": "exact"}, TypeError, "got str"),
        ({"prior": dasp.Propagation}, TypeError, "the class Propagation"), ({"ridge": "1"}, TypeError, "got str"),
        ({"ridge": -1.0}, ValueError, "0 or more"), ({"ridge": math.inf}, ValueError, "finite"),
        ({"seed": -1}, ValueError, "seed must be from 0"), ({"seed": 1.0}, TypeError, "seed must be an int"),
    ],
)  # fmt: skip
def test_bad_options(options: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        dasp.Regression(**options)
    assert isinstance(caught.value, dasp.InputTypeError if error is TypeError else dasp.InputError)
