"""Explaining a model leaves no trace on it, nor on the state of the process, whatever happens on the way."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dasp

METHODS = {
    "full": dasp.Propagation(),
    "diagonal": dasp.Propagation(rank=0, rule="legendre"),
    "subspace": dasp.Propagation(rank=2, rule="legendre"),
    "mixture": dasp.Propagation(mixture=2),
    "exact": dasp.Exact(),
    "sampling": dasp.PermutationSampling(permutations=4),
    "gradients": dasp.VertexGradients(samples=8),
    "regression": dasp.Regression(budget=40),
}


class Bomb(nn.Module):
    """Passes its input on, until it is set to raise after a number of calls."""

    def __init__(self) -> None:
        super().__init__()
        self.left: int | None = None
        self.raises: type[BaseException] = RuntimeError
        self.in_capture = False

    def forward(self, x: Tensor) -> Tensor:
        if self.in_capture and torch.compiler.is_exporting():
            raise self.raises("set to raise")
        if self.left is not None and not torch.compiler.is_exporting():
            self.left -= 1
            if self.left < 0:
                raise self.raises("set to raise")
        return x


def network() -> nn.Sequential:
    """A network with everything that could be disturbed: mixed modes, gradients, frozen weights, hooks."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv1d(1, 3, 2), nn.BatchNorm1d(3), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Flatten(), Bomb(), nn.Linear(9, 2)
    )
    model(torch.randn(8, 1, 4)).sum().backward()
    model[1].eval()
    model[6].weight.requires_grad_(False)
    model[6].register_forward_hook(lambda layer, given, result: result * 2)
    model[0].register_forward_pre_hook(lambda layer, given: None)
    return model


def state(model: nn.Module) -> dict[str, Any]:
    """Everything that a user could find changed."""
    found: dict[str, Any] = {"rng": torch.get_rng_state(), "grad mode": torch.is_grad_enabled()}
    found["threads"] = torch.get_num_threads()
    found["default dtype"] = torch.get_default_dtype()
    found["deterministic"] = torch.are_deterministic_algorithms_enabled()
    for name, layer in model.named_modules():
        found[f"{name} training"] = layer.training
        found[f"{name} hooks"] = [
            list(hooks)
            for hooks in (
                layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks
            )
        ]  # fmt: skip
        found[f"{name} attributes"] = sorted(set(vars(layer)) - {"left", "raises"})
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        found[f"{name} id"] = (id(tensor), tensor.data_ptr(), tensor._version)
        found[f"{name} kind"] = (tensor.dtype, tensor.device, tensor.requires_grad, tensor.is_leaf)
        found[f"{name} value"] = tensor.detach().clone()
        found[f"{name} grad"] = None if tensor.grad is None else (id(tensor.grad), tensor.grad.clone())
    return found


def assert_same(before: Any, after: Any, where: str = "") -> None:
    assert type(before) is type(after), where
    if isinstance(before, dict):
        assert before.keys() == after.keys()
        for key, value in before.items():
            assert_same(value, after[key], key)
    elif isinstance(before, tuple):
        for one, other in zip(before, after, strict=True):
            assert_same(one, other, where)
    elif isinstance(before, Tensor):
        assert torch.equal(before, after), where
    else:
        assert before == after, where


X = torch.randn(3, 1, 4, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", METHODS)
def test_nothing_is_left_behind(name: str) -> None:
    model, x, baseline = network(), X.clone().requires_grad_(), torch.full((1, 4), 0.1)
    before = state(model)
    result = dasp.Explainer(model, baseline, method=METHODS[name])(x, 1)
    assert_same(before, state(model))
    assert x.requires_grad
    assert x.grad is None
    assert torch.equal(x, X)
    assert torch.equal(baseline, torch.full((1, 4), 0.1))
    assert isinstance(result.values, Tensor)
    assert not result.values.requires_grad


def test_auditing_and_checking_leave_nothing_behind() -> None:
    model = network()
    explainer = dasp.Explainer(model)
    before = state(model)
    explainer(X, 1).audit(evaluations=60)
    explainer.check(X)
    assert_same(before, state(model))


@pytest.mark.parametrize("raises", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("name", METHODS)
def test_nothing_is_left_behind_by_a_failure_in_any_call(name: str, raises: type[BaseException]) -> None:
    model = network()
    bomb: Any = model[5]
    explainer = dasp.Explainer(model, method=METHODS[name])
    bomb.left = 10**9
    explainer(X, 1)
    total = 10**9 - bomb.left
    assert total >= 3
    for call in sorted({0, 1, total // 2, total - 1}):
        bomb.left, bomb.raises = call, raises
        before = state(model)
        with pytest.raises(KeyboardInterrupt if raises is KeyboardInterrupt else dasp.InputError, match="set to raise"):
            explainer(X, 1)
        assert_same(before, state(model))
    bomb.left = None
    assert explainer(X, 1).values.isfinite().all()


@pytest.mark.parametrize("raises", [RuntimeError, KeyboardInterrupt])
def test_nothing_is_left_behind_by_a_failure_inside_propagation(
    raises: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise raises("set to raise")

    model = network()
    explainer = dasp.Explainer(model)
    explainer(X, 1)
    before = state(model)
    monkeypatch.setattr("dasp.estimators.propagation.propagate", fail)
    with pytest.raises(raises, match="set to raise"):
        explainer(X, 1)
    assert_same(before, state(model))


@pytest.mark.parametrize("raises", [RuntimeError, KeyboardInterrupt])
def test_nothing_is_left_behind_by_a_failure_inside_capture(raises: type[BaseException]) -> None:
    model = network()
    bomb: Any = model[5]
    bomb.raises, bomb.in_capture = raises, True
    before = state(model)
    with pytest.raises(KeyboardInterrupt if raises is KeyboardInterrupt else dasp.CaptureError, match="set to raise"):
        dasp.Explainer(model)(X, 1)
    assert_same(before, state(model))
    bomb.in_capture = False
    assert dasp.Explainer(model)(X, 1).values.isfinite().all()
