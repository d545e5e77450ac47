"""How far the figures on Parkinson depend on the one network: the same settings on networks trained from other seeds.

    python benchmarks/seeds.py --data FOLDER [--seeds 5] [--out out]

Prints a Markdown table of mean relative errors over 40 held-out inputs, exact truth, and writes it to `seeds.md`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

import dasp
import data
import networks
import published
import truth
from measures import relative_errors

SETTINGS: dict[str, dasp.Propagation] = {
    "diagonal, 4 nodes": dasp.Propagation(rank=0, nodes=4, rule="legendre"),
    "full rank, 4 nodes": dasp.Propagation(rank="full", nodes=4, rule="legendre", condition=False),
    "full rank, exact ends, 5 nodes": dasp.Propagation(rank="full", nodes=5, rule="lobatto", condition=False),
    "full rank, 4 nodes, conditioned": dasp.Propagation(rank="full", nodes=4, rule="legendre"),
    "default": dasp.Propagation(),
    "default, mixture 2": dasp.Propagation(mixture=2),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder with the data; default: the variable DASP_DATA")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("out"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    split = data.parkinson(data.data_folder(options.data))
    columns = [errors(split, seed, options.out / "cache") for seed in range(options.seeds)]
    lines = ["| setting | " + " | ".join(f"seed {seed}" for seed in range(options.seeds)) + " | mean |"]
    lines.append("| --- |" + " ---: |" * (options.seeds + 1))
    for name in columns[0]:
        found = [column[name] for column in columns]
        lines.append(f"| {name} | " + " | ".join(f"{e:.4f}" for e in (*found, float(np.mean(found)))) + " |")
    text = "\n".join(lines)
    print(text)
    (options.out / "seeds.md").write_text(text + "\n")


def errors(split: data.Split, seed: int, cache: Path) -> dict[str, float]:
    """Mean relative error of every setting on the network of one seed."""
    cache.mkdir(parents=True, exist_ok=True)
    model = networks.trained_mlp(split, cache, seed=seed)
    rows = split.test_inputs[:40]
    exact = truth.exact_truth(model, rows, 0, cache=cache, name="parkinson").values
    target = torch.zeros(len(rows), dtype=torch.long)
    old = published.dasp(model, rows, target, sizes=18)
    found = {"DASP 2019, 18 sizes": float(relative_errors(old.numpy(), exact).mean())}
    for name, method in SETTINGS.items():
        values = dasp.Explainer(model, 0.0, method=method)(rows).values
        assert isinstance(values, torch.Tensor)
        found[name] = float(relative_errors(values.numpy(), exact).mean())
    return found


if __name__ == "__main__":
    main()
