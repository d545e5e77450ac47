"""Backgrounds: the game against rows of data, by every estimator, against enumeration and the mean over single baselines."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dasp
from dasp.background import Background, Clusters, nearest, principal_axes
from dasp.background_law import BackgroundLaw
from dasp.gaussian import Gaussian, LinearMap, Owned
from dasp.memory import peak_bytes
from dasp.rules.linear import dense

N, J = 6, 9


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def mlp(players: int = N, seed: int = 0, outputs: int = 2) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = nn.Linear(players, 24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, outputs)
        return nn.Sequential(*layers).double()


X, ROWS = draw(3, N, seed=1), draw(J, N, seed=2)


def relative(found: Any, truth: Any) -> float:
    return float((found - truth).norm() / truth.norm())


def mean_over_rows(model: Any, x: Any, rows: Tensor, target: Any, method: dasp.Estimator, **options: Any) -> Tensor:
    """What the background is defined by: the mean of the values against each of its rows."""
    once = model if isinstance(model, dasp.Model) else dasp.Model(model)
    parts = [dasp.Explainer(once, row, method=method, **options)(x, target).per_player for row in rows]
    return torch.stack(parts).mean(0)


# The game


@pytest.mark.parametrize("memory", [2**30, 3000])
def test_values_are_means_over_the_rows(memory: int) -> None:
    model = mlp()
    found = dasp.Explainer(model, ROWS, method=dasp.Exact(), memory=memory)(X, [0, 1])
    torch.testing.assert_close(found.per_player, mean_over_rows(model, X, ROWS, [0, 1], dasp.Exact()))
    torch.testing.assert_close(found.base_value, model(ROWS).mean(0).expand(3, 2).detach())
    assert found.evaluations == 2**N * J
    assert found.background
    assert torch.equal(found.baselines[0], ROWS)
    assert float(found.gap.abs().max()) < 1e-12


def test_as_many_rows_as_inputs_are_still_a_background() -> None:
    model, rows = mlp(), draw(3, N, seed=4)
    shared = dasp.Explainer(model, rows, method=dasp.Exact())(X, 0).per_player
    torch.testing.assert_close(shared, mean_over_rows(model, X, rows, 0, dasp.Exact()))
    each = dasp.Explainer(model, dasp.PerRow(rows), method=dasp.Exact())(X, 0)
    assert not each.background
    for i in range(3):
        one = dasp.Explainer(model, rows[i], method=dasp.Exact())(X[i : i + 1], 0)
        torch.testing.assert_close(each.per_player[i : i + 1], one.per_player)
    assert relative(each.per_player, shared) > 0.1


def test_one_row_is_a_baseline() -> None:
    model = mlp()
    found = dasp.Explainer(model, ROWS[:1])(X, 0)
    assert not found.background
    assert torch.equal(found.per_player, dasp.Explainer(model, ROWS[0])(X, 0).per_player)


class Two(nn.Module):
    """Two inputs, and a factor that goes along with the rows."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(5)

    def forward(self, a: Tensor, b: Tensor, factor: Tensor) -> Tensor:
        result: Tensor = self.net(torch.cat((a.flatten(1), b), 1)) * factor.unsqueeze(1)
        return result


def test_several_inputs_go_together_row_by_row() -> None:
    model, a, b = Two(), draw(2, 1, 3, seed=1), draw(2, 2, seed=2)
    factor = torch.tensor([1.0, -2.0], dtype=torch.float64)
    rows = draw(7, 1, 3, seed=3), draw(7, 2, seed=4)
    players = torch.tensor([[0, 0, 1]]), torch.tensor([1, 2])
    options: dict[str, Any] = {"players": players}
    parts = [
        dasp.Explainer(model, (one, two), method=dasp.Exact(), **options)((a, b), 0, additional_forward_args=factor)
        for one, two in zip(*rows, strict=True)
    ]
    truth = torch.stack([part.per_player for part in parts]).mean(0)
    found = dasp.Explainer(model, rows, method=dasp.Exact(), **options)((a, b), 0, additional_forward_args=factor)
    torch.testing.assert_close(found.per_player, truth)
    torch.testing.assert_close(found.base_value, torch.stack([part.base_value for part in parts]).mean(0))
    near = dasp.Explainer(model, rows, method=dasp.Propagation(clusters=3), **options)(
        (a, b), 0, additional_forward_args=factor
    )
    assert relative(near.per_player, truth) < 0.15
    every = dasp.Explainer(model, rows, method=dasp.Propagation(clusters=7, mixture=3), **options)(
        (a, b), 0, additional_forward_args=factor
    )
    torch.testing.assert_close(every.per_player, truth)
    sampled = dasp.Explainer(model, rows, method=dasp.PermutationSampling(permutations=1400), **options)(
        (a, b), 0, additional_forward_args=factor
    )
    assert relative(sampled.per_player, truth) < 0.03


# Sampling


