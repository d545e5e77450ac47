"""What a measured violation is, how it is expressed, and the tables it stands in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import InputError, InputTypeError, MissingExtraError

if TYPE_CHECKING:
    import pandas

COMPLETENESS = "completeness"
NULL_PLAYER = "null player"
SYMMETRY = "symmetry"
LINEARITY = "linearity"
CONTINUITY = "continuity"
INVARIANCE = "implementation invariance"

AXIOMS = (COMPLETENESS, NULL_PLAYER, SYMMETRY, LINEARITY, CONTINUITY, INVARIANCE)

ROUNDING = {torch.float64: 1e-8, torch.float32: 1e-4}
"""Up to this size a violation is rounding of the network's arithmetic, which a method may add up many times."""
COARSE_ROUNDING = 0.05  # half precision

HOLDS = {
    COMPLETENESS: "The values add up to the change of the output.",
    NULL_PLAYER: "A player that changes nothing gets nothing.",
    SYMMETRY: "Players that do the same get the same.",
    LINEARITY: "A sum of two models gets the sum of their values.",
    CONTINUITY: "No step was found: nearby inputs get nearby values.",
    INVARIANCE: "The same function written differently gets the same values.",
}
BROKEN = {
    COMPLETENESS: "The values miss the change of the output by {} of their size.",
    NULL_PLAYER: "A player that changes nothing gets {} of all attribution.",
    SYMMETRY: "Two players that do the same get values that differ by {} of their size.",
    LINEARITY: "The values of a sum of two models differ from the sum of their values by {}.",
    CONTINUITY: "Two inputs with hardly any distance between them get values that differ by {}.",
    INVARIANCE: "The same function, written differently, gets values that differ by {}.",
}


def difference(a: Tensor, b: Tensor) -> Tensor:
    """`|a - b| / (|a| + |b|)` with sums of magnitudes over the last axis, (..., n) to (...); 0 where both are 0.

    0 is equal; 1 is a difference as large as both together: one of them is 0, or they give to different players, or with
    opposite signs. It is never more.
    """
    return ratio((a - b).abs().sum(-1), a.abs().sum(-1) + b.abs().sum(-1))


def incompleteness(values: Tensor, change: Tensor) -> Tensor:
    """`|sum of values - change| / max(sum of |values|, |change|)`, of (..., n) and (...)."""
    missing = (values.sum(-1) - change).abs()
    return ratio(missing, torch.maximum(values.abs().sum(-1), change.abs()))


def share(values: Tensor, player: int) -> Tensor:
    """The part of all attribution that a player gets, `|a_i| / sum of |a|`, (..., n) to (...)."""
    return ratio(values[..., player].abs(), values.abs().sum(-1))


def inequality(values: Tensor, i: int, j: int) -> Tensor:
    """`|a_i - a_j| / (|a_i| + |a_j|)`, or over the mean of all |a| where that is more, (..., n) to (...).

    The mean keeps two players that hardly matter from being told apart by rounding.
    """
    one, other = values[..., i], values[..., j]
    return ratio((one - other).abs(), torch.maximum(one.abs() + other.abs(), values.abs().mean(-1)))


def step_left(values: Tensor, place: int = 1) -> Tensor:
    """The size of a jump between values number `place` and the next, of equally spaced inputs: (points, ..., n) to (...).

    The step there less the mean of the steps beside it, which leaves a jump and takes off a slope; relative to the values on
    both sides of it as in `difference`.
    """
    steps = values.diff(dim=0)
    beside = [steps[i] for i in (place - 1, place + 1) if 0 <= i < len(steps)]
    jump = steps[place] - torch.stack(beside).mean(0)
    return ratio(jump.abs().sum(-1), values[place : place + 2].abs().sum((0, -1)))


def ratio(part: Tensor, whole: Tensor) -> Tensor:
    """`part / whole`, 0 where both are."""
    return torch.where(part == 0, torch.zeros_like(part), part / whole)


def rounding(dtype: torch.dtype) -> float:
    """The size up to which a violation is rounding in this precision."""
    return ROUNDING.get(dtype, COARSE_ROUNDING)


@dataclass(frozen=True)
class Measurement:
    """The violation of one axiom by one method on one network.

    Attributes:
        method: name of the method.
        axiom: one of `AXIOMS`.
        network: what it was measured on, in words.
        violations: its size for each row, the largest over targets; 0 is none, 1 as large as the attribution itself. Empty
            where the method refused.
        refused: why the method gave no values, or None.
        rounding: the size up to which a violation is rounding.
    """

    method: str
    axiom: str
    network: str
    violations: tuple[float, ...]
    refused: str | None = None
    rounding: float = ROUNDING[torch.float64]

    @property
    def violation(self) -> float | None:
        """The largest over rows; None where the method refused."""
        return max(self.violations, default=None)

    @property
    def holds(self) -> bool:
        """Whether the axiom holds here, but for rounding; False where the method refused."""
        return self.violation is not None and self.violation <= self.rounding

    @property
    def size(self) -> str:
        """The violation as text: "0" within rounding, "refused" where there is none."""
        if self.violation is None:
            return "refused"
        return "0" if self.holds else f"{self.violation:.2g}"

    @property
    def meaning(self) -> str:
        """One sentence that says what was found."""
        if self.violation is None:
            return f"Not measured: {self.refused}"
        return HOLDS[self.axiom] if self.holds else BROKEN[self.axiom].format(_percent(self.violation))


