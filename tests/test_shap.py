"""Results as shap's Explanation: every plot of shap that applies draws our numbers."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
import shap
import torch
from matplotlib import pyplot
from torch import Tensor, nn

import dasp

from . import explained_networks as networks
from .explained_networks import array, saved, texts

mpl.use("Agg")

NAMES = [f"feature {i}" for i in range(6)]
WORDS = (("[CLS]", "a", "great", "film", "##s", "[SEP]"), ("[CLS]", "no", "great", "joy", "at", "all"))
# shap 0.51 draws with calls that matplotlib and numpy will drop, and seeds numpy's global generator.
theirs = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return networks.small()


@pytest.fixture(scope="module")
def rows() -> Tensor:
    return networks.small_table()


@pytest.fixture(scope="module")
def result(model: nn.Module, rows: Tensor) -> dasp.Attribution:
    return dasp.Explainer(model, 0.0, feature_names=NAMES)(rows, 1)


@pytest.fixture(scope="module")
def images() -> tuple[nn.Module, Tensor]:
    return networks.coloured()


@pytest.fixture(autouse=True)
def closed_figures() -> Iterator[None]:
    pyplot.close("all")
    yield
    pyplot.close("all")


def test_the_explanation_holds_the_results_numbers(result: dasp.Attribution, rows: Tensor) -> None:
    made = result.to_shap(output_names="the second")
    assert isinstance(made, shap.Explanation)
    assert np.array_equal(made.values, array(result.values))
    assert np.array_equal(made.base_values, array(result.base_value))
    assert made.base_values.shape == (24,)
    assert np.array_equal(made.data, array(rows))
    assert made.feature_names == NAMES
    assert made.output_names == "the second"
    assert made.lower_bounds is made.upper_bounds is made.error_std is None
    one = made[3]
    assert one.base_values == float(result.base_value[3])
    assert np.array_equal(made[:, "feature 2"].values, array(result.values)[:, 2])


def test_several_targets_are_output_names(model: nn.Module, rows: Tensor) -> None:
    result = dasp.Explainer(model, 0.0, feature_names=NAMES, method=dasp.Exact())(rows, [2, 0])
    made = result.to_shap()
    assert made.values.shape == (24, 6, 2)
    assert made.base_values.shape == (24, 2)
    assert list(made.output_names) == ["2", "0"]
    assert np.array_equal(made[..., 1].values, array(result.values)[:, 1])
    named = result.to_shap(output_names=["last", "first"])
    assert np.array_equal(named[:, :, "first"].values, made[..., 1].values)
    assert np.array_equal(named[..., 1].base_values, array(result.base_value)[:, 1])
    for wrong in (["last"], "last"):
        with pytest.raises(dasp.InputError, match="2 names"):
            result.to_shap(output_names=wrong)
    with pytest.raises(dasp.InputError, match="one target"):
        dasp.Explainer(model, 0.0, method=dasp.Exact())(rows[:1], 0).to_shap(output_names=["a", "b"])


def test_audited_intervals_are_bounds(result: dasp.Attribution) -> None:
    """They hold the truth as often as they say, and the value itself always, as shap's bars must."""
    audit = result.audit(evaluations=40, per_player=True)
    made = result.to_shap(audit)
    assert (made.lower_bounds <= made.values).all()
    assert (made.values <= made.upper_bounds).all()
    truth = dasp.Explainer(result.auditor.args[0].model, 0.0, method=dasp.Exact())(result.inputs[0], 1)  # type: ignore[union-attr]
    phi = array(truth.values)
    assert ((made.lower_bounds <= phi) & (phi <= made.upper_bounds)).mean() > 0.9
    assert audit.player_errors is not None
    assert audit.player_spread is not None
    ends = array(result.per_player) - array(audit.player_errors) + array(audit.player_spread)
    assert np.array_equal(made.upper_bounds, np.maximum(ends[:, 0], made.values))
    exact = result.to_shap(result.audit(evaluations=64, per_player=True))
    assert np.allclose(np.where(exact.lower_bounds < exact.values, exact.lower_bounds, exact.upper_bounds), phi, atol=1e-6)
    with pytest.raises(dasp.InputError, match="per_player=True"):
        result.to_shap(result.audit(evaluations=40))
    with pytest.raises(dasp.InputError, match=r"audit: made for values"):
        replace(result, values=result.values[:2], base_value=result.base_value[:2]).to_shap(audit)  # type: ignore[index]


