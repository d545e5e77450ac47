"""Error against cost of every estimator here and of captum's and shap's, side by side in one run.

    python benchmarks/frontier.py --data FOLDER [--out out] [--quick] [--problems parkinson mnist] [--threads 1]

Writes frontier.json, frontier.md, frontier.png and frontier.svg under --out; networks and true values are kept in
--out/cache and used again. The first run samples the MNIST truth, which takes CPU minutes and resumes when interrupted.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

import measures
import methods
import report
from data import data_folder
from problems import BUILDERS, Problem

REPEATS = 5
"""The fastest of up to this many runs is kept: the first one also loads libraries, captures and compiles."""
REPEAT_SECONDS = 4.0
"""No further run once the runs so far took this long in all, except that anything below TWICE_BELOW runs twice."""
TWICE_BELOW = 15.0


def main() -> int:
    """Run the comparison; 1 when a method failed."""
    options = _options()
    torch.set_num_threads(options.threads)
    folder = data_folder(options.data)
    result: dict[str, Any] = {
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "threads": options.threads,
        "quick": options.quick,
        "problems": {},
    }
    stem = "frontier" + ("-quick" if options.quick else "") + ("-part" if options.only else "")
    for name in options.problems:
        problem = BUILDERS[name](folder, options.out / "cache", **_size(name, options.quick))
        result["problems"][name] = compare(problem, quick=options.quick, only=options.only)
        written = report.write(result, options.out, stem)
    print(report.table(result))
    print("written:", *written)
    failed = [row["label"] for problem in result["problems"].values() for row in problem["rows"] if "failed" in row]
    if failed:
        print("FAILED:", *failed, sep="\n  ", file=sys.stderr)
    return int(bool(failed))


def compare(problem: Problem, *, quick: bool, only: str = "") -> dict[str, Any]:
    """Every method on one problem, as it goes into the JSON file."""
    rows = []
    chosen = [method for method in methods.CHOSEN[problem.name](problem, quick=quick) if only in method.family]
    with tqdm(chosen, desc=problem.name) as bar:
        for method in bar:
            bar.set_postfix_str(method.label)
            rows.append(measure(problem, method))
    sampled = float(problem.truth_error.max())
    entry = {
        "title": problem.title,
        "inputs": len(problem.inputs),
        "score": problem.score,
        "truth": f"sampled, its relative error at most {100 * sampled:.2f} %" if sampled else "exact, all coalitions",
        "truth_error": problem.truth_error.tolist(),
        "rows": rows,
    }
    diagonal = [row for row in rows if row["label"] == "diagonal, 4 nodes" and "error" in row]
    if diagonal:
        error = diagonal[0]["error"]
        families = (methods.SAMPLING, "captum ShapleyValueSampling", "shap PermutationExplainer")
        counts = {family: report.evaluations_to_reach(rows, family, error) for family in families}
        found = {family: count for family, count in counts.items() if count}
        if found:
            entry["evaluations_to_match_diagonal"] = {"error": error, "families": found}
    return entry


def measure(problem: Problem, method: methods.Method) -> dict[str, Any]:
    """One method's error, rank correlation, evaluations and time; the failure's message where it failed."""
    row: dict[str, Any] = {"family": method.family, "label": method.label}
    seconds: list[float] = []
    processor: list[float] = []
    try:
        while _once_more(seconds):
            methods.settle()
            start, busy = time.perf_counter(), time.process_time()
            outcome = method.run()
            seconds.append(time.perf_counter() - start)
            processor.append(time.process_time() - busy)
    except Exception as error:  # noqa: BLE001  one method's failure must not lose the others' hours; it is reported
        return {**row, "failed": f"{type(error).__name__}: {error}".splitlines()[0]}
    errors = measures.relative_errors(outcome.values, problem.truth)
    ranks = measures.rank_correlations(outcome.values, problem.truth)
    count = len(problem.inputs)
    return {
        **row,
        "error": float(errors.mean()),
        "spearman": float(ranks.mean()),
        "evaluations": outcome.evaluations,
        "propagations": outcome.propagations,
        "seconds": min(seconds) / count,
        "processor_seconds": min(processor) / count,
        "first_seconds": seconds[0] / count,
        "gap": outcome.gap,
        "errors": errors.tolist(),
        "spearmans": ranks.tolist(),
    }


def _once_more(seconds: list[float]) -> bool:
    if len(seconds) < 2:
        return not seconds or seconds[0] < TWICE_BELOW
    return len(seconds) < REPEATS and sum(seconds) < REPEAT_SECONDS


def _size(name: str, quick: bool) -> dict[str, Any]:
    if not quick:
        return {}
    return {"inputs": 8} if name == "parkinson" else {"inputs": 2, "tolerance": 0.05}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder with the data files (default: the environment variable DASP_DATA)")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for results and cache (default: out)")
    parser.add_argument("--quick", action="store_true", help="fewer inputs and budgets: a minute")
    parser.add_argument("--problems", nargs="+", choices=tuple(BUILDERS), default=tuple(BUILDERS))
    parser.add_argument("--only", default="", help="only the families whose name contains this; frontier-part.*")
    parser.add_argument("--threads", type=int, default=1, help="torch threads, for comparable times (default: 1)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
