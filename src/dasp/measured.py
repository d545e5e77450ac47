"""How far the rules that are not exact were measured to be off; `benchmarks/rules.py` writes the figures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

NOISE = 4.0  # standard errors of Monte Carlo below which an error is not told apart from none


@dataclass(frozen=True)
class Figures:
    """The largest errors of a rule over its sample arguments, in the largest standard deviation of the result.

    Attributes:
        mean: of a mean.
        deviation: of a standard deviation.
        covariance: of a covariance with a standard normal factor.
        noise: the largest standard error of the Monte Carlo means behind them; 0 for quadrature.
    """

    mean: float
    deviation: float
    covariance: float
    noise: float


@dataclass(frozen=True)
class Entry:
    """What was measured of the calls of one operation that are not exact; None where there are none or none was measured.

    Attributes:
        one: with one random argument.
        several: with more.
    """

    one: Figures | None
    several: Figures | None

    def of(self, random: int) -> Figures | None:
        """With a number of random arguments."""
        return self.one if random == 1 else self.several


@cache
def figures() -> Mapping[str, Entry]:
    """Everything measured, by the name of the operation, as in `aten.softmax.int`."""
    text = files("dasp.rules").joinpath("measured.json").read_text(encoding="utf-8")

    def part(entry: Mapping[str, Any], name: str) -> Figures | None:
        return Figures(**entry[name]) if name in entry else None

    return {op: Entry(part(entry, "one"), part(entry, "several")) for op, entry in json.loads(text)["ops"].items()}


def shown(error: float, found: Figures) -> str:
    """An error in percent; what noise hides is shown as less than it.

    >>> sampled = Figures(0.0123, 0.001, 0.0, noise=0.001)
    >>> shown(sampled.mean, sampled), shown(sampled.deviation, sampled)
    ('1.2 %', '< 0.4 %')
    """
    limit = max(NOISE * found.noise, 1e-5)
    return f"< {100 * limit:.1g} %" if error < limit else f"{100 * error:.2g} %"
