"""What an explainer's `baseline` means for the inputs: one baseline, one a row, or a background."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .background import PerRow
from .checks import as_array_hint, check_finite
from .errors import InputError, InputTypeError
from .estimators import Estimator


def baselines_of(
    asked: Any, inputs: tuple[Tensor, ...], tensor: Callable[[Any, str], Tensor], method: Estimator
) -> tuple[tuple[Tensor, ...], bool]:
    """(1 or B, *shape_i) for every input, or the rows of a background (J, *shape_i); and whether it is one.

    Args:
        asked: a number, tensor, array, `PerRow`, or a tuple of these.
        inputs: the inputs, (B, *shape_i).
        tensor: makes a tensor of an array, and checks it.
        method: the estimator that is to take them.

    Raises:
        InputTypeError, InputError: they do not fit the inputs, or the method takes one baseline only.
    """
    several = isinstance(asked, tuple)
    if isinstance(asked, tuple):
        if len(asked) != len(inputs):
            raise InputError(f"baseline: {len(asked)} baselines for {len(inputs)} input(s). Give one for each.")
        parts = asked
    elif isinstance(asked, PerRow) and len(inputs) > 1:
        raise InputError(f"baseline: one PerRow for {len(inputs)} inputs. Give a tuple with one baseline for each.")
    elif isinstance(asked, Tensor | np.ndarray) and asked.ndim and len(inputs) > 1:
        raise InputError(f"baseline: one tensor for {len(inputs)} inputs. Give a tuple with one baseline for each.")
    else:
        parts = (asked,) * len(inputs)
    names = [f"baseline[{i}]" if several else "baseline" for i in range(len(parts))]
    found = tuple(_baseline(part, x, name, tensor) for part, x, name in zip(parts, inputs, names, strict=True))
    alone = [isinstance(part, PerRow) or len(rows) == 1 for part, rows in zip(parts, found, strict=True)]
    if all(alone):
        return found, False
    return _background(parts, found, names, method), True


def _background(
    parts: tuple[Any, ...], rows: tuple[Tensor, ...], names: list[str], method: Estimator
) -> tuple[Tensor, ...]:
    if any(isinstance(part, PerRow) for part in parts):
        raise InputError("baseline: PerRow beside a background. Give one baseline a row for every input, or a background.")
    count = max(len(part) for part in rows)
    for part, name in zip(rows, names, strict=True):
        if len(part) not in (1, count):
            raise InputError(
                f"{name}: a background of {len(part)} rows, but another input's has {count}. Row j of each goes together: "
                "give every input as many."
            )
    other = _needs_one_baseline(method)
    if other is not None:
        raise InputError(
            f"baseline: {type(other).__name__} explains against one baseline, and this is a background of {count} rows. "
            "Use dasp.Propagation(), dasp.Refine(), dasp.Regression(), dasp.VertexGradients(), dasp.PermutationSampling() or, "
            "for few players, dasp.Exact(); or give one row, or dasp.PerRow(...) for one baseline a row."
        )
    return tuple(part.expand(count, *part.shape[1:]) for part in rows)


def _baseline(part: Any, x: Tensor, name: str, tensor: Callable[[Any, str], Tensor]) -> Tensor:
    each = isinstance(part, PerRow)
    part = part.rows if isinstance(part, PerRow) else part
    if isinstance(part, bool) or not isinstance(part, int | float | np.number | Tensor | np.ndarray):
        kind, hint = type(part).__name__, as_array_hint(part)
        raise InputTypeError(f"{name}: expected a number, a tensor, a numpy array or dasp.PerRow, got {kind}.{hint}")
    if isinstance(part, int | float | np.number):
        return _full(float(part), x, name)
    base = tensor(part, name)
    if base.dtype != x.dtype:
        hint = f"astype({str(x.dtype).removeprefix('torch.')!r})" if isinstance(part, np.ndarray) else f"to({x.dtype})"
        raise InputError(f"{name}: {base.dtype}, but the input is {x.dtype}. Use baseline.{hint}.")
    if base.device != x.device:
        raise InputError(f"{name}: on {base.device}, but the input is on {x.device}. Move it there.")
    if base.ndim == 0:
        base = base.expand(x.shape[1:])
    if base.ndim == x.ndim - 1 and not each:
        base = base.unsqueeze(0)
    if base.shape[1:] != x.shape[1:] or base.ndim != x.ndim or (each and len(base) != len(x)):
        wanted = f"{tuple(x.shape)}, one baseline for each row" if each else (
            f"{tuple(x.shape[1:])}, or a background of rows of that shape, (rows, {', '.join(map(str, x.shape[1:]))})"
        )
        raise InputError(
            f"{name}: shape {tuple(part.shape)} does not fit an input of shape {tuple(x.shape)}. Give {wanted}."
        )
    if not len(base):
        raise InputError(f"{name}: a background without rows. Give at least one.")
    check_finite(base, name)
    return base


def _needs_one_baseline(method: Estimator) -> Estimator | None:
    """The method itself, or one it uses as a prior, if it does not take a background."""
    if not method.takes_background:
        return method
    options: list[object] = [getattr(method, field.name) for field in fields(method)] if is_dataclass(method) else []
    several = [one for option in options if isinstance(option, tuple) for one in option]
    return next((bad for one in options + several if isinstance(one, Estimator) if (bad := _needs_one_baseline(one))), None)


def _full(number: float, x: Tensor, name: str) -> Tensor:
    """A number as the baseline of an input (B, *shape), (1, *shape)."""
    if not math.isfinite(number):
        raise InputError(f"{name}: must be finite, got {number}.")
    if not x.is_floating_point() and number != int(number):
        raise InputError(f"{name}: {number} cannot stand in for an input of {x.dtype}. Give a whole number.")
    if x.dtype == torch.bool:
        least, most = 0.0, 1.0
    else:
        limits = torch.finfo(x.dtype) if x.is_floating_point() else torch.iinfo(x.dtype)
        least, most = limits.min, limits.max
    if not least <= number <= most:
        raise InputError(f"{name}: {number:g} is beyond the range of the input's {x.dtype}.")
    return torch.full((1, *x.shape[1:]), number, dtype=x.dtype, device=x.device)
