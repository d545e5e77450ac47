"""What captum's arguments mean to an explainer, and what it refuses of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..background import PerRow
from ..errors import InputError, InputTypeError
from ..game import Players
from ..players import Layout

Tensors = Tensor | tuple[Tensor, ...]
Mask = Tensor | tuple[Tensor, ...] | Layout | Players | None


def checked_inputs(inputs: Any) -> tuple[Tensor, ...]:
    """The inputs as a tuple of tensors (N, ...), without their graphs.

    Raises:
        InputTypeError, InputError: something else, or different numbers of rows.
    """
    parts = inputs if isinstance(inputs, tuple) else (inputs,)
    for i, part in enumerate(parts):
        if not isinstance(part, Tensor) or not part.ndim:
            got = "a single number" if isinstance(part, Tensor) else type(part).__name__
            where = f"inputs[{i}]" if isinstance(inputs, tuple) else "inputs"
            raise InputTypeError(f"{where}: expected a tensor (N, ...), or a tuple of them for several inputs, got {got}.")
    if not parts or any(len(part) != len(parts[0]) for part in parts) or not len(parts[0]):
        raise InputError("inputs: expected tensors with the same number of rows, at least one.")
    return tuple(part.detach() for part in parts)


def baselines_for(baselines: Any, inputs: tuple[Tensor, ...], *, background: bool, method: str) -> tuple[Any, ...]:
    """What an explainer takes for captum's `baselines`, one for each input.

    Raises:
        InputError: another number of baselines than of inputs, or of rows than one or each.
    """
    if baselines is None:
        return (0,) * len(inputs)
    several = isinstance(baselines, tuple)
    given = baselines if several else (baselines,)
    if len(given) != len(inputs):
        raise InputError(f"baselines: {len(given)} for {len(inputs)} input(s). Give a tuple with one for each.")
    found: list[Any] = []
    for i, (part, x) in enumerate(zip(given, inputs, strict=True)):
        if not isinstance(part, Tensor) or part.ndim < x.ndim or background or len(part) == 1:
            found.append(part)
        elif len(part) == len(x):
            found.append(PerRow(part))
        else:
            raise InputError(
                f"{f'baselines[{i}]' if several else 'baselines'}: {len(part)} rows for {len(x)} input row(s). Give one, or "
                f"one for each; for rows of a data set, as DeepLiftShap takes them, write "
                f"dasp.captum.{method}(..., background=True)."
            )
    return tuple(found)


def flattened(attributions: Any) -> list[Tensor]:
    """All tensors of nested tuples and lists, in order; `InputTypeError` where there is something else."""
    if isinstance(attributions, (tuple, list)):
        return [part for group in attributions for part in flattened(group)]
    if not isinstance(attributions, Tensor):
        raise InputTypeError(f"attributions: expected tensors, got {type(attributions).__name__}.")
    return [attributions]


def players_of(mask: Mask, inputs: Sequence[Tensor]) -> Any:
    """What an explainer takes for captum's `feature_mask`; `InputError` for other masks, or masks that differ by row."""
    if mask is None or isinstance(mask, (Layout, Players)):
        return mask
    masks = mask if isinstance(mask, tuple) else (mask,)
    if len(masks) != len(inputs):
        raise InputError(f"feature_mask: {len(masks)} for {len(inputs)} input(s). Give a tuple with one for each.")
    made = []
    for one, x in zip(masks, inputs, strict=True):
        if not isinstance(one, Tensor):
            raise InputTypeError(f"feature_mask: expected a tensor of integers, got {type(one).__name__}.")
        if one.ndim == x.ndim and len(one) == len(x) and len(x) > 1:
            if bool((one != one[:1]).any()):
                raise InputError(
                    "feature_mask: its rows differ, and features are the same for all rows of a batch. Call attribute for "
                    "the rows with each mask."
                )
            one = one[:1]
        made.append(one.to(x.device))
    return tuple(made)


def chosen_target(target: Any, rows: int) -> Any:
    """What an explainer takes for captum's `target`, where a list names one output for each row.

    Raises:
        InputTypeError, InputError: a list of another length, or of something else than ints or tuples of them.
    """
    if isinstance(target, Tensor) and target.numel() == 1:
        return target.reshape(())
    if not isinstance(target, list):
        return target
    if len(target) != rows:
        raise InputError(
            f"target: a list names one output for each row, and this one has {len(target)} for {rows} row(s). For the same "
            "output in all rows give an int or a tuple."
        )
    each = [part if isinstance(part, tuple) else (part,) for part in target]
    for one in (value for part in each for value in part):
        if isinstance(one, bool) or not hasattr(one, "__index__"):
            raise InputTypeError(f"target: a list holds ints or tuples of ints, one for each row; got {one!r}.")
    if len({len(part) for part in each}) != 1:
        raise InputError("target: the list's tuples name different numbers of output axes.")
    return torch.tensor([[int(value) for value in part] for part in each])
