"""Comparing tensors, with messages that give the worst element."""

from __future__ import annotations

import torch
from torch import Tensor

from .report import CheckFailed

ROUNDING = 1e-9  # relative, in float64
LEEWAY = 0.1  # how much farther off conditioning may be, of an error that is there without


def near(name: str, found: Tensor, wanted: Tensor, allowed: Tensor | float = 1e-10) -> None:
    """Within what is allowed and rounding.

    Raises:
        CheckFailed: gives the worst element with its numbers.
    """
    if found.shape != wanted.shape:
        raise CheckFailed(f"{name}: {form_of(found)}, expected {form_of(wanted)}")
    bad = ~found.isfinite() & wanted.isfinite()
    if bool(bad.any()):
        at = tuple(bad.nonzero()[0].tolist())
        raise CheckFailed(f"{name}: not finite in {int(bad.sum())} of {found.numel()} elements, {float(found[at])} at {at}")
    limit = torch.as_tensor(allowed, dtype=wanted.dtype).expand(wanted.shape) + ROUNDING * wanted.abs()
    excess = (found - wanted).abs() - limit
    count = int((excess > 0).sum())
    if count:
        place = torch.unravel_index(excess.nan_to_num(nan=0.0).argmax(), excess.shape) if excess.dim() else ()
        at = tuple(int(i) for i in place)
        off = float((found - wanted)[at].abs())
        raise CheckFailed(
            f"{name}: off by {off:.3g} at {at}, found {float(found[at]):.6g}, expected {float(wanted[at]):.6g}, "
            f"allowed {float(limit[at]):.2g}; {count} of {found.numel()} elements are off"
        )


def better(name: str, found: Tensor, other: Tensor, wanted: Tensor, allowed: Tensor | float) -> None:
    """Within what is allowed, or at least no farther off than another approximation.

    Raises:
        CheckFailed: gives the worst element with its numbers.
    """
    before = float((other - wanted).abs().max())
    if not float((found - wanted).abs().max()) <= before * (1 + LEEWAY):
        try:
            near(name, found, wanted, allowed)
        except CheckFailed as fault:
            raise CheckFailed(f"{fault}; without conditioning it is off by {before:.3g} at most") from None


def form_of(value: Tensor) -> str:
    """Shape and dtype, as in `(2, 3) float64`."""
    return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
