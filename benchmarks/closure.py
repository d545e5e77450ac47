"""Which share of the error is the Gaussian idea's own, and which the moment rules'? Prints a table, writes closure.json.

    python benchmarks/closure.py [--data FOLDER] [--out out/paper] [--problems parkinson dna] [--samples 4000]

For coalitions that every player joins with chance q, the mean output F(q) is found in four ways: by sampling coalitions; by
sampling inputs that are Gaussian with the same mean and variance (the Gaussian idea, without any rule); and by propagating
moments, with and without factors. Shown is |difference to the first| / spread of F over these q, the mean over inputs.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor

from dasp.experiments.files import DataFolder, write_text
from dasp.experiments.problem import Problem
from dasp.experiments.problems import BUILDERS, Settings
from dasp.law import FULL, CoalitionLaw
from dasp.model import Model
from dasp.propagate import make_plan, propagate

NODES = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.95)
WAYS = ("Gaussian inputs, sampled", "propagated, diagonal", "propagated, full rank")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with the data; default: DASP_DATA, else downloaded")
    parser.add_argument("--out", type=Path, default=Path("out/paper"))
    parser.add_argument("--problems", nargs="+", choices=("parkinson", "dna"), default=("parkinson", "dna"))
    parser.add_argument("--samples", type=int, default=4000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cache = options.out / "cache"
    settings = Settings(files=DataFolder.find(options.data, cache / "data"), cache=cache, inputs=10)
    found = {name: measured(BUILDERS[name](settings), options.samples) for name in options.problems}
    for name, table in found.items():
        print(f"\n{name}\n\n| q | " + " | ".join(WAYS) + " |\n| ---: | " + " | ".join("---:" for _ in WAYS) + " |")
        for q, row in zip(NODES, zip(*table.values(), strict=True), strict=True):
            print(f"| {q} | " + " | ".join(f"{value:.3f}" for value in row) + " |")
    write_text(options.out / "closure.json", json.dumps({"q": NODES, **found}, indent=1) + "\n")


def measured(problem: Problem, samples: int) -> dict[str, list[float]]:
    """Mean relative error of F(q) at every node, by way."""
    torch.manual_seed(0)
    errors: dict[str, list[Tensor]] = {way: [] for way in WAYS}
    count = problem.count
    labels = problem.players if problem.players is not None else torch.arange(count).reshape(problem.inputs.shape[1:])
    model = Model(problem.model)
    graph = model.capture((problem.inputs,), ())
    plan = make_plan(graph, [labels + 1], (), len(problem.inputs))
    for entry, target in zip(problem.inputs, problem.targets.tolist(), strict=True):

        def mean(presence: Tensor, entry: Tensor = entry, target: int = target) -> Tensor:
            with torch.inference_mode():
                parts = [problem.model(part[:, labels] * entry)[:, target] for part in presence.split(500)]
            return torch.cat(parts).mean()

        truth, ways = [], {way: [] for way in WAYS}
        for q in NODES:
            truth.append(mean((torch.rand(samples, count) < q).float()))
            ways[WAYS[0]].append(mean(q + (q * (1 - q)) ** 0.5 * torch.randn(samples, count)))
            for way, rank in zip(WAYS[1:], (None, FULL), strict=True):
                law = CoalitionLaw(
                    torch.tensor([q]), torch.zeros(1, count), grouped=problem.players is not None, rank=rank,
                    conditioned=False, memory=2**30,
                )  # fmt: skip
                with torch.no_grad():
                    result = propagate(plan, law, [0 * entry[None]], [entry[None]], (), graph.folded())
                ways[way].append(result.mean[0, target])
        exact = torch.stack(truth)
        for way, values in ways.items():
            errors[way].append((torch.stack(values) - exact).abs() / (exact.max() - exact.min()))
    return {way: torch.stack(rows).mean(0).tolist() for way, rows in errors.items()}


if __name__ == "__main__":
    main()