def test_permutation_sampling_converges_and_knows_its_error() -> None:
    model = mlp()
    truth = mean_over_rows(model, X, ROWS, [0, 1], dasp.Exact())
    found = dasp.Explainer(model, ROWS, method=dasp.PermutationSampling(permutations=2 * 100 * J))(X, [0, 1])
    assert relative(found.per_player, truth) < 0.015
    assert found.standard_errors is not None
    assert float(((found.values - truth) / found.standard_errors).square().mean()) < 2
    assert float(found.gap.abs().max()) < 1e-12
    assert found.evaluations == 1 + J + 100 * J * 2 * (N - 1)


@pytest.mark.parametrize("permutations", [2, 6, 64])
def test_sampled_values_add_up_whichever_rows_were_drawn(permutations: int) -> None:
    model, method = mlp(), dasp.PermutationSampling(permutations=permutations)
    found = dasp.Explainer(model, ROWS, method=method)(X, [0, 1])
    assert float(found.gap.abs().max()) < 1e-12
    truth = mean_over_rows(model, X, ROWS, [0, 1], dasp.Exact())
    whole = dasp.Explainer(model, ROWS, method=method, players=torch.zeros(N, dtype=torch.long))(X, [0, 1])
    assert torch.allclose(whole.per_player[..., 0], truth.sum(-1), rtol=0, atol=1e-12)  # one player has the whole step
    assert whole.standard_errors is None or float(whole.standard_errors.max()) < 1e-12


def test_gradients_are_measured_at_one_row_of_the_background() -> None:
    class Counted(nn.Module):
        passes = 0

        def forward(self, x: Tensor) -> Tensor:
            self.passes += 1
            return x.square().sum(1)

    model = Counted()
    dasp.Explainer(model, draw(1000, N), method=dasp.VertexGradients(samples=8))(X)
    assert model.passes < 100


def test_one_player_is_audited_without_a_sample() -> None:
    model, players = mlp(), torch.zeros(N, dtype=torch.long)
    found = dasp.Explainer(model, ROWS, players=players)(X, 0)
    exact = dasp.Explainer(model, ROWS, players=players, method=dasp.Exact())(X, 0)
    assert found.auditor is not None
    for values, error in ((exact.per_player, 0.0), (1.5 * exact.per_player, 0.5)):
        audit = found.auditor(values, evaluations=8, seed=0, confidence=0.95, progress=False)
        assert torch.allclose(audit.relative_error, torch.full_like(audit.relative_error, error), rtol=0, atol=1e-12)
        assert audit.evaluations == 1 + J


def test_audits_are_unbiased_though_rows_differ() -> None:
    """Rows without replacement would make the error of true values negative."""
    model, rows = mlp(), draw(2, N, seed=3)
    exact = dasp.Explainer(model, rows, method=dasp.Exact())(X, 0)
    wrong = dasp.Explainer(model, rows.mean(0), method=dasp.Exact())(X, 0).per_player
    known = (wrong - exact.per_player).square().sum(-1)
    assert exact.auditor is not None
    for values, square in ((exact.per_player, torch.zeros_like(known)), (wrong, known)):
        audits = [exact.auditor(values, evaluations=90, seed=s, confidence=0.95, progress=False) for s in range(150)]
        found = torch.stack([one.squared_error for one in audits])
        off = (found.mean(0) - square) / (found.std(0) / math.sqrt(len(found)))
        assert float(off.abs().max()) < 3.5


def test_vertex_gradients_are_exact_with_all_pairs_of_all_rows() -> None:
    model, pairs = mlp(), 2 ** (N - 1) - 1
    truth = mean_over_rows(model, X, ROWS, [0, 1], dasp.Exact())
    found = dasp.Explainer(model, ROWS, method=dasp.VertexGradients(samples=2 * pairs * J))(X, [0, 1])
    torch.testing.assert_close(found.per_player, truth)
    assert found.evaluations == 2**N * J
    assert not bool(found.standard_errors.any())  # type: ignore[union-attr]


