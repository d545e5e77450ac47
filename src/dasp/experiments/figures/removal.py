"""Output of the network while players are removed, those with the most positive attribution first."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ...errors import DataFileError, InputError
from ...plots._removed import outputs_without, removed_counts
from ..files import write_text
from ..problem import Array, Problem
from ..speed import OURS
from . import found as kept
from .found import Found, Row
from .style import BLACK, BLUE, VERMILION, named_with_cost, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FILE = "removal.json"
TRUTH = "true values"
_COLUMNS = 5
_PLAYERS = {"parkinson": "features", "dna": "players", "mnist": "pixels"}


def removal_curves(problem: Problem, values: Mapping[str, Array], *, steps: int = 50) -> dict[str, Array]:
    """The explained output of each input after removing its most positive players, for the order that each method gives.

    A removed player's elements are 0, the baseline. Ties are broken by the number of the player. This is the "pixel flipping"
    of Bach et al. (2015) with the baseline in place of flipped pixels.

    Args:
        problem: network and inputs.
        values: by method, attributions (B, n).
        steps: at most so many steps from nothing removed to everything removed.

    Returns:
        By method, outputs (B, points) at the counts of `removed_counts(n, steps)`.

    Raises:
        InputError: values of the wrong shape, or no steps.
    """
    if steps < 1:
        raise InputError(f"steps {steps}: a curve has at least 1 step.")
    counts = removed_counts(problem.count, steps)
    owners = torch.arange(problem.count) if problem.players is None else problem.players.flatten()
    owners = owners.reshape(problem.inputs.shape[1:])
    absent = torch.zeros_like(problem.inputs[0])
    curves: dict[str, Array] = {}
    for method, one in values.items():
        if one.shape != problem.truth.shape:
            raise InputError(f"{method}: values have shape {one.shape}, expected {problem.truth.shape}.")
        outputs = np.empty((len(one), len(counts)))
        for index, row in enumerate(problem.inputs):
            answers = outputs_without(problem.model, (row,), (absent,), (owners,), one[index], counts)
            outputs[index] = answers[:, int(problem.targets[index])].double().numpy()
        curves[method] = outputs
    return curves


def keep(problem: Problem, rows: Sequence[Row], folder: Path, *, steps: int = 50) -> Path:
    """Write removal.json in `folder`, with the curves of the truth and of one budget of each family (see `representatives`).

    Raises:
        DataFileError: the values of a method are not in `folder`.
        OutputFileError: the file cannot be written.
    """
    chosen = kept.representatives([row for row in rows if "error" in row], problem.count)
    values = {TRUTH: problem.truth} | {row["label"]: kept.values(folder, row) for row in chosen}
    curves = removal_curves(problem, values, steps=steps)
    written = {
        "removed": removed_counts(problem.count, steps).tolist(),
        "curves": {name: [[float(f"{x:.7g}") for x in line] for line in curve] for name, curve in curves.items()},
    }
    path = folder / FILE
    write_text(path, json.dumps(written) + "\n")
    return path


def figure(found: Found) -> Figure | None:
    """Change of the output against players removed, a panel for each family, the best first; None where removal.json has none.

    Lines are means over inputs, the band reaches from the first to the third quartile; every panel repeats the line of the
    true values in black.
    """
    stored = _read(found)
    if stored is None:
        return None
    removed = stored["removed"]
    changes = {name: np.array(curve) - np.array(curve)[:, :1] for name, curve in stored["curves"].items()}
    rows = [row for row in found.representatives if row["label"] in changes]
    if not rows:
        return None
    lines = math.ceil(len(rows) / _COLUMNS)
    columns = min(len(rows), _COLUMNS)
    drawn = new_figure(max(2.1 * columns, 4.5), 0.9 + 1.75 * lines)
    axes = drawn.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    truth = changes[TRUTH].mean(axis=0)
    for place, ax in enumerate(axes.flat):
        if place >= len(rows):
            ax.set_visible(False)
            continue
        row = rows[place]
        low, high = np.quantile(changes[row["label"]], (0.25, 0.75), axis=0)
        colour = BLUE if row["family"].startswith(OURS) else VERMILION
        ax.fill_between(removed, low, high, color=colour, alpha=0.2, linewidth=0)
        ax.plot(removed, changes[row["label"]].mean(axis=0), color=colour, linewidth=1.4, label=row["label"])
        ax.plot(removed, truth, color=BLACK, linewidth=0.8, linestyle=(0, (3, 2)), label=TRUTH)
        ax.axhline(0, color="0.7", linewidth=0.6, zorder=0)
        ax.set_title("\n".join(textwrap.wrap(named_with_cost(row), 30)), fontsize=7)
        # The panel below may be missing in the last line.
        ax.tick_params(labelbottom=place + columns >= len(rows))
    drawn.supxlabel(f"{_PLAYERS.get(found.name, 'players')} removed, the most positive first", fontsize=9)
    drawn.supylabel("change of the output" + (" (points)" if found.name == "parkinson" else " (logit)"), fontsize=9)
    handles = [*axes[0, 0].get_lines()[1:2]]
    drawn.legend(handles, [f"{TRUTH} (mean)"], loc="outside lower right")
    return drawn


def _read(found: Found) -> dict[str, Any] | None:
    path = found.folder / FILE
    if not path.is_file():
        return None
    try:
        stored: dict[str, Any] = json.loads(path.read_text())
        shapes = {np.shape(curve) for curve in stored["curves"].values()}
        if shapes == {(len(found.inputs), len(stored["removed"]))} and TRUTH in stored["curves"]:
            return stored
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataFileError(f"{path}: cannot be read ({error}). Run the experiment again to make it anew.") from error
    raise DataFileError(f"{path}: holds other inputs or steps than the run. Run the experiment again to make it anew.")
