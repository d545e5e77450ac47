"""dasp.captum in the calls that captum's tutorials make, against the explainer, enumeration by hand and captum itself."""

from __future__ import annotations

import functools
import itertools
import math
import sys
from collections.abc import Callable, Iterator
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import torch
from captum.attr import Attribution, FeatureAblation, LayerAttribution, LayerIntegratedGradients, NoiseTunnel
from captum.attr import ShapleyValueSampling as Sampling
from captum.attr import visualization as viz
from captum.metrics import infidelity, infidelity_perturb_func_decorator, sensitivity_max
from matplotlib import pyplot
from sklearn.datasets import load_digits
from torch import Tensor, nn

import dasp
import dasp.model
from dasp.captum import (
    DASP,
    Exact,
    LayerExact,
    LayerPermutationSampling,
    LayerPropagation,
    PermutationSampling,
    Propagation,
    Refine,
    Regression,
    VertexGradients,
)

mpl.use("Agg")


class Text(nn.Module):
    """A classifier of token ids, as in captum's tutorial on IMDB."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.embedding = nn.Embedding(40, 6)
        self.conv = nn.Conv1d(6, 8, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(0.5)
        self.last = nn.Linear(8, 2)

    def forward(self, ids: Tensor, mask: Tensor | None = None, scale: float = 1.0) -> Any:
        x = self.relu(self.conv(self.embedding(ids).transpose(1, 2)))
        x = x if mask is None else x * mask.unsqueeze(1)
        return scale * self.last(self.dropout(x.amax(2)))


class Digits(nn.Module):
    """A classifier of 8 x 8 digits, with normalisation that training mode would change."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.conv1, self.norm = nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6)
        self.conv2, self.last = nn.Conv2d(6, 8, 3), nn.Linear(8 * 2 * 2, 10)
        self.dropout = nn.Dropout(0.2)

    def forward(self, x: Tensor) -> Any:
        x = torch.relu(self.norm(self.conv1(x)))
        x = torch.max_pool2d(torch.relu(self.conv2(x)), 2)
        return self.last(self.dropout(x.flatten(1)))


class Pair(nn.Module):
    """Two inputs and a further argument."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.a, self.b, self.last = nn.Linear(3, 8), nn.Linear(2, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor, y: Tensor, shift: Tensor | float = 0.0) -> Any:
        return self.last(torch.relu(self.a(x) + self.b(y) + shift))


@pytest.fixture(scope="module")
def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(18, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 3))


@pytest.fixture(scope="module")
def rows() -> Tensor:
    return torch.randn(4, 18, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def digits() -> tuple[nn.Module, Tensor, Tensor]:
    data = load_digits()
    images = torch.tensor(data.images / 16.0, dtype=torch.float32).unsqueeze(1)
    labels = torch.tensor(data.target)
    model = Digits()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for step in range(40):
        some = torch.arange(step * 40, step * 40 + 128) % len(images)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images[some]), labels[some]).backward()
        optimizer.step()
    return model.eval(), images[:3], labels[:3]


@pytest.fixture(scope="module")
def text() -> tuple[nn.Module, Tensor, Tensor]:
    ids = torch.randint(1, 40, (3, 6), generator=torch.Generator().manual_seed(2))
    return Text().eval(), ids, torch.zeros_like(ids)


@pytest.fixture(autouse=True)
def closed_figures() -> Iterator[None]:
    yield
    pyplot.close("all")


def enumerated(value: Callable[[Tensor], Tensor], n: int) -> Tensor:
    """Shapley values (N, n) of value(coalition (n,) bool) -> (N,), by the definition over all orders' prefixes."""
    table = {s: value(torch.tensor(s)).double() for s in itertools.product((False, True), repeat=n)}
    columns = []
    for i in range(n):
        total = torch.zeros_like(next(iter(table.values())))
        for s, before in table.items():
            if not s[i]:
                size = sum(s)
                weight = math.factorial(size) * math.factorial(n - 1 - size) / math.factorial(n)
                total += weight * (table[(*s[:i], True, *s[i + 1 :])] - before)
        columns.append(total)
    return torch.stack(columns, 1)


# The calls of the tutorials.


