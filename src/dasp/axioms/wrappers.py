"""Modules around a user's model, for which it is known what an attribution must satisfy.

Each takes the model's inputs, in `arguments`, then one more input where it says so, then the model's further arguments. They
only use operations that `torch.export` captures and that have moment rules.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Ignoring(nn.Module):
    """`f(x) + 0 d` of `f`'s inputs and one more number a row, d. The 0 gives it a gradient, which some tools insist on."""

    def __init__(self, model: nn.Module, inputs: int) -> None:
        super().__init__()
        self.model, self.inputs = model, inputs

    def forward(self, *arguments: Any) -> Tensor:
        """The model without argument number `inputs`, (rows, 1)."""
        result: Tensor = self.model(*arguments[: self.inputs], *arguments[self.inputs + 1 :])
        nothing: Tensor = 0 * arguments[self.inputs].reshape(-1, *[1] * (result.dim() - 1))
        return result + nothing


class Cancelling(nn.Module):
    """`f((x + u d) - u d)` of `f`'s inputs and one more number a row, d: it enters input `place`, and is taken off again."""

    def __init__(self, model: nn.Module, inputs: int, place: int, direction: Tensor) -> None:
        super().__init__()
        self.model, self.inputs, self.place = model, inputs, place
        self.register_buffer("direction", direction)

    def forward(self, *arguments: Any) -> Tensor:
        """The model of inputs to which `direction` (*shape) times the additional one (rows, 1) is added and subtracted."""
        x, d = arguments[self.place], arguments[self.inputs]
        added = self.direction * d.reshape(-1, *[1] * (x.dim() - 1))
        inputs = [*arguments[: self.inputs]]
        inputs[self.place] = (x + added) - added
        result: Tensor = self.model(*inputs, *arguments[self.inputs + 1 :])
        return result


class Sharing(nn.Module):
    """`f(x with the elements of one player halved between x and y)` of `f`'s inputs and one more, y, of an input's shape.

    With y = x and one baseline, the player and its copy in y do the same.
    """

    def __init__(self, model: nn.Module, inputs: int, place: int, owned: Tensor) -> None:
        super().__init__()
        self.model, self.inputs, self.place = model, inputs, place
        self.register_buffer("copied", owned / 2)
        self.register_buffer("kept", 1 - owned / 2)

    def forward(self, *arguments: Any) -> Tensor:
        """The model of inputs of which number `place` is a mean of two where the player owns it."""
        inputs = [*arguments[: self.inputs]]
        inputs[self.place] = inputs[self.place] * self.kept + arguments[self.inputs] * self.copied
        result: Tensor = self.model(*inputs, *arguments[self.inputs + 1 :])
        return result


class Flipped(nn.Module):
    """`f` of its inputs read backwards along all axes: another function of the same inputs."""

    def __init__(self, model: nn.Module, inputs: int) -> None:
        super().__init__()
        self.model, self.inputs = model, inputs

    def forward(self, *arguments: Any) -> Tensor:
        """The model of flipped inputs; an input that is one number a row stays as it is."""
        inputs = [x.flip(tuple(range(1, x.dim()))) if x.dim() > 1 else x for x in arguments[: self.inputs]]
        result: Tensor = self.model(*inputs, *arguments[self.inputs :])
        return result


class Combined(nn.Module):
    """`2 f(x) - g(x)`, of models that share no module: tools that look at modules want each used once."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, *arguments: Any) -> Tensor:
        """Twice the first less the second."""
        result: Tensor = 2 * self.first(*arguments) - self.second(*arguments)
        return result


class Units(nn.Module):
    """`relu(2 x) / 2 - relu(-x)`, which is x."""

    def __init__(self) -> None:
        super().__init__()
        self.positive, self.negative = nn.ReLU(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """x, (...)."""
        # Neither unit takes x itself: captum's DeepLift mixes up units that share their input (0.9).
        result: Tensor = self.positive(2 * x) / 2 - self.negative(-x)
        return result


class Reflections(nn.Module):
    """`H H x = x` with the reflection `H = 1 - 2 v v'` (Householder 1958), over the elements of each row."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        size = x[:1].numel()
        # Of equal magnitude, so that every element meets every other; the signs come from no generator.
        signs = 1.0 - 2.0 * (torch.arange(size, device=x.device) % 3 == 1).to(x.dtype)
        direction = (signs / size**0.5).unsqueeze(0)
        self.first, self.second = nn.Parameter(direction.clone()), nn.Parameter(direction.clone())

    def forward(self, x: Tensor) -> Tensor:
        """x, (rows, *shape), but for rounding."""
        flat = x.reshape(x.shape[0], -1)
        for direction in (self.first, self.second):
            along = nn.functional.linear(flat, direction)
            flat = flat - nn.functional.linear(along, 2 * direction.T)
        return flat.reshape(x.shape)


class Before(nn.Module):
    """`f(g(x))` for a g that changes nothing, at input `place`."""

    def __init__(self, model: nn.Module, place: int, change: nn.Module) -> None:
        super().__init__()
        self.model, self.place, self.change = model, place, change

    def forward(self, *arguments: Any) -> Tensor:
        """The model's own output, but for rounding."""
        inputs = [*arguments]
        inputs[self.place] = self.change(inputs[self.place])
        result: Tensor = self.model(*inputs)
        return result


class Behind(nn.Module):
    """`g(f(x))` for a g that changes nothing."""

    def __init__(self, model: nn.Module, change: nn.Module) -> None:
        super().__init__()
        self.model, self.change = model, change

    def forward(self, *arguments: Any) -> Tensor:
        """The model's own output."""
        result: Tensor = self.change(self.model(*arguments))
        return result
