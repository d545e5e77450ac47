"""The figures of an experiment, drawn from what a run has kept on disk; one file each.

`draw` needs the folder of a problem alone, so that figures can be drawn again without running anything. Output against
players removed also needs the network: `keep` evaluates it while the network is at hand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..dna import Sequences
from ..problem import Problem
from . import boxes, frontier, letters, maps, removal, summary
from .found import Found, Row
from .style import drawing, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FOLDER = "figures"  # under the folder of the problem
FIGURES: dict[str, Callable[[Found], Figure | None]] = {
    "frontier": frontier.figure,
    "boxes": boxes.figure,
    "maps": maps.figure,
    "letters": letters.figure,
    "summary": summary.figure,
    "removal": removal.figure,
}
"""What is drawn, in this order: each gives None where it does not fit the problem."""


def keep(problem: Problem, rows: Sequence[Row], folder: Path, *, sequences: Sequences | None = None) -> list[Path]:
    """Write what figures need of the network and of simulated data, for `draw`: removal.json and sites.json; the paths.

    Args:
        problem: what was explained.
        rows: of the result; the values of their methods are in `folder`.
        folder: of the problem.
        sequences: those that the inputs were chosen from, where they are DNA; without them no motif is marked.

    Raises:
        DataFileError: the values of a method are not in `folder`.
        OutputFileError: a file cannot be written.
    """
    written = [removal.keep(problem, rows, folder)]
    if sequences is not None:
        written.append(letters.keep_sites(problem, sequences, folder))
    return written


def draw(folder: Path, result: Mapping[str, Any]) -> list[Path]:
    """Every figure that fits a problem, each as PNG and as SVG under `folder`/figures; the paths written.

    Args:
        folder: of the problem, with problem.npz, the values of each method in methods/, and removal.json where
            `keep` has written it.
        result: what result.json of the same run holds.

    Raises:
        MissingExtraError: matplotlib is not installed.
        DataFileError: a file of the run is missing or damaged.
        OutputFileError: a figure cannot be written.
    """
    found = Found.read(folder, result)
    written: list[Path] = []
    with drawing():
        for name, figure in FIGURES.items():
            drawn = figure(found) if found.rows else None
            if drawn is not None:
                written += save(drawn, folder / FOLDER / name)
    return written
