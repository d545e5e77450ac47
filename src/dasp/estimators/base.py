"""What every estimator is: a frozen set of options with one verb, `estimate`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ..game import Game


@dataclass(frozen=True, eq=False)
class Estimate:
    """What an estimator found for a batch of B rows, T targets and n players.

    Attributes:
        values: (B, T, n).
        standard_errors: (B, T, n), or None where the estimator has none.
        evaluations: plain network evaluations per row (the mean over rows).
        settings: every option in force, defaults and choices included; JSON can hold it.
        propagations: propagated passes per row.
    """

    values: Tensor
    standard_errors: Tensor | None
    evaluations: float
    settings: dict[str, Any]
    propagations: float = 0.0


class Estimator(ABC):
    """A way to compute Shapley values. Concrete estimators are frozen dataclasses with keyword-only options.

    Attributes:
        takes_background: whether it plays the game against a background (`dasp.background_game.BackgroundGame`), whose
            values are means over many rows. One that only asks `game.table`, `game.values` and the ends does; one that reads
            `game.baselines` must know of it. An estimator that does not say so is refused.
    """

    takes_background: ClassVar[bool] = False

    @abstractmethod
    def estimate(self, game: Game, *, progress: bool = False) -> Estimate:
        """Estimate the Shapley values of every row, target and player of `game`."""
