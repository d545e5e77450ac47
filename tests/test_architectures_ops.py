"""Small modules of every common kind, explained as users do it, against exact Shapley values.

Bounds are one and a half times what was measured with random weights: relative errors of the default, and of no factors at
all (`rank=0`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dasp

STEPS, WIDTH, ROWS = 8, 6, 3


@dataclass(frozen=True)
class Case:
    """A module and what to ask of it.

    Attributes:
        module: makes it; weights are random.
        shape: of a row; the first axis is that of the players, if there is no other mask.
        players: a mask; None: one player for every entry of the first axis.
        ids: whether inputs are whole numbers of 1 to 9, absent ones 0.
    """

    module: Callable[[], nn.Module]
    shape: tuple[int, ...] = (STEPS, WIDTH)
    players: Callable[[], Tensor] | None = None
    ids: bool = False

    def mask(self) -> Tensor:
        if self.players is not None:
            return self.players()
        return torch.arange(self.shape[0]).reshape(-1, *[1] * (len(self.shape) - 1))


class Of(nn.Module):
    """A function of some modules and the input."""

    def __init__(self, function: Callable[..., Tensor], *parts: nn.Module) -> None:
        super().__init__()
        self.function = function
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.parts)


def headed(function: Callable[..., Tensor], *parts: nn.Module, width: int = WIDTH) -> nn.Module:
    """A function of the sequence, then the mean over steps and one smooth output."""
    return Of(lambda x, head, *rest: head(function(x, *rest).mean(1)), nn.Sequential(nn.Linear(width, 1), nn.Tanh()), *parts)


CAUSAL = nn.Transformer.generate_square_subsequent_mask(STEPS)
LAST_HIDDEN = torch.arange(STEPS) >= STEPS - 2


def attended(**options: Any) -> Callable[[], nn.Module]:
    """`nn.MultiheadAttention` of the sequence to itself; `call` holds the options of its forward pass."""
    call = options.pop("call", {})
    first = options.get("batch_first", True)

    def function(x: Tensor, layer: nn.Module) -> Tensor:
        if "key_padding_mask" in call:
            call["key_padding_mask"] = LAST_HIDDEN.expand(x.shape[0], STEPS)
        y = x if first else x.transpose(0, 1)
        out: Tensor = layer(y, y, y, **call)[0]
        return out if first else out.transpose(0, 1)

    return lambda: headed(function, nn.MultiheadAttention(WIDTH, 2, **{"batch_first": True, **options}))


def encoder(**options: Any) -> Callable[[], nn.Module]:
    call = options.pop("call", {})
    settings = {"batch_first": True, "dim_feedforward": 12, **options}
    return lambda: headed(lambda x, layer: layer(x, **call), nn.TransformerEncoderLayer(WIDTH, 2, **settings))


def decoder(**options: Any) -> Callable[[], nn.Module]:
    def function(x: Tensor, layer: nn.Module) -> Tensor:
        out: Tensor = layer(x[:, :3], x[:, 3:])
        return out

    settings = {"batch_first": True, "dim_feedforward": 12, **options}
    return lambda: headed(function, nn.TransformerDecoderLayer(WIDTH, 2, **settings))


def recurrent(kind: type[nn.Module], width: int = 5, **options: Any) -> Callable[[], nn.Module]:
    first = options.get("batch_first", True)

    def function(x: Tensor, layer: nn.Module) -> Tensor:
        out: Tensor = layer(x if first else x.transpose(0, 1))[0]
        return out if first else out.transpose(0, 1)

    return lambda: headed(function, kind(WIDTH, 5, **{"batch_first": True, **options}), width=width)


def rotated(x: Tensor) -> Tensor:
    """Rotary position embedding (Su et al., 2021), halves as in Llama."""
    angles = torch.outer(torch.arange(STEPS), torch.tensor([1.0, 0.1, 0.01])).repeat(1, 2).to(x.dtype)
    half = x.shape[-1] // 2
    return x * angles.cos() + torch.cat((-x[..., half:], x[..., :half]), -1) * angles.sin()


def rotary(x: Tensor, q: nn.Module, k: nn.Module, v: nn.Module) -> Tensor:
    return F.scaled_dot_product_attention(rotated(q(x)), rotated(k(x)), v(x), is_causal=True)


def grouped(x: Tensor, q: nn.Module, kv: nn.Module) -> Tensor:
    queries = q(x).unflatten(-1, (2, 3)).transpose(1, 2)
    keys = kv(x).unsqueeze(1)
    out: Tensor = F.scaled_dot_product_attention(queries, keys, keys, enable_gqa=True)
    return out.transpose(1, 2).flatten(2)


def by_einsum(x: Tensor, q: nn.Module, k: nn.Module, v: nn.Module) -> Tensor:
    heads = [part(x).unflatten(-1, (2, 3)) for part in (q, k, v)]
    weights = torch.einsum("bqhd,bkhd->bhqk", *heads[:2]).div(3**0.5).softmax(-1)
    return torch.einsum("bhqk,bkhd->bqhd", weights, heads[2]).flatten(2)


class Llama(nn.Module):
    """RMS norm by hand, rotary attention, SwiGLU, residual sums."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4))
        self.gate, self.up = nn.Linear(WIDTH, 10), nn.Linear(WIDTH, 10)
        self.down = nn.Linear(10, WIDTH)
        self.scale = nn.Parameter(torch.rand(WIDTH) + 0.5)

    def norm(self, x: Tensor) -> Tensor:
        return self.scale * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v, out = self.mix
        x = x + out(rotary(self.norm(x), q, k, v))
        y = self.norm(x)
        x = x + self.down(F.silu(self.gate(y)) * self.up(y))
        return x