def test_vertex_gradients_are_unbiased_over_the_rows_but_for_kinks() -> None:
    def smooth(x: Tensor) -> Tensor:  # quadratic, so that only what is drawn is left
        return x.sum(1, keepdim=True) ** 2 + x[:, :1] * x[:, 3:4] - x[:, 1:2]

    class Smooth(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return smooth(x)

    truth = mean_over_rows(Smooth(), X, ROWS, 0, dasp.Exact())
    drawn = [dasp.VertexGradients(samples=2 * 30 * J, seed=seed) for seed in range(30)]
    found = torch.stack([dasp.Explainer(Smooth(), ROWS, method=method)(X, 0).per_player for method in drawn])
    assert float(found.std(0).max()) > 0
    assert relative(found.mean(0), truth) < 0.01
    again = dasp.Explainer(Smooth(), ROWS, method=drawn[0], memory=200_000)(X, 0).per_player
    torch.testing.assert_close(again, found[0])


def test_regression_is_exact_where_the_budget_suffices() -> None:
    model = mlp()
    found = dasp.Explainer(model, ROWS, method=dasp.Regression(budget=2**N, prior=dasp.Propagation()))(X, 0)
    torch.testing.assert_close(found.per_player, mean_over_rows(model, X, ROWS, 0, dasp.Exact()))
    assert found.evaluations == 2**N * J


class Own(dasp.Estimator):
    def estimate(self, game: Any, *, progress: bool = False) -> dasp.Estimate:
        raise AssertionError("not reached")


@pytest.mark.parametrize(
    "method",
    [
        dasp.DASP(),
        dasp.Regression(budget=64, prior=(dasp.Propagation(), dasp.DASP())),
        dasp.axioms.External(lambda m, x, b, t: x),
        Own(),
    ],
    ids=["DASP", "as a prior", "another package", "not declared"],
)
def test_who_needs_one_baseline_is_refused(method: dasp.Estimator) -> None:
    with pytest.raises(dasp.InputError, match=r"explains against one baseline, and this is a background of 3 rows.*PerRow"):
        dasp.Explainer(mlp(), ROWS[:3], method=method)(X, 0)


@pytest.mark.parametrize("players", [None, torch.tensor([0, 0, 1, 1, 2, 2])])
def test_refine_reaches_its_tolerance_against_a_background(players: Tensor | None) -> None:
    model, x = mlp(12 if players is None else N), draw(4, 12 if players is None else N, seed=5)
    rows = draw(J, x.shape[1], seed=6)
    truth = dasp.Explainer(model, rows, method=dasp.Exact(), players=players)(x, [0, 1]).per_player
    explainer = dasp.Explainer(model, rows, method=dasp.Refine(tolerance=0.05), players=players)
    found = explainer(x, [0, 1])
    assert ((found.per_player - truth).norm(dim=-1) < 0.05 * truth.norm(dim=-1)).double().mean() > 0.9
    assert set(found.settings["ended"]) == ({"tolerance"} if players is None else {"exact"})
    assert all(count % J == 0 for count in found.settings["row_evaluations"])
    torch.testing.assert_close(explainer(x[1:2], [0, 1]).per_player[0], found.per_player[1], rtol=1e-9, atol=1e-9)


# The law

NODES = torch.tensor([0.2, 0.5, 0.85], dtype=torch.float64)
LABELS = {True: torch.tensor([1, 2, 2, 3, 4, 4]), False: torch.arange(1, N + 1)}
WEIGHT, BIAS = draw(4, N, seed=11), draw(4, seed=12)
OFF, ON, LOADS, REST = draw(2, N, seed=13), draw(2, N, seed=14), draw(3, 2, N, seed=15), draw(2, N, seed=16).square()


def law(shift: Tensor, rank: Any, grouped: bool, free: Tensor | None = None) -> BackgroundLaw:
    return BackgroundLaw(
        NODES, shift, rank_behind=3, free=free, grouped=grouped, rank=rank, conditioned=False, memory=2**20
    )


def owned(grouped: bool) -> Owned:
    k = len(NODES)
    return Owned.of(
        Gaussian(OFF.repeat(k, 1), LOADS.repeat(1, k, 1), REST.repeat(k, 1)), ON.repeat(k, 1), LABELS[grouped], 0
    )


def linear_map() -> LinearMap:
    return dense(torch.ops.aten.linear.default, 0, (None, WEIGHT, BIAS))


def enumerated(
    presence: Tensor, labels: Tensor, rest: Tensor = REST, loads: Tensor = LOADS
) -> tuple[Tensor, Tensor]:
    """Mean (2, 4) and covariance (2, 4, 4) of the linear map, over coalitions with these presences (2, n)."""
    n = presence.shape[1]
    states = (torch.arange(2**n).unsqueeze(1) >> torch.arange(n) & 1).double()
    mean, second = torch.zeros(2, 4).double(), torch.zeros(2, 4, 4).double()
    for z in states:
        chance = torch.where(z > 0, presence, 1 - presence).prod(1)
        on = z[labels - 1]
        centre = on * ON + (1 - on) * OFF
        spread = torch.einsum("rbi,rbj->bij", (1 - on) * loads, (1 - on) * loads) + torch.diag_embed((1 - on) * rest)
        out = centre @ WEIGHT.T + BIAS
        mean += chance[:, None] * out
        second += chance[:, None, None] * (out.unsqueeze(2) * out.unsqueeze(1) + WEIGHT @ spread @ WEIGHT.T)
    return mean, second - mean.unsqueeze(2) * mean.unsqueeze(1)


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("rank", ["full", None, "directions"])
def test_moments_where_players_meet_are_exact(rank: Any, grouped: bool) -> None:
    n = int(LABELS[grouped].max())
    zero = torch.zeros(2, n, dtype=torch.float64)
    if rank == "directions":
        rank = torch.linalg.qr(draw(2, n, 2, seed=17)).Q
    met = law(zero, rank, grouped).meet(owned(grouped), linear_map(), 0)
    apart = law(zero, rank, grouped).moments(owned(grouped)).linear(linear_map())
    for k, q in enumerate(NODES):
        mean, covariance = enumerated(zero + q, LABELS[grouped])
        here = slice(2 * k, 2 * k + 2)
        torch.testing.assert_close(met.mean[here], mean)
        torch.testing.assert_close(met.var[here], covariance.diagonal(dim1=1, dim2=2))
        if isinstance(rank, str):  # and the covariances, but for what is independent: of groups the background's own
            assert met.factors is not None
            assert apart.factors is not None
            found = torch.einsum("rbi,rbj->bij", met.factors[:, here], met.factors[:, here])
            away = (found - covariance).tril(-1).norm() / covariance.norm()
            assert float(away) < (0.3 if grouped else 0.1)
    torch.testing.assert_close(apart.mean, met.mean)


def test_the_own_background_of_single_elements_keeps_its_covariance() -> None:
    """Without an independent rest, full rank has all covariances."""
    zero = torch.zeros(2, N, dtype=torch.float64)
    value = owned(False)
    assert value.absent is not None
    still = Owned.of(Gaussian(value.off, value.absent.factors, 0 * value.absent.rest), value.on, value.labels, 0)
    met = law(zero, "full", False).meet(still, linear_map(), 0)
    for k, q in enumerate(NODES):
        here = slice(2 * k, 2 * k + 2)
        assert met.factors is not None
        found = torch.einsum("rbi,rbj->bij", met.factors[:, here], met.factors[:, here])
        torch.testing.assert_close(found, enumerated(zero + q, LABELS[False], 0 * REST)[1])


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("rank", ["full", None])
def test_a_background_without_factors_keeps_its_variance(rank: Any, grouped: bool) -> None:
    value = owned(grouped)
    assert value.absent is not None
    assert value.absent.factors is not None
    found = []
    for behind, loads in ((0, None), (3, 0 * value.absent.factors)):
        shift = torch.zeros(2, int(LABELS[grouped].max()), dtype=torch.float64, requires_grad=True)
        each = BackgroundLaw(NODES, shift, rank_behind=behind, grouped=grouped, rank=rank, conditioned=False, memory=2**20)
        still = Owned(value.off, value.on, value.labels, 0, Gaussian(value.off, loads, value.absent.rest))
        met, apart = each.meet(still, linear_map(), 0).var, each.moments(still).var
        slopes = [torch.autograd.grad((part * part.detach()).sum(), shift)[0] for part in (met, apart)]
        found.append((met, apart, *slopes))
        for k, q in enumerate(NODES):
            truth = enumerated(torch.zeros_like(shift) + q, LABELS[grouped], loads=0 * LOADS)[1]
            torch.testing.assert_close(met[2 * k : 2 * k + 2], truth.diagonal(dim1=1, dim2=2))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("rank", ["full", None])
def test_derivatives_by_presence_are_exact(rank: Any, grouped: bool) -> None:
    n = int(LABELS[grouped].max())
    shift = torch.zeros(2, n, dtype=torch.float64, requires_grad=True)
    weights = draw(4, seed=18)
    met = law(shift, rank, grouped).meet(owned(grouped), linear_map(), 0)
    (slope,) = torch.autograd.grad((met.var * weights).sum(), shift)
    for player in range(n):
        step = torch.zeros(2, n, dtype=torch.float64)
        step[:, player] = 1e-5
        expected = torch.zeros(2, dtype=torch.float64)
        for q in NODES:
            up, down = (enumerated(q + side, LABELS[grouped])[1].diagonal(dim1=1, dim2=2) for side in (step, -step))
            expected += ((up - down) * weights).sum(1) / 2e-5
        torch.testing.assert_close(slope[:, player], expected, rtol=1e-6, atol=1e-6)


def test_held_players_keep_their_background_or_lose_it() -> None:
    free = torch.ones(2, N, dtype=torch.float64)
    free[:, 0] = 0  # held absent
    zero = torch.zeros(2, N, dtype=torch.float64)
    value = owned(False)
    on = torch.where(torch.arange(N) == 0, OFF, ON).repeat(len(NODES), 1)
    met = law(zero, "full", False, free).meet(Owned(value.off, on, value.labels, 0, value.absent), linear_map(), 0)
    for k, q in enumerate(NODES):
        presence = (zero + q) * free
        mean, covariance = enumerated(presence, LABELS[False])
        torch.testing.assert_close(met.mean[2 * k : 2 * k + 2], mean)
        torch.testing.assert_close(met.var[2 * k : 2 * k + 2], covariance.diagonal(dim1=1, dim2=2))


# Propagation


@pytest.mark.parametrize("clusters", [1, 3])
@pytest.mark.parametrize("rank", [0, 2, "full"])
def test_linear_networks_are_exact(clusters: int, rank: Any) -> None:
    model = nn.Linear(N, 2).double()
    found = dasp.Explainer(model, ROWS, method=dasp.Propagation(clusters=clusters, rank=rank))(X, [0, 1])
    truth = model.weight.detach() * (X - ROWS.mean(0)).unsqueeze(1)
    torch.testing.assert_close(found.per_player, truth)
    assert float(found.gap.abs().max()) < 1e-12


def test_every_row_a_cluster_is_the_mean_over_baselines() -> None:
    model, method = dasp.Model(mlp()), {"nodes": 3, "rule": "legendre", "mixture": 0}
    truth = mean_over_rows(model, X, ROWS, [0, 1], dasp.Propagation(**method))
    for count in (J, 10 * J):
        found = dasp.Explainer(model, ROWS, method=dasp.Propagation(clusters=count, **method))(X, [0, 1])
        torch.testing.assert_close(found.per_player, truth)
        assert found.settings["clusters"] == J
    exact = dasp.Explainer(model, ROWS, method=dasp.Propagation(clusters=J, mixture=N))(X, [0, 1])
    torch.testing.assert_close(exact.per_player, mean_over_rows(model, X, ROWS, [0, 1], dasp.Exact()))


def wide(dtype: torch.dtype = torch.float64) -> tuple[nn.Sequential, Tensor, Tensor]:
    """A network, rows to explain, and 60 correlated rows of a background."""
    mixing = draw(3, 8, seed=5)
    rows = draw(60, 3, seed=6) @ mixing + 0.3 * draw(60, 8, seed=7)
    return mlp(8, seed=3).to(dtype), draw(4, 8, seed=8).to(dtype), rows.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_near_the_truth_and_nearer_with_more_clusters(dtype: torch.dtype) -> None:
    model, x, rows = wide(dtype)
    truth = dasp.Explainer(model, rows, method=dasp.Exact())(x, [0, 1]).per_player
    errors = []
    for clusters in (1, 8, 60):
        method = dasp.Propagation(clusters=clusters)
        errors.append(relative(dasp.Explainer(model, rows, method=method)(x, [0, 1]).per_player, truth))
    assert errors[1] == relative(dasp.Explainer(model, rows)(x, [0, 1]).per_player, truth)
    assert errors[0] < 0.13
    assert errors[1] < 0.06
    assert errors[2] < 0.03
    assert errors[2] < errors[1] < errors[0]
    mean = relative(dasp.Explainer(model, rows.mean(0))(x, [0, 1]).per_player, truth)
    assert errors[1] < mean / 10


@pytest.mark.parametrize("options", [{}, {"rank": 0}, {"mixture": 2}])
@pytest.mark.parametrize("clusters", [1, 4])
def test_without_factors_of_the_background_its_variance_is_still_there(options: Any, clusters: int) -> None:
    # Elements that hang together little: factors can add little, and dropping all of the variance costs much.
    model, x, rows = mlp(8, seed=3), draw(4, 8, seed=8), draw(300, 8, seed=6)
    truth = dasp.Explainer(model, rows, method=dasp.Exact())(x, [0, 1]).per_player

    def far(rank: int) -> float:
        method = dasp.Propagation(clusters=clusters, background_rank=rank, **options)
        found = dasp.Explainer(model, rows, method=method)(x, [0, 1])
        assert found.settings["background_rank"] == rank
        return relative(found.per_player, truth)

    without = far(0)
    assert without < 0.15
    assert far(3) < without < far(3) + 0.04
    assert relative(dasp.Explainer(model, rows.mean(0))(x, [0, 1]).per_player, truth) > 3 * without


def test_operations_before_players_meet_without_factors_of_the_background() -> None:
    model, rows = Curved(), draw(200, N, seed=2)
    truth = dasp.Explainer(model, rows, method=dasp.Exact())(X, 0).per_player
    found = dasp.Explainer(model, rows, method=dasp.Propagation(clusters=4, background_rank=0))(X, 0)
    assert relative(found.per_player, truth) < 0.16
    assert relative(dasp.Explainer(model, rows.mean(0))(X, 0).per_player, truth) > 0.5


def test_alone_as_in_a_batch_and_again() -> None:
    model, x, rows = wide()
    sampled = dasp.PermutationSampling(), dasp.VertexGradients()
    for method in (dasp.Propagation(mixture=1), dasp.Propagation(rank=3), *sampled):
        explainer = dasp.Explainer(model, rows, method=method)
        found = explainer(x, [0, 1]).per_player
        assert torch.equal(found, explainer(x, [0, 1]).per_player)
        assert torch.equal(found, dasp.Explainer(model, rows, method=method)(x, [0, 1]).per_player)
        for i in range(len(x)):
            torch.testing.assert_close(explainer(x[i : i + 1], [0, 1]).per_player, found[i : i + 1], rtol=1e-9, atol=1e-11)
        if method != dasp.Propagation(rank=3):  # whose directions are those of all targets
            torch.testing.assert_close(explainer(x, 1).per_player[:, 0], found[:, 1], rtol=1e-9, atol=1e-11)
        with torch.no_grad():
            fresh = dasp.Explainer(model, rows, method=method)(x, [0, 1]).per_player
        torch.testing.assert_close(fresh, found, rtol=1e-12, atol=1e-12)


def test_players_equal_to_the_whole_background_get_nothing() -> None:
    model, x, rows = wide()
    rows, x = rows.clone(), x.clone()
    rows[:, 2] = x[:, 2] = 0.7
    for method in (dasp.Propagation(), dasp.PermutationSampling(permutations=4), dasp.VertexGradients(samples=8)):
        assert not dasp.Explainer(model, rows, method=method)(x, 0).per_player[..., 2].any()


@pytest.mark.parametrize("options", [{}, {"mixture": 0, "rank": 0, "nodes": 2, "rule": "legendre"}])
def test_one_player_is_the_whole_step(options: Any) -> None:
    model = mlp()
    explainer = dasp.Explainer(model, ROWS, method=dasp.Propagation(**options), players=torch.zeros(N, dtype=torch.long))
    found = explainer(X, [0, 1])
    torch.testing.assert_close(found.per_player[..., 0], (model(X) - model(ROWS).mean(0)).detach())
    assert not found.gap.any()
    assert (found.evaluations, found.propagations) == (1 + J, 0)


class OneHot(nn.Module):
    """Two numbers, and two categories of three and four values as one-hot columns."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(9, seed=5)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.net(x)
        return result


def categorical(rows: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    hot = [
        nn.functional.one_hot(torch.multinomial(torch.tensor(p), rows, True, generator=generator), len(p)).double()
        for p in ([0.6, 0.3, 0.1], [0.4, 0.3, 0.2, 0.1])
    ]
    return torch.cat((draw(rows, 2, seed=seed), *hot), 1)


def test_categories_as_groups_of_one_hot_columns() -> None:
    model, x, rows = OneHot(), categorical(4, 1), categorical(80, 2)
    players = torch.tensor([0, 1, 2, 2, 2, 3, 3, 3, 3])
    truth = dasp.Explainer(model, rows, method=dasp.Exact(), players=players)(x, 0).per_player
    found = dasp.Explainer(model, rows, players=players)(x, 0)
    assert relative(found.per_player, truth) < 0.08
    assert relative(dasp.Explainer(model, rows.mean(0), players=players)(x, 0).per_player, truth) > 0.4
    for options in ({"rank": 0}, {"mixture": 2}, {"condition": False}):
        near = dasp.Explainer(model, rows, players=players, method=dasp.Propagation(**options))(x, 0)
        assert relative(near.per_player, truth) < 0.12


class Curved(nn.Module):
    """Every element through functions of its own before players meet: absent players are random there."""

    def __init__(self, last: Callable[[Tensor], Tensor] = torch.tanh) -> None:
        super().__init__()
        self.net, self.last = mlp(2 * N, seed=9), last

    def forward(self, x: Tensor) -> Tensor:
        a, b = (torch.stack((x.exp() / 3, self.last(2 * x)), -1) * 0.7).unbind(-1)
        result: Tensor = self.net(torch.cat((a, b), 1))
        return result


def test_operations_before_players_meet() -> None:
    model = Curved()
    truth = dasp.Explainer(model, ROWS, method=dasp.Exact())(X, 0).per_player
    for clusters, most in ((1, 0.12), (4, 0.05)):
        found = dasp.Explainer(model, ROWS, method=dasp.Propagation(clusters=clusters))(X, 0)
        assert relative(found.per_player, truth) < most


def test_an_operation_without_a_rule_is_refused_where_it_would_meet_random_rows() -> None:
    model = Curved(torch.special.i0)
    with pytest.raises(dasp.MissingRuleError, match="i0"):
        dasp.Explainer(model, ROWS, method=dasp.Propagation(clusters=2))(X, 0)
    found = dasp.Explainer(model, ROWS, method=dasp.Propagation(clusters=J, mixture=N))(X, 0)
    torch.testing.assert_close(found.per_player, dasp.Explainer(model, ROWS, method=dasp.Exact())(X, 0).per_player)


class Attending(nn.Module):
    """Tokens that are embedded and normalised before they meet."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0, batch_first=True, norm_first=True)
        self.net = nn.Sequential(
            nn.Linear(3, 16), nn.LayerNorm(16), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        )
        self.head = nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.net(x).mean(1))
        return result


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net, self.head = nn.LSTM(3, 12, batch_first=True), nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.net(x)[0][:, -1])
        return result


