"""Every activation against dense quadrature in float64, finite differences and Monte Carlo: a line each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional as F

import dasp
from dasp.errors import MissingRuleError
from dasp.rules import activations
from dasp.special import Moments

DOUBLE = torch.float64


@dataclass(frozen=True)
class Case:
    """A moment function, the function it is about, its parameters, its kinks."""

    name: str
    function: Callable[..., Tensor]
    parameters: dict[str, Any] = field(default_factory=dict)
    kinks: tuple[float, ...] = ()

    def moments(self, m: Tensor, v: Tensor) -> Moments:
        result: Moments = getattr(activations, self.name)(m, v, **self.parameters)
        return result

    def __str__(self) -> str:
        return "-".join([self.name, *(f"{k}={v}" for k, v in self.parameters.items() if not isinstance(v, Tensor))])


SELU = {"alpha": 1.6732632423543772, "scale": 1.0507009873554805}
CASES = [
    Case("relu", F.relu, kinks=(0.0,)),
    Case("leaky_relu", F.leaky_relu, kinks=(0.0,)),
    Case("leaky_relu", lambda x: F.leaky_relu(x, 0.3), {"negative_slope": 0.3}, kinks=(0.0,)),
    Case("leaky_relu", lambda x: F.leaky_relu(x, -0.5), {"negative_slope": -0.5}, kinks=(0.0,)),
    Case("prelu", lambda x: F.leaky_relu(x, 0.25), {"weight": torch.tensor(0.25, dtype=DOUBLE)}, kinks=(0.0,)),
    Case("absolute", torch.abs, kinks=(0.0,)),
    Case("relu6", F.relu6, kinks=(0.0, 6.0)),
    Case("hardtanh", F.hardtanh, kinks=(-1.0, 1.0)),
    Case("hardtanh", lambda x: F.hardtanh(x, -0.5, 2.0), {"min_val": -0.5, "max_val": 2.0}, kinks=(-0.5, 2.0)),
    Case("clamp", lambda x: x.clamp(-1, 0.5), {"min": -1, "max": 0.5}, kinks=(-1.0, 0.5)),
    Case("clamp", lambda x: x.clamp(min=0.5), {"min": 0.5}, kinks=(0.5,)),
    Case("clamp", lambda x: x.clamp(max=-0.5), {"max": -0.5}, kinks=(-0.5,)),
    Case("clamp_min", lambda x: x.clamp(min=1.0), {"min": 1.0}, kinks=(1.0,)),
    Case("clamp_max", lambda x: x.clamp(max=1.0), {"max": 1.0}, kinks=(1.0,)),
    Case("hardsigmoid", lambda x: (x + 3).clamp(0, 6) / 6, kinks=(-3.0, 3.0)),
    Case("hardswish", F.hardswish, kinks=(-3.0, 3.0)),
    Case("elu", F.elu, kinks=(0.0,)),
    Case("elu", F.selu, SELU, kinks=(0.0,)),
    Case("elu", lambda x: F.celu(x, 2.0), {"alpha": 2.0, "input_scale": 0.5}, kinks=(0.0,)),
    Case("gelu", F.gelu),
    Case("gelu", lambda x: F.gelu(x, approximate="tanh"), {"approximate": "tanh"}),
    Case("silu", F.silu),
    Case("mish", F.mish),
    Case("sigmoid", torch.sigmoid),
    Case("tanh", torch.tanh),
    Case("erf", torch.erf),
    Case("softplus", lambda x: F.softplus(x, threshold=60)),
    Case("softplus", lambda x: F.softplus(x, 2.0, threshold=60), {"beta": 2.0}),
    Case("log_sigmoid", F.logsigmoid),
    Case("sin", torch.sin),
    Case("cos", torch.cos),
]
KINKED = [case for case in CASES if case.kinks]
SMOOTH = [case for case in CASES if not case.kinks]
BENT = [case for case in SMOOTH if case.name not in {"sin", "cos"}]
each = pytest.mark.parametrize("case", CASES, ids=str)

MEANS = (-7.0, -3.2, -1.0, -0.3, 0.0, 0.05, 0.7, 2.9, 5.5, 12.0)


def reference(case: Case, m: float, s: float) -> tuple[float, float, float]:
    """Mean, variance and mean slope by Gauss-Legendre on short pieces split at the kinks, float64, centred at g(m)."""
    edges = np.unique(np.clip([*np.linspace(-9.5, 9.5, 801), *((k - m) / s for k in case.kinks)], -9.5, 9.5))
    nodes, weights = np.polynomial.legendre.leggauss(10)
    half = np.diff(edges)[:, None] / 2
    z = torch.from_numpy((edges[:-1, None] + half + half * nodes).ravel())
    w = torch.from_numpy((half * weights).ravel()) * torch.exp(-z * z / 2)
    w = w / w.sum()
    x = (m + s * z).requires_grad_()
    value = case.function(x)
    (slope,) = torch.autograd.grad(value.sum(), x)
    d = value.detach() - case.function(torch.tensor(m, dtype=DOUBLE))
    mean = float(w @ d)
    return mean + float(case.function(torch.tensor(m, dtype=DOUBLE))), float(w @ (d - mean) ** 2), float(w @ slope)


def grid(s: float, dtype: torch.dtype = DOUBLE) -> tuple[Tensor, Tensor]:
    m = torch.tensor(MEANS, dtype=dtype)
    return m, torch.full_like(m, s * s)


@each
@pytest.mark.parametrize("s", [1e-5, 1e-3, 0.02, 0.3, 1.0, 3.0, 10.0])
def test_moments(case: Case, s: float) -> None:
    found = case.moments(*grid(s))
    truth = torch.tensor([reference(case, m, s) for m in MEANS], dtype=DOUBLE)
    tolerance = 1e-7 if case in KINKED or s != 3 else 5e-6
    scale = truth[:, 1].sqrt()
    assert ((found.mean - truth[:, 0]).abs() <= tolerance * (scale + s) + 1e-14).all()
    # An error that is small beside the variance of the argument does no harm where the function is flat.
    assert ((found.var - truth[:, 1]).abs() <= tolerance * (truth[:, 1] + 1e-2 * min(s, 1.0) ** 2)).all()
    assert ((found.slope - truth[:, 2]).abs() <= tolerance).all()


def wide_reference(case: Case, m: float, s: float) -> list[float]:
    """Mean, variance, slope, d mean/dm, dv, d var/dm, dv, d slope/dm by dense quadrature and the heat equation."""
    edges = np.concatenate((np.linspace(-9.5, 9.5, 801), (np.linspace(-40, 40, 641) - m) / s))
    edges = np.unique(edges[np.abs(edges) <= 9.5])
    nodes, weights = np.polynomial.legendre.leggauss(10)
    half = np.diff(edges)[:, None] / 2
    z = torch.from_numpy((edges[:-1, None] + half + half * nodes).ravel())
    w = torch.from_numpy((half * weights).ravel()) * torch.exp(-z * z / 2)
    w = w / w.sum()
    x = (m + s * z).requires_grad_()
    value = case.function(x)
    (g1,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    g2 = torch.autograd.grad(g1.sum(), x)[0].nan_to_num()  # torch's own overflows for mish, where it is 0
    centre = case.function(torch.tensor(m, dtype=DOUBLE))
    d, g1 = (value - centre).detach(), g1.detach()
    mean, slope, bend = w @ d, w @ g1, w @ g2
    by_m, by_v = 2 * (w @ (d * g1) - mean * slope), w @ (g1**2 + d * g2) - mean * bend
    found = (mean + centre, w @ (d - mean) ** 2, slope, slope, bend / 2, by_m, by_v, bend)
    return [float(t) for t in found]


def with_gradients(case: Case, m: Tensor, v: Tensor) -> Tensor:
    """What `wide_reference` gives, (means, 8), by the moment function and autograd."""
    m, v = m.requires_grad_(), v.requires_grad_()
    found = case.moments(m, v)
    of_mean = torch.autograd.grad(found.mean.sum(), (m, v), retain_graph=True)
    of_var = torch.autograd.grad(found.var.sum(), (m, v), retain_graph=True)
    of_slope = torch.autograd.grad(found.slope.sum(), m)
    return torch.stack((found.mean, found.var, found.slope, *of_mean, *of_var, *of_slope), 1).detach().double()


@pytest.mark.parametrize("case", BENT, ids=str)
@pytest.mark.parametrize("s", [10.0, 30.0, 100.0, 1000.0])
def test_much_wider_than_the_bend_of_the_function(case: Case, s: float) -> None:
    """A rule on points m + s z would step over the bend; means near it, and on the scale of s."""
    means = [-30.0, -4.0, -0.7, 0.0, 1.3, 11.0, 50.0, *(a * s for a in (-4.0, -2.1, -0.6, 0.3, 1.2, 3.0))]
    for dtype, tolerance in ((DOUBLE, 1e-6), (torch.float32, 5e-4)):
        m = torch.tensor(means, dtype=dtype)
        truth = torch.tensor([wide_reference(case, float(a), s) for a in m], dtype=DOUBLE)
        found = with_gradients(case, m, torch.full_like(m, s * s))
        error = (found - truth).abs()
        assert (error[:, 0] <= tolerance * truth[:, 1].sqrt()).all()
        assert (error[:, 1] <= tolerance * truth[:, 1]).all()
        # Slopes and gradients pass through 0: beside the largest of their kind.
        assert (error[:, 2:] <= tolerance * truth[:, 2:].abs().amax(0)).all(), (error / truth.abs().amax(0)).amax(0)


@pytest.mark.parametrize("case", BENT, ids=str)
@pytest.mark.parametrize("wide", [1.5, 2.0, 3.0])
def test_the_two_rules_meet(case: Case, wide: float) -> None:
    """Where the trapezoid rule gives way to that of the asymptotes nothing jumps, in one batch that needs both."""
    m = torch.tensor([-9.0, -3.0, -0.4, 0.0, 0.2, 1.0, 7.0], dtype=DOUBLE).repeat_interleave(2)
    sides = torch.tensor([1 - 1e-12, 1 + 1e-12], dtype=DOUBLE).repeat(7)
    left, right = with_gradients(case, m, (wide * sides).square()).reshape(7, 2, 8).unbind(1)
    assert ((left - right).abs() <= 2e-7 * left.abs().amax(0)).all()
    alone = with_gradients(case, m[::2], (wide * sides[::2]).square())
    assert torch.allclose(alone, left, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("case", [c for c in BENT if c.name in {"tanh", "silu", "softplus"}], ids=str)
def test_gradients_of_wide_arguments_against_finite_differences(case: Case) -> None:
    m = torch.tensor([-31.0, -0.8, 0.1, 22.7], dtype=DOUBLE, requires_grad=True)
    v = torch.tensor([144.0, 0.3, 100.0, 900.0], dtype=DOUBLE, requires_grad=True)
    assert gradcheck(lambda m, v: tuple(vars(case.moments(m, v)).values()), (m, v), atol=1e-7, rtol=1e-5)
    assert gradgradcheck(lambda m, v: tuple(vars(case.moments(m, v)).values()), (m, v), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("activation", [nn.Hardtanh, nn.Tanh, nn.Sigmoid, nn.SiLU, nn.GELU])
def test_network_on_inputs_that_nobody_scaled(activation: type[nn.Module]) -> None:
    """Inputs near 100: a smooth activation is explained as well as one with exact moments (the rest is normality)."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(12, 32), activation(), nn.Linear(32, 1))
    x, baseline = 100 * torch.randn(4, 12), torch.zeros(12)
    truth = dasp.Explainer(network, baseline, method=dasp.Exact())(x).values
    found = dasp.Explainer(network, baseline, method=dasp.Propagation())(x).values
    assert isinstance(truth, Tensor)
    assert isinstance(found, Tensor)
    assert (found - truth).norm() < 0.2 * truth.norm()


