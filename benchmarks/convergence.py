"""How errors fall with the budget, to the limit of float arithmetic, on every reference network of up to 16 players.

    python benchmarks/convergence.py [--inputs 3] [--out out/frontier] [--only NAME ...] [--page docs/frontier.md]

The networks of `architectures.py` and the wine MLP of `mixture.py`, in float64, against all 2^n coalitions. Budgets go from 4 n
to 2^n evaluations, mixtures from nobody to everybody (on one input). Prints the mean relative error at each, and ends with an
error where one does not keep falling to the limit. Writes convergence.json, where networks that were not measured stay as they
are, and with --page the tables of all of them and, beside the page, convergence.png.
"""

from __future__ import annotations

import argparse
import itertools
import json
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
MOST_ENUMERATED = 13
"""Of more players no mixture of everybody is tried: it takes 2^n patterns through every pass."""
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


def measured(network: Network) -> dict[str, list[float]]:
    """Errors of a regression at every budget, without and with relevance, and of mixtures."""
    n = network.truth.shape[1]
    found: dict[str, list[float]] = {"players": [n]}
    for label, relevance in (("regression", False), ("relevance", True)):
        start = time.perf_counter()
        found[label] = [network.error(dasp.Regression(budget=b, prior=PRIOR, relevance=relevance)) for b in budgets(n)]
        told(network.title, label, found[label], start)
    start = time.perf_counter()
    found["mixture"] = [network.error(dasp.Propagation(mixture=h)) for h in ENUMERATED]
    if n <= MOST_ENUMERATED:
        found["mixture"].append(network.error(dasp.Propagation(mixture=n), inputs=1))  # minutes an input, where a pass is large
    told(network.title, "mixture", found["mixture"], start)
    return found


def told(title: str, label: str, errors: list[float], start: float) -> None:
    """Print a line of what was measured."""
    print(f"{title}: {label}: {' '.join(f'{e:.1e}' for e in errors)}, {time.perf_counter() - start:.0f} s", flush=True)


def budgets(n: int) -> list[int]:
    """Evaluations, of which the last are all."""
    return [*(k * n for k in MULTIPLES), *(2**n // k for k in PARTS)]


def wrong(title: str, found: dict[str, list[float]]) -> list[str]:
    """What of a network does not fall to the limit."""
    result = [f"{title}, {label}" for label in ("regression", "relevance") if not falls(found[label])]
    whole = found["mixture"][len(ENUMERATED) :]
    return result + ([f"{title}, mixture of everybody"] if whole and not whole[0] < EXACT else [])


def falls(errors: list[float]) -> bool:
    """Whether each error is below the one before it, or at the limit, where the last one is."""
    return errors[-1] < LIMIT and all(after < max(before, LIMIT) for before, after in itertools.pairwise(errors))


def tables(found: dict[str, dict[str, list[float]]]) -> str:
    """Errors of regressions by budget, and of mixtures by players."""
    heads = ["`Regression`", *(f"{k}n" for k in MULTIPLES), *(f"2^n / {k}" if k > 1 else "2^n" for k in PARTS)]
    lines = [row(heads), row(["---", *["---:"] * (len(heads) - 1)])]
    for title, one in found.items():
        n = f"{one['players'][0]} players"
        lines.append(row([f"{title}, {n}", *(f"{e:.1e}" for e in one["regression"])]))
        lines.append(row(["the same, `relevance=True`", *(f"{e:.1e}" for e in one["relevance"])]))
    heads = ["`Propagation(mixture=h)`", *(f"h = {h}" for h in ENUMERATED), "all"]
    lines += ["", row(heads), row(["---", *["---:"] * (len(heads) - 1)])]
    for title, one in found.items():
        cells = [f"{e:.1e}" for e in one["mixture"]]
        lines.append(row([title, *cells, *[""] * (len(heads) - 1 - len(cells))]))
    return "\n".join(lines)


def row(cells: list[str]) -> str:
    """A line of a table."""
    return "| " + " | ".join(cells) + " |"


def picture(found: dict[str, dict[str, list[float]]], path: Path) -> None:
    """Error against evaluations, both logarithmic."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    figure, ax = plt.subplots(figsize=(8, 5), layout="constrained")
    for index, (title, one) in enumerate(found.items()):
        for label, style in (("regression", "-"), ("relevance", "--")):
            name = title if label == "regression" else None
            at = budgets(one["players"][0])
            ax.plot(at, one[label], style, color=f"C{index}", marker="o", markersize=4, label=name)
    ax.set(xscale="log", yscale="log", xlabel="evaluations an input (dashed: relevance=True)", ylabel="relative error")
    ax.grid(alpha=0.3, linewidth=0.4)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("out/frontier"))
    parser.add_argument("--only", nargs="+", choices=(*architectures.CASES, WINE))
    parser.add_argument("--page", type=Path, help="a page with a place for the tables, marked by comments")
    parser.add_argument("--redraw", action="store_true", help="measure nothing: tables and picture from convergence.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    stored = options.out / "convergence.json"

    def known() -> dict[str, dict[str, list[float]]]:
        return json.loads(stored.read_text()) if stored.is_file() else {}  # type: ignore[no-any-return]

    with torch.no_grad():
        for network in [] if options.redraw else networks(options.inputs, options.out, options.only):
            one = {network.title: measured(network)}
            write_text(stored, json.dumps(known() | one, indent=1) + "\n")
    found = known()
    if not found:
        parser.error(f"nothing was measured yet: {stored} is missing")
    print(tables(found))
    if options.page is not None:
        write_text(options.page, architectures.between_marks(options.page.read_text(), "convergence", tables(found)))
        picture(found, options.page.parent / "convergence.png")
    if faults := [fault for title, one in found.items() for fault in wrong(title, one)]:
        sys.exit(f"errors do not keep falling to the limit: {'; '.join(faults)}")


if __name__ == "__main__":
    main()
