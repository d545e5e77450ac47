"""The law of random coalitions: turns owned values into moments where players meet."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .gaussian import Gaussian, LinearMap, Owned
from .grouping import independent_sets

FULL = "full"


class CoalitionLaw:
    """Players present independently, each with the probability of its quadrature node.

    Rows are nodes times samples, node-major: row `k * B + b` is sample b at node k. The probability of player i in that row
    is `q_k + shift[b, i]`; the shift is zero and exists to be differentiated, `d/d shift` sums `dF/dq_i` over the nodes.
    What is linear is computed once for all nodes. Terms of second order in the shift of ONE player are left out: they do
    not matter for first derivatives, nor for mixed second ones, and the multilinear extension has no others.

    Args:
        nodes: presence probabilities q, (K,), inside (0, 1).
        shift: zeros to be differentiated, (B, n).
        grouped: False if every element is its own player.
        rank: "full" for one factor per player, None for no factors, or orthonormal directions (B, n, R).
        conditioned: whether nonlinearities condition on dominant players (needs one factor per player).
        memory: bytes that one chunk of players may take where players are run one by one.
    """

    def __init__(
        self, nodes: Tensor, shift: Tensor, *, grouped: bool, rank: str | Tensor | None, conditioned: bool, memory: int
    ) -> None:
        self.nodes = nodes
        self.shift = shift
        self.grouped = grouped
        self.directions = rank if isinstance(rank, Tensor) else None
        self.full = isinstance(rank, str)
        self.memory = memory
        self.presence = (nodes[:, None, None] + shift).flatten(0, 1)  # (K * B, n)
        self.conditioned = conditioned and self.full
        self.factor_presence: Tensor | None = self.presence.T if self.full else None

    @property
    def samples(self) -> int:
        """Number of samples B."""
        return self.shift.shape[0]

    @property
    def players(self) -> int:
        """Number of players n."""
        return self.shift.shape[1]

    def moments(self, owned: Owned) -> Gaussian:
        """Moments of the owned elements themselves; mean and variance are exact.

        Mean `off + q (on - off)`, variance `q (1 - q) (on - off)^2`.
        """
        owned_off, step = self._states(owned)
        p = spread(self.presence, owned.labels, owned.axis)
        deviation = (p * (1 - p)).sqrt() * step
        mean = owned_off + p * step
        if self.full:
            carried = (p * (1 - p)).sqrt() * self._carried(owned, step)
            return Gaussian(mean, torch.stack([carried * own for own in self._ownership(owned)]), torch.zeros_like(mean))
        var = deviation.square()
        if self.directions is None:
            return Gaussian(mean, None, var)
        repeated = self.directions.repeat(len(self.nodes), 1, 1)  # (K * B, n, R)
        factors = torch.stack([deviation * spread(u, owned.labels, owned.axis) for u in repeated.unbind(-1)])
        return Gaussian(mean, factors, (var - factors.square().sum(0)).clamp(min=0))

    def _states(self, owned: Owned) -> tuple[Tensor, Tensor]:
        """`off` and `on - off` as floats; 0 where both are the same infinity."""
        off, on = (part if part.is_floating_point() else part.to(self.nodes.dtype) for part in (owned.off, owned.on))
        return off, torch.where((on == off) & on.isinf(), torch.zeros_like(on), on - off)

    def _carried(self, owned: Owned, step: Tensor) -> Tensor:
        """What the factors of players carry, `sqrt(q (1 - q))` times their step, without the root."""
        return step

    def _ownership(self, owned: Owned) -> Iterator[Tensor]:
        for player in range(1, self.players + 1):
            yield (owned.labels == player).to(self.nodes.dtype).unsqueeze(owned.axis)

    def meet(self, owned: Owned, linear: LinearMap, axis: int) -> Gaussian:
        """Moments of `A x + c` where players meet; mean, variance and the covariances of the factors are exact.

        With D = A (on - off) and one column per player: mean `A off + c + D q`, variance `sum_g q_g (1 - q_g) D_g^2`.
        """
        off, step = (self._one_node(part, owned.axis) for part in self._states(owned))
        shift = spread(self.shift, owned.labels, owned.axis)
        q = self.nodes
        spread_q = q * (1 - q)
        mean = self._over_nodes(linear.affine(off), None, axis)
        mean = mean + self._over_nodes(linear.homogeneous(step), q, axis)
        mean = mean + self._over_nodes(linear.homogeneous(shift * step), None, axis)
        if self.full:
            columns = self._columns(owned, self._carried(owned, step), linear)  # (n, *out)
            deviation = (self.presence * (1 - self.presence)).sqrt().T  # (n, K * B)
            rows = [1] * (columns.dim() - 1)
            rows[axis] = -1
            factors = torch.vmap(lambda d, s: self._over_nodes(d, None, axis) * s.reshape(rows))(columns, deviation)
            return Gaussian(mean, factors, torch.zeros_like(mean))
        var, var_shift = self._variances(owned, step, shift, linear)
        var = self._over_nodes(var, spread_q, axis) + self._over_nodes(var_shift, 1 - 2 * q, axis)
        if self.directions is None:
            return Gaussian(mean, None, var.clamp(min=0))
        deviation_q = spread_q.sqrt()

        def load(direction: Tensor) -> Tensor:
            noise = step * spread(direction, owned.labels, owned.axis)
            return self._over_nodes(linear.homogeneous(noise), deviation_q, axis) + self._over_nodes(
                linear.homogeneous(shift * noise), (1 - 2 * q) / (2 * deviation_q), axis
            )

        factors = torch.vmap(load, in_dims=2)(self.directions)
        return Gaussian(mean, factors, (var - factors.square().sum(0)).clamp(min=0))

    def _variances(self, owned: Owned, step: Tensor, shift: Tensor, linear: LinearMap) -> tuple[Tensor, Tensor]:
        """`sum_g D_g^2` and `sum_g shift_g D_g^2`, each (B, *out).

        Elements that are players of their own go through the squared weights. Groups go through the map one by one, or
        many at once where no element of the result sees two of them. Nothing of a pass is kept: the backward pass repeats it.
        """
        if not self.grouped:
            return linear.squared(step.square()), linear.squared(shift * step.square())
        total: tuple[Tensor, Tensor] | None = None
        for members in independent_sets(owned.labels, self.players, linear, owned.axis):
            inside = torch.isin(owned.labels, members).to(step.dtype).unsqueeze(owned.axis)

            def share(shift: Tensor, inside: Tensor = inside) -> tuple[Tensor, Tensor]:
                square = linear.homogeneous(step * inside).square()
                reached = linear.reach(inside.expand_as(step))
                seen = linear.reach(shift * inside) / reached.where(reached > 0, torch.ones_like(reached))
                return square, seen * square

            part: tuple[Tensor, Tensor] = checkpoint(share, shift, use_reentrant=False)
            total = part if total is None else (total[0] + part[0], total[1] + part[1])
        assert total is not None  # there is always a player
        return total

    def _columns(self, owned: Owned, step: Tensor, linear: LinearMap) -> Tensor:
        """`D_g` of every player, (n, B, *out)."""
        return player_columns(owned, step, linear, torch.arange(self.players, device=step.device), self.memory)

    def _one_node(self, value: Tensor, axis: int) -> Tensor:
        """The rows of one node; owned values are the same at every node."""
        return value.narrow(axis, 0, self.samples)

    def _over_nodes(self, value: Tensor, weights: Tensor | None, axis: int) -> Tensor:
        """Repeat the rows of one node for every node, times a weight per node."""
        shape = [1] * value.dim()
        shape.insert(axis, len(self.nodes))
        factor = torch.ones_like(self.nodes) if weights is None else weights
        return (value.unsqueeze(axis) * factor.reshape(shape)).flatten(axis, axis + 1)


def spread(per_player: Tensor, labels: Tensor, axis: int) -> Tensor:
    """Give every element the number of its owner, 0 where nobody owns it.

    Args:
        per_player: (rows, n).
        labels: 1-based owners, (*s without its batch axis).
        axis: where the batch axis goes.

    Returns:
        (*s) with `rows` along `axis`.
    """
    padded = torch.nn.functional.pad(per_player, (1, 0))
    return padded[:, labels.flatten()].reshape(-1, *labels.shape).movedim(0, axis)


def player_columns(owned: Owned, step: Tensor, linear: LinearMap, players: Tensor, memory: int) -> Tensor:
    """What each of some players alone adds to the result of a linear map, `A (step on its elements)`.

    Args:
        owned: the elements, with their owners.
        step: their differences, (*s).
        linear: the map.
        players: which, counted from 0, (P,).
        memory: bytes that one chunk of players may take.

    Returns:
        (P, *out).
    """
    labels = owned.labels.unsqueeze(owned.axis)

    def column(player: Tensor) -> Tensor:
        return linear.homogeneous(step * (labels == player + 1))

    first = torch.vmap(column)(players[:1])  # its size tells how many fit
    size = max(1, memory // max(1, 8 * max(step.numel(), first.numel()) * step.element_size()))
    return torch.cat([first, *(torch.vmap(column)(chunk) for chunk in players[1:].split(size) if len(chunk))])
