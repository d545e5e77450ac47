"""Capture: a network as one graph of ATen operations, each with a moment rule or decomposed until it has one."""

from __future__ import annotations

import inspect
import io
import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from functools import cached_property
from traceback import walk_tb
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, fx
from torch._ops import OpOverload
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.nn.utils.rnn import PackedSequence

from .errors import CaptureError
from .ready import as_exported
from .rewrite import WITH_EFFECTS, drop_checks, keep_rows, pool_first
from .rules import RULES
from .rules.moving import copied

aten = torch.ops.aten
Made = TypeVar("Made")

ASSERTIONS = frozenset({aten._assert_tensor_metadata.default, aten._assert_scalar.default, aten._assert_async.msg})
"""Checks that the exporter leaves in a graph; dropped, since rows and nodes change the batch."""

RUN_AS: dict[Any, Any] = {
    aten.view.default: aten.reshape.default,
    aten._unsafe_view.default: aten.reshape.default,
    aten.copy.default: copied,
}
"""Operations that depend on memory layout or have no derivative, and what runs in their place."""

EXAMPLE_ROWS = 3  # the exporter treats sizes 0 and 1 as special


@dataclass(frozen=True, eq=False)
class Graph:
    """A captured network.

    Attributes:
        nodes: its nodes, in order.
        constants: values of parameters, buffers and lifted constants, by node.
        inputs: the placeholders of the inputs, then of extra arguments.
        output: the node of the result.
        batch: the symbol of the number of rows.
    """

    nodes: tuple[fx.Node, ...]
    constants: Mapping[fx.Node, Any]
    inputs: tuple[fx.Node, ...]
    output: fx.Node
    batch: Any

    def run(self, inputs: Sequence[Any], folded: Mapping[fx.Node, Any] | None = None) -> Tensor:
        """Evaluate the network plainly, (rows, *out), with the constants that `folded` gave or with today's."""
        env = self.folded() if folded is None else dict(folded)
        env.update(zip(self.inputs, inputs, strict=True))
        (result,) = self.evaluated(env, (self.output,))
        return cast(Tensor, result)

    def evaluated(self, env: Mapping[fx.Node, Any], wanted: Sequence[fx.Node]) -> list[Any]:
        """The values of some nodes, run from those of `env`; each is let go of where nothing more hangs on it."""
        needed: set[fx.Node] = set()
        left = list(wanted)
        while left:
            node = left.pop()
            if node not in env and node not in needed:
                needed.add(node)
                left += node.all_input_nodes
        uses = Counter(parent for node in needed for parent in node.all_input_nodes)
        kept, known = set(wanted), dict(env)
        for node in self.nodes:
            if node in needed:
                known[node] = call(node, known)
                for parent in node.all_input_nodes:
                    uses[parent] -= 1
                    if not uses[parent] and parent not in kept and parent not in env:
                        del known[parent]
        return [known[node] for node in wanted]

    def folded(self, *, live: bool = False) -> dict[fx.Node, Any]:
        """Constants, and every node that depends on nothing else, with today's weights; `live`: with their gradients."""
        env: dict[fx.Node, Any] = {
            node: _constant(value) if isinstance(value, Tensor) and not live else value
            for node, value in self.constants.items()
        }
        with torch.set_grad_enabled(live):
            for node in self.nodes:
                if node.op == "call_function" and all(parent in env for parent in node.all_input_nodes):
                    env[node] = call(node, env)
        return env

    def axis(self, node: fx.Node) -> int | None:
        """The batch axis of a node's value (of its first, if it has several), None if it is folded into another or absent."""
        value = node.meta.get("val")
        if isinstance(value, (list, tuple)) and value:
            value = value[0]
        if not isinstance(value, Tensor):
            return None
        symbolic = [i for i, size in enumerate(value.shape) if isinstance(size, torch.SymInt)]
        if len(symbolic) != 1 or _expression(value.shape[symbolic[0]]) != self.batch:
            return None
        return symbolic[0]

    @cached_property
    def elements(self) -> int:
        """How many elements the values of all nodes have together, for one row."""
        values = (self.stand_in(node, 1) for node in self.nodes)
        some = (value if isinstance(value, list) else [value] for value in values)
        return sum(one.numel() for several in some for one in several if one is not None)

    def stand_in(self, node: fx.Node, rows: int) -> Any:
        """What has the shape of a node's value for a number of rows, and no values: meta tensors."""

        def empty(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return None
            sizes = [int(_expression(s).subs(self.batch, rows)) if isinstance(s, torch.SymInt) else s for s in value.shape]
            return torch.empty(sizes, dtype=value.dtype, device="meta")

        value = node.meta.get("val")
        return [empty(v) for v in value] if isinstance(value, (list, tuple)) else empty(value)


def _constant(value: Tensor) -> Tensor:
    """A weight without its gradients; one made in inference mode cannot take part in automatic differentiation."""
    return value.detach().clone() if value.is_inference() else value.detach()


def _expression(size: Any) -> Any:
    return size.node.expr


def call(node: fx.Node, env: Mapping[fx.Node, Any]) -> Any:
    """Run one node plainly on the values of an environment."""
    if node.op == "get_attr":
        raise CaptureError(f"the graph reads {node.target}, which is not a tensor of the model; export it again")
    if node.target in ASSERTIONS:
        return None
    args = fx.node.map_arg(node.args, env.__getitem__)
    kwargs = fx.node.map_arg(node.kwargs, env.__getitem__)
    return function_of(node)(*args, **kwargs)


def function_of(node: fx.Node) -> Any:
    """What to call for a node."""
    target: Any = node.target
    return RUN_AS.get(target, target)


def is_pointwise(target: Any) -> bool:
    """Whether an operation acts on each element alone."""
    return isinstance(target, OpOverload) and torch.Tag.pointwise in target.tags


def layer_of(node: fx.Node) -> str:
    """Name of the layer that a node came from, as in `named_modules()`; the class name for the model itself."""
    stack = node.meta.get("nn_module_stack") or {}
    entries = [entry for entry in stack.values() if isinstance(entry, tuple)]
    for path, kind in reversed(entries):
        if path and "metadata_hook" not in str(path):
            return str(path).removeprefix("L['self'].")
        if path == "":
            return str(kind).rsplit(".", 1)[-1]
    return "the model"


@contextmanager
def quiet() -> Iterator[None]:
    """The exporter warns about its own internals, and prints half graphs before it raises."""
    logs = [logging.getLogger(name) for name in ("torch.fx.experimental.symbolic_shapes", "torch.export")]
    disabled = [log.disabled for log in logs]
    for log in logs:
        log.disabled = True
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, before in zip(logs, disabled, strict=True):
            log.disabled = before


def graph_of(program: ExportedProgram) -> Graph:
    """The graph of an exported program, decomposed until every operation with a rule stands for itself.

    Raises:
        CaptureError: the program has a fixed batch size, several results, or changes its own buffers.
    """
    with quiet():
        graph = as_exported(program, RULES.ops())
        if graph is None:
            table = torch.export.default_decompositions()
            for op in RULES.ops():
                table.pop(op, None)
            program = program.run_decompositions(table)
            graph = program.graph
    signature = program.graph_signature
    if len(signature.user_outputs) != 1:
        raise CaptureError(
            f"the model returns {len(signature.user_outputs)} values; dasp explains models that return one tensor. "
            "Wrap it in a module whose forward returns the one to explain."
        )
    changed = [*signature.buffers_to_mutate.values(), *signature.user_inputs_to_mutate.values(), *_moved_statistics(graph)]
    if changed:
        raise CaptureError(
            f"the model changes {', '.join(changed)} while it runs, so it has no single value per coalition. "
            "If it writes into its input (mul_, add_, masked_fill_), work on x.clone(); if it was exported in training mode, "
            "call model.eval() and export it again."
        )
    drop_checks(graph)
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    constants: dict[fx.Node, Any] = {}
    inputs: list[fx.Node] = []
    for node, spec in zip(placeholders, signature.input_specs, strict=True):
        if spec.kind is InputKind.USER_INPUT:
            inputs.append(node)
        elif spec.kind is InputKind.TOKEN:
            _refuse_effects(node)
        elif spec.target in program.state_dict:
            constants[node] = program.state_dict[spec.target]
        elif spec.target in program.constants:
            constants[node] = program.constants[spec.target]
        else:
            raise CaptureError(f"the model needs {spec.target} ({spec.kind.name}), which dasp cannot capture")
    output = next(node for node in graph.nodes if node.op == "output")
    pairs = zip(output.args[0], signature.output_specs, strict=True)
    results = [a for a, spec in pairs if isinstance(a, fx.Node) and spec.kind is OutputKind.USER_OUTPUT]
    if len(results) != 1:
        raise CaptureError("the model does not return a tensor that it computes")
    output_node = results[0]
    keep_rows(graph)
    for swapped in pool_first(graph):
        output_node = swapped[1] if output_node is swapped[0] else output_node
    nodes = tuple(node for node in graph.nodes if node.op not in ("placeholder", "output"))
    _refuse_mixed_precision(inputs, nodes)
    return Graph(nodes, constants, tuple(inputs), output_node, _batch_symbol(inputs))


def _moved_statistics(graph: fx.Graph) -> list[str]:
    """Names of the statistics that an instance norm in training mode changes, which its schema does not tell."""
    norms = [node.args for node in graph.nodes if node.target is aten.instance_norm.default]
    return [str(part) for args in norms if args[5] is True for part in args[3:5] if part is not None]


def _refuse_effects(token: fx.Node) -> None:
    """Refuse operations that act beside their result, in the order that a token keeps, by name and layer."""
    effects = [node for node in token.users if node.target is WITH_EFFECTS]
    if effects:
        named = ", ".join(f"{node.args[1]} (layer {layer_of(node)})" for node in effects)
        raise CaptureError(
            f"the model does something beside its result in {named}: it prints, checks or draws. Take that out of its forward, "
            "or explain it with dasp.PermutationSampling() or dasp.Exact(), which only call it."
        )


def _refuse_mixed_precision(inputs: Sequence[fx.Node], nodes: Sequence[fx.Node]) -> None:
    def used(some: Sequence[fx.Node]) -> set[torch.dtype]:
        return {value.dtype for node in some if isinstance(value := node.meta.get("val"), Tensor)}

    low = used(nodes) & {torch.float16, torch.bfloat16}
    if low and used(inputs) & {torch.float32, torch.float64}:
        raise CaptureError(
            f"the model turns its inputs into {', '.join(map(str, low))} (torch.autocast, or a cast in its forward), "
            "which is too coarse for differences between coalitions. Explain it without."
        )


def _batch_symbol(placeholders: Sequence[fx.Node]) -> Any:
    values = [value for node in placeholders if isinstance(value := node.meta.get("val"), Tensor)]
    value = values[0] if values else None
    if not isinstance(value, Tensor) or value.dim() == 0 or not isinstance(value.shape[0], torch.SymInt):
        raise CaptureError(
            "the program was exported for a fixed batch size, and dasp runs many rows at once. Export it again with a "
            'dynamic batch: torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},)), '
            "with x of 2 rows or more, or give the module itself."
        )
    batch = _expression(value.shape[0])
    for other in values:
        if any(isinstance(size, torch.SymInt) and _expression(size) != batch for size in other.shape):
            raise CaptureError(
                "the program was exported with other open sizes than the number of rows, and dasp needs the shape of a "
                "row. Export it again with one torch.export.Dim, for the first axis of every input, or give the module."
            )
    return batch


def capture(module: torch.nn.Module, inputs: Sequence[Tensor], extra: Sequence[Any], rows: int) -> Graph:
    """Capture a module that is in evaluation mode.

    Args:
        module: the network.
        inputs: its inputs, (rows, ...) each.
        extra: further positional arguments; tensors with `rows` rows follow the batch.
        rows: number of rows of the inputs.

    Raises:
        CaptureError: `torch.export` cannot capture it; the message carries its reason.
    """
    return _tried(module, lambda: graph_of(_exported(module, inputs, extra, rows)))


def exported(module: torch.nn.Module, inputs: Sequence[Tensor], extra: Sequence[Any], rows: int) -> ExportedProgram:
    """The program that `capture` makes its graph of, to be saved; arguments and errors as there."""
    return _tried(module, lambda: _exported(module, inputs, extra, rows))


def _exported(module: torch.nn.Module, inputs: Sequence[Tensor], extra: Sequence[Any], rows: int) -> ExportedProgram:
    batch = torch.export.Dim("batch", min=1)
    arguments = tuple(_example(a, rows) for a in (*inputs, *extra))
    shapes: Any = tuple({0: batch} if _has_rows(a, rows) else None for a in (*inputs, *extra))
    if any(p.kind is p.VAR_POSITIONAL for p in inspect.signature(module.forward).parameters.values()):
        shapes = (shapes,)
    with quiet(), torch.inference_mode(False), torch.no_grad():
        return torch.export.export(module, arguments, dynamic_shapes=shapes, strict=False)


def _tried(module: torch.nn.Module, make: Callable[[], Made]) -> Made:
    try:
        return make()
    except CaptureError:
        raise
    except Exception as error:  # torch.export raises many kinds; all mean that there is no graph
        reason = " ".join(str(error).split())[:600]
        raise CaptureError(
            f"torch.export could not capture {type(module).__name__} as one graph: {type(error).__name__}: {reason}\n"
            f"{_loops(module)}{_packing(error)}{_scripted(module)}"
            "  Usual causes: branches or shapes that depend on values, a batch size written into the code, calls into numpy. "
            "Rewrite that part (torch.where instead of if, -1 or x.shape[0] instead of len(x) in views), or explain this model "
            "with dasp.PermutationSampling() or dasp.Exact(), which only call it."
        ) from error


def _scripted(module: torch.nn.Module) -> str:
    """What to do about TorchScript, "" where there is none."""
    if not any(isinstance(part, torch.jit.ScriptModule) for part in module.modules()):
        return ""
    return "  Modules made by torch.jit.script or torch.jit.trace are not read: give the module that they were made of.\n"


def _loops(module: torch.nn.Module) -> str:
    """What to do about Keras layers that loop over steps, "" where there are none; the loop fixes the number of rows."""
    keras = [part for part in module.modules() if hasattr(part, "_flatten_layers")]
    every = [layer for part in keras for layer in part._flatten_layers()]  # type: ignore[operator]
    names = dict.fromkeys(layer.name for layer in every if getattr(layer, "unroll", True) is False)
    if not names:
        return ""
    return (
        f"  Keras layers loop over their steps unless they are unrolled: set unroll=True, or layer.unroll = True later, on "
        f"{', '.join(names)}. (LSTM and GRU need it only with a mask, recurrent_dropout or reset_after=False.)\n"
    )


def _packing(error: BaseException) -> str:
    """What to do about packed sequences, "" where the error did not come from code that packs."""
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    packed = any(isinstance(value, PackedSequence) for frame in frames for value in frame.f_locals.values())
    if not packed and not any("pack_padded_sequence" in frame.f_code.co_names for frame in frames):
        return ""
    return (
        "  It packs sequences, so that shapes hang on their lengths. Run the layer on the padded sequence instead and read it "
        "where each row ends: out = layer(x)[0]; out[torch.arange(x.shape[0]), lengths - 1], or a mean under a mask made from "
        "lengths, with lengths in additional_forward_args. Padding then changes nothing, except in the backward direction of a "
        "bidirectional layer.\n"
    )


def _has_rows(argument: Any, rows: int) -> bool:
    return isinstance(argument, Tensor) and argument.dim() > 0 and argument.shape[0] == rows


def _example(argument: Any, rows: int) -> Any:
    if not _has_rows(argument, rows):
        return argument
    with torch.inference_mode(False):
        return argument[:1].detach().clone().expand(EXAMPLE_ROWS, *argument.shape[1:]).clone()
