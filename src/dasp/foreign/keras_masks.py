"""Masks that Keras layers make from the values they are given, kept as they are for the explained rows.

Keras hands a mask on in two ways: at the side of a layer's result, computed by `compute_mask`; and, where a model was put
together from symbols, as a boolean operation of its own that is some layer's argument `mask`. Both are caught here.
"""

from __future__ import annotations

import sys
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CaptureError

COMPUTE, CALL = "compute_mask", "call"
Replace = Callable[[Any, str, Callable[..., Any]], Callable[..., Any]]
"""From a layer or operation, the method that makes its mask, by name and as it is, to what takes that method's place."""


def makers(model: nn.Module) -> list[str]:
    """Names of the layers that make a mask from values: Embedding(mask_zero=True), Masking, or layers of someone's own."""
    return [layer.name for layer in _computing(model) if _of_values(layer)]


def _keras() -> Any:
    return sys.modules["keras"]


def _all_layers(model: nn.Module) -> list[Any]:
    """Every layer of a Keras model; `modules()` does not find those that a model was put together from."""
    found: list[Any] = model._flatten_layers()  # type: ignore[operator]
    return found


def _computing(model: nn.Module) -> list[Any]:
    """The layers that do not just hand on the mask they get."""
    handed_on = _keras().layers.Layer.compute_mask
    return [layer for layer in _all_layers(model) if type(layer).compute_mask is not handed_on]


def _of_values(layer: Any) -> bool:
    own = type(layer).__module__.partition(".")[0] != "keras"
    return own or bool(getattr(layer, "mask_zero", False)) or isinstance(layer, _keras().layers.Masking)


def _operations(model: nn.Module) -> list[Any]:
    """The operations whose result is some layer's argument `mask`, `query_mask` and the like."""
    found: dict[int, Any] = {}
    for layer in _all_layers(model):
        for node in layer._inbound_nodes:
            for name, value in node.arguments.kwargs.items():
                if name.endswith("mask") and isinstance(value, _keras().KerasTensor):
                    maker = value._keras_history.operation
                    found[id(maker)] = maker
    return list(found.values())


@contextmanager
def _replaced(model: nn.Module, replace: Replace) -> Iterator[None]:
    """Whatever makes masks is replaced for the time of the block, and put back."""
    computing, operations = _computing(model), _operations(model)
    masking = [layer for layer in computing if isinstance(layer, _keras().layers.Masking)]
    try:
        for layer in computing:
            layer.__dict__[COMPUTE] = replace(layer, COMPUTE, layer.compute_mask)
        for operation in operations:
            operation.__dict__[CALL] = replace(operation, CALL, operation.call)
        for layer in masking:
            layer.__dict__[CALL] = _masked_by(layer.__dict__[COMPUTE])
        yield
    finally:
        for one in (*computing, *operations):
            for name in (COMPUTE, CALL):
                one.__dict__.pop(name, None)


def _masked_by(compute: Callable[..., Any]) -> Callable[[Tensor], Tensor]:
    """What `Masking` does, 0 where its mask is False, with another mask than that of the values."""

    def call(inputs: Tensor) -> Tensor:
        mask = compute(inputs)
        result = torch.where(mask.unsqueeze(-1), inputs, 0.0)
        result._keras_mask = mask  # type: ignore[attr-defined]  # or Keras would ask for it again
        return result

    return call


class KeptMasks:
    """The masks that a model makes of some rows, by who made them and in order."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.found: dict[tuple[int, str], deque[Any]] = defaultdict(deque)

    @contextmanager
    def noted(self) -> Iterator[None]:
        """A call of the model in this block says which masks are kept."""

        def replace(maker: Any, name: str, own: Callable[..., Any]) -> Callable[..., Any]:
            def note(*args: Any, **kwargs: Any) -> Any:
                result = own(*args, **kwargs)
                self.found[id(maker), name].append(result)
                return result

            return note

        with _replaced(self.model, replace):
            yield

    @contextmanager
    def used(self) -> Iterator[None]:
        """A call of the model in this block has the masks noted before, whatever it is given."""

        def replace(maker: Any, name: str, own: Callable[..., Any]) -> Callable[..., Any]:
            def recall(*args: Any, **kwargs: Any) -> Any:
                return self.found[id(maker), name].popleft()

            return recall

        with _replaced(self.model, replace):
            yield


class _MaskReadError(Exception):
    """A mask was read that follows the coalition."""


class _Unread(Tensor):
    """Stands for a mask that follows the coalition, and refuses to be read."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        """Refuse whatever torch is asked to do with it."""
        raise _MaskReadError


# Made outside of `torch.export`, inside of which a tensor cannot become one of this class.
_UNREAD = Tensor._make_subclass(_Unread, torch.empty(0))


@contextmanager
def refused_masks(model: nn.Module) -> Iterator[None]:
    """A call of the model in this block fails where a layer reads a mask that was made from values.

    Raises:
        CaptureError: a layer does; the message names the layers that make masks, and says how to keep them.
    """

    def replace(maker: Any, name: str, own: Callable[..., Any]) -> Callable[..., Any]:
        def refuse(*args: Any, **kwargs: Any) -> Any:
            before = args[1] if name == COMPUTE and len(args) > 1 else kwargs.get("mask")
            handed_on = any(one is _UNREAD for one in (before if isinstance(before, (list, tuple)) else [before]))
            if name == CALL or handed_on:
                return _UNREAD
            result = own(*args, **kwargs)
            return _UNREAD if _of_values(maker) and isinstance(result, Tensor) else result

        return refuse

    try:
        with _replaced(model, replace):
            yield
    except Exception as error:
        if not _was_read(error):
            raise
        raise CaptureError(
            f"the Keras layer {' and '.join(makers(model))} makes a mask from its input, which absent players would change. "
            "Give the explained inputs once more, explainer(x, additional_forward_args=x), several as a tuple: the masks "
            "then stay those of x, whatever is absent. Masks that follow the coalition go with dasp.PermutationSampling() "
            "or dasp.Exact()."
        ) from None


def _was_read(error: BaseException | None) -> bool:
    """Whether an unread mask is at the bottom of an error, which Keras raises again under other names."""
    return error is not None and (isinstance(error, _MaskReadError) or _was_read(error.__cause__ or error.__context__))
