"""What a network gives when players are taken out of its inputs in a given order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..attribution import Attribution
from ..errors import InputError
from . import _common

_BATCH = 1024


def removed_counts(players: int, steps: int) -> npt.NDArray[np.int64]:
    """How many players are gone at each point of a curve: 0 to all of them, evenly, in `steps` steps or one for each player."""
    counts: npt.NDArray[np.int64] = np.unique(np.round(np.linspace(0, players, min(steps, players) + 1)).astype(np.int64))
    return counts


def outputs_without(
    model: Callable[..., Tensor],
    row: tuple[Tensor, ...],
    baseline: tuple[Tensor, ...],
    labels: tuple[Tensor, ...],
    values: _common.Array,
    counts: npt.NDArray[np.int64],
) -> Tensor:
    """The network's outputs for one row, (points, ...), once the `counts` players with the most positive values are gone.

    `row` and `baseline` have no batch axis; ties are broken by the number of the player.
    """
    rank = np.argsort(np.argsort(-values, kind="stable"), kind="stable")  # (n,): 0 goes first
    stays = torch.from_numpy(rank[None] >= counts[:, None])  # (points, n)
    parts = [
        torch.where(stays[:, label.cpu()].to(x.device), x, absent)
        for x, absent, label in zip(row, baseline, labels, strict=True)
    ]
    with torch.no_grad():
        return torch.cat([model(*some) for some in zip(*(part.split(_BATCH) for part in parts), strict=True)])


def change(model: Callable[..., Tensor], result: Attribution, target_index: int | None, steps: int) -> _common.Array:
    """Explained output of every row at each point of its curve, less that of the whole row: (B, points)."""
    if result.background:
        raise InputError("a removal curve puts a baseline in place of what is gone, and this attribution has a background.")
    table = _common.table(result, target_index)
    place = _common.target(target_index, result.per_player.shape[1])
    counts = removed_counts(result.players.count, steps)
    curves = np.empty((len(table.values), len(counts)))
    with _evaluated(model):
        for i, values in enumerate(table.values):
            row = tuple(x[i] for x in result.inputs)
            baseline = tuple(x[i if len(x) > 1 else 0] for x in result.baselines)
            outputs = outputs_without(model, row, baseline, result.players.labels, values, counts)
            chosen = result.targets[i if len(result.targets) > 1 else 0, place].tolist()
            curves[i] = _common.array(_at(outputs, chosen, len(counts)))
    return _common.finite("the outputs of the model", curves - curves[:, :1])


def _at(outputs: Tensor, target: list[int], points: int) -> Tensor:
    if outputs.ndim > 1 and outputs.shape[1:].numel() == 1:
        return outputs.reshape(points)
    if outputs.ndim != len(target) + 1 or any(i >= size for i, size in zip(target, outputs.shape[1:], strict=True)):
        raise InputError(
            f"model: its outputs have shape {tuple(outputs.shape)}, which has no target {tuple(target)}. Give the network that "
            "was explained."
        )
    for i in target:
        outputs = outputs[:, i]
    return outputs


@contextmanager
def _evaluated(model: object) -> Iterator[None]:
    """A module in evaluation mode; afterwards every part is in the mode it was in."""
    modes: dict[Any, bool] = {}
    if isinstance(model, torch.nn.Module):
        modes = {part: part.training for part in model.modules()}
        model.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training
