"""What the plots share: matplotlib on demand, the numbers of one target as numpy arrays, names and colours."""

from __future__ import annotations

import importlib
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
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

# Red against blue stays apart under the common colour-vision deficiencies; both are equally dark, or on a dark page bright.
POSITIVE, NEGATIVE = "#b2182b", "#2166ac"
POSITIVE_ON_DARK, NEGATIVE_ON_DARK = "#f4735f", "#5fa8ee"
NEUTRAL = "#767676"
# Of Okabe and Ito (2008), without black and yellow, which are lost on one page or the other.
CATEGORIES = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#767676")
LONGEST = 60
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "h", "<", ">", "p")


@dataclass(frozen=True)
class Look:
    """The colours that go with the style some axes were made in."""

    ink: Any  # of lines and text, as the style has it
    dark: bool  # whether the page is

    @property
    def positive(self) -> str:
        """Of what raises the output."""
        return POSITIVE_ON_DARK if self.dark else POSITIVE

    @property
    def negative(self) -> str:
        """Of what lowers it."""
        return NEGATIVE_ON_DARK if self.dark else NEGATIVE

    @property
    def neutral(self) -> str:
        """Of what has no sign."""
        return "#9a9a9a" if self.dark else NEUTRAL

    @property
    def faint(self) -> str:
        """Of guides and grids."""
        return "0.25" if self.dark else "0.9"

    def sign(self, value: float) -> str:
        """Colour of a value by its sign."""
        return self.positive if value >= 0 else self.negative

    def diverging(self) -> Colormap:
        """From `negative` over the colour of the page to `positive`; for scales that are symmetric about 0."""
        return _scale("dasp", [self.negative, "#1c1c1c" if self.dark else "#f7f7f7", self.positive])

    def sequential(self) -> Colormap:
        """Viridis without the end that is lost on the page."""
        viridis: Any = importlib.import_module("matplotlib").colormaps["viridis"]
        ends = (0.25, 1.0) if self.dark else (0.0, 0.9)
        return _scale("dasp_sequential", viridis(np.linspace(*ends, 64)))


PAPER = Look("black", False)


def look(ax: Axes) -> Look:
    """What the style that `ax` was made in asks for: a page is dark where its labels are bright."""
    ink = ax.xaxis.label.get_color()
    return Look(ink, luminance(ink) > 0.35)


def luminance(colour: Any) -> float:
    """Relative luminance of a colour, 0 to 1 (WCAG 2)."""
    colors: Any = importlib.import_module("matplotlib.colors")
    parts = np.asarray(colors.to_rgb(colour))
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


def ink_on(colour: Any) -> str:
    """Black or white, whichever is read better on `colour`."""
    return "black" if luminance(colour) > 0.18 else "white"


def _scale(name: str, colours: Any) -> Colormap:
    colors: Any = importlib.import_module("matplotlib.colors")
    made: Colormap = colors.LinearSegmentedColormap.from_list(name, colours)
    return made


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
    pyplot = _pyplot()
    if ax is None:
        _, ax = pyplot.subplots(figsize=size, layout="constrained")
    assert ax is not None
    return ax


def _pyplot() -> Any:
    try:
        return importlib.import_module("matplotlib.pyplot")
    except ImportError as error:
        raise MissingExtraError("plots need matplotlib: pip install 'dasp[plots]'.") from error


def grid(down: int, across: int, *, size: tuple[float, float]) -> npt.NDArray[np.object_]:
    """The `down` times `across` axes of a new figure of `size` inches, line by line, (down * across,)."""
    pyplot = _pyplot()
    panels: npt.NDArray[np.object_] = pyplot.subplots(down, across, figsize=size, layout="constrained", squeeze=False)[1]
    return panels.reshape(-1)


def table(result: Attribution, target_index: int | None) -> Table:
    """Numbers of one target of `result`; `InputError` where it has no such target, or values that are not finite."""
    check_result(result)
    values = result.per_player  # (B, T, n)
    rows, targets, _ = values.shape
    chosen = target(target_index, targets)
    data = None if result.players.grouped else torch.cat([part.reshape(rows, -1) for part in result.inputs], dim=1)
    return Table(
        values=finite("the values of the attribution", array(values[:, chosen])),
        base_value=array(result.base_value.reshape(rows, targets)[:, chosen]),
        output=array(result.output.reshape(rows, targets)[:, chosen]),
        data=None if data is None else array(data),
        names=tuple(labels(result.player_names)),
    )


def target(asked: int | None, count: int) -> int:
    """Which of `count` targets to draw; `InputError` where there are several and none was asked for, or no such one."""
    if asked is None:
        if count > 1:
            raise InputError(f"there are {count} targets, and a plot shows one: choose it with target_index=, from 0.")
        return 0
    check_whole("target_index", asked)
    if not 0 <= asked < count:
        raise InputError(f"target_index {asked}: there are {count} target(s), counted from 0.")
    return asked


def plain(text: str) -> str:
    """`text` as matplotlib must get it to draw it as it is, for what stands between two dollars it reads as a formula; cut
    where it is longer than `LONGEST` letters.
    """
    return _as_text(_cut(text))


def labels(names: Sequence[str]) -> list[str]:
    """`plain` names that stay apart: cut at their end, or in the middle where those would be equal, or numbered from 0."""
    return [_as_text(name) for name in shortened(names)]


