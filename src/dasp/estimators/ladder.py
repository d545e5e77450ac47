"""Better priors for `Refine`: each is taken once it costs no more than the pairs of coalitions that would come next."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from ..errors import CaptureError, CoalitionError, InputError, MemoryBoundError, MissingRuleError, NumericsError
from ..game import Game, goes_along
from ..law import FULL
from .base import Estimate, Estimator
from .gradients import VertexGradients
from .propagation import Propagation

PASS, FACTOR = 40, 4
"""Plain evaluations that a propagated pass takes the time of: so many, and so many more for each factor (rough)."""
MIXTURES = (2, 4, 6, 8)
NODES = 16
"""Of a full rank: with fewer the quadrature is what is left to better (MNIST: 0.061, 0.041, 0.034 with 4, 8, 16)."""
GRADIENTS = (256, 1024, 4096)
FEW = 64
"""Up to as many players pairs of coalitions tell more than gradients, whose bias no sample removes."""
REFUSALS = (CaptureError, MissingRuleError, NumericsError, MemoryBoundError)


@dataclass(frozen=True)
class Rung:
    """An estimator that may come next.

    Attributes:
        estimator: gives the prior.
        cost: in plain evaluations.
        evaluations: those that it really makes, of `cost`; a gradient is two.
    """

    estimator: Estimator
    cost: float
    evaluations: int = 0


@dataclass(frozen=True, eq=False)
class First:
    """A prior that is there from the start.

    Attributes:
        estimator: what gave it.
        estimate: what that said of all rows.
        values: those of the rows in question, (R, T, n).
    """

    estimator: Estimator
    estimate: Estimate
    values: Tensor


class Ladder:
    """The priors of some rows, from the first ones to dearer ones. A dearer one takes the place of the first of its class."""

    def __init__(self, firsts: Sequence[First], n: int, seed: int) -> None:
        self.priors: dict[Hashable, Tensor] = {}
        for place, first in enumerate(firsts):
            kind = type(first.estimator)
            self.priors[(kind, place) if kind in self.priors else kind] = first.values
        self.left = sorted(_rungs(firsts, n, seed), key=lambda rung: rung.cost)
        self.said: list[dict[str, Any]] = []

    def affordable(self, cost: float, evaluations: float) -> Iterator[Rung]:
        """Take off the rungs below a cost; those that make more than so many evaluations are passed over."""
        while self.left and self.left[0].cost <= cost:
            rung = self.left.pop(0)
            if rung.evaluations <= evaluations:
                evaluations -= rung.evaluations
                yield rung

    def climb(self, rung: Rung, game: Game, rows: Tensor, which: Tensor, places: Tensor) -> Estimate | None:
        """Estimate the players `which` (R, T, n) of some rows of a game, and keep it at `places` of the priors (., T, n).

        None where the estimator refuses the network.
        """
        name = type(rung.estimator).__name__
        # An argument with as many entries as there are rows left would be taken to go along with them.
        whole_game = any(goes_along(e, len(rows)) and not goes_along(e, game.batch) for e in game.extra)
        try:
            found = rung.estimator.estimate(game if whole_game else game.of_rows(rows))
        except CoalitionError:
            raise  # the game itself has no value there
        except (*REFUSALS, InputError) as error:
            self.said.append({"method": name, "refused": str(error)})
            self.left = [other for other in self.left if type(other.estimator) is not type(rung.estimator)]
            return None
        values = (found.values[rows] if whole_game else found.values).double().gather(2, which)
        prior = self.priors.get(type(rung.estimator), next(iter(self.priors.values()))).clone()
        prior[places] = values
        self.priors[type(rung.estimator)] = prior
        self.said.append({"method": name, **found.settings, "evaluations": found.evaluations})
        return found


def _rungs(firsts: Sequence[First], n: int, seed: int) -> Iterator[Rung]:
    if n > FEW:
        there = max((first.estimator.samples for first in firsts if isinstance(first.estimator, VertexGradients)), default=0)
        for samples in GRADIENTS:
            if samples > there:
                yield Rung(VertexGradients(samples=samples, seed=seed), 2 * samples, 2 * samples)
    for first in firsts:
        if isinstance(first.estimator, Propagation) and first.estimate.propagations > 0:
            yield from _better_propagations(first.estimator, first.estimate, n)
            return  # others of this class stay as they are


def _better_propagations(first: Propagation, estimate: Estimate, n: int) -> Iterator[Rung]:
    rank, mixture = estimate.settings["rank"], estimate.settings["mixture"] or 0
    if rank == FULL and first.mixture is None:
        for more in MIXTURES:
            if mixture < more < n:
                cost = estimate.propagations * 2 ** (more - mixture) * (PASS + FACTOR * n)
                yield Rung(replace(first, mixture=more), cost)
    elif rank != FULL and first.rank is None:
        nodes = max(NODES, estimate.settings["nodes"]) if first.nodes is None else first.nodes
        yield Rung(replace(first, rank=FULL, nodes=nodes), nodes * (PASS + FACTOR * n))
