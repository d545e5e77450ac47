"""Recurrent networks, transformers and a residual network: error of the propagation against exact enumeration, and its cost.

    python benchmarks/architectures.py [--out out/architectures] [--inputs 20] [--only NAME ...] [--page docs/architectures.md]

Trains each network once (kept in --out), on tasks that need tokens or patches to interact; explains held-out inputs over 12
tokens, steps or 16 patches against a zero baseline; enumerates all coalitions. Prints two tables, writes architectures.json,
and puts the tables into a page that has a place for them.

"Gaussian inputs" are the Gaussian idea without any rule: with the exact ends and the nodes of Lobatto's rule, the mean output
over inputs that are Gaussian with the mean and variance of random coalitions is differentiated by sampling; the error is found
from two independent halves, so that noise adds nothing to it. What "as Gaussian inputs" lacks to it is the rules' share.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dasp
from dasp.experiments.files import replace_file, write_text
from dasp.special import lobatto

TOKENS, WORDS, WIDTH = 12, 16, 32
LOBATTO: dict[str, Any] = {"nodes": 5, "rule": "lobatto", "mixture": 0}
SETTINGS: dict[str, dasp.Estimator] = {
    "default": dasp.Propagation(),
    "default, not conditioned": dasp.Propagation(condition=False),
    "mixture 2": dasp.Propagation(mixture=2),
    "nobody enumerated": dasp.Propagation(**LOBATTO),
    "as Gaussian inputs": dasp.Propagation(**LOBATTO, condition=False),
    "diagonal": dasp.Propagation(rank=0),
    "12 permutations": dasp.PermutationSampling(permutations=12),
    "64 permutations": dasp.PermutationSampling(permutations=64),
}
GAUSSIAN, INTEGRATED = "Gaussian inputs", "Integrated Gradients"
BATCH = 32
REPEATS = 5


def order(ids: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Whether a 0 stands before a 1."""
    rows = torch.arange(len(ids))
    ids[rows, torch.randint(0, TOKENS, (len(ids),), generator=generator)] = 0
    ids[rows, torch.randint(0, TOKENS, (len(ids),), generator=generator)] = 1
    places = torch.arange(TOKENS)
    first = torch.where(ids == 0, places, TOKENS).amin(1)
    return ids, (first < torch.where(ids == 1, places, -1).amax(1)).long()


def lookup(ids: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Whether the token after the marker 0 is of the upper half."""
    rows, at = torch.arange(len(ids)), torch.randint(0, TOKENS - 1, (len(ids),), generator=generator)
    ids[rows, at] = 0
    return ids, (ids[rows, at + 1] > WORDS // 2).long()


def balance(ids: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Whether tokens of the upper half outweigh those of the lower; a 0 anywhere turns the answer round."""
    turned = torch.rand(len(ids), generator=generator) < 0.5
    at = torch.randint(0, TOKENS, (len(ids),), generator=generator)
    ids[torch.arange(len(ids))[turned], at[turned]] = 0
    weight = torch.where(ids > WORDS // 2, 1, -1) * (ids != 0)
    return ids, ((weight.sum(1) > 0) ^ turned).long()


class Encoder(nn.Module):
    """A transformer encoder of two layers over embedded tokens, averaged."""

    def __init__(self, *, norm_first: bool, activation: str) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, WIDTH)
        self.position = nn.Parameter(torch.randn(TOKENS, WIDTH) / 2)
        layer = nn.TransformerEncoderLayer(
            WIDTH, 4, 2 * WIDTH, dropout=0.0, batch_first=True, norm_first=norm_first, activation=activation
        )
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, 2)

    def forward(self, x: Tensor) -> Any:
        """Logits of embedded tokens (rows, tokens, width)."""
        return self.head(self.layers(x + self.position).mean(1))


class Recurrent(nn.Module):
    """An LSTM or GRU over embedded tokens, read at its last step."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, WIDTH // 2)
        self.layers = kind(WIDTH // 2, WIDTH, batch_first=True)
        self.head = nn.Linear(WIDTH, 2)

    def forward(self, x: Tensor) -> Any:
        """Logits of embedded tokens (rows, tokens, width)."""
        return self.head(self.layers(x)[0][:, -1])


class Block(nn.Module):
    """Two convolutions with batch norm around which the input goes."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Any:
        """The same shape."""
        return torch.relu(x + self.inner(x))


