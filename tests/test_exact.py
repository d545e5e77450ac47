"""Exact enumeration against games solved by hand and against the definition over all orders."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import dasp
from dasp.estimators.exact import shapley_weights


class Game(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def solve(function: Callable[[Tensor], Tensor], x: list[float], baseline: float = 0.0) -> list[float]:
    explainer = dasp.Explainer(Game(function), baseline, method=dasp.Exact())
    values = explainer(torch.tensor([x], dtype=torch.float64)).values
    assert isinstance(values, Tensor)
    found: list[float] = values[0].tolist()
    return found


def by_orders(model: nn.Module, x: Tensor, baseline: Tensor) -> Tensor:
    """The definition (Shapley 1953): the mean gain over all n! orders; x (n,), model output (rows,)."""
    n = len(x)
    values = torch.zeros(n, dtype=torch.float64)
    orders = list(itertools.permutations(range(n)))
    with torch.no_grad():
        for order in orders:
            point = baseline.clone()
            before = float(model(point.unsqueeze(0)))
            for player in order:
                point[player] = x[player]
                after = float(model(point.unsqueeze(0)))
                values[player] += after - before
                before = after
    return values / len(orders)


# Each value follows from symmetry and efficiency, or from counting orders; the comments say how.
@pytest.mark.parametrize(
    ("function", "x", "baseline", "expected"),
    [
        # A product needs both: they share 6.
        (lambda x: x[:, 0] * x[:, 1], [2.0, 3.0], 0.0, [3.0, 3.0]),
        # From baseline 1, first factor: 1/2 (2-1)*1 + 1/2 (2-1)*3 = 2; second: 1/2 (3-1)*1 + 1/2 (3-1)*2 = 3.
        (lambda x: x[:, 0] * x[:, 1], [2.0, 3.0], 1.0, [2.0, 3.0]),
        # min(2, 5) is 2 with both and 0 otherwise.
        (lambda x: x.amin(-1), [2.0, 5.0], 0.0, [1.0, 1.0]),
        # max(2, 5): 2 alone gives 2, joining 5 gives 0: 1; the other gets 5 - 1.
        (lambda x: x.amax(-1), [2.0, 5.0], 0.0, [1.0, 4.0]),
        # Airport game 1, 2, 4: the first unit is shared by three, the next by two, the rest is the last one's.
        (lambda x: x.amax(-1), [1.0, 2.0, 4.0], 0.0, [1 / 3, 1 / 3 + 1 / 2, 1 / 3 + 1 / 2 + 2]),
        # Majority of three: each is pivotal in a third of the orders.
        (lambda x: (x.sum(-1) >= 2).double(), [1.0, 1.0, 1.0], 0.0, [1 / 3, 1 / 3, 1 / 3]),
        # One left glove, two right ones: 2/3, 1/6, 1/6.
        (lambda x: torch.minimum(x[:, 0], x[:, 1] + x[:, 2]), [1.0, 1.0, 1.0], 0.0, [2 / 3, 1 / 6, 1 / 6]),
        # Weighted vote [3; 2, 1, 1]: the big one turns it unless it comes first, in 4 of 6 orders.
        (lambda x: ((x * x.new_tensor([2.0, 1.0, 1.0])).sum(-1) >= 3).double(), [1.0] * 3, 0.0, [2 / 3, 1 / 6, 1 / 6]),
        # One player gets everything.
        (lambda x: x[:, 0].exp(), [1.0], 0.0, [1.718281828459045]),
        # A constant large offset costs no digits.
        (lambda x: 1e9 + x.sum(-1), [1.0, 2.0], 0.0, [1.0, 2.0]),
    ],
)
def test_games_solved_by_hand(
    function: Callable[[Tensor], Tensor], x: list[float], baseline: float, expected: list[float]
) -> None:
    assert solve(function, x, baseline) == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_against_the_mean_over_all_orders() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.GELU(), nn.Linear(8, 1), nn.Flatten(0)).double()
    x, b = torch.randn(3, 5, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    found = dasp.Explainer(model, b, method=dasp.Exact())(x)
    for row in range(3):
        assert torch.allclose(found.per_player[row, 0], by_orders(model, x[row], b), rtol=0, atol=1e-14)
    assert found.evaluations == 32
    assert found.gap.abs().max() < 1e-14
    assert found.standard_errors is None


def test_groups_move_together() -> None:
    # f = (x0 + x1) x2 with {0, 1} one player: two players share (1 + 2) * 5.
    model = Game(lambda x: (x[:, 0] + x[:, 1]) * x[:, 2])
    found = dasp.Explainer(model, 0.0, method=dasp.Exact(), players=torch.tensor([0, 0, 1]))
    assert found(torch.tensor([[1.0, 2.0, 5.0]])).values.tolist() == [[7.5, 7.5]]


def test_integer_inputs_with_players() -> None:
    embedding = nn.Embedding(5, 1)
    with torch.no_grad():
        embedding.weight.copy_(torch.tensor([[0.0], [1.0], [2.0], [3.0], [4.0]]))
    model = nn.Sequential(embedding, Game(lambda e: e.squeeze(-1).prod(-1)))
    found = dasp.Explainer(model, 1, method=dasp.Exact(), players=dasp.players.tokens())(torch.tensor([[2, 4, 1]]))
    # v(no one) = 1, v(2) = 2, v(4) = 4, v(both) = 8: 1/2 (1 + 4) and 1/2 (3 + 6).
    assert found.values.tolist() == [[2.5, 4.5, 0.0]]


def test_weights_of_no_game_sum_to_nothing_and_those_of_the_unit_game_to_one() -> None:
    n = 6
    coalitions = (torch.arange(2**n).unsqueeze(1) >> torch.arange(n)) & 1 == 1
    weights = shapley_weights(coalitions)
    assert weights.sum(0).abs().max() < 1e-15
    assert torch.allclose(weights[-1], torch.full((n,), 1 / n, dtype=torch.float64))


def test_more_than_24_players_are_refused_with_their_cost() -> None:
    explainer = dasp.Explainer(nn.Linear(25, 1), 0.0, method=dasp.Exact())
    with pytest.raises(dasp.CostError, match=r"33,554,432 evaluations a row, for 2 row\(s\) about .*force=True"):
        explainer(torch.ones(2, 25))


def test_more_than_62_players_are_refused_even_when_forced() -> None:
    explainer = dasp.Explainer(nn.Linear(784, 1), 0.0, method=dasp.Exact(force=True))
    with pytest.raises(dasp.CostError, match="62 players are the limit"):
        explainer(torch.ones(1, 784))


def test_force_passes_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dasp.estimators.exact.LARGEST", 3)
    model, x = Game(lambda x: x.sum(-1)), torch.arange(1.0, 5.0).unsqueeze(0)
    with pytest.raises(dasp.CostError, match="16 evaluations"):
        dasp.Explainer(model, 0.0, method=dasp.Exact())(x)
    forced = dasp.Explainer(model, 0.0, method=dasp.Exact(force=True))(x)
    assert forced.values.tolist() == [pytest.approx([1.0, 2.0, 3.0, 4.0])]
    assert forced.settings == {"force": True}


def test_small_memory_gives_the_same_values() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    x = torch.randn(4, 6)
    roomy = dasp.Explainer(model, 0.0, method=dasp.Exact())(x, [0, 2])
    tight = dasp.Explainer(model, 0.0, method=dasp.Exact(), memory=1)(x, [0, 2])
    assert torch.allclose(roomy.per_player, tight.per_player, atol=1e-6)


@pytest.mark.parametrize("method", [dasp.Exact(), dasp.PermutationSampling(permutations=2)])
@pytest.mark.parametrize("players", [25, 3])
def test_the_random_state_of_torch_is_left_alone(method: dasp.Estimator, players: int) -> None:
    explainer = dasp.Explainer(nn.Linear(players, 1), 0.0, method=method)
    before = torch.get_rng_state()
    try:
        explainer(torch.ones(2, players)).audit(200)
    except dasp.CostError:
        assert players == 25
    assert torch.equal(torch.get_rng_state(), before)
