"""Which networks captum's and shap's DeepLIFT treat rightly: both look at modules, and pass over any other without a word."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..problem import Unsupported
from .reveal_cancel import chain

_LINEAR = (
    nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.AvgPool1d, nn.AvgPool2d,
    nn.AvgPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.Flatten, nn.Dropout, nn.Identity,
)  # fmt: skip
_ELEMENTWISE = (nn.ReLU, nn.LeakyReLU, nn.ELU, nn.Sigmoid, nn.Tanh, nn.Softplus)
_MAXIMA = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)


def has_rule(layer: nn.Module) -> bool:
    """Whether DeepLIFT replaces the layer's gradient."""
    return type(layer) in _ELEMENTWISE + _MAXIMA


def require_rescale(model: nn.Module, tool: str) -> None:
    """Refuse a network on which `tool` would give wrong values of DeepLIFT Rescale.

    Raises:
        Unsupported: a module is not a known one, is used twice or works in place, or pooling windows overlap; names it.
    """
    seen: set[int] = set()
    for name, layer in chain(model):
        kind = type(layer)
        where = f"layer {name} ({kind.__name__})"
        if kind not in _LINEAR + _ELEMENTWISE + _MAXIMA:
            raise Unsupported(f"{where}: {tool} has no rule for it and would treat it as linear")
        if has_rule(layer) and id(layer) in seen:
            raise Unsupported(f"{where}: used twice, and {tool} keeps one input a module")
        if getattr(layer, "inplace", False) and kind in _ELEMENTWISE:
            raise Unsupported(f"{where}: works in place, and {tool} looks at its input afterwards")
        if kind in _MAXIMA and not _apart(layer):
            raise Unsupported(f"{where}: its windows overlap, and {tool} keeps one of the values that meet in an element")
        seen.add(id(layer))


def _apart(layer: nn.Module) -> bool:
    """Whether no element is in two windows."""
    sizes, strides, dilations = (_axes(getattr(layer, name)) for name in ("kernel_size", "stride", "dilation"))
    return all(step >= size and gap == 1 for size, step, gap in zip(sizes, strides, dilations, strict=True))


def _axes(option: Any) -> tuple[int, ...]:
    """One number an axis, three axes, from one number or a few."""
    return (option,) * 3 if isinstance(option, int) else (*option, *(option[-1],) * (3 - len(option)))
