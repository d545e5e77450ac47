"""What every engine does with a part: read its rows, explain them in batches of one size, write its columns.

A part is made the same way, to the last bit, whichever engine and process makes it: each batch has the same number of rows, and
a row that is bad or missing is stood in for by the baseline, so that no other row's arithmetic changes with it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from ..attribution import Attribution
from ..checks import WIDE_GAP
from ..columns import MEASURED, audit_columns, columns_of, missed_rows
from ..errors import CoalitionError, CompletenessWarning, DaspError, DataFileError, InputError, NumericsError
from ..explainer import Explainer
from ..tables import Array, pyarrow_module, unfit
from ..targets import argmax
from .folder import Aside, Counts, about_part
from .source import Chunk, Source, first_marked, not_finite

OF_A_ROW = (InputError, NumericsError)
"""Errors that may be the fault of a single row."""
GROUP_CELLS = 2**23
"""Cells of a row group."""

Tick = Callable[[int], object]


@dataclass(frozen=True)
class Plan:
    """What to do with the rows; not what does it.

    Attributes:
        source: the rows.
        target: as an explainer takes it, or "argmax".
        dtype: of a row as the model takes it.
        names: of the players' columns, or None.
        batch: rows that are explained together.
        chunk: rows that are read together.
        part_rows: rows of the data set for each part.
        audit: evaluations for measuring each row's error, or None.
        set_aside: whether a bad row is set aside, or ends the run.
        run: the settings that all parts share.
    """

    source: Source
    target: Any
    dtype: torch.dtype
    names: tuple[str, ...] | None
    batch: int
    chunk: int
    part_rows: int
    audit: int | None
    set_aside: bool
    run: dict[str, Any]

    @property
    def parts(self) -> int:
        """The number of parts."""
        return -(-len(self.source) // self.part_rows)

    def rows_of(self, part: int) -> range:
        """The rows of the data set that belong to a part."""
        return range(part * self.part_rows, min((part + 1) * self.part_rows, len(self.source)))

    def check(self, part: int) -> None:
        """That the files of a part's rows are still those that were opened; else `DataFileError`."""
        rows = self.rows_of(part)
        self.source.check(rows.start, rows.stop)


