"""Estimators of shapiq on the game over those players whose elements are not all zero, as the baseline is.

Beside paired KernelSHAP, which is common, stands the best of what shapiq 1.4.1 has for Shapley values, tried at equal budgets:
kADDSHAP on Parkinson, from about a thousand evaluations on; for hundreds of players, which have too many interactions for it,
KernelSHAP with evenly drawn sizes and PermutationSamplingSV.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from ..problem import Array
from .counted import SEED, Peer, PlayerGame, Task, library


def kernel(evaluations: int, *, evenly: bool = False) -> Peer:
    """KernelSHAP (Lundberg and Lee 2017) with coalitions drawn in pairs with their complements.

    Their sizes are drawn by the kernel, or evenly, close to what Musco and Witter (2025) recommend.
    """
    family = "shapiq KernelSHAP, paired" + (", even sizes" if evenly else "")
    estimate = _approximated("KernelSHAP", evaluations, evenly=evenly, pairing_trick=True)
    return Peer(family, f"{family}, {evaluations:,} evaluations", estimate)


def permutation(evaluations: int) -> Peer:
    """PermutationSamplingSV (Castro, Gomez, Tejada 2009): as many whole permutations as `evaluations` allow."""
    family = "shapiq PermutationSamplingSV"
    return Peer(family, f"{family}, {evaluations:,} evaluations", _approximated("PermutationSamplingSV", evaluations))


def additive(order: int, evaluations: int) -> Peer:
    """kADDSHAP (Pelegrina, Duarte, Grabisch 2023): interactions up to `order` are fitted along with the values.

    Pairs add nothing at order 2, whose interactions cancel in them, and help at order 3.
    """
    family = f"shapiq kADDSHAP, order {order}"
    estimate = _approximated("kADDSHAP", evaluations, max_order=order, pairing_trick=order > 2)
    return Peer(family, f"{family}, {evaluations:,} evaluations", estimate)


def _approximated(name: str, evaluations: int, *, evenly: bool = False, **options: Any) -> Callable[[Task], Array]:
    def estimate(task: Task) -> Array:
        approximator = getattr(library("shapiq.approximator"), name)

        def explain(game: PlayerGame) -> Array:
            players = game.moved.nonzero()[0]

            def of_moved(coalitions: Any) -> Array:
                whole = np.zeros((len(np.atleast_2d(coalitions)), len(game.moved)))
                whole[:, players] = np.atleast_2d(coalitions)
                return game(whole)

            weights = {"sampling_weights": np.ones(len(players) + 1)} if evenly else {}
            method = approximator(len(players), random_state=SEED, **weights, **options)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Not all budget is required")
                warnings.filterwarnings("ignore", message="Sampling might be inefficient")
                found = method.approximate(evaluations, of_moved)
            values = np.zeros(len(game.moved))
            values[players] = [found[(player,)] for player in range(len(players))]
            return values

        return task.each(explain)

    return estimate
