"""Layers in dasp.captum: values of inner activations, against enumeration by hand and the explainer on what stands behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from captum.attr import LayerAttribution, LayerIntegratedGradients
from captum.attr import visualization as viz
from torch import Tensor, nn

import dasp
from dasp.captum import LayerExact, LayerPermutationSampling, LayerPropagation

from . import explained_networks as networks
from .explained_networks import enumerated


@pytest.fixture(scope="module")
def mlp() -> nn.Module:
    return networks.mlp()


@pytest.fixture(scope="module")
def rows() -> Tensor:
    return networks.table()


def test_text_tutorial() -> None:
    """The tutorial on IMDB, which explains the embedding layer; every element of it is a player there."""
    model, ids, reference = networks.text()
    values, delta = LayerPropagation(model, model.embedding).attribute(ids, reference, target=1, return_convergence_delta=True)
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


def test_question_answering_tutorial() -> None:
    """The tutorial on BERT: a function calls the model, and gets further arguments, tensors and numbers."""
    model, ids, reference = networks.text()
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


def test_a_convolution_is_scaled_up_to_the_image() -> None:
    model, images, labels = networks.digits()
    method = LayerPropagation(model, model.conv2)
    values, delta = method.attribute(images, target=labels, feature_mask=dasp.players.pixels(), return_convergence_delta=True)
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


def test_masks_of_activations_may_differ_by_row(mlp: nn.Module, rows: Tensor) -> None:
    groups = torch.stack([torch.arange(64) // 16, torch.arange(64) // 32, torch.arange(64) // 16, torch.arange(64) % 3])
    method = LayerExact(mlp, mlp[1])
    values, delta = method.attribute(rows, 0.5, [0, 1, 2, 1], feature_mask=groups, return_convergence_delta=True)
    for i, target in enumerate((0, 1, 2, 1)):
        alone = method.attribute(rows[i : i + 1], 0.5, target, feature_mask=groups[i])
        torch.testing.assert_close(values[i : i + 1], alone, atol=1e-5, rtol=1e-4)
    assert delta.abs().max() < 1e-4


class Odd(nn.Module):
    """Layers that cannot be explained."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.never, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 1)
        self.lstm, self.gru = nn.LSTM(4, 4, batch_first=True), nn.GRU(4, 4, batch_first=True)
        self.turned, self.seen = nn.Identity(), nn.Identity()

    def forward(self, x: Tensor) -> Any:
        h = self.twice(torch.relu(self.twice(x))).unsqueeze(1).expand(-1, len(x) * 0 + 3, -1)
        h = self.turned(h.transpose(0, 1)).transpose(0, 1)
        return self.last(self.seen(self.gru(self.lstm(h)[0])[0])[:, -1])


def test_layers_that_cannot_be_explained_are_refused() -> None:
    model = Odd()
    for layer, said in (
        (model.twice, "called 2 times"),
        (model.never, "is not called"),
        (model.lstm, r"LSTM gives tuple.*through a torch\.nn\.Identity of the network"),
        (model.gru, r"\(1, 3, 4\).*turns its steps, not its states.*through a torch\.nn\.Identity of the network"),
        (model.turned, "first axis must be the rows"),  # 3 steps, as many as rows
    ):
        with pytest.raises((dasp.InputError, dasp.InputTypeError), match=said):
            LayerExact(model, layer).attribute(torch.randn(3, 4))
    with pytest.raises(dasp.InputTypeError, match="layer: expected a module"):
        LayerExact(model, "last")  # type: ignore[arg-type]
    steps = torch.arange(3).reshape(1, 3, 1)  # the way out that is named
    assert LayerExact(model, model.seen).attribute(torch.randn(3, 4), feature_mask=steps).shape == (3, 3, 4)
    assert LayerExact(model, model.last).attribute(torch.randn(3, 4), attribute_to_layer_input=True).shape == (3, 4)
