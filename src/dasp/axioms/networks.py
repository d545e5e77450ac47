"""Small networks of which it is known what an attribution must satisfy.

All are `nn.Sequential` of modules used once each, in float64 on the CPU, with one output (rows, 1), so that tools which look
at modules can read them. Their weights are written out, or drawn from a seed that leaves torch's own generator alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn

Made = TypeVar("Made")
Numbers = Sequence[Sequence[float]]


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Everything drawn in the block comes from `seed`, on the CPU, and can take part in automatic differentiation."""
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.device("cpu"):
        torch.manual_seed(seed)
        yield


def made(seed: int, make: Callable[[], Made]) -> Made:
    """What `make` builds from random numbers of this seed."""
    with seeded(seed):
        return make()


def linear(weight: Numbers | Tensor, bias: Sequence[float] | Tensor | None = None) -> nn.Linear:
    """A dense layer with these weights (out, in) and biases (out,), zero if left out."""
    matrix = torch.as_tensor(weight, dtype=torch.float64, device="cpu")
    # Without the weights that a new layer draws from torch's own generator.
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, matrix.shape[1], matrix.shape[0], dtype=torch.float64, device="cpu")
    with torch.no_grad():
        layer.weight.copy_(matrix)
        layer.bias.copy_(torch.as_tensor([0.0] * len(matrix) if bias is None else bias, device="cpu"))
    return layer


def drawn(out: int, fan_in: int) -> nn.Linear:
    """A dense layer of random weights of variance 2 / fan_in (He et al. 2015), biases of variance 1/4."""
    return linear(torch.randn(out, fan_in, dtype=torch.float64) * (2 / fan_in) ** 0.5, torch.randn(out) / 2)


def mlp(inputs: int, *, outputs: int = 1) -> nn.Sequential:
    """Two hidden layers of 12 and 8 ReLUs."""
    return nn.Sequential(drawn(12, inputs), nn.ReLU(), drawn(8, 12), nn.ReLU(), drawn(outputs, 8))


def minimum() -> nn.Sequential:
    """`min(x1, x2) = x1 - relu(x1 - x2)` for x1 >= 0, with x1 = relu(x1) (Ancona, Oztireli and Gross 2019)."""
    return nn.Sequential(linear([[1, 0], [1, -1]]), nn.ReLU(), linear([[1, -1]]))


def other_minimum() -> nn.Sequential:
    """The same for x2 >= 0 from the other side: `x2 - relu(x2 - x1)`."""
    return nn.Sequential(linear([[0, 1], [-1, 1]]), nn.ReLU(), linear([[1, -1]]))


def extremes(weights: Numbers) -> nn.Sequential:
    """Weighted sums of `min(x1, x2)` and `max(x1, x2) = x2 + relu(x1 - x2)`, weights (out, 2), for inputs >= 0."""
    parts = torch.tensor([[1.0, 0, -1], [0, 1, 1]], dtype=torch.float64, device="cpu")
    mixed = torch.tensor(weights, dtype=torch.float64, device="cpu") @ parts
    return nn.Sequential(linear([[1, 0], [0, 1], [1, -1]]), nn.ReLU(), linear(mixed))


def saturated() -> nn.Sequential:
    """`1 - relu(1 - x)`, flat from x = 1 on (Sundararajan, Taly and Yan 2017, section 2.1)."""
    return nn.Sequential(linear([[-1]], [1]), nn.ReLU(), linear([[-1]], [1]))


def stepped_first() -> nn.Sequential:
    """`relu(relu(x1) - 1 - relu(x2))` (Sundararajan, Taly and Yan 2017, figure 7, f)."""
    return nn.Sequential(linear([[1, 0], [0, 1]]), nn.ReLU(), linear([[1, -1]], [-1]), nn.ReLU(), linear([[1]]))


def stepped_second() -> nn.Sequential:
    """`relu(relu(x1 - 1) - relu(x2))`, the same function (figure 7, g)."""
    return nn.Sequential(linear([[1, 0], [0, 1]], [-1, 0]), nn.ReLU(), linear([[1, -1]]), nn.ReLU(), linear([[1]]))


def opposite_units() -> nn.Sequential:
    """A perceptron of 8 inputs whose last one enters two pairs of equal units only; the next layer takes one off the other."""
    first, second, last = drawn(8, 8), drawn(8, 8), drawn(1, 8)
    pair, weight = torch.randn(2, 8, dtype=torch.float64), torch.randn(8, 2, dtype=torch.float64)
    with torch.no_grad():
        first.weight[:, -1] = 0
        wide = linear(torch.cat((first.weight, pair, pair)), torch.cat((first.bias, torch.zeros(4))))
        narrow = linear(torch.cat((second.weight, weight, -weight), 1), second.bias)
    return nn.Sequential(wide, nn.ReLU(), narrow, nn.ReLU(), last)


