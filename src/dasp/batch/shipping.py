"""An explainer as bytes, to be sent to another process once."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram

from ..errors import InputError
from ..explainer import Explainer
from ..graph import quiet
from ..model import Model

Dumps = Callable[[Any], bytes]


def packed(explainer: Explainer, dumps: Dumps = pickle.dumps) -> bytes:
    """The explainer with its model, its tensors on the CPU.

    Args:
        explainer: what to send.
        dumps: pickles a module; exported programs go as the file that `torch.export.save` writes.

    Raises:
        InputError: something about it cannot be pickled.
    """
    source = explainer.model.source
    options = {
        "baseline": _on(explainer.baseline, "cpu"),
        "method": explainer.method,
        "players": _on(explainer.players, "cpu"),
        "memory": explainer.memory,
        "feature_names": explainer.feature_names,
        "semivalue": explainer.semivalue,
    }
    try:
        if isinstance(source, ExportedProgram):
            file = io.BytesIO()
            with quiet():
                torch.export.save(source, file)
            return dumps((True, file.getvalue(), options))
        return dumps((False, source, options))
    except Exception as error:  # pickling runs code of the module's own
        raise InputError(
            f"the model {explainer.model.name} or a setting cannot be sent to another process ({type(error).__name__}: "
            f"{str(error)[:200]}). Define its classes in a module that can be imported, or save it by torch.export.save and "
            "give the file."
        ) from error


def unpacked(data: bytes, device: str | None = None) -> Explainer:
    """What was packed, on a device; by default where modules lay, and programs as they were saved."""
    program, source, options = pickle.loads(data)
    if program:
        with quiet():
            source = torch.export.load(io.BytesIO(source))
    model = Model(source)
    if device is not None:
        model = moved(model, device)
    place = str(model.device or "cpu")
    options |= {name: _on(options[name], place) for name in ("baseline", "players")}
    return Explainer(model, options.pop("baseline"), **options)


def moved(model: Model, device: str) -> Model:
    """The model on another device."""
    if isinstance(model.source, ExportedProgram):
        from torch.export.passes import move_to_device_pass

        return Model(move_to_device_pass(model.source, device))
    return Model(model.source.to(device))


def _on(value: Any, device: str) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, tuple):
        return tuple(_on(part, device) for part in value)
    return value if isinstance(value, np.ndarray) or not hasattr(value, "to") else value.to(device)
