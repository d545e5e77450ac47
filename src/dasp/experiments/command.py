"""`dasp reproduce`: the paper's experiments from the command line."""

from __future__ import annotations

import contextlib
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import InputError, OutputFileError

if TYPE_CHECKING:
    from .run import Log

# Nothing of the experiments is imported here: whoever runs `dasp explain` should not wait for it.
PROBLEMS = ("parkinson", "dna", "mnist")
EVERYTHING = "all"
MOST = 2**63 - 1  # what torch takes for a seed


@click.command()
@click.argument("problems", nargs=-1, required=True, type=click.Choice([*PROBLEMS, EVERYTHING]))
@click.option(
    "--data", metavar="DIR", help="Folder with the data files. Default: the variable DASP_DATA, else they are downloaded."
)
@click.option("--out", type=Path, metavar="DIR", default="out/paper", show_default=True, help="For everything written.")
@click.option("--quick", is_flag=True, help="A few inputs, short training, loose truth: two minutes, to see that all runs.")
@click.option("--only", default="", metavar="TEXT", help="Run only methods whose name contains this.")
@click.option("--inputs", type=click.IntRange(min=1), metavar="N", help="Inputs to explain. Default: 100, 10 and 10.")
@click.option(
    "--players", type=click.Choice(["positions", "channels"]), default="positions", show_default=True, help="dna: the players."
)
@click.option("--seed", type=click.IntRange(0, MOST), default=0, show_default=True, help="The networks are trained from it.")
@click.option("--threads", type=click.IntRange(1, 999), default=1, show_default=True, help="CPU threads, for comparable times.")
@click.option("--fresh", is_flag=True, help="Measure again what was measured before; networks and truth are kept.")
@click.option("--progress/--no-progress", default=None, help="Default: when standard error is a terminal.")
def reproduce(problems: tuple[str, ...], **options: Any) -> None:
    """Run the experiments of the DASP paper (Ancona, Oztireli and Gross, 2019) with every method it speaks of.

    PROBLEMS are parkinson, dna and mnist, or all. Each trains its network, computes the true Shapley values, measures every
    method against them, and writes OUT/PROBLEM/result.json, table.md, speed.md and figures; OUT/run.log says what was run.
    Everything that is finished is kept: the same command goes on where it was interrupted. The networks, the true values and
    the downloads are in OUT/cache. Exit code 1 if a method failed.
    """
    from .run import Log, threads

    log = Log(options["out"] / "run.log")
    try:
        with threads(options["threads"], log):
            failed = _run(PROBLEMS if EVERYTHING in problems else tuple(dict.fromkeys(problems)), options, log)
    except BaseException as stop:
        stop.add_note(f"what is finished is kept in {options['out']}; the same command goes on from there")
        raise
    if failed:
        click.echo("failed: " + "; ".join(failed), err=True)
        raise click.exceptions.Exit(1)


def _run(names: tuple[str, ...], options: dict[str, Any], log: Log) -> list[str]:
    """One problem after the other; what failed."""
    from .files import DataFolder
    from .problems import Settings
    from .run import versions

    cache = options["out"] / "cache"
    files = DataFolder.find(options["data"], cache / "data", progress=options["progress"])
    settings = Settings(
        files=files,
        cache=cache,
        quick=options["quick"],
        inputs=options["inputs"],
        players=options["players"],
        seed=options["seed"],
        progress=options["progress"],
    )
    log.write("started: " + shlex.join(["dasp", *sys.argv[1:]]))
    log.write("versions: " + ", ".join(f"{name} {one}" for name, one in versions().items()))
    log.write("settings: " + ", ".join(f"{name}={value}" for name, value in options.items()))
    failed: list[str] = []
    try:
        for name in names:
            failed += _one(name, settings, options, log, alone=len(names) == 1)
    except BaseException as stop:
        with contextlib.suppress(OutputFileError):  # on a full disk the error that says so comes first
            reason = f"{type(stop).__name__}: {stop}" if isinstance(stop, Exception) else "interrupted"
            log.write("stopped: " + reason.splitlines()[0])
        raise
    log.write("finished" + (f", failed: {'; '.join(failed)}" if failed else ""))
    return failed


def _one(name: str, settings: Any, options: dict[str, Any], log: Log, *, alone: bool) -> list[str]:
    """One problem from data to figures; what failed."""
    from . import methods, report
    from .problems import BUILDERS, dna_held_out
    from .run import asked_for, keep_problem, measure_all, versions

    folder = options["out"] / folder_name(name, options)
    started = time.perf_counter()
    problem = BUILDERS[name](settings)
    log.write(f"{name}: network and truth ready, {time.perf_counter() - started:.1f} s; {problem.score}")
    chosen = methods.chosen(problem, quick=options["quick"])
    if options["only"] and not any(asked_for(method, options["only"]) for method in chosen):
        known = "; ".join(dict.fromkeys(method.family for method in chosen))
        reason = f"--only {options['only']}: {name} has no method of this name. There are: {known}."
        if alone:
            raise InputError(reason)
        click.echo(reason, err=True)  # another problem may have it
        log.write(f"{name}: {reason}")
    keep_problem(problem, folder)
    asked = {key: options[key] for key in ("only", "quick", "fresh", "progress")}
    measured = measure_all(problem, chosen, folder, log, **asked)
    about = {key: options[key] for key in ("quick", "seed", "threads")} | {"versions": versions()}
    found = report.result(problem, measured.rows, about)
    written = report.write(found, folder)
    click.echo(report.table(found))
    failed = [f"{name}: {label}" for label in measured.failed]
    try:
        from .figures import draw, keep

        keep(problem, measured.rows, folder, sequences=dna_held_out(settings) if name == "dna" else None)
        written += draw(folder, found)
    except Exception as error:  # noqa: BLE001  a figure that cannot be drawn must not lose the table; it is reported
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        log.write(f"{name}: figures: FAILED: {reason}")
        failed.append(f"{name}: figures: {reason}")
    log.write(f"{name}: {len(measured.rows)} methods in the table, {time.perf_counter() - started:.1f} s, in {folder}")
    click.echo("written: " + " ".join(str(path) for path in written), err=True)
    return failed


def folder_name(name: str, options: dict[str, Any]) -> str:
    """Folder of a problem: its name alone at the usual settings, so that no other settings ever replace those results."""
    parts = [name]
    if name == "dna" and options["players"] != "positions":
        parts.append(options["players"])
    if options["quick"]:
        parts.append("quick")
    if options["inputs"] is not None:
        parts.append(f"{options['inputs']}-inputs")
    if options["seed"]:
        parts.append(f"seed-{options['seed']}")
    return "-".join(parts)
