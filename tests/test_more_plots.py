"""Plots of rows, sequences, texts, series, methods and networks: what is drawn are the numbers, on light pages and on dark."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import combinations, pairwise

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib import colors, pyplot
from matplotlib.axes import Axes

import dasp
from dasp import plots
from dasp.errors import InputError, InputTypeError
from dasp.plots import _common

from .plotted import (
    NAMES,
    ROWS,
    WEIGHTS,
    Weighted,
    against_rows,
    explained,
    of_dna,
    of_image,
    of_methods,
    of_pairs,
    of_rows,
    of_series,
    of_targets,
    of_tokens,
)

mpl.use("Agg")
pytestmark = pytest.mark.usefixtures("closed_figures")

COSTS = {"slow": [(100.0, 0.01), (10.0, 0.1)], "fast": [(5.0, 0.5), (20.0, 0.02)]}
LETTERS = ("a", "b", "c", "d")
ALL: dict[str, Callable[..., Axes]] = {
    "bar": lambda **o: plots.bar(of_rows(), 0, **o),
    "beeswarm": lambda **o: plots.beeswarm(of_rows(), **o),
    "compare": lambda **o: plots.compare(of_methods(), 0, **o),
    "frontier": lambda **o: plots.frontier(COSTS, **o),
    "heatmap": lambda **o: plots.heatmap(of_rows(), **o),
    "image": lambda **o: plots.image(of_image(1), **o),
    "interaction_network": lambda **o: plots.interaction_network(of_pairs(), 0, **o),
    "interactions": lambda **o: plots.interactions(of_pairs(), 0, **o),
    "removal": lambda **o: plots.removal(of_methods(), Weighted(WEIGHTS[None]), **o),
    "sequence": lambda **o: plots.sequence(of_dna(), **o),
    "time_series": lambda **o: plots.time_series(of_series(), **o),
    "tokens": lambda **o: plots.tokens(of_rows(), texts=LETTERS, **o),
    "waterfall": lambda **o: plots.waterfall(of_rows(), **o),
}


def test_every_plot_is_drawn_here() -> None:
    public = {name for name in vars(plots) if not name.startswith("_") and callable(getattr(plots, name))}
    assert public == {*ALL, "image_per_class"}


@pytest.mark.parametrize("name", sorted(ALL))
def test_plots_draw_on_given_axes(name: str) -> None:
    _, ax = pyplot.subplots()
    assert ALL[name](ax=ax) is ax


def painted(ax: Axes, *, page: str) -> np.ndarray:
    """The figure's pixels on a page of that colour, (height, width, 3) from 0 to 1; its own background is left out."""
    figure = ax.figure
    figure.set_dpi(60)  # type: ignore[union-attr]
    figure.set_facecolor(page)  # type: ignore[union-attr]
    for one in figure.axes:
        one.set_facecolor("none")
    file = io.BytesIO()
    figure.savefig(file, format="png", facecolor=page)
    file.seek(0)
    return np.asarray(pyplot.imread(file))[..., :3]


@pytest.mark.parametrize("name", sorted(ALL))
@pytest.mark.parametrize("style", ["default", "dark_background"])
def test_lines_and_text_stand_out_from_the_page(name: str, style: str) -> None:
    with pyplot.style.context(style):
        ax = ALL[name]()
        page = "black" if style == "dark_background" else "white"
        picture = painted(ax, page=page)
        ground = _common.luminance(page)
        texts = [text for text in ax.figure.findobj(mpl.text.Text) if text.get_text() and text.get_visible()]
        for text in texts:
            if text in ax.texts and name == "interactions":
                continue  # stands on a coloured cell
            assert contrast(_common.luminance(text.get_color()), ground) >= 4.5, text
        for line in ax.get_lines():
            if line.get_linewidth() < 5:  # the frontier itself is a guide behind the lines
                assert contrast(_common.luminance(line.get_color()), ground) >= 2, line
    off = np.abs(picture - colors.to_rgb(page)).max(axis=2) > 0.4
    assert 0.004 < off.mean() < 0.9


