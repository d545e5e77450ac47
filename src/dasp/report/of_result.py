"""The content of a report from a result in memory."""

from __future__ import annotations

import numpy as np
import torch

from ..attribution import Attribution
from ..audit import Audit
from ..columns import AUDIT_COLUMNS, MEASURED
from ..errors import InputError
from ..handover import column
from ..tables import Array
from .content import Content, evenly, left_out, rows_that_fit, told
from .picture import Grid, grey, of_labels
from .summary import MEASURING, summaries

_HINT = "result.audit(2000) measures it: give what that returns as audit=."


def content_of(result: Attribution, audit: Audit | None, asked: int | None, title: str) -> Content:
    """The content of a page about `result`.

    Raises:
        InputError: the result has no rows or values that are not finite, or the audit is of another one.
        CostError: more rows are asked for than a browser opens.
    """
    batch, targets, players = result.per_player.shape
    total = batch * targets
    values = column(result.per_player.reshape(total, players))
    if not total or not np.isfinite(values).all():
        raise InputError(f"result: {'values that hold NaN or infinity' if total else 'no rows'}; there is nothing to report.")
    columns = _columns(result, audit)
    errors = result.standard_errors
    flat = None if errors is None else column(result._flat(errors).reshape(total, players))
    grid = _grid(result)
    held = not result.players.grouped and result.tokens is None
    data = column(torch.cat([part.reshape(batch, -1) for part in result.inputs], 1)) if held else None
    pictures = grey(column(result.inputs[0])) if grid is not None and data is None else None

    each = 4 * players * (1 + (flat is not None) + (data is not None)) + 4 * len(columns)
    each += 0 if pictures is None else pictures[0].size
    each += 0 if result.tokens is None else 12 * players
    keep = evenly(columns["sample"], rows_that_fit(total, each, asked))
    shapley = "semivalue" not in result.settings
    confidence = 0.95 if audit is None else audit.confidence
    return Content(
        title=title,
        about=_about(result),
        notes=tuple(left_out(len(keep), total, asked)),
        names=result.player_names,
        total=total,
        importance=np.abs(values).mean(axis=0, dtype=np.float64),
        values=values[keep],
        columns={name: cells[keep] for name, cells in columns.items()},
        summaries=summaries(
            {name: columns[name] for name in MEASURING if name in columns}, shapley=shapley, hint=_HINT, confidence=confidence
        ),
        shapley=shapley,
        errors=None if flat is None else flat[keep],
        data=None if data is None else data[keep // targets],
        tokens=None if result.tokens is None else tuple(result.tokens[line // targets] for line in keep.tolist()),
        grid=grid,
        pictures=None if pictures is None else pictures[keep // targets],
    )


def _columns(result: Attribution, audit: Audit | None) -> dict[str, Array]:
    batch, targets, _ = result.per_player.shape
    index = result.targets.expand(batch, -1, -1).reshape(batch * targets, -1).cpu().tolist()
    columns: dict[str, Array] = {
        "sample": np.repeat(np.arange(batch), targets),
        "target": np.array([",".join(map(str, place)) for place in index], dtype=object),
    }
    for name in ("base_value", "output", "gap"):
        columns[name] = column(getattr(result, name).reshape(-1))
    if "measured_bound" in result.settings:
        for name in MEASURED:
            part = np.array(result.settings[name], dtype=object if name == "ended" else None)
            columns[name] = part.flatten() if part.ndim == 2 else part.repeat(targets)
    if audit is not None:
        audit.require_of(result.per_player)
        spent = torch.full_like(audit.low, audit.evaluations)
        found = (audit.relative_error, audit.low, audit.high, spent)
        columns |= {name: column(part.reshape(-1)) for name, part in zip(AUDIT_COLUMNS, found, strict=True)}
    return columns


def _grid(result: Attribution) -> Grid | None:
    along = result.players.names is not None and result.players.names[0].startswith(("token", "channel"))
    if len(result.inputs) != 1 or result.tokens is not None or along:
        return None
    return of_labels(result.players.labels[0].cpu().numpy())


def _about(result: Attribution) -> tuple[tuple[str, str], ...]:
    batch, targets, players = result.per_player.shape
    background = f"a background of {len(result.baselines[0]):,} rows" if result.background else None
    total = result.seconds.get("total")
    return told(
        [
            ("Samples", f"{batch:,}"),
            ("Players", f"{players:,}"),
            ("Targets", f"{targets:,} a sample" if targets > 1 else result.target),
            ("Absent features hold", background or "a baseline"),
            ("Method", result.method),
            ("Settings", {name: value for name, value in result.settings.items() if name not in MEASURED}),
            ("Cost of a row", f"{result.evaluations:,g} evaluations, {result.propagations:,g} propagated passes"),
            ("Time", None if total is None else f"{total:.3g} s"),
        ]
    )
