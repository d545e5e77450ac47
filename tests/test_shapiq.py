"""Values and interactions as shapiq's, against its own enumeration; its plots draw them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import shapiq
import torch
from matplotlib import pyplot
from torch import Tensor, nn

import dasp

from . import explained_networks as networks
from .explained_networks import array, saved

mpl.use("Agg")

NAMES = [f"feature {i}" for i in range(6)]
# shap 0.51 draws with calls that matplotlib and numpy will drop, and seeds numpy's global generator.
theirs = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return networks.small()


@pytest.fixture(scope="module")
def rows() -> Tensor:
    return networks.small_table()


@pytest.fixture(autouse=True)
def closed_figures() -> Iterator[None]:
    pyplot.close("all")
    yield
    pyplot.close("all")


def test_shapiq_has_its_own_exact_values(model: nn.Module, rows: Tensor, tmp_path: Path) -> None:
    """Orders 1 and 2, SII and k-SII, against shapiq's enumeration of the same game."""
    explainer = dasp.Explainer(model, 0.0, method=dasp.Exact())
    x = rows[:2].clone()
    result, pairs = explainer(x, [0, 1]), explainer.interactions(x, [0, 1])

    def game(coalitions: Any) -> Any:
        with torch.no_grad():
            return array(model(torch.where(torch.tensor(coalitions, dtype=torch.bool), x[1], 0.0))[:, 1])

    exact = shapiq.ExactComputer(n_players=6, game=game)
    first = result.to_shapiq(1, target_index=1)
    truth = exact("SV", order=1)
    assert first.index == "SV"
    assert first.baseline_value == pytest.approx(truth.baseline_value, abs=1e-6)
    for key, value in truth.dict_values.items():
        assert first[key] == pytest.approx(value, abs=1e-5)
    for index in ("SII", "k-SII"):
        found = pairs.to_shapiq(result, 1, target_index=1, index=index)
        truth = exact(index, order=2)
        assert (found.index, found.max_order) == (index, 2)
        assert found.baseline_value == pytest.approx(truth.baseline_value, abs=1e-6)
        for key in itertools.chain(itertools.combinations(range(6), 1), itertools.combinations(range(6), 2)):
            assert found[key] == pytest.approx(truth[key], abs=1e-5)
    total = sum(found.dict_values.values())
    assert total == pytest.approx(float(result.output[1, 1]), abs=1e-5)
    assert not found.estimated
    alone = pairs.to_shapiq(row=1, target_index=1)
    assert alone.min_order == 2
    assert len(alone.dict_values) == 15
    banzhaf = dasp.Explainer(model, 0.0, method=dasp.Exact(), semivalue=dasp.Banzhaf())
    found = banzhaf.interactions(x, 1).to_shapiq(banzhaf(x, 1), 1)
    truth = exact("BII", order=2)
    assert found.index == "BII"
    assert all(found[key] == pytest.approx(truth[key], abs=1e-5) for key in [(0,), (3,), (1, 4)])
    assert banzhaf(x, 1).to_shapiq(1).index == "BV"


@theirs
def test_shapiqs_plots(model: nn.Module, rows: Tensor, tmp_path: Path) -> None:
    explainer = dasp.Explainer(model, 0.0)
    made = explainer.interactions(rows[:1], 1).to_shapiq(explainer(rows[:1], 1), index="k-SII")
    assert made.estimated
    assert made.estimation_budget
    for name, draw in (
        ("network", lambda: made.plot_network(show=False, feature_names=NAMES)),
        ("waterfall", lambda: made.plot_waterfall(show=False, feature_names=np.array(NAMES))),
        ("force", lambda: made.plot_force(show=False, feature_names=np.array(NAMES))),
        ("stacked", lambda: made.plot_stacked_bar(show=False)),
    ):
        pyplot.close("all")
        draw()
        saved(tmp_path, f"shapiq {name}")


def test_what_shapiq_cannot_hold_is_refused(model: nn.Module, rows: Tensor) -> None:
    explainer = dasp.Explainer(model, 0.0, method=dasp.Exact())
    result, pairs = explainer(rows[:2], 0), explainer.interactions(rows[:2], 0)
    named = dasp.Explainer(model, 0.0, method=dasp.Exact(), feature_names=NAMES)
    some = explainer.interactions(rows[:2], 0, pairs=[(4, 1), (2, 3)])
    assert set(some.to_shapiq(result).dict_values) == {*((i,) for i in range(6)), (1, 4), (2, 3)}
    for wrong, said in (
        (lambda: result.to_shapiq(2), "row: there is no 2"),
        (lambda: result.to_shapiq(0, target_index=1), "target_index: there is no 1"),
        (lambda: pairs.to_shapiq(index="k-SII"), "attribution="),
        (lambda: some.to_shapiq(result, index="k-SII"), "all pairs"),
        (lambda: pairs.to_shapiq(result, index="STII"), "these are SII values"),
        (lambda: pairs.to_shapiq(explainer(rows[:3], 0)), "other rows"),
        (lambda: pairs.to_shapiq(explainer(rows[:2], 1)), "other targets"),
        (lambda: pairs.to_shapiq(named(rows[:2], 0)), "other players"),
    ):
        with pytest.raises(dasp.InputError, match=said):
            wrong()
    beta = dasp.Explainer(model, 0.0, method=dasp.Exact(), semivalue=dasp.BetaShapley(4, 1))
    with pytest.raises(dasp.InputError, match="no index for BetaShapley"):
        beta(rows[:1], 0).to_shapiq()
