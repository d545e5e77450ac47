"""How figures look: colours, names of methods, and files that come out the same from the same numbers."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import MissingExtraError
from ..files import replace_file
from ..problem import Array
from ..speed import DEFAULT, OURS, number, passes, shown
from .found import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

# Colours that people with any common colour vision tell apart (Okabe and Ito 2008); their yellow is lost on white.
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILION, PURPLE, GREY = "#0072B2", "#D55E00", "#CC79A7", "#767676"
_COLOURS = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY, GREY)
_FILLED = ("o", "s", "^", "D", "v", "P", "X", "h", "<", ">", "p")
_SETTINGS = {
    "svg.hashsalt": "dasp",
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.labelsize": 9.0,
    "legend.fontsize": 8.0,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "legend.frameon": False,
}


@dataclass(frozen=True)
class Style:
    """How one family is drawn: ours with solid lines and filled marks, all others dashed and hollow."""

    colour: str
    marker: str
    solid: bool

    @property
    def line(self) -> dict[str, Any]:
        """Options of a line with marks."""
        face = self.colour if self.solid else "white"
        size = 9 if self.marker == "*" else 5
        dashes = "-" if self.solid else (0, (4, 2))
        return {
            "color": self.colour,
            "marker": self.marker,
            "markersize": size,
            "markerfacecolor": face,
            "linestyle": dashes,
            "linewidth": 1.5 if self.solid else 1.1,
        }


def styles(families: Iterable[str]) -> dict[str, Style]:
    """A style for every family, ours first; no two families share both colour and mark."""
    ordered = sorted(dict.fromkeys(families), key=lambda family: (family != DEFAULT, not family.startswith(OURS)))
    found = {}
    counts = {True: 0, False: 0}
    for family in ordered:
        ours = family.startswith(OURS)
        if family == DEFAULT:
            found[family] = Style(BLACK, "*", True)
            continue
        place = counts[ours]
        counts[ours] += 1
        # 7 colours and 11 marks have no common divisor: pairs repeat after 77.
        found[family] = Style(_COLOURS[place % len(_COLOURS)], _FILLED[place % len(_FILLED)], ours)
    return found


@contextmanager
def drawing() -> Iterator[None]:
    """The settings of matplotlib that all figures are drawn with; whatever the user had set comes back after.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        matplotlib: Any = importlib.import_module("matplotlib")
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"figures need {error.name}: pip install 'dasp[paper]'.") from error
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches, of its own: nothing global knows of it."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save(figure: Figure, stem: Path) -> list[Path]:
    """`stem`.png and `stem`.svg, the same bytes for the same figure; `OutputFileError` where they cannot be written."""
    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in ("png", "svg")]
    nothing: tuple[dict[str, Any], ...] = ({"Software": None}, {"Date": None})
    figure.draw_without_rendering()
    figure.set_layout_engine(None)  # or each file finds the same layout again
    for path, metadata in zip(paths, nothing, strict=True):

        def write(partial: Path, metadata: dict[str, Any] = metadata) -> None:
            figure.savefig(partial, dpi=200, metadata=metadata)

        replace_file(path, write)
    return paths


def named(row: Row) -> str:
    """What a method is called in a table."""
    return shown(row["family"], row["label"])


def named_with_cost(row: Row) -> str:
    """A method's name and its evaluations per input, a propagated pass counted as one; once, where the name tells them."""
    name, count = named(row), number(passes(row))
    if "evaluations" in name or "samples" in name:
        return name
    return f"{name}, {count} evaluation" + ("" if count == "1" else "s")


def rank_distance(correlations: Array | Iterable[float], players: int) -> Array:
    """1 - rank correlation, for an axis of logarithms: near 1, where the good methods lie, a plain axis shows nothing.

    Perfect agreement is put half as far from 1 as the least disagreement, a swap of neighbours: 12 / (n (n^2 - 1)); or at 1e-6
    where that is less.
    """
    found: Array = np.maximum(1 - np.asarray(correlations, dtype=np.float64), _perfect(players))
    return found


def rank_axis(axis: Axis, distances: Array, players: int, *, most: int) -> None:
    """Read an axis that carries `rank_distance` as the correlation itself, with at most so many ticks for these distances."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    perfect = _perfect(players)
    low, high = float(distances.min()), float(distances.max())
    decades = [10.0**-power for power in range(6)]
    fine = sorted({share * tick for tick in decades for share in (1, 0.5, 0.2)} | {2.0, 1e-6})
    ticks: list[float] = []
    for choice in (fine, [*decades, 2.0, 1e-6], decades[::2]):
        ticks = [tick for tick in choice if low * 0.95 <= tick <= high * 1.05 and tick > 1.6 * perfect]
        if low <= perfect:
            ticks.append(perfect)
        if len(ticks) <= most:
            break
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda tick, _: "1" if tick <= perfect else f"{1 - tick:.6g}"))


def _perfect(players: int) -> float:
    return max(6 / (players * (players**2 - 1)), 1e-6) if players > 1 else 1e-6


def panel_title(ax: Axes, text: str) -> None:
    """A title on the left, as in a paper."""
    ax.set_title(text, loc="left", fontweight="bold")
