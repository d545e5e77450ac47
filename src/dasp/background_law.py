"""The law of random coalitions against a background, whose rows are random too."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .gaussian import Gaussian, LinearMap, Owned
from .grouping import independent_sets
from .law import CoalitionLaw, spread


class BackgroundLaw(CoalitionLaw):
    """A `CoalitionLaw` whose absent players hold `m + sum_r C_r e_r + noise`, the same normal e_r for all of them.

    With p the presence of an element's player, its background adds loadings `(1 - p) C_r`, and independently, as for two
    elements of one player `E (1 - z)^2 = 1 - p` asks for, covariance `p (1 - p) C_r C_r'` and variance `(1 - p) rest`. The
    moments are exact. The factors come after those of the players; where every element has a player and a factor of its own,
    this factor also carries the `p (1 - p)` parts.

    Args:
        nodes, shift, options: as for `CoalitionLaw`.
        rank_behind: number of factors of the background; 0 where all of it is independent.
        free: for each sample and player, 1 where it is random, 0 where it is held in a state, (B, n); None: all are random.
    """

    def __init__(
        self, nodes: Tensor, shift: Tensor, *, rank_behind: int, free: Tensor | None = None, **options: Any
    ) -> None:
        super().__init__(nodes, shift, **options)
        self.rank_behind = rank_behind
        self.free = free

    def moments(self, owned: Owned) -> Gaussian:
        """As in `CoalitionLaw`, with the background's."""
        return self._joined(super().moments(owned), self._behind(owned))

    def meet(self, owned: Owned, linear: LinearMap, axis: int) -> Gaussian:
        """As in `CoalitionLaw`, with the background's; mean, variance and covariances of the factors are exact."""
        return self._joined(super().meet(owned, linear, axis), self._meet_behind(owned, linear, axis))

    def _joined(self, base: Gaussian, behind: Gaussian | None) -> Gaussian:
        rest = base.rest if behind is None else base.rest + behind.rest
        if not self.rank_behind:
            return Gaussian(base.mean, base.factors, rest)
        if behind is None:
            factors = base.mean.new_zeros(self.rank_behind, *base.mean.shape)
        else:
            assert behind.factors is not None
            factors = behind.factors
        return Gaussian(base.mean, factors if base.factors is None else torch.cat((base.factors, factors)), rest)

    def _free(self, owned: Owned, rows: int) -> Tensor:
        """1 on elements of players that are random, 0 on others."""
        if self.free is None:
            return self.nodes.new_ones(())
        return spread(self.free.repeat(rows // self.samples, 1), owned.labels, owned.axis)

    @property
    def _merged(self) -> bool:
        """Whether the factor of a player also carries what its own background adds."""
        return self.full and not self.grouped

    def _carried(self, owned: Owned, step: Tensor) -> Tensor:
        """`sqrt(step^2 + v)`, v the variance of the background: of one element they move everything after it alike."""
        if not self._merged or owned.absent is None:
            return step
        rows = step.shape[owned.axis]
        v = owned.absent.var.narrow(owned.axis, 0, rows) * self._free(owned, rows)
        return torch.where(step < 0, -1.0, 1.0).to(step.dtype) * (step.square() + v).sqrt()

    def _behind(self, owned: Owned) -> Gaussian | None:
        if owned.absent is None:
            return None
        factors, rest = owned.absent.factors, owned.absent.rest
        p = spread(self.presence, owned.labels, owned.axis) * self._free(owned, len(self.presence))
        own = p * (1 - p) * owned.absent.explained + (1 - p) * rest
        return Gaussian(rest, None if factors is None else (1 - p) * factors, (1 - p).square() * rest if self._merged else own)

    def _meet_behind(self, owned: Owned, linear: LinearMap, axis: int) -> Gaussian | None:
        if owned.absent is None:
            return None
        rest = self._one_node(owned.absent.rest, owned.axis)
        loads: Tensor | None = None
        if owned.absent.factors is not None:
            loads = owned.absent.factors.narrow(owned.axis + 1, 0, self.samples)
        free, q = self._free(owned, self.samples), self.nodes
        shift = spread(self.shift, owned.labels, owned.axis) * free

        def load(c: Tensor) -> Tensor:
            """(1 - p) C; p is q + shift where the player is random, else 0."""
            whole = self._over_nodes(linear.homogeneous(c), None, axis)
            part = self._over_nodes(linear.homogeneous(free * c), q, axis)
            return whole - part - self._over_nodes(linear.homogeneous(shift * c), None, axis)

        factors = None if loads is None else torch.vmap(load)(loads)
        squared = linear.squared
        if self._merged:  # (1 - p)^2 rest
            var = self._over_nodes(squared((1 - free) * rest), None, axis)
            var = var + self._over_nodes(squared(free * rest), (1 - q).square(), axis)
            var = var - self._over_nodes(squared(shift * rest), 2 * (1 - q), axis)
            return Gaussian(var, factors, var.clamp(min=0))
        var = self._over_nodes(squared(rest), None, axis) - self._over_nodes(squared(free * rest), q, axis)
        var = var - self._over_nodes(squared(shift * rest), None, axis)
        if loads is not None:
            own, own_shift = self._blocks(owned, free * loads, linear)
            var = var + self._over_nodes(own, q * (1 - q), axis) + self._over_nodes(own_shift, 1 - 2 * q, axis)
        return Gaussian(var, factors, var.clamp(min=0))

    def _blocks(self, owned: Owned, loads: Tensor, linear: LinearMap) -> tuple[Tensor, Tensor]:
        """`sum_g sum_r D_gr^2` and the same times the shift of g, with D_gr what the elements of g in C_r (R, *s) add."""
        each = spread(self.shift, owned.labels, owned.axis)
        if not self.grouped:
            square = loads.square().sum(0)
            return linear.squared(square), linear.squared(each * square)
        total: tuple[Tensor, Tensor] | None = None
        for members in independent_sets(owned.labels, self.players, linear, owned.axis):
            inside = torch.isin(owned.labels, members).to(loads.dtype).unsqueeze(owned.axis)

            def share(each: Tensor, inside: Tensor = inside) -> tuple[Tensor, Tensor]:
                square = torch.vmap(lambda c: linear.homogeneous(c * inside))(loads).square().sum(0)
                reached = linear.reach(inside.expand_as(each))
                seen = linear.reach(each * inside) / reached.where(reached > 0, torch.ones_like(reached))
                return square, seen * square

            part: tuple[Tensor, Tensor] = checkpoint(share, each, use_reentrant=False)
            total = part if total is None else (total[0] + part[0], total[1] + part[1])
        assert total is not None  # there is always a player
        return total