@pytest.mark.parametrize(("build", "most"), [(Attending, 0.3), (Recurrent, 0.05)])
def test_other_architectures(build: Callable[[], nn.Module], most: float) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = build().double().eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.8 if weight.ndim > 1 else 1)
    x, rows, players = draw(2, 6, 3, seed=1), draw(40, 6, 3, seed=2) + 0.3, torch.arange(6).unsqueeze(1)
    once = dasp.Model(model)
    truth = dasp.Explainer(once, rows, method=dasp.Exact(), players=players)(x, 0).per_player
    found = dasp.Explainer(once, rows, players=players)(x, 0).per_player
    mean = dasp.Explainer(once, rows.mean(0), players=players)(x, 0).per_player
    assert relative(found, truth) < most
    assert relative(found, truth) < relative(mean, truth) / 4


def test_whole_numbers_need_every_row_as_a_cluster() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Embedding(7, 4), nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 1)).double()
    x = torch.randint(7, (2, 4), generator=torch.Generator().manual_seed(1))
    rows = torch.randint(7, (10, 4), generator=torch.Generator().manual_seed(2))
    players = dasp.players.tokens()
    truth = dasp.Explainer(model, rows, method=dasp.Exact(), players=players)(x).per_player
    with pytest.raises(dasp.InputError, match=r"whole numbers.*clusters=10"):
        dasp.Explainer(model, rows, players=players)(x)
    found = dasp.Explainer(model, rows, method=dasp.Propagation(clusters=10), players=players)(x)
    assert relative(found.per_player, truth) < 0.05
    sampled = dasp.Explainer(model, rows, method=dasp.PermutationSampling(permutations=2000), players=players)(x)
    assert relative(sampled.per_player, truth) < 0.05
    assert "background=10 rows" in repr(found)


