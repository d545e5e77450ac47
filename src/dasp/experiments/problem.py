"""What is compared: a trained network, inputs to explain and their true values; and what a method gives back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Problem:
    """One network, B inputs, one target output each, against the zero baseline, and what the right answer is.

    Attributes:
        name: "parkinson", "dna" or "mnist".
        title: for tables and figures.
        model: in eval mode, float32; modules only, each used once, so that tools that look at modules read it rightly;
            the output is before the last nonlinearity.
        inputs: (B, *shape), float32.
        targets: one output index a row, (B,) int64.
        players: owner of each input element, (*shape) int64; None where every element is its own player.
        truth: true Shapley values, (B, n).
        truth_error: their own measured relative error, (B,); 0 where they are exact.
        score: how good the network is on held-out data, as text.
        names: one name a player, or None.
    """

    name: str
    title: str
    model: nn.Sequential
    inputs: Tensor
    targets: Tensor
    players: Tensor | None
    truth: Array
    truth_error: Array
    score: str
    names: tuple[str, ...] | None = None

    @property
    def count(self) -> int:
        """Number of players n."""
        return int(self.truth.shape[1])

    def per_player(self, attributions: Tensor) -> Array:
        """Attributions of input elements (B, *shape), summed over the elements of each player: (B, n)."""
        flat = attributions.detach().flatten(1).double()
        if self.players is None:
            return flat.numpy()
        summed = flat.new_zeros(len(flat), self.count).index_add(1, self.players.flatten(), flat)
        return summed.numpy()


@dataclass(frozen=True, eq=False)
class Outcome:
    """What one method found, and what it cost per input.

    Attributes:
        values: attributions, (B, n).
        evaluations: plain network evaluations per input; a gradient counts as two.
        propagations: propagated passes per input.
        gap: median relative completeness gap, None where the method reports none.
    """

    values: Array
    evaluations: float
    propagations: float = 0.0
    gap: float | None = None


@dataclass(frozen=True)
class Method:
    """One estimator at one budget.

    Attributes:
        family: one line of a figure; methods of this library begin with "dasp.".
        label: one row of the table; unique within a problem.
        run: explains every input of the problem it was made for; raises `Unsupported` where it cannot treat the network.
    """

    family: str
    label: str
    run: Callable[[], Outcome]


class Unsupported(Exception):
    """A method cannot treat a network; the message says why."""
