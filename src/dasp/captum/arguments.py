"""What captum's arguments mean to an explainer, and what it refuses of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..background import PerRow
from ..errors import InputError, InputTypeError
from ..game import Players, goes_along, take_rows
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


def players_of(mask: Mask, inputs: Sequence[Tensor]) -> list[tuple[Tensor | None, Any]]:
    """What an explainer takes for captum's `feature_mask`, for all rows (None); or, where masks differ by row, for some each.

    Raises:
        InputTypeError, InputError: something else than masks, or another number of them than of inputs.
    """
    if mask is None or isinstance(mask, (Layout, Players)):
        return [(None, mask)]
    masks = mask if isinstance(mask, tuple) else (mask,)
    if len(masks) != len(inputs):
        raise InputError(f"feature_mask: {len(masks)} for {len(inputs)} input(s). Give a tuple with one for each.")
    made, by_row = [], []
    for one, x in zip(masks, inputs, strict=True):
        if not isinstance(one, Tensor):
            raise InputTypeError(f"feature_mask: expected a tensor of integers, got {type(one).__name__}.")
        one = one.to(x.device)
        made.append(one)
        by_row.append(one.ndim == x.ndim and len(one) == len(x) and len(x) > 1)
    told = [one.flatten(1) for one, each in zip(made, by_row, strict=True) if each]
    owner = torch.cat(told, 1).unique(dim=0, return_inverse=True)[1] if told else torch.zeros(1, dtype=torch.long)
    groups = [(owner == group).nonzero()[:, 0] for group in range(int(owner.max()) + 1)]
    return [
        (
            rows if len(groups) > 1 else None,
            tuple(one[rows[:1]] if each else one for one, each in zip(made, by_row, strict=True)),
        )
        for rows in groups
    ]


@dataclass(frozen=True)
class Asked:
    """What an explainer is asked: inputs, their baselines, further arguments, and a target, as it takes them."""

    inputs: Tensors
    baselines: tuple[Any, ...]
    extra: tuple[Any, ...]
    target: Any

    def of(self, rows: Tensor) -> tuple[Tensor, Asked]:
        """The same of some rows (R,) alone; and these rows, the last of them several times where a further argument that is
        the same for every row would be taken to go along with R rows.
        """
        count = len(self.inputs[0] if isinstance(self.inputs, tuple) else self.inputs)
        while any(goes_along(e, len(rows)) and not goes_along(e, count) for e in self.extra):
            rows = torch.cat([rows, rows[-1:]])
        inputs = tuple(x[rows] for x in self.inputs) if isinstance(self.inputs, tuple) else self.inputs[rows]
        baselines = tuple(PerRow(b.rows[rows]) if isinstance(b, PerRow) and len(b.rows) > 1 else b for b in self.baselines)
        target = self.target
        if isinstance(target, Tensor | np.ndarray) and target.ndim:
            if len(target) != count:
                raise InputError(f"target: {len(target)} for {count} row(s). Give one for each row, or an int for all.")
            target = torch.as_tensor(target)[rows.to(target.device if isinstance(target, Tensor) else "cpu")]
        return rows, Asked(inputs, baselines, take_rows(self.extra, rows, count), target)


def in_place(parts: Sequence[tuple[Tensor | None, Tensor]]) -> Tensor:
    """Parts (R, ...) of some rows each as one tensor, (N, ...); a part of all rows (None) itself."""
    rows, first = parts[0]
    if rows is None:
        return first
    whole = first.new_empty(1 + max(int(index.max()) for index, _ in parts if index is not None), *first.shape[1:])
    for index, part in parts:
        whole[index] = part
    return whole


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
