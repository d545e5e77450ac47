"""How far an attribution is from the truth: the two figures that every table here shows."""

from __future__ import annotations

import numpy as np
from scipy.stats import spearmanr


def relative_errors(values: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """||a - phi|| / ||phi|| of each row, from (B, n) and (B, n) to (B,)."""
    return np.linalg.norm(values - truth, axis=1) / np.linalg.norm(truth, axis=1)


def rank_correlations(values: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation of each row, from (B, n) and (B, n) to (B,)."""
    return np.array([spearmanr(row, true).statistic for row, true in zip(values, truth, strict=True)])
