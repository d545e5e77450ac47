"""Softplus and sigmoid of a Gaussian without quadrature, against quadrature; log-sums built from them, against sampling."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dasp.gaussian import Gaussian
from dasp.rules.activations import sigmoid, softplus
from dasp.rules.logistic import logistic_share, soft_rectified
from dasp.rules.logsums import against_others


def grid() -> tuple[Tensor, Tensor]:
    d, v = torch.linspace(-12, 12, 97, dtype=torch.float64), torch.logspace(-4, 2.5, 60, dtype=torch.float64)
    return tuple(part.flatten() for part in torch.meshgrid(d, v, indexing="ij"))  # type: ignore[return-value]


def test_the_softplus() -> None:
    d, v = grid()
    mean, slope, spared = soft_rectified(d, v)
    exact = softplus(d, v)
    assert (mean - exact.mean).abs().max() < 1e-4
    assert (slope - exact.slope).abs().max() < 6e-5
    relative = (slope * v - spared - exact.var).abs() / torch.maximum(exact.var, v / 20)
    assert relative.max() < 0.03
    assert relative.mean() < 0.003


def test_the_sigmoid() -> None:
    d, v = grid()
    found, exact = logistic_share(d, v), sigmoid(d, v)
    assert (found.mean - exact.mean).abs().max() < 6e-5
    assert (found.var - exact.var).abs().max() < 3e-3
    seen = (exact.var > 1e-9) & (v < 2)
    assert ((found.var - exact.var).abs() / exact.var)[seen].max() < 0.4  # small shares too
    assert (found.slope - exact.slope).abs().max() < 2e-4
    assert found.var.min() >= 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_variance_they_are_the_functions(dtype: torch.dtype) -> None:
    d = torch.linspace(-120, 120, 161, dtype=dtype)
    tiny = 100 * torch.finfo(dtype).eps
    mean, slope, spared = soft_rectified(d, torch.zeros_like(d))
    torch.testing.assert_close(mean, torch.nn.functional.softplus(d.double(), threshold=1e3).to(dtype), rtol=tiny, atol=tiny)
    torch.testing.assert_close(slope, torch.sigmoid(d), rtol=tiny, atol=tiny)
    assert spared.abs().max() == 0
    share = logistic_share(d, torch.zeros_like(d))
    torch.testing.assert_close(share.mean, torch.sigmoid(d), rtol=tiny, atol=tiny)
    assert share.var.abs().max() < 1e-20


def test_small_spreads_keep_their_variance_in_single_precision() -> None:
    d = torch.linspace(-3, 3, 13)
    v = torch.full_like(d, 1e-6)
    exact = softplus(d.double(), v.double())
    _, slope, spared = soft_rectified(d, v)
    torch.testing.assert_close((slope * v - spared).double(), exact.var, rtol=1e-3, atol=0)
    torch.testing.assert_close(logistic_share(d, v).var.double(), sigmoid(d.double(), v.double()).var, rtol=1e-3, atol=0)


def test_gradients_of_first_and_second_order() -> None:
    torch.manual_seed(0)
    d = (24 * torch.rand(20, dtype=torch.float64) - 12).requires_grad_()
    v = (10 ** (5 * torch.rand(20, dtype=torch.float64) - 3)).requires_grad_()

    def share(d: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        found = logistic_share(d, v)
        return found.mean, found.var, found.slope

    for function in (soft_rectified, share):
        assert torch.autograd.gradcheck(function, (d, v))
    assert torch.autograd.gradgradcheck(soft_rectified, (d, v))


def test_gradients_where_means_are_tied() -> None:
    g = torch.Generator().manual_seed(0)
    mean = torch.tensor([[0.0], [0.0], [0.3], [0.0]], dtype=torch.float64, requires_grad=True)
    loads = torch.randn(2, 4, 1, generator=g, dtype=torch.float64, requires_grad=True)
    rest = torch.rand(4, 1, generator=g, dtype=torch.float64, requires_grad=True)

    def contrast(mean: Tensor, loads: Tensor, rest: Tensor) -> tuple[Tensor, ...]:
        found = against_others(Gaussian(mean, loads, rest))
        assert found.factors is not None
        return found.mean, found.factors, found.rest

    assert torch.autograd.gradcheck(contrast, (mean, loads, rest))


def test_what_all_scores_share_costs_no_digits() -> None:
    g = torch.Generator().manual_seed(1)
    mean, loads, rest = torch.randn(6, 1, generator=g), torch.randn(2, 6, 1, generator=g), 0.1 * torch.rand(6, 1, generator=g)
    shared = torch.cat((loads, torch.full((1, 6, 1), 1000.0)))
    apart, together = against_others(Gaussian(mean, loads, rest)), against_others(Gaussian(mean, shared, rest))
    torch.testing.assert_close(together.rest, apart.rest, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(together.mean, apart.mean, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("count", [2, 3, 7])
@pytest.mark.parametrize("factors", [True, False])
def test_log_sums_of_the_others(count: int, factors: bool) -> None:
    g = torch.Generator().manual_seed(count)
    shapes = (count, 2), (3, count, 2), (count, 2)
    mean, loads, rest = (torch.randn(shape, generator=g, dtype=torch.float64) for shape in shapes)
    scores = Gaussian(mean, loads if factors else None, 0.3 * rest.square())
    noise = torch.randn(200_000, 3, generator=g, dtype=torch.float64)
    own = torch.randn(200_000, count, 2, generator=g, dtype=torch.float64)
    x = mean + scores.rest.sqrt() * own
    x = x + torch.einsum("dr,rcb->dcb", noise, loads) if factors else x
    contrasts = []
    for j in range(count):
        others = torch.cat((x[:, :j], x[:, j + 1 :]), 1)
        contrasts.append(x[:, j] - others.logsumexp(1))
    truth = torch.stack(contrasts, 1)  # (draws, count, 2)
    found = against_others(scores)
    spread = truth.std(0)
    # Two are exact up to Monte Carlo; of seven, measured are 0.09 of a deviation and 21 % of it: log-sums count as Gaussian.
    assert ((found.mean - truth.mean(0)).abs() / spread).max() < (0.005 if count == 2 else 0.12)
    assert (found.var.sqrt() / spread - 1).abs().max() < (0.01 if count == 2 else 0.3)
    if factors:
        assert found.factors is not None
        loadings = torch.einsum("dr,dcb->rcb", noise, truth - truth.mean(0)) / len(noise)
        assert ((found.factors - loadings).abs() / spread).max() < (0.01 if count == 2 else 0.15)
