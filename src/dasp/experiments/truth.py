"""True Shapley values to measure errors against, in plain torch and independent of the rest of the library.

Exact enumeration of the 2^n coalitions for small n; antithetic permutation sampling until its own measured error is small for
the rest. One file an input, named by the weights, the input and the target it belongs to; an interrupted run goes on from it.
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

from .files import fingerprint, weights_key, write_arrays
from .problem import Array

Outputs = Callable[[Tensor, Tensor], Tensor]
"""From an input (*shape) and when each element arrives (*shape), outputs (n + 1, outputs) after 0, 1, ..., n arrivals."""

_ENUMERATED = 2**14  # coalitions in one evaluation: activations that stay near the processor
_EVALUATED = 256  # rows in one evaluation while sampling; more are slower, for the same reason


@dataclass(frozen=True, eq=False)
class Truth:
    """Shapley values of B inputs and n players.

    Attributes:
        values: (B, n).
        error: their own measured relative error, (B,); 0 where they are exact.
        evaluations: of the network, of the input that took most.
    """

    values: Array
    error: Array
    evaluations: int


def exact_truth(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    *,
    cache: Path,
    name: str,
    players: Tensor | None = None,
    progress: bool | None = None,
) -> Truth:
    """All 2^n coalitions of each input (B, *shape) against the zero baseline, in float64.

    phi_i = sum over S with i of (s-1)! (n-s)! / n! v(S) - sum over S without i of s! (n-s-1)! / n! v(S), s = |S|
    (Shapley 1953).

    Args:
        model: (rows, *shape) to (rows, outputs).
        inputs: (B, *shape).
        targets: an output index a row, (B,).
        cache: folder of the files.
        name: begins their names.
        players: owner of each element, (*shape); None where each is its own.
        progress: whether to show a bar; None where standard error is a terminal.

    Raises:
        OutputFileError: a file cannot be written.
    """
    owners = _owners(inputs[0], players)
    count = int(owners.max()) + 1
    present = (torch.arange(2**count)[:, None] >> torch.arange(count)[None, :] & 1).double()  # (2^n, n)
    sizes = present.sum(dim=1).long()
    # Joining s players has the weight s! (n - s - 1)! / n!, which is 1 / (n C(n - 1, s)).
    weight = [1 / (count * math.comb(count - 1, size)) for size in range(count)]
    joined = torch.tensor([0.0, *weight], dtype=torch.float64)[sizes, None]
    absent = torch.tensor([*weight, 0.0], dtype=torch.float64)[sizes, None]
    weights = torch.where(present.bool(), joined, -absent)  # (2^n, n)
    double = copy.deepcopy(model).double().eval()
    rows = []
    hidden = None if progress is None else not progress
    with torch.inference_mode():
        pairs = list(zip(inputs.double(), targets.tolist(), strict=True))
        for entry, target in tqdm(pairs, desc=f"exact truth {name}", unit="input", leave=False, disable=hidden):
            path = _path(cache, name, model, entry.float(), target, players)
            if not path.is_file():
                values = torch.zeros(count, dtype=torch.float64)
                for chunk, part in zip(present.split(_ENUMERATED), weights.split(_ENUMERATED), strict=True):
                    values += double(chunk[:, owners] * entry)[:, target] @ part
                write_arrays(path, {"values": values.numpy()})
            with np.load(path, allow_pickle=False) as stored:
                rows.append(stored["values"])
    return Truth(np.stack(rows), np.zeros(len(rows)), 2**count)


def sampled_truth(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    *,
    cache: Path,
    name: str,
    tolerance: float,
    players: Tensor | None = None,
    outputs: Outputs | None = None,
    block: int = 64,
    progress: bool | None = None,
) -> Truth:
    """Antithetic permutation sampling of inputs (B, *shape) against the zero baseline, in float32.

    Each input goes on until its measured relative error is below `tolerance`. The error is measured from the spread of the
    independent pairs of an order of arrival and its reverse (Castro et al. 2009; the reverse: Mitchell et al. 2022):
    ||error||^2 = sum over players of variance / pairs, divided by the unbiased ||phi||^2. The file is written after every
    `block` of pairs, and each block has a seed of its own, so that a run that was interrupted gives the same values.

    Args:
        model: (rows, *shape) to (rows, outputs).
        inputs: (B, *shape).
        targets: an output index a row, (B,).
        cache: folder of the files.
        name: begins their names.
        tolerance: relative error to reach.
        players: owner of each element, (*shape); None where each is its own.
        outputs: a faster way than evaluating `model` to its outputs as elements arrive.
        block: pairs between two writes.
        progress: whether to show a bar; None where standard error is a terminal.

    Raises:
        OutputFileError: a file cannot be written.
    """
    outputs = outputs or _Masked(copy.deepcopy(model).eval())
    owners = _owners(inputs[0], players)
    rows = []
    for entry, target in zip(inputs, targets.tolist(), strict=True):
        path = _path(cache, name, model, entry, target, players)
        rows.append(_sampled(outputs, entry, target, owners, path, tolerance=tolerance, block=block, progress=progress))
    return Truth(
        np.concatenate([row.values for row in rows]),
        np.concatenate([row.error for row in rows]),
        max(row.evaluations for row in rows),
    )


def _owners(entry: Tensor, players: Tensor | None) -> Tensor:
    """The player of each element, (*shape)."""
    return torch.arange(entry.numel()).view(entry.shape) if players is None else players.expand(entry.shape)


def _path(cache: Path, name: str, model: nn.Module, entry: Tensor, target: int, players: Tensor | None) -> Path:
    parts = [entry, torch.tensor(target)] + ([] if players is None else [players])
    return cache / f"truth-{name}-{fingerprint(*parts)}-{weights_key(model)}.npz"


class _Masked:
    """Outputs of any network for every step of an arrival, by evaluating every step."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __call__(self, entry: Tensor, rank: Tensor) -> Tensor:
        """Outputs (n + 1, outputs) with the elements present whose rank is below 0, 1, ..., n; rank (*shape)."""
        steps = torch.arange(int(rank.max()) + 2).view(-1, *[1] * entry.dim())
        return torch.cat([self.model(entry * (rank < chunk)) for chunk in steps.split(_EVALUATED)])