def residual() -> nn.Sequential:
    """A small ResNet for the 8 x 8 digits."""
    return nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), Block(12), nn.MaxPool2d(2), Block(12),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 10),
    )  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A network and the task it learns; `task` None stands for the digits."""

    build: Callable[[], nn.Module]
    task: Callable[[Tensor, torch.Generator], tuple[Tensor, Tensor]] | None
    steps: int


CASES = {
    "transformer, post-norm, ReLU: order": Case(lambda: Encoder(norm_first=False, activation="relu"), order, 1500),
    "transformer, pre-norm, GELU: lookup": Case(lambda: Encoder(norm_first=True, activation="gelu"), lookup, 1500),
    "transformer, post-norm, GELU: balance": Case(lambda: Encoder(norm_first=False, activation="gelu"), balance, 3000),
    "LSTM: order": Case(lambda: Recurrent(nn.LSTM), order, 1500),
    "LSTM: balance": Case(lambda: Recurrent(nn.LSTM), balance, 3000),
    "GRU: lookup": Case(lambda: Recurrent(nn.GRU), lookup, 1500),
    "ResNet: digits, 16 patches": Case(residual, None, 1500),
}


def drawn(case: Case, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Inputs of the embedding, or images, and labels; seeds from 10,000 on are held out."""
    generator = torch.Generator().manual_seed(seed)
    if case.task is not None:
        return case.task(torch.randint(2, WORDS, (count, TOKENS), generator=generator), generator)
    from sklearn.datasets import load_digits

    digits = load_digits()
    images, labels = torch.tensor(digits.images / 16).float().unsqueeze(1), torch.tensor(digits.target)
    half = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    pool = half[1400:] if seed >= 10_000 else half[:1400]
    chosen = pool[torch.randint(0, len(pool), (count,), generator=generator)]
    return images[chosen], labels[chosen].long()


def embedded(model: nn.Module, inputs: Tensor) -> Tensor:
    """Token ids as the network takes them."""
    embedding = getattr(model, "embedding", None)
    return inputs if embedding is None else embedding(inputs)


def trained(name: str, case: Case, out: Path) -> nn.Module:
    """The network of a case, trained or read."""
    torch.manual_seed(0)
    model = case.build()
    path = out / f"{''.join(c if c.isalnum() else '-' for c in name)}-{case.steps}.pt"
    if path.is_file():
        model.load_state_dict(torch.load(path, weights_only=True))
        return model.eval()
    optimiser = torch.optim.Adam(model.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=case.steps)
    for step in range(case.steps):
        inputs, labels = drawn(case, 128, step)
        optimiser.zero_grad()
        F.cross_entropy(model(embedded(model, inputs)), labels).backward()
        optimiser.step()
        schedule.step()
    replace_file(path, lambda part: torch.save(model.state_dict(), part))
    return model.eval()


def errors(found: Tensor, truth: Tensor) -> Tensor:
    """Relative error of each row."""
    return (found - truth).norm(dim=1) / truth.norm(dim=1)


def measured(name: str, case: Case, count: int, out: Path) -> dict[str, Any]:
    """Accuracy, and errors by setting."""
    model = trained(name, case, out)
    with torch.no_grad():
        inputs, labels = drawn(case, 1000, 10_000)
        accuracy = float((model(embedded(model, inputs)).argmax(1) == labels).float().mean())
        inputs, _ = drawn(case, count, 20_000)
        x = embedded(model, inputs).detach()
        targets = model(x).argmax(1)
    players = dasp.players.grid(2, 2) if case.task is None else dasp.players.tokens()
    exact = dasp.Explainer(model, 0.0, method=dasp.Exact(), players=players)(x, targets).per_player[:, 0].double()
    rows: dict[str, Any] = {}
    for label, method in SETTINGS.items():
        explainer = dasp.Explainer(model, 0.0, method=method, players=players)
        explainer(x[:1], targets[:1])
        start = time.perf_counter()
        result = explainer(x, targets)
        seconds = (time.perf_counter() - start) / len(x)
        rows[label] = {"errors": errors(result.per_player[:, 0].double(), exact).tolist(), "seconds": seconds}
    rows[INTEGRATED] = {"errors": errors(integrated(model, x, targets, players), exact).tolist()}
    halves = [gaussian_inputs(model, x, targets, players, seed) - exact for seed in (0, 1)]
    squares = (halves[0] * halves[1]).sum(1).clamp(min=0)
    rows[GAUSSIAN] = {"errors": (squares.sqrt() / exact.norm(dim=1)).tolist()}
    inputs, _ = drawn(case, BATCH, 30_000)
    return {"accuracy": accuracy, "rows": rows, "forwards": forwards(model, embedded(model, inputs).detach(), players)}