@dataclass(frozen=True)
class Table:
    """Violations by method, axiom and network. `str(table)` is a Markdown table of methods by axioms.

    Attributes:
        rows: the measurements, in the order of the methods, axioms and networks.
    """

    rows: tuple[Measurement, ...]

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of the methods, in order."""
        return tuple(dict.fromkeys(row.method for row in self.rows))

    @property
    def axioms(self) -> tuple[str, ...]:
        """The axioms measured, in order."""
        return tuple(dict.fromkeys(row.axiom for row in self.rows))

    def select(self, method: str, axiom: str) -> tuple[Measurement, ...]:
        """The measurements of one method and axiom, one a network.

        Raises:
            InputError: the table has no such method or axiom.
        """
        for asked, known, what in ((method, self.methods, "method"), (axiom, self.axioms, "axiom")):
            if asked not in known:
                raise InputError(f"{what}: the table has no {asked!r}; it has {', '.join(known)}.")
        return tuple(row for row in self.rows if row.method == method and row.axiom == axiom)

    def worst(self, method: str, axiom: str) -> Measurement:
        """The largest violation over the networks; a refusal only where all of them were refused."""
        return max(self.select(method, axiom), key=lambda row: -1.0 if row.violation is None else row.violation)

    def to_frame(self) -> pandas.DataFrame:
        """A pandas DataFrame, one line a measurement: method, axiom, network, violation, holds, refused.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        return _frame(self.rows)

    def by_network(self) -> str:
        """A Markdown table of every network, methods as columns."""
        first = {(row.axiom, row.network): None for row in self.rows}
        found = {(row.method, row.axiom, row.network): row.size for row in self.rows}
        lines = [[axiom, network, *(found[method, axiom, network] for method in self.methods)] for axiom, network in first]
        return _markdown(["axiom", "network", *self.methods], lines, left=2)

    def __str__(self) -> str:
        lines = [[method, *(self._cell(method, axiom) for axiom in self.axioms)] for method in self.methods]
        notes = "".join(
            f"\n- {row.method}, {row.axiom}, {row.network}: refused: {row.refused}" for row in self.rows if row.refused
        )
        return _markdown(["method", *self.axioms], lines) + (f"\n{notes}" if notes else "")

    def _cell(self, method: str, axiom: str) -> str:
        worst, rows = self.worst(method, axiom), self.select(method, axiom)
        refused = sum(row.refused is not None for row in rows)
        if refused == len(rows):
            return f"refused: {_short(worst.refused or '')}"
        return worst.size + (f" ({refused} of {len(rows)} refused)" if refused else "")


@dataclass(frozen=True)
class Report:
    """Violations of one method on one model. `str(report)` is a Markdown table with a sentence for each.

    Attributes:
        rows: the measurements, in the order of the axioms and constructions.
    """

    rows: tuple[Measurement, ...]

    def __getitem__(self, axiom: str) -> Measurement:
        """The largest violation of an axiom over its constructions.

        Raises:
            InputError: the axiom was not measured.
        """
        if not any(row.axiom == axiom for row in self.rows):
            known = ", ".join(dict.fromkeys(row.axiom for row in self.rows))
            raise InputError(f"axiom: {axiom!r} was not measured; there are {known}.")
        return Table(self.rows).worst(self.rows[0].method, axiom)

    def to_frame(self) -> pandas.DataFrame:
        """A pandas DataFrame, one line a measurement, as `Table.to_frame`.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        return _frame(self.rows)

    def __str__(self) -> str:
        lines = [[row.axiom, row.network, row.size, row.meaning] for row in self.rows]
        return _markdown(["axiom", "measured on", "violation", "what it means"], lines, left=4)


def asked_axioms(axioms: Iterable[str] | None) -> tuple[str, ...]:
    """The axioms asked for, in the order of `AXIOMS`; all of them for None."""
    if axioms is None:
        return AXIOMS
    if isinstance(axioms, str) or not isinstance(axioms, Iterable):
        raise InputTypeError(f"axioms: expected several names, as ('continuity',), got {axioms!r}.")
    asked = tuple(axioms)
    unknown = next((name for name in asked if name not in AXIOMS), None)
    if unknown is not None:
        raise InputError(f"axioms: no axiom {unknown!r}; there are {', '.join(AXIOMS)}.")
    if not asked:
        raise InputError(f"axioms: none named. Leave it out for all, or name some of {', '.join(AXIOMS)}.")
    return tuple(name for name in AXIOMS if name in asked)


def _frame(rows: Sequence[Measurement]) -> pandas.DataFrame:
    try:
        import pandas
    except ImportError:
        raise MissingExtraError("to_frame needs pandas: pip install 'dasp[table]'.") from None
    names = ("method", "axiom", "network", "violation", "holds", "refused")
    frame = pandas.DataFrame({name: [getattr(row, name) for row in rows] for name in names})
    frame["violation"] = frame["violation"].astype(float)
    return frame


def _markdown(head: Sequence[str], lines: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """A Markdown table, its first columns aligned to the left, the others to the right."""
    rules = ["---"] * left + ["---:"] * (len(head) - left)
    cells = [[" ".join(cell.replace("|", "\\|").split()) for cell in line] for line in (head, rules, *lines)]
    return "\n".join("| " + " | ".join(line) + " |" for line in cells)


def _percent(part: float) -> str:
    return f"{100 * part:.2g} %" if part < 0.995 else f"{100 * part:.0f} %"


def _short(reason: str, length: int = 60) -> str:
    return reason if len(reason) <= length else reason[: length - 3].rstrip() + "..."
