"""scikit-learn's perceptrons, and pipelines that end in one, as modules that compute the same in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError, InputTypeError, MissingExtraError


class Affine(nn.Module):
    """(x - shift) / scale, element by element; scale and shift are numbers or of shape (features,)."""

    shift: Tensor
    scale: Tensor

    def __init__(self, shift: Any, scale: Any) -> None:
        super().__init__()
        self.register_buffer("shift", _tensor(0.0 if shift is None else shift))
        self.register_buffer("scale", _tensor(1.0 if scale is None else scale))

    def forward(self, x: Tensor) -> Tensor:
        """(rows, features) to the same."""
        return (x - self.shift) / self.scale


class Chosen(nn.Module):
    """Some of the features, in order."""

    places: Tensor

    def __init__(self, places: Any) -> None:
        super().__init__()
        self.register_buffer("places", torch.as_tensor(places))

    def forward(self, x: Tensor) -> Tensor:
        """(rows, features) to (rows, chosen)."""
        return x.index_select(1, self.places)


class Exponential(nn.Module):
    """exp(x), the inverse link of a regression of counts."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape to the same."""
        return x.exp()


class BothClasses(nn.Module):
    """The probabilities of the classes "no" and "yes" of one logit."""

    def forward(self, logit: Tensor) -> Tensor:
        """(rows, 1) to (rows, 2)."""
        return torch.cat([torch.sigmoid(-logit), torch.sigmoid(logit)], 1)


def from_sklearn(estimator: Any, *, probabilities: bool = False) -> nn.Module:
    """A fitted perceptron of scikit-learn, or a pipeline of scalers and one, as a module in float64.

    The weights are copied: fitting the estimator again does not change the module.

    Args:
        estimator: `MLPClassifier`, `MLPRegressor`, or a `Pipeline` that ends in one. Steps before it may be StandardScaler,
            MinMaxScaler, MaxAbsScaler, RobustScaler, PCA, TruncatedSVD, selectors of features, and "passthrough".
        probabilities: of a classifier, the probabilities of `predict_proba` (several labels: of each) rather than the
            scores before the last nonlinearity, which add up better.

    Returns:
        A module from (rows, features) to (rows, outputs). A classifier of two classes has one score, the logit of
        `classes_[1]`, and two probabilities; one of more classes a score a class. A regressor gives what `predict` does.

    Raises:
        InputTypeError: not an estimator that can be converted.
        InputError: it is not fitted, a step has no exact module, or `probabilities` of a regressor.
        MissingExtraError: scikit-learn is not installed.

    >>> import dasp, numpy as np
    >>> from sklearn.neural_network import MLPRegressor
    >>> rows = np.random.default_rng(0).normal(size=(50, 3))
    >>> estimator = MLPRegressor(max_iter=2000, tol=1e-2, random_state=0).fit(rows, rows.prod(1))
    >>> module = dasp.from_sklearn(estimator)
    >>> bool(abs(module(torch.tensor(rows))[:, 0].detach().numpy() - estimator.predict(rows)).max() < 1e-10)
    True
    """
    try:
        from sklearn.exceptions import NotFittedError
        from sklearn.neural_network import MLPClassifier, MLPRegressor
        from sklearn.pipeline import Pipeline
        from sklearn.utils.validation import check_is_fitted
    except ImportError as error:
        raise MissingExtraError("from_sklearn needs scikit-learn: pip install 'dasp[sklearn]'.") from error
    steps = _flat("", estimator, Pipeline)
    last = steps[-1][1]
    if not isinstance(last, (MLPClassifier, MLPRegressor)):
        where = f"the last step {steps[-1][0]!r} is {_kind(last)}" if steps[-1][0] else f"got {_kind(last)}"
        raise InputTypeError(
            f"from_sklearn: {where}; only MLPClassifier, MLPRegressor and pipelines that end in one are converted. "
            "Of other estimators dasp cannot propagate moments."
        )
    if probabilities and isinstance(last, MLPRegressor):
        raise InputError("from_sklearn: probabilities=True is for classifiers; a regressor has none.")
    layers: list[nn.Module] = []
    for name, step in steps:
        if step is None or step == "passthrough":
            continue
        try:
            check_is_fitted(step)
        except NotFittedError as error:
            raise InputError(f"from_sklearn: {type(step).__name__} is not fitted; call fit first.") from error
        except TypeError as error:
            raise InputTypeError(f"from_sklearn: step {name!r}, {_kind(step)}, is no fitted estimator.") from error
        layers += _perceptron(last, probabilities) if step is last else _step(name, step)
    return nn.Sequential(*layers).double().eval()


