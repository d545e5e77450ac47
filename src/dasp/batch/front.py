"""The door to whole data sets: what is asked, checked before the first row is explained."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram
from tqdm.auto import tqdm

from ..background import PerRow
from ..checks import as_json
from ..columns import WRITTEN, missed_text
from ..errors import InputError, InputTypeError
from ..explainer import Array, Explainer
from ..model import Model
from ..options import ARGMAX, expected_inputs, row_dtype
from ..tables import read_baseline, tensor_of, unique_names
from .folder import ASIDE, Folder
from .identity import described, model_digest
from .local import run_beside, run_here
from .opening import StrPath, open_source
from .ray_engine import run_on_ray
from .source import Source
from .worker import Plan

if TYPE_CHECKING:
    Explained = Explainer | Model | torch.nn.Module | ExportedProgram | StrPath

ENGINES = ("local", "ray")
ON_ERROR = ("stop", "set-aside")
BATCH = 64
PART_ROWS = 4096


@dataclass(frozen=True)
class Summary:
    """What stands in the output.

    Attributes:
        out: the folder.
        rows: rows explained.
        set_aside: rows that could not be.
        parts: parts, of which
        resumed: were there already.
        wide_gaps: rows whose values miss completeness by more than a tenth of their magnitudes.
        largest_gap: the largest completeness gap, relative; NaN for a semivalue whose values need not add up, or without rows.
        missed: rows that `Refine` left above its tolerance.
        seconds: wall time of this run.
    """

    out: Path
    rows: int
    set_aside: int
    parts: int
    resumed: int
    wide_gaps: int
    largest_gap: float
    missed: int
    seconds: float

    @classmethod
    def of(cls, folder: Folder, plan: Plan, *, resumed: int, shapley: bool, seconds: float) -> Summary:
        """What stands in `folder`; whether values are Shapley's says whether a gap is an error."""
        found = folder.done.values()
        return cls(
            out=folder.path,
            rows=sum(counts.rows for counts in found),
            set_aside=sum(counts.set_aside for counts in found),
            parts=plan.parts,
            resumed=resumed,
            wide_gaps=sum(counts.wide_gaps for counts in found) if shapley else 0,
            largest_gap=max((counts.largest_gap for counts in found if counts.rows and shapley), default=math.nan),
            missed=sum(counts.missed for counts in found),
            seconds=seconds,
        )

    def __str__(self) -> str:
        text = f"{self.rows} rows in {self.parts} part(s)"
        if self.resumed:
            text += f", {self.resumed} of which were there"
        if self.set_aside:
            text += f", {self.set_aside} rows set aside in {self.out / ASIDE}"
        if not math.isnan(self.largest_gap):
            text += f", completeness gap {self.largest_gap:.2%} (largest)"
        if self.wide_gaps:
            text += f", above 10 % in {self.wide_gaps} rows: see --audit and --method refine"
        if self.missed:
            text += f", {missed_text(self.missed)}"
        return text


