"""Rows folded into another axis: attention that folds its heads into the batch is conditioned as if it did not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dasp
from dasp.folding import folds
from dasp.graph import capture

TOKENS, WIDTH, HEADS = 8, 6, 2


class Attention(nn.Module):
    """Attention whose scores are made by a function of queries and keys (rows, heads, tokens, width)."""

    def __init__(self, weights: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.parts = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.last, self.weights = nn.Linear(WIDTH, 1), weights
        for part in self.parts:
            part.weight.data *= 2

    def forward(self, x: Tensor) -> Any:
        q, k, v = (part(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in self.parts)
        mixed = (self.weights(q, k) @ v).transpose(1, 2).flatten(2)
        return self.last(mixed.mean(1)).tanh()


def plain(q: Tensor, k: Tensor) -> Tensor:
    return (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)


def folded(q: Tensor, k: Tensor) -> Tensor:
    scores = torch.bmm(q.flatten(0, 1), k.flatten(0, 1).mT) / q.shape[-1] ** 0.5
    return scores.softmax(-1).unflatten(0, (-1, HEADS))


def heads_first(q: Tensor, k: Tensor) -> Tensor:
    q, k = (part.transpose(0, 1).flatten(0, 1) for part in (q, k))
    scores = torch.bmm(q, k.mT) / q.shape[-1] ** 0.5
    return scores.softmax(-1).unflatten(0, (HEADS, -1)).transpose(0, 1)


def rows() -> Tensor:
    return torch.randn(3, TOKENS, WIDTH, generator=torch.Generator().manual_seed(2))


def places(model: nn.Module) -> set[tuple[int, int]]:
    graph = capture(model.eval(), (rows(),), (), 3)
    return {(fold.axis, fold.size) for fold in folds(graph).values()}


def test_where_rows_come_first_they_are_found() -> None:
    assert places(Attention(folded)) == {(0, HEADS)}


def test_nothing_is_claimed_where_they_do_not() -> None:
    assert (0, HEADS) not in {
        (fold.axis, fold.size)
        for node, fold in folds(capture(Attention(heads_first).eval(), (rows(),), (), 3)).items()
        if "softmax" in str(node.target)
    }


def test_the_same_values_as_with_an_axis_of_its_own() -> None:
    players = dasp.players.tokens()
    expected = dasp.Explainer(Attention(plain), players=players)(rows()).per_player
    found = dasp.Explainer(Attention(folded), players=players)(rows()).per_player
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def copied(q: Tensor, k: Tensor) -> Tensor:
    scores = torch.bmm(q.flatten(0, 1), k.flatten(0, 1).transpose(1, 2).contiguous()) / q.shape[-1] ** 0.5
    return scores.softmax(-1).unflatten(0, (-1, HEADS))


def moved(q: Tensor, k: Tensor) -> Tensor:
    scores = torch.bmm(q.flatten(0, 1), k.flatten(0, 1).movedim(1, 2)) / q.shape[-1] ** 0.5
    return scores.softmax(-1).unflatten(0, (-1, HEADS))


def parted(q: Tensor, k: Tensor) -> Tensor:
    scores = torch.bmm(q.flatten(0, 1), k.flatten(0, 1).transpose(1, 2)) / q.shape[-1] ** 0.5
    return scores.flatten(1).unflatten(1, (TOKENS, TOKENS)).softmax(-1).unflatten(0, (-1, HEADS))


@pytest.mark.parametrize("weights", [copied, moved, parted])
def test_copies_and_moved_axes_keep_rows_however_they_are_spelled(weights: Callable[[Tensor, Tensor], Tensor]) -> None:
    found = folds(capture(Attention(weights).eval(), (rows(),), (), 3))
    assert {(fold.axis, fold.size) for node, fold in found.items() if "softmax" in str(node.target)} == {(0, HEADS)}


@pytest.mark.parametrize("weights", [plain, folded, heads_first])
def test_near_the_truth(weights: Callable[[Tensor, Tensor], Tensor]) -> None:
    model, players = dasp.Model(Attention(weights)), dasp.players.tokens()
    exact = dasp.Explainer(model, players=players, method=dasp.Exact())(rows()).per_player
    found = dasp.Explainer(model, players=players)(rows()).per_player
    alone = dasp.Explainer(model, players=players)(rows()[1:2]).per_player
    assert (found - exact).norm() < 0.2 * exact.norm()
    torch.testing.assert_close(found[1:2], alone, rtol=1e-3, atol=1e-5)


def turned(q: Tensor, k: Tensor) -> Tensor:
    """Folds rows, then brings tokens before them."""
    scores = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
    joined = scores.flatten(0, 1).transpose(0, 1).reshape(-1, TOKENS)  # tokens, rows, heads
    return joined.relu().unflatten(0, (TOKENS, -1)).transpose(0, 1).unflatten(0, (-1, HEADS))


def doubled(q: Tensor, k: Tensor) -> Tensor:
    """Puts all folded rows twice after each other."""
    scores = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1).flatten(0, 1)
    return (torch.cat((scores, 2 * scores), 0).relu()[: scores.shape[0]]).unflatten(0, (-1, HEADS))


@pytest.mark.parametrize("weights", [turned, doubled])
def test_what_breaks_the_order_of_rows_ends_the_claim(weights: Callable[[Tensor, Tensor], Tensor]) -> None:
    model, players = dasp.Model(Attention(weights)), dasp.players.tokens()
    together = dasp.Explainer(model, players=players)(rows()).per_player
    alone = dasp.Explainer(model, players=players)(rows()[1:2]).per_player
    torch.testing.assert_close(together[1:2], alone, rtol=1e-3, atol=1e-5)