def test_sampled_values_carry_their_standard_errors(model: nn.Module, rows: Tensor) -> None:
    sampled = dasp.Explainer(model, 0.0, method=dasp.PermutationSampling(permutations=8))(rows, [0, 1])
    assert isinstance(sampled.standard_errors, Tensor)
    assert np.array_equal(sampled.to_shap().error_std, np.moveaxis(array(sampled.standard_errors), 1, -1))


@theirs
def test_waterfall(result: dasp.Attribution, tmp_path: Path) -> None:
    made = result.to_shap(result.audit(evaluations=40, per_player=True))
    shap.plots.waterfall(made[0], show=False)
    figure = saved(tmp_path, "waterfall")
    shown = texts(figure)
    assert all(name in shown for name in NAMES)
    end = float(result.base_value[0] + result.values[0].sum())  # type: ignore[union-attr]
    assert f"{abs(end):.3f}".rstrip("0") in shown
    assert len(figure.findobj(mpl.collections.LineCollection)) >= 6  # the intervals


@theirs
def test_beeswarm_and_violin(result: dasp.Attribution, tmp_path: Path) -> None:
    shap.plots.beeswarm(result.to_shap(), show=False)
    figure = saved(tmp_path, "beeswarm")
    drawn = [p.get_offsets()[:, 0] for p in figure.axes[0].collections if len(p.get_offsets()) == 24]
    values = array(result.values)
    order = np.argsort(np.abs(values).mean(0))
    for dots, player in zip(drawn, order, strict=True):
        assert np.allclose(np.sort(dots), np.sort(values[:, player]))
    pyplot.close("all")
    shap.plots.violin(result.to_shap(), show=False)
    assert NAMES[0] in texts(saved(tmp_path, "violin"))


@theirs
def test_bar(result: dasp.Attribution, tmp_path: Path) -> None:
    shap.plots.bar(result.to_shap(), show=False)
    widths = sorted(bar.get_width() for bar in saved(tmp_path, "bar").axes[0].patches)
    assert np.allclose(widths, np.sort(np.abs(array(result.values)).mean(0)))
    pyplot.close("all")
    shap.plots.bar(result.to_shap()[0], show=False)
    widths = sorted(bar.get_width() for bar in saved(tmp_path, "bar one row").axes[0].patches)
    assert np.allclose(widths, np.sort(array(result.values)[0]))


@theirs
def test_force(result: dasp.Attribution, tmp_path: Path) -> None:
    made = result.to_shap()
    shap.plots.force(made[0], matplotlib=True, show=False)
    end = float(result.base_value[0] + result.values[0].sum())  # type: ignore[union-attr]
    assert f"{end:.2f}" in texts(saved(tmp_path, "force"))
    page = shap.plots.force(made)
    assert f"{float(result.base_value[0]):.4f}"[:-1] in page.html()
    (tmp_path / "force.html").write_text(page.html())


@theirs
def test_heatmap(result: dasp.Attribution, tmp_path: Path) -> None:
    shap.plots.heatmap(result.to_shap(), show=False)
    figure = saved(tmp_path, "heatmap")
    drawn = figure.axes[0].images[0].get_array()
    assert np.allclose(np.sort(drawn, axis=None), np.sort(array(result.values), axis=None))