@each
@pytest.mark.parametrize("s", [1e-4, 1e-2, 0.3, 1.0, 3.0])
def test_float32(case: Case, s: float) -> None:
    exact, found = case.moments(*grid(s)), case.moments(*grid(s, torch.float32))
    assert found.mean.dtype == found.var.dtype == found.slope.dtype == torch.float32
    assert torch.allclose(found.mean.double(), exact.mean, rtol=1e-5, atol=1e-5 * s)
    # The quadrature evaluates g at points of m's precision, so digits of s beyond m / s are lost.
    lost = 4e-4 + (2e-6 / s if case in SMOOTH else 0.0)
    assert ((found.var.double() - exact.var).abs() <= lost * (exact.var + 1e-3 * s * s)).all()
    assert torch.allclose(found.slope.double(), exact.slope, rtol=1e-4, atol=1e-5)


@each
def test_without_variance_the_function_itself(case: Case) -> None:
    for dtype in (DOUBLE, torch.float32):
        m = torch.tensor([*MEANS, -60.0, 60.0], dtype=dtype, requires_grad=True)
        v = torch.zeros_like(m, requires_grad=True)
        found = case.moments(m, v)
        exact = m.detach().double().requires_grad_()  # torch's float32 functions have lost digits of their own
        value = case.function(exact)
        slope = torch.autograd.grad(value.sum(), exact)[0].to(dtype)
        value = value.detach().to(dtype)
        tolerance = 1e-12 if dtype == DOUBLE else 1e-5
        assert torch.allclose(found.mean, value, rtol=tolerance, atol=tolerance * 1e-2)
        assert (found.var == 0).all()
        away = torch.ones_like(m, dtype=torch.bool)
        for kink in case.kinks:
            away &= m != kink
        assert torch.allclose(found.slope[away], slope[away], rtol=tolerance, atol=tolerance)
        by_mean = torch.autograd.grad(found.mean.sum(), (m, v), retain_graph=True)
        by_var = torch.autograd.grad(found.var.sum(), (m, v), retain_graph=True)
        by_slope = torch.autograd.grad(found.slope.sum(), (m, v), create_graph=True)
        more = torch.autograd.grad(sum(g.sum() for g in by_slope), (m, v), allow_unused=True)
        for grad in (*by_mean, *by_var, *by_slope, *(g for g in more if g is not None)):
            assert grad.isfinite().all()
        assert torch.allclose(by_mean[0][away], slope[away], rtol=tolerance, atol=tolerance)
        assert torch.allclose(by_var[0][away], torch.zeros_like(slope[away]), atol=tolerance)
        assert torch.allclose(by_var[1][away], slope[away] ** 2, rtol=10 * tolerance, atol=tolerance)


