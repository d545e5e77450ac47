"""How far the figures on Parkinson depend on the one network: the same settings on networks trained from other seeds.

    python benchmarks/seeds.py [--data FOLDER] [--seeds 5] [--out out/paper]

Prints a Markdown table of mean relative errors over 40 held-out inputs, exact truth, and writes it to `seeds.md`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

import dasp
from dasp.experiments.files import DataFolder, write_text
from dasp.experiments.measures import relative_errors
from dasp.experiments.problems import Settings, parkinson_network
from dasp.experiments.truth import exact_truth

SETTINGS: dict[str, dasp.Estimator] = {
    "DASP as published, 18 sizes": dasp.DASP(sizes=18),
    "diagonal, 4 nodes": dasp.Propagation(rank=0, nodes=4, rule="legendre"),
    "full rank, 4 nodes": dasp.Propagation(rank="full", nodes=4, rule="legendre", condition=False),
    "full rank, exact ends, 5 nodes": dasp.Propagation(rank="full", nodes=5, rule="lobatto", condition=False),
    "full rank, 4 nodes, conditioned": dasp.Propagation(rank="full", nodes=4, rule="legendre"),
    "default": dasp.Propagation(),
    "default, mixture 2": dasp.Propagation(mixture=2),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder with the data; default: DASP_DATA, else downloaded")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("out/paper"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    cache = options.out / "cache"
    files = DataFolder.find(options.data, cache / "data")
    columns = [errors(Settings(files=files, cache=cache, seed=seed)) for seed in range(options.seeds)]
    lines = ["| setting | " + " | ".join(f"seed {seed}" for seed in range(options.seeds)) + " | mean |"]
    lines.append("| --- |" + " ---: |" * (options.seeds + 1))
    for name in columns[0]:
        found = [column[name] for column in columns]
        lines.append(f"| {name} | " + " | ".join(f"{e:.4f}" for e in (*found, float(np.mean(found)))) + " |")
    text = "\n".join(lines)
    print(text)
    write_text(options.out / "seeds.md", text + "\n")


def errors(settings: Settings) -> dict[str, float]:
    """Mean relative error of every setting on the network of one seed."""
    network = parkinson_network(settings)
    rows = network.split.test_inputs[:40]
    targets = torch.zeros(len(rows), dtype=torch.long)
    exact = exact_truth(network.model, rows, targets, cache=settings.cache, name="parkinson").values
    found = {}
    for name, method in SETTINGS.items():
        values = dasp.Explainer(network.model, 0.0, method=method)(rows).values
        assert isinstance(values, torch.Tensor)
        found[name] = float(relative_errors(values.numpy(), exact).mean())
    return found


if __name__ == "__main__":
    main()
