"""What single players do at both ends of the diagonal, to nobody and to everybody else: plain evaluations, exact."""

from __future__ import annotations

import torch
from torch import Tensor

from ..game import Game


def single_values(game: Game, rows: Tensor) -> tuple[Tensor, Tensor]:
    """v of each player alone, and of all players but each, (R, n, T) each."""
    n = game.players.count
    players = torch.arange(n, device=game.device)
    alone, without = [], []
    for some in players.split(max(1, game.memory // (64 * n))):
        one = some.unsqueeze(1) == players
        alone.append(game.table(one, rows))
        without.append(game.table(~one, rows))
    return torch.cat(alone, 1), torch.cat(without, 1)


def single_steps(game: Game, rows: Tensor, alone: Tensor, without: Tensor) -> tuple[Tensor, Tensor]:
    """Marginal contributions to nobody and to everybody else, (R, T, n) each, from `single_values`."""
    first = alone - game.base_values[rows].unsqueeze(1)
    last = game.outputs[rows].unsqueeze(1) - without
    return first.transpose(1, 2), last.transpose(1, 2)