class Worker:
    """An explainer at work on parts."""

    def __init__(self, plan: Plan, explainer: Explainer) -> None:
        self.plan, self.explainer = plan, explainer
        self._device = explainer.model.device or torch.device("cpu")
        stand_in = _first_baseline(explainer.baseline, plan.source.shape, plan.dtype).to(self._device)
        self._stand_ins = stand_in.expand(plan.batch, *plan.source.shape)
        self._sound = False  # whether a batch of baselines alone was explained

    def work(self, part: int, sink: IO[bytes], tick: Tick) -> tuple[Counts, list[Aside]]:
        """Write a part to `sink`; `tick` hears how many rows are through.

        Raises:
            DataFileError: a row is bad and is not to be set aside.
        """
        rows = self.plan.rows_of(part)
        aside: list[Aside] = []
        table, gaps, missed, settings = _Table(sink), [np.zeros(0)], 0, None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CompletenessWarning)  # counted instead
            for first, x, bad in self._batches(rows):
                explained = self._explained(first, x, bad)
                aside += [Aside(first + row, *self.plan.source.where(first + row), bad[row]) for row in sorted(bad)]
                if explained is not None:
                    result, columns = explained
                    settings = settings or _settings(result)
                    table.add(columns)
                    gaps.append(np.abs(columns["gap"]))
                    missed += missed_rows(result, [row for row in range(len(x)) if row not in bad])
                tick(len(x))
            if settings is None:  # no row is good: the columns, without any
                result = self._result(self._stand_ins)
                settings = _settings(result)
                table.add(self._columns(result, rows.start, np.zeros(self.plan.batch, dtype=bool)))
        gap = np.concatenate(gaps)
        explained_rows = len(rows) - len(aside)
        wide, largest = int((gap > WIDE_GAP).sum()), float(gap.max(initial=0.0))
        counts = Counts(part, rows.start, explained_rows, len(aside), wide, largest, missed)
        table.close(about_part(self.plan.run, counts, settings))
        return counts, aside

    def _batches(self, rows: range) -> Iterator[tuple[int, Tensor, dict[int, str]]]:
        """Batch after batch: its first row, its rows on the model's device, and why some of them are bad."""
        plan, waiting = self.plan, Chunk(np.zeros((0, *self.plan.source.shape), dtype=bool), {})
        first = rows.start
        for start in range(rows.start, rows.stop, plan.chunk):
            stop = min(start + plan.chunk, rows.stop)
            try:
                chunk = plan.source.read(start, stop)
            except OSError as error:
                raise DataFileError(f"{plan.source.path}: rows {start + 1} to {stop} cannot be read ({error}).") from error
            if len(chunk.values) != stop - start:
                raise DataFileError(
                    f"{plan.source.path}: {len(chunk.values)} rows where {stop - start} were, from row {start + 1} on: it was "
                    "changed while it was read. Start again into another folder."
                )
            waiting = _behind(waiting, chunk)
            while len(waiting.values) >= plan.batch or (stop == rows.stop and len(waiting.values)):
                now, waiting = _cut(waiting, plan.batch)
                yield first, *self._checked(first, now)
                first += len(now.values)

    def _checked(self, first: int, chunk: Chunk) -> tuple[Tensor, dict[int, str]]:
        plan = self.plan
        bad = chunk.bad | not_finite(chunk, plan.source.names)
        values = chunk.values.copy()
        values[list(bad)] = 0
        wrong, why = unfit(values, plan.dtype)
        bad |= first_marked(wrong, Chunk(values, bad), plan.source.names, why)
        values[list(bad)] = 0
        if bad and not plan.set_aside:
            self._stop(first + min(bad), bad[min(bad)])
        return torch.as_tensor(values, dtype=plan.dtype).to(self._device), bad

    def _explained(self, first: int, x: Tensor, bad: dict[int, str]) -> tuple[Attribution, dict[str, Any]] | None:
        """Result and columns of a batch's good rows, None where it has none; rows that fail are added to `bad`."""
        good = [row for row in range(len(x)) if row not in bad]
        if not good:
            return None
        try:
            result = self._result(self._filled(x, good))
        except OF_A_ROW as error:
            failing = self._failing(x, good) if self._stand_ins_work() else {}
            if not failing:
                raise
            if not self.plan.set_aside:
                row = min(failing)
                self._stop(first + row, failing[row], error)
            bad |= failing
            return self._explained(first, x, bad)
        kept = np.zeros(self.plan.batch, dtype=bool)
        kept[good] = True
        return result, self._columns(result, first, kept)

    def _filled(self, x: Tensor, rows: list[int]) -> Tensor:
        """A whole batch with these rows of `x` at their places, and baselines at all others."""
        whole = self._stand_ins.clone()
        whole[rows] = x[rows]
        return whole

    def _result(self, x: Tensor) -> Attribution:
        target = self.plan.target
        return self.explainer(x, argmax(self.explainer.model, x) if isinstance(target, str) else target)

    def _columns(self, result: Attribution, first: int, kept: Array) -> dict[str, Any]:
        columns = columns_of(result, first, self.plan.names)
        if self.plan.audit is not None:
            columns |= audit_columns(result, self.plan.audit)
        if self.plan.source.labelled:
            if "file" in columns:
                raise InputError("the feature name 'file' is the column of the images' names; rename that feature.")
            files = [self.plan.source.where(row)[0] if use else "" for row, use in enumerate(kept, first)]
            columns = {"sample": columns.pop("sample"), "file": np.array(files, dtype=object)[columns_rows(result)]} | columns
        use = kept[columns_rows(result)]
        return {name: column[use] for name, column in columns.items()}

    def _stand_ins_work(self) -> bool:
        """Whether the explainer explains the baseline; if not, no row is to blame."""
        if not self._sound:
            try:
                self._result(self._stand_ins)
            except OF_A_ROW:
                return False
            self._sound = True
        return True

    def _failing(self, x: Tensor, rows: list[int]) -> dict[int, str]:
        """Which of these rows fail among baselines, and why; found by halving."""
        try:
            self._result(self._filled(x, rows))
        except OF_A_ROW as error:
            if len(rows) == 1:
                return {rows[0]: _reason(error)}
            half = len(rows) // 2
            return self._failing(x, rows[:half]) | self._failing(x, rows[half:])
        return {}

    def _stop(self, row: int, reason: str, error: DaspError | None = None) -> None:
        raise DataFileError(
            f"{self.plan.source.place(row)}: {reason.rstrip('.')}. Put it right, or go on without such rows by setting them "
            "aside (on_error)."
        ) from error