def test_images_and_many_players() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(36, 2)).double()
    x, rows = draw(2, 1, 9, 9, seed=1)[..., :8, :8], draw(30, 1, 8, 8, seed=2) + 0.5
    truth = dasp.Explainer(net, rows, method=dasp.PermutationSampling(permutations=1200))(x, 0).per_player
    for options, most in (({}, 0.05), ({"rank": 16}, 0.06), ({"rank": 0}, 0.1)):
        found = dasp.Explainer(net, rows, method=dasp.Propagation(**options))(x, 0)
        assert relative(found.per_player, truth) < most


def test_memory_and_passes_do_not_grow_with_the_rows() -> None:
    model, x, _ = wide(torch.float32)
    peaks, results = [], []
    for count in (100, 10_000):
        rows = draw(count, 3, seed=6, dtype=torch.float32) @ draw(3, 8, seed=5, dtype=torch.float32)
        explainer = dasp.Explainer(model, rows)
        explainer(x, 0)
        peaks.append(peak_bytes(lambda explainer=explainer: explainer(x, 0)))  # type: ignore[misc]
        results.append(explainer(x, 0))
    # What reads the rows once a call, to see whether they are still the same, makes nothing larger than a byte an element.
    assert peaks[1] <= peaks[0] + 10_000 * 8
    assert results[0].propagations == results[1].propagations
    assert results[0].evaluations == results[1].evaluations