def check_whole(ax: Axes, *, least: float = 0.25) -> None:
    """Everything drawn lies within the figure, and the axes have room."""
    figure = ax.figure
    figure.canvas.draw()
    box = figure.get_tightbbox()  # of all that is drawn, in inches
    width, height = figure.get_size_inches()  # type: ignore[union-attr]
    assert -0.03 < box.x0 < box.x1 < width + 0.03
    assert -0.03 < box.y0 < box.y1 < height + 0.03
    assert ax.get_window_extent().width > least * figure.bbox.width


@pytest.mark.parametrize("name", sorted(ALL))
def test_nothing_is_cut_off_at_the_edge(name: str) -> None:
    check_whole(ALL[name]())


@pytest.mark.parametrize("length", [30, 2000])
def test_long_names_leave_room(length: int) -> None:
    names = tuple(f"{i} {'long names ' * (length // 11)}" for i in range(4))
    result, several = of_rows(names), {f"{i} {'method ' * (length // 14)}": of_rows(names) for i in range(9)}
    for ax in (
        plots.bar(result, 0), plots.beeswarm(result), plots.waterfall(result), plots.heatmap(result), plots.compare(several, 0),
        plots.removal(several, Weighted(WEIGHTS[None])), plots.interaction_network(of_pairs(names), 0),
        plots.interactions(of_pairs(names, pairs=[(0, 1), (2, 3)])), plots.time_series(of_series(), channels=names[:2]),
    ):  # fmt: skip
        check_whole(ax)
    ax = plots.interactions(of_pairs(names), 0)
    check_whole(ax, least=0.2)
    assert ax.get_window_extent().width / ax.figure.dpi > 3 * 0.4  # inches of three cells
    assert sorted(text.get_text() for text in ax.texts) == ["-6", "0", "0", "0", "0", "2"]


def test_titles_of_classes_do_not_run_into_each_other() -> None:
    panels = plots.image_per_class(of_image(), names=["a class with a long name of its own", "$another$" * 8, "c"])
    panels[0].figure.canvas.draw()
    boxes = [panel.title.get_window_extent() for panel in panels]
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))
    assert boxes[0].x0 > 0
    assert panels[0].get_title() == "a class with a long\nname of its own: 6"


def contrast(one: float, other: float) -> float:
    """Ratio of contrast (WCAG 2); 4.5 is what text needs."""
    low, high = sorted((one, other))
    return (high + 0.05) / (low + 0.05)


def test_ink_on_a_colour_is_the_more_readable() -> None:
    for colour in ("white", "black", _common.POSITIVE, _common.NEGATIVE, _common.POSITIVE_ON_DARK, _common.NEGATIVE_ON_DARK):
        ground = _common.luminance(colour)
        assert contrast(_common.luminance(_common.ink_on(colour)), ground) >= 4.5


# Without the cones for green: Machado, Oliveira and Fernandes (2009), severity 1, in linear RGB.
DEUTERANOPIA = np.array(
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
)  # fmt: skip
TO_LMS = np.array([[0.4122, 0.5363, 0.0514], [0.2119, 0.6807, 0.1074], [0.0883, 0.2817, 0.6300]])
TO_LAB = np.array([[0.2105, 0.7936, -0.0041], [1.9780, -2.4286, 0.4506], [0.0259, 0.7828, -0.8087]])


