"""Every plot: what is drawn are the attribution's numbers, and wrong calls are refused."""

from __future__ import annotations

import dataclasses
import importlib
import io
from collections.abc import Callable
from itertools import pairwise

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib import pyplot
from matplotlib.axes import Axes

import dasp
from dasp.errors import InputError, InputTypeError, MissingExtraError

from .plotted import ROWS, WEIGHTS, Products, explained, of_pairs, of_rows

mpl.use("Agg")
pytestmark = pytest.mark.usefixtures("closed_figures")


def image_result(weights: torch.Tensor, pixels: torch.Tensor, *, patch: int | None = None) -> dasp.Attribution:
    return explained(weights[None], pixels, players=None if patch is None else dasp.players.grid(patch, patch))


def bars(ax: Axes) -> dict[str, float]:
    labels = [tick.get_text() for tick in ax.get_yticklabels()]
    places = dict(zip(ax.get_yticks(), labels, strict=True))
    return {places[round(p.get_y() + p.get_height() / 2, 6)]: p.get_width() for p in ax.patches}  # type: ignore[attr-defined]


def test_bar_shows_the_mean_magnitude_over_rows() -> None:
    ax = dasp.plots.bar(of_rows())
    expected = {"age": 2.0, "dose": 2.0, "weight": 4 / 3, "height": 0.0}
    assert bars(ax) == pytest.approx(expected)


def test_bar_of_a_row_is_signed_and_gathers_the_rest() -> None:
    ax = dasp.plots.bar(of_rows(), 0, max_display=2)
    assert bars(ax) == pytest.approx({"dose = 2": -4.0, "weight = 4": 2.0, "2 others together": 1.0})
    assert ax.get_yticklabels()[0].get_text() == "dose = 2"


def test_waterfall_goes_from_the_base_value_to_the_output() -> None:
    ax = dasp.plots.waterfall(of_rows(), 0)
    spans = [(p.get_x(), p.get_x() + p.get_width()) for p in ax.patches]  # type: ignore[attr-defined]
    assert spans[0][0] == pytest.approx(10)
    assert spans[-1][1] == pytest.approx(9)
    assert all(before[1] == pytest.approx(after[0]) for before, after in pairwise(spans))
    assert bars(ax) == pytest.approx({"dose = 2": -4.0, "weight = 4": 2.0, "age = 1": 1.0, "height = 3": 0.0})


def test_waterfall_shows_a_gap_as_its_own_step() -> None:
    result = of_rows()
    assert isinstance(result.values, torch.Tensor)
    short = dataclasses.replace(result, values=result.values * 0.5)
    assert bars(dasp.plots.waterfall(short, 0))["not attributed (gap)"] == pytest.approx(-0.5)
    assert "not attributed (gap)" not in bars(dasp.plots.waterfall(result, 0))


def test_waterfall_of_another_semivalue_has_a_rest_and_no_gap() -> None:
    result = dasp.Explainer(Products(), 0.0, method=dasp.Exact(), semivalue=dasp.BetaShapley(4, 1))(ROWS)
    found = bars(dasp.plots.waterfall(result, 0))
    rest = float((result.output - result.base_value - result.per_player[:, 0].sum(1))[0])
    assert abs(rest) > 0.1
    assert found["not given to any player (BetaShapley values need not add up)"] == pytest.approx(rest, rel=1e-5)


def test_beeswarm_puts_a_dot_at_every_value() -> None:
    ax = dasp.plots.beeswarm(of_rows(), max_display=3)
    drawn = [np.sort(np.asarray(dots.get_offsets())[:, 0]) for dots in ax.collections]
    for dots, player in zip(drawn, (0, 1, 2), strict=True):
        np.testing.assert_allclose(dots, np.sort((ROWS * WEIGHTS)[:, player].numpy()), rtol=1e-6)
    assert {tick.get_text() for tick in ax.get_yticklabels()} == {"age", "dose", "weight"}


def test_equal_values_do_not_hide_each_other() -> None:
    result = explained(torch.ones(1, 2), torch.ones(5, 2))
    dots = np.asarray(dasp.plots.beeswarm(result).collections[0].get_offsets())
    assert len(np.unique(dots[:, 1])) == 5


