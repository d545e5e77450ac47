"""The audit: unbiased, its interval covers, and it is independent of what it judges."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import dasp
from dasp.audit import Audit, audit
from dasp.bounds import covering, row_means, student, u_variance
from dasp.game import Game
from dasp.memory import peak_bytes


@pytest.fixture(scope="module")
def truth() -> dasp.Attribution:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 24), nn.ReLU(), nn.Linear(24, 2)).double()
    x = 2 * torch.randn(2, 10, dtype=torch.float64)
    return dasp.Explainer(model, 0.0, method=dasp.Exact())(x, [0, 1])


def game_of(result: dasp.Attribution) -> Game:
    game: Game = result.auditor.args[0]
    return game


def wrong_by(truth: dasp.Attribution, relative: float) -> Tensor:
    """Values whose relative error is known."""
    phi = truth.per_player
    noise = torch.randn(phi.shape, dtype=phi.dtype, generator=torch.Generator().manual_seed(5))
    return phi + relative * noise / noise.norm(dim=-1, keepdim=True) * phi.norm(dim=-1, keepdim=True)


def repeated(truth: dasp.Attribution, relative: float, evaluations: int, times: int = 60) -> list[Audit]:
    values = wrong_by(truth, relative)
    return [audit(game_of(truth), values, evaluations=evaluations, seed=seed) for seed in range(times)]


@pytest.mark.parametrize("relative", [0.0, 0.1, 0.5])
def test_squared_error_and_norm_are_unbiased(truth: dasp.Attribution, relative: float) -> None:
    audits = repeated(truth, relative, 300)
    phi = truth.per_player
    for found, true in (
        (torch.stack([a.squared_error for a in audits]), (wrong_by(truth, relative) - phi).square().sum(-1)),
        (torch.stack([a.squared_norm for a in audits]), phi.square().sum(-1)),
    ):
        deviation = (found.mean(0) - true) / (found.std(0) / len(found) ** 0.5)
        assert deviation.abs().max() < 3.5


@pytest.mark.parametrize(("relative", "evaluations"), [(0.05, 80), (0.2, 80), (0.1, 300), (0.3, 1000), (0.0, 300)])
def test_interval_covers_the_true_error(truth: dasp.Attribution, relative: float, evaluations: int) -> None:
    audits = repeated(truth, relative, evaluations)
    covered = torch.stack([(a.low <= relative) & (relative <= a.high) for a in audits]).double().mean()
    assert covered > 0.88


def test_interval_is_not_idle(truth: dasp.Attribution) -> None:
    found = audit(game_of(truth), wrong_by(truth, 0.3), evaluations=1000)
    assert ((found.high - found.low) < 0.15).all()
    assert (found.relative_error - 0.3).abs().max() < 0.06


def test_all_coalitions_leave_nothing_to_estimate(truth: dasp.Attribution) -> None:
    found = audit(game_of(truth), wrong_by(truth, 0.3), evaluations=1024)
    for part in (found.relative_error, found.low, found.high):
        torch.testing.assert_close(part, torch.full_like(part, 0.3), rtol=1e-9, atol=0)
    assert found.evaluations == 1024


@pytest.fixture(scope="module", params=["relu", "gelu", "attention", "recurrent"])
def imperfect(request: pytest.FixtureRequest) -> tuple[dasp.Attribution, Tensor]:
    """A propagated attribution of a network, and how far it is off."""
    torch.manual_seed(3)
    x = torch.randn(2, 12, dtype=torch.float64) * 1.5
    models = {
        "relu": nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 1)),
        "gelu": nn.Sequential(nn.Linear(12, 24), nn.GELU(), nn.Linear(24, 1), nn.Tanh()),
        "attention": nn.Sequential(
            nn.Unflatten(1, (4, 3)), nn.Linear(3, 8), nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True),
            nn.Flatten(), nn.Linear(32, 1),
        ),
        "recurrent": nn.Sequential(nn.Unflatten(1, (4, 3)), nn.Linear(3, 8), nn.Tanh(), nn.Flatten(), nn.Linear(32, 8),
                                   nn.SiLU(), nn.Linear(8, 1)),
    }  # fmt: skip
    model = models[request.param].double().eval()
    exact = dasp.Explainer(model, 0.0, method=dasp.Exact())(x).per_player[:, 0]
    rough = dasp.Explainer(model, 0.0, method=dasp.Propagation(rank=0, nodes=3))(x)
    return rough, (rough.per_player[:, 0] - exact).norm(dim=1) / exact.norm(dim=1)


def test_intervals_cover_as_often_as_they_say(imperfect: tuple[dasp.Attribution, Tensor]) -> None:
    rough, error = imperfect
    found = [rough.audit(1000, seed=seed) for seed in range(200)]
    covered = torch.stack([(a.low[:, 0] <= error) & (error <= a.high[:, 0]) for a in found]).double().mean()
    assert 0.92 <= covered <= 0.98


@pytest.mark.parametrize("kind", ["3 rows", "5 rows", "40 rows", "Banzhaf"])
def test_intervals_by_walks_cover_too(kind: str) -> None:
    torch.manual_seed(4)
    n = 10 if kind == "Banzhaf" else 8
    model = nn.Sequential(nn.Linear(n, 24), nn.ReLU(), nn.Linear(24, 1)).double()
    x = 1.5 * torch.randn(3, n, dtype=torch.float64)
    background = 0.0 if kind == "Banzhaf" else torch.randn(int(kind.split()[0]), n, dtype=torch.float64)
    semivalue = dasp.Banzhaf() if kind == "Banzhaf" else None
    exact = dasp.Explainer(model, background, method=dasp.Exact(), semivalue=semivalue)(x)
    values = wrong_by(exact, 0.15)
    found = [audit(game_of(exact), values, evaluations=600, seed=seed) for seed in range(200)]
    assert found[0].evaluations < 600
    above = torch.stack([a.high < 0.15 for a in found]).double().mean()
    below = torch.stack([a.low > 0.15 for a in found]).double().mean()
    assert 0.92 <= 1 - above - below <= 0.985
    assert above < 0.06
    assert torch.stack([a.high for a in found]).median() < 0.5


@pytest.mark.parametrize("semivalue", [None, dasp.Banzhaf()])
def test_all_coalitions_are_evaluated_where_they_are_allowed(semivalue: dasp.Banzhaf | None) -> None:
    torch.manual_seed(4)
    model = nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 1)).double()
    background = 0.0 if semivalue else torch.randn(7, 6, dtype=torch.float64)
    exact = dasp.Explainer(model, background, method=dasp.Exact(), semivalue=semivalue)(torch.randn(3, 6, dtype=torch.float64))
    found = audit(game_of(exact), wrong_by(exact, 0.15), evaluations=64 * (1 if semivalue else 7), per_player=True)
    torch.testing.assert_close(found.high, torch.full_like(found.high, 0.15))
    assert torch.equal(found.low, found.high)
    torch.testing.assert_close(found.player_errors, wrong_by(exact, 0.15) - exact.per_player)


def test_one_player_against_a_background_is_known() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1)).double()
    background = torch.randn(30, 6, dtype=torch.float64)
    explainer = dasp.Explainer(model, background, method=dasp.Exact(), players=torch.zeros(6, dtype=torch.long))
    found = explainer(torch.randn(3, 6, dtype=torch.float64)).audit(100)
    assert found.high.max() < 1e-12


def test_players_have_intervals_of_their_own(truth: dasp.Attribution) -> None:
    values = wrong_by(truth, 0.3)
    away = values - truth.per_player
    found = [audit(game_of(truth), values, evaluations=300, seed=seed, per_player=True) for seed in range(60)]
    errors = torch.stack([a.player_errors for a in found if a.player_errors is not None])
    spread = torch.stack([a.player_spread for a in found if a.player_spread is not None])
    standard = errors.std(0) / len(found) ** 0.5
    assert ((errors.mean(0) - away).abs() < 4 * standard).all()
    assert 0.92 < ((errors - away).abs() <= spread).double().mean() < 0.98
    assert found[0].player_errors is not None
    assert audit(game_of(truth), values, evaluations=300).player_errors is None


def test_players_at_the_baseline_are_known(truth: dasp.Attribution) -> None:
    torch.manual_seed(1)
    model, x = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 1)).double(), torch.ones(2, 12).double()
    x[0, :2] = 0.0
    game = game_of(dasp.Explainer(model, 0.0, method=dasp.Exact())(x))
    values = torch.full((2, 1, 12), 0.1, dtype=torch.float64)
    found = audit(game, values, evaluations=500, per_player=True)
    assert found.player_errors is not None
    assert found.player_spread is not None
    assert (found.player_errors[0, 0, :2] - 0.1).abs().max() < 1e-15
    assert (found.player_spread[0, 0, :2] == 0).all()


def test_more_confidence_is_a_wider_interval(truth: dasp.Attribution) -> None:
    values = wrong_by(truth, 0.3)
    half, most = (audit(game_of(truth), values, evaluations=300, confidence=c) for c in (0.5, 0.99))
    assert ((most.high - most.low) > (half.high - half.low)).all()
    assert torch.equal(half.relative_error, most.relative_error)


@pytest.mark.parametrize("blocks", [24, 300])
def test_less_confidence_is_never_a_higher_upper_end(blocks: int) -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.ones(1, 1, 8, dtype=torch.float64)
    lacking = 0.05 + torch.randn(1, 1, blocks, 8, dtype=torch.float64, generator=generator)
    highs = [float(covering(lacking, values, c, 0.0)[2]) for c in (0.01, 0.1, 0.3, 0.499, 0.5, 0.501, 0.7, 0.9, 0.99)]
    assert highs == sorted(highs)


def test_a_sampled_attribution_is_not_judged_by_its_own_permutations(truth: dasp.Attribution) -> None:
    game, seeds = game_of(truth), range(30)
    squared_errors, audited = [], []
    for seed in seeds:
        estimate = dasp.PermutationSampling(permutations=16, seed=seed).estimate(game)
        squared_errors.append((estimate.values - truth.per_player).square().sum(-1))
        audited.append(audit(game, estimate.values, evaluations=2 + 9 * 16, seed=seed).squared_error)
    ratio = torch.stack(audited).mean() / torch.stack(squared_errors).mean()
    assert ratio.item() == pytest.approx(1, abs=0.25)  # with shared permutations it is below 0


def test_evaluations_are_what_the_budget_holds(truth: dasp.Attribution) -> None:
    found = truth.audit(801)
    assert found.evaluations == 792
    assert found.relative_error.shape == found.low.shape == found.high.shape == (2, 2)


def test_least_budget(truth: dasp.Attribution) -> None:
    with pytest.raises(dasp.CostError, match="evaluations=18 or more"):
        truth.audit(17)
    assert truth.audit(18).evaluations == 18


def test_memory_bound_does_not_change_an_audit(truth: dasp.Attribution) -> None:
    model = game_of(truth).model
    tight = dasp.Explainer(model, 0.0, method=dasp.Exact(), memory=1)(truth.inputs[0], [0, 1])
    assert torch.allclose(tight.audit(200).squared_norm, truth.audit(200).squared_norm)


def test_zeros_have_no_error_and_one_player_is_known() -> None:
    explainer = dasp.Explainer(nn.Linear(3, 1), 0.0, method=dasp.Exact())
    found = explainer(torch.zeros(1, 3)).audit(100)
    assert [found.relative_error.item(), found.low.item(), found.high.item()] == [0.0, 0.0, 0.0]
    one = dasp.Explainer(nn.Linear(3, 1), 0.0, method=dasp.Exact(), players=torch.tensor([0, 0, 0]))
    found = one(torch.ones(1, 3)).audit(2)
    assert found.evaluations == 2
    assert found.high.item() < 1e-3


def test_an_attribution_to_nothing_is_infinitely_wrong() -> None:
    explainer = dasp.Explainer(nn.Linear(3, 1), 0.0, method=dasp.Exact())
    game = game_of(explainer(torch.zeros(1, 3)))
    found = audit(game, torch.ones(1, 1, 3), evaluations=100)
    assert found.relative_error.item() == float("inf")
    assert found.squared_error.item() == 3.0


@pytest.mark.parametrize("against", ["one row", "a background", "Banzhaf"])
def test_values_of_an_output_that_never_moves_are_infinitely_wrong(against: str) -> None:
    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 0 * x.sum(1) + 3

    background = torch.zeros(2, 3) if against == "a background" else 0.0
    semivalue = dasp.Banzhaf() if against == "Banzhaf" else None
    game = game_of(dasp.Explainer(Constant(), background, method=dasp.Exact(), semivalue=semivalue)(torch.ones(2, 3)))
    values = torch.tensor([0.0, 1.0]).reshape(2, 1, 1).expand(-1, -1, 3)
    found = audit(game, values, evaluations=100)
    assert found.relative_error.flatten().tolist() == found.high.flatten().tolist() == [0.0, float("inf")]
    assert found.low.flatten().tolist() == [0.0, 0.0]
    assert str(found).endswith("1 more unknown (values not told from 0), " + f"{found.evaluations} evaluations a row")


def test_text_says_error_interval_and_cost() -> None:
    numbers = [torch.tensor([[x]], dtype=torch.float64) for x in (0.031, 0.024, 0.037, 1.0, 1.0)]
    assert (
        str(Audit(*numbers, evaluations=2016, confidence=0.95))
        == "relative error 3.1 % (95 % interval 2.4 % to 3.7 %), 2,016 evaluations a row"
    )
    assert str(Audit(*(n.expand(3, 2) for n in numbers), evaluations=2016, confidence=0.95)).startswith("mean of 6: ")


def test_variance_of_a_mean_of_products() -> None:
    # h_ab = y_a y_b; the true variance is that of the 4,000 simulated means.
    y = 3 + torch.randn(4000, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    kernel = y.unsqueeze(2) * y.unsqueeze(1)
    means = (y.sum(1).square() - y.square().sum(1)) / (12 * 11)
    rows = (kernel.sum(-1) - kernel.diagonal(dim1=-2, dim2=-1)) / 11
    assert torch.allclose(row_means(y.unsqueeze(-1)), rows)
    assert u_variance(rows).mean().item() == pytest.approx(means.var().item(), rel=0.1)


@pytest.mark.parametrize("freedom", [*range(1, 40), 99, 100, 199, 200, 201, 300, 5000])
def test_quantiles_of_students_distribution(freedom: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    for confidence in (0.5, 0.8, 0.9, 0.95, 0.99, 0.999):
        assert student(confidence, freedom) == pytest.approx(stats.t.isf((1 - confidence) / 2, freedom), rel=1e-7)


def test_quantiles_in_print() -> None:
    # The usual table of Student's t (two-sided 0.95 and 0.99).
    assert [round(student(0.95, d), 3) for d in (1, 3, 10, 120)] == [12.706, 3.182, 2.228, 1.980]
    assert [round(student(0.99, d), 3) for d in (1, 3, 10, 120)] == [63.657, 5.841, 3.169, 2.617]
    assert student(1 - 2**-53, 3) > 1e5  # the largest confidence there is


@pytest.mark.parametrize(("players", "rows", "bound"), [(2, 20, 2**20), (30, 40, 2**20), (10, 3, 2**18)])
def test_an_audit_keeps_the_memory_bound(players: int, rows: int, bound: int) -> None:
    explainer = dasp.Explainer(nn.Linear(players, 2), 0.0, method=dasp.PermutationSampling(permutations=2), memory=bound)
    result = explainer(torch.ones(rows, players), [0, 1])
    game_of(result).chunk  # noqa: B018 - measured once, outside the bound
    assert peak_bytes(lambda: result.audit(2000)) < 1.2 * bound


def test_a_model_that_was_changed_since_is_not_judged_by_old_values() -> None:
    net, x = nn.Linear(3, 1), torch.ones(2, 3)
    result = dasp.Explainer(net, 0.0, method=dasp.Exact())(x)
    assert result.audit(100).high.max() < 1e-3
    with torch.no_grad():
        net.weight.mul_(1.1)
    with pytest.raises(dasp.InputError, match=r"weights, the inputs or the baseline were changed in place.*Explain again"):
        result.audit(100)
    with torch.no_grad():
        net.weight.div_(1.1)
    assert result.audit(100).high.max() < 1e-3
    x[1, 2] = 7.0
    with pytest.raises(dasp.InputError, match="Explain again"):
        result.audit(100)


def test_text_where_the_values_are_not_told_from_nothing() -> None:
    explainer = dasp.Explainer(nn.Linear(3, 1), 0.0, method=dasp.Exact())
    nothing = explainer(torch.zeros(1, 3))
    assert str(nothing.audit(100)) == "relative error 0 % (95 % interval 0 % to 0 %), 1 evaluations a row"
    found = audit(game_of(nothing), torch.ones(1, 1, 3), evaluations=100)
    assert str(found) == "relative error unknown (the values are not told from 0), 1 evaluations a row"
    some = [torch.tensor([[0.5], [float("inf")]], dtype=torch.float64)] * 3 + [torch.ones(2, 1)] * 2
    assert str(Audit(*some, evaluations=98, confidence=0.95)) == (
        "mean of 1: relative error 50 % (95 % interval 50 % to 50 %); 1 more unknown (values not told from 0), "
        "98 evaluations a row"
    )


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"confidence": 1.0}, dasp.InputError, "between 0 and 1"),
        ({"seed": -1}, dasp.InputError, "seed"),
        ({"evaluations": 2000.0}, dasp.InputTypeError, "evaluations must be an int"),
    ],
)
def test_bad_options(truth: dasp.Attribution, options: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        truth.audit(**options)
    with pytest.raises(dasp.InputError, match="expected values of shape"):
        audit(game_of(truth), torch.zeros(2, 10))