def projected() -> nn.Sequential:
    """Two linear layers in a row, the second blind to the direction into which the first puts the last of 8 inputs."""
    first, second = drawn(10, 8), drawn(10, 10)
    with torch.no_grad():
        direction = first.weight[:, -1:] / first.weight[:, -1].norm()
        blind = linear(second.weight - second.weight @ direction @ direction.T, second.bias)
    return nn.Sequential(first, blind, nn.ReLU(), drawn(1, 10))


def hat() -> nn.Sequential:
    """A perceptron of 8 inputs whose last one enters as `relu(x) - 2 relu(x - 1)` only, which is 0 at 0 and at 2.

    For inputs >= 0. The last player is null in the game between 0 and 2, though the network depends on it in between.
    """
    units, enters = torch.cat((torch.eye(8), torch.eye(8)[-1:])), torch.randn(8, 8)
    weight = torch.cat((enters, -2 * enters[:, -1:]), 1)
    return nn.Sequential(linear(units, [0.0] * 8 + [-1.0]), nn.ReLU(), linear(weight, torch.randn(8)), nn.ReLU(), drawn(1, 8))


def alike() -> nn.Sequential:
    """A perceptron of 8 inputs that reads the first and the last with the same weights."""
    network = mlp(8)
    layer = _dense(network, 0)
    with torch.no_grad():
        layer.weight[:, -1] = layer.weight[:, 0]
    return network


def pooled(height: int, width: int, window: int, *, outputs: int = 1) -> nn.Sequential:
    """An image (1, height, width) through a 1x1 convolution, ReLU, max pooling and two dense layers: all pixels of a window
    do the same.
    """
    convolution = nn.Conv2d(1, 3, 1).double()
    with torch.no_grad():
        convolution.weight.copy_(torch.tensor([1.0, -1.0, 0.5]).reshape(3, 1, 1, 1))
    size = 3 * (height // window) * (width // window)
    head = (nn.Flatten(), drawn(6, size), nn.ReLU(), drawn(outputs, 6))
    return nn.Sequential(convolution, nn.ReLU(), nn.MaxPool2d(window), *head)


def mirrored() -> nn.Sequential:
    """A sequence (1, 9) through a convolution with a kernel that reads the same backwards, and global average pooling."""
    convolution = nn.Conv1d(1, 6, 3, padding=1).double()
    with torch.no_grad():
        half = torch.randn_like(convolution.weight) / 6**0.5
        convolution.weight.copy_(half + half.flip(-1))
    return nn.Sequential(convolution, nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), drawn(6, 6), nn.ReLU(), drawn(1, 6))


def conjunction() -> nn.Sequential:
    """`relu(x1 + x7 + x8 - 4 + what five others add)`: behind a larger x7, the first and the last player lead by turns."""
    return nn.Sequential(linear([[1, 0.5, -0.4, 0.3, 0.6, -0.2, 1, 1]], [-4]), nn.ReLU(), linear([[1]]))


def scored() -> nn.Sequential:
    """Seven players raise five scores, inputs 0 and 1 one score each; the output is the probability of a third score."""
    scores = torch.zeros(5, 7, dtype=torch.float64, device="cpu")
    for score, players in enumerate(((0,), (2,), (1,), (3, 4, 5, 6), (4,))):
        scores[score, list(players)] = 1
    return nn.Sequential(linear(scores), nn.Softmax(1), linear([[0, 1, 0, 0, 0]]))


def beside(first: nn.Sequential, second: nn.Sequential, weights: tuple[float, float]) -> nn.Sequential:
    """`a f + b g` of two perceptrons of the same depth, side by side as one."""
    layers: list[nn.Module] = []
    dense = [(f, g) for f, g in zip(first, second, strict=True) if isinstance(f, nn.Linear) and isinstance(g, nn.Linear)]
    for place, (f, g) in enumerate(dense):
        if place == 0:
            weight, bias = torch.cat((f.weight, g.weight)), torch.cat((f.bias, g.bias))
        elif place < len(dense) - 1:
            weight, bias = torch.block_diag(f.weight, g.weight), torch.cat((f.bias, g.bias))
        else:
            a, b = weights
            weight, bias = torch.cat((a * f.weight, b * g.weight), 1), a * f.bias + b * g.bias
        layers += [linear(weight.detach(), bias.detach()), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def with_head(body: nn.Sequential, weights: Sequence[float]) -> nn.Sequential:
    """One weighted sum of the outputs of a network whose last layer is dense, folded into that layer."""
    last = _dense(body, -1)
    mixed = torch.tensor([weights], dtype=torch.float64, device="cpu")
    return nn.Sequential(*_copies(body, 0, -1), linear(mixed @ last.weight.detach(), mixed @ last.bias.detach()))


Pair = tuple[nn.Sequential, nn.Sequential]
"""Two networks that compute the same function."""


def turned_on(network: nn.Sequential, x: Tensor) -> tuple[nn.Sequential, Tensor]:
    """A perceptron with the bias of one unit of its first layer moved so that its ReLU turns on at x (1, n).

    The unit is the one that the output depends on most. With it comes its direction, (1, n).
    """
    layer, after = _dense(network, 0), _dense(network, 2)
    with torch.no_grad():
        unit = int((after.weight.norm(dim=0) * layer.weight.norm(dim=1)).argmax())
        layer.bias[unit] = -layer.weight[unit] @ x[0]
    return network, layer.weight[unit].detach().clone().unsqueeze(0)


def split_in_two(network: nn.Sequential) -> nn.Sequential:
    """A perceptron with its first layer as a product of two: `W = (W A) A^-1` with A orthogonal."""
    layer = _dense(network, 0)
    size = layer.in_features
    orthogonal = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64)).Q
    two = (linear(orthogonal.T), linear(layer.weight.detach() @ orthogonal, layer.bias.detach()))
    return nn.Sequential(*two, *_copies(network, 1))