def linears(count: int) -> list[nn.Module]:
    return [nn.Linear(WIDTH, WIDTH) for _ in range(count)]


def transformer() -> nn.Module:
    layer = nn.TransformerEncoderLayer(WIDTH, 2, 12, 0.0, "gelu", batch_first=True, norm_first=True)
    return headed(lambda x, *parts: nn.Sequential(*parts)(x), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False))


SEQUENCES: dict[str, Case] = {
    "attention": Case(attended()),
    "attention, weights not asked for": Case(attended(call={"need_weights": False})),
    "attention, steps first": Case(attended(batch_first=False)),
    "attention, causal": Case(attended(call={"attn_mask": CAUSAL, "is_causal": True})),
    "attention, causal, no weights": Case(
        attended(call={"attn_mask": CAUSAL, "is_causal": True, "need_weights": False})
    ),
    "attention, padded": Case(attended(call={"key_padding_mask": None, "need_weights": False})),
    "attention, padded, weights of each head": Case(
        attended(call={"key_padding_mask": None, "average_attn_weights": False})
    ),
    "attention, bias of keys": Case(attended(add_bias_kv=True, call={"need_weights": False})),
    "attention, a key of zeros": Case(attended(add_zero_attn=True, bias=False, call={"need_weights": False})),
    "encoder layer": Case(encoder()),
    "encoder layer, norm first": Case(encoder(norm_first=True, activation="gelu")),
    "encoder layer, masked": Case(encoder(call={"src_mask": CAUSAL, "is_causal": True})),
    "decoder layer": Case(decoder()),
    "decoder layer, norm first": Case(decoder(norm_first=True)),
    "transformer": Case(transformer),
    "attention by einsum": Case(lambda: headed(by_einsum, *linears(3))),
    "grouped heads": Case(lambda: headed(grouped, nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3))),
    "rotary attention": Case(lambda: headed(rotary, *linears(3))),
    "Llama block": Case(lambda: headed(lambda x, block: block(x), Llama())),
    "LSTM": Case(recurrent(nn.LSTM)),
    "LSTM, two directions": Case(recurrent(nn.LSTM, 10, bidirectional=True)),
    "LSTM, stacked, steps first": Case(recurrent(nn.LSTM, num_layers=2, batch_first=False)),
    "LSTM, projected": Case(recurrent(nn.LSTM, 3, proj_size=3)),
    "GRU": Case(recurrent(nn.GRU)),
    "GRU, two directions, steps first": Case(recurrent(nn.GRU, 10, bidirectional=True, batch_first=False)),
    "RNN, stacked, two directions": Case(recurrent(nn.RNN, 10, num_layers=2, bidirectional=True)),
    "RNN of ReLU": Case(recurrent(nn.RNN, nonlinearity="relu")),
}

CHANNELS = 4


def pairs() -> Tensor:
    """Two neighbouring pixels are a player, in all channels."""
    return torch.arange(8).repeat_interleave(2).reshape(1, 4, 4)


def pooled(*parts: nn.Module) -> nn.Module:
    """Modules on an image one after the other, then the mean over pixels and one smooth output."""
    return nn.Sequential(
        nn.Conv2d(2, CHANNELS, 3, padding=1), *parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(CHANNELS, 1), nn.Tanh()
    )


