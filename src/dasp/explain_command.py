"""`dasp explain`: a file of rows into a file, or a data set of any size into a folder."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from . import batch
from .attribution import Attribution
from .batch.source import file_digest
from .columns import MEASURED, WRITTEN, audit_columns, columns_of, missed_rows, missed_text
from .errors import DataFileError, InputError
from .estimators import Estimator, Exact, PermutationSampling, Propagation, Refine, Regression, VertexGradients
from .explainer import Explainer
from .model import Model, load_program
from .options import ARGMAX, PLAYERS, expected_inputs, players_of, row_dtype, semivalue_of, targets_of
from .tables import Array, Described, Rows, TableWriter, element, read_baseline, read_rows, tensor_of, unique_names
from .targets import argmax

_READ = 4096  # rows checked at a time
_CHUNK = 64  # rows explained at a time, of one file
_READ_FROM = ("model", "rows", "baseline", "players")  # options that may name files
_OF_FOLDERS = ("batch", "part_rows", "on_error", "engine", "workers", "address", "gpus")  # options that one file does not take
_COUNT = click.IntRange(min=1)
_OPTIONS_OF = {
    "propagation": ("nodes", "rule", "rank", "mixture", "clusters", "seed"),
    "exact": ("force",),
    "permutation": ("permutations", "seed"),
    "gradients": ("samples", "seed"),
    "regression": ("budget", "seed"),
    "refine": ("tolerance", "budget", "seed"),
}
ESTIMATORS: dict[str, type[Estimator]] = {
    "propagation": Propagation,
    "exact": Exact,
    "permutation": PermutationSampling,
    "gradients": VertexGradients,
    "regression": Regression,
    "refine": Refine,
}


def _rank(value: str) -> int | str:
    """A number of factors, or the word full."""
    try:
        return value if value == "full" else int(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is neither a whole number nor 'full'.") from None


@click.command()
@click.argument("model", metavar="MODEL.pt2")
@click.argument("rows", metavar="ROWS.(npy|csv|parquet)|FOLDER")
@click.option("--baseline", required=True, metavar="zeros|mean|FILE", help="What absent features hold.")
@click.option(
    "--target", "targets", multiple=True, metavar="N|N,M|argmax",
    help="Output to explain, N,M of several axes; repeat it for several.",
)  # fmt: skip
@click.option("--out", required=True, metavar="OUT.parquet|FOLDER/", help="A file is replaced; a folder is gone on with.")
@click.option("--columns", metavar="A,B,...", help="Columns of a csv or parquet file, in the model's order.")
@click.option("--players", metavar=PLAYERS, help="Default: every element.")
@click.option("--method", type=click.Choice(list(_OPTIONS_OF)), default="propagation", show_default=True)
@click.option("--nodes", type=int, help="propagation: quadrature nodes.")
@click.option("--rule", type=click.Choice(["legendre", "lobatto"]), help="propagation: quadrature rule.")
@click.option("--rank", type=_rank, metavar="N|full", help="propagation: shared factors; 0 for none, or 'full'.")
@click.option("--mixture", type=int, help="propagation: players enumerated exactly.")
@click.option("--clusters", type=int, help="propagation: of a background; default 8.")
@click.option("--permutations", type=int, help="permutation: how many, in antithetic pairs.")
@click.option("--samples", type=int, help="gradients: how many, in pairs.")
@click.option("--budget", type=int, help="regression, refine: most evaluations a row.")
@click.option("--tolerance", type=float, help="refine: largest relative error, as 0.02.")
@click.option("--seed", type=int, help="Seed of the method; exact has none.")
@click.option("--force", is_flag=True, default=None, help="exact: enumerate however many players there are.")
@click.option("--semivalue", metavar="banzhaf|beta:A,B", help="Other weights than Shapley's.")
@click.option("--audit", "audit", type=int, metavar="N", help="Measure every row's error with N evaluations.")
@click.option("--chunk", type=_COUNT, help="Rows at a time: explained, default 64; for a folder read, default 64 MiB of them.")
@click.option("--batch", type=_COUNT, help="For a folder: rows explained together, default 64.")
@click.option("--part-rows", type=_COUNT, help="For a folder: rows of the data set for each part, default 4096.")
@click.option("--on-error", type=click.Choice(batch.ON_ERROR), help="For a folder: at a bad row, default stop.")
@click.option("--engine", type=click.Choice(batch.ENGINES), help="For a folder: default local.")
@click.option("--workers", type=_COUNT, help="For a folder: processes, default 1.")
@click.option("--address", help="ray: of a running cluster; default: one on this machine.")
@click.option("--gpus", type=float, help="ray: GPUs for each worker, default none.")
@click.option("--memory", type=click.IntRange(min=1), default=1024, show_default=True, help="Memory bound in MiB.")
@click.option("--dtype", type=click.Choice(["float32", "float64"]), help="Precision; default: the model's.")
@click.option("--progress/--no-progress", default=None, help="Default: when standard error is a terminal.")
def explain(**options: Any) -> None:
    """Write the Shapley values of every feature of every row to a parquet file.

    Columns: sample (from 0), target, one per player, base_value, output, gap (completeness gap, relative), standard
    errors (name_se) where the method has them, with --audit the measured relative error and its 95 % interval, and with
    --method refine how each row ended, its measured error and bound, and its evaluations. The settings are in the file's
    metadata under "dasp".

    A name that ends with a slash is a folder for data sets of any size: ROWS may be a folder of csv, parquet or npy files or of
    images, and every --part-rows of them become a file of their own. Give the same command again to go on after an interrupt.
    """
    started = time.perf_counter()
    method = _method(options)
    out = options["out"]
    into = _into_folder if out.endswith(("/", os.sep)) else _into_file
    summary = into(options, method)
    click.echo(f"{summary}, {time.perf_counter() - started:.1f} s, written to {out}", err=True)


def _into_file(options: dict[str, Any], method: Estimator) -> str:
    for name in _OF_FOLDERS:
        if options[name] is not None:
            raise InputError(f"--{name.replace('_', '-')} is for a folder of parts: end the name after --out with a slash.")
    options["chunk"] = options["chunk"] or _CHUNK
    with TableWriter(options["out"], spare=[options[name] for name in _READ_FROM]) as writer:
        if os.path.isdir(options["rows"]):
            raise DataFileError(f"{options['rows']}: a folder needs a folder: end the name after --out with a slash.")
        return _Job.prepare(options, method).run(writer)


def _into_folder(options: dict[str, Any], method: Estimator) -> str:
    model = Model(options["model"])
    expected = expected_inputs(model)
    shape = tuple(expected[0].shape[1:]) if len(expected) == 1 else None
    source = batch.open_source(options["rows"], columns=_columns(options), shape=shape)
    set_aside = options["on_error"] == "set-aside"
    explainer, dtype, _ = _explainer(options, method, model, source, lambda: source.mean(skip=set_aside))
    given = {name: options[name] for name in (*_OF_FOLDERS, "chunk") if options[name] is not None}
    found = batch.explain(
        explainer, source, options["out"], target=targets_of(options["targets"]), dtype=dtype, audit=options["audit"],
        progress=options["progress"], **given,
    )  # fmt: skip
    return str(found)


def _columns(options: dict[str, Any]) -> list[str] | None:
    return options["columns"].split(",") if options["columns"] else None


def _explainer(
    options: dict[str, Any], method: Estimator, model: Model, rows: Described, mean: Callable[[], Array]
) -> tuple[Explainer, torch.dtype, tuple[str, ...] | None]:
    """The explainer that the options describe, the dtype of the model's rows, and the names of a table's features."""
    dtype = row_dtype(model, options["model"], rows)
    if options["dtype"] and getattr(torch, options["dtype"]) != dtype:
        asked: torch.dtype = getattr(torch, options["dtype"])
        model = Model(load_program(options["model"]).module().to(asked))
        dtype = asked if dtype.is_floating_point else dtype
    spec = options["baseline"]
    baseline: Any = mean() if spec == "mean" else read_baseline(spec, rows)
    if not isinstance(baseline, float):
        depth = baseline.ndim - len(rows.shape)  # 1 for a background

        def place(where: Sequence[int]) -> str:
            row = f"row {where[0] + 1}, " if depth else ""
            return f"--baseline {spec}: {row}{element(rows.names, where[depth:])}"

        baseline = tensor_of(baseline, dtype, place).to(model.device or "cpu")
    names = None
    if rows.names is not None and options["players"] is None:
        names = unique_names(rows.names, WRITTEN, str(rows.path))
    explainer = Explainer(
        model,
        baseline,
        method=method,
        players=players_of(options["players"]),
        memory=options["memory"] * 2**20,
        feature_names=names,
        semivalue=semivalue_of(options["semivalue"]),
    )
    return explainer, dtype, names


@dataclass(frozen=True)
class _Job:
    """Everything that one file into one file needs, checked before the first row is explained."""

    rows: Rows
    explainer: Explainer
    dtype: torch.dtype
    names: tuple[str, ...] | None  # feature names of a csv or parquet file
    target: Any
    options: dict[str, Any]
    digest: str  # of the file of rows

    @classmethod
    def prepare(cls, options: dict[str, Any], method: Estimator) -> _Job:
        rows = read_rows(options["rows"], columns=_columns(options))
        explainer, dtype, names = _explainer(options, method, Model(options["model"]), rows, rows.mean)
        digest = file_digest(Path(options["rows"]))
        job = cls(rows, explainer, dtype, names, targets_of(options["targets"]), options, digest)
        for start in range(0, len(rows), _READ):  # a number the model cannot take is better found now than hours later
            job.part(start, start + _READ)
        return job

    def part(self, start: int, stop: int) -> Tensor:
        """Rows `start` to `stop - 1` as the model takes them, (rows, *shape)."""
        rows = self.rows
        place = partial(rows.place, start)
        return tensor_of(rows.chunk(start, stop), self.dtype, place).to(self.explainer.model.device or "cpu")

    def run(self, writer: TableWriter) -> str:
        """Explain and write chunk after chunk; one line that sums up."""
        chunk, gaps, errors, highs, missed = self.options["chunk"], [], [], [], 0
        show = self.options["progress"]
        with tqdm(total=len(self.rows), unit="row", disable=None if show is None else not show) as bar:
            for start in range(0, len(self.rows), chunk):
                part = self.part(start, start + chunk)
                target = argmax(self.explainer.model, part) if self.target == ARGMAX else self.target
                result = self.explainer(part, target)
                columns = columns_of(result, start, self.names)
                if self.options["audit"] is not None:
                    measured = audit_columns(result, self.options["audit"])
                    errors.append(measured["audit_error"])
                    highs.append(measured["audit_high"])
                    columns |= measured
                writer.write(columns, metadata={"dasp": json.dumps(self.describe(result))})
                gaps.append(np.abs(columns["gap"]))
                missed += missed_rows(result, range(len(part)))
                bar.update(len(part))
        gap = np.concatenate(gaps)
        text = f"{len(self.rows)} rows"
        if self.explainer.semivalue is None:  # others need not add up
            text += f", completeness gap {np.median(gap):.2%} (median), {gap.max():.2%} (largest)"
        if errors:
            error, high = np.concatenate(errors), np.concatenate(highs)
            text += f", measured error {np.median(error):.1%} (median), {error.max():.1%} (largest)"
            text += f", its 95 % intervals end at {np.median(high):.1%} (median), {high.max():.1%} (largest)"
        return f"{text}, {missed_text(missed)}" if missed else text

    def describe(self, result: Attribution) -> dict[str, Any]:
        """What the file's metadata say."""
        asked = {name: self.options[name] for name in ("model", "rows", "baseline", "players", "audit", "chunk")}
        return asked | {
            "data": self.digest,
            "target": list(self.options["targets"]),
            "method": result.method,
            "settings": {name: value for name, value in result.settings.items() if name not in MEASURED},
            "dtype": str(self.dtype).removeprefix("torch."),
            "dasp": version("dasp"),
            "torch": torch.__version__,
        }


def _method(options: dict[str, Any]) -> Estimator:
    chosen = options["method"]
    for method, names in _OPTIONS_OF.items():
        for name in names:
            if name not in _OPTIONS_OF[chosen] and options[name] is not None:
                raise InputError(f"--{name} is an option of --method {method}, not of {chosen}.")
    given = {name: options[name] for name in _OPTIONS_OF[chosen] if options[name] is not None}
    return ESTIMATORS[chosen](**given)
