"""What the columns that measure something say, in sentences and as histograms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..checks import WIDE_GAP
from ..columns import AUDIT_COLUMNS, MEASURED
from ..tables import Array

_BINS = 40
_SHOWN = 0.995  # share of the rows that a histogram shows; the others are counted at its end
_WORDS = {
    "tolerance": "because the error was below the tolerance",
    "exact": "because the values were exact",
    "budget": "because the budget was spent, so that the error may be above the tolerance",
    "memory": "because more did not fit the memory bound, so that the error may be above the tolerance",
    "rounding": "because the rounding of the network's outputs hides the tolerance",
}
MEASURING = ("gap", *AUDIT_COLUMNS, *MEASURED)
"""Columns that `summaries` reads."""


def summaries(columns: Mapping[str, Array], *, shapley: bool, hint: str, confidence: float = 0.95) -> dict[str, Any]:
    """By topic, "error", "refined" and "gap": sentences, and a histogram where there is one.

    Args:
        columns: of all rows, those in `MEASURING` that the source has.
        shapley: whether the values must add up.
        hint: how to have the error measured, where it is not.
        confidence: of the audit's intervals.
    """
    found = {"error": _audited(columns, confidence) if "audit_error" in columns else {"sentences": [_unmeasured(hint)]}}
    if "measured_bound" in columns:
        found["refined"] = _refined(columns)
    found["gap"] = _gap(np.abs(columns["gap"]), shapley)
    return found


def _unmeasured(hint: str) -> str:
    return f"No audit was done: how far these values are from the truth was not measured here. {hint}"


def _audited(columns: Mapping[str, Array], confidence: float) -> dict[str, Any]:
    error = columns["audit_error"]
    known = np.isfinite(error)
    spent = columns["audit_evaluations"]
    cost = f"{int(spent.min()):,}" if spent.min() == spent.max() else f"{int(spent.min()):,} to {int(spent.max()):,}"
    says = [f"The error of every row was measured, with {cost} evaluations of the network each."]
    if known.any():
        low, high = (np.median(columns[name][known]) for name in AUDIT_COLUMNS[1:3])
        says = [
            f"Relative error: median {_percent(np.median(error[known]))}, with {_percent(low)} to {_percent(high)} as the ends "
            f"of the rows' {100 * confidence:g}\u00a0% intervals (medians); nine of ten rows are below "
            f"{_percent(np.quantile(error[known], 0.9))}; the largest is {_percent(error[known].max())}.",
            *says,
        ]  # fmt: skip
    if not known.all():
        says.append(f"In {_rows(int((~known).sum()))} it is unknown: the budget does not tell the values from 0.")
    return {"sentences": says, "histogram": _histogram(error[known])}


def _refined(columns: Mapping[str, Array]) -> dict[str, Any]:
    error, bound, spent = (columns[name] for name in MEASURED[1:])
    ended = Counter(map(str, columns["ended"]))
    says = [
        f"The method measured its own error: median {_percent(np.median(error))}, largest bound {_percent(bound.max())}, "
        f"{int(np.median(spent)):,} evaluations a row (median), {int(spent.max()):,} at most."
    ]
    says += [f"{_rows(ended[why])} ended {words}." for why, words in _WORDS.items() if ended[why]]
    if others := sum(count for why, count in ended.items() if why not in _WORDS):
        says.append(f"{_rows(others)} ended for another reason.")
    return {"sentences": says, "histogram": _histogram(bound[np.isfinite(bound)])}


def _gap(gap: Array, shapley: bool) -> dict[str, Any]:
    says = [f"Relative gap: median {_percent(np.median(gap))}, largest {_percent(gap.max())}."]
    wide = int((gap > WIDE_GAP).sum())
    if not shapley:
        says.append("These are not Shapley values, and need not add up to the output: the gap is no error.")
    elif wide:
        says.append(f"In {_rows(wide)} it is above {_percent(WIDE_GAP)}: those values are far from the Shapley values.")
    else:
        says.append(f"No row is above {_percent(WIDE_GAP)}. A small gap alone does not say that the values are right.")
    return {"sentences": says, "histogram": _histogram(gap[np.isfinite(gap)])}


def _histogram(values: Array) -> dict[str, Any] | None:
    """Counts of equal steps from 0 to `end`, and of what lies beyond; None where everything is 0."""
    if not len(values) or not values.max() > 0:
        return None
    end = float(np.quantile(values, _SHOWN)) or float(values.max())
    counts = np.histogram(values, bins=_BINS, range=(0.0, end))[0]
    return {"counts": counts.tolist(), "end": end, "beyond": int((values > end).sum())}


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count:,} rows"


def _percent(share: float) -> str:
    if not np.isfinite(share):
        return "unbounded"
    if 0 < share < 1e-5:
        return "less than 0.001\u00a0%"
    return f"{100 * share:.2g}\u00a0%" if share < 0.995 else f"{100 * share:,.0f}\u00a0%"