def seen(colour: str) -> np.ndarray:
    """A colour as it looks without green cones, in Oklab (Ottosson 2020), where distances are about as large as they seem."""
    rgb = np.asarray(colors.to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return TO_LAB @ np.cbrt(TO_LMS @ np.clip(DEUTERANOPIA @ linear, 0, 1))


def test_signs_stay_apart_without_green_cones() -> None:
    for look in (_common.PAPER, _common.Look("white", True)):
        assert np.linalg.norm(seen(look.positive) - seen(look.negative)) > 0.15
        ends = look.diverging()([0.0, 0.25, 0.5, 0.75, 1.0])
        for one, other in combinations(ends, 2):
            assert np.linalg.norm(seen(one) - seen(other)) > 0.05
    assert np.linalg.norm(seen("red") - seen("#909000")) < 0.15  # the measure does see what is confused


def test_methods_stay_apart_without_green_cones() -> None:
    for one, other in combinations(range(7), 2):
        near = np.linalg.norm(seen(_common.CATEGORIES[one]) - seen(_common.CATEGORIES[other])) < 0.05
        assert not near or _common.line(one)["marker"] != _common.line(other)["marker"]
    assert len({(line["color"], line["marker"]) for line in map(_common.line, range(77))}) == 77


# Rows, classes -------------------------------------------------------------------------------------------------------


def test_heatmap_orders_rows_by_output_and_players_by_magnitude() -> None:
    ax = plots.heatmap(of_rows(), max_display=3)
    outputs = 10 + (ROWS * WEIGHTS).sum(1).numpy()
    order = np.argsort(outputs)
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["age", "dose", "weight", "1 others together"]
    np.testing.assert_allclose(np.asarray(ax.images[0].get_array())[:3], (ROWS * WEIGHTS).numpy().T[:3, order], atol=1e-5)
    (above,) = ax.child_axes
    np.testing.assert_allclose(above.lines[0].get_ydata(), outputs[order], rtol=1e-6)
    low, high = ax.images[0].get_clim()
    assert low == -high
    whole = plots.heatmap(of_rows(), sort=False)
    np.testing.assert_allclose(np.asarray(whole.images[0].get_array())[0], ROWS[:, 0].numpy(), atol=1e-5)


def test_every_class_has_a_panel_on_one_scale() -> None:
    panels = plots.image_per_class(of_image(), 1, names=["cat", "dog", "$x$"])
    assert panels.shape == (3,)
    for place, ax in enumerate(panels):
        drawn = ax.images[-1]
        np.testing.assert_allclose(
            np.asarray(drawn.get_array()), (1 + place) * np.arange(-4.0, 4.0).reshape(2, 4), atol=1e-4
        )  # fmt: skip
        assert drawn.get_clim() == pytest.approx((-12, 12), rel=1e-5)
    assert [ax.get_title().split(":")[0] for ax in panels] == ["cat", "dog", r"\$x\$"]
    _, given = pyplot.subplots(1, 3)
    assert all(one is other for one, other in zip(plots.image_per_class(of_image(), ax=given), given, strict=True))
    assert given[2].get_title().startswith("2:")
    assert len(plots.image_per_class(of_image(), columns=2)) == 3


# Letters -------------------------------------------------------------------------------------------------------------


def heights(ax: Axes) -> list[tuple[str, float]]:
    """Every letter with the height it reaches, from left to right."""
    found = []
    for patch in ax.patches:
        box = patch.get_path().get_extents()  # no box is turned
        found.append((box.x0, str(patch.get_label()), box.y1 if box.y1 > 1e-9 else box.y0))
    return [(name, height) for _, name, height in sorted(found)]


@pytest.mark.parametrize("last", [False, True])
def test_letters_are_as_tall_as_their_values(last: bool) -> None:
    ax = plots.sequence(of_dna(last=last))
    shown = heights(ax)
    assert [name for name, _ in shown] == [*"GAT", *"ACA"]  # the fourth letter is worth nothing
    assert [height for _, height in shown] == pytest.approx([-3, -2, -1, 1, 2, 3], abs=1e-5)
    assert [name for name, _ in heights(plots.sequence(of_dna(), start=4, stop=6))] == ["A", "C"]
    assert plots.sequence(of_dna(), start=4, stop=6).get_xlim() == pytest.approx((4.5, 6.5))


def test_long_texts_take_more_room_and_blank_ones_none() -> None:
    ax = plots.sequence(of_tokens(("a", "film", " ", "$"), (1.0, -2.0, 3.0, 0.5)))
    widths = {patch.get_label(): patch.get_path().get_extents().width for patch in ax.patches}
    assert set(widths) == {"a", "film", "$"}
    assert widths["film"] > 3.5 * widths["a"]
    assert heights(ax)[1] == ("film", pytest.approx(-2))
    assert [name for name, _ in heights(plots.sequence(of_rows(), letters="ABCD"))][:3] == ["A", "B", "C"]


def test_tokens_have_the_colour_of_their_value_and_wrap() -> None:
    texts = ("good", "bad", "x" * 12, "a\nb", "$5$", "")
    ax = plots.tokens(of_tokens(texts, (2.0, -2.0, 0.0, 1.0, -1.0, 0.0)), width=10)
    boxes = {patch.get_label(): patch for patch in ax.patches if patch.get_label()}
    assert set(boxes) >= {"good", "bad", "x" * 12, "a↵b", "$5$"}
    scale = _common.PAPER.diverging()
    assert boxes["good"].get_facecolor() == scale(1.0)
    assert boxes["bad"].get_facecolor() == scale(0.0)
    lines = [round(boxes[name].get_y(), 3) for name in ("good", "bad", "x" * 12, "a↵b")]  # type: ignore[attr-defined]
    assert lines[0] == lines[1] < lines[2] < lines[3]
    spans = [box.get_window_extent().expanded(0.999, 0.999) for box in boxes.values()]
    assert not any(one.overlaps(other) for one, other in combinations(spans, 2))


# Series --------------------------------------------------------------------------------------------------------------


def test_channels_have_bands_and_points_their_value() -> None:
    result = of_series()
    ax = plots.time_series(result, channels=["sine", "ramp"], times=np.arange(12) * 0.5)
    mesh = ax.collections[0]
    np.testing.assert_allclose(
        np.asarray(mesh.get_array()), np.asarray(result.per_player[0, 0]).reshape(2, 12), atol=1e-6
    )  # fmt: skip
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["sine", "ramp"]
    sine, ramp = (np.asarray(line.get_ydata()) for line in ax.get_lines())
    assert ramp.max() < 0.5 < sine.min()  # the first channel is on top
    assert np.corrcoef(ramp, np.arange(12))[0, 1] == pytest.approx(1)
    turned = explained(torch.ones(1, 12, 2), torch.ones(1, 12, 2) * torch.arange(2.0))
    assert len(plots.time_series(turned, time_axis=0).get_lines()) == 2


def test_a_single_series_has_its_own_scale_and_stretches_share_a_value() -> None:
    x = torch.arange(6.0)[None]
    result = explained(torch.ones(1, 6), x, players=torch.tensor([0, 0, 0, 1, 1, 1]))
    ax = plots.time_series(result)
    np.testing.assert_array_equal(ax.get_lines()[0].get_ydata(), np.arange(6.0))
    np.testing.assert_allclose(np.asarray(ax.collections[0].get_array()).reshape(-1), [3.0] * 3 + [12.0] * 3, rtol=1e-5)


# Methods -------------------------------------------------------------------------------------------------------------


def test_removal_follows_the_order_of_each_method() -> None:
    model = torch.nn.Sequential(Weighted(WEIGHTS[None]), torch.nn.Dropout(0.5))
    curves = {str(line.get_label()): np.asarray(line.get_ydata())
              for line in plots.removal(of_methods(), model).get_lines()[1:]}  # fmt: skip
    gone = np.sort((ROWS * WEIGHTS).numpy(), axis=1)
    best = -np.cumsum(gone[:, ::-1], axis=1).mean(axis=0)
    worst = -np.cumsum(gone, axis=1).mean(axis=0)
    np.testing.assert_allclose(curves["right"], [0, *best], atol=1e-5)
    np.testing.assert_allclose(curves["wrong"], [0, *worst], atol=1e-5)
    assert model.training
    assert model[1].training


def test_removal_of_several_inputs_targets_and_baselines() -> None:
    class Two(torch.nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return torch.stack([x.sum(1), (x * y).sum(1)], 1)

    x, y = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 5.0]])
    result = dasp.Explainer(Two(), (1.0, 0.0), method=dasp.Exact())((x, y), [0, 1])
    line = plots.removal({"exact": result}, Two(), target_index=1).get_lines()[1]
    assert line.get_ydata()[0] == 0
    assert line.get_ydata()[-1] == pytest.approx(-13)  # nothing left but the baselines, whose product is 0
    np.testing.assert_allclose(line.get_xdata(), [0, 25, 50, 75, 100])


