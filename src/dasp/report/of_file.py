"""The content of a report from a file of attributions, or a folder of parts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..batch import open_source
from ..errors import DataFileError
from ..tables import Array
from .content import Content, evenly, left_out, rows_that_fit, told
from .picture import Grid, grey, of_names, of_patches, patch_size
from .reading import Attributions, Layout
from .summary import MEASURING, summaries

_HINT = "`dasp explain ... --audit 2000` measures it for every row."
_SHAPLEY = (None, "None")
_WORDS = {
    "model": "Network", "rows": "Rows", "data": "Data", "columns": "Columns", "baseline": "Absent features hold",
    "players": "Players", "target": "Target", "method": "Method", "settings": "Settings", "semivalue": "Semivalue",
    "audit": "Evaluations of the audit", "dtype": "Precision", "device": "Device", "dasp": "dasp", "torch": "torch",
    "batch": "Rows explained together", "chunk": "Rows explained together",
}  # fmt: skip


def content_of(path: Path, rows: Path | None, asked: int | None, title: str) -> Content:
    """The content of a page about the attributions in `path`, with what the features held from the file `rows`.

    Raises:
        DataFileError: `path` holds no attributions, or `rows` does not go with them.
        CostError: more rows are asked for than a browser opens.
    """
    found = Attributions.open(path)
    layout, samples = found.layout, found.samples()
    run = found.about["run"] if isinstance(found.about.get("run"), dict) else found.about
    held = None if rows is None else _Held(rows, layout, run.get("players"))
    if held is not None:
        counted = run.get("rows")
        held.check_count(counted if isinstance(counted, int) else int(samples.max()) + 1)
    n, total = len(layout.names), len(samples)
    each = 4 * n * (1 + bool(layout.errors)) + 4 * len(layout.others) + (0 if held is None else held.bytes_each)
    keep = evenly(samples, rows_that_fit(total, each, asked))
    kept = np.zeros(total, dtype=bool)
    kept[keep] = True

    sums, done = np.zeros(n), 0
    values, errors, columns, measuring = [], [], [], []
    for block in found.blocks():
        here = kept[done : done + len(block.values)]
        sums += np.abs(block.values).sum(axis=0, dtype=np.float64)
        values.append(block.values[here])
        columns.append({name: column[here] for name, column in block.columns.items()})
        measuring.append({name: column for name, column in block.columns.items() if name in MEASURING})
        if block.errors is not None:
            errors.append(block.errors[here])
        done += len(block.values)

    about = found.about
    shapley = _shapley(about)
    grid = of_names(layout.names)
    data, pictures, notes = None, None, list(left_out(len(keep), total, asked)) + _of_parts(found)
    if held is not None:
        if isinstance(run.get("data"), str) and held.source.identity() != run["data"]:
            notes.append(f"What features hold is from {held.path.name}: not the file that was explained, or it has changed.")
        data, pictures, grid = held.of(samples[keep], grid)
        if grid is not None and pictures is None and data is None:
            notes.append("The images are not under the values: it is not known which pixels belong to which patch.")
    return Content(
        title=title,
        about=_about(found, total),
        notes=tuple(notes),
        names=layout.names,
        total=total,
        importance=sums / total,
        values=np.concatenate(values),
        columns=_joined(columns),
        summaries=summaries(_joined(measuring), shapley=shapley, hint=_HINT),
        shapley=shapley,
        errors=np.concatenate(errors) if errors else None,
        data=data,
        grid=grid,
        pictures=pictures,
    )


class _Held:
    """What the elements of the explained rows held."""

    def __init__(self, path: Path, layout: Layout, spec: object) -> None:
        self.path, self.spec, self.source = path, spec, open_source(path)
        n, grid = len(layout.names), of_names(layout.names)
        grouped = re.fullmatch(r"(patch|player|channel|token)[_ ][\d_,]+", layout.names[0]) is not None
        named = self.source.names is not None and set(layout.names) <= set(self.source.names)
        if named:
            self.source = open_source(path, columns=layout.names)
        placed = re.fullmatch(r"p_?[\d_]+|x\[[\d, ]+\]", layout.names[0]) is not None or self.source.names is None
        shape = self.source.shape
        self.numbers = named or (placed and not grouped and int(np.prod(shape)) == n)
        self.images = not self.numbers and grid is not None and len(shape) in (2, 3)
        if not (self.numbers or self.images):
            raise DataFileError(
                f"{path}: rows of shape {shape} do not go with {n} players such as {layout.names[0]!r}. Give the rows that "
                "were explained; where players are groups of a table's columns leave them out."
            )
        self.bytes_each = 4 * n if self.numbers else int(np.prod(shape[-2:]))

    def check_count(self, rows: int) -> None:
        """Refuse another number of rows than were explained."""
        if len(self.source) != rows:
            raise DataFileError(
                f"{self.path}: has {len(self.source):,} rows, but {rows:,} were explained. Give the rows that were explained, "
                "in their order."
            )

    def of(self, samples: Array, grid: Grid | None) -> tuple[Array | None, Array | None, Grid | None]:
        """Numbers (R, n) or pictures (R, height, width) of these samples, and where the players lie in these."""
        source = self.source
        if self.images:
            assert grid is not None
            whole = of_patches(grid, self.spec, source.shape) if grid.patches else _same(grid, source.shape)
            if whole is None:
                return None, None, grid
            return None, np.concatenate([grey(part) for part in self._parts(samples)]), whole
        return np.concatenate([part.reshape(len(part), -1) for part in self._parts(samples)]), None, grid

    def _parts(self, samples: Array) -> list[Array]:
        """The rows of rising samples, some at a time."""
        found, step = [], self.source.chunk_rows()
        for start in range(0, int(samples.max()) + 1, step):
            wanted = samples[(samples >= start) & (samples < start + step)]
            if len(wanted):
                chunk = self.source.read(start, min(start + step, len(self.source)))
                bad = sorted(set((wanted - start).tolist()) & set(chunk.bad))
                if bad:
                    place = self.source.place(start + bad[0])
                    raise DataFileError(f"{place}: {chunk.bad[bad[0]]}. Give the rows that were explained.")
                found.append(chunk.values[wanted - start])
        if sum(map(len, found)) != len(samples) or (np.diff(samples) < 0).any():
            raise DataFileError(f"{self.path}: the samples do not rise, so that rows cannot be found for them.")
        return found


def _same(grid: Grid, shape: tuple[int, ...]) -> Grid | None:
    """The grid itself where it has the height and width of the images."""
    return grid if grid.size == tuple(shape[-2:]) else None


def _joined(blocks: list[dict[str, Array]]) -> dict[str, Array]:
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def _shapley(about: Mapping[str, Any]) -> bool:
    """Whether the metadata name no other semivalue."""
    run, settings = about.get("run"), about.get("settings")
    named = [run.get("semivalue")] if isinstance(run, dict) else []
    named += [settings.get("semivalue")] if isinstance(settings, dict) else []
    return all(one in _SHAPLEY for one in named)


def _of_parts(found: Attributions) -> list[str]:
    """Sentences about a folder that does not hold everything."""
    parts = found.parts
    says = []
    if parts and (missing := max(parts) + 1 - len(parts)):
        says.append(f"{missing:,} of the parts before the last one are not there: the run is not finished, or they are lost.")
    aside = sum(parts.values())
    if aside:
        says.append(f"{aside:,} rows of the data set could not be explained and were set aside.")
    run = found.about.get("run")
    rows, each = (run.get("rows"), run.get("part_rows")) if isinstance(run, dict) else (None, None)
    if parts and isinstance(rows, int) and isinstance(each, int) and each > 0:
        more = -(-rows // each) - max(parts) - 1
        says += [f"{more:,} more parts of the run are not there yet."] if more > 0 else []
    return says


def _about(found: Attributions, total: int) -> tuple[tuple[str, str], ...]:
    about = found.about
    run = about.get("run") if isinstance(about.get("run"), dict) else about
    entries: list[tuple[str, Any]] = [("Attributions", found.path.name), ("Explained", f"{total:,} rows")]
    entries += [("Number of players", f"{len(found.layout.names):,}")]
    if not about:
        return told([*entries, ("Settings", "the file does not say how it was made")])
    known: dict[str, Any] = dict(run) if isinstance(run, dict) else {}
    if "run" in about and isinstance(about.get("settings"), dict):  # what the method came to
        known |= {name: about["settings"].get(name) for name in ("method", "settings")}
    if size := patch_size(known.get("players")):
        known["players"] = f"patches of {size[0]} x {size[1]}"
    entries += [(word, known.get(name)) for name, word in _WORDS.items() if known.get(name) != "None"]
    return told(entries)
