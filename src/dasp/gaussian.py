"""The values that flow through a network: `Owned` while every element depends on one player, `Gaussian` afterwards.

Shapes: `s` is the shape of a plain activation, rows (samples times quadrature nodes) included; R is the number of factors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

DIGITS = 256
"""Base in which owner labels are compared."""


@dataclass(frozen=True)
class LinearMap:
    """An affine operation `x -> A x + c`, as the four maps that moments need.

    Attributes:
        affine: `x -> A x + c`.
        homogeneous: `x -> A x`.
        squared: `v -> (A * A) v`, the variance of `A x` for independent elements of variance `v`.
        reach: A with every weight it could have set to a positive one; tells which elements reach which.
    """

    affine: Callable[[Tensor], Tensor]
    homogeneous: Callable[[Tensor], Tensor]
    squared: Callable[[Tensor], Tensor]
    reach: Callable[[Tensor], Tensor]

    def owners(self, labels: Tensor) -> Tensor | None:
        """Labels of the result if each of its elements is reached by one player at most, else None.

        Cauchy and Schwarz: `(sum w)(sum w d^2) = (sum w d)^2` with positive weights exactly if all `d` are equal; taken
        for one digit of the labels at a time, so that neighbouring numbers are far apart.
        """
        present = (labels > 0).double()
        weight = self.reach(present)
        reached = weight.where(weight > 0, torch.ones_like(weight))
        result = torch.zeros_like(weight, dtype=torch.long)
        place, left = 1, labels
        while bool((left > 0).any()):
            digit = (left % DIGITS).double() * present
            first, second = self.reach(digit), self.reach(digit.square())
            if bool((weight * second - first.square() > 1e-12 * weight * second).any()):
                return None
            result = result + place * (first / reached).round().long()
            place, left = place * DIGITS, left // DIGITS
        return result


class Law(Protocol):
    """The distribution of the coalitions: turns owned values into moments, where players meet.

    Attributes:
        conditioned: True if nonlinearities condition on the player that dominates an element.
        factor_presence: for factors that stand for players, the probability of each to be present, (R, rows); else None.
            Further factors may come after these.
    """

    conditioned: bool
    factor_presence: Tensor | None

    def moments(self, owned: Owned) -> Gaussian:
        """Moments of the owned elements themselves."""

    def meet(self, owned: Owned, linear: LinearMap, axis: int) -> Gaussian:
        """Moments of `linear` applied to the owned elements; `axis` is the batch axis of the result."""


@dataclass(frozen=True)
class Owned:
    """A value whose elements each depend on one player: its two exact states.

    Attributes:
        off: the value with every player absent, (*s).
        on: the value with every player present, (*s).
        labels: owner of each element, 1-based, 0 for nobody, (*s without its batch axis).
        axis: the batch axis of `off` and `on`.
        absent: moments of the value with every player absent where that is random (`off` is its mean); else None.
    """

    off: Tensor
    on: Tensor
    labels: Tensor
    axis: int
    absent: Gaussian | None = None

    @classmethod
    def of(cls, off: Tensor | Gaussian, on: Tensor, labels: Tensor, axis: int) -> Owned:
        """A value with all players absent that is known, or random, and what it is with all present."""
        return cls(off.mean, on, labels, axis, off) if isinstance(off, Gaussian) else cls(off, on, labels, axis)


@dataclass(frozen=True)
class Gaussian:
    """A random activation: mean, loadings on shared standard normal variables, and an independent rest.

    The covariance is `sum_r L_r L_r' + diag(rest)`. Without factors this is the diagonal propagation of Lightweight
    Probabilistic Deep Networks (Gast and Roth, 2018).

    Attributes:
        mean: (*s).
        factors: the loadings L, (R, *s), or None for R = 0.
        rest: variance that no factor explains, >= 0, (*s).
    """

    mean: Tensor
    factors: Tensor | None
    rest: Tensor

    @property
    def explained(self) -> Tensor:
        """Variance explained by the factors, (*s)."""
        return torch.zeros_like(self.rest) if self.factors is None else self.factors.square().sum(0)

    @property
    def var(self) -> Tensor:
        """Variance of every element, (*s)."""
        return self.rest if self.factors is None else self.rest + self.explained

    def map_factors(self, f: Callable[[Tensor], Tensor]) -> Tensor | None:
        """Apply a map of plain activations to every factor."""
        return None if self.factors is None else torch.vmap(f)(self.factors)

    def linear(self, linear: LinearMap) -> Gaussian:
        """Moments of `A x + c`; exact."""
        return Gaussian(linear.affine(self.mean), self.map_factors(linear.homogeneous), linear.squared(self.rest))

    def covariance(self, other: Gaussian) -> Tensor:
        """Elementwise covariance with another value, from the shared factors; broadcasts."""
        if self.factors is None or other.factors is None:
            return self.mean.new_zeros(())
        return torch.vmap(torch.mul)(self.factors, other.factors).sum(0)