@pytest.mark.parametrize(
    "method", [Propagation, DASP, Exact, PermutationSampling, VertexGradients, Regression, Refine], ids=lambda m: m.__name__
)
def test_values_are_the_explainers_to_the_bit(method: Any) -> None:
    torch.manual_seed(6)
    model, x = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(3, 5)
    found, delta = method(model).attribute(x, torch.ones(1, 5), target=1, return_convergence_delta=True)
    result = dasp.Explainer(model, torch.ones(1, 5), method=getattr(dasp, method.__name__)())(x, 1)
    assert isinstance(method(model), Attribution)
    assert torch.equal(found, result.values)  # type: ignore[arg-type]
    with torch.no_grad():
        step = (model(x) - model(torch.ones(1, 5)))[:, 1]
    assert delta.shape == (3,)
    torch.testing.assert_close(delta, found.sum(1) - step, atol=1e-6, rtol=0)
    torch.testing.assert_close(
        method(model).compute_convergence_delta(found, torch.ones(1, 5), x, target=1), delta, atol=1e-6, rtol=0
    )


def test_tabular_tutorial(mlp: nn.Module, rows: Tensor) -> None:
    """"Interpreting a Titanic model": inputs that require gradients, a target, a delta."""
    x = rows.clone().requires_grad_()
    values, delta = Propagation(mlp).attribute(x, target=1, return_convergence_delta=True)
    assert x.grad is None
    assert x.requires_grad
    truth = Exact(mlp).attribute(rows[:1], target=1)
    assert (values[:1] - truth).norm() < 0.1 * truth.norm()
    assert delta.abs().max() < 0.1 * values.abs().sum(1).max()
    assert np.mean(values.detach().numpy(), axis=0).shape == (18,)


def test_image_tutorial(digits: tuple[nn.Module, Tensor, Tensor]) -> None:
    """The tutorial on CIFAR: target from labels, baselines from the input, NoiseTunnel, visualize_image_attr."""
    model, images, labels = digits
    method = Propagation(model, rank=0)

    def attribute_image_features(algorithm: Any, image: Tensor, **options: Any) -> Any:
        model.zero_grad()
        return algorithm.attribute(image, target=labels[0], **options)

    values, delta = attribute_image_features(
        method, images[:1], baselines=images[:1] * 0, return_convergence_delta=True
    )
    smooth = attribute_image_features(
        NoiseTunnel(method), images[:1], baselines=images[:1] * 0, nt_type="smoothgrad_sq", nt_samples=3, stdevs=0.2
    )
    assert values.shape == smooth.shape == images[:1].shape
    assert delta.shape == (1,)
    shown = np.transpose(values.squeeze(0).cpu().detach().numpy(), (1, 2, 0))
    original = np.transpose(images[0].numpy(), (1, 2, 0))
    for kind, sign in (("blended_heat_map", "all"), ("heat_map", "positive"), ("masked_image", "positive")):
        figure, axes = viz.visualize_image_attr(
            shown, original, method=kind, sign=sign, show_colorbar=True, title=kind, use_pyplot=False
        )
        figure.canvas.draw()
        assert axes.images
    figure, _ = viz.visualize_image_attr_multiple(
        shown, original, ["original_image", "heat_map"], ["all", "all"], use_pyplot=False
    )
    figure.canvas.draw()


def test_text_tutorial(text: tuple[nn.Module, Tensor, Tensor]) -> None:
    """The tutorial on IMDB, which explains the embedding layer; every element of it is a player there."""
    model, ids, reference = text
    values, delta = LayerPropagation(model, model.embedding).attribute(
        ids, reference, target=1, return_convergence_delta=True
    )
    assert values.shape == (3, 6, 6)
    with torch.no_grad():
        step = (model(ids) - model(reference))[:, 1]
    torch.testing.assert_close(values.sum((1, 2)) - step, delta, atol=1e-5, rtol=0)
    assert LayerIntegratedGradients(model, model.embedding).attribute(ids, reference, target=1).shape == values.shape
    tokens = values.sum(dim=2).squeeze(0)
    tokens = (tokens / torch.norm(tokens)).detach().numpy()
    record = viz.VisualizationDataRecord(
        tokens[0], 0.9, "pos", "pos", "pos", float(tokens[0].sum()), [str(i) for i in ids[0].tolist()], float(delta[0])
    )
    assert viz.format_word_importances(record.raw_input_ids, record.word_attributions).count("<mark") == 6