class Squeezed(nn.Module):
    """Squeeze and excitation (Hu, Shen and Sun, 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Sequential(nn.Linear(CHANNELS, 2), nn.ReLU(), nn.Linear(2, CHANNELS), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x * self.gate(x.mean((2, 3)))[:, :, None, None]
        return result


class ConvNeXt(nn.Module):
    """Depthwise convolution, layer norm over channels, an inverted bottleneck, a scaled residual (Liu et al., 2022)."""

    def __init__(self) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, groups=CHANNELS)
        self.norm = nn.LayerNorm(CHANNELS)
        self.mix = nn.Sequential(nn.Linear(CHANNELS, 12), nn.GELU(), nn.Linear(12, CHANNELS))
        self.scale = nn.Parameter(torch.rand(CHANNELS))

    def forward(self, x: Tensor) -> Tensor:
        y = self.mix(self.norm(self.depthwise(x).permute(0, 2, 3, 1)))
        return x + (self.scale * y).permute(0, 3, 1, 2)


class UNet(nn.Module):
    """Down by pooling, up by interpolation, with a skip."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1), nn.ReLU())
        corners = None if mode == "nearest" else False
        self.up = nn.Upsample(scale_factor=2, mode=mode, align_corners=corners)
        self.join = nn.Conv2d(2 * CHANNELS, CHANNELS, 1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.join(torch.cat((x, self.up(self.down(x))), 1)).relu()
        return result


def image(*parts: Callable[[], nn.Module]) -> Case:
    return Case(lambda: pooled(*(part() for part in parts)), (2, 4, 4), pairs)


IMAGES: dict[str, Case] = {
    "group norm": image(lambda: nn.GroupNorm(2, CHANNELS), nn.ReLU),
    "instance norm": image(lambda: nn.InstanceNorm2d(CHANNELS, affine=True), nn.ReLU),
    "instance norm by running statistics": image(lambda: nn.InstanceNorm2d(CHANNELS, track_running_stats=True), nn.ReLU),
    "batch norm": image(lambda: nn.BatchNorm2d(CHANNELS), nn.ReLU),
    "RMS norm over pixels": image(lambda: nn.RMSNorm((4, 4)), nn.ReLU),
    "local response norm": image(nn.ReLU, lambda: nn.LocalResponseNorm(2), nn.Tanh),
    "squeeze and excitation": image(nn.ReLU, Squeezed),
    "ConvNeXt block": image(ConvNeXt),
    "UNet, nearest": image(lambda: UNet("nearest")),
    "UNet, bilinear": image(lambda: UNet("bilinear")),
    "gated linear unit": image(lambda: nn.Conv2d(CHANNELS, 2 * CHANNELS, 1), lambda: nn.GLU(1)),
    "weight norm": image(nn.ReLU, lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(CHANNELS, CHANNELS, 1)), nn.ReLU),
    "spectral norm": image(nn.ReLU, lambda: nn.utils.parametrizations.spectral_norm(nn.Conv2d(CHANNELS, CHANNELS, 1)), nn.ReLU),
    "depthwise and pointwise": image(
        lambda: nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, groups=CHANNELS), nn.ReLU6, lambda: nn.Conv2d(4, 4, 1), nn.Hardswish
    ),
    "pixel shuffle": image(lambda: nn.Conv2d(CHANNELS, 16, 1), lambda: nn.PixelShuffle(2), nn.ReLU),
    "unfold and fold": image(lambda: nn.Unfold(2), nn.Tanh, lambda: nn.Fold(4, 2), nn.ReLU),
}


def bilinear() -> nn.Module:
    return Of(lambda x, a, b, both: both(a(x), b(x)), nn.Linear(8, 4), nn.Linear(8, 3), nn.Bilinear(4, 3, 1))


def cosine() -> nn.Module:
    return Of(lambda x, a, b: F.cosine_similarity(a(x), b(x)).unsqueeze(1), nn.Linear(8, 6), nn.Linear(8, 6))


