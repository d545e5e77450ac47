"""Error against evaluations and against time, from one pass to exact: all estimators here, the best of captum, shap, shapiq.

    python benchmarks/frontier.py [--out out/frontier] [--inputs 10] [--only NAME ...] [--large] [--page docs/frontier.md]
    python benchmarks/frontier.py --only mnist dna --inputs 4 --data FOLDER --page docs/frontier.md

The networks: the paper's Parkinson MLP; transformers, LSTM, GRU and the residual network of `architectures.py`; with --large
also MNIST and DNA, whose truth is sampled (`dasp reproduce` shows more of these two). Budgets are multiples of the number of
players n. A gradient counts as two evaluations and a propagated pass as one, which is less than it costs: time tells.
Writes frontier.json, where networks that were not measured stay as they are, and, with --page, the tables of all of them and
frontier.png beside the page.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import architectures
import dasp
from dasp.experiments.files import DataFolder, write_text
from dasp.experiments.methods import captum_methods, shap_methods, shapiq_methods
from dasp.experiments.methods.ours import Ours
from dasp.experiments.problem import Method, Problem, Unsupported
from dasp.experiments.problems import BUILDERS, Settings

MULTIPLES = (2, 4, 8, 16, 32, 64, 128, 256)
SMALL = ("transformer, pre-norm, GELU: lookup", "transformer, post-norm, ReLU: order", "LSTM: balance", "GRU: lookup",
         "ResNet: digits, 16 patches")  # fmt: skip
DRAWN = ("parkinson", "transformer, pre-norm, GELU: lookup", "ResNet: digits, 16 patches")
WORST_DRAWN = 2.0
ENUMERABLE = 16
LARGE = 64
"""Networks with more players take other settings, and more time."""
MOST_SECONDS, MOST_SECONDS_LARGE = 20.0, 25.0
"""An input may take this long; larger budgets of a family that took longer are left out."""
LONGEST_FIT = 8192
"""Evaluations up to which the regression is shown: beyond, its fit takes the time, not the network."""


@dataclass(frozen=True)
class Point:
    """One method at one budget on one network."""

    network: str
    family: str
    label: str
    ours: bool
    error: float
    evaluations: float
    propagations: float
    seconds: float

    @property
    def passes(self) -> float:
        """Evaluations and propagated passes."""
        return self.evaluations + self.propagations


def within(multiple: int, n: int) -> float:
    """Evaluations that count as a multiple of n: libraries add a few to what is asked for."""
    return 1.02 * multiple * n + 2


def network(name: str, count: int, out: Path, data: Path | None) -> Problem:
    """A network, held-out inputs and their true values."""
    if name in BUILDERS:
        files = DataFolder(data, out / "downloads", False)
        return BUILDERS[name](Settings(files=files, cache=out, inputs=count, progress=False))
    case = architectures.CASES[name]
    model = architectures.trained(name, case, out)
    inputs, _ = architectures.drawn(case, count, 40_000)
    with torch.no_grad():
        x = architectures.embedded(model, inputs).detach()
        targets = model(x).argmax(1)
    players = dasp.players.grid(2, 2) if case.task is None else dasp.players.tokens()
    labels = players.build([tuple(x.shape[1:])]).labels[0]
    exact = dasp.Explainer(model, 0.0, method=dasp.Exact(), players=labels)(x, targets).per_player[:, 0].double().numpy()
    title = f"{name}, {exact.shape[1]} players"
    return Problem(name, title, model, x, targets, labels, exact, np.zeros(count), "")  # type: ignore[arg-type]


def small(problem: Problem) -> Iterator[list[Method]]:
    """Families of up to 64 players, each from its smallest budget to its largest."""
    ours, n = Ours(problem), problem.count
    budgets = [k * n for k in MULTIPLES]
    prior = dasp.Propagation()
    first = ours.default().run()  # captures the network, which is not what is compared
    yield [ours.default()]
    family = "dasp.Propagation, no exact ends"
    yield [ours.method(family, f"no exact ends, {k} nodes", dasp.Propagation(rule="legendre", nodes=k)) for k in (1, 2, 4, 6)]
    mixtures = [h for h in (2, 4, 6, 8) if n <= 32]
    yield [ours.method("dasp.Propagation, mixture", f"mixture={h}", dasp.Propagation(mixture=h)) for h in mixtures]
    few = dasp.Propagation(mixture=2, rule="lobatto", nodes=3)
    yield [ours.method("dasp.Propagation, mixture, 3 nodes", "mixture=2, 3 nodes", few) for _ in mixtures[:1]]
    family = "dasp.Propagation, mixture, no exact ends"
    for h in (1, 2, 3) if n <= 32 else ():
        few = dasp.Propagation(mixture=h, rule="legendre", nodes=2)
        yield [ours.method(family, f"mixture={h}, no exact ends, 2 nodes", few)]
    if n > ENUMERABLE:
        yield [ours.method("dasp.Propagation, full rank", "full rank", dasp.Propagation(rank="full", condition=False))]
    fits = [max(2 * n + 2, b) for b in budgets if b <= LONGEST_FIT]
    yield [ours.method("dasp.Regression", f"budget={b}", dasp.Regression(budget=b)) for b in fits]
    family = "dasp.Regression, prior"
    yield [ours.method(family, f"prior, budget={b}", dasp.Regression(budget=b, prior=prior)) for b in fits]
    family = "dasp.Regression, prior and relevance"
    left = [b - math.ceil(first.evaluations + first.propagations) for b in fits]  # the others are the prior's
    learnt = [dasp.Regression(budget=b, prior=prior, relevance=True) for b in left if b >= 2 * n + 2]
    yield [ours.method(family, f"prior, relevance, budget={one.budget}", one) for one in learnt]
    if n <= 32:
        strong, family = dasp.Propagation(mixture=6), "dasp.Regression, prior of mixture 6"
        yield [ours.method(family, f"{family}, budget={b}", dasp.Regression(budget=b, prior=strong)) for b in fits]
        quick = dasp.Propagation(mixture=4, rule="legendre", nodes=2)
        family = "dasp.Regression, prior of mixture 4, no exact ends"
        rest = [b - 34 for b in fits if b > 2 * n + 36]  # 34 passes are the prior's
        yield [ours.method(family, f"{family}, budget={b}", dasp.Regression(budget=b, prior=quick)) for b in rest]
    tolerances, family = (0.3, 0.1, 0.05, 0.02), "dasp.Refine"
    yield [ours.method(family, f"tolerance={t}", dasp.Refine(tolerance=t, budget=256 * n)) for t in tolerances]
    yield from _sampled(ours)
    for order in (2, 3) if n <= 32 else ():
        yield [shapiq_methods.additive(order, b).on(problem) for b in budgets if b > 6 * n]
    yield from _peers(problem)


def large(problem: Problem) -> Iterator[list[Method]]:
    """Families of hundreds of players.

    Beyond 64 n gradients have nothing left but their bias, and permutations are far behind the regression. Of shapiq's
    KernelSHAP only even sizes are tried, which are nearer on both networks at every budget (`dasp reproduce`).
    """
    ours, n = Ours(problem), problem.count
    some = [k for k in MULTIPLES if k <= 64]
    ours.default().run()  # captures the network
    yield [ours.default()]
    plain: dict[str, Any] = {"rule": "legendre", "condition": False}
    yield [ours.propagation("rank 0", f"{k} nodes", rank=0, nodes=k, **plain) for k in (4, 8, 16)]
    yield [ours.propagation("rank 16", f"{k} nodes", rank=16, nodes=k, **plain) for k in (16,)]
    yield [ours.propagation("full rank", f"{k} nodes", rank="full", nodes=k, **plain) for k in (8, 16)]
    name = "full rank, conditioned"
    yield [ours.propagation(name, f"{k} nodes", rank="full", nodes=k, rule="legendre") for k in (4, 8, 16)]
    # The more players, the later a sample knows better than a good prior.
    fits = [k * n for k in MULTIPLES if k >= (4 if n <= 256 else 128)]
    yield [ours.method("dasp.Regression", f"budget={b}", dasp.Regression(budget=b)) for b in fits[::3]]
    family, prior = "dasp.Regression, prior of full rank", dasp.Propagation(rank="full", nodes=16)
    yield [ours.method(family, f"prior of full rank, budget={b}", dasp.Regression(budget=b, prior=prior)) for b in fits]
    if n <= 256:
        family, prior = "dasp.Regression, prior of rank 16", dasp.Propagation(rank=16, nodes=16)
        rest = [b - 144 for b in fits]  # 64 gradients and 16 passes are the prior's
        yield [ours.method(family, f"prior of rank 16, budget={b}", dasp.Regression(budget=b, prior=prior)) for b in rest]
    family, prior = "dasp.Regression, prior of full rank, windows", dasp.Propagation(rank="full", nodes=16)
    least = [b for b in fits if b >= 8 * n]  # fewer hardly pay for finding the windows
    taken = [dasp.Regression(budget=b, prior=prior, windows=True) for b in least]
    yield [ours.method(family, f"prior of full rank, windows, budget={one.budget}", one) for one in taken]
    yield from _sampled(ours, some)
    yield from _peers(problem)
    yield [captum_methods.deep_lift().on(problem)]
    yield [captum_methods.integrated_gradients(steps).on(problem) for steps in (16, 64)]


def _sampled(ours: Ours, multiples: Sequence[int] = MULTIPLES) -> Iterator[list[Method]]:
    """Gradients, of which two more are taken at the ends, and permutations."""
    n = ours.problem.count
    samples = [max(4, k * n // 4 * 2 - 2) for k in multiples]
    yield [ours.method("dasp.VertexGradients", f"samples={s}", dasp.VertexGradients(samples=s)) for s in samples]
    yield [ours.permutations(max(2, k * n // (n - 1) // 2 * 2)) for k in multiples]


def _peers(problem: Problem) -> Iterator[list[Method]]:
    """What captum, shap and shapiq have for any number of players."""
    n = problem.count
    budgets = [k * n for k in MULTIPLES]
    for evenly in (False,) if n <= 32 else (True,) if n > LARGE else (False, True):
        yield [shapiq_methods.kernel(b, evenly=evenly).on(problem) for b in budgets]
    walk = 2 * n + 1
    yield [shap_methods.permutation(int(within(k, n) // walk) * walk).on(problem) for k in MULTIPLES]
    yield [shap_methods.kernel(b).on(problem) for b in budgets]
    yield [captum_methods.sampling(max(1, b // n)).on(problem) for b in budgets]


def measured(problem: Problem) -> Iterator[Point]:
    """Every method that does not take too long, its mean relative error over the inputs, and its cost an input."""
    truth, many = problem.truth, problem.count > LARGE
    for family in (large if many else small)(problem):
        for method in family:
            start = time.process_time()
            try:
                outcome = method.run()
            except (Unsupported, dasp.DaspError, ValueError) as reason:
                print(f"  {method.label}: {str(reason)[:100]}", flush=True)
                continue
            seconds = (time.process_time() - start) / len(truth)
            error = float((np.linalg.norm(outcome.values - truth, axis=1) / np.linalg.norm(truth, axis=1)).mean())
            ours = method.family.startswith("dasp.")
            cost = outcome.evaluations, outcome.propagations, seconds
            yield Point(problem.name, method.family, method.label, ours, error, *cost)
            if seconds > (MOST_SECONDS_LARGE if many else MOST_SECONDS):
                break


def heading(problem: Problem) -> str:
    """What stands above a table; how many inputs and how well they are known, where the truth is sampled."""
    if not problem.truth_error.any():
        return problem.title
    known = f"true values known to {problem.truth_error.max():.2%}"
    return f"{problem.title}, {len(problem.truth)} inputs, {known}"


def best(points: list[Point], cost: Callable[[Point], float], limit: float, *, ours: bool) -> Point | None:
    """The least error within a cost."""
    within = [p for p in points if p.ours == ours and cost(p) <= limit]
    return min(within, key=lambda p: p.error, default=None)


def tables(points: list[Point], titles: dict[str, str], players: dict[str, int]) -> str:
    """For every network: the best of ours and of the others within each budget, in evaluations and in time."""
    lines = []
    for name, title in titles.items():
        own = [p for p in points if p.network == name]
        lines += [f"**{title}**", "", "| within | best of dasp | error | best of the others | error | ratio |"]
        lines += ["| --- | --- | ---: | --- | ---: | ---: |"]
        n = players[name]
        for k in MULTIPLES:
            lines.append(_line(f"{k}n = {k * n:,} passes", own, lambda p: p.passes, within(k, n)))
        slowest = max(p.seconds for p in own)
        limit = 1e-3
        while limit < 2 * slowest:
            lines.append(_line(f"{1e3 * limit:g} ms", own, lambda p: p.seconds, limit))
            limit *= 4
        lines.append("")
    return "\n".join(lines)


def merged(page: str, fresh: str) -> str:
    """The page with the networks of `fresh` measured anew; what it says of others stays."""
    parts = [re.split(r"^(?=\*\*)", text, flags=re.M) for text in (architectures.marked(page, "frontier"), fresh)]
    old, new = ({part.partition(" players")[0]: part.strip() for part in some if part.strip()} for some in parts)
    return architectures.between_marks(page, "frontier", "\n\n".join((old | new).values()) + "\n")


def _line(label: str, points: list[Point], cost: Callable[[Point], float], limit: float) -> str:
    mine, other = (best(points, cost, limit, ours=ours) for ours in (True, False))
    cells = [f"{p.label} | {p.error:.4f}" if p else "none | " for p in (mine, other)]
    ratio = f"{mine.error / other.error:.2f}" if mine and other else ""
    return f"| {label} | {cells[0]} | {cells[1]} | {ratio} |"


def picture(points: list[Point], titles: dict[str, str], path: Path) -> None:
    """Error against evaluations, above, and against time, below: one column for each network."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    titles = {name: titles[name] for name in DRAWN if name in titles} or titles
    families = list(dict.fromkeys(p.family for p in points))
    colours = {f: plt.get_cmap("tab20")(i % 20) for i, f in enumerate(families)}
    figure, axes = plt.subplots(2, len(titles), figsize=(4.2 * len(titles), 8), squeeze=False, layout="constrained")
    for column, (name, title) in enumerate(titles.items()):
        for row, cost in enumerate((lambda p: max(p.passes, 1.0), lambda p: 1e3 * p.seconds)):
            ax = axes[row, column]
            for family in families:
                own = sorted((cost(p), p.error) for p in points if p.network == name and p.family == family)
                if own:
                    mine = family.startswith("dasp.")
                    ax.plot(*zip(*own, strict=True), "o-" if mine else "s--", color=colours[family], label=family,
                            linewidth=1.8 if mine else 1.0, markersize=4)  # fmt: skip
            ax.set(xscale="log", yscale="log", xlabel=("passes an input", "time an input, ms")[row])
            low = min(p.error for p in points if p.network == name and p.error > 0)
            ax.set_ylim(max(1e-4, 0.7 * low), WORST_DRAWN)
            if not column:
                ax.set_ylabel("relative error")
            if not row:
                ax.set_title(title, fontsize=9)
            ax.grid(alpha=0.3, which="both", linewidth=0.4)
    labels: dict[str, Any] = {}
    for ax in axes.flat:
        labels |= dict(zip(*ax.get_legend_handles_labels()[::-1], strict=True))
    figure.legend(labels.values(), labels.keys(), loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/frontier"))
    parser.add_argument("--inputs", type=int, default=10)
    parser.add_argument("--only", nargs="+", default=None)
    parser.add_argument("--large", action="store_true", help="MNIST and DNA too")
    parser.add_argument("--data", type=Path, default=None, help="the folder of the paper's data; else they are downloaded")
    parser.add_argument("--page", type=Path, help="a page with a place for the tables, marked by comments")
    parser.add_argument("--redraw", action="store_true", help="measure nothing: tables and picture from frontier.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    stored = options.out / "frontier.json"
    options.out.mkdir(parents=True, exist_ok=True)
    names = [] if options.redraw else options.only or ["parkinson", *SMALL, *(("mnist", "dna") if options.large else ())]
    known = json.loads(stored.read_text()) if stored.is_file() else {"titles": {}, "players": {}, "points": []}
    titles, players = known["titles"], known["players"]
    points = [Point(**point) for point in known["points"]]
    for name in names:
        problem = network(name, options.inputs, options.out, options.data)
        titles[name], players[name] = heading(problem), problem.count
        fresh = []
        for point in measured(problem):
            fresh.append(point)
            cost = f"{point.passes:,.0f} passes, {1e3 * point.seconds:.1f} ms"
            print(f"{name}: {point.label}: {point.error:.4f}, {cost}", flush=True)
        points = [p for p in points if p.network != name] + fresh
        found = {"titles": titles, "players": players, "points": [asdict(p) for p in points]}
        write_text(stored, json.dumps(found, indent=1) + "\n")
    text = tables(points, titles, players)
    print(text)
    if options.page is not None:
        write_text(options.page, merged(options.page.read_text(), text))
        picture(points, titles, options.page.parent / "frontier.png")


if __name__ == "__main__":
    main()