def explain(
    explainer: Explained,
    source: StrPath | Sequence[StrPath] | Source,
    out: StrPath,
    *,
    baseline: float | Array | str | None = None,
    target: Any = None,
    columns: Sequence[str] | None = None,
    on_error: str = "stop",
    audit: int | None = None,
    batch: int = BATCH,
    chunk: int | None = None,
    part_rows: int = PART_ROWS,
    dtype: torch.dtype | None = None,
    engine: str = "local",
    workers: int = 1,
    address: str | None = None,
    gpus: float = 0,
    progress: bool | None = None,
) -> Summary:
    """Explain every row of a data set of any size into a folder of parquet files, one for each range of `part_rows` rows.

    A part appears whole or not at all. Called again with the same arguments, it goes on after the parts that are there; a
    folder that holds parts of another run is refused: other settings, weights, or data, which are known by their bytes (of
    files above 64 MiB by samples of them). A file that is changed during the run ends it. The parts are the same to the last
    bit whatever `chunk`, `workers` and interruptions, and the values of a row also whatever `part_rows`; another `batch` may
    change last digits.

    Args:
        explainer: an explainer, or a model as `dasp.Explainer` takes it.
        source: a `.parquet`, `.csv` or `.npy` file; several of one kind; or a folder of them, or of `.png` and `.jpg` images,
            which become (channels, height, width) from 0 to 1.
        out: the folder; made if it does not exist. Rows that are set aside are in `_set-aside` inside it.
        baseline: for a model, not an explainer: a number, a row, a background, "mean" for the mean row, or a file. Default 0.
        target: as an explainer takes it, but not one a row; or "argmax" for each row's largest output.
        columns: of tables, the columns in the model's order.
        on_error: "stop" at a row that cannot be read or explained, or "set-aside" it with the reason and go on.
        audit: evaluations with which every row's error is measured; None for no such columns.
        batch: rows explained together.
        chunk: rows read together, part of a part at most; by default what fits 64 MiB.
        part_rows: rows for each part.
        dtype: of a row as the model takes it; default: what a program declares, else the model's.
        engine: "local", or "ray" for workers on a cluster, which all need to find the data under the same path.
        workers: processes; 1 is this one alone, and on Ray one worker.
        address: of a Ray cluster; default: the one this process is in, or one started on this machine.
        gpus: on Ray, for each worker; with any, the model is explained on "cuda".
        progress: show a progress bar; default: when standard error is a terminal.

    Raises:
        InputTypeError, InputError: an argument has the wrong type or value.
        DataFileError: the data cannot be read; or a row cannot be explained, and is not to be set aside.
        OutputFileError: the folder cannot be written, or belongs to another run.
        WorkerError: workers are lost again and again.
    """
    started = time.perf_counter()
    sizes = {"batch": batch, "part_rows": part_rows, "workers": workers, "chunk": chunk, "audit": audit}
    _check(sizes, engine, on_error, target)
    if isinstance(gpus, bool) or not isinstance(gpus, int | float) or not 0 <= gpus < math.inf:
        raise InputError(f"gpus: expected a number from 0 on, for each worker; got {gpus!r}.")
    if engine != "ray" and (address is not None or gpus):
        raise InputError("address and gpus are for engine='ray'; the local engine explains where the model is.")
    known = explainer.model if isinstance(explainer, Explainer) else explainer
    model = known if isinstance(known, Model) else Model(known)
    source = _source(source, columns, model, Path(out))
    dtype = dtype or _dtype(model, source)
    explainer = _explainer(explainer, model, baseline, source, dtype, on_error)
    device = "cuda" if gpus else str((model.device or torch.device("cpu")).type)
    plan = _plan(explainer, source, dtype, target, on_error, batch, chunk, part_rows, audit, device)
    folder = Folder(out, plan.run, plan.parts)
    resumed = len(folder.done)
    try:
        _work(plan, explainer, folder, engine=engine, workers=workers, address=address, gpus=gpus, progress=progress)
        seconds = time.perf_counter() - started
        return Summary.of(folder, plan, resumed=resumed, shapley=explainer.semivalue is None, seconds=seconds)
    except BaseException as stop:
        if not isinstance(stop, Exception):  # an interrupt or a signal
            stop.add_note(
                f"{len(folder.done)} of {plan.parts} parts stand whole in {folder.path}; give the same command again to go on"
            )
        raise
    finally:
        folder.close()


def _work(
    plan: Plan, explainer: Explainer, folder: Folder, *, engine: str, workers: int, address: str | None, gpus: float,
    progress: bool | None,
) -> None:  # fmt: skip
    """Explain the parts that are not in the folder yet."""
    todo = [part for part in range(plan.parts) if part not in folder.done]
    ready = sum(len(plan.rows_of(part)) for part in folder.done)
    show = None if progress is None else not progress
    with tqdm(total=len(plan.source), initial=ready, unit="row", disable=show, smoothing=0.05) as bar:
        if not todo:
            return
        if engine == "ray":
            run_on_ray(plan, explainer, folder, todo, bar.update, workers, address=address, gpus=gpus)
        elif workers > 1:
            run_beside(plan, explainer, folder, todo, bar.update, workers)
        else:
            run_here(plan, explainer, folder, todo, bar.update)


def mean(source: StrPath | Sequence[StrPath], *, columns: Sequence[str] | None = None, skip: bool = False) -> Any:
    """The mean row of a data set, float64, as a baseline.

    Args:
        source: as for `explain`.
        columns: of tables, the columns in the model's order.
        skip: leave bad rows out; else the first is an error.

    Raises:
        DataFileError: the data cannot be read, or a row is bad.
    """
    return open_source(source, columns=columns).mean(skip=skip)