class _Table:
    """Columns, collected into row groups whose size does not hang on how they arrive."""

    def __init__(self, sink: IO[bytes]) -> None:
        self._sink, self._waiting, self._rows = sink, [], 0  # type: IO[bytes], list[Any], int
        self._writer: Any = None

    def add(self, columns: dict[str, Any]) -> None:
        """Append equally long columns."""
        pyarrow = pyarrow_module("pyarrow")
        text = pyarrow.string()
        table = pyarrow.table(
            {name: pyarrow.array(column, type=text if column.dtype == object else None) for name, column in columns.items()}
        )
        self._waiting.append(table)
        self._rows += table.num_rows
        if self._rows * table.num_columns >= GROUP_CELLS:
            self._flush()

    def close(self, metadata: dict[str, str]) -> None:
        """Write what is left and the metadata."""
        if self._waiting:
            self._flush()
        self._writer.add_key_value_metadata(metadata)
        self._writer.close()

    def _flush(self) -> None:
        pyarrow = pyarrow_module("pyarrow")
        whole = pyarrow.concat_tables(self._waiting)
        if self._writer is None:
            self._writer = pyarrow_module("pyarrow.parquet").ParquetWriter(self._sink, whole.schema)
        self._writer.write_table(whole)
        self._waiting, self._rows = [], 0


def columns_rows(result: Attribution) -> Array:
    """For every line of a result's columns the row of the batch that it is about."""
    rows, count, _ = result.per_player.shape
    return np.repeat(np.arange(rows), count)


def _settings(result: Attribution) -> dict[str, Any]:
    found = {name: value for name, value in result.settings.items() if name not in MEASURED}
    return {"method": result.method, "settings": found}


def _reason(error: DaspError) -> str:
    if isinstance(error, CoalitionError):  # its own message counts rows within the batch
        present, players = int(error.coalition.sum()), len(error.coalition)
        return f"the model gives NaN or infinity with {present} of {players} players present, the others absent"
    return f"{type(error).__name__}: {error}"


def _behind(waiting: Chunk, more: Chunk) -> Chunk:
    if not len(waiting.values):
        return more
    count = len(waiting.values)
    bad = waiting.bad | {count + row: why for row, why in more.bad.items()}
    return Chunk(np.concatenate([waiting.values, more.values]), bad)


def _cut(chunk: Chunk, count: int) -> tuple[Chunk, Chunk]:
    now = Chunk(chunk.values[:count], {row: why for row, why in chunk.bad.items() if row < count})
    later = Chunk(chunk.values[count:], {row - count: why for row, why in chunk.bad.items() if row >= count})
    return now, later


def _first_baseline(baseline: Any, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """One row of a baseline, (*shape)."""
    if isinstance(baseline, Tensor | np.ndarray) and baseline.ndim:
        whole = torch.as_tensor(np.asarray(baseline) if isinstance(baseline, np.ndarray) else baseline)
        return (whole[0] if whole.ndim > len(shape) else whole).to(dtype)
    return torch.full(shape, float(baseline), dtype=dtype)