@theirs
def test_scatter(result: dasp.Attribution, tmp_path: Path) -> None:
    made = result.to_shap()
    shap.plots.scatter(made[:, "feature 3"], color=made, show=False)
    figure = saved(tmp_path, "scatter")
    dots = np.concatenate([np.asarray(p.get_offsets()) for p in figure.axes[0].collections if len(p.get_offsets())])
    assert np.allclose(np.sort(dots[:, 1]), np.sort(array(result.values)[:, 3]))
    assert np.abs(dots[:, 0].mean() - array(result.inputs[0])[:, 3].mean()) < 0.1


@theirs
def test_decision(result: dasp.Attribution, tmp_path: Path) -> None:
    made = result.to_shap()
    shap.plots.decision(made.base_values[0], made.values, features=made.data, feature_names=made.feature_names, show=False)
    figure = saved(tmp_path, "decision")
    ends = [line.get_xdata()[-1] for line in figure.axes[0].lines if len(line.get_xdata()) == 7]
    assert np.allclose(np.sort(ends), np.sort(made.base_values + made.values.sum(1)))


@theirs
def test_image(images: tuple[nn.Module, Tensor], tmp_path: Path) -> None:
    """NHWC; a patch's value is shared among its elements, so that pixels add up to it."""
    net, x = images
    plain = dasp.Explainer(net, 0.0, method=dasp.Propagation(rank=0))(x, [3, 8])
    made = plain.to_shap(layout="image", output_names=["three", "eight"])
    assert made.values.shape == (2, 8, 8, 3, 2)
    assert np.array_equal(made.values, np.transpose(array(plain.values), (0, 3, 4, 2, 1)))
    assert np.array_equal(made.data, np.transpose(array(x), (0, 2, 3, 1)))
    shap.plots.image(made, show=False)
    figure = saved(tmp_path, "image")
    assert "three" in texts(figure)
    drawn = [i.get_array() for axes in figure.axes for i in axes.images]
    assert any(np.allclose(one, made.values[0, ..., 0].sum(-1)) for one in drawn if one.ndim == 2)

    patches = dasp.Explainer(net, 0.0, players=dasp.players.grid(4, 4), method=dasp.Exact())(x, 3)
    pieces = patches.to_shap(layout="image")
    assert pieces.values.shape == (2, 8, 8, 3)
    assert np.allclose(pieces.values.sum((1, 2, 3)), array(patches.values).sum(1))
    assert np.allclose(pieces.values[:, :4, :4].sum((1, 2, 3)), array(patches.values)[:, 0])
    assert np.array_equal(patches.to_shap(layout="input").values, np.moveaxis(pieces.values, 3, 1))
    pyplot.close("all")
    shap.plots.image(pieces, show=False)
    saved(tmp_path, "image patches")
    assert patches.to_shap().data is None

    linear = nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
    grey = dasp.Explainer(linear, 0.0, method=dasp.PermutationSampling(permutations=2))(x[:, 0])
    assert grey.to_shap(layout="image").values.shape == (2, 8, 8, 1)
    pyplot.close("all")
    shap.plots.image(grey.to_shap(layout="image"), show=False)
    saved(tmp_path, "image grey")


@theirs
def test_plots_of_groups_without_data(images: tuple[nn.Module, Tensor], tmp_path: Path) -> None:
    explainer = dasp.Explainer(images[0], 0.0, players=dasp.players.grid(4, 4), method=dasp.Exact())
    made = explainer(images[1], 3).to_shap()
    for name, draw in (
        ("waterfall", lambda: shap.plots.waterfall(made[0], show=False)),
        ("bar", lambda: shap.plots.bar(made, show=False)),
        ("beeswarm", lambda: shap.plots.beeswarm(made, show=False)),
        ("heatmap", lambda: shap.plots.heatmap(made, show=False)),
        ("force", lambda: shap.plots.force(made[0], matplotlib=True, show=False)),
    ):
        pyplot.close("all")
        draw()
        assert "patch 0,0" in texts(saved(tmp_path, f"groups {name}"))


