"""The networks of the paper, trained once from a seed and kept in the cache folder.

Modules only, each used once, so that tools that look at modules (captum's DeepLift) read them rightly.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..errors import DataFileError
from .data import Split
from .files import fingerprint, write_weights
from .measures import areas_under_roc


def parkinson_mlp() -> nn.Sequential:
    """18-128-64-1 with ReLU and dropout 0.2 (Ancona et al. 2019)."""
    return nn.Sequential(
        nn.Linear(18, 128),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Linear(128, 64),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Linear(64, 1),
    )


def lenet() -> nn.Sequential:
    """Two 5x5 convolutions (6, 16 channels) with max-pooling, then 120, 84 and 10 units; logits, no softmax."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(256, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, 10),
    )


def trained(
    build: Callable[[], nn.Sequential],
    split: Split,
    loss: nn.Module,
    *,
    name: str,
    cache: Path,
    epochs: int,
    seed: int = 0,
    progress: bool | None = None,
) -> nn.Sequential:
    """`build()` trained on `split`, Adam at 1e-3 in batches of 64, in eval mode; read from `cache` if it is there.

    The global random state is left as it was.

    Raises:
        DataFileError: the file in the cache is damaged.
        OutputFileError: the weights cannot be kept.
    """
    settings = fingerprint(split.train_inputs[:64], torch.tensor([epochs, seed, len(split.train_inputs)]))
    path = cache / f"{name}-{settings}.pt"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build()
        if path.is_file():
            return _loaded(model, path)
        optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
        model.train()
        hidden = None if progress is None else not progress
        for _ in tqdm(range(epochs), desc=f"train {name}", unit="epoch", leave=False, disable=hidden):
            for rows in torch.randperm(len(split.train_inputs)).split(64):
                optimiser.zero_grad()
                loss(model(split.train_inputs[rows]), split.train_targets[rows]).backward()
                optimiser.step()
    write_weights(path, model)
    return model.eval()


def _loaded(model: nn.Sequential, path: Path) -> nn.Sequential:
    try:
        model.load_state_dict(torch.load(path, weights_only=True))
    except (OSError, EOFError, RuntimeError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0]
        raise DataFileError(f"{path}: holds no weights of this network ({reason}). Delete it to train again.") from error
    return model.eval()


def score(model: nn.Module, split: Split) -> str:
    """How good the network is on the rows held out: accuracy of labels, area under the ROC curve of each of several yes-no
    tasks, else the mean absolute error in the target's unit.
    """
    with torch.no_grad():
        outputs: Tensor = model(split.test_inputs)
    targets = split.test_targets
    if targets.dtype == torch.int64:
        return f"accuracy {100 * float((outputs.argmax(dim=1) == targets).float().mean()):.1f} %"
    if targets.shape[1] > 1:
        areas = areas_under_roc(outputs.double().numpy(), targets.numpy() > 0.5)
        return "AUROC " + ", ".join(f"{area:.3f}" for area in areas)
    return f"mean absolute error {float((outputs - targets).abs().mean()):.2f} points"
