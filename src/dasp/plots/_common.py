"""What the plots share: matplotlib on demand, the numbers of one target as numpy arrays, names and colours."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from ..attribution import Attribution
from ..errors import InputError, InputTypeError, MissingExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap

Array = npt.NDArray[np.float64]

# Red against blue stays apart under the common colour-vision deficiencies; both are equally dark.
POSITIVE = "#b2182b"
NEGATIVE = "#2166ac"
NEUTRAL = "#767676"


@dataclass(frozen=True)
class Table:
    """The attributions of one target as numbers a plot can use; n players, B rows."""

    values: Array  # (B, n)
    base_value: Array  # (B,)
    output: Array  # (B,)
    data: Array | None  # (B, n) what each player's element held; None where players are groups of elements
    names: tuple[str, ...]  # n, as text to draw


def axes(ax: Axes | None, *, size: tuple[float, float]) -> Axes:
    """`ax`, or the axes of a new figure of `size` inches; `MissingExtraError` without matplotlib."""
    try:
        pyplot: Any = importlib.import_module("matplotlib.pyplot")
    except ImportError as error:
        raise MissingExtraError("plots need matplotlib: pip install 'dasp[plots]'.") from error
    if ax is None:
        _, ax = pyplot.subplots(figsize=size, layout="constrained")
    assert ax is not None
    return ax


def diverging() -> Colormap:
    """From `NEGATIVE` over white to `POSITIVE`; for scales that are symmetric about 0."""
    colors: Any = importlib.import_module("matplotlib.colors")
    made: Colormap = colors.LinearSegmentedColormap.from_list("dasp", [NEGATIVE, "#f7f7f7", POSITIVE])
    return made


def sequential() -> Colormap:
    """Viridis without its brightest tenth, which is lost on white."""
    colors: Any = importlib.import_module("matplotlib.colors")
    viridis = importlib.import_module("matplotlib").colormaps["viridis"]
    made: Colormap = colors.LinearSegmentedColormap.from_list("dasp_sequential", viridis(np.linspace(0, 0.9, 64)))
    return made


def table(result: Attribution, target_index: int) -> Table:
    """Numbers of the `target_index`-th target of `result`; `InputError` when there are not so many targets."""
    check_result(result)
    check_whole("target_index", target_index)
    values = result.per_player  # (B, T, n)
    rows, targets, _ = values.shape
    if not 0 <= target_index < targets:
        raise InputError(f"target_index {target_index}: the attribution has {targets} target(s), counted from 0.")
    data = None if result.players.grouped else torch.cat([part.reshape(rows, -1) for part in result.inputs], dim=1)
    return Table(
        values=array(values[:, target_index]),
        base_value=array(result.base_value.reshape(rows, targets)[:, target_index]),
        output=array(result.output.reshape(rows, targets)[:, target_index]),
        data=None if data is None else array(data),
        # matplotlib reads what stands between two dollars as a formula.
        names=tuple(name.replace("$", r"\$") for name in result.player_names),
    )


def check_result(result: Attribution) -> None:
    """`InputTypeError` when `result` is something else."""
    if not isinstance(result, Attribution):
        raise InputTypeError(
            f"result: a plot draws an Attribution, what dasp.Explainer(model, baseline)(inputs) gives; "
            f"got {type(result).__name__}."
        )


def check_whole(name: str, value: int) -> None:
    """`InputTypeError` when `value` is no whole number."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise InputTypeError(f"{name}: expected an int, got {type(value).__name__}.")


def check_row(result: Attribution, index: int) -> None:
    """`InputError` when `result` has no row `index`, counted from 0."""
    check_result(result)
    check_whole("index", index)
    rows = len(result.per_player)
    if not 0 <= index < rows:
        raise InputError(f"index {index}: the attribution has {rows} row(s), counted from 0.")


def check_display(max_display: int) -> None:
    """`InputError` when fewer than one player is to be shown."""
    check_whole("max_display", max_display)
    if max_display < 1:
        raise InputError(f"max_display {max_display}: show at least 1 player.")


def array(values: torch.Tensor) -> Array:
    """`values` on the CPU as float64."""
    return values.detach().cpu().double().numpy()


def write_number(ax: Axes, end: float, place: float, text: str, *, left: bool = False) -> None:
    """`text` a few points beside the `end` of a bar, to its right or `left`, however long the axis is."""
    side = "right" if left else "left"
    shift = (-4 if left else 4, 0)
    ax.annotate(text, (end, place), xytext=shift, textcoords="offset points", va="center", ha=side, fontsize=8)


def label(names: tuple[str, ...], data: Array | None, row: int, player: int) -> str:
    """`name`, or `name = value` where the player is one element."""
    return names[player] if data is None else f"{names[player]} = {data[row, player]:.4g}"
