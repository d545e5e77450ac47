"""Estimators of shap: DeepExplainer on modules it knows, the others on the game over players.

A player whose elements are all zero, as the baseline is, is told to shap as one that does not change; it spends nothing on it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..problem import Array
from .counted import ROWS, SEED, Peer, PlayerGame, Task, library
from .modules import require_rescale


class _Output(nn.Module):
    """One output of a network, (B, 1): DeepExplainer would explain all of them."""

    def __init__(self, network: nn.Module, target: int) -> None:
        super().__init__()
        self.network = network
        self.target = target

    def forward(self, inputs: Tensor) -> Tensor:
        output: Tensor = self.network(inputs)
        return output[:, self.target, None]


def deep() -> Peer:
    """DeepExplainer with the baseline as its background: DeepLIFT Rescale (Lundberg and Lee 2017).

    Its additivity check is left out: it has an absolute tolerance and lets wrong values pass. Networks on which the values
    would be wrong are refused beforehand.
    """

    def estimate(task: Task) -> Array:
        require_rescale(task.problem.model, "shap's DeepExplainer")
        explainer = library("shap").DeepExplainer
        inputs = task.problem.inputs
        found = torch.zeros_like(inputs)
        for target in task.problem.targets.unique().tolist():
            rows = task.problem.targets == target
            deep = explainer(_Output(task.network, target), torch.zeros_like(inputs[:1]))
            values = deep.shap_values(inputs[rows], check_additivity=False)
            found[rows] = torch.from_numpy(np.asarray(values)[..., 0]).to(found.dtype)
        return task.problem.per_player(found)

    return Peer("shap DeepExplainer", "shap DeepExplainer", estimate)


def permutation(evaluations: int) -> Peer:
    """PermutationExplainer: permutations, each with its reverse; at most `evaluations` a row."""

    def estimate(task: Task) -> Array:
        explainer = library("shap").PermutationExplainer

        def explain(game: PlayerGame) -> Array:
            method = explainer(game, np.zeros((1, len(game.moved))), seed=SEED)
            found: Any = method(game.moved[None], max_evals=evaluations, batch_size=ROWS, silent=True)
            return np.asarray(found.values[0], dtype=np.float64)

        return task.each(explain)

    return Peer("shap PermutationExplainer", f"shap PermutationExplainer, {evaluations:,} evaluations", estimate)


def kernel(samples: int) -> Peer:
    """KernelExplainer (Lundberg and Lee 2017) without its feature selection, which would set most players to zero."""

    def estimate(task: Task) -> Array:
        explainer = library("shap").KernelExplainer

        def explain(game: PlayerGame) -> Array:
            method = explainer(game, np.zeros((1, len(game.moved))))
            found = method.shap_values(game.moved[None], nsamples=samples, l1_reg=False, silent=True)
            return np.asarray(found[0], dtype=np.float64)

        return task.each(explain)

    return Peer("shap KernelExplainer", f"shap KernelExplainer, {samples:,} samples", estimate)