@pytest.fixture(scope="module")
def told() -> dasp.Attribution:
    ids = torch.randint(1, 40, (2, 6), generator=torch.Generator().manual_seed(4))
    explainer = dasp.Explainer(
        networks.Text(), dasp.PerRow(torch.zeros_like(ids)), players=dasp.players.tokens(), method=dasp.Exact()
    )
    return replace(explainer(ids, [0, 1]), tokens=WORDS)


@theirs
def test_text(told: dasp.Attribution, tmp_path: Path) -> None:
    made = told.to_shap(output_names=["bad", "good"])
    assert [list(row) for row in made.data] == [
        [" [CLS]", " a", " great", " film", "s", " [SEP]"], [" [CLS]", " no", " great", " joy", " at", " all"]
    ]  # fmt: skip
    page = shap.plots.text(made[:, :, "good"], display=False)
    (tmp_path / "text.html").write_text(page)
    values = array(told.values)[:, 1].flatten()
    assert all(str(value.round(3)) in page for value in values if value)
    assert "great" in page
    assert "bad" in shap.plots.text(made, display=False)
    shap.plots.waterfall(made[0][:, "good"], show=False)
    assert "great = token 2" in texts(saved(tmp_path, "text waterfall")).replace("  ", " ")


def test_marks_of_tokenizers_become_spaces(told: dasp.Attribution) -> None:
    for words in ((("I", "Ġsaw", "Ġit", "s", "Ġend", "."),) * 2, (("▁I", "▁saw", "▁it", "s", "▁end", "."),) * 2):
        row = "".join(replace(told, tokens=words).to_shap().data[0])
        assert row.strip() == "I saw its end."


def test_layouts_that_do_not_fit_are_refused(result: dasp.Attribution) -> None:
    with pytest.raises(dasp.InputError, match="expected one of"):
        result.to_shap(layout="NHWC")
    with pytest.raises(dasp.InputError, match="an image has shape"):
        result.to_shap(layout="image")
    assert np.array_equal(result.to_shap(layout="input").values, result.to_shap().values)
    pair = dasp.Explainer(networks.Pair(1), (0.0, 0.0), method=dasp.Exact())((torch.randn(2, 3), torch.randn(2, 2)))
    assert pair.to_shap().values.shape == pair.to_shap().data.shape == (2, 5)
    with pytest.raises(dasp.InputError, match="one input"):
        pair.to_shap(layout="input")


def test_players_of_one_element_keep_their_data(model: nn.Module, rows: Tensor) -> None:
    order = torch.tensor([5, 4, 3, 2, 1, 0])
    result = dasp.Explainer(model, 0.0, players=order, method=dasp.Exact())(rows, 0)
    assert np.array_equal(result.to_shap().data, array(rows)[:, ::-1])


def test_semivalues_say_that_they_do_not_add_up(model: nn.Module, rows: Tensor) -> None:
    result = dasp.Explainer(model, 0.0, method=dasp.Exact(), semivalue=dasp.Banzhaf())(rows, 0)
    with pytest.warns(dasp.CompletenessWarning, match="Banzhaf values"):
        result.to_shap()


def test_results_from_files_are_handed_over(result: dasp.Attribution, tmp_path: Path) -> None:
    loaded = dasp.Attribution.load(result.save(tmp_path / "values"))
    assert np.array_equal(loaded.to_shap().values, result.to_shap().values)


@pytest.mark.parametrize(("package", "call"), [("shap", "to_shap"), ("shapiq", "to_shapiq")])
def test_without_the_packages_the_extra_is_named(
    result: dasp.Attribution, monkeypatch: pytest.MonkeyPatch, package: str, call: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(dasp.MissingExtraError, match=rf"pip install 'dasp\[{package}\]'"):
        getattr(result, call)()
    if package == "shap":
        monkeypatch.delitem(sys.modules, "dasp.shap", raising=False)
        monkeypatch.delitem(vars(dasp), "shap", raising=False)  # delattr would import it first
        with pytest.raises(dasp.MissingExtraError, match=r"dasp\.shap needs shap"):
            dasp.shap  # noqa: B018