def test_question_answering_tutorial(text: tuple[nn.Module, Tensor, Tensor]) -> None:
    """The tutorial on BERT: a function calls the model, and gets further arguments, tensors and numbers."""
    model, ids, reference = text
    mask = torch.ones(3, 6)
    mask[1, 4:] = 0

    def forward_func(inputs: Tensor, attention_mask: Tensor | None = None, position: int = 0) -> Tensor:
        predicted: Tensor = model(inputs, mask=attention_mask)
        return predicted[:, position]

    method = LayerExact(forward_func, model.embedding)
    players = torch.arange(6).reshape(1, 6, 1)
    values = method.attribute(ids, baselines=reference, additional_forward_args=(mask, 1), feature_mask=players)
    with torch.no_grad():
        truth = enumerated(lambda s: forward_func(torch.where(s, ids, reference), mask, 1), 6)
    torch.testing.assert_close(values[:, :, 0].double(), truth, atol=1e-5, rtol=0)
    assert torch.equal(values[:, :, 0], values[:, :, 5])


def test_multimodal_tutorial() -> None:
    """Tuples in, tuples out; masks that name features across inputs and leave numbers out."""
    model, x, y = Pair(), torch.randn(4, 3), torch.randn(4, 2)
    masks = (torch.tensor([[7, 2, 2]]), torch.tensor([[9, 7]]))
    values = Exact(model).attribute((x, y), (0, 0.5), 2, 0.3, masks)
    owners = (torch.tensor([1, 0, 0]), torch.tensor([2, 1]))  # 2, 7 and 9 in order

    def coalition(s: Tensor) -> Tensor:
        with torch.no_grad():
            return model(torch.where(s[owners[0]], x, 0.0), torch.where(s[owners[1]], y, 0.5), 0.3)[:, 2]

    truth = enumerated(coalition, 3)
    assert isinstance(values, tuple)
    for found, owner in zip(values, owners, strict=True):
        torch.testing.assert_close(found.double(), truth[:, owner], atol=1e-6, rtol=0)
    delta = Exact(model).compute_convergence_delta(values, (0, 0.5), (x, y), 2, 0.3, feature_mask=masks)
    assert delta.abs().max() < 1e-6
    assert [v.shape for v in Propagation(model).attribute((x, y), target=0)] == [x.shape, y.shape]
    assert isinstance(Exact(lambda x: model(x, y[:1])).attribute((x,), target=0), tuple)


def test_segments_are_captums(digits: tuple[nn.Module, Tensor, Tensor]) -> None:
    """Four patches by a `feature_mask` of captum's shape, against captum's own sampling and ablation calls."""
    model, images, labels = digits
    corner = torch.arange(8) // 4
    mask = (corner[:, None] * 2 + corner).reshape(1, 1, 8, 8)
    ours = Exact(model).attribute(images, target=labels, feature_mask=mask)
    torch.manual_seed(0)
    theirs = Sampling(model).attribute(images, target=labels, feature_mask=mask, n_samples=300)
    assert ours.shape == FeatureAblation(model).attribute(images, target=labels, feature_mask=mask).shape
    assert (ours - theirs).norm() < 0.1 * theirs.norm()


# What captum's arguments mean.


