"""How many times cheaper one method is than another at equal error, from the budgets that both were measured at."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

Row = dict[str, Any]
OURS = "dasp."  # methods of this library begin with it
DEFAULT = "dasp.Propagation, default"
SAMPLING = "dasp.PermutationSampling"  # the one of them that the others are compared with

AT_MOST, BETWEEN, EXTRAPOLATED, MORE, NEVER = "at most", "measured", "extrapolated", "more than", "never"
_STEEPEST = -1.0  # of error against cost in logarithms, beyond the largest budget; sampling has -1/2
_FLATTEST = -0.1  # less than this does not converge: half the error would take a thousand times the cost
_FARTHEST = 100  # times the largest budget; no further is extrapolated


@dataclass(frozen=True)
class Needed:
    """What a family of methods needs to reach an error.

    Attributes:
        cost: evaluations or seconds per input; None where it never reaches the error.
        kind: "measured", between two budgets; "extrapolated" beyond the largest one; "more than" the cost, beyond which
            nothing is extrapolated; "at most", its smallest budget is better already; "never".
    """

    cost: float | None
    kind: str


def passes(row: Row) -> float:
    """Evaluations per input, a propagated pass counted as one."""
    return float(row["evaluations"] + row["propagations"])


def seconds(row: Row) -> float:
    """Wall time per input."""
    return float(row["seconds"])


def needed(points: Sequence[tuple[float, float]], error: float) -> Needed:
    """What it costs to reach `error`, from (cost, error) of each budget.

    A budget that is no better than a cheaper one tells nothing and is left out. Between two budgets log error is linear in log
    cost; beyond the largest one it goes on with the slope of the last two, unless these show no convergence, up to a hundred
    times the largest budget.
    """
    useful: list[tuple[float, float]] = []
    for point in sorted(points):
        if not useful or point[1] < useful[-1][1]:
            useful.append(point)
    if not useful:
        return Needed(None, NEVER)
    if useful[0][1] <= error:
        return Needed(useful[0][0], AT_MOST)
    for (m0, e0), (m1, e1) in itertools.pairwise(useful):
        if e1 <= error:
            share = 1.0 if e1 <= 0 else math.log(e0 / error) / math.log(e0 / e1)
            return Needed(m0 * (m1 / m0) ** share, BETWEEN)
    largest, nearest = max(point[0] for point in points), useful[-1]
    if len(useful) < 2 or nearest[0] < largest or error <= 0:
        return Needed(None, NEVER)
    before = useful[-2]
    slope = max(_STEEPEST, math.log(nearest[1] / before[1]) / math.log(nearest[0] / before[0]))
    if slope > _FLATTEST:
        return Needed(None, NEVER)
    farther = (nearest[1] / error) ** (-1 / slope)
    return Needed(nearest[0] * min(farther, _FARTHEST), EXTRAPOLATED if farther <= _FARTHEST else MORE)


def pairs(rows: Sequence[Row]) -> list[Row]:
    """Each setting of ours against each family of others, and against our own sampling: how many times more these need for the
    same error.

    Each entry has "method", "family", "error" and, under "evaluations" and "time", "times" (None: never) and "kind".
    """
    done = [row for row in rows if "error" in row]
    families = [one for one in dict.fromkeys(row["family"] for row in done) if not one.startswith(OURS) or one == SAMPLING]
    found = []
    for ours in (row for row in done if row["family"].startswith(OURS)):
        for family in (one for one in families if one != ours["family"]):
            budgets = [row for row in done if row["family"] == family]
            entry = {"method": ours["label"], "own_family": ours["family"], "family": family, "error": ours["error"]}
            for name, cost in (("evaluations", passes), ("time", seconds)):
                entry[name] = _times(cost, ours, budgets)
            found.append(entry)
    return found


def _times(cost: Callable[[Row], float], ours: Row, budgets: list[Row]) -> dict[str, Any]:
    there = needed([(cost(row), row["error"]) for row in budgets], ours["error"])
    times = None if there.cost is None else there.cost / cost(ours)
    return {"times": times, **asdict(there)}


def table(rows: Sequence[Row]) -> str:
    """Two tables in Markdown, evaluations and time: our settings down, the other families across."""
    found = pairs(rows)
    if not found:
        return "No method of this library was measured beside another one.\n"
    families = list(dict.fromkeys(entry["family"] for entry in found))
    lines = [
        "How many times more the method of a column needs than the one of a row to come as near to the truth. Between its",
        "budgets its cost is interpolated, error against cost in logarithms. `~`: extrapolated beyond its largest budget; `>`:",
        "beyond a hundred times that. `<=`: its smallest budget comes nearer already. never: it has one budget, which does not",
        "come as near, or its error does not fall any more.",
    ]
    titles = {"evaluations": "Times fewer evaluations (a propagated pass counts as one)", "time": "Times faster"}
    for name, title in titles.items():
        lines += ["", f"**{title}**", "", "| method | error | " + " | ".join(families) + " |"]
        lines.append("| --- | ---: |" + " ---: |" * len(families))
        for (family, label), entries in itertools.groupby(found, key=lambda entry: (entry["own_family"], entry["method"])):
            by_family = {entry["family"]: entry for entry in entries}
            error = next(iter(by_family.values()))["error"]
            cells = [_cell(by_family[one][name]) if one in by_family else "" for one in families]
            lines.append(f"| {shown(family, label)} | {error:.4f} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def shown(family: str, label: str) -> str:
    """What a table calls a method: its label, after its family where the label alone would not say whose it is."""
    return label if label.startswith(family.split(",")[0].split()[0]) else f"{family.split(',')[0]}: {label}"


def _cell(found: dict[str, Any]) -> str:
    if found["times"] is None:
        return "never"
    mark = {EXTRAPOLATED: "~", MORE: "> ", AT_MOST: "<= "}.get(found["kind"], "")
    return f"{mark}{number(found['times'])}"


def number(value: float) -> str:
    """Two or three digits that tell, thousands set apart."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"
