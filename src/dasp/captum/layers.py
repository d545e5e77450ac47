"""The methods for a layer's activations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from .. import estimators
from ..background import PerRow
from ..baselines import baselines_of
from ..errors import InputError, InputTypeError
from ..explainer import GIB
from ..game import goes_along
from ..parts import BehindLayer, Layers
from ..semivalues import Weighting
from .arguments import Mask, Tensors
from .methods import LayerAttribution, Shapley, unwrapped


class LayerShapley(Shapley, LayerAttribution):  # type: ignore[misc]
    """What the methods for layers share: values of a layer's activations for the output, as captum's `LayerAttribution`.

    An absent activation is what the layer gives at the baselines, which are baselines of the network's inputs. Whatever
    reaches the output beside the layer stays as it is at the inputs, so that values add up to the output less the output with
    the layer's activations, and nothing else, at the baselines.

    Args:
        forward_func: the network, or a function that calls it.
        layer: a module of it that runs once, or a list of them, none of which stands behind another.
        background, semivalue, memory, options: as for the methods without a layer. Rows of a background go through the network
            with the further arguments as they are, none of which may go along with the inputs' rows.

    `feature_mask` numbers the layer's activations, as `torch.arange(tokens).reshape(1, -1, 1)` for embeddings (N, tokens,
    width), where `dasp.players.tokens()` means the same. `explain` and `compute_convergence_delta` take
    `attribute_to_layer_input` too.

    Raises:
        InputTypeError: `layer` is no module; and as for the methods without a layer.
    """

    def __init__(
        self, forward_func: Callable[..., Any], layer: nn.Module | list[nn.Module], *, background: bool = False,
        semivalue: Weighting | None = None, memory: int = GIB, **options: Any,
    ) -> None:  # fmt: skip
        layers = layer if isinstance(layer, list) else [layer]
        if not layers or not all(isinstance(one, nn.Module) for one in layers):
            raise InputTypeError("layer: expected a module of the network, or a list of them.")
        Shapley.__init__(self, forward_func, background=background, semivalue=semivalue, memory=memory, **options)
        self.layer, self.device_ids = layer, None
        self._behind: dict[Any, BehindLayer] = {}

    @unwrapped
    def attribute(
        self,
        inputs: Tensors,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        feature_mask: Mask = None,
        *,
        attribute_to_layer_input: bool = False,
        show_progress: bool = False,
        return_convergence_delta: bool = False,
    ) -> Any:
        """Values of every activation of the layer.

        Args:
            inputs, baselines, target, additional_forward_args, show_progress, return_convergence_delta: as without a layer.
            feature_mask: integers of the activations' shapes, or broadcastable to them.
            attribute_to_layer_input: values of what goes into the layer instead.

        Returns:
            Attributions in the activations' shapes: a tensor, a tuple if the layer gives several tensors, a list of these if
            several layers were given; with `return_convergence_delta` also (N,), the sum of the features' values less the
            step of the output that they are of.

        Raises:
            InputTypeError, InputError: a layer does not run, or more than once, or does not give tensors (N, ...); and as
                without a layer.
        """
        asked = (inputs, baselines, target, additional_forward_args, feature_mask)
        return self._attributed(
            *asked, progress=show_progress, delta=return_convergence_delta, attribute_to_layer_input=attribute_to_layer_input
        )

    def _game(
        self, network: nn.Module, inputs: Tensors, baselines: tuple[Any, ...], extra: tuple[Any, ...],
        *, attribute_to_layer_input: bool = False,
    ) -> tuple[nn.Module, Tensors, tuple[Any, ...], tuple[Any, ...]]:  # fmt: skip
        parts = inputs if isinstance(inputs, tuple) else (inputs,)
        chosen = tuple(self.layer) if isinstance(self.layer, list) else (self.layer,)
        layers = Layers(network, chosen, attribute_to_layer_input)
        rows, background = baselines_of(baselines, parts, lambda part, _: part, self.method)
        if background:
            along = next((i for i, e in enumerate(extra) if goes_along(e, len(parts[0]))), None)
            if along is not None:
                raise InputError(
                    f"additional_forward_args[{along}] goes along with the rows of the inputs, and a background has other "
                    "rows. Give one baseline, or one for each row."
                )
        else:
            rows = tuple(b.expand_as(x) for b, x in zip(rows, parts, strict=True))
        given, absent = layers.activations(parts, extra), layers.activations(rows, extra)
        counts = tuple(map(len, given))
        key = (id(network), attribute_to_layer_input, counts)
        if key not in self._behind:
            self._behind[key] = layers.behind(counts)
        stand_ins = tuple(part if background else PerRow(part) for group in absent for part in group)
        return self._behind[key], tuple(part for group in given for part in group), stand_ins, (*parts, *extra)

    def _formed(self, values: Any, network: nn.Module) -> Any:
        assert isinstance(network, BehindLayer)
        flat = iter(values)
        groups = [tuple(next(flat) for _ in range(count)) for count in network.counts]
        formed = [group if len(group) > 1 else group[0] for group in groups]
        return formed if isinstance(self.layer, list) else formed[0]


class LayerPropagation(LayerShapley):
    """`dasp.Propagation` from a layer on."""

    estimator = estimators.Propagation


class LayerExact(LayerShapley):
    """`dasp.Exact` for the activations of a layer; few features, as by a mask."""

    estimator = estimators.Exact


class LayerPermutationSampling(LayerShapley):
    """`dasp.PermutationSampling` for the activations of a layer."""

    estimator = estimators.PermutationSampling