def test_every_form_of_target() -> None:
    torch.manual_seed(12)
    model, rows = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)), torch.randn(4, 5)
    method = Exact(model)
    each = torch.cat([method.attribute(rows[i : i + 1], target=t) for i, t in enumerate((0, 2, 1, 1))])
    for target in (torch.tensor([0, 2, 1, 1]), [0, 2, 1, 1], [(0,), (2,), (1,), (1,)], np.array([0, 2, 1, 1])):
        torch.testing.assert_close(method.attribute(rows, target=target), each)
    for one in (torch.tensor([2]), torch.tensor([[2]]), torch.tensor(2), (2,), np.int64(2)):
        assert torch.equal(method.attribute(rows, target=one), method.attribute(rows, target=2))
    wide = Exact(nn.Sequential(model, nn.Unflatten(1, (3, 1))))
    assert torch.equal(wide.attribute(rows, target=(2, 0)), method.attribute(rows, target=2))
    torch.testing.assert_close(wide.attribute(rows, target=[(0, 0), (2, 0), (1, 0), (1, 0)]), each)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ([0, 1], "2 for 4 row"),
        ([0, True, 1, 1], "ints"),
        ([0, 1, 1, 7], "row 3 asks for 7"),
        ([(0,), (1, 0), (0,), (1,)], "different numbers"),
        (None, "3 outputs"),
        (3, "out of range"),
        (-1, "out of range"),
        (torch.tensor([0.5]), "integers"),
        ((0, 0), "2 axis"),
    ],
)
def test_targets_that_do_not_fit_are_refused(mlp: nn.Module, rows: Tensor, target: Any, said: str) -> None:
    with pytest.raises((dasp.InputError, dasp.InputTypeError), match=said):
        Propagation(mlp).attribute(rows, target=target)


def test_every_form_of_baselines(mlp: nn.Module, rows: Tensor) -> None:
    method, own = Propagation(mlp), torch.randn(4, 18)
    zero = method.attribute(rows, target=0)
    for same in (0, 0.0, torch.zeros(1, 18), torch.zeros(4, 18), (0.0,), torch.zeros(18), torch.tensor(0.0)):
        assert torch.equal(method.attribute(rows, same, 0), zero)
    alone = torch.cat([method.attribute(rows[i : i + 1], own[i : i + 1], 0) for i in range(4)])
    torch.testing.assert_close(method.attribute(rows, own, 0), alone, atol=1e-6, rtol=1e-5)


def test_rows_of_data_as_baselines_are_asked_for(mlp: nn.Module, rows: Tensor) -> None:
    """`background=True` reads them as DeepLiftShap does, also where they are as many as the rows."""
    data = torch.randn(4, 18, generator=torch.Generator().manual_seed(8))
    method = PermutationSampling(mlp, background=True, permutations=8)
    expected = dasp.Explainer(mlp, data, method=dasp.PermutationSampling(permutations=8))(rows, 1)
    values, delta = method.attribute(rows, data, target=1, return_convergence_delta=True)
    assert torch.equal(values, expected.values)  # type: ignore[arg-type]
    assert delta.abs().max() < 1e-5
    with pytest.raises(dasp.InputError, match="background=True"):
        Propagation(mlp).attribute(rows, torch.cat((data, data)), 0)
    known = Propagation(mlp, background=True)
    assert torch.equal(known.attribute(rows, data[:3], 0), known.attribute(rows, data[:3], 0))


def test_masks_that_mean_nothing_are_refused(mlp: nn.Module, rows: Tensor) -> None:
    pair, two = Pair(), (torch.randn(2, 3), torch.randn(2, 2))
    same = torch.arange(18) // 6
    method = Propagation(mlp)
    assert torch.equal(
        method.attribute(rows, target=0, feature_mask=same.expand(4, 18)),
        method.attribute(rows, target=0, feature_mask=same),
    )
    differ = torch.stack([same, same, same, same.flip(0)])
    for wrong, said in ((differ, "rows differ"), (same.float(), "integers"), (same[:4], "broadcast"), (-same, "0 or more")):
        with pytest.raises((dasp.InputError, dasp.InputTypeError), match=said):
            method.attribute(rows, target=0, feature_mask=wrong)
    with pytest.raises(dasp.InputError, match=r"1 for 2 input"):
        Propagation(pair).attribute(two, target=0, feature_mask=torch.zeros(1, 3, dtype=torch.long))
    with pytest.raises(dasp.InputTypeError, match="feature_mask"):
        method.attribute(rows, 0, 0, None, True)  # type: ignore[arg-type]


