"""`dasp check`: which operations of a model are exact, approximate or missing, before anything is computed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import click

from .explainer import Explainer
from .measured import Figures, figures, shown
from .model import Model
from .options import PLAYERS, players_of, zero_inputs
from .propagate import OpSupport, Support
from .remedies import instead

_HEAD = ("layer", "operation", "times", "support", "error of mean, deviation")
_UNMEASURED = "not measured"


@click.command()
@click.argument("model", metavar="MODEL.pt2")
@click.option("--players", metavar=PLAYERS, help="Default: every element. Operations before players meet need no rule.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def check(model: str, players: str | None, as_json: bool) -> None:
    """List the operations that random values reach, layer by layer: exact, approximate or missing.

    An operation may be exact in one place and approximate in another, as a matrix product with known weights and one of two
    random values. The error of an approximate one is the largest that was measured over such sample arguments, in percent of
    the result's largest standard deviation; docs/rules.md has them all. Operations that act on one player's elements alone
    are run on both of that player's states, which is exact, and are not listed.

    \b
    Exit codes:
      0  every operation is covered
      1  at least one has no rule; nothing would be computed
      2  the model cannot be read or captured, or an option is wrong
    """
    loaded = Model(model)
    found = Explainer(loaded, players=players_of(players)).check(zero_inputs(loaded))
    counts = {kind.value: sum(one.support is kind for one in found) for kind in Support}
    lines = grouped(found)
    if as_json:
        click.echo(json.dumps({"model": model, "covered": not counts["missing"], "counts": counts, "operations": lines}))
    else:
        click.echo(table(lines))
        click.echo(summary(counts, lines))
    if counts[Support.MISSING.value]:
        raise click.exceptions.Exit(1)


def grouped(found: Sequence[OpSupport]) -> list[dict[str, Any]]:
    """One entry for each operation of each layer, in the order they come first, with the number of times."""
    lines = []
    for one, times in Counter(found).items():
        lines.append(
            {
                "layer": one.layer,
                "op": one.op,
                "times": times,
                "support": one.support.value,
                "random_arguments": one.random,
                "error": _numbers(_measured(one.op, one.random)) if one.support is Support.APPROXIMATE else None,
                "instead": instead(one.op) if one.support is Support.MISSING else None,
            }
        )
    return lines


def _measured(op: str, random: int) -> Figures | None:
    entry = figures().get(op)
    return None if entry is None else entry.of(random)


def _numbers(found: Figures | None) -> dict[str, float] | None:
    return None if found is None else {"mean": found.mean, "deviation": found.deviation, "noise": found.noise}


def table(lines: Sequence[dict[str, Any]]) -> str:
    """Aligned columns; a layer is named in the first of its lines that follow each other."""
    rows, last = [_HEAD], None
    for line in lines:
        rows.append(
            ("" if line["layer"] == last else line["layer"], line["op"], str(line["times"]), line["support"], _told(line))
        )
        last = line["layer"]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEAD))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def _told(line: dict[str, Any]) -> str:
    if line["support"] == Support.MISSING.value:
        return "no rule"
    random = line["random_arguments"]
    several = f"({random} random arguments)" if random > 1 else ""
    if line["support"] == Support.EXACT.value:
        return several
    found = _measured(line["op"], random)
    error = _UNMEASURED if found is None else f"{shown(found.mean, found)}, {shown(found.deviation, found)}"
    return f"{error} {several}".rstrip()


def summary(counts: dict[str, int], lines: Sequence[dict[str, Any]]) -> str:
    """Counts, what the words mean, and what to do about each missing operation."""
    text = [f"{sum(counts.values())} operations: " + ", ".join(f"{count} {kind}" for kind, count in counts.items())]
    missing: dict[str, str] = {line["op"]: line["instead"] for line in lines if line["instead"]}
    if missing:
        text += [f"missing {op}: {advice}" for op, advice in missing.items()]
        text.append("on the command line: dasp explain --method permutation or --method exact")
    text.append(
        "exact: mean and variance are exact for a Gaussian argument. The values are still approximate; "
        "`dasp explain --audit N` measures them."
    )
    return "\n".join(text)
