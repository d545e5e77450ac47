"""The rarer layers and functions as people write them, through capture, against exact Shapley values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from .test_rules_networks import EVEN, PLAYERS, Around, compare

PLACES = torch.tensor([1, 3])
POSITIVE = 4.0  # far enough above 0 for roots


@pytest.fixture(autouse=True)
def _float64() -> Any:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(before)


def written(x: Tensor, places: Any, value: Any) -> Tensor:
    x = x.clone()
    x[:, places] = value
    return x


def rows(x: Tensor) -> Tensor:
    return x.reshape(-1, 2, 4)


def hand_made_layer_norm(x: Tensor, axis: int = -1) -> Tensor:
    centred = x - x.mean(axis, keepdim=True)
    return centred / torch.sqrt(centred.pow(2).mean(axis, keepdim=True) + 1e-5)


FUNCTIONS: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
    "celu": (lambda x: F.celu(x, 0.5), 0.04),
    "softsign": (F.softsign, 0.04),
    "threshold": (lambda x: F.threshold(x, 0.1, -0.2), 0.04),
    "hardshrink": (F.hardshrink, 0.04),
    "softshrink": (lambda x: F.softshrink(x, 0.2), 0.04),
    "tanhshrink": (F.tanhshrink, 0.04),
    "rrelu": (lambda x: F.rrelu(x), 0.04),
    "sign": (torch.sign, 0.04),
    "atan": (torch.atan, 0.04),
    "expm1": (torch.expm1, 0.04),
    "exp2": (torch.exp2, 0.04),
    "sinh": (torch.sinh, 0.04),
    "cosh": (torch.cosh, 0.04),
    "erfc": (torch.erfc, 0.04),
    "log": (lambda x: torch.log(x + POSITIVE), 0.04),
    "log1p": (lambda x: torch.log1p(x + POSITIVE), 0.04),
    "log2": (lambda x: torch.log2(x + POSITIVE), 0.04),
    "log10": (lambda x: torch.log10(x + POSITIVE), 0.04),
    "sqrt": (lambda x: torch.sqrt(x + POSITIVE), 0.04),
    "rsqrt": (lambda x: torch.rsqrt(x + POSITIVE), 0.04),
    "1 / x": (lambda x: 1 / (x + POSITIVE), 0.04),
    "x / y": (lambda x: x[:, :4] / (x[:, 4:] + POSITIVE), 0.04),
    "x / sum of x": (lambda x: x / (x + POSITIVE).sum(1, keepdim=True), 0.04),
    "x ** 3": (lambda x: x**3, 0.04),
    "x ** 0": (lambda x: x + x**0, 0.04),
    "x ** 1.5": (lambda x: (x + POSITIVE) ** 1.5, 0.04),
    "x ** weights": (lambda x: (x + POSITIVE) ** torch.linspace(0.5, 2, PLAYERS), 0.04),
    "2 ** x": (lambda x: 2**x, 0.04),
    "x ** y": (lambda x: (x[:, :4] + POSITIVE) ** x[:, 4:], 0.04),
    "float_power": (lambda x: torch.float_power(x, 2), 0.04),
    "maximum": (lambda x: torch.maximum(x[:, :4], x[:, 4:]), 0.04),
    "minimum of a known one": (lambda x: torch.minimum(x, torch.linspace(-1, 1, PLAYERS)), 0.04),
    "fmax": (lambda x: torch.fmax(x, x.flip(1)), 0.04),
    "clamp by tensors": (lambda x: x.clamp(torch.full((8,), -0.3), torch.full((8,), 0.4)), 0.04),
    "logaddexp": (lambda x: torch.logaddexp(x, x.flip(1)), 0.04),
    "amax": (lambda x: rows(x).amax(2), 0.04),
    "max over an axis": (lambda x: rows(x).max(2).values, 0.04),
    "min over an axis": (lambda x: rows(x).min(1).values, 0.04),
    "logsumexp": (lambda x: rows(x).logsumexp(2), 0.04),
    "softmin": (lambda x: F.softmin(x, 1), 0.04),
    "std": (lambda x: rows(x).std(2), 0.04),
    "var": (lambda x: rows(x).var(2, unbiased=False), 0.04),
    "std_mean": (lambda x: torch.cat(torch.std_mean(rows(x), 2), 1), 0.04),
    "var_mean": (lambda x: torch.cat(torch.var_mean(rows(x), 2), 1), 0.04),
    "norm": (lambda x: rows(x).norm(dim=2), 0.04),
    "norm of order 1": (lambda x: rows(x).norm(p=1, dim=2), 0.04),
    "largest size": (lambda x: torch.linalg.vector_norm(rows(x), ord=float("inf"), dim=2), 0.04),
    "prod": (lambda x: rows(x).prod(1), 0.04),
    "normalize": (lambda x: F.normalize(rows(x), dim=1), 0.04),
    "cosine similarity": (lambda x: F.cosine_similarity(rows(x)[:, 0], rows(x)[:, 1]).unsqueeze(1), 0.04),
    "cosine to a known one": (lambda x: F.cosine_similarity(x, torch.linspace(-1, 1, 8), dim=1).unsqueeze(1), 0.04),
    "RMS norm by hand": (lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6), 0.04),
    "layer norm by hand": (hand_made_layer_norm, 0.04),
    "channels first by hand": (lambda x: hand_made_layer_norm(x.reshape(-1, 4, 2), 1), 0.04),
    "layer norm with std": (lambda x: (x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True) + 1e-6), 0.04),
    "local response": (lambda x: F.local_response_norm(x.reshape(-1, 4, 2), 3), 0.04),
    "power mean pooling": (lambda x: F.lp_pool1d((x + POSITIVE).unsqueeze(1), 2, 2), 0.04),
    "lerp": (lambda x: torch.lerp(x, x.tanh(), 0.3), 0.04),
    "lerp by a gate": (lambda x: torch.lerp(x, x.tanh(), x.sigmoid()), 0.04),
    "addcmul": (lambda x: torch.addcmul(x, x.sin(), x.flip(1), value=0.5), 0.04),
    "addcdiv": (lambda x: torch.addcdiv(x, x.sin(), x + POSITIVE, value=0.5), 0.04),
    "rsub": (lambda x: torch.rsub(x, x.sin()), 0.04),
    "true_divide": (lambda x: torch.true_divide(x, x.exp() + 1), 0.04),
    "mean in double": (lambda x: rows(x).float().mean(2, dtype=torch.float64), 0.04),
    "sum in double": (lambda x: rows(x).float().sum(2, dtype=torch.float64), 0.04),
    "repeat_interleave": (lambda x: x.repeat_interleave(2, 1), 0.04),
    "tile": (lambda x: x.tile(1, 2), 0.04),
    "mv": (lambda x: torch.mv(x, torch.linspace(-1, 1, 8)).unsqueeze(1), 0.04),
    "outer product": (lambda x: torch.einsum("bi,bj->bij", x[:, :4], x[:, 4:]), 0.06),
    "matrix product": (lambda x: rows(x) @ rows(x).mT, 0.06),
    "einsum of two": (lambda x: torch.einsum("bid,bjd->bij", rows(x), rows(x).tanh()), 0.06),
    "einsum of three": (lambda x: torch.einsum("bid,bjd,bjk->bik", rows(x), rows(x), rows(x)), 0.06),
    "vecdot": (lambda x: torch.linalg.vecdot(x, x.sin()).unsqueeze(1), 0.06),
    "baddbmm": (lambda x: torch.baddbmm(x.reshape(-1, 2, 4)[:, :, :2], rows(x), rows(x).mT), 0.06),
    "cross": (lambda x: torch.linalg.cross(rows(x)[:, 0, :3], rows(x)[:, 1, :3]), 0.06),
    "diff": (lambda x: x.diff(dim=1), 0.04),
    "trapezoid": (lambda x: torch.trapezoid(rows(x), dim=2), 0.04),
    "diag_embed": (torch.diag_embed, 0.04),
    "nan_to_num": (torch.nan_to_num, 0.04),
    "scatter": (lambda x: torch.zeros_like(x).scatter(1, PLACES.expand(x.shape[0], 2), x[:, :2]), 0.04),
    "scatter a number": (lambda x: x.scatter(1, PLACES.expand(x.shape[0], 2), 0.5), 0.04),
    "scatter_add": (lambda x: x.scatter_add(1, PLACES.expand(x.shape[0], 2), x[:, :2]), 0.04),
    "index_add": (lambda x: x.index_add(1, PLACES, x[:, :2], alpha=2), 0.04),
    "index_copy": (lambda x: x.index_copy(1, PLACES, x[:, :2]), 0.04),
    "index_fill": (lambda x: x.index_fill(1, PLACES, 2.0), 0.04),
    "index_put": (lambda x: written(x, PLACES, x[:, 5:7]), 0.04),
    "mask put": (lambda x: written(x, EVEN, 0.3), 0.04),
    "diagonal_scatter": (lambda x: x.reshape(-1, 2, 4).diagonal_scatter(x[:, :2], 1, 1, 2), 0.04),
    "fold": (lambda x: F.fold(F.unfold(x.reshape(-1, 1, 2, 4), 2), (2, 4), 2), 0.04),
    "linear interpolation": (lambda x: F.interpolate(x.unsqueeze(1), scale_factor=1.5, mode="linear"), 0.04),
    "bilinear": (lambda x: F.interpolate(x.reshape(-1, 1, 2, 4), size=(3, 5), mode="bilinear", align_corners=True), 0.04),
    "bicubic": (lambda x: F.interpolate(x.reshape(-1, 1, 2, 4), scale_factor=2, mode="bicubic"), 0.04),
    "filtered bilinear": (lambda x: F.interpolate(x.reshape(-1, 1, 2, 4), (2, 3), mode="bilinear", antialias=True), 0.04),
    "trilinear": (lambda x: F.interpolate(x.reshape(-1, 1, 2, 2, 2), scale_factor=2, mode="trilinear"), 0.04),
    "area": (lambda x: F.interpolate(x.unsqueeze(1), size=3, mode="area"), 0.04),
    "nearest exact": (lambda x: F.interpolate(x.unsqueeze(1), scale_factor=1.5, mode="nearest-exact"), 0.04),
    "cross entropy": (lambda x: F.cross_entropy(x, torch.ones(x.shape[0]).long(), reduction="none").unsqueeze(1), 0.04),
    "entropy": (lambda x: -(x.softmax(1) * x.log_softmax(1)).sum(1, keepdim=True), 0.06),
    "SwiGLU": (lambda x: F.silu(x[:, :4]) * x[:, 4:], 0.04),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name: str) -> None:
    function, tolerance = FUNCTIONS[name]
    compare(Around(function), tolerance)
