"""What tells one run from another: digests of the model, the baseline and the players."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram

from ..fingerprint import of_weights
from ..game import Players
from ..model import Model
from .source import digest_of


def model_digest(model: Model) -> str:
    """Of all weights, and of the program; where there is none, of the module's printed form and plain attributes."""
    source = model.source
    code = source.graph_module.code if isinstance(source, ExportedProgram) else getattr(source, "code", None)
    return digest_of(code if isinstance(code, str) else repr(source) + _attributes(source), of_weights(model))


def _attributes(source: Any) -> str:
    """The numbers, texts and sequences of them that modules hold beside their weights; not whether they train."""
    found = []
    for name, module in source.named_modules() if isinstance(source, torch.nn.Module) else ():
        kind = f"{type(module).__module__}.{type(module).__qualname__}"
        plain = {key: value for key, value in vars(module).items() if key != "training" and _is_plain(value)}
        found.append(f"{name} {kind} {sorted(plain.items())!r}")
    return "\n".join(found)


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | complex | str)


def described(value: Any) -> str:
    """A setting in words: a digest of what holds many numbers, else its printed form."""
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(np.ascontiguousarray(value).astype(value.dtype.newbyteorder("=")))
    if isinstance(value, Tensor):
        flat = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        return f"{tuple(value.shape)} {value.dtype} {digest_of(flat)}"
    if isinstance(value, Players):
        return digest_of(repr((value.count, value.names)), *(described(label) for label in value.labels))
    if isinstance(value, tuple) and any(isinstance(part, Tensor | np.ndarray) for part in value):
        return digest_of(*(described(part) for part in value))
    return repr(value)
