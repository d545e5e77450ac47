"""Digests of tensors and of all weights of a model, and its printed form, by which files know what they belong to."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from .model import Model

ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
"""Where an object lies in memory, which its printed form may hold; another process puts it elsewhere."""


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


def of_form(model: Model) -> dict[str, str]:
    """Of what a model computes beside its weights, and what kind of form that is of: others compare with no other.

    Texts are left out, among which are places where weights were read from.
    """
    kind = "program" if isinstance(model.source, ExportedProgram) else "module"
    return {"kind": kind, "digest": hashlib.sha256(printed(model, texts=False).encode()).hexdigest()}


def printed(model: Model, *, texts: bool = True) -> str:
    """The code of a program; of a module its printed form, and the numbers, and texts, that its modules hold beside weights."""
    source = model.source
    code = source.graph_module.code if isinstance(source, ExportedProgram) else getattr(source, "code", None)
    if isinstance(code, str):
        return code
    found = [ADDRESS.sub("", repr(source))]
    torchs = vars(nn.Module())  # whether they train, and the hooks
    for name, module in source.named_modules() if isinstance(source, nn.Module) else ():
        kind = f"{type(module).__module__}.{type(module).__qualname__}"
        plain = {key: value for key, value in vars(module).items() if key not in torchs and _is_plain(value, texts)}
        found.append(f"{name} {kind} {sorted(plain.items())!r}")
    return "\n".join(found)


def _is_plain(value: Any, texts: bool) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(part, texts) for part in value)
    return value is None or isinstance(value, bool | int | float | complex) or (texts and isinstance(value, str))
