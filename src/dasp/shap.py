"""shap's `DeepExplainer` with dasp's values, for code that changes one import.

    from dasp.shap import DeepExplainer     # instead of: from shap import DeepExplainer

    explainer = DeepExplainer(model, background)
    values = explainer.shap_values(rows)    # numpy, (rows, *shape, outputs), as shap's
    explanation = explainer(rows)           # shap.Explanation, with base values, for shap's plots

`background` are rows of data that stand in for absent features, as in shap: values are means over all of them (interventional
Shapley values). With `dasp.Propagation`, the default, they are put into clusters, so that any number of rows may be given and
none is left out; nothing is sampled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .attribution import Attribution
from .checks import WIDE_GAP
from .errors import AdditivityError, InputError, InputTypeError, MissingExtraError
from .estimators import Estimator
from .explainer import GIB, Explainer, Mask
from .handover import shared
from .model import Model
from .parts import BehindLayer, Layers

try:
    from shap import Explanation
except ImportError as error:
    raise MissingExtraError("dasp.shap needs shap: pip install 'dasp[shap]'.") from error

ROWS = 256
"""Rows of the background that go through the network at once."""
ORDERS = ("max", "min", "max_abs")


class DeepExplainer:
    """Explains a network's outputs against a background, with the calls of shap's `DeepExplainer`.

    shap's own answer is DeepLIFT's, and depends on how the network is written (functions such as `F.relu` are passed over).
    These are Shapley values, and operations without a rule are refused. The model is evaluated in evaluation mode and left as
    it was.

    Args:
        model: the network, of outputs (rows,) or (rows, outputs); or a pair (network, layer), for the values of what goes into
            a layer.
        data: rows of the background (J, *shape), any number of them, or one; a list for several inputs. Tensors, numpy arrays
            or pandas frames, whose columns become feature names.
        method: the estimator; `dasp.Propagation()` by default.
        players: as for `dasp.Explainer`. A player's value is shared equally among its elements, so that they add up.
        memory: bytes that one chunk of work may take.
        feature_names: one name per player.
        output_names: one name per output.

    Attributes:
        expected_value: mean output over the background, numpy (outputs,).

    Raises:
        InputTypeError, InputError: an argument has the wrong type, shape or dtype, or the model gives something else.
    """

    def __init__(
        self,
        model: nn.Module | tuple[nn.Module, nn.Module],
        data: Any,
        *,
        method: Estimator | None = None,
        players: Mask | None = None,
        memory: int = GIB,
        feature_names: Sequence[str] | None = None,
        output_names: Sequence[str] | None = None,
    ) -> None:
        network, layer = model if isinstance(model, tuple) and len(model) == 2 else (model, None)
        if not isinstance(network, nn.Module) or not (layer is None or isinstance(layer, nn.Module)):
            raise InputTypeError("model: expected a torch.nn.Module, or a pair of one and a layer of it.")
        self._model, self._several = Model(network), isinstance(data, list)
        self._columns: tuple[list[Any] | None, ...] | None = None
        self._data = self._tensors(data, "data")
        outputs = self._outputs(self._data)
        self.expected_value = outputs.double().mean(0).to(outputs.dtype).cpu().numpy()
        self._single = outputs.shape[1] == 1
        if output_names is not None and len(output_names) != outputs.shape[1]:
            raise InputError(f"output_names: {len(output_names)} names for {outputs.shape[1]} output(s).")
        self.output_names = None if output_names is None else list(output_names)
        if feature_names is None and hasattr(data, "columns"):
            feature_names = [str(name) for name in data.columns]
        self._layers = None if layer is None else Layers(network, (layer,), at_input=True)
        self._behind: BehindLayer | None = None
        explained: Model | nn.Module = self._model
        background = self._data
        if self._layers is not None:
            (background,) = self._layers.activations(self._data, ())
            explained = self._behind = self._layers.behind((len(background),))
        self.explainer = Explainer(
            explained, background, method=method, players=players, memory=memory, feature_names=feature_names
        )

    def __call__(self, X: Any, *, layout: str | None = None) -> Explanation:
        """A `shap.Explanation` of all outputs, with base values and data, as `Attribution.to_shap` makes it.

        Args:
            X: rows to explain, as for `shap_values`.
            layout: "players", "input" or "image", which `shap.plots.image` draws; by default the input's own shape.

        Returns:
            Values (rows, *shape) for a single output, else (rows, *shape, outputs).
        """
        result = self.explain(X)
        flat = len(result.inputs) > 1 or result.inputs[0].ndim == 2
        return result.to_shap(layout=layout or ("players" if flat else "input"), output_names=self.output_names)

    def shap_values(
        self, X: Any, ranked_outputs: int | None = None, output_rank_order: str = "max", check_additivity: bool = True
    ) -> Any:
        """Values of all outputs, or of the first by rank.

        Args:
            X: rows (N, *shape), a list of them where the background is one.
            ranked_outputs: explain so many outputs of each row, chosen by rank; None for all.
            output_rank_order: "max", "min" or "max_abs": which outputs come first.
            check_additivity: make values that miss `output - expected_value` by more than a tenth of the sum of their
                magnitudes an error, for every row and output. (shap compares with 0.01, whatever the size of the outputs.)

        Returns:
            numpy (N, *shape, outputs), as shap gives it; a list of these for several inputs. With `ranked_outputs` a pair with
            the outputs' indices (N, ranked_outputs), a tensor.

        Raises:
            AdditivityError: as said.
            InputTypeError, InputError: an argument has the wrong type, shape, dtype or value.
        """
        if ranked_outputs is None:
            return self._values([self.explain(X)], check_additivity)
        if isinstance(ranked_outputs, bool) or not isinstance(ranked_outputs, int):
            raise InputTypeError(f"ranked_outputs: expected a whole number, got {type(ranked_outputs).__name__}.")
        if ranked_outputs < 1:
            raise InputError(f"ranked_outputs: must be at least 1, got {ranked_outputs}.")
        if output_rank_order not in ORDERS:
            raise InputError(f"output_rank_order: expected 'max', 'min' or 'max_abs', got {output_rank_order!r}.")
        outputs = self._outputs(self._tensors(X, "X"))
        keys = outputs.abs() if output_rank_order == "max_abs" else outputs
        ranks = keys.sort(1, descending=output_rank_order != "min").indices[:, :ranked_outputs]
        results = [self.explain(X, None if self._single else column) for column in ranks.unbind(1)]
        return self._values(results, check_additivity), ranks.cpu()

    def explain(self, X: Any, target: Any = "all", *, progress: bool = False) -> Attribution:
        """What the others rest on: the `dasp.Attribution`, with `audit()`, gap and settings.

        Args:
            X: rows to explain, as for `shap_values`.
            target: as for `dasp.Explainer`; "all" for every output.
            progress: show a progress bar.
        """
        rows = self._tensors(X, "X")
        if isinstance(target, str) and target == "all":
            target = None if self._single else list(range(len(self.expected_value)))
        if self._layers is None:
            return self.explainer(rows if self._several else rows[0], target, progress=progress)
        (given,) = self._layers.activations(rows, ())
        asked = given if len(given) > 1 else given[0]
        return self.explainer(asked, target, additional_forward_args=rows, progress=progress)

    def _values(self, results: list[Attribution], check: bool) -> Any:
        """Of one explanation of several targets, or of several of one each; targets last."""
        if check:
            _check_additivity(results)
        each = [shared(result, result.per_player.detach().double()) for result in results]
        joined = [np.concatenate(parts, axis=-1) for parts in zip(*each, strict=True)]
        return joined if self._several or len(joined) > 1 else joined[0]

    def _tensors(self, given: Any, name: str) -> tuple[Tensor, ...]:
        """Rows as tensors of the model's device, floating arrays in its dtype."""
        if isinstance(given, list) != self._several:
            kind = "a list with one for each input, as the background" if self._several else "rows, as the background"
            raise InputTypeError(f"{name}: expected {kind}, got {type(given).__name__}.")
        parts = given if self._several else [given]
        self._check_columns(parts, name)
        made = []
        for part in parts:
            if hasattr(part, "to_numpy"):
                part = part.to_numpy()
            if not isinstance(part, Tensor):
                array = np.asarray(part)
                if array.dtype.kind not in "fiub":
                    raise InputTypeError(
                        f"{name}: expected numbers, got {type(part).__name__} of {array.dtype}. Where a frame's columns are of "
                        "several kinds give frame.astype('float32')."
                    )
                part = torch.tensor(np.ascontiguousarray(array))
                part = part.to(self._model.dtype) if part.is_floating_point() else part
            if part.ndim < 2 or not len(part):
                raise InputError(f"{name}: expected rows (rows, *shape), at least one; got shape {tuple(part.shape)}.")
            made.append(part.detach().to(self._model.device))
        if not made or len({len(part) for part in made}) > 1:
            raise InputError(f"{name}: every input needs the same number of rows, and there must be an input.")
        return tuple(made)

    def _check_columns(self, parts: Sequence[Any], name: str) -> None:
        """Frames have the columns of the background's frames: the network knows places alone, and these would be others."""
        columns = tuple(list(part.columns) if hasattr(part, "columns") else None for part in parts)
        if self._columns is None:
            self._columns = columns
        for known, found in zip(self._columns, columns, strict=False):
            if known is not None and found is not None and known != found:
                least = min(len(known), len(found))
                place = next((i for i in range(least) if known[i] != found[i]), least)
                what = [repr(some[place]) if place < len(some) else "nothing" for some in (found, known)]
                raise InputError(
                    f"{name}: column {place} is {what[0]}, and {what[1]} in the background. Give the same columns in the same "
                    "order, as frame[list(background.columns)]."
                )

    def _outputs(self, rows: tuple[Tensor, ...]) -> Tensor:
        """The model's outputs, (rows, outputs)."""
        blocks = zip(*(part.split(ROWS) for part in rows), strict=True)
        outputs = torch.cat([self._model.evaluate(*block) for block in blocks])
        if len(outputs) != len(rows[0]) or outputs.ndim not in (1, 2):
            raise InputError(
                f"model: gives shape {tuple(outputs.shape)} for {len(rows[0])} rows; expected (rows,) or (rows, outputs). Wrap "
                "it in a module that gives one of these."
            )
        return outputs.unsqueeze(1) if outputs.ndim == 1 else outputs


def _check_additivity(results: list[Attribution]) -> None:
    gaps = torch.stack([result.gap.abs().reshape(len(result.gap), -1).amax(1) for result in results]).amax(0)
    wide = (gaps > WIDE_GAP).nonzero()[:, 0].tolist()
    if wide:
        listed = ", ".join(map(str, wide[:8]))
        raise AdditivityError(
            f"the values of row(s) {listed} miss output - expected_value by up to {float(gaps.max()):.0%} of their magnitudes. "
            "Take more clusters, as method=dasp.Propagation(clusters=32), or more samples where you sample; explain(X).audit() "
            "says how far off they are. check_additivity=False gives them all the same."
        )
