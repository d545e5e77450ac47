"""Special functions, quadrature and truncated moments against scipy."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy import special, stats
from torch.autograd import gradcheck, gradgradcheck

from dasp.jets import (
    erf_jet,
    gelu_jet,
    gelu_tanh_jet,
    log_sigmoid_jet,
    mish_jet,
    sigmoid_jet,
    silu_jet,
    softplus_ends,
    softplus_jet,
    tanh_jet,
)
from dasp.rules.clark import max_of_two
from dasp.special import Phi, derivative, expect, h, legendre, lobatto, phi
from dasp.truncated import exponential_below, rectified, sides

DOUBLE = torch.float64


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 2e-13), (torch.float32, 2e-5)])
def test_normal_functions_keep_their_digits_in_the_tails(dtype: torch.dtype, tolerance: float) -> None:
    x = torch.linspace(-9.0, 9.0, 181, dtype=dtype)
    a = x.double().numpy()
    assert np.allclose(phi(x).double(), stats.norm.pdf(a), rtol=tolerance, atol=0)
    assert np.allclose(Phi(x).double(), stats.norm.cdf(a), rtol=tolerance, atol=0)


def test_h_against_its_integral_and_its_asymptotic_series() -> None:
    a = torch.linspace(-8.0, 8.0, 65, dtype=DOUBLE)
    # h(a) is the integral of Phi up to a.
    nodes, weights = np.polynomial.legendre.leggauss(200)
    low, width = a.numpy() - 30.0, 15.0
    points = low[:, None] + width * (nodes + 1)
    reference = width * (special.ndtr(points) @ weights)
    assert np.allclose(h(a), reference, rtol=1e-11, atol=0)
    assert h(torch.tensor(-20.0, dtype=DOUBLE)).item() == pytest.approx(
        stats.norm.pdf(20.0) / 400 * (1 - 3 / 400 + 15 / 400**2 - 105 / 400**3), rel=1e-7
    )
    assert torch.allclose(h(a.float()).double(), h(a), rtol=3e-5, atol=0)
    assert h(torch.tensor(1e4)).item() == 1e4


def test_h_has_slope_phi() -> None:
    a = torch.linspace(-9.0, 9.0, 37, dtype=DOUBLE, requires_grad=True)
    (slope,) = torch.autograd.grad(h(a).sum(), a)
    assert torch.allclose(slope, Phi(a), rtol=1e-9, atol=0)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6, 9, 16, 33])
def test_legendre_integrates_polynomials_of_degree_2n_minus_1(count: int) -> None:
    rule = legendre(count)
    for degree in range(2 * count):
        moment = sum(w * x**degree for x, w in zip(rule.nodes, rule.weights, strict=True))
        assert moment == pytest.approx(1 / (degree + 1), rel=1e-13)
    assert min(rule.nodes) > 0
    assert max(rule.nodes) < 1


@pytest.mark.parametrize("count", [2, 3, 4, 5, 6, 9, 16, 33])
def test_lobatto_integrates_polynomials_of_degree_2n_minus_3_and_holds_the_ends(count: int) -> None:
    rule = lobatto(count)
    for degree in range(2 * count - 2):
        moment = sum(w * x**degree for x, w in zip(rule.nodes, rule.weights, strict=True))
        assert moment == pytest.approx(1 / (degree + 1), rel=1e-13)
    assert (rule.nodes[0], rule.nodes[-1]) == (0.0, 1.0)
    assert rule.weights[0] == pytest.approx(1 / (count * (count - 1)), rel=1e-13)
    assert list(rule.nodes) == sorted(rule.nodes)


def test_quadrature_is_symmetric() -> None:
    for rule in (legendre(5), lobatto(5), lobatto(8)):
        assert [1 - x for x in reversed(rule.nodes)] == pytest.approx(list(rule.nodes), abs=1e-16)
        assert list(reversed(rule.weights)) == list(rule.weights)


def test_too_few_nodes_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 node, got 0"):
        legendre(0)
    with pytest.raises(ValueError, match="2 ends, got 1"):
        lobatto(1)


JETS = {
    "sigmoid": (sigmoid_jet, torch.sigmoid),
    "tanh": (tanh_jet, torch.tanh),
    "silu": (silu_jet, torch.nn.functional.silu),
    "softplus": (softplus_jet, lambda x: torch.logaddexp(x, torch.zeros_like(x))),
    "log_sigmoid": (log_sigmoid_jet, lambda x: -torch.logaddexp(-x, torch.zeros_like(x))),
    "mish": (mish_jet, lambda x: x * torch.tanh(torch.logaddexp(x, torch.zeros_like(x)))),
    "gelu": (gelu_jet, lambda x: x * torch.special.ndtr(x)),
    "gelu_tanh": (gelu_tanh_jet, lambda x: torch.nn.functional.gelu(x, approximate="tanh")),
    "erf": (erf_jet, torch.erf),
}


@pytest.mark.parametrize("name", JETS)
def test_jets_hold_the_derivatives_that_autograd_finds(name: str) -> None:
    jet, function = JETS[name]
    x = torch.linspace(-4.0, 4.0, 41, dtype=DOUBLE, requires_grad=True)
    found = jet(x.detach(), 5)
    assert len(found) == 6
    value = function(x)
    for order in range(6):
        assert torch.allclose(found[order], value, rtol=1e-9, atol=1e-10), order
        assert torch.equal(jet(x.detach(), order)[order], found[order])
        if order < 5:
            (value,) = torch.autograd.grad(value.sum(), x, create_graph=True)


@pytest.mark.parametrize("name", JETS)
def test_jets_are_finite_far_out_in_float32(name: str) -> None:
    jet, _ = JETS[name]
    x = torch.tensor([-1e4, -200.0, -89.0, 89.0, 200.0, 1e4])
    if name == "gelu_tanh":
        x = x.clamp(-1e3, 1e3)
    assert all(g.isfinite().all() for g in jet(x, 4))


def test_derivative_of_a_polynomial_in_derivatives() -> None:
    # (g^2)' = 2 g g';  (g g')' = g'^2 + g g''.
    assert derivative(((1.0, (2,)),)) == ((2.0, (1, 1)),)
    assert set(derivative(((1.0, (1, 1)),))) == {(1.0, (0, 2)), (1.0, (1, 0, 1))}


def _sine_jet(x: torch.Tensor, order: int) -> list[torch.Tensor]:
    return [torch.sin(x + k * math.pi / 2) for k in range(order + 1)]


def test_expect_and_its_gradients_against_a_closed_form() -> None:
    m = torch.linspace(-2, 2, 9, dtype=DOUBLE).requires_grad_()
    v = torch.tensor([0, 1e-8, 0.01, 0.1, 0.5, 1, 2, 4, 9], dtype=DOUBLE).requires_grad_()
    centre = torch.zeros_like(m)
    value, square = expect(_sine_jet, (((1.0, (1,)),), ((1.0, (2,)),)), m, v, centre)
    k = torch.exp(-v / 2)
    assert torch.allclose(value, k * m.sin(), atol=2e-9)
    assert torch.allclose(square, 0.5 - 0.5 * k**4 * (2 * m).cos(), atol=2e-9)
    first = torch.autograd.grad(value.sum(), (m, v), create_graph=True)
    assert torch.allclose(first[0], k * m.cos(), atol=2e-9)
    assert torch.allclose(first[1], -0.5 * k * m.sin(), atol=2e-9)
    (third,) = torch.autograd.grad(first[1].sum(), v)
    assert torch.allclose(third, 0.25 * k * m.sin(), atol=2e-9)


def test_expect_does_not_depend_on_how_elements_are_grouped() -> None:
    torch.manual_seed(0)
    m, v = torch.randn(3, 1100, dtype=DOUBLE), torch.rand(3, 1100, dtype=DOUBLE)
    (whole,) = expect(tanh_jet, (((1.0, (2,)),),), m, v, torch.zeros_like(m))
    (alone,) = expect(tanh_jet, (((1.0, (2,)),),), m[2, 1050:1060], v[2, 1050:1060], torch.zeros(10, dtype=DOUBLE))
    assert whole.shape == m.shape
    assert torch.allclose(whole[2, 1050:1060], alone, rtol=1e-13)


@pytest.mark.parametrize("beta", [0.5, -2.0])
def test_expect_of_a_cube_by_the_asymptotes(beta: float) -> None:
    """Powers of `g - centre` that no moment rule needs, and a softplus that rises to the left."""
    m, s, centre = torch.tensor([-20.0, 3.0, 25.0], dtype=DOUBLE), 20.0, torch.full((3,), 1.5, dtype=DOUBLE)
    jet = partial(softplus_jet, beta=beta)
    cube, mixed = expect(
        jet, (((1.0, (3,)), (0.5, (1, 1))), ((2.0, (1, 0, 1)),)), m, torch.full_like(m, s * s), centre, softplus_ends(beta)
    )
    z = torch.linspace(-10, 10, 200_001, dtype=DOUBLE)
    w = phi(z) / phi(z).sum()
    g = jet(m[:, None] + s * z, 2)
    assert torch.allclose(cube, ((g[0] - 1.5) ** 3 + 0.5 * (g[0] - 1.5) * g[1]) @ w, rtol=1e-8)
    assert torch.allclose(mixed, (2 * (g[0] - 1.5) * g[2]) @ w, rtol=1e-8)


def _pairs(count: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    m = torch.randn(count, generator=generator, dtype=DOUBLE).requires_grad_()
    v = (torch.rand(count, generator=generator, dtype=DOUBLE) + 0.1).requires_grad_()
    return m, v


def test_truncated_functions_have_right_gradients_twice() -> None:
    for function in (
        lambda m, v: tuple(vars(rectified(m, v)).values()),
        lambda m, v: tuple(vars(sides(m, v)).values()),
        lambda m, v: exponential_below(m, v, 1.5),
    ):
        assert gradcheck(function, _pairs())
        assert gradgradcheck(function, _pairs())


def test_each_output_alone_has_its_gradient() -> None:
    for function in (rectified, sides):
        for name in vars(function(*_pairs())):
            assert gradcheck(lambda m, v, f=function, n=name: getattr(f(m, v), n), _pairs())


def test_probabilities_keep_their_digits_on_both_sides() -> None:
    z = torch.linspace(-12.0, 12.0, 49, dtype=DOUBLE)
    part = sides(2 * z, torch.full_like(z, 4.0))
    assert np.allclose(part.above, stats.norm.cdf(z), rtol=1e-12, atol=0)
    assert np.allclose(part.below, stats.norm.sf(z), rtol=1e-12, atol=0)
    assert np.allclose(part.spread, 2 * stats.norm.pdf(z), rtol=1e-12, atol=0)


def test_exponential_below_neither_overflows_nor_vanishes() -> None:
    m = torch.tensor([-300.0, -5.0, 0.0, 3.0, 40.0, 300.0], dtype=DOUBLE)
    for s in (0.1, 1.0, 30.0):
        a = m / s
        log = m + s * s / 2 + torch.special.log_ndtr(-(m + s * s) / s)
        for dtype, tolerance in ((DOUBLE, 1e-9), (torch.float32, 1e-3)):
            found = exponential_below(m.to(dtype), torch.full_like(m, s * s).to(dtype), 1.0)
            assert torch.allclose(found.double(), log.exp(), rtol=tolerance, atol=1e-30), (s, a)
    at_zero = exponential_below(torch.tensor([-1.0, 0.0, 1.0]), torch.zeros(3), 2.0)
    assert torch.allclose(at_zero, torch.tensor([math.exp(-2.0), 0.5, 0.0]))


def _maximum_by_quadrature(ma: float, mb: float, va: float, vb: float, c: float) -> tuple[float, float, float]:
    """Mean and variance of the larger one, and P(A > B), by the density of A times what B does given A."""
    z = np.linspace(-12, 12, 40001)
    w = np.exp(-z * z / 2)
    w /= w.sum()
    a = ma + math.sqrt(va) * z
    mean, s = mb + c / va * (a - ma), math.sqrt(vb - c * c / va)
    t = (a - mean) / s
    below, density = special.ndtr(t), np.exp(-t * t / 2) / math.sqrt(2 * math.pi)
    first = a * below + mean * (1 - below) + s * density
    second = a * a * below + (mean**2 + s * s) * (1 - below) + s * (a + mean) * density
    return w @ first, w @ second - (w @ first) ** 2, w @ below


@pytest.mark.parametrize(
    "case",
    [
        (0.3, -0.4, 1.0, 2.0, 0.5),
        (0.0, 0.0, 1.0, 1.0, 0.0),
        (-1.0, 1.5, 0.3, 2.0, -0.4),
        (3.0, 2.0, 0.5, 0.01, 0.05),
        (5.0, -5.0, 1.0, 1.0, 0.2),
    ],
)
def test_maximum_of_two(case: tuple[float, float, float, float, float]) -> None:
    mean, var, weight = _maximum_by_quadrature(*case)
    for dtype, tolerance in ((DOUBLE, 1e-7), (torch.float32, 1e-5)):
        found = max_of_two(*(torch.tensor(x, dtype=dtype) for x in case))
        assert found.mean.item() == pytest.approx(mean, rel=tolerance, abs=tolerance)
        assert found.var.item() == pytest.approx(var, rel=tolerance)
        assert found.weight.item() == pytest.approx(weight, rel=tolerance, abs=tolerance)


def test_maximum_of_two_has_right_gradients_twice() -> None:
    generator = torch.Generator().manual_seed(2)
    ma, mb, c = (torch.randn(3, 6, generator=generator, dtype=DOUBLE) * torch.tensor([[1.0], [1.0], [0.1]])).unbind()
    va, vb = (0.3 + torch.rand(2, 6, generator=generator, dtype=DOUBLE)).unbind()
    arguments = tuple(x.clone().requires_grad_() for x in (ma, mb, va, vb, c))
    assert gradcheck(lambda *a: tuple(vars(max_of_two(*a)).values()), arguments)
    assert gradgradcheck(lambda *a: tuple(vars(max_of_two(*a)).values()), arguments)
    for name in ("mean", "var", "weight"):
        assert gradcheck(lambda *a, n=name: getattr(max_of_two(*a), n), arguments)


def test_maximum_without_variance_is_the_larger_one() -> None:
    a = torch.tensor([2.0, -3.0, 1.0, 100.0], requires_grad=True)
    b = torch.tensor([1.0, -1.0, 1.0, -100.0], requires_grad=True)
    v = torch.zeros(4, requires_grad=True)
    found = max_of_two(a, b, v, v)
    assert found.mean.tolist() == [2.0, -1.0, 1.0, 100.0]
    assert found.var.tolist() == [0.0] * 4
    assert found.weight.tolist() == [1.0, 0.0, 0.5, 1.0]
    grads = torch.autograd.grad((found.mean + found.var + found.weight).sum(), (a, b, v))
    assert all(grad.isfinite().all() for grad in grads)
    assert grads[0].tolist() == [1.0, 0.0, 0.5, 1.0]


def test_maximum_with_equal_differences_keeps_the_common_variance() -> None:
    """A and B = A - 1: the difference is certain."""
    one = torch.tensor([4.0])
    found = max_of_two(torch.tensor([1.0]), torch.tensor([0.0]), one, one, one)
    assert (found.mean.item(), found.var.item(), found.weight.item()) == (1.0, 4.0, 1.0)


def test_maximum_keeps_a_small_variance_beside_a_large_mean_in_float32() -> None:
    m, v = torch.tensor([100.0]), torch.tensor([1e-4])
    assert max_of_two(m, m, v, v).var.item() == pytest.approx(1e-4 * (1 - 1 / math.pi), rel=1e-5)
    assert max_of_two(m, -m, v, v).var.item() == pytest.approx(1e-4, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seldom_by", [5.3, 5.5, 8.2, 8.4, 11.0, 31.0])
@pytest.mark.parametrize("mostly_by", [5.3, 5.5, 6.5, 8.2, 8.4, 9.0])
def test_gradients_of_maxima_that_hardly_ever_differ_belong_to_their_values(
    dtype: torch.dtype, seldom_by: float, mostly_by: float
) -> None:
    """One maximum is hardly ever above 1, another one hardly ever not 1: what varies in each is dust, and they tie."""
    spread = torch.tensor([0.01, 0.04], dtype=dtype, requires_grad=True)
    one = torch.ones(1, dtype=dtype)
    seldom = max_of_two(one - seldom_by * 0.1, one, spread[:1], 0 * one)
    mostly = max_of_two(one, one - mostly_by * 0.2, 0 * one, spread[1:])
    found = max_of_two(seldom.mean, mostly.mean, seldom.var, mostly.var)
    for value in (found.mean, found.var):
        (gradient,) = torch.autograd.grad(value.sum(), spread, retain_graph=True)
        assert gradient.abs().max() < 0.5
