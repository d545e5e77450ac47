"""How far attributions are from the truth, and how good a classifier is: numpy only, one figure a row."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .problem import Array


def relative_errors(values: Array, truth: Array) -> Array:
    """`||a - phi|| / ||phi||` of each row, from (B, n) and (B, n) to (B,)."""
    found: Array = np.linalg.norm(values - truth, axis=1) / np.linalg.norm(truth, axis=1)
    return found


def root_mean_square_errors(values: Array, truth: Array) -> Array:
    """`sqrt(mean (a - phi)^2)` of each row, in the unit of the network's output, from (B, n) and (B, n) to (B,)."""
    found: Array = np.sqrt(np.mean((values - truth) ** 2, axis=1))
    return found


def rank_correlations(values: Array, truth: Array) -> Array:
    """Spearman's rank correlation of each row, from (B, n) and (B, n) to (B,); 0 where all values of a row are equal.

    The correlation of the ranks, equal values sharing the mean of theirs (Spearman 1904).
    """
    found = np.zeros(len(values))
    for row, (one, true) in enumerate(zip(values, truth, strict=True)):
        first, second = (ranks - ranks.mean() for ranks in (average_ranks(one), average_ranks(true)))
        scale = np.sqrt((first @ first) * (second @ second))
        found[row] = first @ second / scale if scale else 0.0
    return found


def average_ranks(values: Array) -> Array:
    """Ranks from 1 of the values (n,); equal ones share the mean of their ranks."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: Array = (last - (counts - 1) / 2)[place]
    return ranks


def areas_under_roc(scores: Array, positive: npt.NDArray[np.bool_]) -> Array:
    """How often a positive row has a larger score than a negative one, of each task; (B, tasks) twice, to (tasks,).

    From rank sums (Mann and Whitney 1947); a tie counts half; NaN where all rows are positive, or none is.
    """
    areas = np.full(scores.shape[1], np.nan)
    for task in range(scores.shape[1]):
        ranks, here = average_ranks(scores[:, task]), positive[:, task]
        count, others = int(here.sum()), int((~here).sum())
        if count and others:
            areas[task] = (ranks[here].sum() - count * (count + 1) / 2) / (count * others)
    return areas
