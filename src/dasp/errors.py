"""Every error a user of dasp can meet.

All derive from `DaspError`, and from the built-in error that a caller would expect where there is one.
A message says what is wrong, where, and what to do next.
"""

from __future__ import annotations


class DaspError(Exception):
    """Base of every error that dasp raises on purpose."""


class InputError(DaspError, ValueError):
    """An argument has the wrong value, shape, dtype or device, or holds NaN or infinity."""


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
