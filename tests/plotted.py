"""Attributions and interactions for the tests of plots, of networks whose values can be read off."""

from __future__ import annotations

import dataclasses

import torch

import dasp

NAMES = ("age", "dose", "weight", "height")
WEIGHTS = torch.tensor([1.0, -2.0, 0.5, 0.0])
ROWS = torch.tensor([[1.0, 2.0, 4.0, 3.0], [3.0, 1.0, -2.0, 1.0], [2.0, 0.0, 2.0, 5.0]])


class Weighted(torch.nn.Module):
    """Sums of all elements with weights (T, ...), and 10: values are weight times input, whatever the players."""

    def __init__(self, weights: torch.Tensor) -> None:
        super().__init__()
        self.weights = torch.nn.Parameter(weights)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x.unsqueeze(1) * self.weights).flatten(2).sum(2) + 10


def explained(weights: torch.Tensor, x: torch.Tensor, target: object = 0, **options: object) -> dasp.Attribution:
    method = options.pop("method", dasp.PermutationSampling(permutations=2))
    return dasp.Explainer(Weighted(weights), 0.0, method=method, **options)(x, target)  # type: ignore[arg-type]


def of_rows(names: tuple[str, ...] = NAMES, **options: object) -> dasp.Attribution:
    return explained(WEIGHTS[None], ROWS, feature_names=names, method=dasp.Exact(), **options)


def of_targets() -> dasp.Attribution:
    return explained(torch.stack([WEIGHTS, 2 * WEIGHTS, -WEIGHTS]), ROWS, [0, 1, 2], method=dasp.Exact())


def of_image(targets: int = 3) -> dasp.Attribution:
    weights = torch.arange(1.0, 1 + targets)[:, None, None, None] * torch.arange(-4.0, 4.0).reshape(1, 2, 4)
    return explained(weights, torch.ones(2, 1, 2, 4), list(range(targets)))


def of_dna(letters: str = "GATTACA", *, last: bool = False) -> dasp.Attribution:
    """The value of letter i is i - 3; channels first, or last."""
    x = torch.nn.functional.one_hot(torch.tensor(["ACGT".index(one) for one in letters]), 4).float()
    weights = (torch.arange(float(len(letters))) - 3)[:, None].expand(-1, 4)
    x, weights = (x, weights) if last else (x.T, weights.T)
    return explained(weights[None].contiguous(), x[None])


def of_tokens(texts: tuple[str, ...], values: tuple[float, ...]) -> dasp.Attribution:
    result = explained(torch.tensor([values]), torch.ones(1, len(texts)))
    return dataclasses.replace(result, tokens=(texts,))


def of_series() -> dasp.Attribution:
    weights = torch.stack([torch.linspace(-1, 1, 12), torch.zeros(12)])
    x = torch.stack([torch.sin(torch.arange(12.0)), torch.arange(12.0)])
    return explained(weights[None], x[None])


class Products(torch.nn.Module):
    """age x dose and weight x height, the second of the other sign."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, 0] * x[:, 1] - 0.5 * x[:, 2] * x[:, 3] + x[:, 0]


def of_pairs(names: tuple[str, ...] = NAMES, **asked: object) -> dasp.Interactions:
    explainer = dasp.Explainer(Products(), 0.0, method=dasp.Exact(), feature_names=names)
    return explainer.interactions(ROWS, **asked)  # type: ignore[arg-type]


def of_methods() -> dict[str, dasp.Attribution]:
    """The truth, and values in the wrong order."""
    right = of_rows()
    assert isinstance(right.values, torch.Tensor)
    return {"right": right, "wrong": dataclasses.replace(right, values=-right.values)}


def against_rows() -> dasp.Attribution:
    return dasp.Explainer(Weighted(WEIGHTS[None]), ROWS, method=dasp.Exact())(ROWS, 0)
