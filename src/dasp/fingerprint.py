"""Digests of tensors and of all weights of a model, by which files know what they belong to."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor

from .model import Model


def of_tensors(named: Iterable[tuple[str, Tensor]]) -> str:
    """Of the names, shapes, dtypes and values of tensors, in this order."""
    whole = hashlib.sha256()
    for name, tensor in named:
        flat = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        whole.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\0".encode() + flat.numpy().tobytes())
    return whole.hexdigest()


def of_weights(model: Model) -> str:
    """Of all parameters and buffers, in whatever order they come."""
    return of_tensors(sorted(model.weights(), key=lambda pair: pair[0]))