def test_curves_may_come_from_elsewhere() -> None:
    curves = {"one": [0.0, -1.0, -3.0], "rows": torch.tensor([[0.0, -1.0], [0.0, -2.0], [0.0, -3.0], [0.0, -4.0]])}
    ax = plots.removal(curves)  # type: ignore[arg-type]
    one, rows = ax.get_lines()[1:]
    np.testing.assert_allclose(one.get_xdata(), [0, 50, 100])
    np.testing.assert_allclose(rows.get_ydata(), [0, -2.5])
    assert len(ax.collections) == 1  # four rows have quartiles, one has none


def test_compare_marks_every_method_beside_the_others() -> None:
    ax = plots.compare(of_methods(), 0, max_display=2)
    right, wrong = (np.asarray(bars.lines[0].get_data()) for bars in ax.containers)  # type: ignore[attr-defined]
    np.testing.assert_allclose(right[0], [-4, 2], rtol=1e-5)
    np.testing.assert_allclose(wrong[0], [4, -2], rtol=1e-5)
    assert (right[1] > wrong[1]).all()
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["dose = 2", "weight = 4"]
    over = plots.compare(of_methods())
    np.testing.assert_allclose(over.containers[1].lines[0].get_xdata(), [2, 2, 4 / 3, 0], atol=1e-5)  # type: ignore[attr-defined]


