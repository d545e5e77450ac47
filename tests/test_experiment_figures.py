"""The figures of the experiments: files, styles, error against cost, boxes and curves hold the numbers of the run."""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from torch import nn

from dasp.errors import DataFileError, InputError, MissingExtraError, OutputFileError
from dasp.experiments import figures, report
from dasp.experiments.figures import boxes, frontier, removal, style, summary
from dasp.experiments.figures.found import Found, representatives
from dasp.experiments.files import slug
from dasp.experiments.problem import Array, Problem
from dasp.experiments.speed import DEFAULT
from dasp.plots._removed import removed_counts

from .figure_runs import FAMILIES, OCCLUSION, dna_problem, image_run, measured, table_run


@pytest.fixture(autouse=True)
def settings() -> Iterator[None]:
    with style.drawing():
        yield


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Found:
    return table_run(tmp_path_factory.mktemp("table"))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Found:
    return image_run(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def sequences() -> Problem:
    return dna_problem()


@pytest.fixture(scope="module")
def dna(sequences: Problem, tmp_path_factory: pytest.TempPathFactory) -> Found:
    return measured(sequences, tmp_path_factory.mktemp("dna"))


def some(figure: Figure | None) -> Figure:
    assert figure is not None
    return figure


# What is written


def test_draws_what_fits_each_problem_as_png_and_svg(table: Found, images: Found, dna: Found) -> None:
    common = {"frontier", "boxes", "removal"}
    for found, special in ((table, "summary"), (images, "maps"), (dna, "letters")):
        written = figures.draw(found.folder, found.result)
        assert [path.parent for path in written] == [found.folder / "figures"] * 8
        assert {path.name for path in written} == {f"{name}.{kind}" for name in common | {special} for kind in ("png", "svg")}
        assert set(written) == set((found.folder / "figures").iterdir())  # nothing half written is left
        for path in written:
            start = path.read_bytes()[:200]
            assert start.startswith(b"\x89PNG") if path.suffix == ".png" else b"<svg" in start or b"<?xml" in start


@pytest.mark.parametrize("name", ["frontier", "summary"])
def test_the_same_numbers_give_the_same_bytes(name: str, table: Found, tmp_path: Path) -> None:
    draw = figures.FIGURES[name]
    first = style.save(some(draw(table)), tmp_path / "first")
    second = style.save(some(draw(table)), tmp_path / "second")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_nothing_global_of_matplotlib_changes(table: Found, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "FIGURES", {"boxes": boxes.figure})
    mpl.rcParams["font.size"] = 17.0
    before, pyplot = dict(mpl.rcParams), importlib.import_module("matplotlib.pyplot")
    open_before = pyplot.get_fignums()
    figures.draw(table.folder, table.result)
    assert dict(mpl.rcParams) == before
    assert pyplot.get_fignums() == open_before


def test_no_result_gives_no_figure(table: Found) -> None:
    rows = [row for row in table.result["rows"] if "error" not in row]
    assert len(rows) == 2
    assert figures.draw(table.folder, {**table.result, "rows": rows}) == []


def test_missing_and_damaged_files_are_named(table: Found, tmp_path: Path) -> None:
    with pytest.raises(DataFileError, match=r"problem\.npz: cannot be read"):
        figures.draw(tmp_path, table.result)
    name = f"{slug('default')}.npz"
    with pytest.raises(DataFileError, match=rf"{name}: cannot be read .* Run the experiment again"):
        summary.figure(dataclasses.replace(table, folder=tmp_path))
    (tmp_path / "methods").mkdir()
    np.savez(tmp_path / "methods" / name, other=np.ones(3))
    with pytest.raises(DataFileError, match="holds no values"):
        summary.figure(dataclasses.replace(table, folder=tmp_path))


@pytest.mark.parametrize("text", ["{", "[]", '{"removed": [0, 1], "curves": {"true values": [[1, 2]]}}', '{"curves": 3}'])
def test_damaged_curves_are_refused(text: str, table: Found, tmp_path: Path) -> None:
    (tmp_path / removal.FILE).write_text(text)
    with pytest.raises(DataFileError, match=r"removal\.json: .*[Rr]un the experiment again"):
        removal.figure(dataclasses.replace(table, folder=tmp_path))


def test_matplotlib_missing_names_the_extra(table: Found, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'dasp\[paper\]'"):
        figures.draw(table.folder, table.result)


def test_a_figure_that_cannot_be_written_says_so(table: Found, tmp_path: Path) -> None:
    (tmp_path / "figures").write_text("a file where the folder should be")
    with pytest.raises(OutputFileError, match="figures"):
        style.save(Figure(), tmp_path / "figures" / "frontier")


# How methods are told apart


def test_no_two_families_look_the_same() -> None:
    names = [DEFAULT, *(f"dasp.{i}" for i in range(20)), *(f"peer {i}" for i in range(40))]
    looks = style.styles(names)
    for ours in (True, False):
        pairs = [(look.colour, look.marker) for look in looks.values() if look.solid is ours]
        assert len(set(pairs)) == len(pairs)
    assert all(look.solid == name.startswith("dasp.") for name, look in looks.items())
    assert next(iter(looks)) == DEFAULT


def test_representatives_are_nearest_to_32_evaluations_a_player() -> None:
    budgets = {"a": (2, 180, 1900, 20_000), "b": (0, 2), "c": (100_000,), "d": (288, 1152)}  # log-distances to 576 tie for d
    rows = [
        {"family": family, "evaluations": cost - cost // 2, "propagations": cost // 2, "error": 1 / (cost + 1)}
        for family, costs in budgets.items()
        for cost in costs[::-1]
    ]
    chosen = {row["family"]: row["evaluations"] + row["propagations"] for row in representatives(rows, 18)}
    assert chosen == {"a": 180, "b": 2, "c": 100_000, "d": 288}
    assert list(chosen) == ["c", "d", "a", "b"]  # by error


def test_costs_are_told_once() -> None:
    row = {"family": "dasp.Propagation, diagonal", "label": "diagonal, 4 nodes", "evaluations": 0, "propagations": 4}
    assert style.named_with_cost(row) == "dasp.Propagation: diagonal, 4 nodes, 4 evaluations"
    row = {"family": "shap X", "label": "shap X, 1,480 evaluations", "evaluations": 1480, "propagations": 0}
    assert style.named_with_cost(row) == "shap X, 1,480 evaluations"


# The axis of rank correlations


def test_rank_axis_reads_as_the_correlation() -> None:
    ax = Figure().subplots()
    found = style.rank_distance([1.0, 0.99, 0.5, -1.0], 18)
    assert found == pytest.approx([6 / (18 * 323), 0.01, 0.5, 2.0])
    ax.set(yscale="log", ylim=(3, 5e-4))
    style.rank_axis(ax.yaxis, found, 18, most=5)
    ax.figure.draw_without_rendering()
    read = {round(float(tick), 9): label.get_text() for tick, label in zip(ax.get_yticks(), ax.get_yticklabels(), strict=True)}
    assert read == {2.0: "-1", 1.0: "0", 0.1: "0.9", 0.01: "0.99", round(6 / (18 * 323), 9): "1"}


# Error against cost


@pytest.fixture
def panels(table: Found) -> Any:
    figure = frontier.figure(table)
    return figure, np.array(figure.axes).reshape(3, 2)


def line_of(ax: Any, family: str) -> Any:
    return next(line for line in ax.get_lines() if line.get_label() == family)


def test_frontier_lines_are_medians_in_the_order_of_cost(table: Found, panels: Any) -> None:
    _, axes = panels
    costs = (lambda row: row["evaluations"] + row["propagations"], lambda row: row["seconds"])
    for family in (DEFAULT, "dasp.PermutationSampling", "shap PermutationExplainer", OCCLUSION):
        rows = [row for row in table.rows if row["family"] == family]
        for column, cost in enumerate(costs):
            ordered = sorted(rows, key=cost)
            for line, (key, to_axis) in enumerate((("rmses", lambda x: x), ("spearmans", None), ("errors", lambda x: x))):
                drawn = line_of(axes[line, column], family)
                assert drawn.get_xdata() == pytest.approx([cost(row) for row in ordered])
                if to_axis is not None:
                    assert drawn.get_ydata() == pytest.approx([np.median(row[key]) for row in ordered])
                else:
                    smallest = 6 / (6 * 35)
                    expected = [np.median([max(1 - value, smallest) for value in row[key]]) for row in ordered]
                    assert drawn.get_ydata() == pytest.approx(expected)


def test_frontier_bands_reach_between_the_quartiles(table: Found, panels: Any) -> None:
    _, axes = panels
    rows = sorted((r for r in table.rows if r["family"] == "dasp.PermutationSampling"), key=lambda r: r["evaluations"])
    colour = to_hex(line_of(axes[2, 0], "dasp.PermutationSampling").get_color())
    bands = [one for one in axes[2, 0].collections if len(one.get_facecolor()) and one.get_alpha() == 0.1]
    same = [one.get_paths()[0].vertices for one in bands if to_hex(one.get_facecolor()[0]) == colour]
    (corners,) = [one for one in same if one[:, 0].max() == rows[-1]["evaluations"]]
    for row in rows:
        here = corners[np.isclose(corners[:, 0], row["evaluations"]), 1]
        assert {round(value, 9) for value in here} == {round(float(np.quantile(row["errors"], q)), 9) for q in (0.25, 0.75)}


def test_frontier_axes_are_logarithms_with_names_and_units(panels: Any) -> None:
    _, axes = panels
    assert {(ax.get_xscale(), ax.get_yscale()) for ax in axes.flat} == {("log", "log")}
    assert [ax.get_ylabel() for ax in axes[:, 0]] == ["RMSE (unit of the output)", "Spearman correlation", "relative error"]
    assert [ax.get_xlabel().splitlines()[0] for ax in axes[2]] == ["network evaluations per input", "seconds per input"]
    assert [ax.yaxis_inverted() for ax in axes[:, 0]] == [False, True, False]  # nearer to the truth is always one way


def test_frontier_tells_ours_from_others(table: Found, panels: Any) -> None:
    figure, axes = panels
    assert line_of(axes[0, 0], "dasp.PermutationSampling").get_linestyle() == "-"
    assert line_of(axes[0, 0], "shap PermutationExplainer").get_linestyle() == "--"
    assert line_of(axes[0, 0], OCCLUSION).get_linestyle() == "None"  # one budget is no line
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names[0] == DEFAULT
    assert sorted(names) == sorted({row["family"] for row in table.rows})
    box = figure.legends[0]
    figure.draw_without_rendering()
    assert all(box.get_window_extent().x0 > ax.get_window_extent().x1 for ax in axes.flat)  # beside the panels


def test_frontier_is_not_stretched_by_what_is_exact(table: Found) -> None:
    exact = {**table.rows[0], "family": "dasp.Exact", "error": 1e-8, "errors": [1e-8] * 5, "rmses": [0.0] * 5}
    before = frontier.figure(table).axes
    after = frontier.figure(dataclasses.replace(table, rows=[*table.rows, exact])).axes
    assert [ax.get_ylim() for ax in before] == [ax.get_ylim() for ax in after]


def test_frontier_shades_errors_below_that_of_the_truth(table: Found) -> None:
    ax = frontier.figure(table).axes[4]
    (shade,) = [patch for patch in ax.patches if to_hex(patch.get_facecolor()) == to_hex("0.88")]
    assert shade.get_extents().transformed(ax.transData.inverted()).y1 == pytest.approx(0.02)
    exact = dataclasses.replace(table, result={**table.result, "truth_error": [0.0] * 5})
    assert not frontier.figure(exact).axes[4].patches


# Box plots


def test_boxes_show_the_spread_over_inputs_the_best_on_top(table: Found) -> None:
    left, right = boxes.figure(table).axes
    rows = sorted(table.representatives, key=lambda row: -np.median(row["rmses"]))
    assert len(rows) == FAMILIES
    drawn = [patch.get_path().vertices for patch in left.patches]
    for place, (row, corners) in enumerate(zip(rows, drawn, strict=True), start=1):
        quartiles = np.quantile(row["rmses"], (0.25, 0.75))
        assert (corners[:, 0].min(), corners[:, 0].max()) == pytest.approx(tuple(quartiles))
        assert corners[:, 1].mean() == pytest.approx(place, abs=0.2)
    names = [" ".join(label.get_text().split()) for label in left.get_yticklabels()]
    assert names == [style.named(row) for row in rows]
    counts = [text.get_text() for text in right.texts]
    assert counts == [report.number(row["evaluations"] + row["propagations"]) for row in rows] + ["evaluations"]
    assert (left.get_xscale(), right.get_xscale()) == ("log", "log")
    assert (left.get_xlabel(), right.get_xlabel()) == ("RMSE (unit of the output)", "Spearman correlation")
    assert right.xaxis_inverted()
    ours = [to_hex(patch.get_facecolor()) == style.BLUE.lower() for patch in left.patches]
    assert ours == [row["family"].startswith("dasp.") for row in rows]


# Removal


class Weighted(nn.Module):
    """Two outputs: a weighted sum of squares of all elements, and its negative."""

    def __init__(self, weights: torch.Tensor) -> None:
        super().__init__()
        self.weights = nn.Parameter(weights)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        total = (x.flatten(1) ** 2) @ self.weights
        return torch.stack([total, -total], dim=1)


def hand_made(players: torch.Tensor | None = None) -> Problem:
    inputs = torch.tensor([[1.0, 2.0, 3.0, 1.0], [2.0, 1.0, 0.0, 1.0]])
    n = 4 if players is None else int(players.max()) + 1
    return Problem(
        name="parkinson",
        title="by hand",
        model=nn.Sequential(Weighted(torch.tensor([1.0, -1.0, 2.0, 0.5]))).eval(),
        inputs=inputs,
        targets=torch.tensor([0, 1]),
        players=players,
        truth=np.zeros((2, n)),
        truth_error=np.zeros(2),
        score="",
    )


def test_removal_takes_the_most_positive_first() -> None:
    # Row 0: 1 - 4 + 18 + 0.5 = 15.5; row 1, second output: -(4 - 1 + 0 + 0.5) = -3.5.
    values = np.array([[1.0, -4.0, 18.0, 0.5], [-4.0, 1.0, 0.0, -0.5]])
    curves = removal.removal_curves(hand_made(), {"gradients": values})
    assert list(removed_counts(4, 50)) == [0, 1, 2, 3, 4]
    assert curves["gradients"].tolist() == [[15.5, -2.5, -3.5, -4.0, 0.0], [-3.5, -4.5, -4.5, -4.0, 0.0]]


def test_removal_breaks_ties_by_number_and_takes_few_steps() -> None:
    curves = removal.removal_curves(hand_made(), {"flat": np.zeros((2, 4))}, steps=2)
    assert curves["flat"].tolist() == [[15.5, 18.5, 0.0], [-3.5, -0.5, 0.0]]  # 0, 2, 4 removed


def test_removal_takes_all_elements_of_a_player() -> None:
    one = hand_made(torch.tensor([0, 1, 1, 0]))
    curves = removal.removal_curves(one, {"any": np.array([[2.0, 1.0], [-1.0, 3.0]])})
    assert curves["any"].tolist() == [[15.5, 14.0, 0.0], [-3.5, -4.5, 0.0]]


def test_removal_refuses_wrong_values() -> None:
    with pytest.raises(InputError, match=r"short: values have shape \(2, 3\), expected \(2, 4\)"):
        removal.removal_curves(hand_made(), {"short": np.zeros((2, 3))})
    with pytest.raises(InputError, match="at least 1 step"):
        removal.removal_curves(hand_made(), {}, steps=0)


def test_removal_is_drawn_as_mean_and_quartiles_beside_the_truth(table: Found) -> None:
    stored = json.loads((table.folder / removal.FILE).read_text())
    assert stored["removed"] == [0, 1, 2, 3, 4, 5, 6]
    assert set(stored["curves"]) == {removal.TRUTH} | {row["label"] for row in table.representatives}
    figure = some(removal.figure(table))
    shown = [ax for ax in figure.axes if ax.get_visible()]

    def change(name: str) -> Array:
        curve = np.array(stored["curves"][name])
        return np.asarray(curve - curve[:, :1])

    for ax, row in zip(shown, table.representatives, strict=True):
        own, truth = ax.get_lines()[:2]
        assert own.get_xdata().tolist() == stored["removed"]
        assert own.get_ydata() == pytest.approx(change(row["label"]).mean(axis=0))
        assert truth.get_ydata() == pytest.approx(change(removal.TRUTH).mean(axis=0))
        corners = ax.collections[0].get_paths()[0].vertices
        for place, count in enumerate(stored["removed"][1:], start=1):
            here = corners[corners[:, 0] == count, 1]
            expected = np.quantile(change(row["label"])[:, place], (0.25, 0.75))
            assert (here.min(), here.max()) == pytest.approx(tuple(expected))
    assert figure.get_supxlabel() == "features removed, the most positive first"
    assert figure.get_supylabel() == "change of the output (points)"


def test_removal_without_curves_is_not_drawn(table: Found, tmp_path: Path) -> None:
    assert removal.figure(dataclasses.replace(table, folder=tmp_path)) is None
