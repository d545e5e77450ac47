"""dasp.captum in the calls that captum's tutorials make, against the explainer, enumeration by hand and captum itself."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import torch
from captum.attr import Attribution, FeatureAblation, NoiseTunnel
from captum.attr import ShapleyValueSampling as Sampling
from captum.attr import visualization as viz
from captum.metrics import infidelity, infidelity_perturb_func_decorator, sensitivity_max
from matplotlib import pyplot
from torch import Tensor, nn

import dasp
import dasp.model
from dasp.captum import (
    DASP,
    Exact,
    LayerExact,
    LayerPropagation,
    PermutationSampling,
    Propagation,
    Refine,
    Regression,
    VertexGradients,
)

from . import explained_networks as networks
from .explained_networks import enumerated

mpl.use("Agg")


@pytest.fixture(scope="module")
def mlp() -> nn.Module:
    return networks.mlp()


@pytest.fixture(scope="module")
def rows() -> Tensor:
    return networks.table()


@pytest.fixture(autouse=True)
def closed_figures() -> Iterator[None]:
    yield
    pyplot.close("all")


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
    """The tutorial on the Titanic: inputs that require gradients, a target, a delta."""
    x = rows.clone().requires_grad_()
    values, delta = Propagation(mlp).attribute(x, target=1, return_convergence_delta=True)
    assert x.grad is None
    assert x.requires_grad
    truth = Exact(mlp).attribute(rows[:1], target=1)
    assert (values[:1] - truth).norm() < 0.1 * truth.norm()
    assert delta.abs().max() < 0.1 * values.abs().sum(1).max()
    assert np.mean(values.detach().numpy(), axis=0).shape == (18,)


def test_image_tutorial() -> None:
    """The tutorial on CIFAR: target from labels, baselines from the input, NoiseTunnel, visualize_image_attr."""
    model, images, labels = networks.digits()
    method = Propagation(model, rank=0)

    def attribute_image_features(algorithm: Any, image: Tensor, **options: Any) -> Any:
        model.zero_grad()
        return algorithm.attribute(image, target=labels[0], **options)

    values, delta = attribute_image_features(method, images[:1], baselines=images[:1] * 0, return_convergence_delta=True)
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


def test_multimodal_tutorial() -> None:
    """Tuples in, tuples out; masks that name features across inputs and leave numbers out."""
    model, x, y = networks.Pair(), torch.randn(4, 3), torch.randn(4, 2)
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


def test_segments_are_captums() -> None:
    """Four patches by a `feature_mask` of captum's shape, against captum's own sampling and ablation calls."""
    model, images, labels = networks.digits()
    corner = torch.arange(8) // 4
    mask = (corner[:, None] * 2 + corner).reshape(1, 1, 8, 8)
    ours = Exact(model).attribute(images, target=labels, feature_mask=mask)
    torch.manual_seed(0)
    theirs = Sampling(model).attribute(images, target=labels, feature_mask=mask, n_samples=300)
    assert ours.shape == FeatureAblation(model).attribute(images, target=labels, feature_mask=mask).shape
    assert (ours - theirs).norm() < 0.1 * theirs.norm()


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


def test_other_semivalues(mlp: nn.Module, rows: Tensor) -> None:
    players = torch.arange(18) // 3
    expected = dasp.Explainer(mlp, 0.0, method=dasp.Exact(), semivalue=dasp.Banzhaf(), players=players)(rows, 0)
    assert torch.equal(
        Exact(mlp, semivalue=dasp.Banzhaf()).attribute(rows, target=0, feature_mask=players), expected.as_input()
    )
    with pytest.raises(dasp.InputError, match="Shapley values only"):
        VertexGradients(mlp, semivalue=dasp.Banzhaf())


def test_masks_that_mean_nothing_are_refused(mlp: nn.Module, rows: Tensor) -> None:
    pair, two = networks.Pair(), (torch.randn(2, 3), torch.randn(2, 2))
    same = torch.arange(18) // 6
    method = Propagation(mlp)
    assert torch.equal(
        method.attribute(rows, target=0, feature_mask=same.expand(4, 18)),
        method.attribute(rows, target=0, feature_mask=same),
    )
    for wrong, said in ((same.float(), "integers"), (same[:4], "broadcast"), (-same, "0 or more")):
        with pytest.raises((dasp.InputError, dasp.InputTypeError), match=said):
            method.attribute(rows, target=0, feature_mask=wrong)
    with pytest.raises(dasp.InputError, match=r"1 for 2 input"):
        Propagation(pair).attribute(two, target=0, feature_mask=torch.zeros(1, 3, dtype=torch.long))
    with pytest.raises(dasp.InputTypeError, match="feature_mask"):
        method.attribute(rows, 0, 0, None, True)  # type: ignore[arg-type]


def test_masks_that_differ_by_row_give_what_each_row_gives_alone() -> None:
    """With baselines, targets and further arguments that go along with the rows, and one of two entries that does not, though
    two rows share a mask.
    """
    torch.manual_seed(15)
    net, x, y, side = networks.Pair(), torch.randn(5, 3), torch.randn(5, 2), torch.randn(5, 1)

    def forward(x: Tensor, y: Tensor, along: Tensor, both: Tensor) -> Tensor:
        return net(x, y) * along + both.sum() * x[:, :1]

    base, both = (torch.randn(5, 3), torch.tensor([[0.5, -0.5]])), torch.tensor([1.0, 2.0])
    masks = (torch.tensor([[0, 1, 1], [4, 4, 9], [0, 1, 1], [4, 4, 9], [4, 4, 9]]), torch.tensor([[1, 0]]))
    target = [0, 2, 1, 1, 0]
    method = Exact(forward)
    values, delta = method.attribute((x, y), base, target, (side, both), masks, return_convergence_delta=True)
    for i in range(5):
        one = slice(i, i + 1)
        alone = Exact(forward).attribute(
            (x[one], y[one]), (base[0][one], base[1]), target[i], (side[one], both), (masks[0][one], masks[1])
        )
        for found, expected in zip(values, alone, strict=True):
            torch.testing.assert_close(found[one], expected, atol=1e-6, rtol=1e-5)
    assert delta.shape == (5,)
    assert delta.abs().max() < 1e-5
    again = method.compute_convergence_delta(values, base, (x, y), target, (side, both), feature_mask=masks)
    torch.testing.assert_close(again, delta, atol=1e-5, rtol=0)
    with pytest.raises(dasp.InputError, match=r"its rows differ.*each mask apart"):
        method.explain((x, y), base, target, (side, both), masks)
    for few in ([0, 2], torch.tensor([0, 2])):  # as many as rows share a mask
        with pytest.raises(dasp.InputError, match=r"target: .*2 for 5 row"):
            method.attribute((x, y), base, few, (side, both), masks)


def test_what_is_no_input_or_option_is_refused(mlp: nn.Module, rows: Tensor) -> None:
    with pytest.raises(dasp.InputTypeError, match="inputs"):
        Propagation(mlp).attribute([rows], target=0)  # type: ignore[arg-type]
    with pytest.raises(dasp.InputError, match="same number of rows"):
        Propagation(networks.Pair()).attribute((torch.zeros(2, 3), torch.zeros(3, 2)), target=0)
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


def test_forward_passes_over_the_hooks_of_its_module(mlp: nn.Module, rows: Tensor) -> None:
    mask = torch.arange(18) // 6
    plain = Exact(mlp).attribute(rows, target=0, feature_mask=mask)
    hook = mlp.register_forward_hook(lambda _, __, output: 2 * output)
    try:
        assert torch.equal(Exact(mlp.forward).attribute(rows, target=0, feature_mask=mask), plain)
        assert torch.equal(Exact(mlp).attribute(rows, target=0, feature_mask=mask), 2 * plain)
    finally:
        hook.remove()


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


def test_noise_tunnel(mlp: nn.Module, rows: Tensor) -> None:
    method = Propagation(mlp)
    mask = torch.arange(18) // 3
    plain = method.attribute(rows, torch.ones(1, 18), [0, 1, 2, 0], feature_mask=mask.reshape(1, 18))
    asked: Any = {"baselines": torch.ones(4, 18), "target": [0, 1, 2, 0], "feature_mask": mask.expand(4, 18)}
    values, delta = NoiseTunnel(method).attribute(rows, nt_samples=3, stdevs=0.0, return_convergence_delta=True, **asked)
    torch.testing.assert_close(values, plain, atol=1e-5, rtol=1e-4)
    assert delta.shape == (12,)
    noisy = NoiseTunnel(method).attribute(rows, nt_type="vargrad", nt_samples=3, nt_samples_batch_size=2, stdevs=0.1, **asked)
    assert noisy.shape == rows.shape
    assert (noisy > -1e-4).all()
    assert NoiseTunnel(method).multiplies_by_inputs
    layered = NoiseTunnel(LayerExact(mlp, mlp[1])).attribute(
        rows, nt_samples=2, stdevs=0.0, target=1, feature_mask=torch.arange(64).reshape(1, 64) // 16
    )
    assert layered.shape == (4, 64)


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
    with pytest.raises(AttributeError, match="no attribute 'kaptum'"):
        dasp.kaptum  # type: ignore[attr-defined] # noqa: B018


def test_arguments_of_other_methods_are_refused_by_name() -> None:
    from captum.attr import NoiseTunnel

    from dasp.captum import Propagation

    model, x = torch.nn.Linear(3, 2), torch.ones(2, 3)
    for attribution in (Propagation(model), NoiseTunnel(Propagation(model))):
        with pytest.raises(dasp.InputTypeError, match=r"n_steps= belongs to other methods.*Propagation\(model, nodes=8\)"):
            attribution.attribute(x, target=1, n_steps=25)