def test_compare_draws_the_standard_errors_of_a_row() -> None:
    results = of_methods()
    errors = torch.full_like(results["wrong"].per_player[:, 0], 0.5)
    results["wrong"] = dataclasses.replace(results["wrong"], standard_errors=errors)
    drawn = plots.compare(results, 0).containers
    assert [bars.has_xerr for bars in drawn] == [False, True]  # type: ignore[attr-defined]
    ends = np.asarray(drawn[1].lines[2][0].get_segments())[:, :, 0]  # type: ignore[attr-defined]
    np.testing.assert_allclose(np.diff(ends, axis=1), 1.0, rtol=1e-5)


def test_the_frontier_is_the_least_error_at_each_cost() -> None:
    ax = plots.frontier(COSTS)
    steps, slow, fast = (np.asarray(line.get_data()) for line in ax.get_lines())
    np.testing.assert_allclose(steps, [[5, 10, 20, 100, 100], [0.5, 0.1, 0.02, 0.01, 0.01]])
    np.testing.assert_allclose(slow, [[10, 100], [0.1, 0.01]])
    np.testing.assert_allclose(fast, [[5, 20], [0.5, 0.02]])
    assert ax.get_xscale() == ax.get_yscale() == "log"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["slow", "fast", "frontier"]  # type: ignore[union-attr]


# Interactions --------------------------------------------------------------------------------------------------------


def test_a_network_has_lines_of_the_sign_and_strength_of_pairs() -> None:
    ax = plots.interaction_network(of_pairs(), 0)
    blue, red = sorted((line for line in ax.get_lines() if len(line.get_xdata())), key=lambda line: -line.get_linewidth())
    assert blue.get_color() == _common.NEGATIVE
    assert red.get_color() == _common.POSITIVE
    assert red.get_linewidth() == pytest.approx(blue.get_linewidth() / 3, rel=1e-4)  # 2 and -6
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [  # type: ignore[union-attr]
        "reinforce each other", "stand in for each other"
    ]  # fmt: skip
    assert {text.get_text() for text in ax.texts} == set(NAMES)
    sizes = ax.collections[0].get_sizes()
    assert sizes[0] == sizes[1] > sizes[2] == sizes[3]


def test_a_network_of_means_or_of_chosen_pairs() -> None:
    ax = plots.interaction_network(of_pairs(), title="pairs")
    assert ax.get_legend() is None
    assert any("mean |interaction| 4" in text.get_text() for text in ax.texts)
    assert len(plots.interaction_network(of_pairs(), max_edges=1).get_lines()) == 1
    chosen = plots.interaction_network(of_pairs(pairs=[(1, 0)]), 0, max_display=2)
    assert {text.get_text() for text in chosen.texts} == {"age", "dose"}


def test_long_names_stay_apart() -> None:
    start, end = "blood pressure " * 4, " in the morning, at rest" * 3
    names = (f"{start}left", f"{start}right", f"{start}3{end}", f"{start}4{end}")
    shown = _common.labels(names)
    assert len(set(shown)) == 4
    assert [name[-5:] for name in shown[:2]] == [" left", "right"]
    assert [name[-4:] for name in shown[2:]] == [" (2)", " (3)"]
    assert _common.labels(("a", "a")) == ["a", "a"]
    ax = plots.interactions(of_pairs(names), 0)
    assert {tick.get_text() for tick in (*ax.get_xticklabels(), *ax.get_yticklabels())} == set(shown)
    network = plots.interaction_network(of_pairs(names), 0)
    assert len({text.get_text() for text in network.texts}) == 4
    assert len({tick.get_text() for tick in plots.bar(of_rows(names)).get_yticklabels()}) == 4