# Results, changes, faults


def test_results_are_saved_and_say_that_they_have_a_background(tmp_path: Path) -> None:
    found = dasp.Explainer(mlp(), ROWS)(X, 0)
    assert "background=9 rows" in repr(found)
    assert found.settings["clusters"] == 8
    assert found.settings["background_rank"] <= 4
    loaded = dasp.Attribution.load(found.save(tmp_path / "values"))
    assert loaded.background
    assert torch.equal(loaded.baselines[0], ROWS)
    assert repr(loaded) == repr(found)
    frame = found.to_frame()
    assert len(frame) == 3


def test_changes_of_the_network_and_of_the_rows_are_seen() -> None:
    model, rows = mlp(), ROWS.clone()
    explainer = dasp.Explainer(model, rows)
    first = explainer(X, 0)
    with torch.no_grad():
        model[0].weight.mul_(1.5)
    second = explainer(X, 0)
    assert torch.equal(second.per_player, dasp.Explainer(model, rows)(X, 0).per_player)
    model[0].weight.data.mul_(1.5)  # unseen by torch's counters
    third = explainer(X, 0)
    assert torch.equal(third.per_player, dasp.Explainer(model, rows)(X, 0).per_player)
    rows.add_(1)
    fourth = explainer(X, 0)
    assert torch.equal(fourth.per_player, dasp.Explainer(model, rows)(X, 0).per_player)
    found = [one.base_value for one in (first, second, third, fourth)]
    assert all(relative(a, b) > 1e-3 for a, b in zip(found[1:], found, strict=False))
    assert torch.equal(third.baselines[0], ROWS)  # a result keeps the rows it was made with


