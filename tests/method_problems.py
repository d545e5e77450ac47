"""Small real problems that methods are tried on: networks trained for a moment, their truth from all coalitions."""

from __future__ import annotations

import itertools
import math
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from dasp.experiments.problem import Array, Problem


def trained(model: nn.Sequential, inputs: Tensor, outputs: Tensor, steps: int) -> nn.Sequential:
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(steps):
        optimiser.zero_grad()
        nn.functional.mse_loss(model(inputs), outputs).backward()
        optimiser.step()
    return model.eval()


def posed(name: str, model: nn.Sequential, inputs: Tensor, targets: Tensor, players: Tensor | None = None) -> Problem:
    """A problem with its truth: all coalitions, evaluated here, where there are few players."""
    count = inputs[0].numel() if players is None else int(players.max()) + 1
    owner = torch.arange(inputs[0].numel()).view(inputs[0].shape) if players is None else players
    truth = np.zeros((len(inputs), count))
    if count <= 10:
        sets = torch.tensor(list(itertools.product((0.0, 1.0), repeat=count)))
        weight = [1 / (count * math.comb(count - 1, size)) for size in range(count)]
        for row, (entry, target) in enumerate(zip(inputs, targets, strict=True)):
            with torch.no_grad():
                values = model(sets[:, owner] * entry)[:, target].double().numpy()
            for present, value in zip(sets.numpy(), values, strict=True):
                size = int(present.sum())
                inside, outside = weight[size - 1] if size else 0.0, weight[size] if size < count else 0.0
                truth[row] += value * np.where(present == 1, inside, -outside)
    return Problem(name, name, model, inputs, targets, players, truth, np.zeros(len(inputs)), "")


@cache
def dense() -> Problem:
    """Five players, a network trained on products and minima of them."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        x = torch.rand(400, 5) * 2 - 1
        y = x[:, :1] * x[:, 1:2] + torch.minimum(x[:, 2:3], x[:, 3:4]) + 0.5 * x[:, 4:]
        model = nn.Sequential(nn.Linear(5, 24), nn.ReLU(), nn.Dropout(0.2), nn.Linear(24, 12), nn.ReLU(), nn.Linear(12, 1))
        return posed("parkinson", trained(model, x, y, 120), x[:3], torch.zeros(3, dtype=torch.long))


@cache
def letters() -> Problem:
    """Eight players of four channels each, in another order than their places; one of them is always absent."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        x = nn.functional.one_hot(torch.randint(4, (300, 8)), 4).transpose(1, 2).float()  # (N, 4, 8)
        x[:, :, 3] = 0
        found = (x[:, 0, :-1] * x[:, 1, 1:]).sum(1, keepdim=True)  # how often A stands before C
        y = torch.cat((found, x[:, 2].sum(1, keepdim=True), found * x[:, 3, :1]), 1)
        model = nn.Sequential(
            nn.Conv1d(4, 10, 3), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(10, 12), nn.ReLU(),
            nn.Linear(12, 3),
        )  # fmt: skip
        players = torch.tensor([2, 0, 1, 7, 6, 5, 3, 4]).expand(4, 8).contiguous()
        return posed("dna", trained(model, x, y, 150), x[:3], torch.arange(3), players)


@cache
def digits() -> Problem:
    """A small LeNet, 64 players; its baseline is larger than many inputs, so that maxima fall as well as rise."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        x = torch.rand(60, 1, 8, 8) * 2 - 1
        y = nn.functional.one_hot((x[:, 0, :4].mean((1, 2)) > 0).long(), 2).float()
        model = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 10), nn.ReLU(), nn.Linear(10, 2)
        )
        nn.init.ones_(model[0].bias)
        return posed("mnist", trained(model, x, y, 40), x[:2], torch.tensor([1, 0]))


def error(found: Array, truth: Array) -> float:
    return float((np.linalg.norm(found - truth, axis=1) / np.linalg.norm(truth, axis=1)).mean())
