"""Recurrent networks, transformers and a residual network: error of the propagation against exact enumeration.

    python benchmarks/architectures.py [--out out/architectures] [--inputs 20] [--only NAME ...]

Trains each network once (kept in --out), on tasks that need tokens or patches to interact; explains held-out inputs over 12
tokens, steps or 16 patches against a zero baseline; enumerates all coalitions. Prints a table, writes architectures.json.
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

TOKENS, WORDS, WIDTH = 12, 16, 32
SETTINGS: dict[str, dasp.Estimator] = {
    "default": dasp.Propagation(),
    "not conditioned": dasp.Propagation(condition=False),
    "mixture 1": dasp.Propagation(mixture=1),
    "mixture 2": dasp.Propagation(mixture=2),
    "diagonal": dasp.Propagation(rank=0),
    "64 permutations": dasp.PermutationSampling(permutations=64),
}


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
    rows["Integrated Gradients"] = {"errors": errors(integrated(model, x, targets, players), exact).tolist()}
    return {"accuracy": accuracy, "rows": rows}


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
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    found = {}
    labels = [*SETTINGS, "Integrated Gradients"]
    print("| network | accuracy | " + " | ".join(labels) + " |\n| --- | ---: |" + " ---: |" * len(labels))
    for name in options.only:
        found[name] = measured(name, CASES[name], options.inputs, options.out)
        means = [torch.tensor(found[name]["rows"][label]["errors"]).mean() for label in labels]
        print(f"| {name} | {found[name]['accuracy']:.3f} | " + " | ".join(f"{mean:.3f}" for mean in means) + " |", flush=True)
    write_text(options.out / "architectures.json", json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