def test_image_draws_the_values_on_a_symmetric_scale() -> None:
    weights = torch.arange(-4.0, 4.0).reshape(1, 2, 4)
    ax = dasp.plots.image(image_result(weights, torch.ones(2, 1, 2, 4)), 1)
    drawn = ax.images[-1]
    np.testing.assert_allclose(np.asarray(drawn.get_array()), weights[0].numpy(), atol=1e-5)
    assert drawn.get_clim() == pytest.approx((-4, 4))
    np.testing.assert_array_equal(np.asarray(ax.images[0].get_array()), np.ones((2, 4)))


def test_image_adds_the_channels_of_a_pixel() -> None:
    weights = torch.stack([torch.ones(2, 2), 2 * torch.ones(2, 2)])
    ax = dasp.plots.image(image_result(weights, torch.ones(1, 2, 2, 2)))
    np.testing.assert_allclose(np.asarray(ax.images[-1].get_array()), 3 * np.ones((2, 2)), atol=1e-5)


def test_image_shows_a_patch_its_value_once() -> None:
    weights = torch.stack([torch.ones(2, 4), 2 * torch.ones(2, 4)])
    ax = dasp.plots.image(image_result(weights, torch.ones(1, 2, 2, 4), patch=2))
    np.testing.assert_allclose(np.asarray(ax.images[-1].get_array()), 12 * np.ones((2, 4)), rtol=1e-6)


def test_image_without_any_difference_draws_zeros() -> None:
    ax = dasp.plots.image(image_result(torch.ones(1, 2, 2), torch.zeros(1, 1, 2, 2)))
    np.testing.assert_array_equal(np.asarray(ax.images[-1].get_array()), np.zeros((2, 2)))


@pytest.mark.parametrize("plot", [dasp.plots.bar, dasp.plots.beeswarm, dasp.plots.waterfall])
def test_plots_draw_on_given_axes_and_return_them(plot: Callable[..., Axes]) -> None:
    _, ax = pyplot.subplots()
    assert plot(of_rows(), ax=ax) is ax


def test_several_targets_are_picked_by_their_place() -> None:
    model = torch.nn.Linear(2, 3)
    result = dasp.Explainer(model, 0.0, method=dasp.Exact())(torch.ones(1, 2), [0, 2])
    shown = bars(dasp.plots.bar(result, 0, target_index=1))
    assert sorted(shown.values()) == pytest.approx(sorted(model.weight[2].tolist()), rel=1e-5)


def test_wrong_calls_are_refused() -> None:
    result = of_rows()
    with pytest.raises(InputError, match=r"index 3: the attribution has 3 row"):
        dasp.plots.waterfall(result, 3)
    with pytest.raises(InputError, match="target_index 1: there are 1 target"):
        dasp.plots.beeswarm(result, target_index=1)
    with pytest.raises(InputError, match="max_display 0"):
        dasp.plots.bar(result, max_display=0)
    with pytest.raises(InputError, match=r"this input has \(4,\)"):
        dasp.plots.image(result)
    with pytest.raises(InputError, match="input_index 1"):
        dasp.plots.image(result, input_index=1)
    with pytest.raises(InputError, match="limit 0"):
        dasp.plots.image(result, limit=0)


@pytest.mark.parametrize(
    "plot", [dasp.plots.bar, dasp.plots.beeswarm, dasp.plots.image, dasp.plots.waterfall]
)
def test_wrong_types_are_refused(plot: Callable[..., Axes]) -> None:
    with pytest.raises(InputTypeError, match=r"a plot draws an Attribution, .* got str"):
        plot("x")
    with pytest.raises(InputTypeError, match="target_index: expected an int, got str"):
        plot(image_result(torch.ones(1, 2, 2), torch.ones(1, 1, 2, 2)), target_index="0")


def test_a_row_is_named_by_a_whole_number() -> None:
    for plot in (dasp.plots.bar, dasp.plots.image, dasp.plots.waterfall):
        with pytest.raises(InputTypeError, match="index: expected an int, got float"):
            plot(of_rows(), 0.0)  # type: ignore[operator]