def test_what_is_no_input_or_option_is_refused(mlp: nn.Module, rows: Tensor) -> None:
    with pytest.raises(dasp.InputTypeError, match="inputs"):
        Propagation(mlp).attribute([rows], target=0)  # type: ignore[arg-type]
    with pytest.raises(dasp.InputError, match="same number of rows"):
        Propagation(Pair()).attribute((torch.zeros(2, 3), torch.zeros(3, 2)), target=0)
    with pytest.raises(dasp.InputError, match="2 for 1"):
        Propagation(mlp).attribute(rows, (0, 0), 0)
    with pytest.raises(dasp.InputTypeError, match=r"dasp\.Propagation"):
        Propagation(mlp, n_steps=50)
    with pytest.raises(dasp.InputTypeError, match="forward_func"):
        Propagation(3)  # type: ignore[arg-type]
    with pytest.raises(dasp.InputError, match=r"attributions: shapes"):
        Propagation(mlp).compute_convergence_delta(rows[:, :4], 0, rows, 0)
    with pytest.raises(TypeError, match="n_steps"):
        Propagation(mlp).attribute(rows, target=0, n_steps=50)  # type: ignore[call-arg]


class Holder:
    """Hides a model from whoever looks at a function."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def score(self, x: Tensor, scale: float = 1.0) -> Tensor:
        output: Tensor = self.model(x)
        return scale * output[:, 1]


def state(model: nn.Module) -> list[Any]:
    modes: list[Any] = [(m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
    return modes + [t.clone() for t in (*model.parameters(), *model.buffers())]


def test_models_in_training_are_explained_in_evaluation_and_left_as_found() -> None:
    """captum leaves training mode on: dropout draws, and normalisation changes its statistics."""
    torch.manual_seed(13)
    model: Any = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, 2))
    model(torch.randn(64, 4))
    x = torch.randn(3, 4)
    model.eval()
    expected = Exact(model).attribute(x, target=1)
    layer = LayerExact(model, model[1]).attribute(x, target=1)
    propagated = Propagation(model).attribute(x, target=1)
    model.train()
    model[1].eval()
    before = state(model)
    holder = Holder(model)
    for forward in (model, model.forward, lambda x: model(x), lambda x: holder.model(x)):
        assert torch.equal(Exact(forward).attribute(x, target=1), expected)
        assert torch.equal(LayerExact(forward, model[1]).attribute(x, target=1), layer)
    for forward in (holder.score, functools.partial(holder.score, scale=1.0)):
        assert torch.equal(Exact(forward).attribute(x), expected)
    assert torch.equal(Propagation(lambda x: holder.model(x)).attribute(x, target=1), propagated)
    after = state(model)
    assert all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in zip(before, after, strict=True))


def test_a_function_without_modules_and_one_that_fails(rows: Tensor) -> None:
    assert torch.allclose(Propagation(lambda x: 2 * x.sum(1)).attribute(rows), 2 * rows, atol=1e-5)
    with pytest.raises(dasp.InputError, match=r"forward_func: .*fails on the inputs: RuntimeError"):
        Propagation(lambda x: x @ torch.ones(3)).attribute(rows)


def test_a_function_that_comes_to_call_another_model() -> None:
    torch.manual_seed(14)
    models = [nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 1)) for _ in range(2)]
    x, at = torch.randn(3, 4), [0]
    method = Propagation(lambda x: models[at[0]](x))
    before = state(models[1])
    for at[0] in (0, 1):
        values, truth = method.attribute(x), Exact(models[at[0]]).attribute(x)
        assert (values - truth).norm() < 0.1 * truth.norm()
    assert all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in zip(before, state(models[1]), strict=True))


def test_the_graph_is_captured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = dasp.model.capture
    monkeypatch.setattr(dasp.model, "capture", lambda *a: calls.append(a) or real(*a))
    torch.manual_seed(9)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    method, layered = Propagation(lambda x: model(x)), LayerPropagation(model, model[0])
    for count in (1, 3, 5):
        method.attribute(torch.randn(count, 4), torch.randn(1, 4), target=count % 2)
        layered.attribute(torch.randn(count, 4), torch.randn(1, 4), target=count % 2)
    assert len(calls) == 2


# captum's own tools on top.


def test_noise_tunnel(mlp: nn.Module, rows: Tensor) -> None:
    method = Propagation(mlp)
    mask = torch.arange(18) // 3
    plain = method.attribute(rows, torch.ones(1, 18), [0, 1, 2, 0], feature_mask=mask.reshape(1, 18))
    asked: Any = {"baselines": torch.ones(4, 18), "target": [0, 1, 2, 0], "feature_mask": mask.expand(4, 18)}
    values, delta = NoiseTunnel(method).attribute(
        rows, nt_samples=3, stdevs=0.0, return_convergence_delta=True, **asked
    )
    torch.testing.assert_close(values, plain, atol=1e-5, rtol=1e-4)
    assert delta.shape == (12,)
    noisy = NoiseTunnel(method).attribute(rows, nt_type="vargrad", nt_samples=3, nt_samples_batch_size=2, stdevs=0.1, **asked)
    assert noisy.shape == rows.shape
    assert (noisy > -1e-4).all()
    assert NoiseTunnel(method).multiplies_by_inputs


def test_metrics(mlp: nn.Module, rows: Tensor) -> None:
    """Infidelity over removals is smaller for our values than for their negatives; both metrics take our calls."""

    @infidelity_perturb_func_decorator(True)
    def removed(inputs: Tensor) -> Tensor:
        return torch.where(torch.rand_like(inputs) < 0.5, inputs, torch.zeros_like(inputs))

    method = Propagation(mlp)
    values = method.attribute(rows, target=1)
    torch.manual_seed(1)
    ours = infidelity(mlp, removed, rows, values, target=1, n_perturb_samples=32)
    torch.manual_seed(1)
    assert (ours < infidelity(mlp, removed, rows, -values, target=1, n_perturb_samples=32)).all()
    steady = sensitivity_max(method.attribute, rows, target=1, n_perturb_samples=2, baselines=torch.zeros(1, 18))
    assert steady.shape == (4,)
    assert 0 < steady.max() < 1


# Layers.


def test_a_layer_is_the_explainer_on_what_stands_behind_it(mlp: nn.Module, rows: Tensor) -> None:
    behind = nn.Sequential(*list(mlp)[2:])
    with torch.no_grad():
        given, absent = mlp[:2](rows), mlp[:2](torch.ones(4, 18))
    expected = dasp.Explainer(behind, dasp.PerRow(absent))(given, 1).values
    method = LayerPropagation(mlp, mlp[1])
    assert isinstance(method, LayerAttribution)
    assert torch.equal(method.attribute(rows, torch.ones(1, 18), 1), expected)  # type: ignore[arg-type]
    inside = method.attribute(rows, torch.ones(1, 18), 1, attribute_to_layer_input=True)
    with torch.no_grad():
        given, absent = mlp[0](rows), mlp[0](torch.ones(4, 18))
    expected = dasp.Explainer(mlp[1:], dasp.PerRow(absent))(given, 1).values
    assert torch.equal(inside, expected)  # type: ignore[arg-type]
    delta = method.compute_convergence_delta(inside, torch.ones(1, 18), rows, 1, attribute_to_layer_input=True)
    assert delta.shape == (4,)


def test_a_convolution_is_scaled_up_to_the_image(digits: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, images, labels = digits
    method = LayerPropagation(model, model.conv2)
    values, delta = method.attribute(
        images, target=labels, feature_mask=dasp.players.pixels(), return_convergence_delta=True
    )
    assert values.shape == (3, 8, 4, 4)
    assert (values == values[:, :1]).all()
    with torch.no_grad():
        step = (model(images) - model(torch.zeros_like(images))).gather(1, labels.unsqueeze(1))[:, 0]
    torch.testing.assert_close(delta, values[:, 0].sum((1, 2)) - step, atol=1e-5, rtol=0)
    assert LayerAttribution.interpolate(values[:, :1], (8, 8)).shape == images.shape
    assert method.interpolate(values[:, :1], (8, 8)).shape == images.shape


class Beside(nn.Module):
    """The input reaches the output beside the layer, which gives two tensors and None."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(10)
        self.left, self.right, self.last = nn.Linear(3, 2), nn.Linear(3, 2), nn.Linear(7, 1)
        self.two = Two()

    def forward(self, x: Tensor) -> Any:
        a, b, _ = self.two(self.left(x), self.right(x))
        return self.last(torch.cat((a.relu_(), b.tanh(), x), 1)) + a[:, :1] * b[:, 1:] * x[:, :1]


