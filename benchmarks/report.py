"""The comparison as a JSON file, a Markdown table and a figure."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

from networks import replace_file

Row = dict[str, Any]

# Colours of Okabe and Ito, and one of Tol, safe for colour-blind readers; the library's lines are solid, others dashed.
STYLES: dict[str, tuple[str, str]] = {
    "dasp.Propagation, default": ("#000000", "*"),
    "dasp.Propagation, diagonal": ("#0072B2", "o"),
    "dasp.Propagation, rank (4 nodes)": ("#882255", "h"),
    "dasp.Propagation, full rank": ("#D55E00", "^"),
    "dasp.Propagation, full rank, conditioned": ("#009E73", "s"),
    "dasp.Propagation, full rank, exact ends": ("#56B4E9", "D"),
    "dasp.Propagation, full rank, conditioned, exact ends": ("#CC79A7", "v"),
    "dasp.PermutationSampling": ("#E69F00", "P"),
    "DASP 2019": ("#555555", "X"),
    "captum IntegratedGradients": ("#0072B2", "1"),
    "captum DeepLift": ("#D55E00", "2"),
    "captum ShapleyValueSampling": ("#009E73", "3"),
    "captum KernelShap": ("#CC79A7", "4"),
    "shap PermutationExplainer": ("#E69F00", "+"),
}


def passes(row: Row) -> float:
    """Evaluations per input, a propagated pass counted as one."""
    return float(row["evaluations"] + row["propagations"])


def evaluations_to_reach(rows: list[Row], family: str, error: float) -> float | None:
    """Evaluations at which `family` reaches `error`: between its budgets log-log, beyond them as error^2 ~ 1 / m."""
    points = sorted((passes(row), row["error"]) for row in rows if row["family"] == family and "error" in row)
    if not points:
        return None
    for (m0, e0), (m1, e1) in itertools.pairwise(points):
        if e0 >= error >= e1 and e0 > e1:
            share = math.log(e0 / error) / math.log(e0 / e1)
            return m0 * (m1 / m0) ** share
    nearest = points[0] if error > points[0][1] else points[-1]
    return nearest[0] * (nearest[1] / error) ** 2


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.3g}"


def duration(seconds: float) -> str:
    """Seconds as people read them."""
    if 0.01 <= seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def table(result: dict[str, Any]) -> str:
    """The comparison in Markdown, one table a problem, in the order of error."""
    lines: list[str] = []
    for problem in result["problems"].values():
        lines += [
            f"### {problem['title']}: {problem['inputs']} inputs, {problem['score']}",
            "",
            f"Truth: {problem['truth']}. Relative error is ||a - phi|| / ||phi||, the mean over inputs.",
            "",
            "| estimator | relative error | Spearman | evaluations | propagated passes | time an input |",
            "| --- | ---: | ---: | ---: | ---: | ---: |",
        ]
        done = sorted((row for row in problem["rows"] if "error" in row), key=lambda row: row["error"])
        for row in done:
            ours = row["family"].startswith("dasp.") and not row["label"].startswith("dasp.")
            label = f"{row['family'].split(',')[0]}: {row['label']}" if ours else row["label"]
            lines.append(
                f"| {label} | {row['error']:.4f} | {row['spearman']:.4f} | {_number(row['evaluations'])} "
                f"| {_number(row['propagations'])} | {duration(row['seconds'])} |"
            )
        lines += [f"| {row['label']} | failed: {row['failed']} | | | | |" for row in problem["rows"] if "failed" in row]
        match = problem.get("evaluations_to_match_diagonal")
        if match:
            lines += ["", f"To match the diagonal with 4 nodes ({match['error']:.4f}), evaluations an input: "]
            lines[-1] += "; ".join(f"{family} {_number(count)}" for family, count in match["families"].items()) + "."
        lines.append("")
    return "\n".join(lines)


def figure(result: dict[str, Any], stem: Path) -> list[Path]:
    """Error against evaluations and against time, a row of axes for each problem; written as PNG and SVG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    problems = result["problems"]
    picture, axes = plt.subplots(
        len(problems), 2, figsize=(11, 4.2 * len(problems) + 1.6), squeeze=False, sharey="row", layout="constrained"
    )
    handles: dict[str, Any] = {}
    for line, problem in zip(axes, problems.values(), strict=True):
        counts = (passes, "evaluations per input (a propagated pass counts as one)")
        for axis, (along, title) in zip(line, (counts, (_seconds, "seconds per input")), strict=True):
            for family, (colour, marker) in STYLES.items():
                points = sorted(
                    (along(row), row["error"]) for row in problem["rows"] if row["family"] == family and "error" in row
                )
                if points:
                    style = "-" if family.startswith("dasp.") else "--"
                    size = 12 if marker == "*" else 7
                    (handles[family],) = axis.plot(
                        *zip(*points, strict=True), style, color=colour, marker=marker, markersize=size, label=family
                    )
            axis.set(xscale="log", yscale="log", xlabel=title)
            axis.grid(True, which="both", alpha=0.2)
        line[0].set_ylabel(f"{problem['title']}\nrelative error")
    shown = [family for family in STYLES if family in handles]
    picture.legend([handles[family] for family in shown], shown, loc="outside lower center", ncols=3, fontsize=9)
    paths = [stem.with_suffix(f".{kind}") for kind in ("png", "svg")]
    for path in paths:
        replace_file(path, lambda partial: picture.savefig(partial, dpi=150))
    plt.close(picture)
    return paths


def _seconds(row: Row) -> float:
    return float(row["seconds"])


def write(result: dict[str, Any], out: Path, name: str) -> list[Path]:
    """`name`.json, `name`.md, `name`.png and `name`.svg under `out`."""
    written = [out / f"{name}.json", out / f"{name}.md"]
    text = json.dumps(result, indent=1)
    replace_file(written[0], lambda partial: partial.write_text(text + "\n"))
    replace_file(written[1], lambda partial: partial.write_text(table(result) + "\n"))
    return written + figure(result, out / name)
