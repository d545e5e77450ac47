"""Where the derivatives of moments stop being finite, found after the fact by a second pass."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx

from ..errors import NumericsError
from ..gaussian import Gaussian
from ..graph import layer_of
from ..propagate import Watch, refuse_infinite
from .preparation import gradient


def refuse_lost_slopes(means: Callable[[Tensor, Watch | None], Tensor], shift: Tensor) -> None:
    """Refuse moments that are not finite, or whose derivatives by `shift` are not.

    Args:
        means: the propagated means at a shift of the coalitions; calls the watch with every node and its value.
        shift: where the derivatives were taken.

    Raises:
        NumericsError: names the operation and its layer.
    """
    with torch.no_grad():
        means(shift, refuse_infinite)
    lost: list[fx.Node] = []  # from the output to the input
    fresh = shift.detach().requires_grad_()
    gradient(means(fresh, partial(_watch, lost)).sum(), fresh, keep=False)
    users = [user for node in lost[:1] for user in node.users]
    where = " or ".join(dict.fromkeys(f"{user.target} (layer {layer_of(user)})" for user in users)) or "the coalitions' law"
    raise NumericsError(
        f"the moments are finite, but a derivative of them is not, in {shift.dtype}: that of {where}. Scale the inputs, or "
        "explain the model in float64 (model.double() and x.double())."
    )


def _watch(lost: list[fx.Node], node: fx.Node, value: Any) -> None:
    """Add `node` to `lost` once a derivative by its moments is not finite: what takes them has lost it."""

    def see(slope: Tensor) -> None:
        if not bool(slope.isfinite().all()):
            lost.append(node)

    for part in (value.mean, value.factors, value.rest) if isinstance(value, Gaussian) else ():
        if part is not None and part.requires_grad:
            part.register_hook(see)
