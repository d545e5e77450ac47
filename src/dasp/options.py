"""What several commands read off their arguments: players, targets, and what an exported program takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import players as layouts
from .checks import native
from .errors import DataFileError, InputError
from .model import Model
from .semivalues import Banzhaf, BetaShapley, Weighting
from .tables import Described

PLAYERS = "grid:HxW|pixels|channels|tokens|FILE.npy"
ARGMAX = "argmax"
_LISTED = 30  # column names in a message
_ROWS = 2  # of the stand-ins for inputs; the values do not matter


def players_of(spec: str | None) -> Any:
    """What `dasp.Explainer(players=...)` takes for the text of `--players`.

    Raises:
        DataFileError: a mask cannot be read, or does not hold whole numbers.
        InputError: the text names no players.
    """
    if spec is None:
        return None
    if spec.endswith(".npy"):
        try:
            mask = np.asarray(np.load(spec, allow_pickle=False))
        except (OSError, ValueError, EOFError, TypeError, OverflowError, MemoryError) as error:
            raise DataFileError(f"--players {spec}: not a .npy array of integers ({error}).") from error
        if mask.dtype.kind not in "iu":
            raise DataFileError(
                f"--players {spec}: holds {mask.dtype}; a mask holds whole numbers, one per player. "
                f'Save it as such: numpy.save("{Path(spec).name}", mask.astype("int64")).'
            )
        return native(mask)
    if spec in ("pixels", "channels", "tokens"):
        return getattr(layouts, spec)()
    kind, _, size = spec.partition(":")
    sides = size.split("x")
    if kind == "grid" and len(sides) == 2 and all(side.isdecimal() for side in sides):
        return layouts.grid(int(sides[0]), int(sides[1]))
    raise InputError(f"--players {spec!r}: give grid:HxW (as grid:2x2), pixels, channels, tokens or a .npy mask.")


def targets_of(specs: Sequence[str]) -> Any:
    """What the texts of `--target` ask for: nothing, one target, a list of several, or the word argmax.

    Raises:
        InputError: a text is no target, or argmax is among several.
    """
    if ARGMAX in specs:
        if len(specs) > 1:
            raise InputError("--target argmax cannot be combined with other targets.")
        return ARGMAX
    targets: list[Any] = []
    for spec in specs:
        try:
            index = tuple(int(place) for place in spec.split(","))
        except ValueError:
            raise InputError(
                f"--target {spec!r}: give a number, numbers as 1,2 where outputs have several axes, or argmax; for several "
                "outputs repeat --target."
            ) from None
        targets.append(index if len(index) > 1 else index[0])
    if len(targets) > 1:
        return targets
    return targets[0] if targets else None


def semivalue_of(spec: str | None) -> Weighting | None:
    """What the text of `--semivalue` asks for; None for Shapley values.

    Raises:
        InputError: the text names no semivalue, or its numbers are out of range.
    """
    kind, _, numbers = (spec or "").partition(":")
    try:
        given = [float(number) for number in numbers.split(",")] if numbers else []
    except ValueError:
        given = [math.nan]
    if spec is None:
        return None
    if kind == "banzhaf" and len(given) <= 1 and not any(map(math.isnan, given)):
        return Banzhaf(*given)
    if kind == "beta" and len(given) == 2 and not any(map(math.isnan, given)):
        return BetaShapley(*given)
    raise InputError(f"--semivalue {spec!r}: give banzhaf, banzhaf:P with a probability P, or beta:A,B (as beta:16,1).")


def row_dtype(model: Model, name: str, rows: Described) -> torch.dtype:
    """The dtype of the program's one input, after comparing the shape of a row with what the program takes.

    Raises:
        CaptureError: the program cannot be explained.
        InputError: it takes several inputs, or rows of another shape.
    """
    expected = expected_inputs(model)
    if len(expected) != 1:
        raise InputError(
            f"{name}: takes {len(expected)} inputs; the command line explains models of one. Use dasp.Explainer in Python."
        )
    shape = tuple(expected[0].shape[1:])
    if rows.shape == shape:
        return expected[0].dtype
    if rows.names is None:
        raise InputError(f"{rows.path}: a row has shape {rows.shape}, but {name} takes rows of shape {shape}.")
    listed = ", ".join(rows.names[:_LISTED]) + (", ..." if len(rows.names) > _LISTED else "")
    taken = f"takes rows of shape {shape}. Save such rows as .npy."
    if len(shape) == 1:
        taken = f"takes {shape[0]} numbers a row. Name its columns, in the order it takes them, with --columns A,B,..."
    raise InputError(f"{rows.path}: {len(rows.names)} columns ({listed}), but {name} {taken}")


def expected_inputs(model: Model) -> list[Tensor]:
    """Empty stand-ins of the shapes and dtypes that an exported program takes, for a batch of two.

    Raises:
        CaptureError: the program cannot be explained.
        InputError: it takes something that is no tensor.
    """
    graph = model.capture((), ())
    expected = [graph.stand_in(node, _ROWS) for node in graph.inputs]
    for node, one in zip(graph.inputs, expected, strict=True):
        if not isinstance(one, Tensor):
            raise InputError(
                f"the program takes {node.name}, which is no tensor; the command line gives tensors only. Wrap the model "
                "in a module that holds it, and export that, or use dasp.Explainer in Python."
            )
    return expected


def zero_inputs(model: Model) -> tuple[Tensor, ...]:
    """Inputs of zeros, for what does not follow their values; errors as in `expected_inputs`."""
    return tuple(torch.zeros_like(one, device=model.device or "cpu") for one in expected_inputs(model))
