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

MOST_DIFFERENCE = 0.02
"""Between the graph and the model, relative to the largest of a few values; rounding stays far below."""


def check_graph(game: Game, graph: Graph) -> None:
    """Refuse a graph that does not compute what the model computes, at four coalitions of the row farthest from its baseline.

    Each is evaluated in other company by the one than by the other, so that rows which depend on each other are seen.
    """
    far = sum((x - b).double().square().flatten(1).sum(1) for x, b in zip(game.inputs, game.baselines, strict=True))
    row = torch.as_tensor(far, device=game.device).argmax().reshape(1)
    half = torch.rand(1, game.players.count, generator=torch.Generator().manual_seed(0)).to(game.device) < 0.5
    coalitions = torch.cat((torch.zeros_like(half), torch.ones_like(half), half, ~half))
    expected = torch.cat([game.base_values[row], game.outputs[row], *(game.table(z, row)[0] for z in (half, ~half))])
    masked = [
        torch.where(z, x[row], b.expand_as(x)[row])
        for z, x, b in zip(game.players.spread(coalitions), game.inputs, game.baselines, strict=True)
    ]
    rows = row.expand(4)
    with torch.no_grad():
        output = graph.run([*masked, *take_rows(game.extra, rows, game.batch)])
    if not torch.isfinite(output).all() or all(torch.equal(m[0], m[1]) for m in masked):
        return
    difference = (game.targets.select(output, rows) - expected).abs().max()
    if difference > MOST_DIFFERENCE * expected.abs().max():
        raise CaptureError(
            f"the captured graph gives other values than {game.model.name} itself (they differ by "
            f"{float(difference):.2g}). Either the model was changed after it was captured (a layer or an attribute that is "
            "no parameter: make a new Explainer), or its rows depend on each other (a mean, softmax or normalisation over "
            "the batch axis), or it is random."
        )


def bytes_per_row(game: Game, plan: Plan) -> tuple[float, float]:
    """Peak memory of one row at one node: without factors, and more for each factor; measured on small ranks."""
    row = torch.zeros(1, dtype=torch.long, device=game.device)
    q = torch.full((1,), 0.5, dtype=game.dtype, device=game.device)
    folded = plan.graph.folded()
    off = [b.expand_as(x)[row].repeat(2, *[1] * (x.dim() - 1)) for x, b in zip(game.inputs, game.baselines, strict=True)]
    on = [x[row].repeat(2, *[1] * (x.dim() - 1)) for x in game.inputs]
    extra = take_rows(game.extra, row.repeat(2), game.batch)

    def peak(rank: int) -> float:
        directions = torch.full((2, game.players.count, rank), game.players.count**-0.5, dtype=game.dtype, device=game.device)

        def run() -> None:
            shift = torch.zeros(2, game.players.count, dtype=game.dtype, device=game.device, requires_grad=True)
            law = CoalitionLaw(
                q, shift, grouped=False, rank=directions if rank else None, conditioned=False, memory=game.memory
            )
            mean = propagate(plan, law, off, on, extra, folded).mean
            gradient(mean.sum(), shift, keep=False)

        with torch.inference_mode(False), torch.enable_grad():
            return peak_bytes(run) / 2

    none, one, three = peak(0), peak(1), peak(3)
    return max(none, 1.0), max((three - one) / 2, 0.0)


def gradient(loss: Tensor, shift: Tensor, *, keep: bool) -> Tensor:
    """`d loss / d shift`, zero where the network does not depend on its input; `keep` the graph for another."""
    if not loss.requires_grad:  # the network does not depend on its input
        return torch.zeros_like(shift)
    (slope,) = torch.autograd.grad(loss, shift, retain_graph=keep, allow_unused=True)
    return torch.zeros_like(shift) if slope is None else slope
