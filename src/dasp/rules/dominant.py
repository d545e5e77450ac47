"""Conditioning on the player that dominates an element: a Gaussian is wrong where one player carries most of the variance.

That player g is present with probability q. Given its state the element is Gaussian around `m + L_g sqrt((1-q)/q)` (present)
or `m - L_g sqrt(q/(1-q))` (absent) with variance `v - L_g^2`. A rule is applied in both states, and the results are mixed
by the laws of total mean, variance and covariance. Approximate in that the other players stay Gaussian; exact where g is
alone. Only players that have a factor of their own can be taken out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..gaussian import Gaussian, Law

TIE = 64
"""Loadings this many rounding errors apart are tied."""


@dataclass(frozen=True)
class Dominant:
    """One player taken out of every element; none where two are tied, so that equal players stay equal.

    Attributes:
        player: which, (1, *s).
        q: its probability to be present, (*s).
        single: 1 where it stands out, 0 where it is tied with another, (*s).
    """

    player: Tensor
    q: Tensor
    single: Tensor

    def load(self, factors: Tensor) -> Tensor:
        """Loadings of the players taken out, (*s), from factors (R, *s)."""
        return self.largest(factors) * self.single

    def largest(self, factors: Tensor) -> Tensor:
        """Loadings of the players, taken out or tied, (*s), from factors (R, *s)."""
        return factors.gather(0, self.player)[0]

    def steps(self, load: Tensor) -> Tensor:
        """What the state of the player adds to the mean: present, absent, (2, *s)."""
        odds = ((1 - self.q) / self.q).sqrt()
        return torch.stack((load * odds, -load / odds))

    def mean(self, states: Tensor) -> Tensor:
        """Mean over both states, (2, *s) to (*s)."""
        return torch.lerp(states[1], states[0], self.q)

    def factors(self, others: Tensor, largest: Tensor, means: Tensor) -> Tensor:
        """Factors of the others (R, *s), and in place of the player's, `largest` (*s), what its states' means (2, *s) give."""
        on, off = means
        kept = largest * (1 - self.single)
        own = kept + (self.q * (1 - self.q)).sqrt() * (on - off)  # the states are equal where there is no player
        return others.scatter(0, self.player, own.unsqueeze(0))

    def without(self, factors: Tensor, load: Tensor) -> Tensor:
        """Variance that factors (R, *s) explain, without the player's `load`, (*s)."""
        return (factors.square().sum(0) - load.square()).clamp(min=0)


def skewness(law: Law, axis: int | None, factors: Tensor) -> Tensor | None:
    """Third moment of each factor where factors are players, broadcast to (R, *s); None where they are not.

    A player's factor e takes two values, so `e^2 = 1 + k e` with `k = E e^3 = (1 - 2q) / sqrt(q (1 - q))`: products of two
    values that hang on the same player are linear in it, exactly.

    Args:
        law: the coalitions.
        axis: the batch axis of an element, None if it has none.
        factors: (R, *s).
    """
    presence = law.factor_presence
    if not law.conditioned or presence is None or axis is None:
        return None
    shape = [1] * factors.dim()
    shape[0], shape[axis + 1] = presence.shape
    q = presence.to(factors.dtype).reshape(shape)
    skew = (1 - 2 * q) / (q * (1 - q)).sqrt()
    behind = len(factors) - len(presence)  # factors that are no players have a symmetric law
    return torch.cat((skew, skew.new_zeros(behind, *skew.shape[1:]))) if behind else skew


def aligned(skew: Tensor | None, factors: Tensor | None) -> Tensor | None:
    """A `skewness` for factors that have gained axes after the first, as `in_both_states` gives them."""
    while skew is not None and factors is not None and skew.dim() < factors.dim():
        skew = skew.unsqueeze(1)
    return skew


def dominant(law: Law, axis: int | None, weight: Tensor) -> Dominant | None:
    """The player with the largest weight in every element.

    Args:
        law: the coalitions.
        axis: the batch axis of an element, None if it has none.
        weight: how much each factor matters, those of players first, (R, *s).

    Returns:
        None where the law does not ask for conditioning, or factors are not players.
    """
    presence = law.factor_presence
    if not law.conditioned or presence is None or axis is None:
        return None
    weight = weight.detach()[: len(presence)]  # factors that are no players come after them
    most, player = weight.max(0, keepdim=True)
    single = (weight >= most * (1 - TIE * torch.finfo(weight.dtype).eps)).sum(0) == 1
    shape = [1] * player.dim()
    shape[0], shape[axis + 1] = presence.shape
    q = presence.to(weight.dtype).reshape(shape).expand_as(weight).gather(0, player)[0]
    return Dominant(player, q, single.to(weight.dtype))


def in_both_states(
    law: Law, axis: int | None, value: Gaussian, rule: Callable[[Gaussian], Gaussian], *, axes: int = 1
) -> Gaussian:
    """A rule that acts on groups of elements, given both states of the player that dominates each group.

    Args:
        law: the coalitions.
        axis: the batch axis of the value, None if it has none.
        value: the argument; a group spans its last `axes` axes.
        rule: acts on each group alone, and is given both states along a new first axis, or the value itself; it may change
            the sizes of the last `axes` axes.
        axes: how many.
    """
    if value.factors is None:
        return rule(value)
    weight = value.factors.square().sum(tuple(range(-axes, 0)), keepdim=True)
    top = dominant(law, axis, weight)
    if top is None:
        return rule(value)
    player = top.player.expand(1, *value.mean.shape)
    own = value.factors.gather(0, player)[0] * top.single
    others = value.factors.scatter_add(0, player, -own.unsqueeze(0))
    states = 2, *value.mean.shape
    centres = value.mean + top.steps(own)
    both = rule(Gaussian(centres, others.unsqueeze(1).expand(len(others), *states), value.rest.expand(states)))
    assert both.factors is not None
    on, off = both.mean
    loads_on, loads_off = both.factors.unbind(1)
    spread = top.q * (1 - top.q)
    step = spread.sqrt() * (on - off) * top.single
    factors = torch.lerp(loads_off, loads_on, top.q)
    factors = factors.scatter_add(0, top.player.expand(1, *step.shape), step.unsqueeze(0))
    between = spread * (loads_on - loads_off).square().sum(0)
    return Gaussian(torch.lerp(off, on, top.q), factors, torch.lerp(both.rest[1], both.rest[0], top.q) + between)
