"""Interactions of pairs on the Parkinson network: error against enumeration, correlation, and time an input.

    python benchmarks/interactions.py [--inputs 8] [--out out/frontier] [--data FOLDER]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

import dasp
import frontier

METHODS = {
    "default": dasp.Propagation(), "mixture=4": dasp.Propagation(mixture=4),
    "rank=0": dasp.Propagation(rank=0, mixture=0), "enumeration": dasp.Exact(),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path("out/frontier"))
    parser.add_argument("--data", type=Path, default=None, help="the folder of the paper's data; else they are downloaded")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    problem = frontier.network("parkinson", options.inputs, options.out, options.data)
    exact = dasp.Explainer(problem.model, 0.0, method=dasp.Exact()).interactions(problem.inputs, problem.targets)
    truth = exact.per_target[:, 0].double().flatten(1)
    for label, method in METHODS.items():
        explainer = dasp.Explainer(problem.model, 0.0, method=method)
        explainer.interactions(problem.inputs[:1], problem.targets[:1])
        start = time.perf_counter()
        found = explainer.interactions(problem.inputs, problem.targets).per_target[:, 0].double().flatten(1)
        seconds = (time.perf_counter() - start) / len(truth)
        error = float(((found - truth).norm(dim=1) / truth.norm(dim=1)).mean())
        correlation = float(torch.corrcoef(torch.stack((found.flatten(), truth.flatten())))[0, 1])
        print(f"{label}: error {error:.3f}, correlation {correlation:.3f}, {1e3 * seconds:.1f} ms", flush=True)


if __name__ == "__main__":
    main()
