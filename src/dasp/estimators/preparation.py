"""What a propagation needs to know before it starts: that the graph is the model, and what a row costs in memory."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import CaptureError
from ..game import Game, take_rows
from ..graph import Graph
from ..law import CoalitionLaw
from ..memory import peak_bytes
from ..propagate import Plan, propagate

MOST_DIFFERENCE = 0.01
"""Between the graph and the model, relative to the largest step from the baseline."""
ROUNDINGS = 1000
"""As many rounding errors of the largest value may come on top."""


def check_graph(game: Game, graph: Graph) -> None:
    """Refuse a graph that does not compute what the model computes, at four coalitions of the row farthest from its baseline.

    Each is evaluated in other company by the one than by the other, so that rows which depend on each other are seen.
    """
    far = sum((x - b).double().square().flatten(1).sum(1) for x, b in zip(game.inputs, game.baselines, strict=True))
    row = torch.as_tensor(far, device=game.device).argmax().reshape(1)
    random = torch.rand(1, game.players.count, generator=torch.Generator("cpu").manual_seed(0), device="cpu")
    half = random.to(game.device) < 0.5
    coalitions = torch.cat((torch.zeros_like(half), torch.ones_like(half), half, ~half))
    expected = torch.cat([game.base_values[row], game.outputs[row], *(game.table(z, row)[0] for z in (half, ~half))])
    masked = [
        torch.where(z, x[row], b.expand_as(x)[row])
        for z, x, b in zip(game.players.spread(coalitions), game.inputs, game.baselines, strict=True)
    ]
    rows = row.expand(4)
    with torch.no_grad():
        output = graph.run([*masked, *take_rows(game.extra, rows, game.batch)])
    if all(torch.equal(m[0], m[1]) for m in masked):
        return
    difference = (game.targets.select(output, rows) - expected).abs().max()
    rounding = ROUNDINGS * torch.finfo(expected.dtype).eps * expected.abs().max()
    if not difference <= MOST_DIFFERENCE * (expected - expected[:1]).abs().max() + rounding:
        raise CaptureError(
            f"the captured graph gives other values than {game.model.name} itself (they differ by "
            f"{float(difference):.2g}). Either the model was changed after it was captured (a layer or an attribute that is "
            "no parameter: make a new Explainer), or its rows depend on each other (a mean, softmax or normalisation over "
            "the batch axis), or it is random."
        )


def bytes_per_row(game: Game, plan: Plan, rank: str | int, *, conditioned: bool) -> float:
    """Peak memory of one row at one node, measured on two with all targets."""
    n = game.players.count
    rows = torch.arange(2, device=game.device) % game.batch
    q = torch.full((1,), 0.5, dtype=game.dtype, device=game.device)
    folded = plan.graph.folded()
    off = [b.expand_as(x)[rows].clone() for x, b in zip(game.inputs, game.baselines, strict=True)]
    on = [x[rows].clone() for x in game.inputs]
    extra = take_rows(game.extra, rows, game.batch)
    directions: str | Tensor | None = None
    if isinstance(rank, str):
        directions = rank
    elif rank:
        directions = torch.full((2, n, rank), n**-0.5, dtype=game.dtype, device=game.device)

    def run() -> None:
        shift = torch.zeros(2, n, dtype=game.dtype, device=game.device, requires_grad=True)
        law = CoalitionLaw(
            q, shift, grouped=game.players.grouped, rank=directions, conditioned=conditioned, memory=game.memory
        )
        values = game.targets.select(propagate(plan, law, off, on, extra, folded).mean, rows)
        for target in range(values.shape[1]):
            gradient(values[:, target].sum(), shift, keep=target + 1 < values.shape[1])

    with torch.inference_mode(False), torch.enable_grad():
        return max(1.0, peak_bytes(run) / 2)


def gradient(loss: Tensor, shift: Tensor, *, keep: bool) -> Tensor:
    """`d loss / d shift`, zero where the network does not depend on its input; `keep` the graph for another."""
    if not loss.requires_grad:  # the network does not depend on its input
        return torch.zeros_like(shift)
    (slope,) = torch.autograd.grad(loss, shift, retain_graph=keep, allow_unused=True)
    return torch.zeros_like(shift) if slope is None else slope