class Two(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, None]:
        return 2 * a, b - a, None


def test_layers_of_several_tensors_and_several_layers() -> None:
    """Values are of the layer's step alone: what goes beside it stays at the inputs."""
    model, x = Beside(), torch.randn(3, 3)
    base = torch.full((1, 3), 0.5)

    def two(x: Tensor) -> tuple[Tensor, Tensor]:
        return model.two(model.left(x), model.right(x))[:2]

    def rest(a: Tensor, b: Tensor) -> Tensor:
        joined = torch.cat((a.relu(), b.tanh(), x), 1)
        output: Tensor = model.last(joined) + a.relu()[:, :1] * b[:, 1:] * x[:, :1]
        return output[:, 0]

    with torch.no_grad():
        (a, b), (a0, b0) = two(x), two(base)
        truth = enumerated(lambda s: rest(torch.where(s[:2], a, a0), torch.where(s[2:], b, b0)), 4)
    values, delta = LayerExact(model, model.two).attribute(x, base, return_convergence_delta=True)
    torch.testing.assert_close(torch.cat(values, 1).double(), truth, atol=1e-6, rtol=0)
    assert delta.abs().max() < 1e-6

    listed = LayerExact(model, [model.left, model.right]).attribute(x, base)
    with torch.no_grad():
        p, q, p0, q0 = model.left(x), model.right(x), model.left(base), model.right(base)

        def through(s: Tensor) -> Tensor:
            return rest(*model.two(torch.where(s[:2], p, p0), torch.where(s[2:], q, q0))[:2])

        truth = enumerated(through, 4)
    assert isinstance(listed, list)
    torch.testing.assert_close(torch.cat(listed, 1).double(), truth, atol=1e-6, rtol=0)