def forwards(model: nn.Module, x: Tensor, players: Any) -> float:
    """Time of the default, in plain forward passes of the same batch: the median of pairs."""
    with torch.no_grad():
        targets = model(x).argmax(1)
    explainer = dasp.Explainer(model, 0.0, players=players)
    explainer(x, targets)
    ratios = []
    for _ in range(REPEATS):
        with torch.no_grad():
            start = time.perf_counter()
            for _ in range(20):
                model(x)
            plain = (time.perf_counter() - start) / 20
        start = time.perf_counter()
        explainer(x, targets)
        ratios.append((time.perf_counter() - start) / plain)
    return float(torch.tensor(ratios).median())


def gaussian_inputs(model: nn.Module, x: Tensor, targets: Tensor, players: Any, seed: int, samples: int = 2000) -> Tensor:
    """Values from Gaussian inputs, without rules, (B, players): `E d/dq f(b + z (x - b))`, `z = q + sqrt(q (1 - q)) e`."""
    quadrature = lobatto(LOBATTO["nodes"])
    ends = dasp.Explainer(model, 0.0, method=dasp.Propagation(nodes=2, rule="lobatto", mixture=0), players=players)
    total = 2 * quadrature.weights[0] * ends(x, targets).per_player[:, 0].double()
    labels = players.build([tuple(x.shape[1:])]).labels[0]
    count = int(labels.max()) + 1
    generator = torch.Generator().manual_seed(seed)
    for row, target in enumerate(targets.tolist()):
        for node, weight in zip(quadrature.nodes[1:-1], quadrature.weights[1:-1], strict=True):
            for size in [500] * (samples // 500):
                q = torch.full((count,), node, requires_grad=True)
                noise = torch.randn(size // 2, count, generator=generator)
                present = q + (q * (1 - q)).sqrt() * torch.cat((noise, -noise))
                value = model(present[:, labels] * x[row])[:, target].mean()
                (slope,) = torch.autograd.grad(value, q)
                total[row] += weight * slope.double() * size / samples
    return total


def integrated(model: nn.Module, x: Tensor, targets: Tensor, players: Any) -> Tensor:
    """captum's Integrated Gradients, 64 steps, summed over each player's elements."""
    from captum.attr import IntegratedGradients

    values = IntegratedGradients(model).attribute(x, 0 * x, target=targets, n_steps=64).detach().double()
    labels = players.build([tuple(x.shape[1:])]).labels[0].flatten()
    return torch.zeros(len(x), int(labels.max()) + 1).double().index_add(1, labels, values.flatten(1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/architectures"))
    parser.add_argument("--inputs", type=int, default=20)
    parser.add_argument("--only", nargs="+", choices=tuple(CASES), default=tuple(CASES))
    parser.add_argument("--page", type=Path, help="a page with a place for the table, marked by comments")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    found = {}
    for name in options.only:
        found[name] = measured(name, CASES[name], options.inputs, options.out)
        print(f"{name}: {mean_and_median(found[name]['rows']['default'])}", flush=True)
    write_text(options.out / "architectures.json", json.dumps(found, indent=1) + "\n")
    text = table(found)
    print(text)
    if options.page is not None:
        write_text(options.page, between_marks(options.page.read_text(), "architectures", text))


def mean_and_median(row: dict[str, Any]) -> str:
    """Both, as errors of a row."""
    values = torch.tensor(row["errors"])
    return f"{values.mean():.3f} ({values.median():.3f})"


def table(found: dict[str, Any]) -> str:
    """Errors by network and setting, and what an explanation costs."""
    labels = [*SETTINGS, GAUSSIAN, INTEGRATED]
    lines = ["| error, mean (median) | " + " | ".join(found) + " |", "| --- |" + " ---: |" * len(found)]
    for label in labels:
        lines.append(f"| {label} | " + " | ".join(mean_and_median(one["rows"][label]) for one in found.values()) + " |")
    lines.append("| accuracy of the network | " + " | ".join(f"{one['accuracy']:.3f}" for one in found.values()) + " |")
    times = [1e3 * one["rows"]["default"]["seconds"] for one in found.values()]
    lines.append("| default, ms an input | " + " | ".join(f"{time:.1f}" for time in times) + " |")
    costs = [f"{one['forwards']:.0f}" for one in found.values()]
    lines.append(f"| default, forwards of a batch of {BATCH} | " + " | ".join(costs) + " |")
    return "\n".join(lines)


def marked(page: str, name: str) -> str:
    """The text in the place that comments mark."""
    return page.split(f"<!-- {name}:start -->")[1].split(f"<!-- {name}:end -->")[0]


def between_marks(page: str, name: str, text: str) -> str:
    """The page with a text in the place that comments mark."""
    start, end = f"<!-- {name}:start -->", f"<!-- {name}:end -->"
    head, rest = page.split(start)
    return f"{head}{start}\n{text}\n{end}{rest.split(end)[1]}"


if __name__ == "__main__":
    main()