class Tokens(nn.Module):
    """Embedded whole numbers through a part."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, WIDTH, padding_idx=0)
        self.place = nn.Parameter(torch.randn(STEPS, WIDTH))
        self.part = part

    def forward(self, ids: Tensor) -> Tensor:
        result: Tensor = self.part(self.embedding(ids) + self.place)
        return result


def first(part: Callable[[], nn.Module]) -> Case:
    return Case(lambda: Tokens(part()), (STEPS,), ids=True)


FLAT: dict[str, Case] = {
    "bilinear layer": Case(bilinear, (8,)),
    "cosine of two branches": Case(cosine, (8,)),
    "gated MLP": Case(lambda: nn.Sequential(nn.Linear(8, 12), nn.GLU(), nn.Linear(6, 1)), (8,)),
    "tokens through attention": first(attended(call={"need_weights": False})),
    "tokens through a transformer": first(transformer),
    "tokens through an LSTM": first(recurrent(nn.LSTM)),
    "bag of embeddings": Case(
        lambda: nn.Sequential(nn.EmbeddingBag(10, WIDTH, mode="mean"), nn.Linear(WIDTH, 5), nn.ReLU(), nn.Linear(5, 1)),
        (STEPS,), ids=True,
    ),
}  # fmt: skip

CASES = {**SEQUENCES, **IMAGES, **FLAT}
BOUNDS = {
    "attention": (0.048, 0.25),
    "attention, weights not asked for": (0.048, 0.25),
    "attention, steps first": (0.048, 0.25),
    "attention, causal": (0.048, 0.24),
    "attention, causal, no weights": (0.048, 0.24),
    "attention, padded": (0.052, 0.26),
    "attention, padded, weights of each head": (0.052, 0.26),
    "attention, bias of keys": (0.036, 0.12),
    "attention, a key of zeros": (0.052, 0.28),
    "encoder layer": (0.18, 0.57),
    "encoder layer, norm first": (0.082, 0.39),
    "encoder layer, masked": (0.15, 0.58),
    "decoder layer": (0.28, 0.55),
    "decoder layer, norm first": (0.14, 0.41),
    "transformer": (0.19, 0.29),
    "attention by einsum": (0.014, 0.077),
    "grouped heads": (0.0062, 0.13),
    "rotary attention": (0.007, 0.057),
    "Llama block": (0.15, 0.57),
    "LSTM": (0.0028, 0.058),
    "LSTM, two directions": (0.0032, 0.087),
    "LSTM, stacked, steps first": (0.0028, 0.041),
    "LSTM, projected": (0.001, 0.062),
    "GRU": (0.0013, 0.065),
    "GRU, two directions, steps first": (0.0015, 0.071),
    "RNN, stacked, two directions": (0.021, 0.17),
    "RNN of ReLU": (0.013, 0.081),
    "group norm": (0.32, 0.73),
    "instance norm": (0.38, 0.83),
    "instance norm by running statistics": (0.12, 0.42),
    "batch norm": (0.12, 0.42),
    "RMS norm over pixels": (0.37, 0.5),
    "local response norm": (0.085, 0.21),
    "squeeze and excitation": (0.029, 0.062),
    "ConvNeXt block": (0.038, 0.078),
    "UNet, nearest": (0.035, 0.14),
    "UNet, bilinear": (0.031, 0.14),
    "gated linear unit": (0.001, 0.0064),
    "weight norm": (0.071, 0.18),
    "spectral norm": (0.091, 0.33),
    "depthwise and pointwise": (0.017, 0.14),
    "pixel shuffle": (0.019, 0.067),
    "unfold and fold": (0.093, 0.37),
    "bilinear layer": (0.001, 0.001),
    "cosine of two branches": (0.037, 0.36),
    "gated MLP": (0.001, 0.015),
    "tokens through attention": (0.0099, 0.19),
    "tokens through a transformer": (0.0022, 0.085),
    "tokens through an LSTM": (0.0023, 0.03),
    "bag of embeddings": (0.015, 0.054),
}  # fmt: skip


def inputs(case: Case) -> Tensor:
    g = torch.Generator().manual_seed(5)
    if case.ids:
        return torch.randint(1, 10, (ROWS, *case.shape), generator=g)
    return torch.randn(ROWS, *case.shape, generator=g)


def made(case: Case) -> nn.Module:
    torch.manual_seed(1)
    module = case.module().eval()
    for name, buffer in module.named_buffers():
        if "running" in name:
            buffer.copy_(torch.rand_like(buffer) + 0.5)
    for name, parameter in module.named_parameters():
        if parameter.dim() > 1 and "embedding" not in name:
            parameter.data *= 1.5  # random layers of this size hardly bend otherwise
    return module


def explained(case: Case, model: Any, x: Tensor, method: Any) -> Any:
    return dasp.Explainer(model, 0, players=case.mask(), method=method)(x)


def error(found: Tensor, exact: Tensor) -> float:
    return float((found - exact).norm() / exact.norm())


LONG = {
    "LSTM, two directions", "LSTM, stacked, steps first", "GRU, two directions, steps first", "RNN, stacked, two directions",
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("name", [pytest.param(one, marks=pytest.mark.long) if one in LONG else one for one in CASES])
def test_architectures(name: str) -> None:
    case = CASES[name]
    x = inputs(case)
    model = dasp.model.Model(made(case))
    exact = explained(case, model, x, dasp.Exact()).per_player
    found = explained(case, model, x, dasp.Propagation()).per_player
    diagonal = explained(case, model, x, dasp.Propagation(rank=0)).per_player
    assert found.dtype == torch.float32
    assert found.isfinite().all()
    assert diagonal.isfinite().all()
    largest, largest_diagonal = BOUNDS[name]
    assert error(found, exact) < largest
    assert error(diagonal, exact) < largest_diagonal
    alone = explained(case, model, x[1:2], dasp.Propagation()).per_player
    torch.testing.assert_close(alone, found[1:2], rtol=1e-3, atol=1e-4 * float(found.abs().max()))
