"""Results in shap and shapiq: every plot draws our numbers, and dasp.shap takes the calls of shap's DeepExplainer."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas
import pytest
import shap
import shapiq
import torch
from matplotlib import pyplot
from sklearn.datasets import load_digits
from torch import Tensor, nn

import dasp
from dasp.shap import DeepExplainer

mpl.use("Agg")

NAMES = [f"feature {i}" for i in range(6)]
WORDS = (("[CLS]", "a", "great", "film", "##s", "[SEP]"), ("[CLS]", "no", "great", "joy", "at", "all"))
# shap 0.51 draws with calls that matplotlib and numpy will drop, and seeds numpy's global generator.
theirs = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 12), nn.ReLU(), nn.Linear(12, 3))


@pytest.fixture(scope="module")
def rows() -> Tensor:
    return torch.randn(24, 6, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def result(model: nn.Module, rows: Tensor) -> dasp.Attribution:
    return dasp.Explainer(model, 0.0, feature_names=NAMES)(rows, 1)


@pytest.fixture(scope="module")
def images() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(2)
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(6 * 3 * 3, 10)
    )  # fmt: skip
    grey = torch.tensor(load_digits().images[:2] / 16.0, dtype=torch.float32)
    return net, torch.stack([grey, grey.flip(1), grey / 2], 1)


class Text(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.embedding, self.conv, self.last = nn.Embedding(40, 6), nn.Conv1d(6, 8, 3, padding=1), nn.Linear(8, 2)

    def forward(self, ids: Tensor) -> Any:
        return self.last(torch.relu(self.conv(self.embedding(ids).transpose(1, 2))).amax(2))


@pytest.fixture(autouse=True)
def closed_figures() -> Iterator[None]:
    pyplot.close("all")
    yield
    pyplot.close("all")


def saved(path: Path, name: str) -> Any:
    """The current figure, written, so that everything is drawn; its name is for who wants to look."""
    figure = pyplot.gcf()
    figure.savefig(path / f"{name}.png", dpi=60, bbox_inches="tight")
    return figure


def texts(figure: Any) -> str:
    return " ".join(text.get_text() for text in figure.findobj(mpl.text.Text))


def array(x: Any) -> Any:
    return x.detach().double().numpy()


# to_shap: the numbers, and every plot with them.


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
        Text(), dasp.PerRow(torch.zeros_like(ids)), players=dasp.players.tokens(), method=dasp.Exact()
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
    pair = dasp.Explainer(lambda_of_two(), (0.0, 0.0), method=dasp.Exact())((torch.randn(2, 3), torch.randn(2, 2)))
    assert pair.to_shap().values.shape == pair.to_shap().data.shape == (2, 5)
    with pytest.raises(dasp.InputError, match="one input"):
        pair.to_shap(layout="input")


def lambda_of_two() -> nn.Module:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(5)
            self.a, self.b, self.relu, self.last = nn.Linear(3, 4), nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1)

        def forward(self, x: Tensor, y: Tensor) -> Any:
            return self.last(self.relu(self.a(x) + self.b(y)))

    return Pair()


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


# shapiq


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


# dasp.shap.DeepExplainer


@theirs
@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("kind", ["plain", "image", "pair", "layer"])
def test_arrays_are_as_shaps(outputs: int, kind: str) -> None:
    """The same calls give the same types, shapes and dtypes; on linear networks, where DeepLIFT is exact, the same values."""
    torch.manual_seed(6)
    net: Any
    if kind == "pair":
        net = lambda_of_two()
        net.last, net.relu = nn.Linear(4, outputs), nn.Identity()
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


@pytest.mark.parametrize(("package", "call"), [("shap", "to_shap"), ("shapiq", "to_shapiq")])
def test_without_the_packages_the_extra_is_named(
    result: dasp.Attribution, monkeypatch: pytest.MonkeyPatch, package: str, call: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(dasp.MissingExtraError, match=rf"pip install 'dasp\[{package}\]'"):
        getattr(result, call)()
    if package == "shap":
        monkeypatch.delitem(sys.modules, "dasp.shap")
        monkeypatch.delattr(dasp, "shap", raising=False)
        with pytest.raises(dasp.MissingExtraError, match=r"dasp\.shap needs shap"):
            dasp.shap  # noqa: B018
