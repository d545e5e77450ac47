"""Refine against permutation sampling: how many of 100 inputs end below a tolerance, and at how many evaluations.

    python benchmarks/refine.py [--tolerance 0.02] [--inputs 100] [--out out/frontier] [--data FOLDER]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

import dasp
import frontier

NAMES = ("parkinson", "transformer, pre-norm, GELU: lookup")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tolerance", type=float, default=0.02)
    parser.add_argument("--inputs", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path("out/frontier"))
    parser.add_argument("--data", type=Path, default=None, help="the folder of the paper's data; else they are downloaded")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        problem = frontier.network(name, options.inputs, options.out, options.data)
        truth = torch.as_tensor(problem.truth)

        def below(method: dasp.Estimator, problem=problem, truth=truth) -> tuple[float, float]:  # type: ignore[no-untyped-def]
            explainer = dasp.Explainer(problem.model, 0.0, method=method, players=problem.players)
            result = explainer(problem.inputs, problem.targets)
            error = (result.per_player[:, 0].double() - truth).norm(dim=1) / truth.norm(dim=1)
            return float((error <= options.tolerance).double().mean()), result.evaluations

        share, cost = below(dasp.Refine(tolerance=options.tolerance))
        print(f"{problem.title}: Refine: {share:.0%} below {options.tolerance:g}, {cost:,.0f} evaluations", flush=True)
        permutations = 64
        while True:
            share, cost = below(dasp.PermutationSampling(permutations=permutations))
            print(f"  {permutations} permutations: {share:.0%}, {cost:,.0f} evaluations", flush=True)
            if share >= 0.95 or permutations > 10_000:
                break
            permutations *= 2


if __name__ == "__main__":
    main()