def shortened(names: Sequence[str]) -> list[str]:
    """As in `labels`, but for the dollars."""
    ends = Counter(map(_cut, names))
    once = [_cut(name) if ends[_cut(name)] == 1 else _cut_within(name) for name in names]
    known = Counter(once)
    return [
        short if known[short] == 1 or len(name) <= LONGEST else f"{short} ({place})"
        for place, (name, short) in enumerate(zip(names, once, strict=True))
    ]


def wrapped(text: str, letters: int) -> str:
    """`plain` text in lines of at most so many letters."""
    return "\n".join(plain(line) for line in textwrap.wrap(text, letters)) or " "


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _cut_within(text: str) -> str:
    half = LONGEST // 2
    return text if len(text) <= LONGEST else f"{text[: half - 1]}…{text[half - LONGEST :]}"


def _as_text(text: str) -> str:
    return text.replace("$", r"\$")


def width(names: Iterable[str]) -> float:
    """Inches of a new figure that has these names beside its axes."""
    return 6.4 + longer(names)


def longer(names: Iterable[str]) -> float:
    """Inches that the longest of these names takes beyond 25 letters, for which a figure has room."""
    return 0.08 * max(0, max(map(len, names), default=0) - 25)


def room(methods: Iterable[str]) -> float:
    """Inches by which these names are wider than the 4 that a legend over the axes has."""
    return max(0.0, 0.08 * min(max(map(len, methods)), LONGEST) - 3.3)


def finite(what: str, values: Array) -> Array:
    """`values`; `InputError` where they hold NaN or infinity."""
    if not np.isfinite(values).all():
        raise InputError(f"{what} hold NaN or infinity in {int((~np.isfinite(values)).sum())} of {values.size} places.")
    return values


def numbers(what: str, given: npt.ArrayLike) -> Array:
    """`given` as finite float64; `InputTypeError` where it holds no numbers."""
    try:
        found = np.asarray(given.detach().cpu() if isinstance(given, torch.Tensor) else given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputTypeError(f"{what}: expected numbers ({error}).") from None
    return finite(what, found)


def line(place: int) -> dict[str, Any]:
    """Colour and mark of the method in this place; 7 colours and 11 marks: pairs repeat after 77."""
    colour = CATEGORIES[place % len(CATEGORIES)]
    return {"color": colour, "marker": MARKERS[place % len(MARKERS)], "markersize": 5, "linewidth": 1.5}


def legend_above(ax: Axes) -> None:
    """A legend over the axes, where it covers nothing, in as many columns as fit about 4 inches."""
    names = ax.get_legend_handles_labels()[1]
    columns = max(1, int(3.9 / (0.5 + 0.07 * max(map(len, names)))))
    ax.legend(
        loc="lower left", bbox_to_anchor=(0, 1), ncols=min(columns, len(names)), frameon=False, fontsize=8, borderaxespad=0.2
    )  # fmt: skip


def joined(values: Array, owners: npt.NDArray[np.int64]) -> Array:
    """Sum over the distinct owners of every place; values (n,), owners (channels, *shape) -> (*shape)."""
    ordered = np.sort(owners, axis=0)
    first = np.ones(ordered.shape, dtype=bool)
    first[1:] = ordered[1:] != ordered[:-1]
    summed: Array = np.where(first, values[ordered], 0.0).sum(axis=0)
    return summed


def several(results: object) -> dict[str, Attribution]:
    """Attributions by the names of their methods, of the same rows and players; our own errors where they are not."""
    if not isinstance(results, Mapping) or not results:
        raise InputTypeError(f"results: expected a dict from a method's name to its Attribution, got {type(results).__name__}.")
    for result in results.values():
        check_result(result)
    shapes = {str(name): tuple(result.per_player.shape) for name, result in results.items()}
    if len(set(shapes.values())) > 1:
        raise InputError(f"results: of the same rows, targets and players, but their numbers differ: {shapes}.")
    return {str(name): result for name, result in results.items()}


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


def check_input(result: Attribution, input_index: int) -> None:
    """`InputError` when `result` has no input `input_index`, counted from 0."""
    check_result(result)
    check_whole("input_index", input_index)
    if not 0 <= input_index < len(result.inputs):
        raise InputError(f"input_index {input_index}: the model has {len(result.inputs)} input(s), counted from 0.")


def check_limit(limit: float | None) -> None:
    """`InputTypeError` when the end of a colour scale is no number, `InputError` when it is not above 0."""
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int | float | np.number)):
        raise InputTypeError(f"limit: expected a number, got {type(limit).__name__}.")
    if limit is not None and not 0 < limit < np.inf:
        raise InputError(f"limit {limit}: the end of the colour scale must be above 0.")


def named(what: str, names: Sequence[str], count: int) -> list[str]:
    """`names` as text to draw; our own errors where they are no list of strings, or not `count`."""
    if isinstance(names, str) or not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise InputTypeError(f"{what}: expected a list of strings, got {type(names).__name__}.")
    if len(names) != count:
        raise InputError(f"{what}: expected {count} name(s), got {len(names)}.")
    return labels(names)


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
    where: dict[str, Any] = {"xytext": (-4 if left else 4, 0), "textcoords": "offset points", "va": "center", "ha": side}
    ax.annotate(text, (end, place), fontsize=8, color=look(ax).ink, **where)


def label(names: tuple[str, ...], data: Array | None, row: int, player: int) -> str:
    """`name`, or `name = value` where the player is one element."""
    return names[player] if data is None else f"{names[player]} = {data[row, player]:.4g}"
