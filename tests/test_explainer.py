"""The front door: what it accepts, what it leaves alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import dasp

METHODS = [dasp.Exact(), dasp.PermutationSampling(permutations=4), dasp.Propagation()]


def names_of(method: dasp.Estimator) -> str:
    return type(method).__name__


def small_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))


X = torch.randn(3, 4, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("method", METHODS, ids=names_of)
def test_a_model_in_train_mode_is_explained_in_eval_mode_and_left_as_it_was(method: dasp.Estimator) -> None:
    net = small_net().train()
    net[1].eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    modes = [m.training for m in net.modules()]
    found = dasp.Explainer(net, 0.0, method=method)(X, 0)
    assert [m.training for m in net.modules()] == modes
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
    again = dasp.Explainer(net.eval(), 0.0, method=method)(X, 0)
    assert torch.equal(found.per_player, again.per_player)
    assert torch.allclose(found.output, net(X)[:, 0])


@pytest.mark.parametrize("method", METHODS, ids=names_of)
def test_grad_modes_do_not_matter(method: dasp.Estimator) -> None:
    net = small_net().eval()
    plain = dasp.Explainer(net, 0.0, method=method)(X, 1)
    with torch.no_grad():
        quiet = dasp.Explainer(net, 0.0, method=method)(X, 1)
    with torch.inference_mode():
        made_here = X + 0
        inference = dasp.Explainer(net, torch.zeros(4), method=method)(made_here, 1)
    with_grad = dasp.Explainer(net, 0.0, method=method)(X.clone().requires_grad_(), 1)
    for found in (quiet, inference, with_grad):
        assert torch.equal(found.per_player, plain.per_player)
        assert not found.per_player.requires_grad
        assert not found.per_player.is_inference()
        assert not found.inputs[0].is_inference()


@pytest.mark.parametrize("method", METHODS, ids=names_of)
def test_no_difference_to_the_baseline_gives_zeros(method: dasp.Estimator) -> None:
    found = dasp.Explainer(small_net(), X[0], method=method)(X[:1].repeat(2, 1), [0, 1])
    assert found.per_player.tolist() == torch.zeros(2, 2, 4).tolist()
    assert found.gap.tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert torch.equal(found.base_value, found.output)


def test_baselines_of_every_form_agree() -> None:
    net, base = small_net(), torch.tensor([0.5, 0.5, 0.5, 0.5])
    forms: list[Any] = [0.5, np.float32(0.5), torch.tensor(0.5), base, base.unsqueeze(0), base.expand(3, 4)]
    forms += [base.numpy().astype("float64"), (base,), np.array(0.5), np.full((3, 4), 0.5)]
    values = [dasp.Explainer(net, form, method=dasp.Exact())(X, 0).per_player for form in forms]
    assert all(torch.equal(value, values[0]) for value in values)


def test_one_baseline_per_row() -> None:
    net = nn.Linear(4, 1)
    baselines = torch.randn(3, 4)
    found = dasp.Explainer(net, dasp.PerRow(baselines), method=dasp.Exact())(X)
    assert torch.allclose(found.per_player[:, 0], net.weight * (X - baselines), atol=1e-6)
    assert torch.allclose(found.base_value, net(baselines)[:, 0])


class Gated(nn.Module):
    """A network of numbers, of which truth values switch some off."""

    def __init__(self) -> None:
        super().__init__()
        self.net = small_net().eval()

    def forward(self, x: Tensor, on: Tensor) -> Tensor:
        result: Tensor = self.net(x * torch.cat((on, ~on[:, :1]), 1))
        return result


@pytest.mark.parametrize("behind", [0.0, 1, (X[:2], torch.tensor([[True, False, True], [False, False, False]]))])
def test_truth_values_are_explained_like_numbers(behind: Any) -> None:
    inputs = X, torch.tensor([[True, False, True], [True, True, True], [False, False, True]])
    options: dict[str, Any] = {"players": (torch.tensor([0, 1, 2, 2]), torch.tensor([3, 3, 4]))}
    model = dasp.Model(Gated())
    truth = dasp.Explainer(model, behind, method=dasp.Exact(), **options)(inputs, 1)
    for method, most in ((dasp.Propagation(), 0.05), (dasp.Propagation(rank=2), 0.4), (dasp.Regression(budget=32), 1e-6)):
        found = dasp.Explainer(model, behind, method=method, **options)(inputs, 1)
        assert (found.per_player - truth.per_player).norm() < most * truth.per_player.norm()
    for number, message in ((0.5, "Give a whole number"), (2, "beyond the range")):
        with pytest.raises(dasp.InputError, match=message):
            dasp.Explainer(model, (0.0, number), **options)(inputs, 1)


def test_numpy_inputs_are_converted_to_the_model() -> None:
    net = small_net()
    explainer = dasp.Explainer(net, 0.0, method=dasp.Exact())
    assert torch.equal(explainer(X.numpy().astype("float64"), 0).per_player, explainer(X, 0).per_player)
    mask = np.array([0, 0, 1, 2])
    grouped = dasp.Explainer(net, 0.0, method=dasp.Exact(), players=mask)(X.numpy()[:, ::-1], 0)
    assert grouped.per_player.shape == (3, 1, 3)
    assert torch.equal(grouped.inputs[0], X.flip(1))


def test_additional_arguments_are_not_explained_and_go_along_with_their_row() -> None:
    class Gated(nn.Module):
        def forward(self, x: Tensor, gate: Tensor, power: int) -> Tensor:
            return x.sum(-1) * gate**power

    explainer = dasp.Explainer(Gated(), 0.0, method=dasp.Exact())
    gate = torch.tensor([1.0, 2.0, 3.0])
    found = explainer(X, additional_forward_args=(gate, 2))
    assert torch.allclose(found.per_player[:, 0], X * gate.square().unsqueeze(1), atol=1e-6)
    alone = explainer(X[1:2], additional_forward_args=(gate[1:2], 2))
    assert torch.allclose(alone.per_player[0], found.per_player[1])


def test_a_single_further_argument_needs_no_tuple() -> None:
    class Shifted(nn.Module):
        def forward(self, x: Tensor, shift: Tensor) -> Tensor:
            return (x + shift).square().sum(-1)

    found = dasp.Explainer(Shifted(), 0.0, method=dasp.Exact())(X, additional_forward_args=torch.ones(3, 4))
    assert torch.allclose(found.per_player[:, 0], (X + 1).square() - 1, atol=1e-6)


def test_a_row_without_axes() -> None:
    class Square(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.square()

    found = dasp.Explainer(Square(), 1.0, method=dasp.Exact())(torch.tensor([2.0, 3.0]))
    assert found.per_player.tolist() == [[[3.0]], [[8.0]]]
    assert isinstance(found.values, Tensor)
    assert found.values.shape == (2,)
    assert found.player_names == ("x[]",)


def test_double_models_keep_double() -> None:
    found = dasp.Explainer(small_net().double(), 0.0, method=dasp.Exact())(X.double(), 0)
    assert {found.per_player.dtype, found.output.dtype, found.gap.dtype} == {torch.float64}


def test_inputs_and_baseline_are_not_written_to() -> None:
    class Rude(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mul_(2).sum(-1)

    x, base = X.clone(), torch.ones(4)
    found = dasp.Explainer(Rude(), base, method=dasp.Exact())(x)
    assert torch.equal(x, X)
    assert torch.equal(base, torch.ones(4))
    assert torch.allclose(found.per_player[:, 0], 2 * (X - 1), atol=1e-6)


def test_check_lists_the_operations_that_meet_random_values() -> None:
    support = dasp.Explainer(small_net()).check(X)
    found = {op.op: op.support for op in support}
    assert found["aten.relu.default"] is dasp.Support.EXACT
    assert all(op.layer for op in support)


def test_default_method_is_propagation() -> None:
    assert dasp.Explainer(small_net()).method == dasp.Propagation()


class Kernel(nn.Module):
    """Weights that fall with the square of a distance, of which a Gaussian knows that it may be negative."""

    def forward(self, x: Tensor) -> Tensor:
        z = x.reshape(-1, 4, 2)
        near = (-(z.unsqueeze(1) - z.unsqueeze(2)).square().sum(-1)).exp()
        return (near / near.sum(-1, keepdim=True) @ z).sum((1, 2)).unsqueeze(1)


def test_values_that_do_not_add_up_are_said_to_be_far_off() -> None:
    x = 0.9 * torch.randn(3, 8, generator=torch.Generator().manual_seed(1))
    explainer = dasp.Explainer(Kernel(), 0.0, method=dasp.Propagation(mixture=0))
    with pytest.warns(dasp.CompletenessWarning, match=r"do not add up .*see result.audit\(\), and take method=dasp.Refine"):
        result = explainer(x)
    found = result.audit(200)
    exact = dasp.Explainer(Kernel(), 0.0, method=dasp.Exact())(x).per_player.double()
    wrong = (result.per_player.double() - exact).norm(dim=-1) / exact.norm(dim=-1)
    assert (found.relative_error[wrong > 10] > 3).all()


def test_progress_is_shown_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    for method in (dasp.Exact(), dasp.PermutationSampling(permutations=4)):
        explainer = dasp.Explainer(small_net(), 0.0, method=method)
        result = explainer(X, 0)
        assert capsys.readouterr().err == ""
        explainer(X, 0, progress=True)
        assert "100%" in capsys.readouterr().err
        result.audit(100, progress=True)
        assert "100%" in capsys.readouterr().err


@pytest.mark.parametrize("method", METHODS[:2], ids=names_of)
def test_an_interrupt_passes_through_and_the_model_is_put_back(method: dasp.Estimator) -> None:
    calls = 0

    class Interrupted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = small_net()

        def forward(self, x: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            if calls == 5:
                raise KeyboardInterrupt
            y: Tensor = self.inner(x)
            return y

    net = Interrupted().train()
    with pytest.raises(KeyboardInterrupt):
        dasp.Explainer(net, 0.0, method=method)(X, 0)
    assert calls == 5
    assert all(m.training for m in net.modules())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("method", METHODS, ids=names_of)
def test_everything_stays_on_the_models_device(method: dasp.Estimator) -> None:
    net = small_net().double().eval()
    here = dasp.Explainer(net, 0.0, method=method)(X.double(), torch.tensor([0, 1, 2]))
    there = dasp.Explainer(net.cuda(), 0.0, method=method)(X.double().cuda(), torch.tensor([0, 1, 2]))
    assert {there.per_player.device.type, there.output.device.type, there.gap.device.type} == {"cuda"}
    assert torch.allclose(here.per_player, there.per_player.cpu())
    assert there.audit(100).high.device.type == "cuda"


def test_moments_that_lost_the_network_are_refused() -> None:
    x = 2.5 * torch.randn(3, 8, generator=torch.Generator().manual_seed(1))
    with pytest.raises(dasp.NumericsError, match=r"the moments have lost the network|not finite"):
        dasp.Explainer(Kernel(), 0.0)(x)
