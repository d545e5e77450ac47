"""The law of coalitions of a given size: the first layer of the estimator as it was published (Ancona et al., 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .gaussian import Gaussian, LinearMap, Owned
from .law import player_columns, spread

LEFT = 64
"""What is left of a sum of squares after most of it was taken away counts from this many rounding errors on."""


@dataclass(frozen=True)
class _Totals:
    """What all players together do to the result of one linear map, for each sample; `out` has the batch axis first.

    Attributes:
        off: the result with every player absent, (B, *out).
        sum: `sum_g D_g`, where D_g is what player g adds, (B, *out).
        squares: `sum_g D_g^2`, (B, *out).
        reaching: number of players that reach an element, (*out).
        columns: D_g of every player, (n, B, *out), where each has a factor; else None.
        loads: `sum_g D_g U_gr`, (R, B, *out), where there are directions U; else None.
    """

    off: Tensor
    sum: Tensor
    squares: Tensor
    reaching: Tensor
    columns: Tensor | None
    loads: Tensor | None


@dataclass
class Shared:
    """What the laws of one set of samples share: directions (B, n, R), and the totals of each meeting, in their order."""

    directions: Tensor | None = None
    totals: list[_Totals] = field(default_factory=list)


class SizeLaw:
    """Coalitions of k of the N = n - 1 others of a player, without replacement, once without and once with the player.

    Rows are `((state * P + i) * K + k) * B + b`: state 0 without and 1 with player i, of P; size k, of K; sample b, of B.

    Where players meet in a linear map, the c others that reach an element add up to mean `k/N sum D` and, with `j = k c / N`
    of them expected to be present, variance `j (m2 - m1^2) (1 - (j-1)/(c-1))`; m1 and m2 are the means of D and D^2 over
    them. The player itself adds D_i. (Ancona et al. 2019, section 3.2; for a dense layer c = N, and both moments are exact.)

    With factors the covariance is exact instead, at every element and between them: indicators sampled without
    replacement are `k/N + sqrt(k (N-k) / (N (N-1))) (e_g - mean of e)` in first and second moments, e independent and
    of variance 1. A factor is one e_g, or one direction in their space.

    Args:
        chosen: the P players, (P,).
        sizes: coalition sizes k, not always whole, (K,).
        samples: number of samples B.
        count: number of players n.
        grouped: False if every element is its own player.
        rank: "full" for one factor per player, None for no factors, or orthonormal directions (B, n, R).
        shared: totals of laws of the same samples.
        memory: bytes that one chunk of players may take where players are run one by one.
    """

    conditioned = False
    factor_presence: Tensor | None = None

    def __init__(
        self, chosen: Tensor, sizes: Tensor, *, samples: int, count: int, grouped: bool, rank: str | Tensor | None,
        shared: Shared, memory: int,
    ) -> None:  # fmt: skip
        self.chosen = chosen
        self.samples = samples
        self.count = count
        self.grouped = grouped
        self.full = isinstance(rank, str)
        self.directions = rank if isinstance(rank, Tensor) else None
        self.shared = shared
        self.memory = memory
        self.share = sizes / max(1, count - 1)  # (K,): the chance of each other player
        self.meetings = 0

    @property
    def scale(self) -> Tensor:
        """`sqrt(k (N-k) / (N (N-1)))`, (K,): what turns centred unit noise into indicators."""
        others = self.count - 1
        return (self.share * (1 - self.share) * others / max(1, others - 1)).clamp(min=0).sqrt()

    def moments(self, owned: Owned) -> Gaussian:
        """Moments of the owned elements themselves; mean and variance are exact."""
        owned = self._in_numbers(owned)
        step = _step(owned)
        own = torch.nn.functional.one_hot(self.chosen, self.count).to(step.dtype)  # (P, n)
        share = self.share[:, None]
        absent = share * (1 - own[:, None, :])  # (P, K, n)
        presence = self._all_rows(torch.stack((absent, absent + own[:, None, :])))
        p = spread(presence, owned.labels, owned.axis)
        var = p * (1 - p) * step.square()
        mean = owned.off + p * step
        if self.full:
            unit = torch.eye(self.count, dtype=step.dtype, device=step.device)
            noise = unit[:, None, :].expand(-1, self.samples, -1)  # (n, B, n): factor, sample, player
        elif self.directions is None:
            return Gaussian(mean, None, var)
        else:
            noise = self.directions.movedim(-1, 0)  # (R, B, n)
        factors = []
        others = max(1, self.count - 1)
        for direction in noise.unbind(0):
            left = direction[None] * (1 - own)[:, None, :]  # (P, B, n)
            centred = (left - left.sum(-1, keepdim=True) / others) * (1 - own)[:, None, :]
            rows = (centred[:, None] * self.scale[:, None, None]).expand(2, -1, -1, -1, -1).flatten(0, 3)
            factors.append(spread(rows, owned.labels, owned.axis) * step)
        loads = torch.stack(factors)
        return Gaussian(mean, loads, (var - loads.square().sum(0)).clamp(min=0))

    def _in_numbers(self, owned: Owned) -> Owned:
        """Truth values and whole numbers as floats."""
        off, on = (part if part.is_floating_point() else part.to(self.share.dtype) for part in (owned.off, owned.on))
        return Owned(off, on, owned.labels, owned.axis)

    def _all_rows(self, states: Tensor) -> Tensor:
        """(2, P, K, n) to (rows, n)."""
        return states.unsqueeze(3).expand(-1, -1, -1, self.samples, -1).flatten(0, 3)

    def meet(self, owned: Owned, linear: LinearMap, axis: int) -> Gaussian:
        """Moments of `A x + c` where players meet."""
        off, on = (part.narrow(owned.axis, 0, self.samples) for part in (owned.off, owned.on))
        one = self._in_numbers(Owned(off, on, owned.labels, owned.axis))
        step = _step(one)
        if self.meetings == len(self.shared.totals):
            self.shared.totals.append(self._totals(one, step, linear, axis))
        known = self.shared.totals[self.meetings]
        self.meetings += 1
        own = player_columns(one, step, linear, self.chosen, self.memory).movedim(axis + 1, 1)  # (P, B, *out)
        sums = known.sum - own
        lead = [1, -1] + [1] * known.sum.dim()
        without = known.off + self.share.reshape(lead) * sums.unsqueeze(1)  # (P, K, B, *out)
        squares = known.squares - own.square()
        nothing = LEFT * torch.finfo(step.dtype).eps * known.squares.nan_to_num(nan=-torch.inf, posinf=-torch.inf)
        squares = squares.masked_fill(squares <= nothing, 0)  # what has overflowed stays so, to be seen
        factors, rest = self._noise(known, own, sums, squares, self._reached(one, linear, axis), lead)
        means = torch.stack((without, without + own.unsqueeze(1)))
        return Gaussian(
            self._rows(means, axis),
            None if factors is None else self._rows(factors.unsqueeze(1).expand(-1, 2, *factors.shape[1:]), axis, 1),
            self._rows(rest.expand(2, *rest.shape), axis),
        )

    def _noise(
        self, known: _Totals, own: Tensor, sums: Tensor, squares: Tensor, reached: Tensor, lead: Sequence[int]
    ) -> tuple[Tensor | None, Tensor]:
        """Factors (R, P, K, B, *out), if there are any, and variance beside them (P, K, B, *out)."""
        if known.columns is None and known.loads is None:
            return None, _published_variance(self.share.reshape(lead), known.reaching - reached, sums, squares)
        others = max(1, self.count - 1)
        scale = self.scale.reshape(lead)
        mean = sums / others  # of D over the others
        if known.columns is not None:
            mine = torch.nn.functional.one_hot(self.chosen, self.count).T.to(sums.dtype)  # (n, P)
            mine = mine.reshape(*mine.shape, *[1] * (sums.dim() - 1))
            centred = (known.columns.unsqueeze(1) - mean) * (1 - mine)  # (n, P, B, *out)
            factors = centred.unsqueeze(2) * scale
            return factors, torch.zeros_like(factors[0])
        assert known.loads is not None
        assert self.directions is not None
        weights = self.directions.movedim(-1, 0)  # (R, B, n)
        left_out = weights.index_select(-1, self.chosen).movedim(-1, 1)  # (R, P, B)
        shape = (*left_out.shape, *[1] * (sums.dim() - 2))
        left = (weights.sum(-1).unsqueeze(1) - left_out).reshape(shape)
        loads = known.loads.unsqueeze(1) - own * left_out.reshape(shape) - mean * left  # (R, P, B, *out)
        factors = loads.unsqueeze(2) * scale
        var = (squares - sums * mean).clamp(min=0).unsqueeze(1) * scale.square()
        return factors, (var - factors.square().sum(0)).clamp(min=0)

    def _totals(self, one: Owned, step: Tensor, linear: LinearMap, axis: int) -> _Totals:
        off = linear.affine(one.off).movedim(axis, 0)
        total = linear.homogeneous(step).movedim(axis, 0)
        squares = torch.zeros_like(total) if self.grouped else linear.squared(step.square()).movedim(axis, 0)
        reaching = torch.zeros_like(total[0])
        columns = []
        for some in torch.arange(self.count, device=step.device).split(self._at_once(step, total)):
            reaching = reaching + self._reached(one, linear, axis, some).sum(0)[0]
            if self.grouped or self.full:
                part = player_columns(one, step, linear, some, self.memory).movedim(axis + 1, 1)
                squares = squares + part.square().sum(0) if self.grouped else squares
                columns += [part] if self.full else []
        loads = None
        if self.directions is not None:
            weighted = [step * spread(u, one.labels, one.axis) for u in self.directions.unbind(-1)]
            loads = torch.stack([linear.homogeneous(part).movedim(axis, 0) for part in weighted])
        return _Totals(off, total, squares, reaching, torch.cat(columns) if self.full else None, loads)

    def _reached(self, one: Owned, linear: LinearMap, axis: int, players: Tensor | None = None) -> Tensor:
        """1 where a player reaches an element, (P, 1, *out)."""
        single = Owned(one.off.narrow(one.axis, 0, 1), one.on.narrow(one.axis, 0, 1), one.labels, one.axis)
        chosen = self.chosen if players is None else players
        positive = LinearMap(linear.reach, linear.reach, linear.reach, linear.reach)
        found = player_columns(single, torch.ones_like(single.off), positive, chosen, self.memory)
        return (found.movedim(axis + 1, 1) > 0).to(one.off.dtype)

    def _at_once(self, step: Tensor, result: Tensor) -> int:
        return max(1, self.memory // max(1, 8 * max(step.numel(), result.numel()) * step.element_size()))

    @staticmethod
    def _rows(value: Tensor, axis: int, before: int = 0) -> Tensor:
        """(*before, 2, P, K, B, *out) to (*before, *out with all rows at `axis`)."""
        return value.flatten(before, before + 3).movedim(before, axis + before)


def _step(owned: Owned) -> Tensor:
    """`on - off`; 0 where both are the same infinity."""
    return torch.where(owned.on == owned.off, torch.zeros_like(owned.on), owned.on - owned.off)


def _published_variance(share: Tensor, reaching: Tensor, sums: Tensor, squares: Tensor) -> Tensor:
    """`j (m2 - m1^2) (1 - (j-1)/(c-1))`, (P, K, B, *out); 0 where fewer than two players reach an element.

    Args:
        share: k / N, (1, K, 1, ...).
        reaching: c, number of others that reach an element, (P, 1, *out).
        sums: `c m1`, (P, B, *out).
        squares: `c m2`, (P, B, *out).
    """
    several = reaching > 1
    c = reaching.where(several, 2 * torch.ones_like(reaching))
    deviation = (squares / c - (sums / c).square()).clamp(min=0) * several
    j = share * c.unsqueeze(1)
    return (j * (1 - (j - 1) / (c - 1).unsqueeze(1))).clamp(min=0) * deviation.unsqueeze(1)
