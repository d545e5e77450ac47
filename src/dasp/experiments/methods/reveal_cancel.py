"""DeepLIFT for chains of layers, with the RevealCancel rule, which no maintained package has.

After Shrikumar, Greenside and Kundaje, "Learning important features through propagating activation differences" (ICML 2017).
Every activation x has its difference from the baseline `d = x - x0 = d+ + d-`, and two multipliers m+ and m-, which say
what its parts d+ and d- contribute to the output: `m+ d+ + m- d-` in all. An output starts with m+ = m- = 1.

Linear rule (section 3.5.1), y = W x + b. A term w_i d_i of y counts to d+ of y where it is positive and to d- where it is
negative; x gets `m = w_i m+ of y` where w_i d_i > 0, `w_i m- of y` where it is < 0, and half of each where d_i = 0. With
|W| for absolute weights and T for the transposed, that is

    d+ = (W d + |W| |d|) / 2,    d- = (W d - |W| |d|) / 2
    m+ = m- = (W^T (m+ + m-) + sign(d) |W|^T (m+ - m-)) / 2    (of x, from those of y)

Rescale (3.5.2), y = f(x): both parts and both multipliers are scaled by `(f(x) - f(x0)) / d`, by f'(x) where d = 0.

RevealCancel (3.5.3), y = f(x): d+ of y is the mean effect of adding d+ of x before and after d-, and likewise for d-:

    d+ of y = (f(x0 + d+) - f(x0) + f(x0 + d- + d+) - f(x0 + d-)) / 2,    m+ of x = m+ of y * (d+ of y) / (d+ of x)

where d+ = 0 the quotient is its limit, the mean slope to the right of x0 and of x0 + d-; likewise for d- to the left.

The paper says nothing about pooling. Average pooling is linear and takes the linear rule. A maximum takes Rescale on one of
its inputs: the winner at x where the maximum is no smaller than at the baseline, else the winner at the baseline. The
difference of that input has the sign of the maximum's and is no smaller, so that nothing is lost; captum's and shap's
DeepLIFT do the same, the authors' code takes the winner at x always and loses what the other one contributes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vjp

from ...errors import InputError
from ..problem import Unsupported

RESCALE = "rescale"
REVEAL_CANCEL = "reveal-cancel"

_DENSE = (nn.Linear,)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_AVERAGES = (
    nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
)  # fmt: skip
_MAXIMA: dict[type[nn.Module], Callable[..., Any]] = {
    nn.MaxPool1d: F.max_pool1d, nn.MaxPool2d: F.max_pool2d, nn.MaxPool3d: F.max_pool3d,
}  # fmt: skip
_NOTHING = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


@dataclass(frozen=True, eq=False)
class _Parts:
    """An activation at the input and at the baseline, and the two parts of the difference; each (B, *shape)."""

    point: Tensor
    start: Tensor
    plus: Tensor  # >= 0
    minus: Tensor  # <= 0


@dataclass(frozen=True, eq=False)
class _Multipliers:
    """What one unit of each part contributes to the output; each (B, *shape)."""

    plus: Tensor
    minus: Tensor


_Pull = Callable[[_Multipliers], _Multipliers]  # multipliers of a layer's output to those of its input


def deep_lift(
    model: nn.Sequential,
    inputs: Tensor,
    targets: Tensor,
    baseline: float | Tensor = 0.0,
    *,
    dense: str = REVEAL_CANCEL,
    conv: str = REVEAL_CANCEL,
) -> Tensor:
    """Contributions of the input elements to one output a row; they add up to the output's difference from the baseline.

    A ReLU belongs to the last dense or convolutional layer before it, to the dense ones where there is none.
    `conv="rescale"` is what the paper calls DeepLIFT-fc-RC-conv-RS; both "rescale" is DeepLIFT as captum and shap have it.
    Takes the time of about five evaluations a row: three forward, two backward.

    Args:
        model: a chain of Linear, Conv, ReLU, MaxPool, AvgPool, AdaptiveAvgPool, Flatten, Dropout and Identity layers, and of
            chains of these; each is taken as in eval mode.
        inputs: (B, *shape), in the model's floating dtype.
        targets: one output index a row, (B,) int64.
        baseline: a number, (*shape), (1, *shape) or (B, *shape).
        dense: "reveal-cancel" or "rescale", for ReLUs after dense layers.
        conv: the same for ReLUs after convolutions.

    Returns:
        (B, *shape).

    Raises:
        Unsupported: a layer has no rule; names it.
        InputError: a rule has another name.
    """
    for name, rule in (("dense", dense), ("conv", conv)):
        if rule not in (RESCALE, REVEAL_CANCEL):
            raise InputError(f"{name} is {RESCALE!r} or {REVEAL_CANCEL!r}, got {rule!r}")
    layers = chain(model)
    with torch.no_grad():
        start = torch.as_tensor(baseline, dtype=inputs.dtype, device=inputs.device).expand_as(inputs)
        parts = _signs(inputs, start)
        pulls = []
        rule = dense
        for name, layer in layers:
            if isinstance(layer, _DENSE + _CONVOLUTIONS):
                rule = dense if isinstance(layer, _DENSE) else conv
            parts, pull = _step(name, layer, parts, rule)
            pulls.append(pull)
        one = F.one_hot(targets, parts.point.shape[1]).to(inputs.dtype)
        multipliers = _Multipliers(one, one)
        for pull in reversed(pulls):
            multipliers = pull(multipliers)
        difference = inputs - start
        return multipliers.plus * difference.clamp(min=0) + multipliers.minus * difference.clamp(max=0)


def chain(model: nn.Module, prefix: str = "") -> list[tuple[str, nn.Module]]:
    """The layers of a chain of chains in the order they are applied, each with its name; other modules are layers."""
    if type(model) is not nn.Sequential:
        return [(prefix or type(model).__name__, model)]
    # Not named_children, which leaves out a layer that is used again.
    named = ((f"{prefix}.{name}" if prefix else name, layer) for name, layer in model._modules.items() if layer is not None)
    return [entry for name, layer in named for entry in chain(layer, name)]


def _signs(point: Tensor, start: Tensor) -> _Parts:
    difference = point - start
    return _Parts(point, start, difference.clamp(min=0), difference.clamp(max=0))


def _step(name: str, layer: nn.Module, parts: _Parts, rule: str) -> tuple[_Parts, _Pull]:
    """One layer: its output's parts, and how multipliers come back through it."""
    kind = type(layer)  # a subclass may compute something else
    if kind in _DENSE + _CONVOLUTIONS + _AVERAGES:
        return _linear(layer, parts)
    if kind in _MAXIMA:
        return _maximum(name, layer, parts)
    if kind is nn.ReLU:
        return _rescaled_relu(parts) if rule == RESCALE else _revealed_relu(parts)
    if kind is nn.Flatten:
        return _flattened(name, layer, parts)
    if kind in _NOTHING:
        return parts, lambda multipliers: multipliers
    raise Unsupported(
        f"layer {name} ({kind.__name__}): DeepLIFT RevealCancel has rules for chains of Linear, Conv, ReLU, MaxPool, AvgPool, "
        "AdaptiveAvgPool, Flatten, Dropout and Identity layers only"
    )


