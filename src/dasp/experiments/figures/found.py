"""What a run has kept of one problem, as the figures read it."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import DataFileError
from ..files import slug
from ..problem import Array
from ..run import METHODS
from ..speed import passes

Row = dict[str, Any]
_PASSES_A_PLAYER = 32  # what methods of several budgets are compared at, where a figure shows one of them


@dataclass(frozen=True, eq=False)
class Found:
    """One problem of B inputs and n players, and what every method found.

    Attributes:
        folder: where all of it is kept.
        result: what result.json holds.
        rows: of the methods that have found something.
        inputs: (B, *shape).
        targets: explained output of each input, (B,).
        truth: (B, n).
        players: owner of each input element, (*shape); None where every element is its own player.
    """

    folder: Path
    result: Mapping[str, Any]
    rows: list[Row]
    inputs: Array
    targets: npt.NDArray[np.int64]
    truth: Array
    players: npt.NDArray[np.int64] | None

    @classmethod
    def read(cls, folder: Path, result: Mapping[str, Any]) -> Found:
        """From problem.npz in `folder`; `DataFileError` where it cannot be read."""
        arrays = read_arrays(folder / "problem.npz", ("inputs", "targets", "truth"))
        return cls(
            folder=folder,
            result=result,
            rows=[row for row in result["rows"] if "error" in row],
            inputs=arrays["inputs"].astype(np.float64),
            targets=arrays["targets"],
            truth=arrays["truth"],
            players=arrays.get("players"),
        )

    @property
    def name(self) -> str:
        """Which problem: "parkinson", "dna" or "mnist"."""
        return str(self.result["name"])

    @property
    def representatives(self) -> list[Row]:
        """See `representatives`."""
        return representatives(self.rows, self.truth.shape[1])

    def values(self, row: Row) -> Array:
        """Attributions of a method, (B, n); `DataFileError` where they cannot be read."""
        return values(self.folder, row)


def read_arrays(path: Path, names: Sequence[str]) -> dict[str, Any]:
    """All arrays of an npz file, these names among them; `DataFileError` where it cannot be read."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
            arrays = dict(stored)
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise DataFileError(f"{path}: cannot be read ({error}). Run the experiment again to make it anew.") from error
    missing = [name for name in names if name not in arrays]
    if missing:
        raise DataFileError(f"{path}: holds no {', '.join(missing)}. Run the experiment again to make it anew.")
    return arrays


def values(folder: Path, row: Row) -> Array:
    """Attributions (B, n) that the method of `row` found; `DataFileError` where they cannot be read."""
    found: Array = read_arrays(folder / METHODS / f"{slug(row['label'])}.npz", ("values",))["values"]
    return found


def representatives(rows: Sequence[Row], players: int) -> list[Row]:
    """One budget of every family, the best first: the one nearest, in logarithms, to 32 network evaluations a player.

    A propagated pass counts as one evaluation. 32 a player are what DASP takes with 16 coalition sizes.
    """
    usual = math.log(_PASSES_A_PLAYER * players)
    chosen: dict[str, Row] = {}
    for row in sorted(rows, key=passes):
        there = chosen.get(row["family"])
        if there is None or abs(math.log(max(passes(row), 1)) - usual) < abs(math.log(max(passes(there), 1)) - usual):
            chosen[row["family"]] = row
    return sorted(chosen.values(), key=lambda row: float(row["error"]))
