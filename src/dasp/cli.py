"""The command line: `dasp explain`, `dasp report`, `dasp check`, `dasp reproduce`. Thin: files in, the library, files out."""

from __future__ import annotations

import math
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from types import FrameType

import click

from .check_command import check
from .errors import DaspError
from .experiments.command import reproduce
from .explain_command import ESTIMATORS, explain
from .flags import in_flags
from .report.command import report

_AT_ONCE = 1.0  # seconds between two signals that are one


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("dasp"), prog_name="dasp")
def cli() -> None:
    """Shapley values of PyTorch networks, without sampling."""


cli.add_command(check)
cli.add_command(explain)
cli.add_command(report)
cli.add_command(reproduce)


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


def _left(stop: BaseException | None) -> str:
    """What a command that was stopped leaves behind: its own note, or that of what it came from, where there is one."""
    while stop is not None:
        for note in getattr(stop, "__notes__", []):
            return str(note)
        stop = stop.__cause__ or stop.__context__
    return "nothing was written"


def _in_flags(error: DaspError, arguments: Sequence[str]) -> str | None:
    """The error's advice in options of `dasp explain` or `dasp check`; other commands have their own messages."""
    methods = {kind.__name__: name for name, kind in ESTIMATORS.items()}
    command = arguments[0] if arguments else ""
    return in_flags(str(error), cli.commands[command], methods) if command in ("check", "explain") else None


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
    except DaspError as error:
        click.echo(f"error: {error}", err=True)
        hint = _in_flags(error, sys.argv[1:] if arguments is None else arguments)
        if hint is not None:
            click.echo(f"  {hint}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
