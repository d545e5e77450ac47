"""Measure every rule where it is not exact, and write the table of docs/rules.md and the figures that `dasp check` shows.

    python benchmarks/rules.py [--new]

The operations are those of the registry, the arguments those of tests/rule_rows.py. Figures go to
src/dasp/rules/measured.json; the table stands between the two `rules` marks of docs/rules.md. With --new, operations that
have figures keep them. Takes a few minutes.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from dasp.measured import Figures, figures, shown
from dasp.rules import RULES, Rule
from dasp.testing import AGAIN, Random, Sample, measure

ROOT = Path(__file__).resolve().parent.parent
JSON = ROOT / "src" / "dasp" / "rules" / "measured.json"
PAGE = ROOT / "docs" / "rules.md"
START, END = "<!-- rules:start -->", "<!-- rules:end -->"
SAMPLES = 200_000
VARIANCES = (0.5, 0.2, 0.0, 0.8, 0.4)
EXACT, APPROXIMATE = "exact", "approximate"
EITHER = "exact or approximate"

sys.path.insert(0, str(ROOT / "tests"))
import rule_rows  # noqa: E402 - the tests are no package


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--new", action="store_true", help="measure only operations without figures")
    options = parser.parse_args()
    torch.set_num_threads(1)
    old: dict[str, Any] = json.loads(JSON.read_text())["ops"] if options.new and JSON.exists() else {}
    found: dict[str, Any] = {}
    for op in sorted(RULES.ops(), key=str):
        rule = RULES.find(op)
        assert rule is not None
        entry = old.get(str(op)) or measured(rule)
        if entry:
            found[str(op)] = entry
            print(op, entry, flush=True)
    settings = {"monte_carlo": SAMPLES, "variances": VARIANCES}
    JSON.write_text(json.dumps(settings | {"ops": found}, indent=1) + "\n")
    figures.cache_clear()
    text = PAGE.read_text()
    before, rest = text.split(START)
    PAGE.write_text(f"{before}{START}\n{table()}\n{END}{rest.split(END)[1]}")


def measured(rule: Rule) -> dict[str, Any]:
    """Figures of the approximate calls with one random argument, and of those with several."""
    rows = [row for row in rows_of(rule) if not is_exact(rule, row)]
    parted = {"one": [row for row in rows if len(random(row)) == 1], "several": [row for row in rows if len(random(row)) > 1]}
    return {name: largest(some) for name, some in parted.items() if some}


def rows_of(rule: Rule) -> list[Any]:
    return [row for row in rule_rows.TABLE if row.op is rule.op]


def is_exact(rule: Rule, row: Any) -> bool:
    return rule.is_exact(random(row), row.args)


def largest(rows: list[Any]) -> dict[str, float]:
    found = measure(rows[0].op, [sample(row) for row in rows], variances=VARIANCES, monte_carlo=SAMPLES)
    return {name: float(f"{value:.3g}") for name, value in asdict(found).items()}


def sample(row: Any) -> Sample:
    """A line of the table of tests as a sample of the suite."""

    def one(argument: Any) -> Any:
        if isinstance(argument, list):
            return [one(each) for each in argument]
        if argument is rule_rows.TWICE:
            return AGAIN
        return Random(argument.shape, argument.above) if isinstance(argument, rule_rows.X) else argument

    return Sample([one(argument) for argument in row.args], row.kwargs, row.rows)


def random(row: Any) -> list[int]:
    """Positions of the random arguments."""
    lists = [argument if isinstance(argument, list) else [argument] for argument in row.args]
    return [i for i, some in enumerate(lists) if any(isinstance(one, rule_rows.X) for one in some)]


def table() -> str:
    """The support table, a line for each operation in the registry."""
    lines = ["| operation | mean and variance | error of the mean | of the standard deviation |", "| --- | --- | ---: | ---: |"]
    for op in sorted(RULES.ops(), key=str):
        rule, entry = RULES.find(op), figures().get(str(op))
        assert rule is not None
        one, several = (None, None) if entry is None else (entry.one, entry.several)
        first = kind(rule)
        lines.append(line(f"`{op}`", first, one or (several if first != EXACT else None)))
        if several is not None and (one is not None or first == EXACT):
            lines.append(line(f"`{op}`, several random arguments", APPROXIMATE, several))
    return "\n".join(lines)


def kind(rule: Rule) -> str:
    """What holds with as few random arguments as possible."""
    if rule.exact_if is None:
        return EXACT if rule.exact else APPROXIMATE
    rows = rows_of(rule)
    fewest = min(len(random(row)) for row in rows)
    found = {is_exact(rule, row) for row in rows if len(random(row)) == fewest}
    return EITHER if len(found) > 1 else EXACT if found == {True} else APPROXIMATE


def line(name: str, kind: str, found: Figures | None) -> str:
    if kind == EXACT:
        return f"| {name} | {kind} | | |"
    mean, deviation = ("not measured",) * 2 if found is None else (shown(found.mean, found), shown(found.deviation, found))
    return f"| {name} | {kind} | {mean} | {deviation} |"


if __name__ == "__main__":
    main()
