"""What every estimator is: a frozen set of options with one verb, `estimate`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ..errors import InputError
from ..game import Game


@dataclass(frozen=True, eq=False)
class Estimate:
    """What an estimator found for a batch of B rows, T targets and n players.

    Attributes:
        values: (B, T, n).
        standard_errors: (B, T, n), or None where the estimator has none.
        evaluations: network evaluations per row (the mean over rows); one whose gradient is taken counts once.
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
        semivalues: whether it also weights marginal contributions by `game.semivalue`; the explainer refuses one to others.
        takes_background: whether it plays the game against a background (`dasp.background_game.BackgroundGame`), whose values
            are means over many rows. One that only asks `game.table`, `game.values` and the ends does; one that reads
            `game.baselines` must know. An estimator that does not say so is refused.
    """

    semivalues: ClassVar[bool] = False
    takes_background: ClassVar[bool] = False

    @abstractmethod
    def estimate(self, game: Game, *, progress: bool = False) -> Estimate:
        """Estimate the Shapley values of every row, target and player of `game`."""

    def interactions(self, game: Game, players: Tensor, *, progress: bool = False) -> Estimate:
        """The interactions of some players (P,) with everybody, (B, T, P, n), 0 with themselves; refused by default.

        Raises:
            InputError: this estimator has none.
        """
        raise InputError(
            f"interactions: {type(self).__name__} has none. Use method=dasp.Propagation(), or dasp.Exact() for few players."
        )

    def differentiable(self, game: Game, inputs: tuple[Tensor, ...]) -> Estimate:
        """Values with a graph back to `inputs` and to the weights; refused by default.

        Raises:
            InputError: this estimator has none.
        """
        raise InputError(f"create_graph: the values of {type(self).__name__} have no graph. Use method=dasp.Propagation().")