# Errors --------------------------------------------------------------------------------------------------------------


def with_a_gap(result: dasp.Attribution) -> dasp.Attribution:
    """As the results of others may hold: an explainer refuses such inputs."""
    held = result.inputs[0].clone()
    held.view(-1)[3] = float("nan")
    return dataclasses.replace(result, inputs=(held,))


REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "no tokens": (lambda: plots.tokens(of_rows()), "no tokens: give their texts"),
    "too few texts": (lambda: plots.tokens(of_rows(), texts=["a"]), "1 texts for 4 players"),
    "narrow": (lambda: plots.tokens(of_rows(), texts=LETTERS, width=3), "width 3"),
    "limit": (lambda: plots.tokens(of_rows(), texts=LETTERS, limit=float("nan")), "limit nan"),
    "no letters": (lambda: plots.sequence(of_rows()), r"no letters: input 0 has shape \(4,\)"),
    "not one-hot": (lambda: plots.sequence(of_image(1)), "is not one-hot over 4 channels"),
    "stretch": (lambda: plots.sequence(of_dna(), start=3, stop=3), "start 3, stop 3"),
    "a row of a heatmap": (lambda: plots.heatmap(explained(WEIGHTS[None], ROWS[:1])), "compares rows"),
    "no series": (lambda: plots.time_series(of_image(1)), r"this input has \(1, 2, 4\)"),
    "gaps": (lambda: plots.time_series(with_a_gap(of_series())), "the points of row 0 hold NaN or infinity in 1 of 24"),
    "pixels": (lambda: plots.image(with_a_gap(of_image(1))), "the pixels of row 0 hold NaN or infinity in 1 of 8"),
    "times": (lambda: plots.time_series(of_series(), times=[1.0, 2.0]), r"shape \(2,\), and the series has 12"),
    "back in time": (lambda: plots.time_series(of_series(), times=np.arange(12.0)[::-1]), "must increase"),
    "channels": (lambda: plots.time_series(of_series(), channels=["a"]), r"channels: expected 2 name"),
    "one method": (lambda: plots.compare({"a": of_rows()}), "2 methods or more"),
    "other rows": (lambda: plots.compare({"a": of_rows(), "b": of_series()}), "their numbers differ"),
    "no model": (lambda: plots.removal(of_methods()), "give the network that was explained"),
    "another model": (lambda: plots.removal({"a": of_rows()}, lambda x: x.reshape(len(x), 2, 2)), "has no target"),
    "no steps": (lambda: plots.removal(of_methods(), Weighted(WEIGHTS[None]), steps=0), "steps 0"),
    "a point of a curve": (lambda: plots.removal({"a": [1.0]}), r"shape \(1, 1\)"),
    "curve with NaN": (lambda: plots.removal({"a": [0.0, float("nan")]}), "the curve of a hold NaN or infinity in 1 of 2"),
    "background": (lambda: plots.removal({"a": against_rows()}, Weighted(WEIGHTS[None])), "has a background"),
    "no pairs": (lambda: plots.frontier({"a": [1.0, 2.0]}), "expected pairs of cost and error"),
    "no logarithm": (lambda: plots.frontier({"a": [(1.0, 0.0)]}), "no place for 0"),
    "infinite": (lambda: plots.frontier({"a": [(1.0, float("inf"))]}), "hold NaN or infinity"),
    "network of one": (lambda: plots.interaction_network(of_pairs(), max_display=1), "2 players and 1 line at least"),
    "names": (lambda: plots.image_per_class(of_image(), names=["a"]), "names: expected 3"),
    "axes": (lambda: plots.image_per_class(of_image(), ax=[pyplot.subplots()[1]]), "1 axes for 3 targets"),
    "no image": (lambda: plots.image_per_class(of_targets()), r"this input has \(4,\)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_drawn_is_refused(name: str) -> None:
    call, message = REFUSED[name]
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plots.compare([of_rows()]), "expected a dict"),  # type: ignore[arg-type]
        (lambda: plots.compare({"a": 1, "b": 2}), "got int"),  # type: ignore[dict-item]
        (lambda: plots.removal({}), "expected a dict"),
        (lambda: plots.removal(of_methods(), 3), "model: expected the network"),  # type: ignore[arg-type]
        (lambda: plots.removal({"a": of_rows(), "b": [0.0, 1.0]}), "got list"),  # type: ignore[dict-item]
        (lambda: plots.frontier({"a": "many"}), "expected numbers"),
        (lambda: plots.frontier([1.0]), "expected a dict"),  # type: ignore[arg-type]
        (lambda: plots.interaction_network(of_rows()), "draws Interactions"),  # type: ignore[arg-type]
        (lambda: plots.tokens(of_rows(), texts=[1, 2, 3, 4]), "are strings"),  # type: ignore[list-item]
        (lambda: plots.tokens(of_rows(), texts=5), "are strings"),  # type: ignore[arg-type]
        (lambda: plots.tokens(of_rows(), texts=LETTERS, limit="x"), "limit: expected a number"),  # type: ignore[arg-type]
        (lambda: plots.time_series(of_series(), times=["now"]), "expected numbers"),  # type: ignore[list-item]
        (lambda: plots.time_series(of_series(), channels="ab"), "channels: expected a list of strings, got str"),
        (lambda: plots.image_per_class(of_image(), names=[1, 2, 3]), "names: expected a list"),  # type: ignore[list-item]
    ],
)
def test_wrong_types_are_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(InputTypeError, match=message):
        call()