def nan_at(row: int) -> Tensor:
    rows = ROWS.clone()
    rows[row, 2] = math.nan
    return rows


@pytest.mark.parametrize(
    ("baseline", "message"),
    [
        (nan_at(4), r"baseline: holds NaN.*\(4, 2\)"),
        (draw(9, N + 1), r"baseline: shape \(9, 7\) does not fit.*background of rows"),
        (draw(0, N), "background without rows"),
        (dasp.PerRow(draw(9, N)), "one baseline for each row"),
        (ROWS.float(), "torch.float32, but the input is torch.float64"),
        (ROWS.long(), "torch.int64"),
    ],
    ids=["NaN", "shape", "no rows", "per row", "dtype", "integers"],
)
def test_bad_backgrounds(baseline: Any, message: str) -> None:
    with pytest.raises(dasp.InputError, match=message):
        dasp.Explainer(mlp(), baseline)(X, 0)


def test_backgrounds_of_several_inputs_that_do_not_go_together() -> None:
    class Sum(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return a.sum(1) + b.sum(1)

    for baseline, message in (
        ((ROWS, ROWS[:5]), "a background of 5 rows, but another input's has 9"),
        ((ROWS, dasp.PerRow(X)), "PerRow beside a background"),
        (ROWS, "one tensor for 2 inputs"),
        (dasp.PerRow(X), "one PerRow for 2 inputs"),
    ):
        with pytest.raises(dasp.InputError, match=message):
            dasp.Explainer(Sum(), baseline)((X, X))
    mixed = dasp.Explainer(Sum(), (ROWS, 0.5))((X, X))
    assert mixed.background
    assert isinstance(mixed.values, tuple)
    torch.testing.assert_close(mixed.values[1], X - 0.5)


def test_a_row_at_which_the_model_is_not_defined_is_named() -> None:
    class Root(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.sum(1).sqrt()

    rows = ROWS.abs()
    rows[5] = -1
    with pytest.raises(dasp.InputError, match="row 5 of the background"):
        dasp.Explainer(Root(), rows, method=dasp.Exact())(X.abs())


def test_rows_that_do_not_fit_the_memory_bound() -> None:
    rows = draw(5000, N)
    with pytest.raises(dasp.MemoryBoundError, match=r"putting 5,000 rows into clusters needs 0.687 MiB.*Raise memory="):
        dasp.Explainer(mlp(), rows, memory=2**19)(X, 0)
    assert dasp.Explainer(mlp(), rows, memory=2**21)(X, 0).settings["clusters"] == 8


def test_options_of_a_background_without_one() -> None:
    for option in ("clusters", "background_rank"):
        with pytest.raises(dasp.InputError, match=f"{option} is for a background"):
            dasp.Explainer(mlp(), 0.0, method=dasp.Propagation(**{option: 2}))(X, 0)
    with pytest.raises(dasp.InputError, match="clusters must be at least 1"):
        dasp.Propagation(clusters=0)
    with pytest.raises(dasp.InputTypeError, match="background_rank: expected an int"):
        dasp.Propagation(background_rank=1.5)  # type: ignore[arg-type]


def test_axioms_are_measured_against_a_background() -> None:
    report = dasp.axioms.measure(dasp.Explainer(mlp(), ROWS, method=dasp.Exact()), X, 0)
    assert all(row.refused is None for row in report.rows)
    assert all(max(row.violations) < 1e-9 for row in report.rows if row.axiom != "continuity")


def test_interactions_are_means_over_the_rows_and_count_them() -> None:
    model = mlp()
    parts = [dasp.Explainer(model, row, method=dasp.Exact()).interactions(X, [0, 1]).values for row in ROWS]
    for memory in (2**30, 5000):
        found = dasp.Explainer(model, ROWS, method=dasp.Exact(), memory=memory).interactions(X, [0, 1])
        torch.testing.assert_close(found.values, torch.stack(parts).mean(0))
        assert found.evaluations == 2**N * J


# Clusters


def test_clusters_are_found_and_keep_the_moments() -> None:
    centres = torch.tensor([[0.0, 0, 0], [10, 0, 0], [0, 10, 5]], dtype=torch.float64)
    rows = torch.cat([centre + draw(20, 3, seed=i) for i, centre in enumerate(centres)])
    owner = nearest(rows, 3)
    assert all(len(owner[20 * i : 20 * i + 20].unique()) == 1 for i in range(3))
    assert len(owner.unique()) == 3
    background = Background((rows[:, :1], rows[:, 1:]))
    for count, rank in ((1, 3), (3, 2), (5, 1), (3, 0)):
        found = background.clusters(count, rank, [torch.ones(1), torch.tensor([2.0, 0.5])])
        weights = found.weights.unsqueeze(1)
        mean, load, rest = (torch.cat(part, -1) for part in (found.means, found.factors, found.rests))
        torch.testing.assert_close((weights * mean).sum(0), rows.mean(0))
        spread = (weights * (load.square().sum(0) + rest + mean.square())).sum(0) - rows.mean(0).square()
        torch.testing.assert_close(spread, rows.var(0, correction=0))


def test_many_clusters_of_many_rows_keep_the_memory_bound() -> None:
    background = Background((draw(4000, 4, dtype=torch.float32),))
    made: list[Clusters] = []
    bound = 2**22  # 12 MiB a matrix of distances would be of 400 clusters
    assert peak_bytes(lambda: made.append(background.clusters(400, 2, [torch.ones(4)], memory=bound))) < bound
    roomy = background.clusters(400, 2, [torch.ones(4)])
    for one, two in zip((made[0].weights, *made[0].means), (roomy.weights, *roomy.means), strict=True):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize("shape", [(40, 7), (7, 40), (1500, 1300)])
def test_principal_axes(shape: tuple[int, int]) -> None:
    scale = torch.arange(1, shape[1] + 1, dtype=torch.float64) ** -1.5
    rows = draw(*shape) * scale
    rows = rows - rows.mean(0)
    axes = principal_axes(rows, 3)
    values, vectors = torch.linalg.eigh(rows.T @ rows / len(rows))
    truth = (vectors[:, -3:] * values[-3:].sqrt()).T.flip(0)
    torch.testing.assert_close(axes.T @ axes, truth.T @ truth, rtol=1e-6, atol=1e-8)


def test_equal_rows_and_fewer_dimensions_than_asked_for() -> None:
    rows = torch.cat((torch.zeros(5, 3), torch.ones(5, 3))).double()
    found = Background((rows,)).clusters(4, 2, [torch.ones(3)])
    assert found.count == 2
    assert not found.factors[0].any()
    assert not found.rests[0].any()
    model = mlp(3)
    truth = dasp.Explainer(model, rows, method=dasp.Exact())(X[:, :3], 0).per_player
    values = dasp.Explainer(model, rows, method=dasp.Propagation(clusters=4, mixture=3))(X[:, :3], 0).per_player
    torch.testing.assert_close(values, truth)
