"""What tells one run from another: digests of the model, the baseline and the players."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram

from ..game import Players
from ..model import Model
from .source import digest_of


def model_digest(model: Model) -> str:
    """Of all weights, and of the program, or where there is none of the module's printed form."""
    source = model.source
    code = source.graph_module.code if isinstance(source, ExportedProgram) else getattr(source, "code", None)
    named = [part for name, weight in model.weights() for part in (name, described(weight))]
    return digest_of(code if isinstance(code, str) else repr(source), *named)


def described(value: Any) -> str:
    """A setting in words: a digest of what holds many numbers, else its printed form."""
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(np.ascontiguousarray(value).astype(value.dtype.newbyteorder("=")))
    if isinstance(value, Tensor):
        flat = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        return f"{tuple(value.shape)} {value.dtype} {digest_of(flat)}"
    if isinstance(value, Players):
        return digest_of(*(described(label) for label in value.labels))
    if isinstance(value, tuple) and any(isinstance(part, Tensor | np.ndarray) for part in value):
        return digest_of(*(described(part) for part in value))
    return repr(value)
