"""What is measured on which constructed network, axiom by axiom."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor, nn

from ..model import Model
from . import networks
from .measurement import (
    COMPLETENESS,
    CONTINUITY,
    INVARIANCE,
    LINEARITY,
    NULL_PLAYER,
    SYMMETRY,
    difference,
    incompleteness,
    inequality,
    share,
    step_left,
)

STEP = 1e-6
"""Distance between the inputs on both sides of a place where values may jump."""

Explain = Callable[[Model, Tensor, Tensor], Tensor]
"""Attributions per player, (B, n), of a network at x (B, *shape) from a baseline (1, *shape)."""


@dataclass(frozen=True)
class Case:
    """One constructed network, and how the violation of one axiom is measured on it."""

    axiom: str
    network: str
    measure: Callable[[Explain], Tensor]


def row(*numbers: float, shape: tuple[int, ...] = (-1,)) -> Tensor:
    """One input, (1, *shape)."""
    return torch.tensor(numbers, dtype=torch.float64, device="cpu").reshape(1, *shape)


EIGHT = row(0.9, -1.3, 0.4, 1.6, -0.5, 0.7, -1.1, 1.2)
OTHER_EIGHT = row(-0.3, 0.2, 0.6, -0.8, 0.1, -0.4, -0.6, 0.4)
# Two pixels on a diagonal of a 2x2 window are equal and the largest, so that they are interchangeable and take turns.
TWO_WINDOWS = row(1, 0.7, -0.4, 0.9, -0.2, 1, 0.5, 0.3, shape=(1, 2, 4))
ONE_WINDOW = row(1, 0.7, -0.4, 0.9, -0.2, 0.6, 0.5, 0.3, 1, shape=(1, 3, 3))
PALINDROME = row(1, 0.7, -0.4, 0.9, -0.2, 0.9, -0.4, 0.7, 1, shape=(1, 9))


class Library:
    """Networks that several axioms share; each is made once and captured once."""

    @cached_property
    def perceptron(self) -> nn.Sequential:
        """8 players."""
        return networks.made(0, lambda: networks.mlp(8))

    @cached_property
    def images(self) -> nn.Sequential:
        """8 pixels in two pooling windows, two outputs."""
        return networks.made(14, lambda: networks.pooled(2, 4, 2, outputs=2))

    @cached_property
    def image(self) -> nn.Sequential:
        """The first output of `images`."""
        return networks.with_head(self.images, (1, 0))

    @cached_property
    def minimum(self) -> nn.Sequential:
        """2 players."""
        return networks.minimum()

    def __init__(self) -> None:
        self._models: dict[int, Model] = {}

    def model(self, network: nn.Sequential) -> Model:
        """The one model of a network; a model keeps its captured graph, and its network alive."""
        if id(network) not in self._models:
            self._models[id(network)] = Model(network)
        return self._models[id(network)]


def completeness(library: Library) -> Iterator[Case]:
    """The values against the change of the output."""

    def case(title: str, network: nn.Sequential, x: Tensor, baseline: Tensor) -> Case:
        model = library.model(network)

        def measure(explain: Explain) -> Tensor:
            change = (model.evaluate(x) - model.evaluate(baseline))[:, 0]
            return incompleteness(explain(model, x, baseline), change)

        return Case(COMPLETENESS, title, measure)

    yield case("1 - relu(1 - x) at 2", networks.saturated(), row(2), row(0))
    yield case("min(x1, x2) at (2, 1)", library.minimum, row(2, 1), row(0, 0))
    yield case("perceptron", library.perceptron, EIGHT, OTHER_EIGHT)
    yield case("CNN with 2x2 pooling", library.image, TWO_WINDOWS, OTHER_EIGHT.reshape(1, 1, 2, 4))


def null_player(library: Library) -> Iterator[Case]:
    """What the last player gets, which changes nothing."""

    def case(title: str, network: nn.Sequential, x: Tensor) -> Case:
        model, last = library.model(network), x.numel() - 1
        return Case(NULL_PLAYER, title, lambda explain: share(explain(model, x, torch.zeros_like(x)), last))

    yield case("units that cancel", networks.made(3, networks.opposite_units), EIGHT)
    yield case("linear layers that cancel", networks.made(4, networks.projected), EIGHT)
    yield case("a hat, 0 at both ends", networks.made(5, networks.hat), torch.cat((EIGHT[:, :7].abs(), row(2)), 1))


def symmetry(library: Library) -> Iterator[Case]:
    """Pairs of players that do the same."""

    def case(title: str, network: nn.Sequential, x: Tensor, *pairs: tuple[int, int]) -> Case:
        model = library.model(network)

        def measure(explain: Explain) -> Tensor:
            values = explain(model, x, torch.zeros_like(x))
            return torch.stack([inequality(values, i, j) for i, j in pairs])

        return Case(SYMMETRY, title, measure)

    yield case("min(x1, x2) at (2, 2)", library.minimum, row(2, 2), (0, 1))
    equal_ends = torch.cat((EIGHT[:, :7], EIGHT[:, :1]), 1)
    yield case("perceptron with equal columns", networks.made(1, networks.alike), equal_ends, (0, 7))
    yield case("pixels of a 2x2 window", library.image, TWO_WINDOWS, (0, 5))
    yield case("pixels of a 3x3 window", networks.made(6, lambda: networks.pooled(3, 3, 3)), ONE_WINDOW, (0, 8))
    yield case("mirrored places of a CNN", networks.made(7, networks.mirrored), PALINDROME, *((i, 8 - i) for i in range(4)))
    yield case("scores of a softmax over five", networks.scored(), row(1, 1, 0.7, -0.4, 0.6, 0.2, -0.3), (0, 1))


def linearity(library: Library) -> Iterator[Case]:
    """Networks f, g and 2 f - g."""

    def case(title: str, three: Sequence[nn.Sequential], x: Tensor) -> Case:
        models = [library.model(network) for network in three]

        def measure(explain: Explain) -> Tensor:
            f, g, mixed = (explain(model, x, torch.zeros_like(x)) for model in models)
            return difference(mixed, 2 * f - g)

        return Case(LINEARITY, title, measure)

    maximum, mixed = networks.extremes([[0, 1]]), networks.extremes([[2, -1]])
    yield case("2 min(x1, x2) - max(x1, x2)", (library.minimum, maximum, mixed), row(2, 1))
    second = networks.made(8, lambda: networks.mlp(8))
    beside = networks.beside(library.perceptron, second, (2, -1))
    yield case("two perceptrons side by side", (library.perceptron, second, beside), EIGHT)
    heads = [networks.with_head(library.images, weights) for weights in ((0, 1), (2, -1))]
    yield case("two outputs of a CNN", (library.image, *heads), TWO_WINDOWS)


def continuity(library: Library) -> Iterator[Case]:
    """Places where gradients or maxima change over."""

    def case(title: str, network: nn.Sequential, x: Tensor, direction: Tensor) -> Case:
        model = library.model(network)
        places = torch.cat([x + side * STEP * direction for side in (-1.5, -0.5, 0.5, 1.5)])
        return Case(CONTINUITY, title, lambda explain: step_left(explain(model, places, torch.zeros_like(x))))

    first = torch.eye(8, dtype=torch.float64, device="cpu")[:1]
    yield case("min(x1, x2) at (2, 2 - e) and (2, 2 + e)", library.minimum, row(2, 2), row(0, 1))
    turning, direction = networks.turned_on(networks.made(9, lambda: networks.mlp(8)), EIGHT)
    yield case("perceptron where a ReLU turns on", turning, EIGHT, direction)
    led = row(3, 0.9, -0.8, 0.7, 0.6, -0.5, 3.5, 3)
    yield case("a conjunction whose leading players take turns", networks.conjunction(), led, first)
    yield case("pixels of a 2x2 window that take turns", library.image, TWO_WINDOWS, first.reshape(1, 1, 2, 4))


def invariance(library: Library) -> Iterator[Case]:
    """Two networks that compute the same function."""

    def case(title: str, one: nn.Sequential, other: nn.Sequential, x: Tensor) -> Case:
        models = library.model(one), library.model(other)

        def measure(explain: Explain) -> Tensor:
            first, second = (explain(model, x, torch.zeros_like(x)) for model in models)
            return difference(first, second)

        return Case(INVARIANCE, title, measure)

    first, second = networks.stepped_first(), networks.stepped_second()
    yield case("relu(relu(x1) - 1 - relu(x2)) at (3, 1)", first, second, row(3, 1))
    yield case("min(x1, x2) from either side", library.minimum, networks.other_minimum(), row(2, 1))
    rewritten = {
        "a linear layer in two": networks.split_in_two,
        "ReLUs in other order and scale": networks.other_units,
        "every ReLU written twice": networks.written_twice,
        "batch normalisation before the ReLUs": networks.normalised,
    }
    for title, rewrite in rewritten.items():
        other = networks.made(10, partial(rewrite, library.perceptron))
        yield case(title, library.perceptron, other, EIGHT)
    yield case("max pooling as ReLUs", *networks.made(11, networks.pooling_as_units), EIGHT)
    yield case("a convolution as a dense layer", *networks.made(12, networks.convolution_as_dense), EIGHT.unsqueeze(1))


BY_AXIOM: dict[str, Callable[[Library], Iterator[Case]]] = {
    COMPLETENESS: completeness,
    NULL_PLAYER: null_player,
    SYMMETRY: symmetry,
    LINEARITY: linearity,
    CONTINUITY: continuity,
    INVARIANCE: invariance,
}