ONE_TARGET: list[Callable[[dasp.Attribution], object]] = [
    plots.bar, plots.beeswarm, plots.waterfall, plots.heatmap, lambda result: plots.tokens(result, texts=LETTERS),
    lambda result: plots.sequence(result, letters="ABCD"), plots.time_series,
    lambda result: plots.compare({"a": result, "b": result}),
    lambda result: plots.removal({"a": result}, Weighted(WEIGHTS[None])),
]  # fmt: skip


@pytest.mark.parametrize("plot", ONE_TARGET)
def test_of_several_targets_one_is_chosen(plot: Callable[[dasp.Attribution], object]) -> None:
    with pytest.raises(InputError, match="there are 3 targets, and a plot shows one: choose it with target_index="):
        plot(of_targets())


@pytest.mark.parametrize("plot", ONE_TARGET)
def test_values_that_are_not_finite_are_refused(plot: Callable[[dasp.Attribution], object]) -> None:
    result = of_rows()
    assert isinstance(result.values, torch.Tensor)
    values = result.values.clone()
    values[0, 0] = float("nan")
    with pytest.raises(InputError, match="the values of the attribution hold NaN or infinity in 1 of 12 places"):
        plot(dataclasses.replace(result, values=values))


HOSTILE = ("price $", "from $5 to $x^2", "<script>alert(1)</script>", r"a\$b$c")


@pytest.mark.parametrize("name", ["heatmap", "compare", "interaction_network"])
def test_dollars_in_names_are_text(name: str) -> None:
    result = of_rows(HOSTILE)
    ax = {
        "heatmap": lambda: plots.heatmap(result),
        "compare": lambda: plots.compare({"$a$": result, "b": result}),
        "interaction_network": lambda: plots.interaction_network(of_pairs(HOSTILE)),
    }[name]()
    file = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none"}):
        ax.figure.savefig(file, format="svg")
    assert ">from $5 to $x^2" in file.getvalue()
    assert name != "compare" or ">$a$" in file.getvalue()


# Notebooks -----------------------------------------------------------------------------------------------------------


