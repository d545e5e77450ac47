"""A result as a notebook shows it: one piece of HTML that stands by itself, in whatever colours the page has."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .attribution import Attribution

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
    sums = values.abs().sum((0, 1)).nan_to_num(0.0)
    order = sums.argsort(descending=True, stable=True)[:PLAYERS].tolist()
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
    heads = "".join(f'<th scope="col" style="{_HEAD}"{_title(name)}>{escape(_short(name))}</th>' for name in head)
    return (
        f'<div style="overflow-x:auto"><div>{_about(result)}</div>'
        f'<table style="border-collapse:collapse;margin:6px 0"><thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table>{_more(result, len(lines))}</div>"
    )


def _about(result: Attribution) -> str:
    rows, targets, n = result.per_player.shape
    gap = float(result.gap.abs().max()) if result.gap.numel() else 0.0
    against = f", background of {len(result.baselines[0]):,} rows" if result.background else ""
    semivalue = result.settings.get("semivalue")
    parts = [
        f"{rows:,} row{'s' * (rows != 1)}, {n:,} player{'s' * (n != 1)}, {targets:,} target{'s' * (targets != 1)}{against}",
        f"largest gap {gap:.1%}",
        f"{result.evaluations:,g} evaluations and {result.propagations:,g} propagated passes a row",
    ]
    if semivalue is not None:
        parts.insert(0, str(semivalue))
        parts[2] += ", no error here: these values need not add up"
    if "total" in result.seconds:
        parts.append(f"{result.seconds['total']:.3g} s")
    return f"<b>Attribution by {escape(result.method)}</b>: " + escape("; ".join(parts))


def _more(result: Attribution, shown: int) -> str:
    rows, targets, _ = result.per_player.shape
    if rows * targets <= shown:
        return ""
    return f"<div>the first {shown} of {rows * targets:,} lines; all of them: <code>to_frame()</code></div>"


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
