"""Interactions of pairs: exact against the definition and shapiq, propagated against exact, and what is refused."""

from __future__ import annotations

import itertools
import json
import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import dasp
from dasp.errors import InputError, InputTypeError, MemoryBoundError
from dasp.experiments import data, files, networks

N = 6
BIG = 8


def network(players: int = N) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(nn.Linear(players, 12), nn.ReLU(), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 2)).double()


@cache
def captured(players: int) -> dasp.Model:
    """The network, captured once for many tests."""
    return dasp.Model(network(players))


def inputs(players: int = N, rows: int = 2) -> Tensor:
    return torch.randn(rows, players, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def enumerated(model: nn.Module, x: Tensor, target: int) -> Tensor:
    """Grabisch and Roubens' sum, pair by pair and coalition by coalition."""
    n = x.shape[1]
    result = torch.zeros(len(x), n, n, dtype=x.dtype)
    for i, j in itertools.combinations(range(n), 2):
        for others in itertools.product((0.0, 1.0), repeat=n - 2):
            rest = [k for k in range(n) if k not in (i, j)]
            z = torch.zeros(n, dtype=x.dtype)
            z[rest] = torch.tensor(others, dtype=x.dtype)
            s = int(z.sum())
            weight = math.factorial(s) * math.factorial(n - s - 2) / math.factorial(n - 1)
            for a, b in itertools.product((0, 1), repeat=2):
                z[i], z[j] = a, b
                result[:, i, j] += (-1) ** (a + b) * weight * model(z * x)[:, target].detach()
        result[:, j, i] = result[:, i, j]
    return result


def error(found: Tensor, truth: Tensor) -> float:
    return float((found - truth).norm() / truth.norm())


def found(method: dasp.Estimator | None = None, players: int = N, **asked: Any) -> dasp.Interactions:
    semivalue = asked.pop("semivalue", None)
    explainer = dasp.Explainer(captured(players), 0.0, method=method, semivalue=semivalue)
    return explainer.interactions(inputs(players), 1, **asked)


def test_exact_is_the_definition() -> None:
    assert error(found(dasp.Exact()).values, enumerated(network(), inputs(), 1)) < 1e-12


def test_exact_banzhaf_is_the_mean_second_difference() -> None:
    x, z = inputs(), torch.tensor(list(itertools.product((0.0, 1.0), repeat=N)), dtype=torch.float64)
    signs = 2 * z - 1
    for row, values in zip(x, found(dasp.Exact(), semivalue=dasp.Banzhaf()).values, strict=True):
        v = network()(z * row)[:, 1].detach()
        truth = torch.einsum("s,si,sj->ij", v, signs, signs) / 2 ** (N - 2)
        torch.testing.assert_close(values, truth.fill_diagonal_(0))


def test_exact_is_what_shapiq_finds() -> None:
    shapiq = pytest.importorskip("shapiq")
    x, model = inputs(), network()

    def game(coalitions: Any) -> Any:
        with torch.no_grad():
            z = torch.from_numpy(np.asarray(coalitions, dtype=np.float64))
            return (model(z * x[0])[:, 1] - model(0 * x[:1])[0, 1]).numpy()

    computer = shapiq.ExactComputer(game, n_players=N)
    truth = computer("SII", order=2)
    values = found(dasp.Exact()).values[0]
    for i, j in itertools.combinations(range(N), 2):
        assert float(values[i, j]) == pytest.approx(float(truth[(i, j)]), abs=1e-9)
    banzhaf = computer("BV", order=1)
    single = dasp.Explainer(model, 0.0, method=dasp.Exact(), semivalue=dasp.Banzhaf())(x, 1).per_player[0, 0]
    for i in range(N):
        assert float(single[i]) == pytest.approx(float(banzhaf[(i,)]), abs=1e-9)


def test_few_players_are_exact_by_default() -> None:
    for semivalue in (None, dasp.Banzhaf(), dasp.BetaShapley(4, 1)):
        assert error(found(semivalue=semivalue).values, found(dasp.Exact(), semivalue=semivalue).values) < 1e-9


@pytest.mark.parametrize("semivalue", [None, dasp.Banzhaf(), dasp.BetaShapley(4, 1)], ids=str)
def test_propagation_is_near(semivalue: Any) -> None:
    truth = found(dasp.Exact(), BIG, semivalue=semivalue).values
    assert error(found(None, BIG, semivalue=semivalue).values, truth) < 0.2
    all_enumerated = dasp.Propagation(mixture=BIG, nodes=1 if isinstance(semivalue, dasp.Banzhaf) else 5)
    assert error(found(all_enumerated, BIG, semivalue=semivalue).values, truth) < 1e-9


@pytest.mark.parametrize(
    "method",
    [
        dasp.Exact(),
        dasp.Propagation(),
        dasp.Propagation(rank=2, mixture=0),
        dasp.Propagation(rank=0, rule="legendre", nodes=4),
    ],
)
def test_the_matrix_is_symmetric_and_parts_of_it_agree(method: dasp.Estimator) -> None:
    whole = found(method, BIG)
    assert whole.pairs is None
    assert bool((whole.values.diagonal(dim1=1, dim2=2) == 0).all())
    torch.testing.assert_close(whole.values, whole.values.mT, rtol=0, atol=0)
    one = found(method, BIG, pairs=3)
    assert one.pairs is not None
    assert one.pairs.tolist() == [[3, j] for j in range(BIG) if j != 3]
    torch.testing.assert_close(one.values, whole.values[:, 3, one.pairs[:, 1]])
    some = found(method, BIG, pairs=[(5, 0), (1, 2)])
    torch.testing.assert_close(some.values, torch.stack((whole.values[:, 0, 5], whole.values[:, 1, 2]), 1))
    top = found(method, BIG, top=2)
    mean = whole.values.abs().mean(0).triu()
    assert top.pairs is not None
    assert {tuple(pair) for pair in top.pairs.tolist()} == {divmod(int(k), BIG) for k in mean.flatten().topk(2).indices}


def test_pairs_of_a_result_can_be_asked_for_again() -> None:
    first = found(dasp.Exact(), top=3)
    assert first.pairs is not None
    given = first.pairs, first.pairs.numpy(), list(first.pairs.numpy()), first.pairs.tolist(), tuple(first.pairs)
    for pairs in given:
        again = found(dasp.Exact(), pairs=pairs)
        torch.testing.assert_close(again.values, first.values)
        assert json.loads(json.dumps(again.settings))["pairs"] == first.pairs.tolist()
    one = found(dasp.Exact(), pairs=2)
    for player in (np.int64(2), torch.tensor(2)):
        assert torch.equal(found(dasp.Exact(), pairs=player).values, one.values)
    for wrong in (torch.ones(2, 2), np.array([[True, False]]), torch.tensor([1, 2]), torch.zeros(2, 3).long()):
        with pytest.raises(InputTypeError, match="pairs: "):
            found(pairs=wrong)


def test_rows_and_targets_are_alone_what_they_are_together() -> None:
    explainer = dasp.Explainer(captured(BIG), 0.0)
    every = explainer.interactions(inputs(BIG), [0, 1]).values
    assert every.shape == (2, 2, BIG, BIG)
    torch.testing.assert_close(explainer.interactions(inputs(BIG)[1:], 0).values, every[1:, 0])


def test_chunks_change_nothing() -> None:
    x = inputs(BIG, 5)
    wide = dasp.Explainer(captured(BIG), 0.0).interactions(x, 0)
    narrow = dasp.Explainer(captured(BIG), 0.0, memory=400_000).interactions(x, 0)
    assert narrow.settings["rows_at_once"] < wide.settings["rows_at_once"]
    options = {name: wide.settings[name] for name in ("nodes", "rule", "rank", "mixture", "condition")}
    assert options == {name: narrow.settings[name] for name in options}
    torch.testing.assert_close(narrow.values, wide.values)


@pytest.mark.parametrize("semivalue", [None, dasp.Banzhaf()], ids=str)
@pytest.mark.parametrize(
    "method",
    [dasp.Propagation(), dasp.Propagation(mixture=BIG, rule="legendre"), dasp.Propagation(rank=2)],
    ids=["default", "all enumerated", "rank 2"],
)
def test_evaluations_are_those_that_were_made(
    monkeypatch: pytest.MonkeyPatch, method: dasp.Estimator, semivalue: Any
) -> None:
    made = 2  # nobody and everybody
    plain = dasp.game.Game.table

    def counted(game: dasp.game.Game, coalitions: Tensor, rows: Tensor) -> Tensor:
        nonlocal made
        made += len(coalitions)
        return plain(game, coalitions, rows)

    monkeypatch.setattr(dasp.game.Game, "table", counted)
    explainer = dasp.Explainer(captured(BIG), 0.0, method=method, semivalue=semivalue)
    result = explainer.interactions(inputs(BIG, 1), 1)
    gradients = 4 * 2 if result.settings["rank"] == 2 else 0
    assert result.evaluations == (made if made > 2 else 0) + gradients


def test_a_product_of_two_is_all_interaction_also_of_groups_in_single_precision() -> None:
    class Product(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, 0] * x[:, 2] + x[:, 1] + x[:, 3]

    x, mask = torch.tensor([[2.0, 1.0, 3.0, 5.0]]), torch.tensor([0, 1, 1, 2])
    model = dasp.Model(Product())
    for method in (dasp.Propagation(), dasp.Propagation(rank=0, mixture=0), dasp.Exact()):
        values = dasp.Explainer(model, 0.0, method=method, players=mask).interactions(x).values
        torch.testing.assert_close(values, torch.tensor([[[0.0, 6.0, 0.0], [6.0, 0.0, 0.0], [0.0, 0.0, 0.0]]]))


def test_a_player_that_does_not_move_has_none() -> None:
    x = inputs(BIG)
    x[0, 2] = 0
    values = dasp.Explainer(captured(BIG), 0.0).interactions(x, 0).values
    assert bool((values[0, 2] == 0).all())
    assert bool((values[1, 2] != 0).any())


def test_parkinson_correlates_with_enumeration(paper_data: Path, tmp_path: Path) -> None:
    split = data.parkinson(files.DataFolder(paper_data, tmp_path))
    model = networks.trained(
        networks.parkinson_mlp, split, nn.MSELoss(), name="parkinson", cache=tmp_path, epochs=2, progress=False
    )
    players = torch.arange(18) // 2  # nine, so that enumeration is short
    x = split.test_inputs[:4]
    truth = dasp.Explainer(model, 0.0, method=dasp.Exact(), players=players).interactions(x).values
    values = dasp.Explainer(model, 0.0, players=players).interactions(x).values
    for a, b in zip(values, truth, strict=True):
        assert float(torch.corrcoef(torch.stack((a.flatten(), b.flatten())))[0, 1]) > 0.95


def test_frames_hold_every_pair_once() -> None:
    frame = found(dasp.Exact()).to_frame()
    assert len(frame) == 2 * N * (N - 1) // 2
    values = found(dasp.Exact()).values
    line = frame[(frame["sample"] == 1) & (frame["first"] == "x[2]") & (frame["second"] == "x[4]")]
    assert float(line["value"].iloc[0]) == pytest.approx(float(values[1, 2, 4]))


def test_wrong_calls_are_refused() -> None:
    for method in (dasp.DASP(), dasp.VertexGradients(), dasp.PermutationSampling(), dasp.Regression(budget=100, prior=None)):
        with pytest.raises(InputError, match=rf"interactions: {type(method).__name__} has none. Use method=dasp.Pro"):
            found(method)
    with pytest.raises(InputError, match="there is no player 6"):
        found(pairs=6)
    with pytest.raises(InputError, match="one player"):
        found(pairs=[(1, 1)])
    with pytest.raises(InputError, match="none given"):
        found(pairs=[])
    with pytest.raises(InputError, match="top must be"):
        found(top=0)
    with pytest.raises(InputTypeError, match="expected 'all'"):
        found(pairs="some")
    with pytest.raises(InputTypeError, match="pairs of players' numbers"):
        found(pairs=[1, 2])
    with pytest.raises(MemoryBoundError, match=r"Ask for one player \(pairs=3\)"):
        dasp.Explainer(nn.Linear(4000, 1), 0.0, memory=10_000_000).interactions(torch.ones(2, 4000))