def _check(sizes: dict[str, int | None], engine: str, on_error: str, target: Any) -> None:
    for name, size in sizes.items():
        optional = name in ("chunk", "audit")
        if (size is None and optional) or (isinstance(size, int) and not isinstance(size, bool) and size > 0):
            continue
        raise InputError(f"{name}: expected a whole number above 0{' or None' if optional else ''}, got {size!r}.")
    for name, value, known in (("engine", engine, ENGINES), ("on_error", on_error, ON_ERROR)):
        if value not in known:
            raise InputError(f"{name}: expected {' or '.join(map(repr, known))}, got {value!r}.")
    if isinstance(target, Tensor | np.ndarray) and target.ndim:
        raise InputTypeError("target: one target a row cannot be given for a data set. Give one for all rows, or 'argmax'.")
    if isinstance(target, str) and target != ARGMAX:
        raise InputError(f"target: {target!r} is no target; give a number, a tuple, a list of these, or 'argmax'.")


def _source(given: Any, columns: Sequence[str] | None, model: Model, out: Path) -> Source:
    """The rows, opened, which do not lie around the output."""
    if isinstance(given, Source) and columns is not None:
        raise InputError("columns: the source is open already; name them when it is opened.")
    source = given if isinstance(given, Source) else open_source(given, columns=columns, shape=_declared(model))
    if source.path.is_dir() and out.resolve().is_relative_to(source.path.resolve()):
        raise InputError(f"out: {out} lies inside {source.path}, whose files are the data. Name a folder outside of it.")
    return source


def _declared(model: Model) -> tuple[int, ...] | None:
    """The shape of a row, where the model says it."""
    if isinstance(model.source, ExportedProgram):
        return tuple(expected_inputs(model)[0].shape[1:])
    return None


def _dtype(model: Model, source: Source) -> torch.dtype:
    if isinstance(model.source, ExportedProgram):
        return row_dtype(model, "the program", source)
    return model.dtype or torch.float32


def _explainer(explainer: Any, model: Model, baseline: Any, source: Source, dtype: torch.dtype, on_error: str) -> Explainer:
    if isinstance(explainer, Explainer):
        if baseline is not None:
            raise InputError("baseline: the explainer has one already; leave it out, or give the model.")
        if isinstance(explainer.baseline, PerRow | tuple):
            raise InputError(
                "baseline: a data set needs one baseline for all rows, or a background, of its one input; no PerRow or tuple."
            )
        if getattr(explainer.method, "keep", None) is not None:
            raise InputError(
                "method: keep= is a file for one batch of rows, and a data set has many. Leave it out, "
                "dataclasses.replace(method, keep=None): parts that are finished are kept here."
            )
        return explainer
    found: Any = 0.0 if baseline is None else baseline
    if isinstance(baseline, str):
        found = source.mean(skip=on_error != "stop") if baseline == "mean" else read_baseline(baseline, source)
    if isinstance(found, np.ndarray):
        found = tensor_of(found, dtype, lambda where: f"baseline: the number at {tuple(where)}").to(model.device or "cpu")
    return Explainer(model, found)


def _plan(
    explainer: Explainer, source: Source, dtype: torch.dtype, target: Any, on_error: str, batch: int, chunk: int | None,
    part_rows: int, audit: int | None, device: str,
) -> Plan:  # fmt: skip
    names = explainer.feature_names
    if names is None and source.names is not None and explainer.players is None:
        names = unique_names(source.names, WRITTEN, str(source.path))
    run = {
        "model": model_digest(explainer.model),
        "data": source.identity(),
        "rows": len(source),
        "columns": source.names,
        "baseline": described(explainer.baseline),
        "method": described(explainer.method),
        "players": described(explainer.players),
        "semivalue": described(explainer.semivalue),
        "names": names,
        "target": target if isinstance(target, str) else as_json(target),
        "audit": audit,
        "batch": batch,
        "part_rows": part_rows,
        "memory": explainer.memory,
        "dtype": str(dtype).removeprefix("torch."),
        "device": device,
        "dasp": version("dasp"),
        "torch": torch.__version__,
    }
    return Plan(
        source=source,
        target=target,
        dtype=dtype,
        names=names,
        batch=batch,
        chunk=min(chunk or source.chunk_rows(), part_rows),
        part_rows=part_rows,
        audit=audit,
        set_aside=on_error != "stop",
        run=json.loads(json.dumps(run)),
    )
