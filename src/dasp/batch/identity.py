"""What tells one run from another: digests of the model, the baseline and the players."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from types import CodeType, FunctionType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..fingerprint import ADDRESS, of_weights, printed
from ..game import Players
from ..model import Model
from .source import digest_of


def model_digest(model: Model) -> str:
    """Of all weights, and of the program; where there is none, of the module's printed form and plain attributes."""
    return digest_of(printed(model), of_weights(model))


def described(value: Any) -> str:
    """A setting in words: a digest of what holds many numbers, else its printed form; a function by name and code.

    Raises:
        InputError: a later process would print it otherwise, and could not go on with the run.
    """
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(np.ascontiguousarray(value).astype(value.dtype.newbyteorder("=")))
    if isinstance(value, Tensor):
        flat = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        return f"{tuple(value.shape)} {value.dtype} {digest_of(flat)}"
    if isinstance(value, Players):
        return digest_of(repr((value.count, value.names)), *(described(label) for label in value.labels))
    if isinstance(value, tuple) and any(isinstance(part, Tensor | np.ndarray) for part in value):
        return digest_of(*(described(part) for part in value))
    if isinstance(value, FunctionType):
        around = [cell.cell_contents for cell in value.__closure__ or ()]
        given = [value.__defaults__, value.__kwdefaults__, *(part for part in around if part is not value)]
        return f"{value.__module__}.{value.__qualname__} {digest_of(_code(value.__code__), *map(described, given))}"
    text = repr(value)
    if not ADDRESS.search(text):
        return text
    if isinstance(value, tuple):
        return f"({', '.join(map(described, value))})"
    if is_dataclass(value) and not isinstance(value, type):
        options = (f"{field.name}={described(getattr(value, field.name))}" for field in fields(value))
        return f"{type(value).__qualname__}({', '.join(options)})"
    raise InputError(
        f"{text}: cannot be known again by a later process, which has to go on where this one was ended. Give its class "
        f"({type(value).__qualname__}) a __repr__ that names its settings; or, of a method, give a function."
    )


def _code(code: CodeType) -> str:
    """Digest of what a function does, wherever it stands."""
    inner = [_code(part) for part in code.co_consts if isinstance(part, CodeType)]
    plain = [part for part in code.co_consts if not isinstance(part, CodeType)]
    # Each process prints a set in an order of its own.
    texts = [str(sorted(map(repr, part))) if isinstance(part, frozenset) else repr(part) for part in plain]
    return digest_of(code.co_code, repr(code.co_names), *inner, *texts)
