"""The two networks of the benchmarks, trained once with a fixed seed and kept in the cache folder.

Modules only, each used once, so that tools that look at modules (captum's DeepLift) read them rightly.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from data import Split


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


def fingerprint(*tensors: Tensor) -> str:
    """16 hex digits that change when any value changes: the key of everything that is cached."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(str(tuple(tensor.shape)).encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def weights_key(model: nn.Module) -> str:
    """The fingerprint of a model's parameters and buffers."""
    return fingerprint(*model.state_dict().values())


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Write to a neighbouring name, then rename: an interrupt leaves the old file or the new one, never half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"partial-{os.getpid()}-{path.name}")
    try:
        write(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def trained(
    build: Callable[[], nn.Sequential],
    split: Split,
    loss: nn.Module,
    *,
    name: str,
    cache: Path,
    epochs: int,
    seed: int = 0,
) -> nn.Sequential:
    """`build()` trained on `split`, Adam at 1e-3 in batches of 64, in eval mode; read from `cache` if it is there."""
    settings = fingerprint(split.train_inputs[:64], torch.tensor([epochs, seed, len(split.train_inputs)]))
    path = cache / f"{name}-{settings}.pt"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build()
        if path.is_file():
            model.load_state_dict(torch.load(path, weights_only=True))
            return model.eval()
        optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
        model.train()
        for _ in tqdm(range(epochs), desc=f"train {name}", leave=False):
            for rows in torch.randperm(len(split.train_inputs)).split(64):
                optimiser.zero_grad()
                loss(model(split.train_inputs[rows]), split.train_targets[rows]).backward()
                optimiser.step()
    replace_file(path, lambda partial: torch.save(model.state_dict(), partial))
    return model.eval()


def trained_mlp(split: Split, cache: Path, *, epochs: int = 250, seed: int = 0) -> nn.Sequential:
    """The Parkinson network."""
    return trained(parkinson_mlp, split, nn.MSELoss(), name="parkinson-mlp", cache=cache, epochs=epochs, seed=seed)


def trained_lenet(split: Split, cache: Path, *, epochs: int = 15) -> nn.Sequential:
    """The MNIST network."""
    return trained(lenet, split, nn.CrossEntropyLoss(), name="mnist-lenet", cache=cache, epochs=epochs)


def test_score(model: nn.Module, split: Split) -> float:
    """Accuracy where targets are labels, else the mean absolute error in the target's unit."""
    with torch.no_grad():
        outputs = model(split.test_inputs)
    if split.test_targets.dtype == torch.int64:
        return float((outputs.argmax(dim=1) == split.test_targets).float().mean())
    return float((outputs - split.test_targets).abs().mean())
