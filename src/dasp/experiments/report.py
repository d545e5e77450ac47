"""What was measured on one problem: as JSON, as a table in Markdown, and as "times faster at equal error"."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import speed
from .files import write_text
from .problem import Problem
from .speed import number, shown

Row = dict[str, Any]


def result(problem: Problem, rows: Sequence[Row], about: dict[str, Any]) -> dict[str, Any]:
    """Everything measured on one problem, as it goes into result.json; `about` says how it was run."""
    sampled = float(problem.truth_error.max())
    return {
        "title": problem.title,
        "name": problem.name,
        "inputs": len(problem.inputs),
        "players": problem.count,
        "score": problem.score,
        "truth": f"sampled, its relative error at most {100 * sampled:.2f} %" if sampled else "exact, all coalitions",
        "truth_error": problem.truth_error.tolist(),
        "names": None if problem.names is None else list(problem.names),
        "about": about,
        "rows": list(rows),
    }


def write(found: dict[str, Any], folder: Path) -> list[Path]:
    """result.json and table.md, speed.json and speed.md under `folder`; `OutputFileError` where they cannot be written."""
    texts = {
        "result.json": as_json(found),
        "table.md": table(found),
        "speed.json": as_json(speed.pairs(found["rows"])),
        "speed.md": f"### {found['title']}\n\n{speed.table(found['rows'])}",
    }
    for name, text in texts.items():
        write_text(folder / name, text)
    return [folder / name for name in texts]


def as_json(value: Any) -> str:
    """JSON that every reader takes: no NaN, no infinity."""
    return json.dumps(value, indent=1, allow_nan=False) + "\n"


def table(found: dict[str, Any]) -> str:
    """The comparison in Markdown, the best first; then what could not be done and why."""
    lines = [
        f"### {found['title']}: {found['inputs']} inputs, {found['score']}",
        "",
        f"Truth: {found['truth']}. Relative error is ||a - phi|| / ||phi||, RMSE is in the unit of the output;",
        "mean ± standard deviation over inputs. Evaluations, propagated passes and time are per input."
        + (" A quick look: times include loading and compiling." if found["about"].get("quick") else ""),
        "",
        "| method | relative error | RMSE | Spearman | evaluations | propagated passes | time |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    done = sorted((row for row in found["rows"] if "error" in row), key=lambda row: float(row["error"]))
    lines += [_line(row) for row in done]
    for reason, text in (("unsupported", "cannot treat this network"), ("failed", "failed")):
        for row in found["rows"]:
            if reason in row:
                why = " ".join(str(row[reason]).replace("|", "\\|").split())
                lines.append(f"| {shown(row['family'], row['label'])} | {text}: {why} | | | | | |")
    return "\n".join(lines) + "\n"


def _line(row: Row) -> str:
    cells = [
        shown(row["family"], row["label"]),
        f"{row['error']:.4f} ± {row['error_std']:.4f}",
        f"{row['rmse']:.4g} ± {row['rmse_std']:.2g}",
        f"{row['spearman']:.4f} ± {row['spearman_std']:.4f}",
        number(row["evaluations"]),
        number(row["propagations"]),
        duration(row["seconds"]),
    ]
    return "| " + " | ".join(cells) + " |"


def duration(seconds: float) -> str:
    """Seconds as people read them."""
    if 0.01 <= seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"
