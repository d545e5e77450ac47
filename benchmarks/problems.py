"""The two problems of the benchmarks: a trained network, held-out inputs, a target for each, and the true values."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import data
import networks
import truth

LIKELY_ENOUGH = 0.0145
"""Relative error at which sampling of the MNIST truth stops."""


@dataclass(frozen=True)
class Problem:
    """One network, B inputs (B, *shape), one target output each, and what the right answer is.

    `truth` is (B, n) float64; `truth_error` (B,) is its own relative error. `score` is the network's, on held-out data.
    """

    name: str
    title: str
    model: nn.Sequential
    inputs: Tensor
    targets: Tensor
    truth: np.ndarray
    truth_error: np.ndarray
    score: str

    @property
    def players(self) -> int:
        """Number of input elements."""
        return self.inputs[0].numel()


def parkinson(folder: Path, cache: Path, *, inputs: int = 40) -> Problem:
    """18-128-64-1 on Parkinsons Telemonitoring, exact truth; the explained output is the UPDRS score."""
    split = data.parkinson(folder)
    model = networks.trained_mlp(split, cache)
    rows = split.test_inputs[:inputs]
    exact = truth.exact_truth(model, rows, 0, cache=cache, name="parkinson")
    return Problem(
        "parkinson",
        "Parkinson MLP, 18 players",
        model,
        rows,
        torch.zeros(len(rows), dtype=torch.long),
        exact.values,
        exact.error,
        f"mean absolute error {networks.test_score(model, split):.2f} points",
    )


def mnist(folder: Path, cache: Path, *, inputs: int = 8, tolerance: float = LIKELY_ENOUGH) -> Problem:
    """LeNet on MNIST digits, sampled truth; the explained output is the logit of the predicted digit."""
    split = data.mnist(folder)
    model = networks.trained_lenet(split, cache)
    rows = split.test_inputs[:inputs]
    with torch.no_grad():
        targets = model(rows).argmax(dim=1)
    sampled = truth.sampled_truth(model, rows, targets, cache=cache, name="mnist", tolerance=tolerance)
    return Problem(
        "mnist",
        "MNIST LeNet, 784 players",
        model,
        rows,
        targets,
        sampled.values,
        sampled.error,
        f"accuracy {100 * networks.test_score(model, split):.1f} %",
    )


BUILDERS = {"parkinson": parkinson, "mnist": mnist}
