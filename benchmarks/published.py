"""DASP as it was published (Ancona, Oztireli, Gross, ICML 2019), as a plain and fast reference to time against.

For every player i and every coalition size k the network is propagated twice, without i and with i, as means and
variances only (the diagonal propagation of Gast and Roth 2018), and the attribution is the mean difference of the two
outputs over the sizes. All players and sizes go through the network in large batches; what does not depend on the size
is computed once. Only chains of Linear, Conv2d, ReLU, MaxPool2d, Flatten and Dropout, zero baseline.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

TINY = 1e-12


@dataclass(frozen=True)
class Diagonal:
    """Mean and variance of independent normal activations, both (rows, *shape)."""

    mean: Tensor
    variance: Tensor


def _overshoot(ratio: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Phi(a), h(a) = phi(a) + a Phi(a) and h(-a) = phi(a) - a Phi(-a)."""
    cumulative = 0.5 * torch.erfc(ratio * -math.sqrt(0.5))
    density = torch.exp(-0.5 * ratio * ratio) / math.sqrt(2 * math.pi)
    above = density + ratio * cumulative
    return cumulative, above, above - ratio


def relu(value: Diagonal) -> Diagonal:
    """E = s h(a), Var = v (Phi(a) - h(a) h(-a)) with s^2 = v, a = m / s."""
    variance = value.variance.clamp_min(TINY)
    deviation = variance.sqrt()
    cumulative, above, below = _overshoot(value.mean / deviation)
    return Diagonal(deviation * above, (variance * (cumulative - above * below)).clamp_min(0))


def larger(first: Diagonal, second: Diagonal) -> Diagonal:
    """The larger of two independent normals (Clark 1961)."""
    total = (first.variance + second.variance).clamp_min(TINY)
    spread = total.sqrt()
    cumulative, above, below = _overshoot((first.mean - second.mean) / spread)
    mean = second.mean + spread * above
    mixed = second.variance + (first.variance - second.variance) * cumulative
    # Var = vb + t^2 (Phi(a) - h(a) h(-a)) - 2 vb Phi(a), with t^2 = va + vb.
    return Diagonal(mean, (mixed - total * above * below).clamp_min(0))


def max_pool(value: Diagonal, size: int) -> Diagonal:
    """Non-overlapping maxima of `size` x `size`, pair by pair along the width, then along the height."""
    for axis in (-1, -2):
        windows = value.mean.shape[axis] // size
        places = [torch.arange(windows) * size + place for place in range(size)]
        parts = [Diagonal(value.mean.index_select(axis, p), value.variance.index_select(axis, p)) for p in places]
        while len(parts) > 1:
            parts = [larger(*parts[i : i + 2]) if i + 1 < len(parts) else parts[i] for i in range(0, len(parts), 2)]
        value = parts[0]
    return value


def _layer(layer: nn.Module, value: Diagonal) -> Diagonal:
    match layer:
        case nn.Linear():
            return Diagonal(layer(value.mean), F.linear(value.variance, layer.weight**2))
        case nn.Conv2d():
            return Diagonal(layer(value.mean), _convolve(layer, value.variance, layer.weight**2))
        case nn.ReLU():
            return relu(value)
        case nn.MaxPool2d():
            return max_pool(value, int(layer.kernel_size))
        case nn.Flatten():
            return Diagonal(value.mean.flatten(1), value.variance.flatten(1))
        case nn.Dropout():
            return value
    raise SystemExit(f"published.py knows no moment rule for {type(layer).__name__}.")


def _convolve(layer: nn.Conv2d, value: Tensor, weight: Tensor) -> Tensor:
    return F.conv2d(value, weight, None, layer.stride, layer.padding, layer.dilation, layer.groups)


def _first(layer: nn.Module, value: Tensor, weight: Tensor) -> Tensor:
    return F.linear(value, weight) if isinstance(layer, nn.Linear) else _convolve(layer, value, weight)


def coalition_sizes(players: int, sizes: int) -> Tensor:
    """`sizes` coalition sizes, the centres of equal parts of 0..players-1; all of them where sizes equals players."""
    return (torch.arange(sizes) + 0.5) * players / sizes - 0.5


@torch.inference_mode()
def dasp(
    model: nn.Sequential, inputs: Tensor, targets: Tensor, *, sizes: int, rows: int = 512, progress: bool = False
) -> Tensor:
    """Attributions (B, n) of inputs (B, *shape) for one target output per row, against the zero baseline.

    `rows` bounds how many propagated rows go through the network at a time.
    """
    first, rest = model[0], list(model)[1:]
    players = inputs[0].numel()
    coalitions = coalition_sizes(players, sizes)
    chunk = max(1, rows // (2 * sizes))
    values = torch.zeros(len(inputs), players)
    for row, (entry, target) in enumerate(zip(tqdm(inputs, disable=not progress, leave=False), targets, strict=True)):
        for start in range(0, players, chunk):
            group = torch.arange(start, min(start + chunk, players))
            value = _input_layer(first, entry, group, coalitions)
            for layer in rest:
                value = _layer(layer, value)
            without, joined = value.mean[:, target].view(2, len(group), sizes)
            values[row, group] = (joined - without).mean(dim=1)
    return values


def _input_layer(layer: nn.Module, entry: Tensor, group: Tensor, coalitions: Tensor) -> Diagonal:
    """After the first layer: rows are (without and with, players of the group, sizes), flattened.

    Over the c other players in a window, of all N others, j = k c / N are expected to be present; sampled without
    replacement their sum has mean j m1 and variance j (m2 - m1^2) (1 - (j - 1) / (c - 1)), where m1 and m2 are the
    means of W x and (W x)^2 over the window. Player i itself adds W_i x_i to the mean.
    """
    others = entry.numel() - 1
    present = torch.ones(len(group), entry.numel())
    present[torch.arange(len(group)), group] = 0
    present = present.view(len(group), *entry.shape)
    masked = present * entry
    weight = layer.weight
    total = _first(layer, masked, weight)  # (players, *out)
    squares = _first(layer, masked * masked, weight * weight)
    count = _first(layer, present, torch.ones_like(weight[:1]))  # (players, 1, *rest)
    own = _first(layer, entry[None], weight) - total
    mean = total / count
    spread = squares / count - mean * mean
    size = coalitions.view(1, -1, *[1] * (total.dim() - 1))
    expected = size * (count / others)[:, None]  # (players, sizes, 1, *rest)
    variance = expected * (1 - (expected - 1) / (count - 1).clamp_min(1)[:, None]) * spread[:, None].clamp_min(0)
    bias = 0 if layer.bias is None else layer.bias.view(-1, *[1] * (total.dim() - 2))
    without = mean[:, None] * expected + bias
    variance = variance.clamp_min(0)
    means = torch.stack([without, without + own[:, None]]).flatten(0, 2)
    variances = torch.stack([variance, variance]).flatten(0, 2)
    return Diagonal(means, variances)
