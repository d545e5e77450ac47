"""Where the players lie in an image."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..players import grid as patches
from ..tables import Array

_PLACE = re.compile(r"(p|x|pixel|patch)[_ \[](\d{1,5})(?:[_,] ?(\d{1,5}))(?:[_,] ?(\d{1,5}))?\]?")
_PATCHES = re.compile(r"grid:(\d{1,5})x(\d{1,5})")


@dataclass(frozen=True)
class Grid:
    """Pixels and who owns them.

    Attributes:
        owners: (layers, height, width); a pixel shows the sum of the values of its owners, -1 is nobody.
        patches: whether a cell of the grid is a patch whose size is not known.
    """

    owners: Array
    patches: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return int(self.owners.shape[1]), int(self.owners.shape[2])


def of_labels(labels: Array) -> Grid | None:
    """From the owner of every element of an input, (height, width) or (channels, height, width); None for other shapes."""
    if labels.ndim not in (2, 3) or min(labels.shape[-2:]) < 2:
        return None
    ordered = np.sort(labels.reshape(-1, *labels.shape[-2:]), axis=0).astype(np.int32)
    owners = ordered.copy()
    owners[1:][ordered[1:] == ordered[:-1]] = -1  # of several channels with one owner the first says it
    return Grid(owners[(owners >= 0).any((1, 2))])


def of_names(names: Sequence[str]) -> Grid | None:
    """From names that say a place, as `p_3_4`, `x[0, 3, 4]` or `patch 1,2`, where they fill a grid in order; else None."""
    found = [_PLACE.fullmatch(name) for name in names]
    if len(names) < 4 or not all(found) or len({one[1] for one in found if one}) != 1:
        return None
    places = [tuple(int(number) for number in one.groups()[1:] if number is not None) for one in found if one]
    if len({len(place) for place in places}) != 1:
        return None
    shape = tuple(place + 1 for place in places[-1])
    if np.prod(shape) != len(names) or places != list(np.ndindex(*shape)):
        return None
    grid = of_labels(np.arange(len(names)).reshape(shape))
    return Grid(grid.owners, bool(found[0] and found[0][1] == "patch")) if grid else None


def of_patches(grid: Grid, spec: object, shape: tuple[int, ...]) -> Grid | None:
    """The pixels of an input of `shape` for a grid of patches, by the text of `--players`, or where patches of a single size
    make such a grid; None where neither tells.
    """
    if len(shape) not in (2, 3):
        return None
    fitting = [_sizes(pixels, cells) for pixels, cells in zip(shape[-2:], grid.size, strict=True)]
    asked = patch_size(spec) or tuple(sizes[0] for sizes in fitting if len(sizes) == 1)
    if len(asked) < 2 or any(size not in sizes for size, sizes in zip(asked, fitting, strict=True)):
        return None
    return of_labels(patches(*asked).label(shape)[0].numpy())


def patch_size(spec: object) -> tuple[int, int] | None:
    """Height and width of the patches that the text of `--players` asks for; None where it asks for others."""
    found = _PATCHES.fullmatch(spec) if isinstance(spec, str) else None
    return (int(found[1]), int(found[2])) if found else None


def _sizes(pixels: int, cells: int) -> list[int]:
    """The sizes of patches of which `cells` cover this many pixels."""
    return [size for size in range(1, pixels + 1) if -(-pixels // size) == cells]


def grey(images: Array) -> Array:
    """(R, height, width) or (R, channels, height, width), each from its darkest to its brightest pixel, as 0 to 255."""
    flat = images.mean(axis=1) if images.ndim == 4 else images
    low, high = flat.min(axis=(1, 2), keepdims=True), flat.max(axis=(1, 2), keepdims=True)
    scaled: Array = ((flat - low) / np.where(high > low, high - low, 1) * 255).round().astype(np.uint8)
    return scaled
