"""What a propagation needs to know before it starts: that the graph is the model, and what a row costs in memory."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import CaptureError, RuleFault
from ..game import Game, take_rows
from ..graph import Graph, is_pointwise
from ..memory import peak_bytes
from ..propagate import Plan, Support, propagate
from .absent import Absent

MOST_DIFFERENCE = 0.01
"""Between the graph and the model, relative to the largest step from the baseline."""
ROUNDINGS = 1000
"""As many rounding errors of the largest value may come on top."""


def check_graph(game: Game, graph: Graph) -> None:
    """Refuse a graph that does not compute what the model computes: at every row, every baseline (of a background the first
    row) and two random coalitions.

    Rows are evaluated in other company by the one than by the other, so that rows which depend on each other are seen.

    Raises:
        CaptureError: the values differ by more than rounding.
    """
    rows = torch.arange(game.batch, device=game.device)
    rows = rows[game.moved(rows).flatten(1).any(1)]
    if not len(rows):
        return
    random = torch.rand(1, game.players.count, generator=torch.Generator("cpu").manual_seed(0), device="cpu")
    half = random.to(game.device) < 0.5
    ends = torch.cat((torch.ones_like(half).expand(len(rows), -1), torch.zeros_like(half).expand(len(rows), -1)))
    probe = rows[-1:].expand(2)
    index = torch.cat((rows, rows, probe))
    coalitions = torch.cat((ends, half, ~half))
    between = game.alone(probe, torch.cat((half, ~half)), torch.zeros_like(probe))
    expected = torch.cat((game.outputs[rows], game.first_base_values[rows], between))
    found = torch.cat([_run(game, graph, i, z) for i, z in zip(*_mixed(index, coalitions, game.chunk), strict=True)])
    spread = (game.outputs - game.base_values).abs()[index]
    rounding = ROUNDINGS * torch.finfo(expected.dtype).eps * expected.abs().amax(0)
    difference = (found - expected).abs()
    # A row whose ends happen to be equal says nothing of its own scale; the typical row does.
    if not bool((difference <= MOST_DIFFERENCE * torch.maximum(spread, spread.mean(0)) + rounding).all()):
        raise CaptureError(
            f"the captured graph gives other values than {game.model.name} itself (they differ by "
            f"{float(difference.max()):.2g}). Either the model was changed after it was captured (a layer or an attribute "
            "that is no parameter: make a new Explainer), or its rows depend on each other (a mean, softmax or normalisation "
            "over the batch axis), or it is random."
        )


def _mixed(index: Tensor, coalitions: Tensor, size: int) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Chunks of at least two rows."""
    size = max(2, size)
    if len(index) % size == 1:
        size += 1
    return index.split(size), coalitions.split(size)


def _run(game: Game, graph: Graph, index: Tensor, coalitions: Tensor) -> Tensor:
    """The graph's values of coalitions of some rows, (M, T)."""
    masked = game.masked(index, coalitions)
    with torch.no_grad(), torch.autocast(game.device.type, enabled=False):
        return game.targets.select(graph.run([*masked, *take_rows(game.extra, index, game.batch)]), index)


def bytes_per_row(
    game: Game, plan: Plan, rank: str | int, absent: Absent, *, conditioned: bool, second: bool = False
) -> float:
    """Peak memory of one row at one node, measured on two with all targets; `second`: of second derivatives."""
    n = game.players.count
    rows = torch.arange(2, device=game.device) % game.batch
    q = torch.full((1,), 0.5, dtype=game.dtype, device=game.device)
    folded = plan.graph.folded()
    off = absent.off(rows, torch.zeros_like(rows))
    on = [x[rows].clone() for x in game.inputs]
    extra = take_rows(game.extra, rows, game.batch)
    directions: str | Tensor | None = None
    if isinstance(rank, str):
        directions = rank
    elif rank:
        directions = torch.full((2, n, rank), n**-0.5, dtype=game.dtype, device=game.device)

    def run() -> None:
        shift = torch.zeros(2, n, dtype=game.dtype, device=game.device, requires_grad=True)
        law = absent.law(
            q, shift, grouped=game.players.grouped, rank=directions, conditioned=conditioned, memory=game.memory
        )
        values = game.targets.select(propagate(plan, law, off, on, extra, folded).mean, rows)
        for target in range(values.shape[1]):
            loss = values[:, target].sum()
            if second and loss.requires_grad:
                (slope,) = torch.autograd.grad(loss, shift, create_graph=True, allow_unused=True)
                loss = loss if slope is None else slope[:, 0].sum()
            gradient(loss, shift, keep=target + 1 < values.shape[1])

    with torch.inference_mode(False), torch.enable_grad():
        return max(1.0, peak_bytes(run) / 2)


def gradient(loss: Tensor, shift: Tensor, *, keep: bool) -> Tensor:
    """`d loss / d shift`, zero where the network does not depend on its input; `keep` the graph for another."""
    if not loss.requires_grad:  # the network does not depend on its input
        return torch.zeros_like(shift)
    try:
        (slope,) = torch.autograd.grad(loss, shift, retain_graph=keep, allow_unused=True)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise RuleFault(
            f"the moments cannot be differentiated: {' '.join(str(error).split())[:300]}. An operation of your own needs "
            "torch.library.register_autograd, or a rule made of operations that have derivatives."
        ) from error
    return torch.zeros_like(shift) if slope is None else slope


def attends(plan: Plan) -> bool:
    """Whether a network sums products of random values, as attention does; the rules of those are approximate."""
    pointwise = {str(node.target) for node in plan.graph.nodes if is_pointwise(node.target)}
    approximate = [one for one in plan.support if one.support is Support.APPROXIMATE and one.op not in pointwise]
    return any(one.random > 1 for one in approximate)
