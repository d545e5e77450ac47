"""Backgrounds in place of a baseline: how near, and how fast, on three networks with 100 rows of data as their background.

    python benchmarks/background.py [--data FOLDER] [--rows 100] [--inputs 10] [--only NAME] [--out out/background]

An MLP on Parkinsons Telemonitoring (18 players), one on breast cancer (30) and one on 8 x 8 digits (64; sklearn has both
data sets), trained here. True values: all coalitions of Parkinson, with every row of the background; two independent samples of
the others, whose products with what is left over give errors without the error of the samples. Prints a Markdown table of the
mean relative error and the time an input, all inputs in one batch, and writes it to background.md under --out.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shap
import torch
from sklearn.datasets import load_breast_cancer, load_digits
from torch import Tensor, nn

import dasp
from dasp.experiments import networks
from dasp.experiments.data import Split
from dasp.experiments.files import DataFolder, fingerprint, write_text
from dasp.experiments.problems import Settings, parkinson_network

PATH_NODES = 64
TRUTH = {"breast cancer": 40_000, "digits": 20_000}
"""Permutations of each of the two samples that stand for the truth."""
METHODS: dict[str, dasp.Estimator] = {
    "`Propagation()`, the default: 8 clusters": dasp.Propagation(),
    "`Propagation(clusters=1)`": dasp.Propagation(clusters=1),
    "`Propagation(clusters=16)`": dasp.Propagation(clusters=16),
    "`Propagation(clusters=32, mixture=1)`": dasp.Propagation(clusters=32, mixture=1),
    "`Propagation(clusters=100)`, every row": dasp.Propagation(clusters=100),
    "`Propagation(rank=0)`, diagonal": dasp.Propagation(rank=0),
    "`PermutationSampling(permutations=200)`": dasp.PermutationSampling(permutations=200),
}


@dataclass(frozen=True, eq=False)
class Problem:
    """A network, rows to explain (B, n) with one output each, a background (J, n), and the truth."""

    name: str
    model: nn.Sequential
    inputs: Tensor
    targets: Tensor
    background: Tensor
    truths: tuple[Tensor, Tensor]  # (B, n) twice: independent estimates, or the same exact values

    def error(self, values: Tensor) -> float:
        """Mean relative error of values (B, n), free of the error of sampled truth."""
        one, two = (truth.double() for truth in self.truths)
        values = values.double()
        square = ((values - one) * (values - two)).sum(1) / (one * two).sum(1)
        return float(square.clamp(min=0).sqrt().mean())

    def rank(self, values: Tensor) -> float:
        """Mean rank correlation with the truth."""
        truth = sum(self.truths)
        first, second = (part.double().argsort(1).argsort(1).double() for part in (values, torch.as_tensor(truth)))
        centred = first - first.mean(1, keepdim=True), second - second.mean(1, keepdim=True)
        scale = centred[0].norm(dim=1) * centred[1].norm(dim=1)
        return float(((centred[0] * centred[1]).sum(1) / scale).mean())


def tabular(name: str, data: object, hidden: int, settings: Settings) -> tuple[nn.Sequential, Split]:
    """A network of two hidden layers on one of sklearn's data sets, elements scaled to mean 0 and deviation 1 at most."""
    inputs = torch.tensor(np.asarray(data.data), dtype=torch.float32)  # type: ignore[attr-defined]
    labels = torch.tensor(np.asarray(data.target), dtype=torch.long)  # type: ignore[attr-defined]
    inputs = (inputs - inputs.mean(0)) / inputs.std(0).clamp(min=1)
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0))
    train, test = order[: int(0.8 * len(order))], order[int(0.8 * len(order)) :]
    split = Split(inputs[train], labels[train], inputs[test], labels[test])
    classes = int(labels.max()) + 1

    def build() -> nn.Sequential:
        size = inputs.shape[1]
        return nn.Sequential(
            nn.Linear(size, hidden), nn.ReLU(), nn.Linear(hidden, hidden // 2), nn.ReLU(), nn.Linear(hidden // 2, classes)
        )

    model = networks.trained(
        build, split, nn.CrossEntropyLoss(), name=name.replace(" ", "-"), epochs=60, cache=settings.cache, progress=False
    )
    return model, split


def problem(name: str, settings: Settings, rows: int, inputs: int) -> Problem:
    """One of the three, with its truth from the cache or made now."""
    if name == "Parkinson":
        network = parkinson_network(settings)
        model, split = network.model, network.split
    else:
        load, hidden = (load_breast_cancer, 64) if name == "breast cancer" else (load_digits, 128)
        model, split = tabular(name, load(), hidden, settings)
    order = torch.randperm(len(split.train_inputs), generator=torch.Generator().manual_seed(1))
    background, x = split.train_inputs[order[:rows]], split.test_inputs[:inputs]
    with torch.no_grad():
        targets = model(x).argmax(1)
    one, two = (truth(name, model, x, targets, background, settings.cache, seed) for seed in (11, 12))
    return Problem(name, model, x, targets, background, (one, two))


def truth(
    name: str, model: nn.Module, x: Tensor, targets: Tensor, background: Tensor, cache: Path, seed: int
) -> Tensor:
    """True values (B, n), exact for Parkinson, else sampled from a seed."""
    method: dasp.Estimator = dasp.Exact()
    if name in TRUTH:
        method = dasp.PermutationSampling(permutations=TRUTH[name], seed=seed)
    weights = torch.cat([w.detach().flatten() for w in model.parameters()])
    key = fingerprint(x, background, weights, torch.tensor([TRUTH.get(name, 0), seed if name in TRUTH else 0]))
    path = cache / f"background-{name.replace(' ', '-')}-{key}.pt"
    if not path.is_file():
        values = dasp.Explainer(model, background, method=method)(x, targets, progress=True).values
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(values, path)
    found: Tensor = torch.load(path, weights_only=True)
    return found


def expected_gradients(problem: Problem) -> Tensor:
    """Integrated Gradients from every row of the background, and their mean (Erion et al. 2021, without its sampling)."""
    places, weights = np.polynomial.legendre.leggauss(PATH_NODES)
    places = torch.tensor((places + 1) / 2, dtype=torch.float32)
    weights = torch.tensor(weights / 2, dtype=torch.float32)
    found = []
    for x, target in zip(problem.inputs, problem.targets, strict=True):
        step = x - problem.background  # (J, n)
        points = (problem.background + places[:, None, None] * step).requires_grad_()
        outputs = problem.model(points.flatten(0, 1))[:, target]
        (slope,) = torch.autograd.grad(outputs.sum(), points)
        found.append((torch.einsum("k,kjn->jn", weights, slope) * step).mean(0))
    return torch.stack(found)


def permutation_explainer(problem: Problem, permutations: int) -> Tensor:
    """shap's PermutationExplainer: permutations, each with its reverse, every coalition with all rows of the background."""
    targets = problem.targets.unique().tolist()
    found = torch.zeros_like(problem.inputs)
    for target in targets:

        def outputs(rows: np.ndarray, target: int = target) -> np.ndarray:
            with torch.inference_mode():
                return problem.model(torch.from_numpy(rows).float())[:, target].numpy()

        masker = shap.maskers.Independent(problem.background.numpy(), max_samples=len(problem.background))
        explainer = shap.PermutationExplainer(outputs, masker, seed=0)
        mine = problem.targets == target
        count = permutations * (2 * problem.inputs.shape[1] + 1)
        values = explainer(problem.inputs[mine].numpy(), max_evals=count, silent=True).values
        found[mine] = torch.from_numpy(np.asarray(values)).float()
    return found


def timed(run: Callable[[], Tensor], inputs: int, repeats: int = 3) -> tuple[Tensor, float]:
    """What a call gives, and its shortest time an input, in ms."""
    best, values = float("inf"), run()
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return values, 1e3 * best / inputs


@dataclass(frozen=True)
class Line:
    """What one method gave on one problem."""

    error: float
    rank: float
    ms: float


def measured(problem: Problem) -> dict[str, Line]:
    """All methods on one problem."""
    lines: dict[str, Line] = {}

    def line(name: str, run: Callable[[], Tensor], repeats: int = 3) -> None:
        values, ms = timed(run, len(problem.inputs), repeats)
        lines[name] = Line(problem.error(values), problem.rank(values), ms)
        print(problem.name, name, lines[name], flush=True)

    def ours(method: dasp.Estimator, baseline: Tensor) -> Callable[[], Tensor]:
        explainer = dasp.Explainer(problem.model, baseline, method=method)
        return lambda: torch.as_tensor(explainer(problem.inputs, problem.targets).values)

    for name, method in METHODS.items():
        line(name, ours(method, problem.background))
    line("`Propagation()` from the mean row", ours(dasp.Propagation(), problem.background.mean(0)))
    line("expected gradients, all rows", lambda: expected_gradients(problem))
    for count in (1, 2, 4):
        name = f"shap PermutationExplainer, {2 * count} permutations"
        line(name, lambda c=count: permutation_explainer(problem, c), 1)  # type: ignore[misc]
    return lines


def table(found: dict[str, dict[str, Line]]) -> str:
    """A Markdown table: methods down, problems across."""
    titles = {"Parkinson": "Parkinson, 18", "breast cancer": "breast cancer, 30", "digits": "digits, 64"}
    lines = ["| method | " + " | ".join(titles[name] for name in found) + " |"]
    lines.append("| --- |" + " ---: |" * len(found))
    for method in next(iter(found.values())):
        each = [found[name][method] for name in found]
        cells = [f"{one.error:.3f}, {one.ms:.1f} ms" if one.ms < 10 else f"{one.error:.3f}, {one.ms:.0f} ms" for one in each]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    lines += ["", "Rank correlations: " + "; ".join(
        f"{method} " + ", ".join(f"{found[name][method].rank:.3f}" for name in found)
        for method in next(iter(found.values()))
    ) + "."]  # fmt: skip
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder with the data; default: DASP_DATA, else downloaded")
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--inputs", type=int, default=10)
    parser.add_argument("--only", choices=("Parkinson", "breast cancer", "digits"))
    parser.add_argument("--out", type=Path, default=Path("out/background"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    cache = options.out / "cache"
    settings = Settings(files=DataFolder.find(options.data, cache / "data"), cache=cache)
    names = [options.only] if options.only else ["Parkinson", "breast cancer", "digits"]
    text = table({name: measured(problem(name, settings, options.rows, options.inputs)) for name in names})
    print(text)
    write_text(options.out / "background.md", text + "\n")


if __name__ == "__main__":
    main()
