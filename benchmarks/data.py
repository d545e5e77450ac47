"""The two data sets of the benchmarks, read from a folder the user names; nothing is copied into the project.

`parkinsons_updrs.csv`: Parkinsons Telemonitoring, UCI Machine Learning Repository (Tsanas et al., 2009), CC BY 4.0.
`t10k-images-idx3-ubyte.gz`, `t10k-labels-idx1-ubyte.gz`: MNIST test digits (LeCun, Cortes, Burges), CC BY-SA 3.0.
"""

from __future__ import annotations

import csv
import gzip
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

DATA_VARIABLE = "DASP_DATA"
PARKINSON_FILE = "parkinsons_updrs.csv"
IMAGES_FILE = "t10k-images-idx3-ubyte.gz"
LABELS_FILE = "t10k-labels-idx1-ubyte.gz"
SOURCES = {
    PARKINSON_FILE: "https://archive.ics.uci.edu/dataset/189/parkinsons+telemonitoring",
    IMAGES_FILE: "https://ossci-datasets.s3.amazonaws.com/mnist/" + IMAGES_FILE,
    LABELS_FILE: "https://ossci-datasets.s3.amazonaws.com/mnist/" + LABELS_FILE,
}
PARKINSON_TARGET = "total_UPDRS"
PARKINSON_NOT_FEATURES = ("subject#", "test_time", "motor_UPDRS", PARKINSON_TARGET)


@dataclass(frozen=True)
class Split:
    """A data set cut in two. Inputs are float32 in [-1, 1]; targets are float32 (N, 1) or labels int64 (N,)."""

    train_inputs: Tensor
    train_targets: Tensor
    test_inputs: Tensor
    test_targets: Tensor
    feature_names: tuple[str, ...] | None = None


def data_folder(option: str | Path | None = None) -> Path:
    """The folder that holds the data files: `option`, else the environment variable DASP_DATA.

    Raises:
        SystemExit: neither names a folder that exists; the message says what to do.
    """
    named = option or os.environ.get(DATA_VARIABLE)
    if not named:
        raise SystemExit(
            f"No data folder. Give --data FOLDER or set {DATA_VARIABLE}. It should hold\n"
            + "\n".join(f"  {name}  (from {source})" for name, source in SOURCES.items())
        )
    folder = Path(named).expanduser()
    if not folder.is_dir():
        raise SystemExit(f"The data folder {folder} does not exist (from --data or {DATA_VARIABLE}).")
    return folder


def _file(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.is_file():
        raise SystemExit(f"{name} is not in {folder}. Get it from {SOURCES[name]} and put it there.")
    return path


def parkinson(folder: Path, *, held_out: int = 880, seed: int = 0) -> Split:
    """Age, sex and 16 voice measures of 5,875 recordings, scaled to [-1, 1]; the target is total UPDRS, in points.

    Rows are shuffled with `seed`; the first `held_out` (the 15 % of Ancona et al. 2019) are the test set.
    """
    with _file(folder, PARKINSON_FILE).open(newline="") as file:
        reader = csv.reader(file)
        header = next(reader)
        rows = np.array([[float(cell) for cell in row] for row in reader])
    names = tuple(name for name in header if name not in PARKINSON_NOT_FEATURES)
    features = rows[:, [header.index(name) for name in names]]
    low, high = features.min(axis=0), features.max(axis=0)
    inputs = torch.from_numpy(2 * (features - low) / (high - low) - 1).float()
    targets = torch.from_numpy(rows[:, [header.index(PARKINSON_TARGET)]]).float()
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed))
    test, train = order[:held_out], order[held_out:]
    return Split(inputs[train], targets[train], inputs[test], targets[test], names)


def mnist(folder: Path, *, held_out: int = 1000, seed: int = 0) -> Split:
    """The 10,000 MNIST test digits as (N, 1, 28, 28) in [-1, 1]: 9,000 to train on, `held_out` to explain."""
    with gzip.open(_file(folder, IMAGES_FILE)) as file:
        pixels = np.frombuffer(file.read(), dtype=np.uint8, offset=16).reshape(-1, 1, 28, 28)
    with gzip.open(_file(folder, LABELS_FILE)) as file:
        labels = torch.from_numpy(np.frombuffer(file.read(), dtype=np.uint8, offset=8).astype(np.int64))
    inputs = torch.from_numpy(pixels.astype(np.float32)) / 127.5 - 1
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed))
    test, train = order[:held_out], order[held_out:]
    return Split(inputs[train], labels[train], inputs[test], labels[test])
