"""Families of moment rules: most operations are one line in one of them.

`moves` carry elements around, `linear` maps mix them linearly, `elementwise` functions act on each element alone.
Edge cases that a whole family shares (dominant players, rounding) live here, once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch._ops import OpOverload

from ..gaussian import Gaussian, Law, LinearMap
from ..special import Moments
from .dominant import dominant
from .registry import RULES, ExactIf, Rule, one_random

MomentFunction = TypeVar("MomentFunction", bound=Callable[..., Moments])
LinearBuilder = TypeVar("LinearBuilder", bound=Callable[..., LinearMap])


NEAREST = 0.05
"""Distance from a pole, as a share of that of the mean, at which a state of a player counts as too near to it."""


@dataclass(frozen=True)
class Context:
    """What a rule may ask beside its arguments.

    Attributes:
        law: the distribution of the coalitions.
        axis: batch axis of the operation's result, None if the batch is folded into another axis.
    """

    law: Law
    axis: int | None


def elementwise(
    *ops: OpOverload, exact: bool, pole: float | None = None, covers: Callable[..., bool] | None = None
) -> Callable[[MomentFunction], MomentFunction]:
    """Register `function(mean, var, *parameters) -> Moments` as the rule of pointwise operations of one random argument.

    Loadings follow Stein's lemma, `Cov(g(X), Y) = E[g'(X)] Cov(X, Y)`; for `pole` see `pointwise`, for `covers` see `Rule`.

    Raises:
        ValueError: one of the operations has a rule already.
    """

    def register(function: MomentFunction) -> MomentFunction:
        def apply(context: Context, value: Gaussian, *args: Any, **kwargs: Any) -> Gaussian:
            return pointwise(context, value, lambda m, v: function(m, v, *args, **kwargs), pole=pole)

        for op in ops:
            RULES.add(Rule(op, exact, apply, owners=_same_owners, covers=covers))
        return function

    return register


def _same_owners(labels: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Not every pointwise operation is tagged as one in torch (`log_sigmoid`, `_prelu_kernel`)."""
    return labels


def pointwise(
    context: Context, value: Gaussian, moments: Callable[[Tensor, Tensor], Moments], *, pole: float | None = None
) -> Gaussian:
    """`g(X)` for a value, given the moments of `g`; conditioned on the player with the largest loading where asked for.

    Where `g` has a pole, elements of which one state of that player would come near to it, or to its other side, are not
    conditioned.
    """
    if value.factors is None:
        result = moments(value.mean, value.rest)
        return Gaussian(result.mean, None, result.var)
    top = dominant(context.law, context.axis, value.factors.detach().square())
    if top is None:
        explained = value.factors.square().sum(0)
        result = moments(value.mean, value.rest + explained)
        rest = (result.var - result.slope.square() * explained).clamp(min=0)
        return Gaussian(result.mean, result.slope * value.factors, rest)
    if pole is not None:
        distance = value.mean.detach() - pole
        near = (distance + top.steps(top.load(value.factors.detach()))) / distance
        top = replace(top, single=top.single * (near > NEAREST).all(0))
    largest = top.largest(value.factors)
    load = largest * top.single
    others = top.without(value.factors, load)
    centres = value.mean + top.steps(load)
    result = moments(centres, (value.rest + others).expand_as(centres))
    slope = top.mean(result.slope)
    rest = (top.mean(result.var) - slope.square() * others).clamp(min=0)
    return Gaussian(top.mean(result.mean), top.factors(slope * value.factors, slope * largest, result.mean), rest)


@dataclass(frozen=True)
class LinearRule(Rule):
    """A rule whose operation is a `LinearMap` of its random argument.

    Attributes:
        build: `(args, kwargs, position) -> LinearMap`; the argument at `position` is the random one and is not read.
        both: the operation with several random arguments, for operations linear in each (`many` is True then).
    """

    build: Callable[[Sequence[Any], dict[str, Any], int], LinearMap] | None = None
    both: Callable[..., Gaussian] | None = None


def linear(
    *ops: OpOverload, positions: Sequence[int] = (0,), both: Callable[..., Gaussian] | None = None,
    exact_if: ExactIf = one_random,
) -> Callable[[LinearBuilder], LinearBuilder]:  # fmt: skip
    """Register `builder(op, position, args, **kwargs) -> LinearMap` for operations affine in one random argument; exact.

    The builder gets all arguments; the one at `position` is the random one and must not be read. `both(context, op, *args)`
    is for several random arguments of operations that are linear in each, and `exact_if` says for which of them it is exact.

    Raises:
        ValueError: one of the operations has a rule already.
    """

    def register(builder: LinearBuilder) -> LinearBuilder:
        for op in ops:
            RULES.add(_linear_rule(op, builder, tuple(positions), both, exact_if))
        return builder

    return register


def _linear_rule(
    op: OpOverload, builder: Callable[..., LinearMap], positions: tuple[int, ...],
    both: Callable[..., Gaussian] | None, exact_if: ExactIf,
) -> LinearRule:  # fmt: skip
    def build(args: Sequence[Any], kwargs: dict[str, Any], position: int) -> LinearMap:
        return builder(op, position, args, **kwargs)

    def apply(context: Context, *args: Any, **kwargs: Any) -> Gaussian:
        random = [i for i, a in enumerate(args) if isinstance(a, Gaussian)]
        if len(random) > 1 and both is not None:
            return both(context, op, *args, **kwargs)
        value: Gaussian = args[random[0]]
        return value.linear(build(args, kwargs, random[0]))

    several = both is not None
    return LinearRule(
        op, True, apply, positions, several, exact_if=exact_if if several else None, build=build, both=both
    )


def moves(
    *ops: OpOverload,
    values: Sequence[int] = (0,),
    run: Callable[..., Any] | None = None,
    covers: Callable[..., bool] | None = None,
) -> None:
    """Register operations that only carry elements around; exact.

    Args:
        ops: the operations.
        values: positions of the arguments that hold values (a tensor or a list of tensors); plain ones among them are
            constants, so zero in variances, loadings and owners.
        run: what to call instead of the operation itself, if its result must not depend on memory layout.
        covers: given all arguments, whether the operation only carries elements around; None: always.

    Raises:
        ValueError: one of the operations has a rule already.
    """
    for op in ops:
        RULES.add(replace(move_rule(op, tuple(values), run), covers=covers))


def move_rule(op: OpOverload, values: tuple[int, ...], run: Callable[..., Any] | None = None) -> Rule:
    """The rule of one operation that carries elements around, or adds them up with weights of one; see `moves`."""
    run = op if run is None else run

    def apply(context: Context, *args: Any, **kwargs: Any) -> Any:
        return _carry(run, args, kwargs, values)

    def owners(*args: Any, **kwargs: Any) -> Any:
        return run(*args, **kwargs)

    return Rule(op, True, apply, values, len(values) > 1, owners)


def _carry(run: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], values: tuple[int, ...]) -> Any:
    slots = [a for i in values if i < len(args) for a in (args[i] if isinstance(args[i], (list, tuple)) else [args[i]])]
    random = [a for a in slots if isinstance(a, Gaussian)]
    rank = next((a.factors.shape[0] for a in random if a.factors is not None), None)

    def rebuilt(part: Callable[[Any], Any]) -> Any:
        return run(
            *[
                (type(a)(part(b) for b in a) if isinstance(a, (list, tuple)) else part(a)) if i in values else a
                for i, a in enumerate(args)
            ],
            **kwargs,
        )

    mean = rebuilt(lambda a: a.mean if isinstance(a, Gaussian) else a)
    rest = rebuilt(lambda a: a.rest if isinstance(a, Gaussian) else _zero(a))
    factors = None
    if rank is not None:
        loadings = [a.factors for a in random if a.factors is not None]  # every value of one law has the same factors

        def one(*given: Tensor) -> Any:
            queue = iter(given)
            return rebuilt(lambda a: next(queue) if isinstance(a, Gaussian) else _zero(a))

        factors = torch.vmap(one)(*loadings)
    if isinstance(mean, Tensor):
        return Gaussian(mean, factors, rest)
    return [Gaussian(m, None if factors is None else factors[i], rest[i]) for i, m in enumerate(mean)]


def _zero(value: Any) -> Any:
    if isinstance(value, Tensor):
        return torch.zeros_like(value)
    return value
