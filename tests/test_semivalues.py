"""Semivalues: sizes' weights against their definitions, every estimator against enumeration written out here."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import dasp
from dasp.errors import InputError, InputTypeError
from dasp.semivalues import Weighting

N = 7
CHOICES: tuple[Weighting, ...] = (
    dasp.Banzhaf(),
    dasp.Banzhaf(0.3),
    dasp.BetaShapley(16, 1),
    dasp.BetaShapley(0.5, 2),
    dasp.BetaShapley(1, 4),
    dasp.Semivalue.of_sizes([1, 0, 0, 0, 0, 0, 0]),
    dasp.Semivalue.of_sizes([0.5, 0, 0, 0, 0, 0, 0.5]),
    dasp.Semivalue(tuple(dasp.BetaShapley(3, 2).weights_of_sizes(N))),
)


def network(players: int = N) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(nn.Linear(players, 12), nn.ReLU(), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 2)).double()


def inputs(players: int = N, rows: int = 2) -> Tensor:
    return torch.randn(rows, players, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def enumerated(model: nn.Module, x: Tensor, weights: Any, target: int) -> Tensor:
    """The definition, coalition by coalition."""
    n = x.shape[1]
    result = torch.zeros_like(x)
    for others in itertools.product((0.0, 1.0), repeat=n):
        z = torch.tensor(others, dtype=x.dtype)
        for i in range(n):
            if others[i] == 0:
                joined = z.clone()
                joined[i] = 1
                result[:, i] += weights[int(sum(others))] * (model(joined * x) - model(z * x))[:, target]
    return result.detach()


def explained(semivalue: Weighting | None, method: dasp.Estimator | None = None, **options: Any) -> dasp.Attribution:
    return dasp.Explainer(network(), 0.0, method=method, semivalue=semivalue, **options)(inputs(), 1)


def error(found: Any, truth: Tensor) -> float:
    return float(((found - truth).norm(dim=1) / truth.norm(dim=1)).max())


def test_beta_weights_are_those_of_kwon_and_zou() -> None:
    """Their w(j) = n C(n-1, j-1) B(j + beta - 1, n - j + alpha) / B(alpha, beta), phi = 1/n sum w(j) mean contribution."""
    alpha, beta = 16.0, 1.0
    for j in range(1, N + 1):
        b = math.exp(math.lgamma(j + beta - 1) + math.lgamma(N - j + alpha) - math.lgamma(N + alpha + beta - 1))
        norm = math.gamma(alpha) * math.gamma(beta) / math.gamma(alpha + beta)
        assert dasp.BetaShapley(alpha, beta).shares(N)[j - 1] == pytest.approx(math.comb(N - 1, j - 1) * b / norm)
    assert dasp.BetaShapley(16, 1).shares(N)[0] > dasp.BetaShapley(1, 16).shares(N)[0]  # small coalitions


@pytest.mark.parametrize("semivalue", CHOICES, ids=str)
def test_exact_is_the_definition(semivalue: Weighting) -> None:
    truth = enumerated(network(), inputs(), semivalue.weights_of_sizes(N), 1)
    assert error(explained(semivalue, dasp.Exact()).values, truth) < 1e-12


@pytest.mark.parametrize("semivalue", CHOICES, ids=str)
def test_propagation_is_near_and_with_all_players_enumerated_exact(semivalue: Weighting) -> None:
    truth = enumerated(network(), inputs(), semivalue.weights_of_sizes(N), 1)
    assert error(explained(semivalue).values, truth) < 0.06
    exact = explained(semivalue, dasp.Propagation(nodes=None if semivalue.at_one_point else 5, mixture=N))
    assert error(exact.values, truth) < 1e-9


@pytest.mark.parametrize("semivalue", CHOICES[:5], ids=str)
def test_sampling_is_within_its_errors(semivalue: Weighting) -> None:
    truth = enumerated(network(), inputs(), semivalue.weights_of_sizes(N), 1)
    result = explained(semivalue, dasp.PermutationSampling(permutations=4000))
    assert isinstance(result.values, Tensor)
    assert isinstance(result.standard_errors, Tensor)
    assert bool(((result.values - truth).abs() <= 5 * result.standard_errors + 1e-12).all())


def test_the_audit_is_about_the_semivalue() -> None:
    result = explained(dasp.BetaShapley(16, 1), dasp.Exact())
    audit = result.audit(4000)
    assert float(audit.low.max()) == 0
    assert float(audit.relative_error.max()) < 0.1
    wrong = explained(None, dasp.Exact())
    assert isinstance(result.auditor, object)
    assert result.auditor is not None
    found = result.auditor(wrong.per_player, evaluations=4000, seed=0, confidence=0.95, progress=False)
    assert float(found.low.min()) > 0.1


@pytest.mark.parametrize("method", [dasp.Exact(), dasp.Propagation(), dasp.PermutationSampling()])
def test_beta_one_one_is_the_shapley_value(method: dasp.Estimator) -> None:
    torch.testing.assert_close(explained(dasp.BetaShapley(1, 1), method).values, explained(None, method).values)


def test_few_players_are_exact_by_default() -> None:
    x = inputs(5)
    for semivalue in (dasp.Banzhaf(), dasp.BetaShapley(4, 1)):
        found = dasp.Explainer(network(5), 0.0, semivalue=semivalue)(x, 1)
        assert error(found.values, enumerated(network(5), x, semivalue.weights_of_sizes(5), 1)) < 1e-10


def test_rows_are_alone_what_they_are_in_a_batch() -> None:
    explainer = dasp.Explainer(network(), 0.0, semivalue=dasp.BetaShapley(4, 1))
    torch.testing.assert_close(explainer(inputs()[:1], 1).values, explainer(inputs(), 1).values[:1])  # type: ignore[index]


def test_many_players_take_legendre_nodes_and_both_precisions() -> None:
    model = nn.Sequential(nn.Linear(80, 16), nn.ReLU(), nn.Linear(16, 1))
    x = torch.randn(2, 80, generator=torch.Generator().manual_seed(0))
    single = dasp.Explainer(model, 0.0, semivalue=dasp.BetaShapley(4, 1))(x)
    double = dasp.Explainer(model.double(), 0.0, semivalue=dasp.BetaShapley(4, 1))(x.double())
    assert single.settings["rule"] == "legendre"
    assert error(single.values, double.values) < 1e-4  # type: ignore[arg-type]


def test_the_gauss_rule_of_own_weights_is_that_of_their_distribution() -> None:
    own = dasp.Semivalue(tuple(dasp.BetaShapley(4, 1).weights_of_sizes(20)))
    for ends in (False, True):
        rule = own.quadrature(20, 6, ends=ends)
        for k in range(12):  # moments that six nodes take exactly, less those that twenty sizes leave open
            q = np.array([0, *rule.inner, 1])
            moment = math.exp(math.lgamma(1 + k) + math.lgamma(5) - math.lgamma(5 + k))
            if k <= 9:
                assert np.array([rule.first, *rule.weights, rule.last]) @ q**k == pytest.approx(moment, abs=1e-9)


def test_settings_carry_the_semivalue_through_a_file(tmp_path: Path) -> None:
    for semivalue in CHOICES:
        result = explained(semivalue, dasp.Exact())
        loaded = dasp.Attribution.load(result.save(tmp_path / "values"))
        assert loaded.settings["semivalue"]["name"] == type(semivalue).__name__
        if isinstance(semivalue, dasp.BetaShapley):
            assert loaded.settings["semivalue"]["alpha"] == semivalue.alpha
    assert "semivalue" not in explained(None, dasp.Exact()).settings


def test_own_weights_come_as_arrays_too() -> None:
    plain = dasp.Semivalue.of_sizes([0.5, 0.25, 0.25])
    for made in (np.float32, torch.tensor):
        assert dasp.Semivalue.of_sizes(made([0.5, 0.25, 0.25])) == plain
        assert dasp.Semivalue(made([0.5, 0.125, 0.25])) == plain
    for wrong, message in (((), "got none"), ("0.5", "got str"), (np.array(1.0), "got float"), (np.eye(2), "number, got list")):
        with pytest.raises(InputTypeError, match=f"weights: .*{message}"):
            dasp.Semivalue(wrong)  # type: ignore[arg-type]


def test_what_cannot_be_is_refused() -> None:
    for method in (dasp.DASP(), dasp.VertexGradients(), dasp.Regression(budget=100, prior=None)):
        with pytest.raises(InputError, match=rf"{type(method).__name__} computes Shapley values only. Use method=dasp.Prop"):
            dasp.Explainer(network(), 0.0, method=method, semivalue=dasp.Banzhaf())
    with pytest.raises(InputError, match=r"no distribution of q .* Use method=dasp.Exact"):
        explained(dasp.Semivalue.of_sizes([0, 1, 0, 0, 0, 0, 0]))
    with pytest.raises(InputError, match="3 weights, and there are 7 players"):
        explained(dasp.Semivalue.of_sizes([1, 0, 0]), dasp.Exact())
    with pytest.raises(InputError, match=r"weights\[k\] is 2, and must be 1"):
        dasp.Semivalue((1.0, 1.0))
    with pytest.raises(InputError, match="0 or more"):
        dasp.Semivalue((2.0, -1.0))
    with pytest.raises(InputError, match="alpha must be above 0"):
        dasp.BetaShapley(0, 1)
    with pytest.raises(InputError, match="probability must lie between"):
        dasp.Banzhaf(1.0)
    with pytest.raises(InputError, match=r"at q = 0.5 alone; leave nodes="):
        explained(dasp.Banzhaf(), dasp.Propagation(nodes=4))
    for options in ({"nodes": 2}, {}, {"mixture": 7}):
        with pytest.raises(InputError, match="leave nodes="):
            explained(dasp.Banzhaf(), dasp.Propagation(rule="lobatto", **options))
    with pytest.raises(InputTypeError, match=r"Write Banzhaf\(...\)"):
        explained(dasp.Banzhaf)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="2,000 sizes"):
        dasp.Semivalue.of_sizes([1 / 2000] * 2000)
    with pytest.raises(InputTypeError, match="alpha: expected a number"):
        dasp.BetaShapley("1", 1)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="axioms of the Shapley value"):
        dasp.axioms.measure(dasp.Explainer(network(), 0.0, semivalue=dasp.Banzhaf()), inputs(), 0)
