"""dasp.shap takes the calls of shap's DeepExplainer: the same arrays, nearer to the truth, and what is off is refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas
import pytest
import shap
import torch
from matplotlib import pyplot
from torch import Tensor, nn

import dasp
from dasp.shap import DeepExplainer

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


@pytest.fixture(scope="module")
def images() -> tuple[nn.Module, Tensor]:
    return networks.coloured()


@pytest.fixture(autouse=True)
def closed_figures() -> Iterator[None]:
    pyplot.close("all")
    yield
    pyplot.close("all")


@theirs
@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("kind", ["plain", "image", "pair", "layer"])
def test_arrays_are_as_shaps(outputs: int, kind: str) -> None:
    """The same calls give the same types, shapes and dtypes; on linear networks, where DeepLIFT is exact, the same values."""
    torch.manual_seed(6)
    net: Any
    if kind == "pair":
        net = networks.Pair(outputs, nn.Identity())
        data: Any = [torch.randn(5, 3), torch.randn(5, 2)]
        x: Any = [torch.randn(3, 3), torch.randn(3, 2)]
    elif kind == "image":
        net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, outputs))
        data, x = torch.randn(5, 1, 4, 4), torch.randn(3, 1, 4, 4)
    else:
        net = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, outputs))
        data, x = torch.randn(5, 4), torch.randn(3, 4)
    given = (net, net[1]) if kind == "layer" else net
    theirs, ours = shap.DeepExplainer(given, data), DeepExplainer(given, data)
    assert ours.expected_value.dtype == theirs.expected_value.dtype
    assert np.allclose(ours.expected_value, theirs.expected_value, atol=1e-6)
    layered = kind == "layer"
    calls: list[dict[str, Any]] = [{}] if layered else [{}, *({"ranked_outputs": 2, "output_rank_order": o} for o in
                                                              ("max", "min", "max_abs"))]  # fmt: skip
    for call in calls:
        a, b = ours.shap_values(x, **call), theirs.shap_values(x, **call, check_additivity=False)
        if call:
            assert np.array_equal(a[1], b[1])
            a, b = a[0], b[0]
        assert type(a) is type(b)
        for one, other in zip(a, b, strict=True) if isinstance(b, list) else [(a, b)]:
            assert one.shape == other.shape
            assert one.dtype == other.dtype
            assert np.allclose(one, other, atol=1e-5)


def test_values_are_the_explainers_and_nearer_than_shaps(model: nn.Module, rows: Tensor) -> None:
    data, x = rows[:12], rows[12:16]
    model.train()
    ours = DeepExplainer(model, data, feature_names=NAMES, output_names=["a", "b", "c"])
    values = ours.shap_values(x)
    assert model.training
    model.eval()
    direct = dasp.Explainer(model, data)(x, [0, 1, 2])
    assert np.array_equal(values, np.moveaxis(array(direct.values), 1, -1))
    made = ours(x)
    assert np.array_equal(made.values, values)
    assert np.allclose(made.base_values, ours.expected_value, atol=1e-5)
    assert list(made.output_names) == ["a", "b", "c"]
    truth = array(dasp.Explainer(model, data, method=dasp.Exact())(x, [0, 1, 2]).values)
    off = np.linalg.norm(values - np.moveaxis(truth, 1, -1))
    deep = shap.DeepExplainer(model, data).shap_values(x, check_additivity=False)
    assert off < 0.5 * np.linalg.norm(deep - np.moveaxis(truth, 1, -1))
    ranked, index = ours.shap_values(x, ranked_outputs=1)
    assert np.allclose(ranked[..., 0], np.take_along_axis(values, index.numpy()[:, None], 2)[..., 0], atol=1e-5)
    assert ours.explain(x, 1).audit(evaluations=200).relative_error.shape == (4, 1)


@theirs
def test_one_output_and_frames(rows: Tensor, tmp_path: Path) -> None:
    torch.manual_seed(7)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1), nn.Flatten(0))  # gives (rows,)
    frame = pandas.DataFrame(array(rows), columns=NAMES)
    ours = DeepExplainer(net, frame)
    made = ours(frame.iloc[:3])
    assert made.values.shape == (3, 6)
    assert made.base_values.shape == (3,)
    assert made.feature_names == NAMES
    shap.plots.waterfall(made[0], show=False)  # which shap's own explanations of one output do not draw
    saved(tmp_path, "frame")
    assert ours.shap_values(array(rows[:3])).shape == (3, 6, 1)
    assert ours.expected_value.shape == (1,)


@theirs
def test_an_inner_layer_and_patches(images: tuple[nn.Module, Tensor], tmp_path: Path) -> None:
    net, x = images
    data = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(8))
    pooled = DeepExplainer((net, net[4]), data, method=dasp.PermutationSampling(permutations=4))
    with torch.no_grad():
        expected = dasp.Explainer(net[4], net[:4](data), method=dasp.PermutationSampling(permutations=4))(net[:4](x), 2)
    assert np.allclose(pooled.shap_values(x, check_additivity=False)[..., 2], array(expected.values), atol=1e-5)
    patched = DeepExplainer(net, data, players=dasp.players.grid(4, 4), method=dasp.Exact())
    values = patched.shap_values(x)
    with torch.no_grad():
        step = array(net(x)) - array(net(data)).mean(0)
    assert np.allclose(values.sum((1, 2, 3)), step, atol=1e-5)
    assert patched(x).values.shape == (2, 3, 8, 8, 10)
    shap.plots.image(patched(x, layout="image")[..., :2], show=False)
    saved(tmp_path, "deep image")


def test_additivity_is_relative(model: nn.Module, rows: Tensor) -> None:
    """shap lets errors pass that are small in numbers: 1.4 of the values' length. An estimate that halves them is caught."""

    class Half(dasp.Exact):
        def estimate(self, game: Any, *, progress: bool = False) -> dasp.Estimate:
            found = super().estimate(game, progress=progress)
            return replace(found, values=found.values / 2)

    small = nn.Sequential(model, nn.Linear(3, 1, bias=False))
    with torch.no_grad():
        small[1].weight.fill_(1e-4)
    ours = DeepExplainer(small, rows[:4], method=Half())
    with pytest.raises(AssertionError, match=r"miss output - expected_value by up to [0-9]+%"):
        ours.shap_values(rows[4:6])
    with pytest.raises(dasp.AdditivityError, match="row"):
        ours.shap_values(rows[4:6], ranked_outputs=1)
    assert ours.shap_values(rows[4:6], check_additivity=False).shape == (2, 6, 1)


