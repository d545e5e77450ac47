"""Methods of other packages, or a user's own, behind the interface of our estimators."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import DaspError, InputError, InputTypeError
from ..estimators import Estimate, Estimator
from ..game import Game
from ..model import evaluating

Attribute = Callable[[nn.Module, Any, Any, Any], Any]
"""`(model, inputs, baseline, target) -> attributions`, tensors or numpy arrays of the inputs' shapes.

inputs (B, *shape) and baseline (1 or B, *shape) are tensors, or tuples of tensors where the model takes several inputs, and
so are the attributions. target is what captum takes: None where the model gives one number a row, an int, a tuple of ints for
several output axes, or a tensor (B,) where the rows have different ones (for several axes a list of tuples).
"""


@dataclass(frozen=True)
class External(Estimator):
    """Any attribution method as an estimator, so that an `Explainer` runs it, and `audit` and `axioms` measure it.

    Attributions of elements are summed over the elements of each player. The model is in evaluation mode, gradients are
    enabled. Evaluations are counted as the rows that pass the model forward.

    Attributes:
        attribute: the method; see `Attribute`.

    >>> import torch, dasp
    >>> def occlusion(model, inputs, baseline, target):
    ...     rows = [torch.where(torch.arange(3) == i, baseline, inputs) for i in range(3)]
    ...     return torch.cat([model(inputs) - model(row) for row in rows], 1)
    >>> explainer = dasp.Explainer(torch.nn.Linear(3, 1), 0.0, method=dasp.axioms.External(occlusion))
    >>> explainer(torch.ones(2, 3)).gap.abs().max() < 1e-5
    tensor(True)
    """

    attribute: Attribute

    def __post_init__(self) -> None:
        if isinstance(self.attribute, type) or not callable(self.attribute):
            raise InputTypeError(
                f"attribute: expected a function (model, inputs, baseline, target) -> attributions, got {self.attribute!r}."
            )

    @property
    def name(self) -> str:
        """Name of the function."""
        return str(getattr(self.attribute, "__name__", type(self.attribute).__name__))

    def estimate(self, game: Game, *, progress: bool = False) -> Estimate:
        """What the method gives, for every target in turn.

        Raises:
            InputError: the method raised (its own message is carried), gave other shapes than the inputs', or NaN or
                infinity; or the model takes further arguments, which a method is not given.
            InputTypeError: it gave something else than tensors or arrays.
        """
        if game.extra:
            raise InputError(
                f"attribute: {self.name} is not given additional_forward_args. Wrap the model in a module that holds them."
            )
        source = game.model.source
        module: nn.Module = source if isinstance(source, nn.Module) else source.module()
        counted: list[int] = []
        hook = module.register_forward_pre_hook(lambda _, arguments: counted.append(_rows(arguments)))
        try:
            with torch.inference_mode(False), torch.enable_grad(), evaluating(module):
                values = [self._values(game, module, target) for target in range(game.targets.count)]
        finally:
            hook.remove()
        return Estimate(torch.stack(values, 1), None, sum(counted) / game.batch, {"attribute": self.name})

    def _values(self, game: Game, module: nn.Module, target: int) -> Tensor:
        """Per player, (B, n), float64."""
        inputs = tuple(x.clone() for x in game.inputs)
        baselines = tuple(b.clone() for b in game.baselines)
        alone = len(inputs) == 1
        try:
            found = self.attribute(
                module, inputs[0] if alone else inputs, baselines[0] if alone else baselines, _target(game, target)
            )
        except (DaspError, MemoryError):
            raise
        except Exception as error:  # a method of others raises anything
            reason = " ".join(str(error).split())[:300]
            raise InputError(f"{self.name} failed: {type(error).__name__}: {reason}") from error
        parts = found if isinstance(found, tuple | list) else (found,)
        if len(parts) != len(inputs):
            raise InputError(f"attribute: {self.name} gave {len(parts)} attributions for {len(inputs)} input(s).")
        total = torch.zeros(game.batch, game.players.count, dtype=torch.float64, device=game.device)
        for part, x, label in zip(parts, inputs, game.players.labels, strict=True):
            total = total.index_add(1, label.flatten(), self._checked(part, x).reshape(game.batch, -1))
        return total

    def _checked(self, part: Any, x: Tensor) -> Tensor:
        if not isinstance(part, Tensor | np.ndarray):
            raise InputTypeError(f"attribute: {self.name} gave {type(part).__name__}; give a tensor or a numpy array.")
        if isinstance(part, np.ndarray):
            if part.dtype.kind not in "biuf":
                raise InputTypeError(f"attribute: {self.name} gave an array of {part.dtype}; give real numbers.")
            part = torch.from_numpy(part.astype(np.float64, order="C"))  # torch wants this byte order and positive strides
        if part.is_complex():
            raise InputTypeError(f"attribute: {self.name} gave a tensor of {part.dtype}; give real numbers.")
        values: Tensor = part.detach().to(device=x.device, dtype=torch.float64)
        values = values if values.layout == torch.strided else values.to_dense()
        if values.shape != x.shape:
            raise InputError(
                f"attribute: {self.name} gave attributions of shape {tuple(values.shape)} for inputs of shape "
                f"{tuple(x.shape)}. Give one number for each input element."
            )
        if not bool(values.isfinite().all()):
            raise InputError(f"attribute: {self.name} gave NaN or infinity.")
        return values


def _rows(arguments: tuple[Any, ...]) -> int:
    return len(arguments[0]) if arguments and isinstance(arguments[0], Tensor) else 0


def _target(game: Game, target: int) -> Any:
    """One target in captum's form."""
    index = game.targets.index[:, target]  # (1 or B, k)
    if index.shape[1] == 0:
        return None
    if len(index) == 1:
        only = tuple(index[0].tolist())
        return only[0] if len(only) == 1 else only
    return index[:, 0] if index.shape[1] == 1 else [tuple(row) for row in index.tolist()]


def as_estimator(method: Any, name: str) -> Estimator:
    """An estimator as it is, a function as an `External`."""
    if isinstance(method, Estimator):
        return method
    if isinstance(method, type) and issubclass(method, Estimator):
        raise InputTypeError(f"{name}: expected an estimator, got the class. Write {method.__name__}().")
    if isinstance(method, type) or not callable(method):
        raise InputTypeError(
            f"{name}: expected an estimator such as dasp.Exact(), or a function (model, inputs, baseline, target) -> "
            f"attributions, got {method!r}."
        )
    return External(method)
