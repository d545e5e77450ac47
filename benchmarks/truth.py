"""True Shapley values to measure errors against, in plain torch and independent of the library.

Exact enumeration of the 2^n coalitions for small n; antithetic permutation sampling until its own measured error is
small for the rest. Both are cached by the weights and inputs they belong to, and the sampled one resumes.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from networks import fingerprint, replace_file, weights_key


@dataclass(frozen=True)
class Truth:
    """Shapley values (B, n) in float64; `error` (B,) is their own measured relative error, 0 where they are exact."""

    values: np.ndarray
    error: np.ndarray
    evaluations: int


def exact_truth(model: nn.Module, inputs: Tensor, target: int, *, cache: Path, name: str) -> Truth:
    """All 2^n coalitions of each input (B, n) against the zero baseline, in float64.

    phi_i = sum over S with i of (s-1)! (n-s)! / n! v(S) - sum over S without i of s! (n-s-1)! / n! v(S), s = |S|
    (Shapley 1953).
    """
    path = cache / f"truth-{name}-{fingerprint(inputs)}-{weights_key(model)}.npz"
    if path.is_file():
        return _read(path)
    count = inputs.shape[1]
    coalitions = torch.arange(2**count)[:, None] >> torch.arange(count)[None, :] & 1
    sizes = coalitions.sum(dim=1)
    # Joining s players has the weight s! (n - s - 1)! / n!, which is 1 / (n C(n - 1, s)).
    weight = [1 / (count * math.comb(count - 1, size)) for size in range(count)]
    joined = torch.tensor([0.0, *weight], dtype=torch.float64)[sizes, None]
    absent = torch.tensor([*weight, 0.0], dtype=torch.float64)[sizes, None]
    present = coalitions.double()
    weights = torch.where(coalitions.bool(), joined, -absent)  # (2^n, n)
    double = copy.deepcopy(model).double().eval()
    values = torch.zeros(len(inputs), count, dtype=torch.float64)
    with torch.inference_mode():
        for row, entry in enumerate(tqdm(inputs.double(), desc=f"exact truth {name}", leave=False)):
            for chunk, weight in zip(present.split(2**14), weights.split(2**14), strict=True):
                values[row] += double(chunk * entry)[:, target] @ weight
    truth = Truth(values.numpy(), np.zeros(len(inputs)), 2**count)
    _write(path, truth)
    return truth


def _pair(model: Callable[[Tensor], Tensor], entry: Tensor, target: int, generator: torch.Generator) -> Tensor:
    """One antithetic estimate (n,) of the Shapley values of `entry` (*shape): an order of arrival and its reverse."""
    count = entry.numel()
    order = torch.randperm(count, generator=generator)
    rank = torch.argsort(order).view(entry.shape)
    steps = torch.arange(count + 1).view(-1, *[1] * entry.dim())
    first = model(entry * (rank < steps))[:, target]  # v of the first 0, 1, ..., n of the order
    last = model(entry * (rank >= steps))[:, target]  # v of what comes after them
    marginal = (first.diff() - last.diff()) / 2
    values = torch.empty(count, dtype=torch.float64)
    values[order] = marginal.double()
    return values


def sampled_truth(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    *,
    cache: Path,
    name: str,
    tolerance: float = 0.0145,
    block: int = 64,
    seed: int = 0,
) -> Truth:
    """Antithetic permutation sampling of image inputs (B, C, H, W) against the zero baseline, every element a player.

    Each image goes on until its measured relative error is below `tolerance`. The error is measured from the spread of
    the independent pairs: ||error||^2 = sum over players of variance / pairs, divided by the unbiased ||phi||^2.
    One file per image is written after every block of pairs; a later call resumes from it.
    """
    fast = copy.deepcopy(model).eval().to(memory_format=torch.channels_last)
    rows = []
    for entry, target in zip(inputs, targets.tolist(), strict=True):
        path = cache / f"truth-{name}-{fingerprint(entry, torch.tensor(target))}-{weights_key(model)}.npz"
        rows.append(_sample(fast, entry, target, path, tolerance=tolerance, block=block, seed=seed))
    return Truth(
        np.stack([row.values for row in rows]),
        np.array([row.error for row in rows]),
        max(row.evaluations for row in rows),
    )


def _sample(
    model: nn.Module, entry: Tensor, target: int, path: Path, *, tolerance: float, block: int, seed: int
) -> Truth:
    count = entry.numel()
    halves = np.zeros((2, count))
    squares = np.zeros(count)
    pairs = 0
    if path.is_file():
        with np.load(path) as stored:
            halves, squares, pairs = stored["halves"], stored["squares"], int(stored["pairs"])
    generator = torch.Generator()
    with torch.inference_mode(), tqdm(desc=path.stem[:32], unit="pair", initial=pairs, leave=False) as bar:
        while (error := _error(halves, squares, pairs)) > tolerance:
            generator.manual_seed(seed * 1_000_003 + pairs)
            for _ in range(block // 2):
                for half in halves:
                    estimate = _pair(model, entry, target, generator).numpy()
                    half += estimate
                    squares += estimate**2
            pairs += block
            bar.update(block)
            bar.set_postfix(error=f"{error:.4f}")
            state = {"halves": halves, "squares": squares, "pairs": np.array(pairs)}
            replace_file(path, lambda partial, state=state: _savez(partial, state))
    return Truth(halves.sum(axis=0) / pairs, np.array(error), pairs * 2 * count)


def _error(halves: np.ndarray, squares: np.ndarray, pairs: int) -> float:
    if pairs < 2:
        return math.inf
    mean = halves.sum(axis=0) / pairs
    variance = float(((squares / pairs - mean**2) * pairs / (pairs - 1)).sum()) / pairs
    return math.sqrt(variance / max(float((mean**2).sum()) - variance, 1e-300))


def _savez(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with path.open("wb") as file:
        np.savez(file, **arrays)


def _read(path: Path) -> Truth:
    with np.load(path) as stored:
        return Truth(stored["values"], stored["error"], int(stored["evaluations"]))


def _write(path: Path, truth: Truth) -> None:
    arrays = {"values": truth.values, "error": truth.error, "evaluations": np.array(truth.evaluations)}
    replace_file(path, lambda partial: _savez(partial, arrays))
