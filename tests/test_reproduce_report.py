"""What the experiments report: measures against scipy and scikit-learn, costs at equal error against numbers by hand."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dasp.experiments import measures, report, speed
from dasp.experiments.command import folder_name
from dasp.experiments.problem import Problem
from dasp.experiments.speed import AT_MOST, BETWEEN, EXTRAPOLATED, MORE, NEVER, needed


def test_errors_are_what_their_names_say() -> None:
    truth = np.array([[3.0, 4.0], [0.0, 2.0]])
    values = np.array([[3.0, 3.0], [1.0, 1.0]])
    assert measures.relative_errors(values, truth).tolist() == pytest.approx([1 / 5, math.sqrt(2) / 2])
    assert measures.root_mean_square_errors(values, truth).tolist() == pytest.approx([math.sqrt(1 / 2), 1.0])


def test_rank_correlation_is_that_of_scipy() -> None:
    from scipy.stats import rankdata, spearmanr

    generator = np.random.default_rng(0)
    truth = generator.integers(0, 6, (20, 15)).astype(float)  # with many ties
    values = truth + generator.integers(-2, 3, (20, 15))
    expected = [spearmanr(*pair).statistic for pair in zip(values, truth, strict=True)]
    np.testing.assert_allclose(measures.rank_correlations(values, truth), expected, rtol=1e-12)
    np.testing.assert_allclose(measures.average_ranks(truth[0]), rankdata(truth[0]))
    assert measures.rank_correlations(np.ones((1, 4)), np.arange(4.0)[None]).tolist() == [0]


def test_area_under_roc_is_that_of_sklearn() -> None:
    from sklearn.metrics import roc_auc_score

    generator = np.random.default_rng(0)
    positive = generator.random((300, 2)) < 0.3
    scores = np.round(positive + generator.normal(size=(300, 2)), 1)  # with ties
    found = measures.areas_under_roc(scores, positive)
    np.testing.assert_allclose(found, [roc_auc_score(positive[:, task], scores[:, task]) for task in range(2)])
    assert np.isnan(measures.areas_under_roc(scores[:, :1], np.ones((300, 1), dtype=bool))).all()


@pytest.mark.parametrize(
    ("points", "error", "cost", "kind"),
    [
        ([(10, 0.4), (100, 0.04)], 0.04 * math.sqrt(10), 10 * math.sqrt(10), BETWEEN),  # half-way, in logarithms
        ([(100, 0.04), (10, 0.4)], 0.04, 100, BETWEEN),
        ([(10, 0.4), (100, 0.04)], 0.4, 10, AT_MOST),
        ([(10, 0.4), (100, 0.04)], 0.5, 10, AT_MOST),
        ([(16, 0.2), (64, 0.1)], 0.05, 256, EXTRAPOLATED),  # error falls as one over the root of the cost
        ([(1, 0.9), (16, 0.2), (64, 0.1)], 0.0125, 4096, EXTRAPOLATED),  # with the slope of the last two
        ([(16, 0.2), (64, 0.1)], 0.009, 6400, MORE),  # no farther than a hundred times
        ([(10, 0.4), (20, 0.05)], 0.025, 40, EXTRAPOLATED),  # no steeper than one over the cost
        ([(16, 0.2), (32, 0.3), (64, 0.1)], 0.05, 256, EXTRAPOLATED),  # a budget that is worse tells nothing
        ([(16, 0.2), (64, 0.1), (128, 0.11)], 0.05, None, NEVER),  # the largest budget is no better
        ([(16, 0.2), (64, 0.199)], 0.1, None, NEVER),  # it does not converge
        ([(64, 0.6)], 0.1, None, NEVER),
        ([(64, 0.6)], 0.6, 64, AT_MOST),
        ([(10, 0.4), (100, 0.0)], 0.1, 100, BETWEEN),  # exact at its largest budget
        ([(10, 0.4), (100, 0.04)], 0.0, None, NEVER),
        ([], 0.1, None, NEVER),
    ],
)
def test_cost_of_an_error(points: list[tuple[float, float]], error: float, cost: float | None, kind: str) -> None:
    found = needed(points, error)
    assert found.kind == kind
    assert found.cost == (None if cost is None else pytest.approx(cost))


def row(family: str, label: str, error: float, evaluations: float, seconds: float, **more: Any) -> dict[str, Any]:
    figures = {"error": error, "rmse": error / 2, "spearman": 1 - error}
    spreads = {f"{name}_std": value / 10 for name, value in figures.items()}
    return {
        "family": family, "label": label, **figures, **spreads, "evaluations": evaluations, "propagations": 0.0,
        "seconds": seconds, **more,
    }  # fmt: skip


ROWS = [
    row("dasp.Propagation, diagonal", "diagonal, 4 nodes", 0.1, 0, 0.001, propagations=4.0),
    row("dasp.DASP", "dasp.DASP, 8 sizes", 0.2, 0, 0.5, propagations=400.0),
    row("peer", "peer, 16", 0.2, 16, 0.002),
    row("peer", "peer, 64", 0.1, 64, 0.008),
    row("gradients", "gradients", 0.6, 1, 0.0001),
    row("dasp.PermutationSampling", "permutations=2", 0.15, 8, 0.004),
    {"family": "other", "label": "other", "unsupported": "no rule for | pools"},
    {"family": "broken", "label": "broken", "failed": "ValueError: no"},
]


def test_times_cheaper_at_equal_error() -> None:
    found = {(one["method"], one["family"]): one for one in speed.pairs(ROWS)}
    assert len(found) == 3 * 3 - 1  # three settings of ours; the two others and our sampling, but not against itself
    diagonal = found["diagonal, 4 nodes", "peer"]
    assert diagonal["evaluations"]["times"] == pytest.approx(64 / 4)
    assert diagonal["time"]["times"] == pytest.approx(8)
    assert diagonal["time"]["kind"] == BETWEEN
    slow = found["dasp.DASP, 8 sizes", "peer"]
    assert slow["evaluations"]["times"] == pytest.approx(16 / 400)
    assert slow["evaluations"]["kind"] == AT_MOST
    assert found["diagonal, 4 nodes", "gradients"]["time"] == {"times": None, "cost": None, "kind": NEVER}
    assert found["diagonal, 4 nodes", "dasp.PermutationSampling"]["time"]["times"] is None
    assert found["dasp.DASP, 8 sizes", "dasp.PermutationSampling"]["time"]["times"] == pytest.approx(0.004 / 0.5)
    text = speed.table(ROWS).splitlines()
    assert text.count("| method | error | peer | gradients | dasp.PermutationSampling |") == 2
    assert "| dasp.Propagation: diagonal, 4 nodes | 0.1000 | 16 | never | never |" in text
    assert "| dasp.DASP, 8 sizes | 0.2000 | <= 0.04 | never | <= 0.02 |" in text
    assert "No method of this library" in speed.table(ROWS[2:5])


def problem() -> Problem:
    return Problem(
        "parkinson", "Small, 2 players", nn.Sequential(nn.Linear(2, 1)), torch.zeros(3, 2), torch.zeros(3).long(), None,
        np.ones((3, 2)), np.array([0.0, 0.01, 0.0199]), "accuracy 9 %", ("age", "sex"),
    )  # fmt: skip


def test_the_table_shows_the_best_first_and_every_reason() -> None:
    found = report.result(problem(), ROWS, {"quick": True})
    assert found["truth"] == "sampled, its relative error at most 1.99 %"
    lines = report.table(found).splitlines()
    first = "| dasp.Propagation: diagonal, 4 nodes | 0.1000 ± 0.0100 | 0.05 ± 0.005 | 0.9000 ± 0.0900 | 0 | 4 | 1 ms |"
    start = next(place for place, line in enumerate(lines) if line.startswith("| ---")) + 1
    assert lines[start] == first
    assert [line.split(" | ")[0].strip("| ") for line in lines[start + 1 : start + 6]] == [
        "peer, 64", "dasp.PermutationSampling: permutations=2", "dasp.DASP, 8 sizes", "peer, 16", "gradients",
    ]  # fmt: skip
    assert lines[-2] == "| other | cannot treat this network: no rule for \\| pools | | | | | |"
    assert lines[-1] == "| broken | failed: ValueError: no | | | | | |"


def test_the_file_is_json_for_every_reader() -> None:
    found = report.result(problem(), ROWS, {})
    assert json.loads(report.as_json(found)) == found
    assert (found["inputs"], found["players"], found["names"]) == (3, 2, ["age", "sex"])
    with pytest.raises(ValueError, match="JSON compliant"):
        report.as_json({"error": math.nan})


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(12.345, "12.35 s"), (0.5, "500 ms"), (0.0123, "12 ms"), (0.00123, "1.23 ms"), (0.0000035, "0.0035 ms")],
)
def test_durations_are_readable(seconds: float, text: str) -> None:
    assert report.duration(seconds) == text


def test_settings_have_folders_of_their_own() -> None:
    usual = {"players": "positions", "quick": False, "inputs": None, "seed": 0}
    assert folder_name("dna", usual) == "dna"
    assert folder_name("dna", {**usual, "players": "channels", "quick": True}) == "dna-channels-quick"
    assert folder_name("mnist", {**usual, "players": "channels", "inputs": 3, "seed": 2}) == "mnist-3-inputs-seed-2"


def test_the_other_commands_do_not_load_the_experiments() -> None:
    code = "import sys, dasp.cli; print([name for name in sys.modules if name.startswith('dasp.experiments')])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "['dasp.experiments', 'dasp.experiments.command']"
