"""The command line: `dasp explain`, `dasp check`, `dasp reproduce`. Thin: files in, the library, files out."""

from __future__ import annotations

import json
import math
import re
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from types import FrameType
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from .attribution import RESERVED, Attribution
from .check_command import check
from .errors import DaspError, InputError, MissingRuleError
from .estimators import Estimator, Exact, PermutationSampling, Propagation, Refine, Regression, VertexGradients
from .experiments.command import reproduce
from .explainer import Explainer
from .model import Model, load_program
from .options import PLAYERS, expected_inputs, players_of
from .tables import Array, Rows, TableWriter, read_baseline, read_rows, tensor_of, unique_names

AUDIT_COLUMNS = ("audit_error", "audit_low", "audit_high", "audit_evaluations")
_LISTED = 30  # column names in a message
_AT_ONCE = 1.0  # seconds between two signals that are one
_READ = 4096  # rows checked at a time
_READ_FROM = ("model", "rows", "baseline", "players")  # options that may name files
_WITHOUT_RULES = "on the command line: --method permutation or --method exact"
_OPTIONS_OF = {
    "propagation": ("nodes", "rule", "rank", "mixture", "seed"),
    "exact": ("force",),
    "permutation": ("permutations", "seed"),
    "gradients": ("samples", "seed"),
    "regression": ("budget", "seed"),
    "refine": ("tolerance", "budget", "seed"),
}
_ESTIMATORS: dict[str, type[Estimator]] = {
    "propagation": Propagation,
    "exact": Exact,
    "permutation": PermutationSampling,
    "gradients": VertexGradients,
    "regression": Regression,
    "refine": Refine,
}
_MEASURED = ("ended", "measured_error", "measured_bound", "row_evaluations")  # settings of refine, one a row


def _rank(value: str) -> int | str:
    """A number of factors, or the word full."""
    try:
        return value if value == "full" else int(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is neither a whole number nor 'full'.") from None


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("dasp"), prog_name="dasp")
def cli() -> None:
    """Shapley values of PyTorch networks, without sampling."""


cli.add_command(check)
cli.add_command(reproduce)


@cli.command()
@click.argument("model", metavar="MODEL.pt2")
@click.argument("rows", metavar="ROWS.(npy|csv|parquet)")
@click.option("--baseline", required=True, metavar="zeros|mean|FILE", help="What an absent feature holds.")
@click.option("--target", "targets", multiple=True, metavar="N|N,M|argmax", help="Output to explain; may be repeated.")
@click.option("--out", required=True, metavar="OUT.parquet", help="Replaced if it exists.")
@click.option("--columns", metavar="A,B,...", help="Columns of a csv or parquet file, in the model's order.")
@click.option("--players", metavar=PLAYERS, help="Default: every element.")
@click.option("--method", type=click.Choice(list(_OPTIONS_OF)), default="propagation", show_default=True)
@click.option("--nodes", type=int, help="propagation: quadrature nodes.")
@click.option("--rule", type=click.Choice(["legendre", "lobatto"]), help="propagation: quadrature rule.")
@click.option("--rank", type=_rank, metavar="N|full", help="propagation: shared factors; 0 for none, or 'full'.")
@click.option("--mixture", type=int, help="propagation: players enumerated exactly.")
@click.option("--permutations", type=int, help="permutation: how many, in antithetic pairs.")
@click.option("--samples", type=int, help="gradients: how many, in pairs.")
@click.option("--budget", type=int, help="regression, refine: most evaluations a row.")
@click.option("--tolerance", type=float, help="refine: largest relative error, as 0.02.")
@click.option("--seed", type=int, help="Seed of the method; exact has none.")
@click.option("--force", is_flag=True, default=None, help="exact: enumerate however many players there are.")
@click.option("--audit", "audit", type=int, metavar="N", help="Measure every row's error with N evaluations.")
@click.option("--chunk", type=click.IntRange(min=1), default=64, show_default=True, help="Rows at a time.")
@click.option("--memory", type=click.IntRange(min=1), default=1024, show_default=True, help="Memory bound in MiB.")
@click.option("--dtype", type=click.Choice(["float32", "float64"]), help="Precision; default: the model's.")
@click.option("--progress/--no-progress", default=None, help="Default: when standard error is a terminal.")
def explain(**options: Any) -> None:
    """Write the Shapley values of every feature of every row to a parquet file.

    Columns: sample (from 0), target, one per player, base_value, output, gap (completeness gap, relative), standard
    errors (name_se) where the method has them, with --audit the measured relative error and its 95 % interval, and with
    --method refine how each row ended, its measured error and bound, and its evaluations. The settings are in the file's
    metadata under "dasp".
    """
    started = time.perf_counter()
    method = _method(options)
    with TableWriter(options["out"], spare=[options[name] for name in _READ_FROM]) as writer:
        job = _Job.prepare(options, method)
        summary = job.run(writer)
    click.echo(f"{summary}, {time.perf_counter() - started:.1f} s, written to {options['out']}", err=True)


