"""What the front door refuses or brings into form, argument by argument."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .attribution import RESERVED
from .errors import CompletenessWarning, DaspError, InputError, InputTypeError
from .estimators import Estimator
from .model import Model
from .semivalues import Weighting
from .tables import repeated

WIDE_GAP = 0.1
"""Completeness gap, relative to the sum of magnitudes, that is worth a warning."""


def plain(x: Tensor) -> Tensor:
    """Free of gradients and of inference mode, whose tensors cannot take part in autograd."""
    return x.clone() if x.is_inference() else x.detach()


def as_array_hint(part: Any) -> str:
    """What turns a value that is no array into one, as a sentence, or nothing."""
    if hasattr(part, "to_numpy"):  # of pandas or polars
        return " Use .to_numpy(dtype='float32'), or the model's dtype."
    return " Use torch.tensor(...), and a tuple for several inputs." if isinstance(part, list) else ""


def one_row_hint(model: Model, inputs: tuple[Tensor, ...], extra: tuple[Any, ...]) -> str:
    """A sentence where the model takes the inputs with one more axis, so that they are a single row; else nothing."""
    try:
        output = model.evaluate(*(torch.stack((x, x)) for x in inputs), *extra)
    except DaspError:
        return ""
    if not output.ndim or len(output) != 2:
        return ""
    return " With one more axis in front the model takes it: if this is a single row, give it a batch axis, as x[None]."


def mask_of(part: Any) -> Any:
    """A numpy mask as a tensor; anything else as it is."""
    if not isinstance(part, np.ndarray):
        return part
    try:
        return torch.from_numpy(native(part))
    except TypeError:
        raise InputTypeError(f"players: expected an array of integers, got one of {part.dtype}.") from None


def check_finite(x: Tensor, name: str) -> None:
    """Refuse NaN and infinity; the message carries their number and the first place."""
    if not x.is_floating_point():
        return
    bad = ~torch.isfinite(x)
    if bool(bad.any()):
        index = tuple(bad.nonzero()[0].tolist())
        raise InputError(
            f"{name}: holds NaN or infinity in {int(bad.sum())} place(s), the first at {index}. "
            "Fill or drop them first."
        )


def further(arguments: Any) -> tuple[Any, ...]:
    """`additional_forward_args` as a tuple."""
    if not isinstance(arguments, tuple):
        arguments = () if arguments is None else (arguments,)
    return tuple(plain(e) if isinstance(e, Tensor) else e for e in arguments)


def native(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A copy in this machine's byte order, which torch needs."""
    return np.array(array, dtype=array.dtype.newbyteorder("="))


def checked_names(names: Sequence[str]) -> tuple[str, ...]:
    """Refuse feature names that are no strings, come twice, or are columns of a result's frame."""
    if isinstance(names, str) or not isinstance(names, Iterable) or not all(isinstance(name, str) for name in names):
        raise InputTypeError("feature_names: expected a sequence of strings, one per player.")
    names = tuple(names)
    twice = repeated(names)
    if twice is not None:
        raise InputError(f"feature_names: {twice!r} comes twice. Names must differ.")
    taken = next((name for name in names if name in RESERVED), None)
    if taken is not None:
        raise InputError(f"feature_names: {taken!r} is a column of the result itself. Rename that feature.")
    return names


def as_json(target: Any) -> Any:
    """A target in types that JSON can hold."""
    if isinstance(target, Tensor | np.ndarray):
        return target.tolist()
    if isinstance(target, list | tuple):
        return [as_json(t) for t in target]
    return target if target is None else int(target)


def with_graphs(inputs: Any, checked: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The inputs as they came, with their graphs, where they are tensors outside of inference mode."""
    parts = inputs if isinstance(inputs, tuple) else (inputs,)
    return tuple(
        part if isinstance(part, Tensor) and not part.is_inference() else known
        for part, known in zip(parts, checked, strict=True)
    )


def check_semivalue(semivalue: Any, method: Estimator | None) -> None:
    """Refuse what is no semivalue, or one that the method does not take."""
    if semivalue is None:
        return
    if not isinstance(semivalue, Weighting):
        hint = f" Write {semivalue.__name__}(...)." if isinstance(semivalue, type) else ""
        raise InputTypeError(f"semivalue: expected dasp.Banzhaf() or another semivalue, got {semivalue!r}.{hint}")
    if method is not None and not method.semivalues:
        raise InputError(
            f"semivalue: {type(method).__name__} computes Shapley values only. Use method=dasp.Propagation(), "
            "dasp.Exact() or dasp.PermutationSampling()."
        )


def warn_of_gap(gap: Tensor) -> None:
    """Say so where values do not add up by far; the gap (B, T) itself is in the result."""
    wide = (gap.abs() > WIDE_GAP).any(1).nonzero()[:, 0].tolist()
    if wide:
        listed = ", ".join(map(str, wide[:8])) + (", ..." if len(wide) > 8 else "")
        warnings.warn(
            f"the values of {len(wide)} row(s) ({listed}) do not add up to output - base value: result.gap is up to "
            f"{float(gap.abs().max()):.0%} of their magnitudes. The moments are too coarse for this network: see "
            "result.audit(), and take method=dasp.Refine(), which goes on until the error is small.",
            CompletenessWarning,
            stacklevel=4,
        )