@each
def test_gradients_are_finite_for_tiny_variances(case: Case) -> None:
    for dtype in (DOUBLE, torch.float32):
        tiny = torch.finfo(dtype).tiny
        for scale in (tiny, 1e3 * tiny, 1e-30, 1e-20, 1e-12):
            m = torch.tensor([*MEANS, -100.0, 100.0], dtype=dtype, requires_grad=True)
            v = torch.full_like(m, scale, requires_grad=True)
            found = case.moments(m, v)
            for output in (found.mean, found.var):
                assert all(g.isfinite().all() for g in torch.autograd.grad(output.sum(), (m, v), retain_graph=True))


@each
def test_gradients_against_finite_differences(case: Case) -> None:
    m = torch.tensor([-3.1, -0.8, 0.1, 0.9, 2.7, 6.2], dtype=DOUBLE, requires_grad=True)
    v = torch.tensor([0.5, 1.2, 0.3, 0.7, 2.0, 0.4], dtype=DOUBLE, requires_grad=True)
    assert gradcheck(lambda m, v: tuple(vars(case.moments(m, v)).values()), (m, v), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    "case", [c for c in CASES if c.name in {"relu", "hardswish", "elu", "gelu", "mish", "sigmoid", "sin"}], ids=str
)
def test_second_gradients_against_finite_differences(case: Case) -> None:
    m = torch.tensor([-0.8, 0.1, 2.7], dtype=DOUBLE, requires_grad=True)
    v = torch.tensor([1.2, 0.3, 0.7], dtype=DOUBLE, requires_grad=True)
    assert gradgradcheck(lambda m, v: tuple(vars(case.moments(m, v)).values()), (m, v), atol=1e-5, rtol=1e-4)


