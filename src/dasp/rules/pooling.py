"""Rules for max pooling, built from maxima of two (Clark, 1961).

How values are paired matters to an approximation. Windows of up to four take the mean over all pairings, so that equal
players get equal values wherever they stand; larger ones are taken one axis at a time, by the same means up to a side of
four, and along a balanced tree beyond.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from ..gaussian import Gaussian
from .families import Context
from .larger import PAIRINGS, average, larger, over_pairings
from .registry import RULES, Rule

aten = torch.ops.aten


@dataclass(frozen=True)
class _Candidate:
    """One member of every window along an axis; `valid` marks windows that have it (None: all), (size, 1...)."""

    value: Gaussian
    valid: Tensor | None


def _larger_valid(context: Context, a: _Candidate, b: _Candidate) -> _Candidate:
    both = larger(context, a.value, b.value)
    if a.valid is None and b.valid is None:
        return _Candidate(both, None)
    a_valid = torch.ones_like(b.valid) if a.valid is None and b.valid is not None else a.valid
    b_valid = torch.ones_like(a.valid) if b.valid is None and a.valid is not None else b.valid
    assert a_valid is not None
    assert b_valid is not None

    def choose(both_part: Tensor, a_part: Tensor, b_part: Tensor) -> Tensor:
        return torch.where(a_valid & b_valid, both_part, torch.where(a_valid, a_part, b_part))

    factors = None
    if both.factors is not None and a.value.factors is not None and b.value.factors is not None:
        factors = choose(both.factors, a.value.factors, b.value.factors)
    merged = Gaussian(choose(both.mean, a.value.mean, b.value.mean), factors, choose(both.rest, a.value.rest, b.value.rest))
    return _Candidate(merged, a_valid | b_valid)


def _largest(context: Context, members: Sequence[_Candidate]) -> _Candidate:
    """The maximum of the members of every window."""
    ways = over_pairings(members, lambda a, b: _larger_valid(context, a, b))
    return _Candidate(average([way.value for way in ways]), ways[0].valid)


def _each(value: Gaussian, f: Callable[[Tensor], Tensor]) -> Gaussian:
    return Gaussian(f(value.mean), value.map_factors(f), f(value.rest))


@dataclass(frozen=True)
class _Windows:
    """The windows along one axis.

    Attributes:
        axis: counted from the end (negative).
        members: positions of the members of every window, (window, size); any position where not valid.
        valid: which members exist, (window, size).
    """

    axis: int
    members: list[list[int]]
    valid: list[list[bool]]


def _pool(context: Context, value: Gaussian, windows: Sequence[_Windows]) -> Gaussian:
    """Maximum over windows: over small ones at once, over larger ones one axis after the other."""
    at_once = math.prod(len(one.members) for one in windows) in PAIRINGS
    for group in [windows] if at_once else [[one] for one in windows]:
        members = [_Candidate(value, None)]
        for one in group:
            members = [part for whole in members for part in _along(whole, one)]
        value = _largest(context, members).value
    return value


def _along(whole: _Candidate, windows: _Windows) -> Iterator[_Candidate]:
    """The members of the windows along one axis."""
    shape = [-1] + [1] * (-windows.axis - 1)
    for positions, exists in zip(windows.members, windows.valid, strict=True):
        if any(exists):
            take = partial(_take, axis=windows.axis, positions=positions)
            mask = None if all(exists) else torch.tensor(exists, device=whole.value.mean.device).reshape(shape)
            if whole.valid is not None:
                mask = whole.valid if mask is None else whole.valid & mask
            yield _Candidate(_each(whole.value, take), mask)


def _take(part: Tensor, axis: int, positions: list[int]) -> Tensor:
    """Elements at evenly spaced positions as a view where possible, else by index."""
    steps = {b - a for a, b in pairwise(positions)}
    step = min(steps, default=1)
    if step > 0 and len(steps) <= 1:
        index = [slice(None)] * (part.dim() + axis) + [slice(positions[0], positions[-1] + 1, step)]
        return part[tuple(index)]
    return part.index_select(part.dim() + axis, torch.tensor(positions, device=part.device))


def _windows(
    length: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool
) -> tuple[list[list[int]], list[list[bool]]]:
    """Positions and existence of the members of every pooling window along an axis, both (kernel, size)."""
    span = dilation * (kernel - 1) + 1
    steps = length + 2 * padding - span
    size = (-(-steps // stride) if ceil_mode else steps // stride) + 1
    if ceil_mode and (size - 1) * stride >= length + padding:
        size -= 1  # a window must start inside the input or its left padding
    at = [[w * stride - padding + k * dilation for w in range(size)] for k in range(kernel)]
    return [[min(max(p, 0), length - 1) for p in row] for row in at], [[0 <= p < length for p in row] for row in at]


def _spread(option: int | Sequence[int], space: int) -> list[int]:
    options = [option] if isinstance(option, int) else list(option)
    return options * space if len(options) == 1 else options


def _plan(space: int, args: Sequence[Any]) -> tuple[list[int], list[int], list[int], list[int], bool]:
    defaults: tuple[Any, ...] = ([], 0, 1, False)
    kernel, stride, padding, dilation, ceil_mode = (*args, *defaults[len(args) - 1 :])
    sizes = _spread(kernel, space)
    return sizes, _spread(stride or sizes, space), _spread(padding, space), _spread(dilation, space), bool(ceil_mode)


def _max_pool(space: int) -> Callable[..., Gaussian]:
    def apply(context: Context, value: Gaussian, *args: Any) -> Gaussian:
        kernel, stride, padding, dilation, ceil_mode = _plan(space, args)
        windows = []
        for i in range(space):
            axis = i - space
            at, exists = _windows(value.mean.shape[axis], kernel[i], stride[i], padding[i], dilation[i], ceil_mode)
            windows.append(_Windows(axis, at, exists))
        return _pool(context, value, windows)

    return apply


def _adaptive_max_pool(space: int) -> Callable[..., tuple[Gaussian, None]]:
    def apply(context: Context, value: Gaussian, sizes: Sequence[int]) -> tuple[Gaussian, None]:
        windows = []
        for i in range(space):
            axis, size = i - space, sizes[i]
            length = value.mean.shape[axis]
            start = [(w * length) // size for w in range(size)]
            end = [-((-(w + 1) * length) // size) for w in range(size)]
            window = max(e - s for s, e in zip(start, end, strict=True))
            at = [[min(s + k, length - 1) for s in start] for k in range(window)]
            exists = [[s + k < e for s, e in zip(start, end, strict=True)] for k in range(window)]
            windows.append(_Windows(axis, at, exists))
        return _pool(context, value, windows), None

    return apply


def _owners(pool: Callable[..., Tensor]) -> Callable[..., Tensor | None]:
    """Owners of the windows of `pool`, None if two players meet in one."""

    def owners(labels: Tensor, *args: Any) -> Tensor | None:
        nobody = labels == 0
        highest = pool(labels.double(), *args)
        lowest = -pool((-labels.double()).masked_fill(nobody, -torch.inf), *args)
        if bool(((highest != lowest) & (highest > 0)).any()):
            return None
        return highest.long()

    return owners


def _register(op: OpOverload, apply: Callable[..., Any], *, indices: bool) -> None:
    def values_only(labels: Tensor, *args: Any) -> Tensor:
        result: Any = op(labels, *args)
        values: Tensor = result[0] if indices else result
        return values

    def with_indices(labels: Tensor, *args: Any) -> Any:
        found = _owners(values_only)(labels, *args)
        return None if found is None else ((found, found) if indices else found)

    RULES.add(Rule(op, False, apply, owners=with_indices))


def _with_indices(apply: Callable[..., Gaussian]) -> Callable[..., tuple[Gaussian, None]]:
    def both(context: Context, value: Gaussian, *args: Any) -> tuple[Gaussian, None]:
        return apply(context, value, *args), None

    return both


_register(aten.max_pool1d.default, _max_pool(1), indices=False)
_register(aten.max_pool2d.default, _max_pool(2), indices=False)
_register(aten.max_pool3d.default, _max_pool(3), indices=False)
_register(aten.max_pool1d_with_indices.default, _with_indices(_max_pool(1)), indices=True)
_register(aten.max_pool2d_with_indices.default, _with_indices(_max_pool(2)), indices=True)
_register(aten.max_pool3d_with_indices.default, _with_indices(_max_pool(3)), indices=True)
_register(aten.adaptive_max_pool1d.default, _adaptive_max_pool(1), indices=True)
_register(aten.adaptive_max_pool2d.default, _adaptive_max_pool(2), indices=True)
_register(aten.adaptive_max_pool3d.default, _adaptive_max_pool(3), indices=True)