def _linear(layer: nn.Module, parts: _Parts) -> tuple[_Parts, _Pull]:
    """y = W x + b. Averages are linear with positive weights."""
    difference = parts.point - parts.start
    weights = {name: w.abs() if name == "weight" else torch.zeros_like(w) for name, w in layer.named_parameters()}
    point, transposed = _transposable(layer, parts.point)
    size, absolute = _transposable(lambda x: functional_call(layer, weights, (x,)), difference.abs())
    start = layer(parts.start)
    change = point - start
    plus, minus = ((change + size) / 2).clamp(min=0), ((change - size) / 2).clamp(max=0)

    def pull(m: _Multipliers) -> _Multipliers:
        both = (transposed(m.plus + m.minus) + difference.sign() * absolute(m.plus - m.minus)) / 2
        return _Multipliers(both, both)

    return _Parts(point, start, plus, minus), pull


def _transposable(layer: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """The output at x of a layer that is linear but for its bias, and the product of its transposed weights with a tensor."""
    output, pull, *_ = vjp(layer, x)
    return output, lambda value: pull(value)[0]


def _rescaled_relu(parts: _Parts) -> tuple[_Parts, _Pull]:
    """y = max(x, 0), Rescale; slope 0 at x = 0."""
    point, start = parts.point.relu(), parts.start.relu()
    difference = parts.point - parts.start
    scale = _quotient(point - start, difference, (parts.point > 0).to(point.dtype))
    return _Parts(point, start, scale * parts.plus, scale * parts.minus), _scaled(scale, scale)


def _revealed_relu(parts: _Parts) -> tuple[_Parts, _Pull]:
    """y = max(x, 0), RevealCancel.

    f(a + d) - f(a) is min(d, max(a + d, 0)) for d >= 0 and max(d, -max(a, 0)) for d <= 0, without cancellation.
    """
    start, plus, minus = parts.start, parts.plus, parts.minus
    lower, upper = start + minus, start + plus
    raised = (torch.minimum(plus, upper.relu()) + torch.minimum(plus, (lower + plus).relu())) / 2
    lowered = (torch.maximum(minus, -start.relu()) + torch.maximum(minus, -upper.relu())) / 2
    right = ((start >= 0).to(start.dtype) + (lower >= 0)) / 2
    left = ((start > 0).to(start.dtype) + (upper > 0)) / 2
    pull = _scaled(_quotient(raised, plus, right), _quotient(lowered, minus, left))
    return _Parts(parts.point.relu(), start.relu(), raised, lowered), pull


def _maximum(name: str, layer: nn.Module, parts: _Parts) -> tuple[_Parts, _Pull]:
    """y = the largest x of each window, Rescale on the winner (see the top of this file)."""
    if layer.return_indices:
        raise Unsupported(f"layer {name} (MaxPool with return_indices): its output is not one tensor")
    options = {key: getattr(layer, key) for key in ("kernel_size", "stride", "padding", "dilation", "ceil_mode")}
    pool = _MAXIMA[type(layer)]
    point, at_point = pool(parts.point, return_indices=True, **options)
    start, at_start = pool(parts.start, return_indices=True, **options)
    winner = at_point.where(point >= start, at_start).flatten(2)  # (B, C, windows), places in the flattened input
    shape, flat = parts.point.shape, point.flatten(2)

    def of_winner(x: Tensor) -> Tensor:
        return x.flatten(2).gather(2, winner)

    difference = of_winner(parts.point - parts.start)
    scale = _quotient(flat - start.flatten(2), difference, torch.ones_like(flat))

    def pull(m: _Multipliers) -> _Multipliers:
        nothing = torch.zeros(shape, dtype=flat.dtype, device=flat.device).flatten(2)
        sides = [nothing.scatter_add(2, winner, scale * side.flatten(2)).view(shape) for side in (m.plus, m.minus)]
        return _Multipliers(*sides)

    plus, minus = ((scale * of_winner(part)).view_as(point) for part in (parts.plus, parts.minus))
    return _Parts(point, start, plus, minus), pull


def _flattened(name: str, layer: nn.Module, parts: _Parts) -> tuple[_Parts, _Pull]:
    if layer.start_dim == 0:
        raise Unsupported(f"layer {name} (Flatten from axis 0): it mixes the rows of a batch")
    shape = parts.point.shape
    moved = _Parts(*(layer(part) for part in (parts.point, parts.start, parts.plus, parts.minus)))
    return moved, lambda m: _Multipliers(m.plus.reshape(shape), m.minus.reshape(shape))


def _quotient(change: Tensor, difference: Tensor, limit: Tensor) -> Tensor:
    """change / difference, and `limit` where both are 0."""
    still = difference == 0
    return limit.where(still, change / difference.where(~still, torch.ones_like(difference)))


def _scaled(plus: Tensor, minus: Tensor) -> _Pull:
    return lambda m: _Multipliers(plus * m.plus, minus * m.minus)
