"""One image, explained for every class that was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..attribution import Attribution
from ..errors import InputError
from . import _common
from .image import image

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LETTERS = 20  # to a line of a title, over a panel


def image_per_class(
    result: Attribution,
    index: int = 0,
    *,
    names: Sequence[str] | None = None,
    columns: int = 5,
    limit: float | None = None,
    input_index: int = 0,
    ax: Sequence[Axes] | npt.NDArray[np.object_] | None = None,
) -> npt.NDArray[np.object_]:
    """Row `index` once for every target, as `dasp.plots.image`, all on one colour scale.

    Args:
        result: attributions for several targets: `explainer(images, target=[0, 1, 2])`.
        index: row of the batch, from 0.
        names: a name for each target; default its number.
        columns: panels beside each other, of a new figure.
        limit: value at the ends of the colour scale; default the largest sum of magnitudes of any pixel, over all targets.
        input_index: which of several inputs, from 0.
        ax: axes to draw on, one for each target; default a new figure.

    Returns:
        The axes, one for each target, in their order.

    Raises:
        InputError: no such row or input, an input that is not an image, or names or axes that are not one for each target.
        MissingExtraError: matplotlib is not installed.
    """
    _common.check_row(result, index)
    _common.check_limit(limit)
    _common.check_input(result, input_index)
    count = result.per_player.shape[1]
    if names is not None:
        _common.named("names", names, count)
    titles = _numbers(result, index) if names is None else _common.shortened(names)
    panels = _panels(count, columns) if ax is None else np.asarray(ax, dtype=object).reshape(-1)
    if len(panels) != count:
        raise InputError(f"ax: {len(panels)} axes for {count} targets: give one for each.")
    if limit is None:
        owners = result.players.labels[input_index].cpu().numpy()
        owners = owners.reshape(-1, *owners.shape[-2:])
        each = [_common.table(result, i).values[index] for i in range(count)]
        limit = max(float(np.abs(_common.joined(values, owners)).max()) for values in each) or 1.0
    for i, (one, title) in enumerate(zip(panels, titles, strict=True)):
        output = float(_common.table(result, i).output[index])
        image(
            result, index, target_index=i, input_index=input_index, limit=limit, colorbar=False,
            title=_common.wrapped(f"{title}: {output:.3g}", _LETTERS), ax=one,
        )  # fmt: skip
    bar = panels[0].figure.colorbar(panels[0].images[-1], ax=list(panels), fraction=0.03, pad=0.02)
    bar.solids.set_alpha(1)
    bar.set_label("contribution")
    return panels


def _numbers(result: Attribution, index: int) -> list[str]:
    """The targets as text: the index into the output axes."""
    targets = result.targets[index if len(result.targets) > 1 else 0].tolist()  # (T, k)
    return [", ".join(map(str, target)) for target in targets]


def _panels(count: int, columns: int) -> npt.NDArray[np.object_]:
    _common.check_whole("columns", columns)
    if columns < 1:
        raise InputError(f"columns {columns}: at least 1 panel stands in a line.")
    across = min(count, columns)
    down = -(-count // across)
    grid = _common.grid(down, across, size=(1.7 * across + 0.9, 1.95 * down))
    for spare in grid[count:]:
        spare.set_axis_off()
    return grid[:count]