def test_what_deep_explainers_do_not_take_is_refused(model: nn.Module, rows: Tensor) -> None:
    ours = DeepExplainer(model, rows[:4], method=dasp.Exact())
    for wrong, said in (
        (lambda: DeepExplainer(model.forward, rows), "model: expected"),  # type: ignore[arg-type]
        (lambda: DeepExplainer((model, "0"), rows), "model: expected"),  # type: ignore[arg-type]
        (lambda: DeepExplainer(model, rows[:0]), "at least one"),
        (lambda: DeepExplainer(model, [rows, rows[:3]]), "same number of rows"),
        (lambda: DeepExplainer(model, pandas.DataFrame({"a": ["x", "y"]})), "expected numbers"),
        (lambda: DeepExplainer(model, pandas.DataFrame({"a": [1.0], "b": [True]})), r"object\. .*frame\.astype\('float32'\)"),
        (lambda: DeepExplainer(nn.Unflatten(1, (2, 3)), rows), "gives shape"),
        (lambda: DeepExplainer(model, rows, output_names=["a"]), "1 names for 3"),
        (lambda: ours.shap_values([rows]), "X: expected rows"),
        (lambda: ours.shap_values(rows[0]), "X: expected rows"),
        (lambda: ours.shap_values(rows, ranked_outputs=0), "at least 1"),
        (lambda: ours.shap_values(rows, ranked_outputs=True), "whole number"),
        (lambda: ours.shap_values(rows, ranked_outputs=1, output_rank_order="most"), "output_rank_order"),
    ):
        with pytest.raises((dasp.InputError, dasp.InputTypeError), match=said):
            wrong()


def test_a_model_of_many_background_rows_is_asked_in_parts() -> None:
    seen = []

    class Counted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(len(x))
            return x.sum(1)

    data = torch.randn(1000, 3)
    found = DeepExplainer(Counted(), data).expected_value
    assert np.allclose(found, array(data).sum(1).mean(), atol=1e-5)
    assert max(seen) <= 256


def test_frames_in_another_order_are_refused(model: nn.Module, rows: Tensor) -> None:
    frame = pandas.DataFrame(rows.numpy(), columns=[f"f{i}" for i in range(rows.shape[1])])
    ours = DeepExplainer(model, frame, method=dasp.PermutationSampling(permutations=2))
    turned = frame[frame.columns[::-1]]
    with pytest.raises(dasp.InputError, match=r"X: column 0 is 'f\d+', and 'f0' in the background.*list\(background.columns\)"):
        ours.shap_values(turned)
    with pytest.raises(dasp.InputError, match="is nothing, and"):
        ours(frame[frame.columns[:-1]])
    expected = ours.shap_values(frame, check_additivity=False)
    given = turned.to_numpy()[:, ::-1]  # a view with negative strides, which torch does not take
    np.testing.assert_array_equal(ours.shap_values(given, check_additivity=False), expected)
    np.testing.assert_array_equal(ours.shap_values(turned[frame.columns], check_additivity=False), expected)
