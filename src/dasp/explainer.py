"""The front door: a model, a baseline, and then batch after batch of inputs to explain."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .attribution import Attribution
from .audit import audit
from .background import Background, PerRow
from .background_game import BackgroundGame
from .checks import as_json, check_finite, checked_names, further, mask_of, native, plain
from .errors import InputError, InputTypeError
from .estimators import Estimate, Estimator, Propagation
from .game import Game, Players, evaluate_rows
from .model import Model
from .players import Layout
from .propagate import OpSupport, make_plan
from .targets import Targets

if TYPE_CHECKING:
    from torch.export import ExportedProgram

GIB = 2**30

Array = Tensor | np.ndarray[Any, Any]
Baseline = float | Array | PerRow
Mask = Tensor | np.ndarray[Any, Any] | tuple[Any, ...] | Layout | Players


class Explainer:
    """Explains a model's output at a row as the sum of what each player adds to the output at the baseline.

    Args:
        model: a module, an exported program, or the path of one saved by `torch.export.save`. It is evaluated in eval
            mode and put back as it was.
        baseline: what an absent player's elements hold. A number; a tensor of the input's shape without batch axis, or
            with a leading axis of 1; or a background, J > 1 rows of data (J, *shape), whatever the size of the batch: then a
            coalition is worth the mean output over the rows that fill in the others' elements (interventional Shapley
            values), and values add up to output - mean output over the background. `dasp.PerRow(tensor)` gives each row
            that is explained a baseline of its own. Several inputs take a tuple of these; row j of each goes together.
        method: the estimator; moment propagation by default.
        players: None for every element; an integer tensor as captum's `feature_mask` (a tuple of them for several
            inputs); or a layout from `dasp.players`.
        memory: bytes that one chunk of work may take.
        feature_names: one name per player.

    numpy arrays are taken wherever tensors are: floating ones are converted to the model's dtype, all are moved to its
    device. Tensors are never converted.

    Further arguments of the model (`additional_forward_args`) are not explained. A tensor among them whose first axis is
    as long as the batch goes along with its row: row i gets entry i. Anything else is passed as it is with every
    evaluation. A tensor that is the same for every row must therefore not have as many entries as there are rows: keep it
    in a module that wraps the model (`register_buffer`).

    A model's rows must not depend on each other, and it must give the same output twice: both are checked, on two rows.

    Raises:
        InputTypeError, InputError: an argument has the wrong type or value.
        ModelFileError: the model file is missing, corrupt or foreign.

    >>> import torch, dasp
    >>> model = torch.nn.Linear(3, 1)
    >>> explainer = dasp.Explainer(model, 0.0, method=dasp.Exact())
    >>> explainer(torch.ones(2, 3)).values.shape
    torch.Size([2, 3])
    """

    def __init__(
        self,
        model: Model | torch.nn.Module | ExportedProgram | str | os.PathLike[str],
        baseline: Baseline | tuple[Baseline, ...] = 0.0,
        *,
        method: Estimator | None = None,
        players: Mask | None = None,
        memory: int = GIB,
        feature_names: Sequence[str] | None = None,
    ) -> None:
        if method is not None and not isinstance(method, Estimator):
            hint = f" Write {method.__name__}()." if isinstance(method, type) else ""
            raise InputTypeError(f"method: expected an estimator such as dasp.Exact(), got {method!r}.{hint}")
        if isinstance(memory, bool) or not isinstance(memory, int):
            raise InputTypeError(f"memory: expected a number of bytes (int), got {type(memory).__name__}.")
        if memory <= 0:
            raise InputError(f"memory: must be above 0 bytes, got {memory}.")
        self.model = model if isinstance(model, Model) else Model(model)
        self.baseline = baseline
        self.method = Propagation() if method is None else method
        self.players = players
        self.memory = memory
        self._known: Background | None = None  # that of the last call, with what was made of it
        self.feature_names = None if feature_names is None else checked_names(feature_names)

    def __call__(
        self,
        inputs: Array | tuple[Array, ...],
        target: Any = None,
        *,
        additional_forward_args: Any = None,
        progress: bool = False,
    ) -> Attribution:
        """Explain a batch.

        Args:
            inputs: (B, *shape), or a tuple of several inputs with the same B.
            target: the output to explain: None for a single output, an int, a tuple for several output axes, a tensor
                (B,) or (B, k) with one target per row, or a list of ints or tuples for several targets at once.
            additional_forward_args: further arguments of the model, not explained: one, or a tuple. A tensor whose
                first axis has length B goes along with its row; anything else is the same for every row.
            progress: show a progress bar.

        Returns:
            An `Attribution`, tensors on the model's device and in the inputs' floating dtype.

        Raises:
            InputTypeError, InputError: an argument has the wrong type, shape, dtype or device, or holds NaN or
                infinity; or the model's rows depend on each other, or it is random. The message says which and what to
                do.
        """
        # Inference tensors cannot take part in autograd: leave the mode, and clone what was made in it.
        with torch.inference_mode(False):
            start = time.perf_counter()
            game = self._game(inputs, target, additional_forward_args)
            game.check_ends()
            ready = time.perf_counter()
            estimate = self.method.estimate(game, progress=progress)
            if game.device.type == "cuda":
                torch.cuda.synchronize(game.device)
            end = time.perf_counter()
            seconds = {"prepare": ready - start, "estimate": end - ready, "total": end - start}
            return self._attribution(game, estimate, target, isinstance(inputs, tuple), seconds)

    def check(self, inputs: Array | tuple[Array, ...], *, additional_forward_args: Any = None) -> tuple[OpSupport, ...]:
        """The operations of the model that meet random values, in order: exact, approximate or missing, by layer.

        Raises:
            CaptureError: the model cannot be captured as one graph.
        """
        with torch.inference_mode(False):
            checked, extra = self._inputs(inputs), further(additional_forward_args)
            players = self._players(checked, [tuple(x.shape[1:]) for x in checked])
            graph = self.model.capture(checked, extra)
            return make_plan(graph, [label + 1 for label in players.labels], extra, checked[0].shape[0]).support

    def _game(self, inputs: Any, target: Any, additional_forward_args: Any) -> Game:
        checked = self._inputs(inputs)
        self._check_weights()
        rows, shapes = checked[0].shape[0], [tuple(x.shape[1:]) for x in checked]
        players = self._players(checked, shapes)
        baselines = self._baselines(checked)
        extra = further(additional_forward_args)
        out = self._output_shape(checked, extra)
        targets = Targets.of(target, rows, out, checked[0].device)
        if isinstance(baselines, Background):
            whole = baselines.rows
            return BackgroundGame(self.model, checked, whole, extra, players, targets, self.memory, baselines)
        return Game(self.model, checked, baselines, extra, players, targets, self.memory)

    def _inputs(self, inputs: Any) -> tuple[Tensor, ...]:
        if isinstance(inputs, list):
            raise InputTypeError(
                "inputs: got a list. Give a tensor, or a tuple of tensors for a model of several inputs."
            )
        parts = inputs if isinstance(inputs, tuple) else (inputs,)
        if not parts:
            raise InputError("inputs: the tuple is empty.")
        names = ["inputs"] if len(parts) == 1 else [f"inputs[{i}]" for i in range(len(parts))]
        tensors = tuple(self._tensor(part, name) for part, name in zip(parts, names, strict=True))
        for x, name in zip(tensors, names, strict=True):
            if x.ndim == 0:
                raise InputError(f"{name}: a single number has no batch axis. Give a tensor of shape (rows, ...).")
            if x.shape[0] != tensors[0].shape[0]:
                raise InputError(
                    f"{name}: {x.shape[0]} rows, but {names[0]} has {tensors[0].shape[0]}. Every input needs the same."
                )
        for x, name in zip(tensors, names, strict=True):
            self._check_dtype_and_device(x, name)
        for x, name in zip(tensors, names, strict=True):
            check_finite(x, name)
            if x.numel() == 0:
                raise InputError(f"{name}: empty, shape {tuple(x.shape)}. There is nothing to explain.")
        return tensors

    def _tensor(self, part: Any, name: str) -> Tensor:
        if isinstance(part, np.ndarray):
            try:
                array = torch.from_numpy(native(part))
            except TypeError:
                raise InputTypeError(f"{name}: a numpy array of {part.dtype} holds no numbers a model takes.") from None
            dtype = self.model.dtype if array.is_floating_point() else None
            return array.to(device=self.model.device, dtype=dtype)
        if not isinstance(part, Tensor):
            raise InputTypeError(f"{name}: expected a tensor or a numpy array, got {type(part).__name__}.")
        if part.layout != torch.strided or part.is_complex() or part.is_quantized:
            raise InputTypeError(f"{name}: expected a dense real tensor, got {part.layout}, {part.dtype}.")
        return plain(part)

    def _check_dtype_and_device(self, x: Tensor, name: str) -> None:
        dtype, device = self.model.dtype, self.model.device
        if x.is_floating_point():
            if dtype is not None and x.dtype != dtype:
                raise InputError(f"{name}: {x.dtype}, but the model computes in {dtype}. Use x.to({dtype}).")
        elif self.players is None:
            raise InputError(
                f"{name}: {x.dtype} without players. Shapley values of whole numbers (token ids, categories) need to "
                "know what a player is: give players= (dasp.players.tokens(), or a mask), or explain the embeddings."
            )
        if device is not None and x.device != device:
            raise InputError(f"{name}: on {x.device}, but the model is on {device}. Use x.to({str(device)!r}).")

    def _check_weights(self) -> None:
        for name, weight in self.model.weights():
            # Infinity is at home in buffers (attention masks), NaN nowhere.
            fine = torch.isfinite(weight) if isinstance(weight, torch.nn.Parameter) else ~torch.isnan(weight)
            if not bool(fine.all()):
                raise InputError(f"model: the weights {name} hold NaN or infinity. Look at the training or the file.")

    def _players(self, inputs: tuple[Tensor, ...], shapes: list[tuple[int, ...]]) -> Players:
        asked = self.players
        if asked is None:
            players = Players.elements(shapes)
        elif isinstance(asked, Players):
            if [tuple(label.shape) for label in asked.labels] != shapes:
                made = [tuple(label.shape) for label in asked.labels]
                raise InputError(f"players: made for inputs of shapes {made}, and these have {shapes}.")
            players = asked
        elif isinstance(asked, Layout):
            players = asked.build(shapes)
        elif isinstance(asked, Tensor | np.ndarray | tuple):
            parts = asked if isinstance(asked, tuple) else (asked,)
            masks = tuple(mask_of(part) for part in parts)
            for i, (mask, x) in enumerate(zip(masks, inputs, strict=False)):
                if isinstance(mask, Tensor) and isinstance(parts[i], Tensor) and mask.device != x.device:
                    raise InputError(
                        f"players: the mask is on {mask.device}, the input on {x.device}. "
                        f"Use mask.to({str(x.device)!r})."
                    )
            players = Players.from_mask(masks, shapes)
        else:
            raise InputTypeError(
                f"players: expected an integer tensor, a tuple of them, or a layout such as dasp.players.grid(2, 2), "
                f"got {type(asked).__name__}."
            )
        if self.feature_names is not None and len(self.feature_names) != players.count:
            raise InputError(f"feature_names: {len(self.feature_names)} names for {players.count} players.")
        return players.to(inputs[0].device)

    def _baselines(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | Background:
        """(1 or B, *shape_i) for every input, or a background."""
        asked = self.baseline
        several = isinstance(asked, tuple)
        if isinstance(asked, tuple):
            if len(asked) != len(inputs):
                raise InputError(f"baseline: {len(asked)} baselines for {len(inputs)} input(s). Give one for each.")
            parts = asked
        elif isinstance(asked, PerRow) and len(inputs) > 1:
            raise InputError(f"baseline: one PerRow for {len(inputs)} inputs. Give a tuple with one baseline for each.")
        elif isinstance(asked, Tensor | np.ndarray) and asked.ndim and len(inputs) > 1:
            raise InputError(f"baseline: one tensor for {len(inputs)} inputs. Give a tuple with one baseline for each.")
        else:
            parts = (asked,) * len(inputs)
        names = [f"baseline[{i}]" if several else "baseline" for i in range(len(parts))]
        found = tuple(self._baseline(part, x, name) for part, x, name in zip(parts, inputs, names, strict=True))
        alone = [isinstance(part, PerRow) or len(rows) == 1 for part, rows in zip(parts, found, strict=True)]
        return found if all(alone) else self._background(parts, found, names)

    def _background(self, parts: tuple[Any, ...], rows: tuple[Tensor, ...], names: list[str]) -> Background:
        if any(isinstance(part, PerRow) for part in parts):
            raise InputError(
                "baseline: PerRow beside a background. Give one baseline a row for every input, or a background."
            )
        count = max(len(part) for part in rows)
        for part, name in zip(rows, names, strict=True):
            if len(part) not in (1, count):
                raise InputError(
                    f"{name}: a background of {len(part)} rows, but another input's has {count}. Row j of each goes "
                    "together: give every input as many."
                )
        other = _needs_one_baseline(self.method)
        if other is not None:
            raise InputError(
                f"baseline: {type(other).__name__} explains against one baseline, and this is a background of {count} rows. "
                "Use dasp.Propagation(), dasp.PermutationSampling() or, for few players, dasp.Exact(); or give one row, or "
                "dasp.PerRow(...) for one baseline a row."
            )
        whole = tuple(part.expand(count, *part.shape[1:]) for part in rows)
        known = self._known
        same = known is not None and all(
            a.shape == b.shape and a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)
            for a, b in zip(known.rows, whole, strict=True)
        )
        if known is None or not same:
            self._known = known = Background(tuple(part.clone() for part in whole))
        return known

    def _baseline(self, part: Any, x: Tensor, name: str) -> Tensor:
        each = isinstance(part, PerRow)
        part = part.rows if isinstance(part, PerRow) else part
        if isinstance(part, bool) or not isinstance(part, int | float | np.number | Tensor | np.ndarray):
            raise InputTypeError(
                f"{name}: expected a number, a tensor, a numpy array or dasp.PerRow, got {type(part).__name__}."
            )
        if isinstance(part, int | float | np.number):
            return _full(float(part), x, name)
        base = self._tensor(part, name)
        if base.dtype != x.dtype:
            raise InputError(f"{name}: {base.dtype}, but the input is {x.dtype}. Use baseline.to({x.dtype}).")
        if base.device != x.device:
            raise InputError(f"{name}: on {base.device}, but the input is on {x.device}. Move it there.")
        if base.ndim == 0:
            base = base.expand(x.shape[1:])
        if base.ndim == x.ndim - 1 and not each:
            base = base.unsqueeze(0)
        if base.shape[1:] != x.shape[1:] or base.ndim != x.ndim or (each and len(base) != len(x)):
            wanted = f"{tuple(x.shape)}, one baseline for each row" if each else (
                f"{tuple(x.shape[1:])}, or a background of rows of that shape, (rows, {', '.join(map(str, x.shape[1:]))})"
            )
            raise InputError(
                f"{name}: shape {tuple(part.shape)} does not fit an input of shape {tuple(x.shape)}. Give {wanted}."
            )
        if not len(base):
            raise InputError(f"{name}: a background without rows. Give at least one.")
        check_finite(base, name)
        return base

    def _output_shape(self, inputs: tuple[Tensor, ...], extra: tuple[Any, ...]) -> tuple[int, ...]:
        # Two rows tell the shape; one row alone may be treated specially by an exported program.
        batch = inputs[0].shape[0]
        two = torch.arange(2, device=inputs[0].device) % batch
        output = evaluate_rows(self.model, tuple(x[two] for x in inputs), extra, two, batch)
        if output.ndim == 0 or output.shape[0] != 2:
            raise InputError(
                f"model: 2 rows went in and an output of shape {tuple(output.shape)} came out. The first axis of the "
                "output must be the rows."
            )
        if not output.is_floating_point():
            raise InputError(
                f"model: its output is {output.dtype}. Explain scores, not classes: return floating numbers."
            )
        return tuple(output.shape[1:])

    def _attribution(
        self, game: Game, estimate: Estimate, target: Any, as_tuple: bool, seconds: dict[str, float]
    ) -> Attribution:
        several = game.targets.several

        def squeeze(x: Tensor) -> Tensor:
            return x if several else x.squeeze(1)

        def shaped(x: Tensor) -> Tensor | tuple[Tensor, ...]:
            x = squeeze(x).to(game.dtype)
            if game.players.grouped:
                return x
            parts = game.players.spread(x)
            return parts if as_tuple else parts[0]

        errors = estimate.standard_errors
        return Attribution(
            values=shaped(estimate.values),
            base_value=squeeze(game.base_values),
            output=squeeze(game.outputs),
            gap=squeeze(_gap(estimate.values, game)),
            standard_errors=None if errors is None else shaped(errors),
            inputs=game.inputs,
            baselines=game.baselines,
            background=isinstance(game, BackgroundGame),
            players=game.players,
            target=as_json(target),
            targets=game.targets.index,
            feature_names=self.feature_names,
            method=type(self.method).__name__,
            settings=estimate.settings,
            evaluations=estimate.evaluations,
            propagations=estimate.propagations,
            seconds=seconds,
            as_tuple=as_tuple,
            auditor=partial(audit, game),
        )


def _needs_one_baseline(method: Estimator) -> Estimator | None:
    """The method itself, or one it uses as a prior, if it does not take a background."""
    if not method.takes_background:
        return method
    options: list[object] = [getattr(method, field.name) for field in fields(method)] if is_dataclass(method) else []
    return next((bad for one in options if isinstance(one, Estimator) if (bad := _needs_one_baseline(one))), None)


def _full(number: float, x: Tensor, name: str) -> Tensor:
    """A number as the baseline of an input (B, *shape), (1, *shape)."""
    if not math.isfinite(number):
        raise InputError(f"{name}: must be finite, got {number}.")
    if not x.is_floating_point() and number != int(number):
        raise InputError(f"{name}: {number} cannot stand in for an input of {x.dtype}. Give a whole number.")
    limits = torch.finfo(x.dtype) if x.is_floating_point() else torch.iinfo(x.dtype)
    if not limits.min <= number <= limits.max:
        raise InputError(f"{name}: {number:g} is beyond the range of the input's {x.dtype}.")
    return torch.full((1, *x.shape[1:]), number, dtype=x.dtype, device=x.device)


def _gap(values: Tensor, game: Game) -> Tensor:
    """(sum of values - (output - base value)) / sum of |values|, (B, T); 0 where both are 0."""
    values = values.double()
    missing = values.sum(-1) - (game.outputs.double() - game.base_values.double())
    gap = missing / values.abs().sum(-1)
    return torch.where(missing == 0, 0.0, gap).to(game.dtype)
