"""What several commands read off their arguments: players, and what an exported program takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import players as layouts
from .checks import native
from .errors import DataFileError, InputError
from .model import Model

PLAYERS = "grid:HxW|pixels|channels|tokens|FILE.npy"
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
        except (OSError, ValueError, EOFError, TypeError) as error:
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
