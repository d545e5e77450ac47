"""The three problems of the paper: a network trained from a seed, held-out inputs, a target for each, and the true values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import InputError
from . import data, networks, truth
from . import dna as simulation
from .data import Split
from .files import DataFolder
from .problem import Problem
from .windows import Arrivals

POSITIONS, CHANNELS = "positions", "channels"
_DNA_HELD_OUT = 2_000  # sequences
_BLOCK, _QUICK_BLOCK = 64, 16  # pairs of permutations between two looks at the error
_DNA_LENGTH = 200


@dataclass(frozen=True, eq=False)
class Trained:
    """A network in eval mode, and the data it was trained on and is judged by."""

    model: nn.Sequential
    split: Split


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a problem is built with.

    Attributes:
        files: where data files are.
        cache: folder of trained networks and true values.
        quick: few inputs, few epochs and loosely sampled truth: to see whether everything runs.
        inputs: how many are explained; None takes 100 of Parkinson and 10 of the others, or a few where `quick`.
        players: of the DNA problem, "positions" or "channels".
        seed: the networks are trained from it; data and truth do not depend on it.
        progress: whether to show bars; None shows them where standard error is a terminal.
    """

    files: DataFolder
    cache: Path
    quick: bool = False
    inputs: int | None = None
    players: str = POSITIONS
    seed: int = 0
    progress: bool | None = None

    def count(self, usual: int, quick: int, most: int) -> int:
        """How many inputs to explain; `InputError` where there are not as many."""
        wanted = self.inputs if self.inputs is not None else (quick if self.quick else usual)
        if not 1 <= wanted <= most:
            raise InputError(f"--inputs {wanted}: give 1 to {most}; so many are held out and can be explained.")
        return wanted

    def trained(
        self, build: Callable[[], nn.Sequential], split: Split, loss: nn.Module, *, name: str, epochs: int
    ) -> Trained:
        """`build()` trained for `epochs`, or read from the cache under `name`."""
        model = networks.trained(
            build, split, loss, name=name, epochs=epochs, cache=self.cache, seed=self.seed, progress=self.progress
        )
        return Trained(model, split)


def parkinson_network(settings: Settings) -> Trained:
    """18-128-64-1 on Parkinsons Telemonitoring, 250 epochs."""
    split = data.parkinson(settings.files)
    epochs = 30 if settings.quick else 250
    return settings.trained(networks.parkinson_mlp, split, nn.MSELoss(), name="parkinson-mlp", epochs=epochs)


def mnist_network(settings: Settings) -> Trained:
    """LeNet on 9,000 MNIST digits, 15 epochs."""
    split = data.mnist(settings.files)
    epochs = 3 if settings.quick else 15
    return settings.trained(networks.lenet, split, nn.CrossEntropyLoss(), name="mnist-lenet", epochs=epochs)


def dna_network(settings: Settings) -> Trained:
    """The DNA network on 16,000 simulated sequences, 20 epochs; 2,000 sequences are held out."""
    count, epochs = (4_000, 5) if settings.quick else (16_000, 20)
    fit = simulation.simulate(count, seed=0, length=_DNA_LENGTH, progress=settings.progress)
    held_out = dna_held_out(settings)
    split = Split(fit.inputs, fit.labels, held_out.inputs, held_out.labels)
    return settings.trained(simulation.network, split, nn.BCEWithLogitsLoss(), name="dna-cnn", epochs=epochs)


def dna_held_out(settings: Settings) -> simulation.Sequences:
    """The simulated sequences that the DNA network was not trained on."""
    return simulation.simulate(_DNA_HELD_OUT, seed=1, length=_DNA_LENGTH, progress=settings.progress)


def parkinson(settings: Settings) -> Problem:
    """18-128-64-1 on Parkinsons Telemonitoring, exact truth; the explained output is the UPDRS score."""
    count = settings.count(100, 4, data.PARKINSON_HELD_OUT)
    network = parkinson_network(settings)
    model, split = network.model, network.split
    rows = split.test_inputs[:count]
    targets = torch.zeros(len(rows), dtype=torch.long)
    exact = truth.exact_truth(model, rows, targets, cache=settings.cache, name="parkinson", progress=settings.progress)
    return Problem(
        name="parkinson",
        title="Parkinson MLP, 18 players",
        model=model,
        inputs=rows,
        targets=targets,
        players=None,
        truth=exact.values,
        truth_error=exact.error,
        score=networks.score(model, split),
        names=split.names,
    )


def dna(settings: Settings) -> Problem:
    """Two convolutions and global pooling on simulated DNA, sampled truth; row i explains the logit of task i modulo 3.

    The inputs are held-out sequences that are positive for all three tasks. A player is a position, its four channels
    together; or a single channel of a position.
    """
    count = settings.count(10, 3, _DNA_HELD_OUT // len(simulation.GROUPS))  # one of the groups has both motifs
    network = dna_network(settings)
    model, split = network.model, network.split
    rows = split.test_inputs[(split.test_targets > 0.5).all(dim=1)][:count]
    targets = torch.arange(len(rows)) % len(simulation.TASKS)
    players, names = _dna_players(settings.players)
    sampled = truth.sampled_truth(
        model,
        rows,
        targets,
        cache=settings.cache,
        name="dna",
        tolerance=0.1 if settings.quick else 0.02,
        block=_QUICK_BLOCK if settings.quick else _BLOCK,
        players=players,
        outputs=Arrivals(model),
        progress=settings.progress,
    )
    return Problem(
        name="dna",
        title=f"DNA CNN, {sampled.values.shape[1]} players" + (" (single channels)" if settings.players == CHANNELS else ""),
        model=model,
        inputs=rows,
        targets=targets,
        players=players,
        truth=sampled.values,
        truth_error=sampled.error,
        score=networks.score(model, split),
        names=names,
    )


def _dna_players(kind: str) -> tuple[Tensor | None, tuple[str, ...]]:
    """The owner of each of 4 x 200 elements, None where each is its own, and the players' names."""
    if kind == CHANNELS:
        return None, tuple(f"{letter}{place + 1}" for letter in "ACGT" for place in range(_DNA_LENGTH))
    places = torch.arange(_DNA_LENGTH).expand(4, _DNA_LENGTH).contiguous()
    return places, tuple(str(place + 1) for place in range(_DNA_LENGTH))


def mnist(settings: Settings) -> Problem:
    """LeNet on MNIST digits, sampled truth; the explained output is the logit of the predicted digit."""
    count = settings.count(10, 2, data.MNIST_HELD_OUT)
    network = mnist_network(settings)
    model, split = network.model, network.split
    rows = split.test_inputs[:count]
    with torch.no_grad():
        targets: Tensor = model(rows).argmax(dim=1)
    sampled = truth.sampled_truth(
        model,
        rows,
        targets,
        cache=settings.cache,
        name="mnist",
        tolerance=0.1 if settings.quick else 0.0145,
        block=_QUICK_BLOCK if settings.quick else _BLOCK,
        progress=settings.progress,
    )
    return Problem(
        name="mnist",
        title="MNIST LeNet, 784 players",
        model=model,
        inputs=rows,
        targets=targets,
        players=None,
        truth=sampled.values,
        truth_error=sampled.error,
        score=networks.score(model, split),
    )


BUILDERS: dict[str, Callable[[Settings], Problem]] = {"parkinson": parkinson, "dna": dna, "mnist": mnist}
