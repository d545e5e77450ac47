"""A result as a notebook shows it: one piece of HTML that stands by itself, in whatever colours the page has."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from html import escape
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from .attribution import Attribution
    from .audit import Audit
    from .interactions import Interactions

ROWS, PLAYERS = 6, 8
"""How many rows and players are shown at most."""
LONGEST = 40
"""Letters of a name beyond which it is cut."""
# Half transparent, so that numbers in the page's own colour stay readable on light pages and on dark ones.
POSITIVE, NEGATIVE = "210,50,50", "40,120,220"
_STRONGEST, _FAINTEST = 0.55, 0.01
_ROUNDING = 1e-10  # share of the largest value, below which a value is nothing but rounding
_CELL = "padding:2px 8px;text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums"
_HEAD = _CELL + ";font-weight:600;border-bottom:1px solid currentColor"


def as_html(result: Attribution) -> str:
    """A line about the method, and a table: a line for each of the first rows and targets, a column for each of the players
    with the largest values there; red where they raise the output, blue where they lower it.

    Every string that comes from data is escaped, and nothing is loaded from elsewhere.
    """
    values = result.per_player.detach()[:ROWS].cpu().double()  # (b, T, n)
    rows, targets, n = values.shape
    lines = [(i, t) for i in range(rows) for t in range(targets)][:ROWS]
    order = _largest(values)
    names = result.player_names
    several = result.several
    ends = (result.base_value, result.output, result.gap)
    base, output, gap = (end.detach().reshape(-1, targets)[:rows].cpu().double() for end in ends)
    head = ["row", *(["target"] if several else []), "base value", *(names[player] for player in order)]
    if n > len(order):
        head.append(f"{n - len(order):,} others")
    head += ["output", "gap"]
    largest = float(values[:, :, order].abs().nan_to_num(0.0, 0.0, 0.0).max()) if order and rows else 0.0
    body = []
    for i, t in lines:
        cells = [_plain(str(i)), *([_plain(_target(result, i, t))] if several else []), _plain(_number(float(base[i, t])))]
        cells += [_tinted(float(values[i, t, player]), largest) for player in order]
        if n > len(order):
            rest = float(values[i, t].sum() - values[i, t, order].sum())
            cells.append(_plain(_number(rest)))
        cells += [_plain(_number(float(output[i, t]))), _plain(f"{float(gap[i, t]):.1%}".replace("-0.0%", "0.0%"))]
        body.append(f"<tr>{''.join(cells)}</tr>")
    return _table(_about(result), head, body, _more(len(result.per_player) * targets, len(lines), "to_frame()"))


def interactions_as_html(result: Interactions) -> str:
    """The same of interactions: a column for each of the pairs with the largest ones; red where they reinforce each other."""
    pairs, values = replace(result, values=result.values.detach()[:ROWS]).listed
    values = values.cpu().double()  # (b, T, P)
    rows, targets, count = values.shape
    lines = [(i, t) for i in range(rows) for t in range(targets)][:ROWS]
    order = _largest(values)
    several = ["target"] if result.several else []
    head = ["row", *several, *(" × ".join(result.names[i] for i in pairs[pair].tolist()) for pair in order)]
    largest = float(values[:, :, order].abs().nan_to_num(0.0, 0.0, 0.0).max()) if order and rows else 0.0
    body = []
    for i, t in lines:
        cells = [_plain(str(i)), *([_plain(str(result.target[t]))] if several else [])]
        body.append(f"<tr>{''.join(cells + [_tinted(float(values[i, t, pair]), largest) for pair in order])}</tr>")
    batch, n = len(result.values), len(result.names)
    semivalue = result.settings.get("semivalue")
    parts = [
        *([] if semivalue is None else [str(semivalue)]),
        f"{_counted(batch, 'row')}, {_counted(n, 'player')}, {_counted(count, 'pair')}, {_counted(targets, 'target')}",
        *([f"the {len(order)} largest pairs are shown"] if count > len(order) else []),
        f"{result.evaluations:,g} evaluations and {result.propagations:,g} propagated passes a row",
        f"{result.seconds:.3g} s",
    ]
    about = f"<b>Interactions by {escape(result.method)}</b>: " + escape("; ".join(parts))
    return _table(about, head, body, _more(batch * targets, len(lines), "to_frame()"))


def audit_as_html(audit: Audit) -> str:
    """The measured relative error of the first rows and targets, with the ends of its interval."""
    rows, targets = audit.relative_error.shape
    lines = [(i, t) for i in range(rows) for t in range(targets)][:ROWS]
    head = ["row", *(["target"] if targets > 1 else []), "relative error", "low", "high"]
    body = []
    for i, t in lines:
        found = (float(x[i, t]) for x in (audit.relative_error, audit.low, audit.high))
        cells = [str(i), *([str(t)] if targets > 1 else []), *(f"{x:.2%}" if math.isfinite(x) else "unknown" for x in found)]
        body.append(f"<tr>{''.join(map(_plain, cells))}</tr>")
    return _table(f"<b>Audit</b>: {escape(str(audit))}", head, body, _more(rows * targets, len(lines), "relative_error"))


def _table(about: str, head: Sequence[str], body: Sequence[str], more: str) -> str:
    heads = "".join(f'<th scope="col" style="{_HEAD}"{_title(name)}>{escape(_short(name))}</th>' for name in head)
    return (
        f'<div style="overflow-x:auto"><div>{about}</div>'
        f'<table style="border-collapse:collapse;margin:6px 0"><thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table>{more}</div>"
    )


def _largest(values: Tensor) -> list[int]:
    """Places along the last axis with the largest sums of magnitudes."""
    sums = values.abs().sum((0, 1)).nan_to_num(0.0)
    order: list[int] = sums.argsort(descending=True, stable=True)[:PLAYERS].tolist()
    return order


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"


def _about(result: Attribution) -> str:
    rows, targets, n = result.per_player.shape
    gap = float(result.gap.abs().max()) if result.gap.numel() else 0.0
    against = f", background of {len(result.baselines[0]):,} rows" if result.background else ""
    semivalue = result.settings.get("semivalue")
    parts = [
        f"{_counted(rows, 'row')}, {_counted(n, 'player')}, {_counted(targets, 'target')}{against}",
        f"largest gap {gap:.1%}",
        f"{result.evaluations:,g} evaluations and {result.propagations:,g} propagated passes a row",
    ]
    if semivalue is not None:
        parts.insert(0, str(semivalue))
        parts[2] += ", no error here: these values need not add up"
    if "total" in result.seconds:
        parts.append(f"{result.seconds['total']:.3g} s")
    return f"<b>Attribution by {escape(result.method)}</b>: " + escape("; ".join(parts))


def _more(lines: int, shown: int, where: str) -> str:
    return f"<div>the first {shown} of {lines:,} lines; all of them: <code>{where}</code></div>" if lines > shown else ""


def _target(result: Attribution, row: int, target: int) -> str:
    index = result.targets[row if len(result.targets) > 1 else 0, target].tolist()
    return ", ".join(map(str, index))


def _plain(text: str) -> str:
    return f'<td style="{_CELL}">{escape(text)}</td>'


def _tinted(value: float, largest: float) -> str:
    """A number on a tint that is the stronger the larger it is."""
    share = abs(value) / largest if largest and math.isfinite(value) else 0.0
    if share < _ROUNDING and math.isfinite(value):
        return _plain("0")
    if share < _FAINTEST:
        return _plain(_number(value))
    tint = f"rgba({POSITIVE if value > 0 else NEGATIVE},{_STRONGEST * share:.3f})"
    return f'<td style="{_CELL};background:{tint}">{escape(_number(value))}</td>'


def _number(value: float) -> str:
    return f"{value:.3g}"


def _short(name: str) -> str:
    return name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"


def _title(name: str) -> str:
    """The whole of a name that was cut, for the pointer to show."""
    return "" if len(name) <= LONGEST else f' title="{escape(name, quote=True)}"'
