"""Put the measured figures into README.md, from what `dasp reproduce parkinson mnist` and `cost.py` have written; keep both.

    python benchmarks/readme.py [--out out/paper]

The table stands between the two `figures` marks in README.md; the JSON files go to `docs/paper/`.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from dasp.experiments.files import write_text
from dasp.experiments.report import duration
from dasp.experiments.speed import needed, passes

ROOT = Path(__file__).resolve().parent.parent
START, END = "<!-- figures:start -->", "<!-- figures:end -->"

DIAGONAL = "diagonal, 4 nodes"

# Label in the JSON file: what the reader sees.
SHOWN = {
    "parkinson": {
        "default": "`Propagation()`, the default",
        "full rank, conditioned, exact ends, 5 nodes, mixture 2": "`Propagation(mixture=2)`",
        "full rank, conditioned, exact ends, 5 nodes, mixture 4": "`Propagation(mixture=4)`",
        DIAGONAL: '`Propagation(rank=0, nodes=4, rule="legendre")`',
    },
    "mnist": {
        "default": "`Propagation()`, the default: rank 64",
        DIAGONAL: "`Propagation(rank=0)`",
        "full rank, 4 nodes": '`Propagation(rank="full", condition=False)`',
    },
}
PEERS = {
    "DASP 2019": "DASP as published in 2019",
    "dasp.PermutationSampling": "permutation sampling, antithetic (dasp)",
    "captum ShapleyValueSampling": "captum ShapleyValueSampling",
    "shap PermutationExplainer": "shap PermutationExplainer",
    "shapiq KernelSHAP, paired": "shapiq KernelSHAP, paired",
    "captum KernelShap": "captum KernelShap",
    "captum IntegratedGradients": "captum IntegratedGradients",
    "captum DeepLift": "captum DeepLift",
    "DeepLIFT RevealCancel": "DeepLIFT RevealCancel",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "paper", help="where the JSON files are")
    out = parser.parse_args().out
    problems = {name: json.loads((out / name / "result.json").read_text()) for name in SHOWN}
    cost = json.loads((out / "cost.json").read_text())
    readme = ROOT / "README.md"
    before, rest = readme.read_text(encoding="utf-8").split(START)
    after = rest.split(END)[1]
    write_text(readme, f"{before}{START}\n{figures(problems, cost)}\n{END}{after}")
    kept = ROOT / "docs" / "paper"
    kept.mkdir(parents=True, exist_ok=True)
    for name in SHOWN:
        shutil.copy(out / name / "result.json", kept / f"{name}.json")
    shutil.copy(out / "cost.json", kept / "cost.json")


def figures(problems: dict[str, dict[str, Any]], cost: dict[str, Any]) -> str:
    """The tables and what they say."""
    parts = []
    for name, problem in problems.items():
        parts += [f"**{problem['title']}**: {problem['inputs']} held-out inputs, truth {problem['truth']}.", ""]
        parts += ["| method | relative error | Spearman | time an input |", "| --- | ---: | ---: | ---: |"]
        parts += [line(label, row) for label, row in chosen(name, problem["rows"])]
        parts.append("")
    batch = cost["forwards"]["rows"][-1]
    rows = [row for row in problems["mnist"]["rows"] if "error" in row]
    diagonal = next(row for row in rows if row["label"] == DIAGONAL)
    budgets = [(passes(row), row["error"]) for row in rows if row["family"] == "dasp.PermutationSampling"]
    matching = needed(budgets, diagonal["error"]).cost
    parts.append(
        f"On MNIST the diagonal (`rank=0`) costs {batch['forwards']:.0f} plain forward passes of the same batch; antithetic "
        f"permutation sampling needs {matching:,.0f} evaluations an image to come as near. One thread of a shared CPU; "
        "`make bench` measures all of it again, at more settings; `docs/paper/` has what it measured here."
    )
    return "\n".join(parts)


def chosen(name: str, rows: list[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """Our settings, then of every peer its cheapest budget that takes at least the default's time, else its largest."""
    lines = []
    for label, shown in SHOWN[name].items():
        lines += [(shown, row) for row in rows if row["label"] == label]
    limit = lines[0][1]["seconds"]
    for family, label in PEERS.items():
        budgets = [row for row in rows if row["family"] == family and "error" in row]
        budgets.sort(key=lambda row: float(row["seconds"]))
        if budgets:
            row = next((r for r in budgets if r["seconds"] >= limit), budgets[-1])
            detail = row["label"].removeprefix(family).strip(" ,:")
            if row["evaluations"] > 8:
                detail = f"{row['evaluations']:,.0f} evaluations"
            lines.append((f"{label}, {detail}" if detail else label, row))
    return lines


def line(label: str, row: dict[str, Any]) -> str:
    """One row of a table."""
    return f"| {label} | {row['error']:.3f} | {row['spearman']:.3f} | {duration(row['seconds'])} |"


if __name__ == "__main__":
    main()
