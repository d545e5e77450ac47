"""Every error a user of dasp can meet.

All derive from `DaspError`, and from the built-in error that a caller would expect where there is one.
A message says what is wrong, where, and what to do next.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


class DaspError(Exception):
    """Base of every error that dasp raises on purpose."""


class InputError(DaspError, ValueError):
    """An argument has the wrong value, shape, dtype or device, or holds NaN or infinity."""


class CompletenessWarning(UserWarning):
    """Propagated values do not add up to what they explain by far, so that they are far from the Shapley values."""


class AdditivityError(DaspError, AssertionError):
    """Values do not add up to what they explain, and the caller asked for this to be an error, as shap's users do."""


class CoalitionError(InputError):
    """The model gives NaN or infinity at a coalition.

    Attributes:
        row: the row of the batch.
        coalition: which players are present, (n,) bool.
        inputs: what the model was given, one tensor (1, *shape) for each input.
    """

    def __init__(self, message: str, row: int, coalition: Tensor, inputs: tuple[Tensor, ...]) -> None:
        super().__init__(message)
        self.row, self.coalition, self.inputs = row, coalition, inputs

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (*self.args, self.row, self.coalition, self.inputs)


class InputTypeError(DaspError, TypeError):
    """An argument has the wrong type."""


class CaptureError(DaspError, RuntimeError):
    """The model could not be captured as one graph; the message carries the reason of `torch.export`."""


class ModelFileError(DaspError, ValueError):
    """A model file is missing, corrupt, or not a program saved by `torch.export.save`."""


class DataFileError(DaspError, ValueError):
    """A file of rows or a baseline cannot be read, or holds text, gaps or the wrong columns."""


class OutputFileError(DaspError, OSError):
    """An output path cannot be written."""


class RuleFault(DaspError, RuntimeError):
    """A moment rule raised an error, or cannot be differentiated."""


class MissingRuleError(DaspError, NotImplementedError):
    """An operation meets a random value and no moment rule exists for it."""


class NumericsError(DaspError, ArithmeticError):
    """Moments or values stopped being finite; the message says where."""


class MemoryBoundError(DaspError, MemoryError):
    """The settings asked for cannot be computed within the memory bound."""


class CostError(DaspError, ValueError):
    """The work asked for is so large that it must be asked for explicitly, or a budget is too small for the method."""


class MissingExtraError(DaspError, ImportError):
    """An optional package is needed; the message names the extra that installs it."""


class WorkerError(DaspError, RuntimeError):
    """Processes that explain parts of a data set are lost again and again."""
