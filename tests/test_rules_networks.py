"""Layers and functions as people write them, through `torch.export` and propagation, against exact Shapley values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dasp
from dasp.model import Model

PLAYERS = 8
EVEN = torch.arange(PLAYERS) % 2 == 0
STEPS = torch.arange(12, dtype=torch.float64).reshape(4, 3) / 10


class Around(nn.Module):
    """`part` between a dense layer that mixes all players and a small smooth head."""

    def __init__(self, part: Callable[[Tensor], Tensor], shape: tuple[int, ...] = (PLAYERS,)) -> None:
        super().__init__()
        self.mix = nn.Linear(PLAYERS, PLAYERS)
        self.part = part
        self.shape = shape
        with torch.no_grad():
            width = part(torch.zeros(2, *shape)).flatten(1).shape[1]
        self.head = nn.Sequential(nn.Linear(width, 5), nn.Tanh(), nn.Linear(5, 1))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.part(self.mix(x).reshape(-1, *self.shape)).flatten(1))
        return result


class First(Around):
    """`part` on the input itself, where every element still has one player."""

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.part(x.reshape(-1, *self.shape)).flatten(1))
        return result


@pytest.fixture(autouse=True)
def _float64() -> Any:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(before)


def compare(module: nn.Module, tolerance: float, gap: float = 0.02, shape: tuple[int, ...] = (PLAYERS,)) -> None:
    """Propagation within `tolerance` of the exact values in L2 norm, and complete up to `gap`."""
    model = Model(randomised(module).eval())
    x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(3))
    exact = dasp.Explainer(model, 0.1, method=dasp.Exact())(x).values
    method = dasp.Propagation(nodes=8, rule="legendre", rank="full")
    found = dasp.Explainer(model, 0.1, method=method)(x)
    assert isinstance(exact, Tensor)
    assert isinstance(found.values, Tensor)
    error = (found.values - exact).norm() / exact.norm()
    assert error <= tolerance, f"relative error {float(error):.2g}"
    assert found.gap.abs().max() <= gap


def randomised(module: nn.Module) -> nn.Module:
    """Running statistics that are not 0 and 1."""
    for name, buffer in module.named_buffers():
        if "running" in name:
            buffer.copy_(torch.rand_like(buffer) + 0.5)
    return module


def assigned(x: Tensor) -> Tensor:
    x = x.clone()
    x[:, 2] = 0.5
    x[:, 3:5] = x[:, 5:7]
    return x


def in_place(x: Tensor) -> Tensor:
    x = x.clone()
    x += 1
    x *= 2
    return x.sigmoid_()


def convolved(layer: nn.Module, *shape: int) -> tuple[nn.Module, tuple[int, ...]]:
    with torch.no_grad():
        width = layer(torch.zeros(2, *shape)).flatten(1).shape[1]
    return nn.Sequential(layer, nn.ReLU(), nn.Flatten(), nn.Linear(width, 1)), shape


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (lambda: nn.Conv1d(1, 2, 3, padding="same"), (1, 8)),
        (lambda: nn.Conv1d(1, 2, 3, padding=1, padding_mode="circular"), (1, 8)),
        (lambda: nn.Conv2d(1, 2, 3, padding=1, padding_mode="reflect"), (1, 3, 3)),
        (lambda: nn.Conv2d(2, 4, 2, groups=2, dilation=(1, 2)), (2, 2, 3)),
        (lambda: nn.Conv3d(1, 2, 2, padding=1), (1, 2, 2, 2)),
        (lambda: nn.ConvTranspose1d(2, 2, 3, stride=2, padding=1, output_padding=1, groups=2), (2, 4)),
        (lambda: nn.ConvTranspose2d(1, 2, 2, stride=2), (1, 3, 3)),
        (lambda: nn.ConvTranspose3d(1, 1, 2), (1, 2, 2, 2)),
    ],
)
def test_convolutions(layer: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    module, shape = convolved(layer(), *shape)
    compare(module, 0.07, shape=shape)


POOLS: list[tuple[Callable[[], nn.Module], tuple[int, ...], float]] = [
    (lambda: nn.MaxPool1d(3, 2, ceil_mode=True), (1, 8), 0.1),
    (lambda: nn.MaxPool1d(2, 1, dilation=2), (1, 8), 0.1),
    (lambda: nn.MaxPool2d(2, padding=1), (1, 2, 4), 0.1),
    (lambda: nn.MaxPool3d(2), (1, 2, 2, 2), 0.25),
    (lambda: nn.AdaptiveMaxPool1d(3), (1, 8), 0.2),
    (lambda: nn.AdaptiveMaxPool2d((1, 3)), (1, 2, 4), 0.25),
    (lambda: nn.AdaptiveMaxPool3d((1, 2, 2)), (1, 2, 2, 2), 0.2),
    (lambda: nn.AvgPool1d(3, 2, padding=1, count_include_pad=False), (1, 8), 0.01),
    (lambda: nn.AvgPool2d((2, 3), ceil_mode=True), (1, 2, 4), 0.01),
    (lambda: nn.AvgPool2d(2, 1, padding=1, divisor_override=3), (1, 2, 4), 0.01),
    (lambda: nn.AvgPool3d(2, padding=1), (1, 2, 2, 2), 0.01),
    (lambda: nn.AdaptiveAvgPool1d(3), (1, 8), 0.01),
    (lambda: nn.AdaptiveAvgPool2d((None, 3)), (1, 2, 4), 0.01),
    (lambda: nn.AdaptiveAvgPool2d(1), (2, 2, 2), 0.01),
    (lambda: nn.AdaptiveAvgPool3d((1, 2, 2)), (1, 2, 2, 2), 0.01),
]


@pytest.mark.parametrize(("layer", "shape", "tolerance"), POOLS, ids=[str(p[0]()) for p in POOLS])
def test_pools(layer: Callable[[], nn.Module], shape: tuple[int, ...], tolerance: float) -> None:
    compare(Around(layer(), shape), tolerance, gap=0.1)


LAYERS: list[tuple[nn.Module, tuple[int, ...], float]] = [
    (nn.ReLU(), (8,), 0.08),
    (nn.LeakyReLU(), (8,), 0.06),
    (nn.PReLU(), (8,), 0.06),
    (nn.ReLU6(), (8,), 0.06),
    (nn.ELU(), (8,), 0.02),
    (nn.SELU(), (8,), 0.02),
    (nn.GELU(), (8,), 0.02),
    (nn.GELU("tanh"), (8,), 0.02),
    (nn.SiLU(), (8,), 0.02),
    (nn.Mish(), (8,), 0.02),
    (nn.Hardswish(), (8,), 0.02),
    (nn.Sigmoid(), (8,), 0.01),
    (nn.Hardsigmoid(), (8,), 0.01),
    (nn.Tanh(), (8,), 0.01),
    (nn.Hardtanh(-0.5, 0.7), (8,), 0.05),
    (nn.Softplus(), (8,), 0.01),
    (nn.LogSigmoid(), (8,), 0.01),
    (nn.GLU(), (8,), 0.02),
    (nn.Identity(), (8,), 0.01),
    (nn.Sequential(nn.Dropout(), nn.Dropout1d(), nn.AlphaDropout()), (1, 8), 0.01),
    (nn.BatchNorm1d(8), (8,), 0.01),
    (nn.BatchNorm1d(2, affine=False), (2, 4), 0.01),
    (nn.BatchNorm2d(2), (2, 2, 2), 0.01),
    (nn.BatchNorm3d(1), (1, 2, 2, 2), 0.01),
    (nn.PixelShuffle(2), (4, 1, 2), 0.01),
    (nn.ChannelShuffle(2), (4, 2, 1), 0.01),
    (nn.Upsample(scale_factor=2), (1, 8), 0.01),
    (nn.Upsample(size=(3, 5)), (1, 2, 4), 0.01),
    (nn.Upsample(scale_factor=2), (1, 2, 2, 2), 0.01),
    (nn.Unfold(2), (1, 2, 4), 0.01),
    (nn.ReflectionPad1d((1, 2)), (1, 8), 0.01),
    (nn.ReplicationPad2d(1), (1, 2, 4), 0.01),
    (nn.ConstantPad1d((1, 2), 0.7), (1, 8), 0.01),
    (nn.CircularPad1d((1, 2)), (1, 8), 0.01),
    (nn.Softmax(1), (8,), 0.1),
    (nn.LogSoftmax(1), (8,), 0.03),
]


@pytest.mark.parametrize(("layer", "shape", "tolerance"), LAYERS, ids=[str(p[0]) for p in LAYERS])
def test_layers(layer: nn.Module, shape: tuple[int, ...], tolerance: float) -> None:
    compare(Around(layer.double().eval(), shape), tolerance)


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "stack": lambda x: torch.stack([x, 2 * x], 1),
    "cat": lambda x: torch.cat([x, torch.tanh(x)], 1),
    "cat with known": lambda x: torch.cat([x, torch.zeros_like(x), x.new_ones(x.shape[0], 1)], 1),
    "chunk": lambda x: torch.cat(x.chunk(3, 1)[::-1], 1),
    "split": lambda x: torch.cat([part.tanh() for part in x.split([3, 5], 1)], 1),
    "unbind": lambda x: torch.stack([part.tanh() for part in x.unbind(1)], 1),
    "product of branches": lambda x: torch.sigmoid(x) * torch.tanh(x),
    "residual": lambda x: x + torch.tanh(x),
    "weighted residual": lambda x: torch.add(x, torch.tanh(x), alpha=0.3),
    "x * x": lambda x: x * x,
    "x ** 2": lambda x: x**2,
    "x + x": lambda x: x + x,
    "x - x": lambda x: x - x + torch.tanh(x),
    "x / 3": lambda x: x / 3,
    "1 - x": lambda x: 1 - x,
    "-x": lambda x: -x,
    "clamp": lambda x: x.clamp(-0.3, 0.6),
    "clamp from below": lambda x: x.clamp(min=0.1),
    "abs": torch.abs,
    "flatten": lambda x: x.unflatten(1, (2, 4)).flatten(1),
    "expand": lambda x: x.unsqueeze(1).expand(-1, 3, -1),
    "repeat": lambda x: x.repeat(1, 2),
    "roll": lambda x: x.roll(2, 1),
    "flip": lambda x: x.flip(1),
    "index": lambda x: x[:, torch.tensor([3, 1, 1])],
    "slices": lambda x: x[:, 1::2],
    "transpose": lambda x: x.reshape(-1, 2, 4).transpose(1, 2),
    "batch axis last": lambda x: (x.T * 2).T.tanh(),
    "batch folded": lambda x: x.reshape(-1, 4).tanh().reshape(-1, 8),
    "mean": lambda x: x.reshape(-1, 2, 4).mean((1, 2)).unsqueeze(1),
    "sum": lambda x: x - x.sum(1, keepdim=True) / 8,
    "cumsum": lambda x: x.cumsum(1) / 4,
    "where": lambda x: torch.where(EVEN, x, 0.5),
    "where of two": lambda x: torch.where(EVEN, x, -x),
    "masked fill": lambda x: x.masked_fill(EVEN, 0.3),
    "assignment": assigned,
    "in place": in_place,
    "matmul from the left": lambda x: torch.matmul(torch.ones(3, 2) / 3, x.reshape(-1, 2, 4)),
    "einsum": lambda x: torch.einsum("bij,jk->bik", x.reshape(-1, 2, 4), STEPS),
    "addmm": lambda x: torch.addmm(torch.ones(3), x, torch.ones(8, 3) / 8),
    "one times many": lambda x: x[:, :1] * x,
    "one plus constants": lambda x: x[:, :1] + torch.arange(3.0),
    "dot product": lambda x: (x[:, :4] * x[:, 4:]).sum(1, keepdim=True) / 4,
    "unfold": lambda x: x.unfold(1, 3, 2),
    "pad": lambda x: F.pad(x, (1, -2), value=0.3),
    "masked softmax": lambda x: x.masked_fill(EVEN, -torch.inf).softmax(1),
}
FIRST = (
    "cat with known", "split", "x * x", "x - x", "abs", "expand", "flip", "index", "transpose", "batch folded", "where",
    "masked fill", "assignment", "matmul from the left", "one times many", "unfold", "pad",
)  # fmt: skip
HARDER = {"clamp": 0.12, "clamp from below": 0.12, "abs": 0.1, "masked softmax": 0.12, "dot product": 0.06}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name: str) -> None:
    compare(Around(FUNCTIONS[name]), HARDER.get(name, 0.04))


@pytest.mark.parametrize("name", FIRST)
def test_functions_of_the_input_itself(name: str) -> None:
    compare(First(FUNCTIONS[name]), HARDER.get(name, 0.04))


class Unknown(nn.Module):
    """Two operations without rules, in two named layers."""

    class Sorted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.sort(x, 1).values

    class Multiplied(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cumprod(x, 1)

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.ModuleDict({"ranks": self.Sorted()})
        self.gate = self.Multiplied()
        self.mix = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.gate(self.encoder["ranks"](torch.relu(self.mix(x)))).sum(1)


def test_operations_without_a_rule_are_all_refused_at_once_by_name_and_layer() -> None:
    explainer = dasp.Explainer(Unknown(), 0.0, method=dasp.Propagation())
    with pytest.raises(dasp.MissingRuleError) as caught:
        explainer(torch.ones(1, 4))
    message = str(caught.value)
    assert "aten.sort.default (layer encoder.ranks)" in message
    assert "aten.cumprod.default (layer gate)" in message
    assert "dasp.Exact()" in message
    support = {(s.op, s.layer): s.support for s in explainer.check(torch.ones(1, 4))}
    assert support["aten.sort.default", "encoder.ranks"] is dasp.Support.MISSING
    assert support["aten.linear.default", "mix"] is dasp.Support.EXACT
    assert support["aten.relu.default", "Unknown"] is dasp.Support.EXACT


REFUSED: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "as_strided": (lambda x: x.as_strided((2, 2), (2, 1)), "as_strided"),  # what it reads depends on memory layout
    "rounding": (lambda x: x.long() / 2, "_to_copy"),
    "x ** 9": (lambda x: x**9, "pow.Tensor_Scalar"),
    "comparison": (lambda x: x * (x > 0), "gt.Scalar"),
    "choice by value": (lambda x: torch.where(x > 0, x, -x), "gt.Scalar"),
    "argmax": (lambda x: x.argmax(1, keepdim=True) * 1.0, "argmax"),
    "place of a maximum": (lambda x: x.max(1, keepdim=True).indices * 1.0, r"max.dim \(indices\)"),
    "sort": (lambda x: x.sort(1).values, "sort"),
    "topk": (lambda x: x.topk(2, 1).values, "topk"),
    "median": (lambda x: x.median(1, keepdim=True).values, "median"),
    "rounded": (torch.round, "round"),
    "cumprod": (lambda x: x.cumprod(1), "cumprod"),
    "remainder": (lambda x: x % 2, "remainder"),
    "sampling": (lambda x: torch.bernoulli(x.sigmoid(), generator=torch.Generator().manual_seed(0)), "bernoulli|lt.Tensor"),
    "lookup": (lambda x: F.embedding(x.long().clamp(0, 3), torch.ones(4, 2)), "embedding"),
    "complex numbers": (lambda x: torch.view_as_complex(x.reshape(-1, 4, 2)).abs(), "view_as_complex"),
    "norm of order 3": (lambda x: x.norm(p=3, dim=1, keepdim=True), "linalg_vector_norm"),
    "random index": (lambda x: x.gather(1, x.argmax(1, keepdim=True)), "argmax"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_rule_does_not_cover_is_refused(name: str) -> None:
    part, op = REFUSED[name]
    pattern = rf"(?s)no moment rule.*aten\.({op}).*layer|rows of the model .* depend on each other"
    with pytest.raises(dasp.DaspError, match=pattern):
        dasp.Explainer(Around(part), 0.0, method=dasp.Propagation())(torch.ones(2, PLAYERS))


def test_branches_on_values_are_refused() -> None:
    class Branch(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.sum(1) if float(x.sum()) > 0 else -x.sum(1)

    pattern = r"branches or shapes that depend on values|rows of the model .* depend on each other"
    with pytest.raises(dasp.DaspError, match=pattern):
        dasp.Explainer(Branch(), 0.0, method=dasp.Propagation())(torch.ones(2, PLAYERS))


def test_operations_without_a_rule_are_exact_before_players_meet() -> None:
    compare(First(lambda x: torch.expm1(x).reciprocal().clamp(-1, 1) + torch.atan(x).round()), 0.04)
