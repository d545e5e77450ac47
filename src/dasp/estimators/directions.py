"""The active subspace: which directions of the players' noise a network responds to."""

from __future__ import annotations

import torch
from torch import Tensor

from ..background_game import BackgroundGame
from ..game import Game, take_rows
from ..graph import Graph
from .sampling import stream

SAMPLES_PER_DIRECTION = 4


def active_directions(game: Game, rows: Tensor, rank: int, *, seed: int) -> Tensor:
    """Orthonormal directions over players that capture most of `(x - b) * grad f` at random coalitions.

    The top left singular vectors of the gradients at `4 * rank` coalitions, in complementary pairs, the same coalitions for
    every row (Constantine, 2015, section 1.2, with coalitions in place of a density). With several targets the coalitions
    take turns; against a background they are spread over its rows.

    Args:
        game: the games.
        rows: which of them.
        rank: number of directions R.
        seed: of the coalitions.

    Returns:
        (rows, n, R).
    """
    n, samples = game.players.count, SAMPLES_PER_DIRECTION * rank
    generator = stream(seed)
    chance = torch.rand(samples // 2, 1, generator=generator, device="cpu")
    half = torch.rand(samples // 2, n, generator=generator, device="cpu") < chance
    coalitions = torch.cat((half, ~half)).to(game.device)
    size = max(1, game.chunk // 3)  # a gradient keeps what a forward pass can drop
    step = max(1, size // samples)
    behind = torch.arange(samples, device=game.device) * game.rows_each // samples  # rows of a background
    graph = game.model.capture(game.inputs, game.extra)
    parts = []
    for some in rows.split(step):
        chunks = _numbered(coalitions, max(1, size // len(some)))
        gradients = torch.cat([_gradients(game, graph, some, c, behind[i : i + len(c)], i) for i, c in chunks], 1)
        parts.append(_leading(gradients, rank).to(game.dtype))
    return torch.cat(parts)


def _leading(gradients: Tensor, rank: int) -> Tensor:
    """The top left singular vectors of `gradients` (rows, M, n) transposed, (rows, n, rank).

    From the smaller Gram matrix, in double precision, which gradients of low rank need; QR restores orthogonality.
    """
    scale = gradients.abs().amax((1, 2), keepdim=True)
    scaled = (gradients / scale.where(scale > 0, torch.ones_like(scale))).double()
    _, vectors = torch.linalg.eigh(scaled @ scaled.mT)
    directions: Tensor = torch.linalg.qr((scaled.mT @ vectors[..., -rank:]).flip(-1)).Q
    return directions


def _numbered(coalitions: Tensor, size: int) -> list[tuple[int, Tensor]]:
    return [(i * size, c) for i, c in enumerate(coalitions.split(size))]


def _gradients(game: Game, graph: Graph, rows: Tensor, coalitions: Tensor, behind: Tensor, start: int) -> Tensor:
    """`(x - b) * grad f` at coalitions, summed over the elements of each player, (rows, M, n)."""
    index = rows.repeat_interleave(len(coalitions))
    masked, steps = [], []
    for z, x, b in zip(game.players.spread(coalitions), game.inputs, game.baselines, strict=True):
        base = b[behind].unsqueeze(0) if isinstance(game, BackgroundGame) else b.expand_as(x)[rows].unsqueeze(1)
        point = torch.where(z.unsqueeze(0), x[rows].unsqueeze(1), base).flatten(0, 1)
        masked.append(point.requires_grad_(point.is_floating_point()))
        if point.is_floating_point():  # others have no gradient
            steps.append((x[rows].unsqueeze(1) - base).expand(-1, len(coalitions), *x.shape[1:]).flatten(0, 1))
    # The graph and not the module: a module may work in place, or without gradients.
    outputs = graph.run([*masked, *take_rows(game.extra, index, game.batch)])
    values = game.targets.select(outputs, index)  # (rows * M, T)
    turn = (torch.arange(len(coalitions), device=game.device) + start) % game.targets.count
    chosen = values.gather(1, turn.repeat(len(rows)).unsqueeze(1))
    shape = (len(rows), len(coalitions), game.players.count)
    total = torch.zeros(len(index), game.players.count, dtype=game.dtype, device=game.device)
    if not chosen.requires_grad:  # the network does not depend on its input
        return total.reshape(shape)
    floating = [i for i, point in enumerate(masked) if point.requires_grad]
    gradients = torch.autograd.grad(chosen.sum(), [masked[i] for i in floating], allow_unused=True)
    for i, gradient, step in zip(floating, gradients, steps, strict=True):
        if gradient is not None:
            total = total.index_add(1, game.players.labels[i].flatten(), (gradient * step).flatten(1))
    return total.reshape(shape)
