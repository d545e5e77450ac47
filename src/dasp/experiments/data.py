"""The data sets that are read rather than simulated, each cut into rows to train on and rows held out."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .files import IMAGES, LABELS, PARKINSON, DataFolder

PARKINSON_TARGET = "total_UPDRS"
PARKINSON_HELD_OUT, MNIST_HELD_OUT = 880, 1000  # rows; the first is the 15 % of Ancona et al. (2019)
PARKINSON_NOT_FEATURES = ("subject#", "test_time", "motor_UPDRS", PARKINSON_TARGET)


@dataclass(frozen=True, eq=False)
class Split:
    """A data set cut in two.

    Attributes:
        train_inputs: (N, *shape), float32.
        train_targets: (N, outputs) float32, or labels (N,) int64.
        test_inputs: held out, (M, *shape).
        test_targets: as `train_targets`.
        names: one a feature, where features have names.
    """

    train_inputs: Tensor
    train_targets: Tensor
    test_inputs: Tensor
    test_targets: Tensor
    names: tuple[str, ...] | None = None


def parkinson(files: DataFolder, *, held_out: int = PARKINSON_HELD_OUT, seed: int = 0) -> Split:
    """Age, sex and 16 voice measures of 5,875 recordings, scaled to [-1, 1]; the target is total UPDRS, in points.

    Rows are shuffled with `seed`, and the first `held_out` are held out. `DataFileError` where the data cannot be had.
    """
    reader = csv.reader(io.StringIO(files.read(PARKINSON).decode(), newline=""))
    header = next(reader)
    rows = np.array([[float(cell) for cell in row] for row in reader])
    names = tuple(name for name in header if name not in PARKINSON_NOT_FEATURES)
    features = rows[:, [header.index(name) for name in names]]
    low, high = features.min(axis=0), features.max(axis=0)
    inputs = torch.from_numpy(2 * (features - low) / (high - low) - 1).float()
    targets = torch.from_numpy(rows[:, [header.index(PARKINSON_TARGET)]]).float()
    return _cut(inputs, targets, held_out, seed, names)


def mnist(files: DataFolder, *, held_out: int = MNIST_HELD_OUT, seed: int = 0) -> Split:
    """The 10,000 MNIST test digits as (N, 1, 28, 28) in [-1, 1]: `held_out` of them to explain, the others to train on.

    `DataFileError` where the data cannot be had.
    """
    pixels = np.frombuffer(files.read(IMAGES), dtype=np.uint8, offset=16).reshape(-1, 1, 28, 28)
    labels = np.frombuffer(files.read(LABELS), dtype=np.uint8, offset=8)
    inputs = torch.from_numpy(pixels.astype(np.float32)) / 127.5 - 1
    return _cut(inputs, torch.from_numpy(labels.astype(np.int64)), held_out, seed)


def _cut(inputs: Tensor, targets: Tensor, held_out: int, seed: int, names: tuple[str, ...] | None = None) -> Split:
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed))
    test, train = order[:held_out], order[held_out:]
    return Split(inputs[train], targets[train], inputs[test], targets[test], names)