class Reader(HTMLParser):
    """Tags with their attributes, and the cells' texts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.styles: list[str] = []
        self.lines: list[list[str]] = []
        self.open: list[str] = []
        self.feed(page)
        assert self.open == []  # all closed

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.open.append(tag)
        self.attributes |= {name for name, _ in attrs}
        self.styles += [value or "" for name, value in attrs if name == "style"]
        if tag == "tr":
            self.lines.append([])
        if tag in ("td", "th"):
            self.lines[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.lines and self.lines[-1] and self.open[-1] in ("td", "th"):
            self.lines[-1][-1] += data


def test_a_notebook_shows_the_largest_values_of_the_first_rows() -> None:
    read = Reader(of_rows()._repr_html_())
    assert read.lines[0] == ["row", "base value", "age", "dose", "weight", "height", "output", "gap"]
    assert read.lines[1] == ["0", "10", "1", "-4", "2", "0", "9", "0.0%"]
    assert len(read.lines) == 4
    many = explained(torch.ones(2, 20), torch.ones(30, 20), [0, 1])
    html = many._repr_html_()
    head, first, *rest = Reader(html).lines
    assert head[:3] == ["row", "target", "base value"]
    assert "12 others" in head
    assert first[head.index("12 others")] == "12"
    assert len(rest) == 5
    assert "the first 6 of 60 lines" in html
    assert len(html) < 20_000


def test_a_notebook_gets_no_markup_from_data() -> None:
    names = ("<script>alert(1)</script>", '" onmouseover="alert(1)', "</td></table><img src=x>", "<b>" + "&'\"" * 30)
    hostile = dataclasses.replace(
        of_rows(names), method="<img src=x onerror=alert(1)>", settings={"semivalue": "<svg onload=alert(1)>"}
    )
    html = hostile._repr_html_()
    read = Reader(html)
    assert set(read.tags) <= {"div", "b", "table", "thead", "tbody", "tr", "th", "td", "code"}
    assert read.attributes <= {"style", "scope", "title"}
    assert "<script>alert(1)</script>" in read.lines[0]
    assert not any(word in style for style in read.styles for word in ("url", "expression", "alert", "import"))
    assert "http" not in html
    assert "<svg" not in html


def test_a_notebook_shows_odd_results_too() -> None:
    result = of_rows()
    assert isinstance(result.values, torch.Tensor)
    values = torch.full_like(result.values, float("nan"))
    shown = Reader(dataclasses.replace(result, values=values, gap=values[:, 0])._repr_html_()).lines
    assert shown[1][2] == "nan"
    background = against_rows()._repr_html_()
    assert "background of 3 rows" in background
    assert dasp.Explainer(torch.nn.Linear(1, 1), 0.0)(torch.ones(1, 1), create_graph=True)._repr_html_()
    banzhaf = dasp.Explainer(Weighted(WEIGHTS[None]), 0.0, method=dasp.Exact(), semivalue=dasp.Banzhaf())(ROWS, 0)
    assert "need not add up" in banzhaf._repr_html_()


def test_a_notebook_shows_the_largest_interactions() -> None:
    shown = of_pairs()._repr_html_()
    read = Reader(shown)
    assert read.lines[0][:3] == ["row", "weight × height", "age × dose"]
    assert read.lines[1][:3] == ["0", "-6", "2"]
    assert "Interactions by Exact" in shown
    several = dasp.Explainer(Weighted(torch.ones(2, 20)), 0.0, players=None).interactions(torch.ones(9, 20), [1, 0], top=30)
    read = Reader(several._repr_html_())
    assert read.lines[0][:2] == ["row", "target"]
    assert [line[:2] for line in read.lines[1:3]] == [["0", "1"], ["0", "0"]]
    assert len(read.lines[0]) == 10
    assert "the 8 largest pairs are shown" in several._repr_html_()
    assert "the first 6 of 18 lines" in several._repr_html_()
    hostile = dataclasses.replace(of_pairs(HOSTILE), method="<svg onload=alert(1)>")._repr_html_()
    assert "<script" not in hostile
    assert "<svg" not in hostile
    assert any("<script>alert(1)</script>" in cell for cell in Reader(hostile).lines[0])


def test_a_notebook_shows_an_audit() -> None:
    found = of_targets().audit(64)
    odd = dataclasses.replace(found, relative_error=torch.full_like(found.low, torch.inf))
    for audit, first in ((found, "0.00%"), (odd, "unknown")):
        html = audit._repr_html_()
        read = Reader(html)
        assert read.lines[0] == ["row", "target", "relative error", "low", "high"]
        assert read.lines[1][:3] == ["0", "0", first]
        assert len(read.lines) == 7
        assert "the first 6 of 9 lines" in html
        assert str(audit) in html