@dataclass(frozen=True)
class _Job:
    """Everything `dasp explain` needs, checked before the first row is explained."""

    rows: Rows
    model: Model
    explainer: Explainer
    dtype: torch.dtype
    names: tuple[str, ...] | None  # feature names of a csv or parquet file
    options: dict[str, Any]

    @classmethod
    def prepare(cls, options: dict[str, Any], method: Estimator) -> _Job:
        columns = options["columns"]
        rows = read_rows(options["rows"], columns=columns.split(",") if columns else None)
        model = Model(options["model"])
        dtype = _expected_dtype(rows, model, options)
        baseline: Any = read_baseline(options["baseline"], rows)
        if not isinstance(baseline, float):
            named = f"--baseline {options['baseline']}: "
            baseline = tensor_of(baseline, dtype, lambda where: named + rows.element(where)).to(model.device or "cpu")
        if options["dtype"] and getattr(torch, options["dtype"]) != dtype:
            asked: torch.dtype = getattr(torch, options["dtype"])
            model = Model(load_program(options["model"]).module().to(asked))
            dtype = asked if dtype.is_floating_point else dtype
        names = None
        if rows.names is not None and options["players"] is None:
            names = unique_names(rows.names, RESERVED + AUDIT_COLUMNS, str(rows.path))
        explainer = Explainer(
            model,
            baseline,
            method=method,
            players=players_of(options["players"]),
            memory=options["memory"] * 2**20,
            feature_names=names,
        )
        job = cls(rows, model, explainer, dtype, names, options)
        for start in range(0, len(rows), _READ):  # a number the model cannot take is better found now than hours later
            job.part(start, start + _READ)
        return job

    def part(self, start: int, stop: int) -> Tensor:
        """Rows `start` to `stop - 1` as the model takes them, (rows, *shape)."""
        rows = self.rows
        place = partial(rows.place, start)
        return tensor_of(rows.chunk(start, stop), self.dtype, place).to(self.model.device or "cpu")

    def run(self, writer: TableWriter) -> str:
        """Explain and write chunk after chunk; one line that sums up."""
        chunk, gaps, errors = self.options["chunk"], [], []
        show = self.options["progress"]
        with tqdm(total=len(self.rows), unit="row", disable=None if show is None else not show) as bar:
            for start in range(0, len(self.rows), chunk):
                part = self.part(start, start + chunk)
                result = self.explainer(part, _targets(self.options["targets"], self.model, part))
                columns = _columns(result, start, self.names)
                if self.options["audit"] is not None:
                    measured = _audit_columns(result, self.options["audit"])
                    errors.append(measured["audit_error"])
                    columns |= measured
                writer.write(columns, metadata={"dasp": json.dumps(self.describe(result))})
                gaps.append(np.abs(columns["gap"]))
                bar.update(len(part))
        gap = np.concatenate(gaps)
        text = f"{len(self.rows)} rows, completeness gap {np.median(gap):.2%} (median), {gap.max():.2%} (largest)"
        if errors:
            error = np.concatenate(errors)
            text += f", measured error {np.median(error):.1%} (median), {error.max():.1%} (largest)"
        return text

    def describe(self, result: Attribution) -> dict[str, Any]:
        """What the file's metadata say."""
        asked = {name: self.options[name] for name in ("model", "rows", "baseline", "players", "audit", "chunk")}
        return asked | {
            "target": list(self.options["targets"]),
            "method": result.method,
            "settings": {name: value for name, value in result.settings.items() if name not in _MEASURED},
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
    return _ESTIMATORS[chosen](**given)


def _expected_dtype(rows: Rows, model: Model, options: dict[str, Any]) -> torch.dtype:
    """The dtype of the program's one input, after comparing a row of the file with what the program takes."""
    expected, name = expected_inputs(model), options["model"]
    if len(expected) != 1:
        raise InputError(
            f"{name}: takes {len(expected)} inputs; the command line explains models of one. Use dasp.Explainer in Python."
        )
    shape = tuple(expected[0].shape[1:])
    if rows.shape == shape:
        return expected[0].dtype
    if rows.names is None:
        raise InputError(f"{rows.path}: a row has shape {rows.shape}, but {name} takes rows of shape {shape}.")
    listed = ", ".join(rows.names[:_LISTED]) + (", ..." if len(rows.names) > _LISTED else "")
    taken = f"takes rows of shape {shape}. Save such rows as .npy."
    if len(shape) == 1:
        taken = f"takes {shape[0]} numbers a row. Name its columns, in the order it takes them, with --columns A,B,..."
    raise InputError(f"{rows.path}: {len(rows.names)} columns ({listed}), but {name} {taken}")


def _targets(specs: Sequence[str], model: Model, part: Tensor) -> Any:
    if not specs:
        return None
    if "argmax" in specs:
        if len(specs) > 1:
            raise InputError("--target argmax cannot be combined with other targets.")
        return _argmax(model, part)
    targets: list[Any] = []
    for spec in specs:
        try:
            index = tuple(int(place) for place in spec.split(","))
        except ValueError:
            raise InputError(f"--target {spec!r}: give a number, numbers as 1,2 for several axes, or argmax.") from None
        targets.append(index if len(index) > 1 else index[0])
    return targets if len(targets) > 1 else targets[0]


def _argmax(model: Model, part: Tensor) -> Tensor:
    """Each row's largest output, (rows,) or (rows, axes) where the output has several axes."""
    outputs = model.evaluate(part)  # (rows, *out)
    shape = outputs.shape[1:]
    if shape.numel() < 2:
        raise InputError("--target argmax: the model has a single output; leave --target out.")
    index = torch.stack(torch.unravel_index(outputs.flatten(1).argmax(dim=1), shape), dim=1)
    return index[:, 0] if len(shape) == 1 else index


def _columns(result: Attribution, start: int, names: Sequence[str] | None) -> dict[str, Any]:
    """The columns of one chunk whose first row is `start`; several targets of a row follow one another."""
    rows, count, players = result.per_player.shape
    names = names or column_names(result)
    index = result.targets.expand(rows, -1, -1).reshape(rows * count, -1).cpu()
    # One output axis is a number, several are text, and a single output has no target: an empty text.
    text = [",".join(map(str, place)) for place in index.tolist()]
    target = index[:, 0].numpy() if index.shape[1] == 1 else np.array(text, dtype=object)
    columns: dict[str, Any] = {"sample": np.repeat(np.arange(start, start + rows), count), "target": target}
    columns |= dict(zip(names, _numpy(result.per_player.reshape(-1, players)).T, strict=True))
    for name in ("base_value", "output", "gap"):
        columns[name] = _numpy(getattr(result, name).reshape(-1))
    if isinstance(result.standard_errors, Tensor):
        errors = _numpy(result.standard_errors.reshape(-1, players)).T
        for name, column in zip(names, errors, strict=True):
            if f"{name}_se" in columns:
                raise InputError(f"the feature name {name}_se is taken by the standard errors of {name}; rename it.")
            columns[f"{name}_se"] = column
    if "measured_bound" in result.settings:
        columns |= _measured(result, count)
    return columns


def _measured(result: Attribution, targets: int) -> dict[str, Any]:
    """What refine says of every row, once for each of its targets."""
    found = {name: np.array(result.settings[name], dtype=object if name == "ended" else None) for name in _MEASURED}
    return {name: part.flatten() if part.ndim == 2 else part.repeat(targets) for name, part in found.items()}


def _audit_columns(result: Attribution, evaluations: int) -> dict[str, Any]:
    audit = result.audit(evaluations)
    found = (audit.relative_error, audit.low, audit.high, torch.full_like(audit.low, audit.evaluations).long())
    return {name: _numpy(column.reshape(-1)) for name, column in zip(AUDIT_COLUMNS, found, strict=True)}


def column_names(result: Attribution) -> tuple[str, ...]:
    """Column names of players that no header names: p0, p1, ... along one axis, p_3_4 for the pixel in row 3 and
    column 4 of an input of one channel, p_0_3_4 with more axes; groups keep their kind, as patch_0_1 or player_7.
    """
    if result.players.grouped:
        given = result.player_names
        return tuple(re.sub(r"[ ,]+", "_", name).replace("pixel_", "p_") for name in given)
    shape = result.players.labels[0].shape
    if len(shape) == 1:
        return tuple(f"p{place}" for place in range(shape[0]))
    shown = shape[1:] if len(shape) == 3 and shape[0] == 1 else shape
    return tuple("p_" + "_".join(map(str, place)) for place in np.ndindex(*shown))


def _numpy(values: Tensor) -> Array:
    array: Array = values.detach().cpu().numpy()
    return array


class _Ended(BaseException):
    """A signal asked the process to end; its argument is the signal's number."""


@contextmanager
def _ending() -> Iterator[None]:
    """While the block runs, signals that end the process raise, so that half files are removed on the way out.

    One that follows at once does not: readers of files that take a signal themselves send it again, which must not break
    into the clean-up that the first began. A later one does, for what is raised inside a callback may get lost.
    """
    last = -math.inf

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal last
        before, last = last, time.monotonic()
        if last - before > _AT_ONCE:
            raise _Ended(number)

    # Not every system has all; what is ignored (nohup) or handled already stays so.
    kinds = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    usual = (signal.SIG_DFL, signal.default_int_handler)
    before = {kind: signal.getsignal(kind) for kind in kinds if signal.getsignal(kind) in usual}
    for kind in before:
        signal.signal(kind, end)
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


def _left(stop: BaseException) -> str:
    """What a command that was stopped leaves behind: its own note, where it wrote one."""
    return next(iter(getattr(stop, "__notes__", [])), "nothing was written")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry of the `dasp` command: errors of ours are printed and exit code 2, an interrupt is exit code 130, another
    signal to end is 128 and its number, as 143 for SIGTERM.
    """
    try:
        with _ending():
            sys.exit(cli.main(arguments, prog_name="dasp", standalone_mode=False))
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort) as stop:
        click.echo(f"interrupted: {_left(stop)}", err=True)
        sys.exit(130)
    except _Ended as signalled:
        kind = signal.Signals(signalled.args[0])
        click.echo(f"{'interrupted' if kind is signal.SIGINT else kind.name}: {_left(signalled)}", err=True)
        sys.exit(128 + kind)
    except MissingRuleError as error:
        click.echo(f"error: {error}\n  {_WITHOUT_RULES}", err=True)
        sys.exit(2)
    except DaspError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
