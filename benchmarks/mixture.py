"""What enumerating more players gains: error and time of `Propagation(mixture=h)` from nobody to everybody.

    python benchmarks/mixture.py [--data FOLDER] [--inputs 10] [--only wine] [--page docs/frontier.md]

Networks trained here: two on wine (13 players) with LayerNorm, whose truth is exact; breast cancer (30 players), digits (64)
and MNIST at 14 x 14 pixels (196), whose truth is sampled until its standard error is below 0.2 %, 0.2 % and 1 % of its length.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import architectures
import dasp
from dasp.experiments import data
from dasp.experiments.files import DataFolder, write_text

LOBATTO: dict[str, Any] = {"nodes": 5, "rule": "lobatto", "rank": "full"}
MOST_SECONDS = 20.0
WIDTH = 64


def table_data(name: str) -> tuple[Tensor, Tensor]:
    """A data set of scikit-learn, standardised."""
    import sklearn.datasets

    found = getattr(sklearn.datasets, f"load_{name}")()
    x = torch.tensor(found.data).float()
    return (x - x.mean(0)) / x.std(0).clamp(min=1e-3), torch.tensor(found.target)


def small_mnist(files: DataFolder) -> tuple[Tensor, Tensor]:
    """MNIST, every four pixels averaged."""
    split = data.mnist(files)
    images = F.avg_pool2d(split.train_inputs.reshape(-1, 1, 28, 28), 2).flatten(1)
    return images, split.train_targets.long()


def deep(players: int, classes: int) -> nn.Sequential:
    """Two hidden layers of 64."""
    return nn.Sequential(nn.Linear(players, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, classes))


def normed(players: int, classes: int) -> nn.Sequential:
    """Two hidden layers of 64, each normalised."""
    return nn.Sequential(
        nn.Linear(players, WIDTH), nn.LayerNorm(WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH), nn.ReLU(),
        nn.Linear(WIDTH, classes),
    )  # fmt: skip


def normed_once(players: int, classes: int) -> nn.Sequential:
    """One hidden layer of 64, normalised."""
    return nn.Sequential(nn.Linear(players, WIDTH), nn.LayerNorm(WIDTH), nn.GELU(), nn.Linear(WIDTH, classes))


def trained(x: Tensor, y: Tensor, build: Callable[[int, int], nn.Sequential], *, steps: int = 800) -> nn.Module:
    """A network on all rows but the last fifth."""
    torch.manual_seed(0)
    model = build(x.shape[1], int(y.max()) + 1)
    keep = len(x) * 4 // 5
    optimiser = torch.optim.Adam(model.parameters(), 2e-3, weight_decay=1e-4)
    for step in range(steps):
        some = torch.randint(0, keep, (128,), generator=torch.Generator().manual_seed(step))
        optimiser.zero_grad()
        F.cross_entropy(model(x[some]), y[some]).backward()
        optimiser.step()
    return model.eval()


def updated(page: str, measured: dict[str, list[str]]) -> str:
    """The page with the rows of these networks in place of its own."""
    head, line, *rows = architectures.marked(page, "mixture").strip().splitlines()
    by_title: dict[str, list[str]] = {}
    for row in rows:
        by_title.setdefault(row.split("|")[1].strip(), []).append(row)
    text = "\n".join([head, line, *(row for some in (by_title | measured).values() for row in some)])
    return architectures.between_marks(page, "mixture", text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=None, help="the folder of the paper's data; else MNIST is downloaded")
    parser.add_argument("--inputs", type=int, default=10)
    parser.add_argument("--only", nargs="+", help="networks whose names begin so; what a page says of others stays")
    parser.add_argument("--page", type=Path, help="a page with a place for the table, marked by comments")
    options = parser.parse_args()
    torch.set_num_threads(1)
    files = DataFolder(options.data, Path("out/downloads"), False)
    found_lines: dict[str, list[str]] = {}
    for title, load, build, steps, tolerance in (
        ("wine, LayerNorm, 13 players", lambda: table_data("wine"), normed, 800, None),
        ("wine, one LayerNorm and GELU, 13 players", lambda: table_data("wine"), normed_once, 300, None),
        ("breast cancer, 30 players", lambda: table_data("breast_cancer"), deep, 800, 0.002),
        ("digits, LayerNorm, 64 players", lambda: table_data("digits"), normed, 800, 0.002),
        ("MNIST at 14 x 14, 196 players", lambda: small_mnist(files), deep, 800, 0.01),
    ):
        if options.only is not None and not title.startswith(tuple(options.only)):
            continue
        lines = found_lines.setdefault(title, [])
        x, y = load()
        model = trained(x, y, build, steps=steps)
        rows = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(1))][-options.inputs :]
        with torch.no_grad():
            targets = model(rows).argmax(1)
        sampled = dasp.PermutationSampling(permutations=200_000, tolerance=tolerance)
        method = dasp.Exact() if tolerance is None else sampled
        truth = dasp.Explainer(model, 0.0, method=method)(rows, targets).per_player[:, 0].double()
        for h in (0, 1, 2, 4, 6, 8, x.shape[1]):
            if h > 13:
                continue
            chosen = {} if h == x.shape[1] else LOBATTO  # of everybody, the nodes that are exact
            explainer = dasp.Explainer(model, 0.0, method=dasp.Propagation(**chosen, mixture=h))
            explainer(rows[:1], targets[:1])
            start = time.perf_counter()
            found = explainer(rows, targets).per_player[:, 0].double()
            seconds = (time.perf_counter() - start) / len(rows)
            error = float(((found - truth).norm(dim=1) / truth.norm(dim=1)).mean())
            lines.append(f"| {title} | {h} | {error:.2g} | {1e3 * seconds:.3g} ms |")
            print(lines[-1], flush=True)
            if seconds > MOST_SECONDS:
                break
    if options.page is not None:
        write_text(options.page, updated(options.page.read_text(), found_lines))


if __name__ == "__main__":
    main()
