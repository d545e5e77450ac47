"""The front door: a model, a baseline, and then batch after batch of inputs to explain."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .attribution import Attribution, player_names
from .audit import audit
from .background import Background, PerRow
from .background_game import BackgroundGame
from .baselines import baselines_of
from .checks import (
    as_array_hint,
    as_json,
    check_finite,
    check_semivalue,
    checked_names,
    further,
    mask_of,
    native,
    one_row_hint,
    plain,
    warn_of_gap,
    with_graphs,
)
from .errors import InputError, InputTypeError
from .estimators import Estimate, Estimator, Propagation
from .game import Game, Players, evaluate_rows
from .interactions import Asked, Interactions, Pairs, as_numbers
from .model import Model
from .players import Layout
from .pretrained import Pretrained
from .propagate import OpSupport, make_plan
from .semivalues import Weighting
from .targets import Targets

if TYPE_CHECKING:
    from torch.export import ExportedProgram

GIB = 2**30

Array = Tensor | np.ndarray[Any, Any]
Baseline = float | Array | PerRow
Mask = Tensor | np.ndarray[Any, Any] | tuple[Any, ...] | Layout | Players


class Explainer(Pretrained):
    """Explains a model's output at a row as the sum of what each player adds to the output at the baseline.

    Args:
        model: a module, an exported program, or the path of one saved by `torch.export.save`. It is evaluated in eval
            mode and put back as it was.
        baseline: what an absent player's elements hold. A number; a tensor of the input's shape without batch axis, or
            with a leading axis of 1; or a background, J > 1 rows of data (J, *shape), whatever the size of the batch: then a
            coalition is worth the mean output over the rows that fill in the others' elements (interventional Shapley
            values), and values add up to output - mean output over the background. `dasp.PerRow(tensor)` gives each row to
            explain a baseline of its own. Several inputs take a tuple of these; row j of each background goes together.
        method: the estimator; moment propagation by default.
        players: None for every element; an integer tensor as captum's `feature_mask` (a tuple of them for several
            inputs); or a layout from `dasp.players`.
        memory: bytes that one chunk of work may take.
        feature_names: one name per player.
        semivalue: None for Shapley values; else `dasp.Banzhaf()`, `dasp.BetaShapley(alpha, beta)` or
            `dasp.Semivalue(weights)`, which need not add up to output - base value: the gap is then no error.

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
        semivalue: Weighting | None = None,
    ) -> None:
        if method is not None and not isinstance(method, Estimator):
            hint = f" Write {method.__name__}()." if isinstance(method, type) else ""
            raise InputTypeError(f"method: expected an estimator such as dasp.Exact(), got {method!r}.{hint}")
        if isinstance(memory, bool) or not isinstance(memory, int):
            raise InputTypeError(f"memory: expected a number of bytes (int), got {type(memory).__name__}.")
        if memory <= 0:
            raise InputError(f"memory: must be above 0 bytes, got {memory}.")
        check_semivalue(semivalue, method)
        self.semivalue = semivalue
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
        create_graph: bool = False,
    ) -> Attribution:
        """Explain a batch.

        Args:
            inputs: (B, *shape), or a tuple of several inputs with the same B.
            target: the output to explain: None for a single output, an int, a tuple for several output axes, a tensor
                (B,) or (B, k) with one target per row, or a list of ints or tuples for several targets at once.
            additional_forward_args: further arguments of the model, not explained: one, or a tuple. A tensor whose
                first axis has length B goes along with its row; anything else is the same for every row.
            progress: show a progress bar.
            create_graph: give values that can be differentiated by the inputs and the model's weights, to train with
                (`dasp.Propagation` only). The model is explained in evaluation mode also while it trains. The graph of all
                rows is kept until the values are gone. Which players are enumerated or dominate an element, and the directions
                of a subspace (`rank`), count as constants; output, base value and gap have no graph.

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
            if create_graph:
                estimate = self.method.differentiable(game, with_graphs(inputs, game.inputs))
            else:
                estimate = self.method.estimate(game, progress=progress)
            if game.device.type == "cuda":
                torch.cuda.synchronize(game.device)
            end = time.perf_counter()
            if estimate.propagations and self.semivalue is None:
                warn_of_gap(game.gap(estimate.values.detach()))
            seconds = {"prepare": ready - start, "estimate": end - ready, "total": end - start}
            return self._attribution(game, estimate, target, isinstance(inputs, tuple), seconds)

    def interactions(
        self,
        inputs: Array | tuple[Array, ...],
        target: Any = None,
        *,
        pairs: Pairs = "all",
        top: int | None = None,
        additional_forward_args: Any = None,
        progress: bool = False,
    ) -> Interactions:
        """What pairs of players add together beyond what each adds alone: Shapley interaction indices of a batch,

            I_ij = integral over q of d2F/dq_i dq_j (q, ..., q)                        (Grabisch and Roubens, 1999),

        or, with a semivalue, the same under its distribution of q. `dasp.Propagation` takes one pass, and one backward pass
        for each player whose row of the matrix is wanted; `dasp.Exact` enumerates; other methods have none.

        Args:
            inputs, target, additional_forward_args, progress: as for an explanation.
            pairs: "all"; a player's number, for that player with every other; or pairs of numbers: a list, or as in
                `Interactions.pairs`.
            top: keep so many of these pairs, the largest in the mean over rows and targets; of all pairs the whole matrix is
                found first.

        Raises:
            InputTypeError, InputError: an argument has the wrong type or value, or the method has no interactions.
            MemoryBoundError: the result does not fit the memory bound.
        """
        with torch.inference_mode(False):
            start = time.perf_counter()
            game = self._game(inputs, target, additional_forward_args)
            n = game.players.count
            pairs = as_numbers(pairs)
            asked = Asked.of(pairs, top, n)
            asked.check_size(game.batch, game.targets.count, n, game.memory)
            game.check_ends()
            players = torch.tensor(asked.players, device=game.device)
            estimate = self.method.interactions(game, players, progress=progress)
            values, chosen = asked.taken(estimate.values.to(game.dtype))
            settings = {**estimate.settings, "pairs": pairs, "top": top}
            if self.semivalue is not None:
                settings["semivalue"] = self.semivalue.described()
            return Interactions(
                values=values if game.targets.several else values.squeeze(1),
                pairs=chosen,
                names=player_names(game.players, self.feature_names),
                target=as_json(target),
                several=game.targets.several,
                method=type(self.method).__name__,
                settings=settings,
                evaluations=estimate.evaluations,
                propagations=estimate.propagations,
                seconds=time.perf_counter() - start,
            )

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
        extra = further(additional_forward_args)
        out = self._output_shape(checked, extra)
        players = self._players(checked, shapes)
        baselines = self._baselines(checked)
        targets = Targets.of(target, rows, out, checked[0].device)
        if isinstance(baselines, Background):
            if self.semivalue is not None:
                raise InputError(
                    "semivalue: against a background only Shapley values are found. Give one baseline, or leave semivalue= out."
                )
            whole = baselines.rows
            return BackgroundGame(self.model, checked, whole, extra, players, targets, self.memory, background=baselines)
        return Game(self.model, checked, baselines, extra, players, targets, self.memory, self.semivalue)

    def _inputs(self, inputs: Any) -> tuple[Tensor, ...]:
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
            kind = type(part).__name__
            raise InputTypeError(f"{name}: expected a tensor or a numpy array, got {kind}.{as_array_hint(part)}")
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
        found, background = baselines_of(self.baseline, inputs, self._tensor, self.method)
        return self._background(found) if background else found

    def _background(self, whole: tuple[Tensor, ...]) -> Background:
        """The one of the last call where it has the same rows, with what was made of it."""
        known = self._known
        same = known is not None and all(
            a.shape == b.shape and a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)
            for a, b in zip(known.rows, whole, strict=True)
        )
        if known is None or not same:
            self._known = known = Background(tuple(part.clone() for part in whole))
        return known

    def _output_shape(self, inputs: tuple[Tensor, ...], extra: tuple[Any, ...]) -> tuple[int, ...]:
        # Two rows tell the shape; one row alone may be treated specially by an exported program.
        batch = inputs[0].shape[0]
        two = torch.arange(2, device=inputs[0].device) % batch
        try:
            output = evaluate_rows(self.model, tuple(x[two] for x in inputs), extra, two, batch)
        except InputError as error:
            raise InputError(f"{error}{one_row_hint(self.model, inputs, extra)}") from error
        if output.ndim == 0 or output.shape[0] != 2:
            raise InputError(
                f"model: 2 rows went in and an output of shape {tuple(output.shape)} came out. The first axis of the "
                f"output must be the rows.{one_row_hint(self.model, inputs, extra)}"
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

        errors, settings = estimate.standard_errors, estimate.settings
        if game.semivalue is not None:
            settings = {**settings, "semivalue": game.semivalue.described()}
        return Attribution(
            values=shaped(estimate.values),
            base_value=squeeze(game.base_values),
            output=squeeze(game.outputs),
            gap=squeeze(game.gap(estimate.values.detach())),
            standard_errors=None if errors is None else shaped(errors),
            inputs=game.inputs,
            baselines=game.baselines,
            background=isinstance(game, BackgroundGame),
            players=game.players,
            target=as_json(target),
            targets=game.targets.index,
            feature_names=self.feature_names,
            method=type(self.method).__name__,
            settings=settings,
            evaluations=estimate.evaluations,
            propagations=estimate.propagations,
            seconds=seconds,
            as_tuple=as_tuple,
            auditor=partial(audit, game),
        )
