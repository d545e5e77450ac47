"""What estimators of other libraries need: a network that counts, a game over players, and random states put back."""

from __future__ import annotations

import copy
import importlib
import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import MissingExtraError
from ..problem import Array, Method, Outcome, Problem

ROWS = 1024
"""Rows of the network in one pass, where a library leaves the choice; more gains nothing."""
SEED = 0


class Counted(nn.Module):
    """A network that counts the rows it evaluates; a row whose gradient is recorded counts as two."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.rows = 0

    def forward(self, inputs: Tensor) -> Tensor:
        """The network's output; its rows are added to the count."""
        self.rows += len(inputs) * (2 if torch.is_grad_enabled() and inputs.requires_grad else 1)
        output: Tensor = self.network(inputs)
        return output


class Task:
    """What an estimator of another library is given: the problem, and a copy of its network that counts.

    Attributes:
        problem: what is explained.
        network: counts its evaluations.
        mask: owner of each input element as captum's `feature_mask`, (1, *shape); None where each is its own.
    """

    def __init__(self, problem: Problem, network: Counted) -> None:
        self.problem = problem
        self.network = network
        self.mask = None if problem.players is None else problem.players.unsqueeze(0)

    @property
    def rows(self) -> list[tuple[Tensor, int]]:
        """Each input as a batch of one, and its target."""
        return list(zip(self.problem.inputs.split(1), self.problem.targets.tolist(), strict=True))

    def of_players(self, spread: Tensor) -> Array:
        """One value a player, (B, n), from (B, *shape) where each element carries its player's whole value."""
        flat = spread.detach().flatten(1).double().numpy()
        if self.problem.players is None:
            return flat
        _, first = np.unique(self.problem.players.numpy(), return_index=True)
        return flat[:, first]

    def each(self, estimate: Callable[[PlayerGame], Array]) -> Array:
        """`estimate` on the game of every input, one after the other: (B, n)."""
        return np.stack([estimate(PlayerGame(self, entry, target)) for entry, target in self.rows])


class PlayerGame:
    """The output at one input with some of the players present, the others zero.

    Attributes:
        moved: 1 where a player's elements are not all zero, so that its presence matters, else 0: (n,) float64.
    """

    def __init__(self, task: Task, entry: Tensor, target: int) -> None:
        self._network = task.network
        self._entry, self._target = entry, target
        players = task.problem.players
        self._owner = torch.arange(entry[0].numel()).view(entry[0].shape) if players is None else players
        self.moved = np.zeros(task.problem.count)
        self.moved[self._owner[entry[0] != 0].numpy()] = 1.0

    def __call__(self, coalitions: Any) -> Array:
        """The value of each coalition: (M, n) or (n,) of zeros and ones to (M,) float64."""
        present = torch.from_numpy(np.atleast_2d(np.asarray(coalitions)).astype(np.float32))  # (M, n)
        with torch.inference_mode():
            parts = [self._network(some[:, self._owner] * self._entry)[:, self._target] for some in present.split(ROWS)]
        return torch.cat(parts).double().numpy()


Estimate = Callable[[Task], Array]


@dataclass(frozen=True)
class Peer:
    """One estimator of another library at one budget: its name in figures and tables, and how it is called."""

    family: str
    label: str
    estimate: Estimate

    def on(self, problem: Problem) -> Method:
        """The method, on a copy of the problem's network: libraries hang hooks and attributes on it."""
        network = copy.deepcopy(problem.model).eval()

        def run() -> Outcome:
            counted = Counted(network)
            with seeded(SEED):
                values = self.estimate(Task(problem, counted))
            return Outcome(values, counted.rows / len(problem.inputs))

        return Method(self.family, self.label, run)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The global generators of torch, numpy and Python start from `seed` inside and are as they were after."""
    before = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])


def library(name: str) -> Any:
    """The module called `name`, of an optional package.

    Raises:
        MissingExtraError: the package is not installed.
    """
    try:
        with warnings.catch_warnings():
            # shap prepares a colour map in a way that matplotlib is about to give up.
            warnings.filterwarnings("ignore", message="The set_(bad|over|under) function will be deprecated")
            return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise MissingExtraError(f"this method needs {package} ({error}): pip install 'dasp[paper]'.") from error