@pytest.mark.parametrize("plot", [dasp.plots.bar, dasp.plots.beeswarm, dasp.plots.waterfall])
def test_dollars_in_names_are_text(plot: Callable[..., Axes]) -> None:
    names = ("price $", "from $5 to $x^2", r"a\$b$c", "height")
    result = of_rows(names)
    file = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none"}):
        plot(result).figure.savefig(file, format="svg")
    for name in names:
        assert f">{name}" in file.getvalue()


@pytest.mark.parametrize("plot", [dasp.plots.bar, dasp.plots.waterfall])
@pytest.mark.parametrize("scale", [0.0, 1e-6, 1.0, 1e6])
def test_numbers_stand_beside_their_bars(plot: Callable[..., Axes], scale: float) -> None:
    class Scaled(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x * WEIGHTS * scale).sum(1)

    ax = plot(dasp.Explainer(Scaled(), 0.0, method=dasp.Exact())(ROWS), 0)
    renderer = ax.figure.canvas.get_renderer()  # type: ignore[attr-defined]
    ax.figure.draw(renderer)
    for patch, text in zip(ax.patches, ax.texts, strict=True):
        shape, words = patch.get_window_extent(renderer), text.get_window_extent(renderer)
        assert min(abs(words.x0 - shape.x1), abs(shape.x0 - words.x1)) < 10  # pixels
        assert shape.y0 < (words.y0 + words.y1) / 2 < shape.y1


@pytest.mark.parametrize("plot", [dasp.plots.bar, dasp.plots.beeswarm, dasp.plots.waterfall])
def test_a_missing_matplotlib_names_the_extra(plot: Callable[..., Axes], monkeypatch: pytest.MonkeyPatch) -> None:
    result = of_rows()
    known = importlib.import_module

    def absent(name: str) -> object:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return known(name)

    monkeypatch.setattr("dasp.plots._common.importlib.import_module", absent)
    with pytest.raises(MissingExtraError, match=r"pip install 'dasp\[plots\]'"):
        plot(result)


# Interactions ----------------------------------------------------------------------------------------------------------


def cells(ax: Axes) -> dict[frozenset[str], float]:
    across, down = ([tick.get_text() for tick in ticks] for ticks in (ax.get_xticklabels(), ax.get_yticklabels()))
    drawn = np.ma.asarray(ax.images[0].get_array())
    shown = zip(*np.nonzero(~np.ma.getmaskarray(drawn)), strict=True)
    return {frozenset((down[i], across[j])): float(drawn[i, j]) for i, j in shown}


def test_interactions_of_a_row_have_one_cell_a_pair_on_a_symmetric_scale() -> None:
    ax = dasp.plots.interactions(of_pairs(), 0)
    found = cells(ax)
    assert len(found) == 6
    assert found[frozenset(("age", "dose"))] == pytest.approx(2)
    assert found[frozenset(("weight", "height"))] == pytest.approx(-6)
    assert found[frozenset(("age", "height"))] == pytest.approx(0, abs=1e-6)
    assert ax.images[0].get_clim() == pytest.approx((-6, 6))


def test_interactions_over_rows_are_mean_magnitudes_of_the_strongest() -> None:
    ax = dasp.plots.interactions(of_pairs(), max_display=2)
    assert cells(ax) == pytest.approx({frozenset(("weight", "height")): (6 + 1 + 5) / 3}, rel=1e-5)


def test_chosen_interactions_are_bars() -> None:
    found = bars(dasp.plots.interactions(of_pairs(pairs=[(1, 0), (2, 3)]), 0))
    assert found == pytest.approx({"dose × age": 2, "weight × height": -6})
    assert len(bars(dasp.plots.interactions(of_pairs(pairs=2), max_display=2))) == 2


def test_interactions_draw_on_given_axes_and_refuse_what_is_not_there() -> None:
    _, ax = pyplot.subplots()
    assert dasp.plots.interactions(of_pairs(), ax=ax, title="pairs") is ax
    with pytest.raises(InputTypeError, match=r"draws Interactions, .* got Attribution"):
        dasp.plots.interactions(of_rows())  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"index 3: there are 3 row"):
        dasp.plots.interactions(of_pairs(), 3)
    with pytest.raises(InputError, match=r"target_index 1: there are 1 target"):
        dasp.plots.interactions(of_pairs(), target_index=1)
    with pytest.raises(InputError, match="max_display 0"):
        dasp.plots.interactions(of_pairs(), max_display=0)
