"""A network as dasp sees it: something to evaluate, and a graph to propagate through."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.nn.parameter import is_lazy

from .archive import checked
from .errors import DaspError, InputError, InputTypeError, ModelFileError
from .foreign import adapted, declared_inputs, opened
from .graph import Graph, capture, exported, graph_of, quiet

KEPT_GRAPHS = 8
_NAMED = 4  # embeddings in a message
_ANY_ROWS = (
    "dasp calls it with other numbers of rows than yours: check the shape of a row, and that the model takes any number of "
    "them."
)
Kept = TypeVar("Kept")


class Model:
    """A module, an exported program, or the path of a `.pt2` file, or of a `.keras` file.

    The module is put into evaluation mode while it runs and then back, layer by layer; its parameters, gradients and hooks
    are not touched. Graphs are captured when first needed, and again when shapes, dtype, device or the
    parameters themselves change; weights changed in place are followed.

    Args:
        source: the network.

    Raises:
        InputTypeError: `source` is none of these.
        ModelFileError: the file is missing, corrupt or neither a saved exported program nor a Keras model.
        InputError, MissingExtraError: a Keras model runs on another backend than torch, or keras is not installed.
    """

    def __init__(self, source: nn.Module | ExportedProgram | str | os.PathLike[str]) -> None:
        if isinstance(source, (str, os.PathLike)):
            read = opened(source)
            source = load_program(source) if read is None else read
        source = adapted(source)
        if not isinstance(source, (nn.Module, ExportedProgram)):
            raise InputTypeError(
                "a model is a torch.nn.Module, an ExportedProgram or the path of a .pt2 or .keras file, "
                f"got {type(source).__name__}"
            )
        self.source = source
        self._graphs: dict[Any, Graph] = {}
        self._kept: dict[Any, Any] = {}

    @property
    def name(self) -> str:
        """Class name of the module, or "ExportedProgram"."""
        return type(self.source).__name__

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Names and values of all parameters and buffers.

        Raises:
            InputError: a lazy layer has none yet, or they were made in inference mode.
        """
        if isinstance(self.source, nn.Module):
            named = (*self.source.named_parameters(), *self.source.named_buffers())
        else:
            named = tuple(self.source.state_dict.items())
        for name, weight in named:
            if is_lazy(weight):
                raise InputError(f"the model has no weights yet at {name} (a lazy layer): run it once on a batch")
            if weight.is_inference():
                raise InputError(
                    f"the weights {name} were made in torch.inference_mode(), which bars them from gradients. Build or "
                    "load the model outside of it (dasp may be called inside), or copy it: copy.deepcopy(model), outside."
                )
            yield name, weight

    def _first_weight(self) -> Tensor | None:
        return next((w for _, w in self.weights() if w.is_floating_point()), None)

    @property
    def dtype(self) -> torch.dtype | None:
        """Floating dtype of the first parameter or buffer, None if the model has none."""
        weight = self._first_weight()
        return None if weight is None else weight.dtype

    @property
    def device(self) -> torch.device | None:
        """Device of the first parameter or buffer, None if the model has none."""
        weight = self._first_weight()
        return None if weight is None else weight.device

    def evaluate(self, *arguments: Any) -> Tensor:
        """Run the network plainly: without gradients, in evaluation mode, and in its own precision.

        Args:
            arguments: inputs (rows, ...) and extra arguments.

        Returns:
            Its result (rows, ...).

        Raises:
            InputError: the model fails on these arguments; the message carries its reason.
            InputTypeError: the model does not return one tensor.
        """
        device = "cpu" if self.device is None else self.device.type
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(device, enabled=False):
            return self.forward(*arguments)

    def forward(self, *arguments: Any) -> Tensor:
        """Run the network in evaluation mode, in the caller's gradient mode; errors as for `evaluate`."""
        try:
            if isinstance(self.source, nn.Module):
                with evaluating(self.source):
                    result = self.source(*arguments)
            else:
                result = self.capture(arguments, ()).run(arguments)
        except (DaspError, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # whatever the network's code raises
            shapes = ", ".join(_described(a) for a in arguments)
            reason = " ".join(str(error).split())[:300]
            unknown = isinstance(error, IndexError) and "Dimension" not in reason
            advice = self._unknown_ids(arguments) if unknown else None
            raise InputError(
                f"the model {self.name} fails on {shapes}: {type(error).__name__}: {reason.rstrip('.')}. {advice or _ANY_ROWS}"
            ) from error
        if not isinstance(result, Tensor):
            raise InputTypeError(
                f"the model returns {type(result).__name__}; dasp explains models that return one tensor. "
                "Wrap it in a module whose forward returns the one to explain."
            )
        return result

    def _unknown_ids(self, arguments: Sequence[Any]) -> str | None:
        """What whole numbers the model was given and which its embeddings hold; None where it was given none."""
        whole = (torch.int64, torch.int32)
        ids = [a for a in arguments if isinstance(a, Tensor) and a.dtype in whole and a.numel()]
        if not ids:
            return None
        given = " and ".join(f"{int(a.min())} to {int(a.max())}" for a in ids)
        layers = self.source.named_modules() if isinstance(self.source, nn.Module) else ()
        sizes = [f"{name} holds 0 to {e.num_embeddings - 1}" for name, e in layers if isinstance(e, nn.Embedding)]
        held = f"its embedding {', '.join(sizes[:_NAMED])}" if sizes else "an embedding holds ids from 0 to its size - 1"
        return f"It was given ids from {given}, and {held}: look at the inputs and at the baseline, which absent players hold."

    def capture(self, inputs: Sequence[Tensor], extra: Sequence[Any]) -> Graph:
        """The graph for these inputs, captured or from an earlier call.

        Args:
            inputs: (rows, ...) each; none for those that an exported program or a Keras model declares.
            extra: further arguments; tensors with `rows` rows follow the batch.

        Raises:
            CaptureError: the network cannot be captured as one graph.
            InputError: the arguments are not what it takes, or there are none and it declares none.
        """
        if isinstance(self.source, ExportedProgram):
            if None not in self._graphs:
                self._graphs[None] = graph_of(self.source)
            graph = self._graphs[None]
            if inputs:
                _check_arguments(graph, (*inputs, *extra))
            return graph
        inputs = inputs or declared_inputs(self.source)
        rows = inputs[0].shape[0]
        # A graph holds its weights, so an id is not given to another while the graph is kept.
        weights = tuple((name, id(weight)) for name, weight in self.weights())
        key = (*(_signature(a, rows) for a in (*inputs, *extra)), self.dtype, self.device, weights)
        if key not in self._graphs:
            if len(self._graphs) >= KEPT_GRAPHS:
                self._graphs.pop(next(iter(self._graphs)))
            with evaluating(self.source):
                self._graphs[key] = capture(self.source, inputs, extra, rows)
        return self._graphs[key]

    def exported(self, inputs: Sequence[Tensor], extra: Sequence[Any]) -> ExportedProgram:
        """The network as a program that `torch.export.save` writes; arguments and errors as for `capture`.

        A module that was captured before needs no inputs: their shapes are known.
        """
        if isinstance(self.source, ExportedProgram):
            return self.source
        if not inputs and self._graphs:
            graph = list(self._graphs.values())[-1]
            if all(graph.axis(node) == 0 for node in graph.inputs):
                stand_ins = [graph.stand_in(node, 2) for node in graph.inputs]
                inputs = tuple(torch.zeros_like(one, device=self.device or "cpu") for one in stand_ins)
        inputs = inputs or declared_inputs(self.source)
        with evaluating(self.source):
            return exported(self.source, inputs, extra, inputs[0].shape[0])

    def keep(self, key: Hashable, make: Callable[[], Kept]) -> Kept:
        """What `make` gave for this key before, or gives now; the last few are kept."""
        if key not in self._kept:
            if len(self._kept) >= KEPT_GRAPHS:
                self._kept.pop(next(iter(self._kept)))
            self._kept[key] = make()
        kept: Kept = self._kept[key]
        return kept


def _check_arguments(graph: Graph, arguments: Sequence[Any]) -> None:
    """Refuse arguments that an exported program was not exported for."""
    if len(graph.inputs) != len(arguments):
        raise InputError(f"the exported program takes {len(graph.inputs)} arguments, got {len(arguments)}")
    for node, value in zip(graph.inputs, arguments, strict=True):
        expected = graph.stand_in(node, arguments[0].shape[0])
        if not isinstance(expected, Tensor):
            fixed = node.meta.get("val")
            if isinstance(value, Tensor) or value != fixed:
                raise InputError(
                    f"the program was exported for {node.name} = {fixed!r}, which it holds fixed, got {value!r}"
                )
        elif not isinstance(value, Tensor) or value.shape != expected.shape or value.dtype != expected.dtype:
            raise InputError(
                f"the exported program takes {node.name} of shape {tuple(expected.shape)} and {expected.dtype} for "
                f"{arguments[0].shape[0]} rows, got {_described(value)}"
            )


def _described(argument: Any) -> str:
    return f"{tuple(argument.shape)} {argument.dtype}" if isinstance(argument, Tensor) else type(argument).__name__


def _signature(argument: Any, rows: int) -> Any:
    if isinstance(argument, Tensor):
        batched = argument.dim() > 0 and argument.shape[0] == rows
        return batched, tuple(argument.shape[batched:]), argument.dtype, argument.device
    return repr(argument)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode for the time of the block; every layer gets its own mode back, whatever happens."""
    modes = [(layer, layer.training) for layer in module.modules() if layer.training]
    try:
        for layer, _ in modes:
            layer.training = False
        yield
    finally:
        for layer, training in modes:
            layer.training = training


def load_program(path: str | os.PathLike[str]) -> ExportedProgram:
    """Read a `.pt2` file.

    Raises:
        ModelFileError: the file is missing, corrupt, not a program saved by `torch.export.save`, or holds code or pickles
            (`dasp.archive`).
    """
    name = os.fspath(path)
    if not os.path.isfile(name):
        raise ModelFileError(f"no model file {name}; save one with torch.export.save(torch.export.export(...), {name!r})")
    if not zipfile.is_zipfile(name):
        raise ModelFileError(_not_a_program(name, "it is not a .pt2 archive"))
    try:
        copy = checked(name)
        with quiet():
            return torch.export.load(copy)
    except ModelFileError:
        raise
    except Exception as error:  # the loader raises many kinds; all mean that there is no program
        vague = "warnings above" in str(error)
        reason = "there is none in the archive" if vague else f"{type(error).__name__}: {error}"
        raise ModelFileError(_not_a_program(name, reason)) from error


def _not_a_program(name: str, reason: str) -> str:
    return (
        f"{name} is not a program saved by torch.export.save ({reason[:300]}). A state_dict or a pickled module (torch.save) "
        "will not do: load it in Python, export it with torch.export.export and a dynamic batch, and save that."
    )


