"""Letters as outlines, which keep their place and size however the figure is resized; and the texts of tokens."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..attribution import Attribution
from ..errors import InputError, InputTypeError

if TYPE_CHECKING:
    from matplotlib.path import Path


def outline(text: str, *, family: str, weight: str = "normal") -> Path:
    """The outline of `text` in a font of size 1, from the origin on its baseline."""
    fonts, paths, textpath = (
        importlib.import_module(f"matplotlib.{name}") for name in ("font_manager", "path", "textpath")
    )  # fmt: skip
    shapes: Any = textpath.text_to_path
    points, codes = shapes.get_text_path(fonts.FontProperties(family=family, weight=weight), text, ismath=False)
    made: Path = paths.Path(np.asarray(points) / shapes.FONT_SCALE, codes) if len(points) else paths.Path(np.empty((0, 2)))
    return made


def size(path: Path) -> int:
    """How many points an outline has: none where a text is blank."""
    return len(np.asarray(path.vertices))


def unit_outline(text: str) -> Path:
    """`text` in bold, stretched to fill the square from 0 to 1; nothing where it is blank."""
    path: Any = importlib.import_module("matplotlib.path").Path
    drawn = outline(text, family="DejaVu Sans", weight="bold")
    if not size(drawn):
        return drawn
    box = drawn.get_extents()
    made: Path = path((np.asarray(drawn.vertices) - (box.x0, box.y0)) / (box.width or 1, box.height or 1), drawn.codes)
    return made


def of_row(result: Attribution, index: int, given: Sequence[str] | None) -> tuple[str, ...]:
    """The texts of the players of row `index`: those given, or the attribution's tokens; `InputError` where there are none."""
    if given is None:
        if result.tokens is None:
            raise InputError(
                "this attribution has no tokens: give their texts, one for each player, or explain with dasp.huggingface."
            )
        given = result.tokens[index]
    count = result.players.count
    if not isinstance(given, Sequence) or not all(isinstance(text, str) for text in given):
        raise InputTypeError("the texts of the players are strings.")
    if len(given) != count:
        raise InputError(f"{len(given)} texts for {count} players: give one for each.")
    return tuple(given)
