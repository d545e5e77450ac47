"""What a propagation takes where nothing was chosen: nodes, rank, mixture and conditioning, from the problem and the memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import InputError, MemoryBoundError
from ..game import Game
from ..law import FULL
from ..propagate import Plan
from .absent import Absent
from .preparation import attends, bytes_per_row

if TYPE_CHECKING:
    from .propagation import Propagation

LOBATTO = "lobatto"
LEGENDRE = "legendre"
FULL_PLAYERS = 64
"""Up to this many players, every player has a factor of its own and the exact ends are affordable."""
DEFAULT_RANK = 64
MOST_PLAYERS_WITH_RANK = 4096
ENUMERATED_PLAYERS = 6
"""Up to this many players the default enumerates all states, which is exact and costs no more."""
MIXED_PLAYERS = 32
"""Up to this many players the default enumerates one; of more, one is too small a part."""
OVERHEAD = 3
"""What conditioning and several targets may take on top of a plain rank."""
AMPLE = 64
"""Room for so many copies of all values and of their factors is enough without looking; networks take one or two."""
FACTORS_OF_NONE = 3
"""Mean, variance and value, which take as much as so many factors."""


def too_large(options: Propagation, needed: float, memory: int) -> MemoryBoundError:
    """The error that says so."""
    return MemoryBoundError(
        f"one row at one node needs {needed / 2**20:,.3g} MiB with rank {options.rank} and mixture {options.mixture}, and the "
        f"memory bound is {memory / 2**20:,.3g} MiB. Raise memory=, or lower rank= or mixture=."
    )


def _untouched(options: Propagation) -> bool:
    """Whether nothing was chosen but the seed."""
    return replace(options, seed=0, clusters=None, background_rank=None) == type(options)()


def decided(options: Propagation, game: Game, plan: Plan, absent: Absent) -> tuple[Propagation, float]:
    """The options with every None decided, and the bytes of one row at one node with them.

    Raises:
        MemoryBoundError: the rank asked for does not fit by far.
    """
    n = game.players.count
    key = (plan.graph, game.players.key, game.targets.count, absent.rank, absent.random)

    def measured(rank: str | int, conditioned: bool) -> float:
        return game.model.keep(
            (*key, rank, conditioned), lambda: bytes_per_row(game, plan, rank, absent, conditioned=conditioned)
        )

    whole = _untouched(options) and absent.clusters is None and n <= ENUMERATED_PLAYERS
    if whole and 2**n * measured(0, False) <= game.memory:
        options = replace(options, mixture=n)
    if options.mixture == n:
        options = _all_enumerated(options, game, absent)
        return options, measured(options.rank or 0, bool(options.condition))
    small = n <= FULL_PLAYERS
    # Exact ends would cost with every row of a background.
    ends = small and (options.nodes or 2) > 1 and not at_one_point(game) and absent.clusters is None
    rule = options.rule or (LOBATTO if ends else LEGENDRE)
    rank = _rank(options, game, plan, measured)
    condition = rank == FULL if options.condition is None else options.condition
    if condition and rank != FULL:
        raise InputError(
            f"condition=True needs a factor for every player, and the memory bound allows rank {rank}; raise memory="
        )
    mixture = options.mixture
    if mixture is None:
        affordable = n <= MIXED_PLAYERS and 2 * measured(rank, condition) <= game.memory
        mixture = int((rule == LOBATTO or (small and at_one_point(game))) and rank == FULL and affordable)
    alone = at_one_point(game) and rule == LEGENDRE  # with other nodes it is refused by the semivalue, which says why
    usual = 1 if alone else 3 if absent.clusters is not None else _usual_nodes(rule, mixture, plan)
    nodes = options.nodes or usual
    options = replace(options, rule=rule, nodes=nodes, rank=rank, mixture=mixture, condition=condition)
    return options, measured(rank, condition)


def _rank(options: Propagation, game: Game, plan: Plan, measured: Callable[[str | int, bool], float]) -> int | str:
    """The rank asked for, or the usual one if it fits the memory bound, or the largest that does.

    What a network takes with one and with three factors tells the rest, and is measured only where the room is not ample.

    Raises:
        MemoryBoundError: the rank asked for does not fit by far.
    """
    n, asked = game.players.count, options.rank
    usual = n if n <= FULL_PLAYERS else DEFAULT_RANK if n <= MOST_PLAYERS_WITH_RANK else 0
    wanted = usual if asked is None else n if isinstance(asked, str) else min(asked, n)
    if AMPLE * (wanted + FACTORS_OF_NONE) * plan.graph.elements * game.dtype.itemsize > game.memory:
        none, one, three = (measured(rank, False) for rank in (0, 1, 3))
        per_factor = max((three - one) / 2, 0.0)
        if asked is None:
            fit = int((game.memory / OVERHEAD - none) / per_factor) if per_factor else n
            wanted = max(0, min(wanted, fit))
        guess = none + per_factor * wanted
        if guess > game.memory:
            raise too_large(options, guess, game.memory)
    if asked is None:
        return FULL if wanted == n else wanted
    return asked if isinstance(asked, str) else wanted


def _all_enumerated(options: Propagation, game: Game, absent: Absent) -> Propagation:
    """With the nodes that the polynomials of degree n - 1 in q take, and no factors, as nobody is left to have one.

    Both ends save a node that is propagated for two players' evaluations each, which against a background are many.
    """
    n = game.players.count
    rank = options.rank if options.rank is not None else FULL if options.condition else 0
    rule = options.rule
    if rule is None:
        ends = (options.nodes or 2) > 1 and not at_one_point(game) and absent.clusters is None
        rule = LOBATTO if ends else LEGENDRE
    usual = (n + 3) // 2 if rule == LOBATTO else 1 if at_one_point(game) else (n + 1) // 2
    nodes = options.nodes or usual
    rank = rank if isinstance(rank, str) else min(rank, n)
    return replace(options, rule=rule, nodes=nodes, rank=rank, condition=bool(options.condition))


def at_one_point(game: Game) -> bool:
    """Whether one node is all the quadrature that the semivalue takes."""
    return game.semivalue is not None and game.semivalue.at_one_point


def _usual_nodes(rule: str, mixture: int, plan: Plan) -> int:
    """How many nodes are worth their cost."""
    if rule == LEGENDRE:
        return 4
    if not mixture:
        return 5
    return 3 if attends(plan) else 4
