"""Small networks as captum's and shap's users have them, their rows, and Shapley values by the definition."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from matplotlib import pyplot
from sklearn.datasets import load_digits
from torch import Tensor, nn


class Text(nn.Module):
    """A classifier of token ids, as in captum's tutorial on IMDB."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.embedding = nn.Embedding(40, 6)
        self.conv = nn.Conv1d(6, 8, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(0.5)
        self.last = nn.Linear(8, 2)

    def forward(self, ids: Tensor, mask: Tensor | None = None, scale: float = 1.0) -> Any:
        x = self.relu(self.conv(self.embedding(ids).transpose(1, 2)))
        x = x if mask is None else x * mask.unsqueeze(1)
        return scale * self.last(self.dropout(x.amax(2)))


class Digits(nn.Module):
    """A classifier of 8 x 8 digits, with normalisation that training mode would change."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.conv1, self.norm = nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6)
        self.conv2, self.last = nn.Conv2d(6, 8, 3), nn.Linear(8 * 2 * 2, 10)
        self.dropout = nn.Dropout(0.2)

    def forward(self, x: Tensor) -> Any:
        x = torch.relu(self.norm(self.conv1(x)))
        x = torch.max_pool2d(torch.relu(self.conv2(x)), 2)
        return self.last(self.dropout(x.flatten(1)))


class Pair(nn.Module):
    """Two inputs and a further argument."""

    def __init__(self, outputs: int = 3, activation: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.a, self.b, self.last = nn.Linear(3, 8), nn.Linear(2, 8), nn.Linear(8, outputs)
        self.activation = activation or nn.ReLU()

    def forward(self, x: Tensor, y: Tensor, shift: Tensor | float = 0.0) -> Any:
        return self.last(self.activation(self.a(x) + self.b(y) + shift))


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(18, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 3))


def table() -> Tensor:
    return torch.randn(4, 18, generator=torch.Generator().manual_seed(1))


def small() -> nn.Sequential:
    """Six features and three outputs."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 12), nn.ReLU(), nn.Linear(12, 3))


def small_table() -> Tensor:
    return torch.randn(24, 6, generator=torch.Generator().manual_seed(1))


def coloured() -> tuple[nn.Sequential, Tensor]:
    """A network of ten outputs and two images of three channels."""
    torch.manual_seed(2)
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(6 * 3 * 3, 10))
    grey = torch.tensor(load_digits().images[:2] / 16.0, dtype=torch.float32)
    return net, torch.stack([grey, grey.flip(1), grey / 2], 1)


@cache
def digits() -> tuple[Digits, Tensor, Tensor]:
    """A classifier, trained for a moment, three images and their labels."""
    data = load_digits()
    images = torch.tensor(data.images / 16.0, dtype=torch.float32).unsqueeze(1)
    labels = torch.tensor(data.target)
    model = Digits()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for step in range(40):
        some = torch.arange(step * 40, step * 40 + 128) % len(images)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images[some]), labels[some]).backward()
        optimizer.step()
    return model.eval(), images[:3], labels[:3]


def text() -> tuple[Text, Tensor, Tensor]:
    """A classifier, three texts and the reference that stands for absent tokens."""
    ids = torch.randint(1, 40, (3, 6), generator=torch.Generator().manual_seed(2))
    return Text().eval(), ids, torch.zeros_like(ids)


def array(x: Any) -> Any:
    return x.detach().double().numpy()


def saved(path: Path, name: str) -> Any:
    """The current figure, written, so that everything is drawn; its name is for who wants to look."""
    figure = pyplot.gcf()
    figure.savefig(path / f"{name}.png", dpi=60, bbox_inches="tight")
    return figure


def texts(figure: Any) -> str:
    return " ".join(text.get_text() for text in figure.findobj(mpl.text.Text))


def enumerated(value: Callable[[Tensor], Tensor], n: int) -> Tensor:
    """Shapley values (N, n) of value(coalition (n,) bool) -> (N,), by the definition over all orders' prefixes."""
    table = {s: value(torch.tensor(s)).double() for s in itertools.product((False, True), repeat=n)}
    columns = []
    for i in range(n):
        total = torch.zeros_like(next(iter(table.values())))
        for s, before in table.items():
            if not s[i]:
                size = sum(s)
                weight = math.factorial(size) * math.factorial(n - 1 - size) / math.factorial(n)
                total += weight * (table[(*s[:i], True, *s[i + 1 :])] - before)
        columns.append(total)
    return torch.stack(columns, 1)
