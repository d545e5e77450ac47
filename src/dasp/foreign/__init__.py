"""Models of other libraries: Keras 3 as it is or from a file, scikit-learn's perceptrons converted, the rest refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import InputTypeError, ModelFileError
from .keras_models import declared_inputs as declared_inputs
from .keras_models import of_keras as of_keras
from .keras_models import read_keras as read_keras
from .sklearn_models import from_sklearn as from_sklearn

_OTHER_FILES = {
    ".onnx": "dasp reads no ONNX: the converter to PyTorch that is maintained, onnx2torch, installs torchvision, which dasp "
    "does not ask of you. Explain the model that the file was exported from; or convert it in an environment of its own, "
    "onnx2torch.convert(path), export that with torch.export.export and a dynamic batch, and save it as a .pt2 file.",
    ".h5": "an old file of Keras: load it with keras.saving.load_model and save it again under a name that ends in .keras.",
    ".hdf5": "an old file of Keras: load it with keras.saving.load_model and save it again under a name that ends in .keras.",
}


def adapted(source: Any) -> Any:
    """A model of another library as a module where that needs nothing but a wrapper; anything else as it came.

    Raises:
        InputError: a Keras model that does not run on torch.
        InputTypeError: an estimator that must be converted or unwrapped first; the message says how.
    """
    packages = {kind.__module__.partition(".")[0] for kind in type(source).__mro__}
    name = type(source).__name__
    if "keras" in packages:
        return of_keras(source)
    if isinstance(source, nn.Module):
        return source
    if "skorch" in packages:
        raise InputTypeError(f"model: {name} of skorch holds a module. Give that, fitted: dasp.Explainer(net.module_, ...).")
    if "sklearn" in packages:
        raise InputTypeError(
            f"model: {name} of scikit-learn is not a module. Convert a perceptron, or a pipeline that ends in one: "
            "dasp.Explainer(dasp.from_sklearn(estimator), ...)."
        )
    if "onnx" in packages or "onnxruntime" in packages:
        raise InputTypeError(f"model: {name}: {_OTHER_FILES['.onnx']}")
    return source


def opened(path: str | os.PathLike[str]) -> nn.Module | None:
    """The model in a file of another library, None where the file's name is not one of those.

    Raises:
        ModelFileError: the file is missing or damaged, or of a kind that dasp cannot read.
        InputError, MissingExtraError: Keras runs on another backend, or is not installed.
    """
    ending = Path(os.fspath(path)).suffix.lower()
    if ending in _OTHER_FILES:
        raise ModelFileError(f"{os.fspath(path)}: {_OTHER_FILES[ending]}")
    return read_keras(path) if ending == ".keras" else None
