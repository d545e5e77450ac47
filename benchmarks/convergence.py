"""How errors fall with the budget, to the limit of float arithmetic, on every reference network of up to 16 players.

    python benchmarks/convergence.py [--inputs 3] [--out out/frontier] [--only NAME ...] [--page docs/frontier.md]

The networks of `architectures.py` and the wine MLP of `mixture.py`, in float64, against all 2^n coalitions. Budgets go from 4 n
to 2^n evaluations, mixtures from nobody to everybody (on one input). Prints the mean relative error at each, and ends with an
error where one does not keep falling to the limit; with --page writes the tables and, beside the page, convergence.png.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import architectures
import dasp
import mixture
from dasp.experiments.files import write_text

MULTIPLES = (4, 16, 64)
PARTS = (4, 2, 1)
"""Of n, and of 2^n."""
ENUMERATED = (0, 2, 4, 6, 8)
LIMIT = 1e-12
"""Relative errors below this are the arithmetic's."""
EXACT = 1e-5
"""What a mixture of everybody may be off."""
PRIOR = dasp.Propagation()
WINE = "wine"
MEMORY = 6 * 2**30
"""A propagation with all patterns of everybody keeps them at once."""


@dataclass(frozen=True)
class Network:
    """A network in float64, held-out inputs and their exact values (N, n)."""

    title: str
    model: nn.Module
    x: Tensor
    targets: Tensor
    players: object
    truth: Tensor

    @classmethod
    def of(cls, title: str, model: nn.Module, x: Tensor, players: object) -> Network:
        """Enumerates all coalitions."""
        model = model.double()
        targets = model(x).argmax(1)
        truth = dasp.Explainer(model, 0.0, method=dasp.Exact(), players=players)(x, targets).per_player[:, 0]
        return cls(title, model, x, targets, players, truth)

    def error(self, method: dasp.Estimator, *, inputs: int | None = None) -> float:
        """Mean relative error of a method on the first inputs, or on all."""
        explainer = dasp.Explainer(self.model, 0.0, method=method, players=self.players, memory=MEMORY)
        truth = self.truth[:inputs]
        off = explainer(self.x[:inputs], self.targets[:inputs]).per_player[:, 0] - truth
        return float((off.norm(dim=1) / truth.norm(dim=1)).mean())


def networks(count: int, out: Path, only: list[str] | None) -> Iterator[Network]:
    """Each of at most 16 players."""
    for name, case in architectures.CASES.items():
        if only is None or name in only:
            with torch.enable_grad():
                model = architectures.trained(name, case, out)
            inputs, _ = architectures.drawn(case, count, 40_000)
            players = dasp.players.grid(2, 2) if case.task is None else dasp.players.tokens()
            yield Network.of(name, model, architectures.embedded(model, inputs).detach().double(), players)
    if only is None or WINE in only:
        features, labels = mixture.table_data("wine")
        rows = features[torch.randperm(len(features), generator=torch.Generator().manual_seed(1))][-count:]
        with torch.enable_grad():
            model = mixture.trained(features, labels, mixture.normed)
        yield Network.of("wine, LayerNorm", model, rows.double(), None)


def falls(errors: list[float]) -> bool:
    """Whether each error is below the one before it, or at the limit."""
    return all(after < max(before, LIMIT) for before, after in itertools.pairwise(errors))


def picture(curves: dict[str, list[tuple[int, float]]], path: Path) -> None:
    """Error against evaluations, both logarithmic."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    figure, ax = plt.subplots(figsize=(8, 5), layout="constrained")
    for label, curve in curves.items():
        ax.plot(*zip(*curve, strict=True), "--" if label.endswith("relevance") else "-", marker="o", markersize=4, label=label)
    ax.set(xscale="log", yscale="log", xlabel="evaluations an input", ylabel="relative error")
    ax.grid(alpha=0.3, linewidth=0.4)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def row(cells: list[str]) -> str:
    """A line of a table."""
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("out/frontier"))
    parser.add_argument("--only", nargs="+", choices=(*architectures.CASES, WINE), help="and no page is written")
    parser.add_argument("--page", type=Path, help="a page with a place for the tables, marked by comments")
    options = parser.parse_args()
    if options.only and options.page:
        parser.error("--page takes all networks: leave --only out")
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    heads = ["`Regression`", *(f"{k}n" for k in MULTIPLES), *(f"2^n / {k}" if k > 1 else "2^n" for k in PARTS)]
    sampled = [row(heads), row(["---", *["---:"] * (len(heads) - 1)])]
    heads = ["`Propagation(mixture=h)`", *(f"h = {h}" for h in ENUMERATED), "n"]
    enumerated = [row(heads), row(["---", *["---:"] * (len(heads) - 1)])]
    curves: dict[str, list[tuple[int, float]]] = {}
    wrong = []
    with torch.no_grad():
        for network in networks(options.inputs, options.out, options.only):
            n = network.truth.shape[1]
            budgets = [*(k * n for k in MULTIPLES), *(2**n // k for k in PARTS)]
            for label, relevance in ((network.title, False), (f"{network.title}, with relevance", True)):
                start = time.perf_counter()
                errors = [network.error(dasp.Regression(budget=b, prior=PRIOR, relevance=relevance)) for b in budgets]
                sampled.append(row([f"{label}, n = {n}", *(f"{e:.1e}" for e in errors)]))
                print(f"{sampled[-1]} {time.perf_counter() - start:.0f} s", flush=True)
                curves[label] = list(zip(budgets, errors, strict=True))
                if not (falls(errors) and errors[-1] < LIMIT):
                    wrong.append(label)
            start = time.perf_counter()
            errors = [network.error(dasp.Propagation(mixture=h)) for h in ENUMERATED]
            errors.append(network.error(dasp.Propagation(mixture=n), inputs=1))  # minutes an input, where a pass is large
            enumerated.append(row([f"{network.title}, n = {n}", *(f"{e:.1e}" for e in errors)]))
            print(f"{enumerated[-1]} {time.perf_counter() - start:.0f} s", flush=True)
            if not errors[-1] < EXACT:
                wrong.append(f"{network.title}, mixture of everybody")
    if options.page is not None:
        text = "\n".join([*sampled, "", *enumerated])
        write_text(options.page, architectures.between_marks(options.page.read_text(), "convergence", text))
        picture(curves, options.page.parent / "convergence.png")
    if wrong:
        sys.exit(f"errors do not keep falling to the limit: {'; '.join(wrong)}")


if __name__ == "__main__":
    main()
