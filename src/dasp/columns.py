"""A result as the columns of a table, as the command line and whole data sets write it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .attribution import RESERVED, Attribution
from .errors import InputError
from .handover import column
from .tables import unique_names

AUDIT_COLUMNS = ("audit_error", "audit_low", "audit_high", "audit_evaluations")
MEASURED = ("ended", "measured_error", "measured_bound", "row_evaluations")
"""Settings of refine, one a row."""
WRITTEN = RESERVED + AUDIT_COLUMNS + MEASURED
"""Columns beside those of the players."""


def missed_rows(result: Attribution, rows: Sequence[int]) -> int:
    """How many of some rows `Refine` ended above its tolerance, or without knowing; 0 for another method."""
    bounds = result.settings.get("measured_bound")
    return 0 if bounds is None else sum(not max(bounds[row]) <= result.settings["tolerance"] for row in rows)


def missed_text(count: int) -> str:
    """That so many rows are above the tolerance, in words."""
    return f"{count} row(s) ABOVE THE TOLERANCE: see the columns ended and measured_bound, and raise --budget"


def columns_of(result: Attribution, start: int, names: Sequence[str] | None) -> dict[str, Any]:
    """The columns of one chunk whose first row is `start`; several targets of a row follow one another."""
    rows, count, players = result.per_player.shape
    names = names or unique_names(column_names(result), WRITTEN, "players")
    index = result.targets.expand(rows, -1, -1).reshape(rows * count, -1).cpu()
    # One output axis is a number, several are text, and a single output has no target: an empty text.
    text = [",".join(map(str, place)) for place in index.tolist()]
    target = index[:, 0].numpy() if index.shape[1] == 1 else np.array(text, dtype=object)
    columns: dict[str, Any] = {"sample": np.repeat(np.arange(start, start + rows), count), "target": target}
    columns |= dict(zip(names, column(result.per_player.reshape(-1, players)).T, strict=True))
    for name in ("base_value", "output", "gap"):
        columns[name] = column(getattr(result, name).reshape(-1))
    if isinstance(result.standard_errors, Tensor):
        errors = column(result.standard_errors.reshape(-1, players)).T
        for name, error in zip(names, errors, strict=True):
            if f"{name}_se" in columns:
                raise InputError(f"the feature name {name}_se is taken by the standard errors of {name}; rename it.")
            columns[f"{name}_se"] = error
    if "measured_bound" in result.settings:
        columns |= _measured(result, count)
    return columns


def _measured(result: Attribution, targets: int) -> dict[str, Any]:
    """What refine says of every row, once for each of its targets."""
    found = {name: np.array(result.settings[name], dtype=object if name == "ended" else None) for name in MEASURED}
    return {name: part.flatten() if part.ndim == 2 else part.repeat(targets) for name, part in found.items()}


def audit_columns(result: Attribution, evaluations: int) -> dict[str, Any]:
    """The measured relative error of every row and target, its interval, and the evaluations it took."""
    audit = result.audit(evaluations)
    found = (audit.relative_error, audit.low, audit.high, torch.full_like(audit.low, audit.evaluations).long())
    return {name: column(part.reshape(-1)) for name, part in zip(AUDIT_COLUMNS, found, strict=True)}


def column_names(result: Attribution) -> tuple[str, ...]:
    """Column names of players that no header names: p0, p1, ... along one axis, p_3_4 for the pixel in row 3 and
    column 4 of an input of one channel, p_0_3_4 with more axes; groups keep their kind, as patch_0_1 or player_7.
    """
    if result.players.grouped:
        given = result.player_names
        return tuple(re.sub(r"[ ,]+", "_", name).replace("pixel_", "p_") for name in given)
    shape = result.players.labels[0].shape
    if len(shape) == 1:
        return tuple(f"p{place}" for place in range(shape[0]))
    shown = shape[1:] if len(shape) == 3 and shape[0] == 1 else shape
    return tuple("p_" + "_".join(map(str, place)) for place in np.ndindex(*shown))
