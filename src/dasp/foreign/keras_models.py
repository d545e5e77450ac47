"""Keras 3 on the torch backend, where every model is a module; `keras` is imported only to read a file."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError, MissingExtraError, ModelFileError
from .keras_masks import KeptMasks, makers, refused_masks

_SWITCH = "KERAS_BACKEND"


class KerasFunctional(nn.Module):
    """A Keras model, called as dasp calls models: one argument an input, in the order of `model.inputs`.

    Inputs given once more, behind the others, are those whose masks count: what `Embedding(mask_zero=True)` and `Masking`
    would make of them is used, whatever the first hold. The model then runs twice, for the masks and for the result.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.masked = bool(makers(model))
        structure = getattr(model, "_inputs_struct", None)
        self.names: list[str] | None = None
        if isinstance(structure, dict):
            known = {id(given): name for name, given in structure.items()}
            self.names = [known[id(given)] for given in model.inputs]  # type: ignore[union-attr]

    def forward(self, *inputs: Tensor) -> Any:
        """What the model returns for inputs (rows, ...) each, under their own masks or those of the inputs behind them.

        Raises:
            CaptureError: it is being captured, and a mask is read that absent players would change.
            InputError: neither as many inputs as the model has, nor twice as many where it makes masks.
        """
        count = len(self.model.inputs)  # type: ignore[arg-type]
        if len(inputs) == count:
            if self.masked and torch.compiler.is_compiling():
                with refused_masks(self.model):
                    return self._called(inputs)
            return self._called(inputs)
        if not self.masked or len(inputs) != 2 * count:
            twice = f", or {2 * count}: again those whose masks are kept" if self.masked else ""
            raise InputError(f"the Keras model takes {count} inputs{twice}; got {len(inputs)} with the further arguments.")
        kept = KeptMasks(self.model)
        with kept.noted(), torch.no_grad():
            self._called(inputs[count:])
        with kept.used():
            return self._called(inputs[:count])

    def _called(self, inputs: Sequence[Tensor]) -> Any:
        if self.names is not None:
            return self.model(dict(zip(self.names, inputs, strict=True)))
        return self.model(list(inputs) if len(inputs) > 1 else inputs[0])


def of_keras(source: Any) -> Any:
    """A Keras model as a module that takes its inputs one by one.

    Raises:
        InputError: the model runs on another backend.
    """
    if not isinstance(source, nn.Module):
        backend = _backend()
        where = f"on {backend}" if backend is not None else "on another backend"
        raise InputError(
            f"model: {type(source).__name__} is a Keras model {where}, and dasp explains those on torch. Save it, "
            "model.save('model.keras'); then, in a new process, set KERAS_BACKEND=torch before keras is imported, and give "
            "the path of the file to dasp."
        )
    inputs = getattr(source, "inputs", None)
    if not isinstance(inputs, (list, tuple)):
        return source
    return KerasFunctional(source) if len(inputs) > 1 or makers(source) else source


def declared_inputs(module: nn.Module) -> tuple[Tensor, ...]:
    """Two rows of zeros for every input that a Keras model declares, (2, *shape) each.

    Raises:
        InputError: not a Keras model, or one with an open axis besides the rows.
    """
    model = module.model if isinstance(module, KerasFunctional) else module
    inputs = getattr(model, "inputs", None)
    if not isinstance(inputs, (list, tuple)):
        raise InputError(f"{type(model).__name__} does not say what inputs it takes. Give inputs, or an exported program.")
    found = []
    for given in inputs:
        shape = tuple(given.shape[1:])
        if None in shape:
            raise InputError(f"the input {given.name} of the Keras model is open: {shape}. Declare its shape, or give inputs.")
        dtype = getattr(torch, str(given.dtype), torch.float32)
        device = next((weight.device for weight in model.parameters()), None)
        found.append(torch.zeros(2, *shape, dtype=dtype, device=device))
    return tuple(found)


def read_keras(path: str | os.PathLike[str]) -> nn.Module:
    """Load a `.keras` file on the torch backend, whichever backend saved it.

    Where neither keras has been imported nor KERAS_BACKEND set, keras is imported on torch.

    Raises:
        ModelFileError: the file is missing or damaged, or holds code or layers that keras does not load.
        InputError: keras runs on another backend in this process, or KERAS_BACKEND asks for one.
        MissingExtraError: keras is not installed.
    """
    name = os.fspath(path)
    if not os.path.isfile(name):
        raise ModelFileError(f"no model file {name}; save one with model.save({name!r})")
    keras = _keras_on_torch(name)
    try:
        model = keras.saving.load_model(name, compile=False, safe_mode=True)
    except Exception as error:  # the loader raises many kinds; all mean that there is no model
        reason = " ".join(str(error).split())[:500]
        raise ModelFileError(
            f"{name}: keras could not load it: {type(error).__name__}: {reason}\n  Load it yourself, "
            "keras.saving.load_model(path, custom_objects=...), and give the model instead of the path."
        ) from error
    if not isinstance(model, nn.Module):
        raise ModelFileError(f"{name} holds {type(model).__name__}, which is not a model")
    return model


def _keras_on_torch(name: str) -> Any:
    asked = _backend() if "keras" in sys.modules else os.environ.get(_SWITCH)
    if asked not in (None, "", "torch"):
        raise InputError(
            f"model: {name} cannot be loaded, because keras runs on {asked} in this process. Set KERAS_BACKEND=torch before "
            "keras is imported (in the shell, or os.environ['KERAS_BACKEND'] = 'torch' on top of the program)."
        )
    before = os.environ.get(_SWITCH)
    try:
        os.environ[_SWITCH] = "torch"
        import keras
    except ImportError as error:
        raise MissingExtraError(f"{name}: .keras files need keras: pip install 'dasp[keras]'.") from error
    finally:
        if before is None:
            del os.environ[_SWITCH]
        else:
            os.environ[_SWITCH] = before
    return keras


def _backend() -> str | None:
    keras = sys.modules.get("keras")
    backend = getattr(getattr(keras, "backend", None), "backend", None)
    return str(backend()) if callable(backend) else None
