"""Networks made of what other packages explain: a function that calls modules, or what stands behind a network's layer."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .errors import DaspError, InputError, InputTypeError
from .game import take_rows
from .model import Model, evaluating

_ALONE = "let one tensor of it go through a torch.nn.Identity of the network, as self.seen(output), and choose that"


def as_module(function: Any, arguments: Sequence[Any], known: nn.Module | None = None) -> nn.Module:
    """The network that a callable stands for: a module itself, or a module that calls the function.

    The modules that a function calls, wherever it finds them, become parts of the result, so that they are evaluated in
    evaluation mode and their weights are known. They are found by calling it once on `arguments`. Where they are those of the
    network that was `known` before, it is given again, with its graphs.

    Raises:
        InputTypeError: it cannot be called.
        InputError: it fails on these arguments.
    """
    if isinstance(function, nn.Module):
        return function
    if not callable(function):
        raise InputTypeError(f"forward_func: expected a torch.nn.Module or a function, got {type(function).__name__}.")
    owner = getattr(function, "__self__", None)
    hooked = isinstance(owner, nn.Module) and (owner._forward_hooks or owner._forward_pre_hooks)  # which forward passes over
    if isinstance(owner, nn.Module) and getattr(function, "__name__", "") == "forward" and not hooked:
        return owner
    modules = _modules_of(function, arguments)
    if isinstance(known, FunctionModel) and [id(part) for part in known.parts] == [id(part) for part in modules]:
        return known
    return FunctionModel(function, modules)


class FunctionModel(nn.Module):
    """A function as a module, with the modules that it calls as its parts."""

    def __init__(self, function: Callable[..., Tensor], modules: Sequence[nn.Module]) -> None:
        super().__init__()
        self.function = function
        self.parts = nn.ModuleList(modules)

    def forward(self, *arguments: Any) -> Tensor:
        """What the function gives."""
        return self.function(*arguments)


def _modules_of(function: Callable[..., Any], arguments: Sequence[Any]) -> list[nn.Module]:
    """The outermost modules that a function calls or names; all of them in evaluation mode while it runs."""
    found: dict[int, nn.Module] = {}
    with ExitStack() as modes:

        def note(module: nn.Module, *_: Any) -> None:
            if id(module) not in found:
                found.update((id(part), part) for part in module.modules())
                modes.enter_context(evaluating(module))

        for module in _named(function):
            note(module)
        hook = nn.modules.module.register_module_forward_pre_hook(note)
        modes.callback(hook.remove)
        try:
            with torch.inference_mode(False), torch.no_grad():
                function(*arguments)
        except (DaspError, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # whatever the function's code raises
            name = getattr(function, "__qualname__", type(function).__name__)
            reason = " ".join(str(error).split())[:300]
            raise InputError(f"forward_func: {name} fails on the inputs: {type(error).__name__}: {reason}.") from error
    inner = {id(part) for module in found.values() for part in module.modules() if part is not module}
    return [module for key, module in found.items() if key not in inner]


def _named(function: Any) -> Iterator[nn.Module]:
    """The modules that a function, method or partial names itself."""
    if isinstance(function, functools.partial):
        yield from (value for value in (*function.args, *function.keywords.values()) if isinstance(value, nn.Module))
        yield from _named(function.func)
        return
    owner = getattr(function, "__self__", None)
    if isinstance(owner, nn.Module):
        yield owner
    plain = getattr(function, "__func__", function)
    if inspect.isfunction(plain):
        names = inspect.getclosurevars(plain)
        values = (*names.nonlocals.values(), *names.globals.values())
        yield from (value for value in values if isinstance(value, nn.Module))


@dataclass(frozen=True, eq=False)
class Layers:
    """Some layers of a network, whose outputs or inputs are explained.

    Attributes:
        network: the network.
        layers: the layers, each called once when the network runs.
        at_input: whether their inputs are meant.
    """

    network: nn.Module
    layers: tuple[nn.Module, ...]
    at_input: bool = False

    def activations(self, inputs: tuple[Tensor, ...], extra: tuple[Any, ...]) -> tuple[tuple[Tensor, ...], ...]:
        """What every layer gives, or takes, for inputs (B, *shape_i): tensors (B, ...), one tuple a layer.

        Raises:
            InputError: a layer is not called, or several times, or what it gives has not the rows as its first axis.
            InputTypeError: a layer gives something that is neither a tensor nor a tuple of tensors.
        """
        rows = len(inputs[0])
        found = self._heard((*inputs, *extra))
        # One more row tells the rows from another axis that is as long.
        more = torch.arange(rows + 1, device=inputs[0].device) % rows
        longer = self._heard(take_rows((*inputs, *extra), more, rows))
        for layer, short, long in zip(self.layers, found, longer, strict=True):
            for a, b in zip(short, long, strict=True):
                if not a.ndim or a.shape[0] != rows or b.shape[0] != rows + 1:
                    raise InputError(
                        f"layer: {type(layer).__name__} {self._verb} a tensor of shape {tuple(a.shape)} for {rows} row(s). Its "
                        "first axis must be the rows; choose a layer where it is (batch_first=True of an LSTM or GRU turns its "
                        f"steps, not its states), or {_ALONE}."
                    )
        return found

    def behind(self, counts: Sequence[int]) -> BehindLayer:
        """The network from the layers on, where layer i gives counts[i] tensors."""
        return BehindLayer(self, tuple(counts))

    @property
    def _verb(self) -> str:
        return "takes" if self.at_input else "gives"

    def _heard(self, arguments: tuple[Any, ...]) -> tuple[tuple[Tensor, ...], ...]:
        listening = _Listening(self)
        Model(listening).evaluate(*arguments)
        return tuple(self._once(layer, calls) for layer, calls in zip(self.layers, listening.heard, strict=True))

    def _once(self, layer: nn.Module, calls: list[Any]) -> tuple[Tensor, ...]:
        name = type(layer).__name__
        if len(calls) != 1:
            often = f"is called {len(calls)} times" if calls else "is not called"
            raise InputError(
                f"layer: {name} {often} when the network runs. Its values need one that is called once, as model(inputs) calls "
                "it (model.layer(...), not a function that reads its weights)."
            )
        parts = _tensors(calls[0])
        bad = next((part for part in _parts(calls[0]) if part is not None and not isinstance(part, Tensor)), None)
        if bad is not None or not parts:
            raise InputTypeError(
                f"layer: {name} {self._verb} {type(calls[0] if bad is None else bad).__name__}, and values are found for "
                f"tensors or tuples of them. Choose a layer before or behind it{'' if self.at_input else ', or its input'}; or "
                f"{_ALONE}."
            )
        return parts

    @contextmanager
    def hooked(self, exchange: Callable[[int, Any], Any]) -> Iterator[None]:
        """For the time of the block layer i gives (or takes) `exchange(i, what it would have)`."""
        with ExitStack() as hooks:
            for i, layer in enumerate(self.layers):
                if self.at_input:
                    hook = layer.register_forward_pre_hook(lambda _, given, i=i: exchange(i, given))
                else:
                    hook = layer.register_forward_hook(lambda _, __, given, i=i: exchange(i, given))
                hooks.callback(hook.remove)
            yield


class _Listening(nn.Module):
    """A network that notes what its layers give."""

    def __init__(self, layers: Layers) -> None:
        super().__init__()
        self.network, self.layers = layers.network, layers
        self.heard: list[list[Any]] = [[] for _ in layers.layers]

    def forward(self, *arguments: Any) -> Any:
        with self.layers.hooked(self._note):
            return self.network(*arguments)

    def _note(self, i: int, given: Any) -> Any:
        # What follows may change it in place.
        self.heard[i].append(_exchanged(given, iter([part.clone() for part in _tensors(given)])))
        return given


class BehindLayer(nn.Module):
    """A network from some of its layers on: their tensors first, then what the network takes.

    Whatever reaches the output beside these layers is computed from what the network takes.
    """

    def __init__(self, layers: Layers, counts: tuple[int, ...]) -> None:
        super().__init__()
        self.network, self.layers, self.counts = layers.network, layers, counts

    def forward(self, *arguments: Any) -> Tensor:
        """The network's output with these tensors in the place of what the layers give."""
        total = sum(self.counts)
        given = iter(arguments[:total])
        groups = [[next(given) for _ in range(count)] for count in self.counts]

        def exchange(i: int, old: Any) -> Any:
            return _exchanged(old, iter([new.clone() for new in groups[i]]))  # what follows may change them in place

        with self.layers.hooked(exchange):
            output: Tensor = self.network(*arguments[total:])
        return output


def _parts(given: Any) -> tuple[Any, ...]:
    return tuple(given) if isinstance(given, (tuple, list)) else (given,)


def _tensors(given: Any) -> tuple[Tensor, ...]:
    return tuple(part for part in _parts(given) if isinstance(part, Tensor))


def _exchanged(given: Any, tensors: Iterator[Tensor]) -> Any:
    """What was given, with its tensors exchanged in order."""
    if isinstance(given, (tuple, list)):
        make = getattr(type(given), "_make", type(given))  # of a named tuple
        return make(next(tensors) if isinstance(part, Tensor) else part for part in given)
    return next(tensors) if isinstance(given, Tensor) else given