@each
def test_heat_equation(case: Case) -> None:
    """d E g / d m = E g', d E g / d v = E g'' / 2: the gradient of the mean agrees with the slope and its gradient."""
    m = torch.tensor(MEANS, dtype=DOUBLE, requires_grad=True)
    v = torch.full_like(m, 0.6, requires_grad=True)
    found = case.moments(m, v)
    by_m, by_v = torch.autograd.grad(found.mean.sum(), (m, v), create_graph=True)
    assert torch.allclose(by_m, found.slope, atol=1e-7)
    (curvature,) = torch.autograd.grad(found.slope.sum(), m)
    assert torch.allclose(by_v, curvature / 2, atol=1e-7)


@pytest.mark.parametrize("case", [c for c in CASES if c.name in {"relu", "hardswish", "elu", "gelu", "tanh"}], ids=str)
def test_monte_carlo(case: Case) -> None:
    z = torch.randn(400_000, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    m, s = 0.4, 1.3
    y = case.function(m + s * z)
    found = case.moments(torch.tensor([m], dtype=DOUBLE), torch.tensor([s * s], dtype=DOUBLE))
    error = y.std() / len(z) ** 0.5
    assert abs(found.mean.item() - y.mean()) < 5 * error
    assert found.var.item() == pytest.approx(y.var().item(), rel=0.02)
    assert found.slope.item() == pytest.approx((y * z).mean().item() / s, abs=0.01)  # Stein's lemma


@pytest.mark.parametrize(
    "case",
    [c for c in CASES if c.name in {"relu", "leaky_relu", "absolute", "elu", "hardswish", "gelu", "silu", "softplus"}],
    ids=str,
)
def test_float32_keeps_a_small_variance_beside_a_large_mean(case: Case) -> None:
    found = case.moments(torch.tensor([100.0]), torch.tensor([1e-4]))
    slope = case.parameters.get("scale", 1.0)
    assert found.var.item() == pytest.approx(slope**2 * 1e-4, rel=1e-6 if case.kinks else 1e-3)
    if case.name in {"leaky_relu", "absolute"}:
        other = case.moments(torch.tensor([-100.0]), torch.tensor([1e-4]))
        k = {"absolute": -1.0}.get(case.name, case.parameters.get("negative_slope", 0.01))
        assert other.var.item() == pytest.approx(k * k * 1e-4, rel=1e-5)


def test_exponential_is_log_normal() -> None:
    found = activations.exp(torch.tensor([0.5], dtype=DOUBLE), torch.tensor([0.3], dtype=DOUBLE))
    assert found.mean.item() == pytest.approx(np.exp(0.65), rel=1e-12)
    assert found.var.item() == pytest.approx((np.exp(0.3) - 1) * np.exp(1.3), rel=1e-12)
    small = activations.exp(torch.tensor([1.0]), torch.tensor([1e-8]))
    assert small.var.item() == pytest.approx(np.exp(2.0) * 1e-8, rel=1e-5)


def test_degenerate_clamp_is_its_upper_end() -> None:
    x = torch.tensor([-1.0, 0.0, 3.0])
    found = activations.clamp(x, torch.ones(3), min=2.0, max=1.0)
    assert found.mean.tolist() == x.clamp(2.0, 1.0).tolist()
    assert found.var.tolist() == [0.0] * 3


def test_slope_per_element() -> None:
    weight = torch.tensor([0.1, -0.4]).reshape(2, 1)
    m, v = torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(3)), torch.full((3, 2, 5), 0.5)
    found = activations.prelu(m, v, weight)
    for channel in range(2):
        alone = activations.leaky_relu(m[:, channel], v[:, channel], weight[channel].item())
        assert torch.allclose(found.mean[:, channel], alone.mean, atol=1e-6)
        assert torch.allclose(found.var[:, channel], alone.var, atol=1e-6)


def test_softplus_with_a_low_threshold_is_refused() -> None:
    with pytest.raises(MissingRuleError, match="threshold 2"):
        activations.softplus(torch.zeros(1), torch.ones(1), 1.0, 2.0)


def test_empty_tensors_pass() -> None:
    for case in CASES:
        assert case.moments(torch.zeros(0, 3), torch.zeros(0, 3)).mean.shape == (0, 3)
