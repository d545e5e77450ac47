"""The figures that show attributions themselves: maps of images, letters of DNA, the summary of a table."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.path import Path as Outline

from dasp.errors import DataFileError, InputError
from dasp.experiments.dna import Sequences, Site
from dasp.experiments.figures import letters, maps, style, summary
from dasp.experiments.figures.found import Found
from dasp.experiments.problem import Problem
from dasp.experiments.speed import DEFAULT

from .figure_runs import FAMILIES, FEATURES, TEXT, dna_problem, image_run, measured, table_run


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


# Maps of images


def test_maps_show_input_truth_and_every_family(images: Found) -> None:
    figure = some(maps.figure(images))
    columns = 2 + FAMILIES
    axes = np.array(figure.axes[: 3 * columns]).reshape(3, columns)
    for index in range(3):
        pictures = [ax.get_images()[0] for ax in axes[index]]
        np.testing.assert_allclose(pictures[0].get_array(), images.inputs[index, 0])
        np.testing.assert_allclose(pictures[1].get_array(), images.truth[index].reshape(6, 6))
        limit = np.abs(images.truth[index]).max()
        for place, row in enumerate(images.representatives, start=2):
            np.testing.assert_allclose(pictures[place].get_array(), images.values(row)[index].reshape(6, 6))
            assert axes[index, place].get_xlabel() == f"{row['errors'][index]:.2f}"
        assert {picture.get_clim() for picture in pictures[1:]} == {(-limit, limit)}
        assert axes[index, 0].get_ylabel() == f"output {images.targets[index]}"
    names = [" ".join(ax.texts[0].get_text().split()) for ax in axes[0]]
    assert names[:3] == ["input", "true values", style.named_with_cost(images.representatives[0])]
    assert "largest true magnitude" in figure.axes[-1].get_xlabel()


def test_maps_spread_patches_and_sum_channels(images: Found) -> None:
    patches = dataclasses.replace(images, players=np.arange(36).reshape(1, 6, 6) // 18)
    assert maps.on_image(patches, np.array([2.0, -1.0])).tolist() == [[2.0] * 6] * 3 + [[-1.0] * 6] * 3
    colours = dataclasses.replace(images, inputs=np.zeros((1, 2, 2, 2)))
    assert maps.on_image(colours, np.arange(8.0)).tolist() == [[4.0, 6.0], [8.0, 10.0]]


# Letters


def heights(ax: Any) -> dict[int, tuple[str, float]]:
    """Letter and signed height at every position, from the outlines that were drawn."""
    found: dict[int, tuple[str, float]] = {}
    for patch in ax.patches:
        if patch.get_label() not in tuple("ACGT"):
            continue
        outline = patch.get_path()
        corners = outline.vertices[outline.codes != Outline.CLOSEPOLY]
        places = np.round(corners[:, 0]).astype(int)
        for place in np.unique(places):
            ys = corners[places == place, 1]
            found[place] = (patch.get_label(), ys[np.abs(ys).argmax()])
    return found


def test_letters_are_as_tall_as_their_values(dna: Found) -> None:
    whole, first, *others = some(letters.figure(dna)).axes
    assert len(others) == FAMILIES
    truth = heights(whole)
    assert sorted(truth) == list(range(1, 41))
    assert "".join(truth[place][0] for place in range(1, 41)) == TEXT[0]
    assert [truth[place][1] for place in range(1, 41)] == pytest.approx(dna.truth[0], abs=1e-9)
    assert heights(first) == truth  # 40 letters are one stretch
    for ax, row in zip(others, dna.representatives, strict=True):
        drawn = heights(ax)
        assert [drawn[place][1] for place in range(1, 41)] == pytest.approx(dna.values(row)[0], abs=1e-9)
        assert f"relative error {row['errors'][0]:.2f}" in ax.get_title(loc="left")
        assert ax.get_ylim() == whole.get_ylim()
    assert others[-1].get_xlabel() == "position in the sequence"


def test_the_stretch_that_is_shown_is_the_busiest() -> None:
    values = np.zeros(200)
    values[120:130] = -1.0
    start = letters.busiest(values, 60)
    assert start <= 109
    assert start + 60 >= 141  # the motif is not at the edge
    assert letters.busiest(np.ones(30), 60) == 0


def test_single_channels_are_summed_at_their_position(dna: Found) -> None:
    channels = dataclasses.replace(dna, players=None)
    values = np.zeros((4, 40))
    values[2, 7], values[3, 7] = 2.0, 0.5
    assert letters.on_letters(channels, values.flatten())[7] == 2.5


def test_motif_sites_are_shaded_where_they_were_embedded(dna: Found, sequences: Problem, tmp_path: Path) -> None:
    sites = ((Site("GATA", 5, 11), Site("TAL", 15, 23)), (Site("TAL", 13, 21),))
    made = Sequences(sequences.inputs.flip(0), torch.zeros(2, 3), TEXT[::-1], sites[::-1])
    letters.keep_sites(sequences, made, tmp_path)
    whole, *_ = some(letters.figure(dataclasses.replace(dna, folder=tmp_path, rows=[]))).axes
    shaded = [patch.get_extents().transformed(whole.transData.inverted()) for patch in whole.patches if patch.get_alpha()]
    assert [(box.x0, box.x1) for box in shaded] == [pytest.approx((5.5, 11.5)), pytest.approx((15.5, 23.5))]
    assert [text.get_text() for text in whole.texts] == ["GATA", "TAL"]


def test_wrong_sites_are_refused(dna: Found, sequences: Problem, tmp_path: Path) -> None:
    other = Sequences(sequences.inputs[:1], torch.zeros(1, 3), TEXT[:1], ((),))
    with pytest.raises(InputError, match="input 1 is none of the 1 sequences"):
        letters.keep_sites(sequences, other, tmp_path)
    elsewhere = dataclasses.replace(dna, folder=tmp_path)
    for text in ("[[]]", "[", "7"):
        (tmp_path / letters.SITES).write_text(text)
        with pytest.raises(DataFileError, match=r"sites\.json"):
            letters.figure(elsewhere)


# Summary


def test_summary_has_truth_and_ours_in_one_order(table: Found) -> None:
    left, right, bar = some(summary.figure(table)).axes
    order = np.argsort(-np.abs(table.truth).mean(axis=0))
    ours = table.values(next(row for row in table.rows if row["family"] == DEFAULT))
    for ax, values in ((left, table.truth), (right, ours)):
        for feature, dots in zip(order, ax.collections, strict=True):
            assert np.asarray(dots.get_offsets())[:, 0] == pytest.approx(values[:, feature])
    assert [label.get_text() for label in left.get_yticklabels()] == [FEATURES[feature] for feature in order]
    assert left.get_xlabel() == "contribution to the output (points)"
    assert left.get_xlim() == right.get_xlim()
    assert right.get_title(loc="left").startswith(DEFAULT)
    assert bar.get_ylabel() == "value of the feature"


def test_summary_takes_the_best_of_ours_without_a_default(table: Found) -> None:
    others = [row for row in table.rows if row["family"] != DEFAULT]
    chosen = summary.default(others)
    assert chosen is not None
    assert chosen["label"] == "sampling, many"
    assert summary.default([row for row in others if not row["family"].startswith("dasp.")]) is None