def _flat(name: str, step: Any, pipeline: type) -> list[tuple[str, Any]]:
    """Names and steps of a pipeline, those of pipelines inside it in their place."""
    if not isinstance(step, pipeline):
        return [(name, step)]
    return [found for inner_name, inner in step.steps for found in _flat(inner_name, inner, pipeline)]  # type: ignore[attr-defined]


def _kind(value: Any) -> str:
    return value.__name__ + " (a class, not fitted)" if isinstance(value, type) else type(value).__name__


def _tensor(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _linear(weight: Any, bias: Any) -> nn.Linear:
    """A layer of weight (inputs, outputs), as scikit-learn keeps it, and bias (outputs,)."""
    layer = nn.Linear(weight.shape[0], weight.shape[1], dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(_tensor(weight.T))
        layer.bias.copy_(_tensor(bias))
    return layer


_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"logistic": nn.Sigmoid, "tanh": nn.Tanh, "relu": nn.ReLU}


def _perceptron(mlp: Any, probabilities: bool) -> list[nn.Module]:
    if mlp.activation not in ("identity", *_ACTIVATIONS):
        raise InputError(f"from_sklearn: the activation {mlp.activation!r} is not known; write the module by hand.")
    layers: list[nn.Module] = []
    for i, (weight, bias) in enumerate(zip(mlp.coefs_, mlp.intercepts_, strict=True)):
        if i and mlp.activation != "identity":
            layers.append(_ACTIVATIONS[mlp.activation]())
        layers.append(_linear(weight, bias))
    if mlp.out_activation_ == "exp":
        layers.append(Exponential())
    elif mlp.out_activation_ not in ("identity", "logistic", "softmax"):
        raise InputError(f"from_sklearn: the output {mlp.out_activation_!r} is not known; write the module by hand.")
    elif probabilities and mlp.out_activation_ == "softmax":
        layers.append(nn.Softmax(1))
    elif probabilities:
        # Two classes are one logit and two probabilities; several labels are a logit and a probability each.
        layers.append(BothClasses() if mlp.n_outputs_ == 1 else nn.Sigmoid())
    return layers


def _standard(step: Any) -> list[nn.Module]:
    return [Affine(step.mean_ if step.with_mean else None, step.scale_)]


def _min_max(step: Any) -> list[nn.Module]:
    scaled = Affine(-step.min_ / step.scale_, 1 / step.scale_)
    low, high = map(float, step.feature_range)
    return [scaled, nn.Hardtanh(low, high)] if step.clip else [scaled]


def _max_abs(step: Any) -> list[nn.Module]:
    scaled = Affine(None, step.scale_)
    return [scaled, nn.Hardtanh(-1.0, 1.0)] if getattr(step, "clip", False) else [scaled]


def _robust(step: Any) -> list[nn.Module]:
    return [Affine(step.center_ if step.with_centering else None, step.scale_ if step.with_scaling else None)]


def _components(step: Any) -> list[nn.Module]:
    """PCA and TruncatedSVD; directions of no variance are divided by as little as scikit-learn does."""
    import numpy as np

    weight = step.components_.T
    if getattr(step, "whiten", False):
        deviation = np.sqrt(step.explained_variance_)
        weight = weight / np.maximum(deviation, np.finfo(deviation.dtype).eps)
    mean = getattr(step, "mean_", None)
    return [_linear(weight, np.zeros(weight.shape[1]) if mean is None else -mean @ weight)]


_STEPS: dict[str, Callable[[Any], list[nn.Module]]] = {
    "StandardScaler": _standard, "MinMaxScaler": _min_max, "MaxAbsScaler": _max_abs, "RobustScaler": _robust,
    "PCA": _components, "TruncatedSVD": _components,
}  # fmt: skip
"""By the exact name of the class: a class that derives from one of these may transform differently."""


def _step(name: str, step: Any) -> list[nn.Module]:
    from sklearn.feature_selection import SelectorMixin

    if isinstance(step, SelectorMixin):
        return [Chosen(step.get_support(indices=True))]
    if type(step).__name__ in _STEPS and type(step).__module__.startswith("sklearn."):
        return _STEPS[type(step).__name__](step)
    raise InputError(
        f"from_sklearn: step {name!r}, {type(step).__name__}, has no exact module; those with one are "
        f"{', '.join(_STEPS)} and selectors of features. Apply the steps up to it to your rows, pipeline[:i].transform(rows), "
        "and convert the rest, pipeline[i:]; the players are then the transformed features."
    )
