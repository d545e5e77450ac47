"""What the library advises in Python, as options of a command."""

from __future__ import annotations

import re
from collections.abc import Mapping

import click

_OTHERWISE = {"evaluations": "audit", "target": "targets"}
"""Arguments of Python whose options have another name."""
_ARGUMENT = re.compile(r"(?<![-\w.])(\w+)=|^(\w+): ")  # as in "give budget=82", or "target: 7 is out of range"


def in_flags(advice: str, command: click.Command, methods: Mapping[str, str]) -> str | None:
    """The options of `command` for the arguments that an error names, and for estimators as `dasp.Exact()`.

    Args:
        advice: the error's text.
        command: where the user wrote options.
        methods: from an estimator's class name to the choice that `--method` has for it.

    >>> @click.command()
    ... @click.option("--method")
    ... @click.option("--budget", metavar="N", help="Most evaluations.")
    ... def explain() -> None: ...
    >>> in_flags("give budget=82 or more, or take dasp.Exact()", explain, {"Exact": "exact"})
    'on the command line: --method exact; --budget N (most evaluations)'
    """
    options = {one.name: one for one in command.params if isinstance(one, click.Option)}
    method = "--method" if "method" in options else "dasp explain --method"
    estimators = dict.fromkeys(re.findall(r"\bdasp\.(\w+)\(", advice))
    chosen = [f"{method} {methods[name]}" for name in estimators if name in methods]
    arguments = dict.fromkeys(name for pair in _ARGUMENT.findall(advice) for name in pair)
    named = dict.fromkeys(_OTHERWISE.get(name, name) for name in arguments)
    flags = [_written(options[name]) for name in named if name in options and name != "method"]
    parts = [" or ".join(chosen), *flags] if chosen else flags
    return f"on the command line: {'; '.join(parts)}" if parts else None


def _written(option: click.Option) -> str:
    """An option with what it takes and what it is for."""
    value = "" if option.is_flag else f" {option.metavar or 'N'}"
    use = (option.help or "").rstrip(".")
    return f"{option.opts[-1]}{value}" + (f" ({use[:1].lower()}{use[1:]})" if use else "")