def _pair(outputs: Outputs, entry: Tensor, target: int, owners: Tensor, order: Tensor) -> Array:
    """The estimate (m,) from one order of arrival of m players and its reverse; owners of elements are 0 to m - 1."""
    rank = torch.argsort(order)[owners]  # when each element arrives, (*shape)
    first = outputs(entry, rank)[:, target].diff()
    last = outputs(entry, len(order) - 1 - rank)[:, target].diff().flip(0)
    values = torch.empty(len(order), dtype=torch.float64)
    values[order] = ((first + last) / 2).double()
    return values.numpy()


def _sampled(
    outputs: Outputs,
    entry: Tensor,
    target: int,
    owners: Tensor,
    path: Path,
    *,
    tolerance: float,
    block: int,
    progress: bool | None,
) -> Truth:
    # A player all of whose elements are 0, as the baseline is, changes nothing for any coalition: it takes no part.
    acting, places = owners[entry != 0].unique(return_inverse=True)
    count, among = len(acting), torch.zeros_like(owners)
    among[entry != 0] = places
    sums, squares, pairs = np.zeros(count), np.zeros(count), 0
    if path.is_file():
        with np.load(path, allow_pickle=False) as stored:
            sums, squares, pairs = stored["halves"].sum(axis=0), stored["squares"], int(stored["pairs"])
    generator = torch.Generator()
    hidden = None if progress is None else not progress
    with torch.inference_mode(), tqdm(desc=path.stem[:32], unit="pair", initial=pairs, leave=False, disable=hidden) as bar:
        while (error := _error(sums, squares, pairs)) > tolerance:
            generator.manual_seed(pairs)
            for _ in range(block):
                estimate = _pair(outputs, entry, target, among, torch.randperm(count, generator=generator))
                sums = sums + estimate
                squares = squares + estimate**2
            pairs += block
            write_arrays(path, {"halves": sums[None], "squares": squares, "pairs": np.array(pairs)})
            bar.update(block)
            bar.set_postfix(error=f"{error:.4f}")
    values = np.zeros((1, int(owners.max()) + 1))
    values[0, acting.numpy()] = sums / pairs
    return Truth(values, np.array([error]), pairs * 2 * (count + 1))


def _error(sums: Array, squares: Array, pairs: int) -> float:
    """Measured relative error of the mean of `pairs` estimates."""
    if pairs < 2:
        return math.inf
    mean = sums / pairs
    variance = float(((squares / pairs - mean**2) * pairs / (pairs - 1)).sum()) / pairs
    return math.sqrt(max(variance, 0.0) / max(float((mean**2).sum()) - variance, 1e-300))