def other_units(network: nn.Sequential) -> nn.Sequential:
    """A perceptron with the ReLUs of its first layer in another order and of another scale: `relu(c z) / c`."""
    layer, after = _dense(network, 0), _dense(network, 2)
    size = layer.out_features
    order, scale = torch.randperm(size), torch.rand(size, 1, dtype=torch.float64) * 4 + 0.25
    with torch.no_grad():
        before = linear(scale * layer.weight[order], scale.squeeze(1) * layer.bias[order])
        behind = linear(after.weight[:, order] / scale.T, after.bias)
    return nn.Sequential(before, nn.ReLU(), behind, *_copies(network, 3))


def written_twice(network: nn.Sequential) -> nn.Sequential:
    """A perceptron with every ReLU of its first layer twice, at half its weight."""
    layer, after = _dense(network, 0), _dense(network, 2)
    with torch.no_grad():
        twice = linear(layer.weight.repeat(2, 1), layer.bias.repeat(2))
        halved = linear(after.weight.repeat(1, 2) / 2, after.bias)
    return nn.Sequential(twice, nn.ReLU(), halved, *_copies(network, 3))


def normalised(network: nn.Sequential) -> nn.Sequential:
    """A perceptron with a batch normalisation behind its first layer, whose weights make up for it."""
    layer = _dense(network, 0)
    norm = nn.BatchNorm1d(layer.out_features).double().eval()
    with torch.no_grad():
        norm.running_mean, norm.running_var = torch.randn_like(norm.weight), torch.rand_like(norm.weight) + 0.5
        norm.weight.uniform_(-2, -0.5)
        norm.bias.normal_()
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        before = linear(layer.weight / scale.unsqueeze(1), (layer.bias - norm.bias) / scale + norm.running_mean)
    return nn.Sequential(before, norm, *_copies(network, 1))


def pooling_as_units() -> Pair:
    """Max pooling in pairs, and `max(a, b) = a + relu(b - a)` in place of it, for a, b >= 0 (they come from a ReLU)."""
    first, last = drawn(8, 8), (drawn(6, 4), nn.ReLU(), drawn(1, 6))
    parts, sums = torch.zeros(8, 8, dtype=torch.float64), torch.zeros(4, 8, dtype=torch.float64)
    for window in range(4):
        a, b = 2 * window, 2 * window + 1
        parts[a, a], parts[b, b], parts[b, a] = 1, 1, -1
        sums[window, [a, b]] = 1
    pooling = nn.Sequential(first, nn.ReLU(), nn.Unflatten(1, (1, 8)), nn.MaxPool1d(2), nn.Flatten(), *last)
    again = copy.deepcopy((first, *last))
    return pooling, nn.Sequential(again[0], nn.ReLU(), linear(parts), nn.ReLU(), linear(sums), *again[1:])


def convolution_as_dense() -> Pair:
    """A convolution of a sequence (1, 8) with stride 2, and the dense layer with its weights."""
    convolution = nn.Conv1d(1, 3, 4, stride=2).double()
    with torch.no_grad():
        bias = convolution(torch.zeros(1, 1, 8, dtype=torch.float64)).flatten()
        weight = convolution(torch.eye(8, dtype=torch.float64).unsqueeze(1)).flatten(1).T - bias.unsqueeze(1)
    last = (nn.ReLU(), drawn(6, 9), nn.ReLU(), drawn(1, 6))
    windows = nn.Sequential(convolution, nn.Flatten(), *last)
    return windows, nn.Sequential(nn.Flatten(), linear(weight, bias), *copy.deepcopy(last))


def _copies(network: nn.Sequential, start: int, stop: int | None = None) -> list[nn.Module]:
    return [copy.deepcopy(layer) for layer in list(network)[start:stop]]


def _dense(network: nn.Sequential, place: int) -> nn.Linear:
    layer = network[place]
    assert isinstance(layer, nn.Linear)
    return layer