def test_layers_against_a_background(mlp: nn.Module, rows: Tensor) -> None:
    data = torch.randn(6, 18, generator=torch.Generator().manual_seed(11))
    groups = torch.arange(64) // 16
    values = LayerPermutationSampling(mlp, mlp[1], background=True, permutations=4).attribute(
        rows, data, 1, feature_mask=groups
    )
    with torch.no_grad():
        given, absent, behind = mlp[:2](rows), mlp[:2](data), mlp[2:]
        expected = dasp.Explainer(
            behind, absent, players=groups, method=dasp.PermutationSampling(permutations=4)
        )(given, 1).as_input()  # fmt: skip
    torch.testing.assert_close(values, expected)
    with pytest.raises(dasp.InputError, match=r"additional_forward_args\[0\] goes along"):
        LayerExact(lambda x, y: mlp(x + y), mlp[1], background=True).attribute(rows, data, 1, rows)


class Odd(nn.Module):
    """Layers that cannot be explained."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.never, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 1)
        self.lstm, self.turned = nn.LSTM(4, 4, batch_first=True), nn.Identity()

    def forward(self, x: Tensor) -> Any:
        h = self.twice(torch.relu(self.twice(x))).unsqueeze(1).expand(-1, len(x) * 0 + 3, -1)
        h = self.turned(h.transpose(0, 1)).transpose(0, 1)
        return self.last(self.lstm(h)[0][:, -1])


def test_layers_that_cannot_be_explained_are_refused() -> None:
    model = Odd()
    for layer, said in (
        (model.twice, "called 2 times"),
        (model.never, "is not called"),
        (model.lstm, "LSTM gives tuple"),
        (model.turned, "first axis must be the rows"),  # 3 steps, as many as rows
    ):
        with pytest.raises((dasp.InputError, dasp.InputTypeError), match=said):
            LayerExact(model, layer).attribute(torch.randn(3, 4))
    with pytest.raises(dasp.InputTypeError, match="layer: expected a module"):
        LayerExact(model, "last")  # type: ignore[arg-type]
    assert LayerExact(model, model.last).attribute(torch.randn(3, 4), attribute_to_layer_input=True).shape == (3, 4)


def test_explain_gives_what_can_be_audited(mlp: nn.Module, rows: Tensor) -> None:
    result = Propagation(mlp).explain(rows, target=0)
    assert torch.equal(result.values, Propagation(mlp).attribute(rows, target=0))  # type: ignore[arg-type]
    assert result.audit(evaluations=200).relative_error.shape == (4, 1)


def test_without_captum_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("dasp.captum")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(dasp, "captum", raising=False)
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(dasp.MissingExtraError, match=r"pip install 'dasp\[captum\]'"):
        dasp.captum  # noqa: B018
