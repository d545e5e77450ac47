"""The methods for a network's inputs."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar, cast

import torch
from torch import Tensor, nn

from .. import estimators
from ..attribution import Attribution as Result
from ..checks import check_semivalue, further
from ..errors import InputError, InputTypeError, MissingExtraError
from ..estimators import Estimate, Estimator
from ..explainer import GIB, Explainer
from ..game import Game
from ..model import Model
from ..parts import as_module
from ..semivalues import Weighting
from .arguments import (
    Asked,
    Mask,
    Tensors,
    baselines_for,
    checked_inputs,
    chosen_target,
    flattened,
    in_place,
    players_of,
)

try:
    import captum.attr as attr
except ImportError as error:
    raise MissingExtraError("dasp.captum needs captum: pip install 'dasp[captum]'.") from error

LayerAttribution: Any = attr.LayerAttribution
Method = TypeVar("Method", bound=Callable[..., Any])


def unwrapped(method: Method) -> Method:
    """The method, and the same as `__wrapped__`, which is what NoiseTunnel calls; arguments of other methods are refused."""
    known = inspect.signature(method).parameters

    @functools.wraps(method)
    def checked(*arguments: Any, **options: Any) -> Any:
        foreign = [f"{name}=" for name in options if name not in known]
        if foreign:
            raise InputTypeError(
                f"attribute: {', '.join(foreign)} belongs to other methods. How much to spend is told to the method itself, "
                "as Propagation(model, nodes=8) or PermutationSampling(model, permutations=64); attribute takes "
                f"{', '.join(name for name in known if name != 'self')}."
            )
        return method(*arguments, **options)

    @functools.wraps(checked)
    def call(*arguments: Any, **options: Any) -> Any:
        return checked(*arguments, **options)

    return cast(Method, call)


class Shapley(attr.Attribution):  # type: ignore[misc]
    """What all of these methods share: captum's `attribute` for an estimator of dasp.

    Args:
        forward_func: the network, or a function that calls it, as captum's tutorials write them. The modules that a function
            calls are found when it first runs.
        background: how `baselines` of several rows are read. False: as in most of captum, one for each row of the inputs.
            True: as in `DeepLiftShap` and `GradientShap`, rows of a data set, over whose every row values are means.
        semivalue: as for `dasp.Explainer`: None for Shapley values.
        memory: bytes that one chunk of work may take.
        options: those of the estimator, `dasp.Propagation` for `Propagation`, and so on.

    Raises:
        InputTypeError: no such option, or `forward_func` cannot be called.
        InputError: an option has the wrong value.
    """

    estimator: ClassVar[type[Estimator]]

    def __init__(
        self, forward_func: Callable[..., Any], *, background: bool = False, semivalue: Weighting | None = None,
        memory: int = GIB, **options: Any,
    ) -> None:  # fmt: skip
        if not callable(forward_func):
            raise InputTypeError(f"forward_func: expected a torch.nn.Module or a function, got {type(forward_func).__name__}.")
        attr.Attribution.__init__(self, forward_func)
        try:
            self.method = self.estimator(**options)
        except TypeError as error:
            if isinstance(error, InputTypeError):
                raise
            name = self.estimator.__name__
            raise InputTypeError(f"{type(self).__name__}: {error}. Its options are those of dasp.{name}.") from None
        check_semivalue(semivalue, self.method)
        self.background, self.semivalue, self.memory = background, semivalue, memory
        self._network: nn.Module | None = None
        self._explainers: dict[Any, Explainer] = {}

    @unwrapped
    def attribute(
        self,
        inputs: Tensors,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        feature_mask: Mask = None,
        *,
        show_progress: bool = False,
        return_convergence_delta: bool = False,
    ) -> Any:
        """Values of every element of the inputs.

        Args:
            inputs: (N, *shape), or a tuple of several inputs with the same N.
            baselines: None for 0; a number; a tensor (1, *shape) or (N, *shape); a tuple of these for several inputs. With
                `background`, tensors (J, *shape) of any J.
            target: the output: None for a single one, an int or a tensor of one for all rows, a tuple for several output axes,
                a tensor (N,) or a list of N ints or tuples for one a row.
            additional_forward_args: further arguments of the network, one or a tuple, as for `dasp.Explainer`: a tensor with N
                entries goes along with its row.
            feature_mask: integers of the inputs' shapes, or broadcastable to them; equal ones, in whichever input, are one
                feature. They may leave numbers out, and differ by row, (N, *shape): rows of one mask are explained together.
                Or a layout from `dasp.players`. None makes every element a feature.
            show_progress: show a progress bar.
            return_convergence_delta: give the delta too.

        Returns:
            Attributions in the inputs' shapes, a tuple if the inputs came as one. As in captum each element of a group carries
            the whole value of the group, so that a group's elements must not be summed. With `return_convergence_delta` also
            (N,): the sum of the features' values less f(inputs) - f(baselines), 0 where they add up.

        Raises:
            InputTypeError, InputError: an argument has the wrong type, shape, dtype or device, or holds NaN or infinity; or
                what `dasp.Explainer` refuses.
        """
        asked = (inputs, baselines, target, additional_forward_args, feature_mask)
        return self._attributed(*asked, progress=show_progress, delta=return_convergence_delta)

    def explain(
        self,
        inputs: Tensors,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        feature_mask: Mask = None,
        *,
        show_progress: bool = False,
        **place: Any,
    ) -> Result:
        """What `attribute` rests on: the `dasp.Attribution`, with `audit()`, gap, base values and settings.

        Arguments and errors as for `attribute`, but that a `feature_mask` may not differ by row; so is `place`, which only
        layers have.
        """
        asked = (inputs, baselines, target, additional_forward_args, feature_mask)
        found, _ = self._explained(self.method, *asked, progress=show_progress, **place)
        if len(found) > 1:
            raise InputError(
                "feature_mask: its rows differ, and an Attribution has the same features in all rows. Explain the rows of each "
                "mask apart; attribute takes them together."
            )
        return found[0][1]

    def has_convergence_delta(self) -> bool:
        """True."""
        return True

    @property
    def multiplies_by_inputs(self) -> bool:
        """True: values are contributions to the output, not slopes."""
        return True

    def compute_convergence_delta(
        self,
        attributions: Tensors,
        start_point: Any,
        end_point: Tensors,
        target: Any = None,
        additional_forward_args: Any = None,
        *,
        feature_mask: Mask = None,
        **place: Any,
    ) -> Tensor:
        """Sum of the features' attributions less f(end_point) - f(start_point), (N,).

        Args:
            attributions: as `attribute` gives them.
            start_point: the baselines.
            end_point: the inputs.
            target, additional_forward_args, feature_mask, place: as for `explain`; with a mask each feature counts once.

        Raises:
            InputError: attributions of other shapes than the mask's; or as for `attribute`.
        """
        asked = (end_point, start_point, target, additional_forward_args, feature_mask)
        parts = flattened(attributions)
        found, _ = self._explained(_Ends(), *asked, **place)
        labels = found[0][1].players.labels
        if [tuple(part.shape[1:]) for part in parts] != [tuple(label.shape) for label in labels]:
            shapes = [tuple(part.shape) for part in parts]
            raise InputError(f"attributions: shapes {shapes} do not fit inputs of {[tuple(label.shape) for label in labels]}.")
        deltas = []
        for rows, ends in found:
            values = ends.per_player[:, 0].clone()
            for part, label in zip(parts, ends.players.labels, strict=True):
                values[:, label.flatten()] = (part if rows is None else part[rows]).detach().flatten(1).to(values)
            deltas.append((rows, _delta(ends, values)))
        return in_place(deltas)

    def _attributed(self, *asked: Any, progress: bool, delta: bool, **place: Any) -> Any:
        found, network = self._explained(self.method, *asked, progress=progress, **place)
        parts = [(rows, result.as_input()) for rows, result in found]
        if isinstance(parts[0][1], tuple):
            values: Any = tuple(in_place([(rows, part[i]) for rows, part in parts]) for i in range(len(parts[0][1])))
        else:
            values = in_place(cast(list[tuple[Tensor | None, Tensor]], parts))
        values = self._formed(values, network)
        return (values, in_place([(rows, _delta(result)) for rows, result in found])) if delta else values

    def _explained(
        self, method: Estimator, inputs: Tensors, baselines: Any, target: Any, further_args: Any, mask: Mask,
        *, progress: bool = False, **place: Any,
    ) -> tuple[list[tuple[Tensor | None, Result]], nn.Module]:  # fmt: skip
        """For the rows of each mask, mostly one for all (None), an explanation; and the network that was explained."""
        parts, extra = checked_inputs(inputs), further(further_args)
        network = as_module(self.forward_func, (*parts, *extra), self._network)
        if network is not self._network:
            self._network = network
            self._explainers.clear()
        asked = baselines_for(baselines, parts, background=self.background, method=type(self).__name__)
        given = parts if isinstance(inputs, tuple) else parts[0]
        network, given, stand_ins, extra = self._game(network, given, asked, extra, **place)
        explainer = self._explainer(network, method)
        whole = Asked(given, stand_ins, extra, chosen_target(target, len(parts[0])))
        found: list[tuple[Tensor | None, Result]] = []
        for some, players in players_of(mask, given if isinstance(given, tuple) else (given,)):
            rows, now = (None, whole) if some is None else whole.of(some)
            explainer.baseline, explainer.players = now.baselines, players
            found.append((rows, explainer(now.inputs, now.target, additional_forward_args=now.extra, progress=progress)))
        return found, network

    def _game(
        self, network: nn.Module, inputs: Tensors, baselines: tuple[Any, ...], extra: tuple[Any, ...]
    ) -> tuple[nn.Module, Tensors, tuple[Any, ...], tuple[Any, ...]]:
        """The network that is explained, its inputs, their baselines, and its further arguments."""
        return network, inputs, baselines, extra

    def _explainer(self, network: nn.Module, method: Estimator) -> Explainer:
        """One for all calls, which keeps the graph and what was made of a background."""
        key = (id(network), type(method))  # a network is kept by its explainer
        if key not in self._explainers:
            known = next((e.model for (i, _), e in self._explainers.items() if i == id(network)), None)
            self._explainers[key] = Explainer(
                Model(network) if known is None else known, method=method, memory=self.memory, semivalue=self.semivalue
            )
        return self._explainers[key]

    def _formed(self, values: Any, network: nn.Module) -> Any:
        """Attributions as `attribute` gives them."""
        return values


class Propagation(Shapley):
    """`dasp.Propagation`: moments through the network, all features from one backward pass. The default of dasp."""

    estimator = estimators.Propagation


class DASP(Shapley):
    """`dasp.DASP`: the algorithm as published in 2019."""

    estimator = estimators.DASP


class Exact(Shapley):
    """`dasp.Exact`: all coalitions, for few features."""

    estimator = estimators.Exact


class PermutationSampling(Shapley):
    """`dasp.PermutationSampling`: antithetic, unbiased, for any network."""

    estimator = estimators.PermutationSampling


class VertexGradients(Shapley):
    """`dasp.VertexGradients`: gradients at random coalitions, for any differentiable network."""

    estimator = estimators.VertexGradients


class Regression(Shapley):
    """`dasp.Regression`: least squares on a budget of coalitions, with a prior."""

    estimator = estimators.Regression


class Refine(Shapley):
    """`dasp.Refine`: goes on until the measured error is below a tolerance."""

    estimator = estimators.Refine


@dataclass(frozen=True, kw_only=True)
class _Ends(Estimator):
    """No values at all: an explanation that only knows both ends."""

    semivalues = True
    takes_background = True

    def estimate(self, game: Game, *, progress: bool = False) -> Estimate:
        """Zeros."""
        zeros = torch.zeros(game.batch, game.targets.count, game.players.count, dtype=game.dtype, device=game.device)
        return Estimate(zeros, None, 2.0, {})


def _delta(result: Result, values: Tensor | None = None) -> Tensor:
    """Sum of the players' values less what they should add up to, (N,)."""
    values = result.per_player[:, 0] if values is None else values
    step = result.output.double() - result.base_value.double()
    return (values.detach().double().sum(-1) - step).to(values.dtype)
