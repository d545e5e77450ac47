"""Players, targets and the value of a coalition."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import dasp
from dasp.game import Game, Players
from dasp.memory import peak_bytes
from dasp.model import Model
from dasp.targets import Targets

CPU = torch.device("cpu")


class Weighted(nn.Module):
    """Scores (rows, 2): sum of w_i x_i, and the square of that."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 10.0, 100.0], dtype=torch.float64))

    def forward(self, x: Tensor, shift: Tensor | float = 0.0) -> Tensor:
        total = (x * self.weight).sum(-1) + shift
        return torch.stack((total, total.square()), -1)


def make_game(memory: int = 2**30, players: Players | None = None, extra: tuple[object, ...] = ()) -> Game:
    x = torch.tensor([[1.0, 1.0, 1.0], [2.0, 3.0, 4.0]], dtype=torch.float64)
    b = torch.tensor([[0.0, 0.0, -1.0]], dtype=torch.float64)
    targets = Targets.of([0, 1], 2, (2,), CPU)
    return Game(Model(Weighted()), (x,), (b,), extra, players or Players.elements([(3,)]), targets, memory)


def test_value_of_a_coalition_keeps_its_members_and_takes_the_baseline_elsewhere() -> None:
    coalitions = torch.tensor([[True, False, True], [False, True, False]])
    values = make_game().values(torch.tensor([0, 1]), coalitions)
    assert values.tolist() == [[101.0, 101.0**2], [-70.0, 4900.0]]


def test_table_is_every_coalition_for_every_row() -> None:
    game = make_game()
    coalitions = torch.tensor([[True, False, True], [False, True, False], [False, False, False]])
    assert game.table(coalitions, torch.tensor([1, 0]))[..., 0].tolist() == [[402.0, -70.0, -100.0], [101, -90, -100]]
    assert game.base_values[:, 0].tolist() == [-100.0, -100.0]
    assert game.outputs[:, 0].tolist() == [111.0, 432.0]


@pytest.mark.parametrize("memory", [1, 2000, 2**30])
def test_values_do_not_depend_on_the_memory_bound(memory: int) -> None:
    coalitions = torch.rand(40, 3, generator=torch.Generator().manual_seed(0)) < 0.5
    game, roomy = make_game(memory), make_game()
    assert torch.equal(game.table(coalitions, torch.arange(2)), roomy.table(coalitions, torch.arange(2)))
    rows = torch.arange(40) % 2
    assert torch.equal(game.values(rows, coalitions), roomy.values(rows, coalitions))
    if memory == 1:
        assert game.chunk == 1


@pytest.mark.parametrize("memory", [1, 4000])
def test_no_forward_pass_has_one_row_and_none_is_above_the_chunk(memory: int) -> None:
    sizes: list[int] = []

    class Watched(Weighted):
        def forward(self, x: Tensor, shift: Tensor | float = 0.0) -> Tensor:
            sizes.append(x.shape[0])
            return super().forward(x, shift)

    made = make_game(memory)
    game = Game(Model(Watched()), made.inputs, made.baselines, (), made.players, made.targets, memory)
    game.table(torch.rand(101, 3) < 0.5, torch.arange(2))
    assert min(sizes) >= 2
    assert max(sizes) <= max(2, game.chunk)
    assert game.chunk == 1 if memory == 1 else 2 < game.chunk < 101


def test_extra_tensors_go_along_with_their_row() -> None:
    game = make_game(extra=(torch.tensor([1000.0, 5000.0], dtype=torch.float64),))
    assert game.outputs[:, 0].tolist() == [1111.0, 5432.0]
    assert make_game(extra=(7.0,)).outputs[:, 0].tolist() == [118.0, 439.0]


def test_nan_at_a_coalition_names_row_and_players() -> None:
    class Log(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.log(x.sum(-1) - 1)

    x = torch.tensor([[3.0, 3.0], [0.0, 3.0]])
    base = torch.tensor([[2.0, 0.0]])
    targets = Targets.of(None, 2, (), CPU)
    game = Game(Model(Log()), (x,), (base,), (), Players.elements([(2,)]), targets, 2**20)
    game.check_ends()
    alone = torch.tensor([[True, False]])
    assert game.values(torch.tensor([0]), alone).item() == pytest.approx(0.6931472)
    message = r"gives NaN for row 1 with 1 of 2 players present \(0\)"
    with pytest.raises(dasp.InputError, match=message):
        game.values(torch.tensor([0, 1]), alone.expand(2, -1))
    with pytest.raises(dasp.InputError, match=message):
        game.table(alone, torch.tensor([0, 1]))


def test_elements_number_all_inputs_in_order_and_spread_back() -> None:
    players = Players.elements([(2,), (1, 3)])
    assert players.count == 5
    assert not players.grouped
    a, b = players.spread(torch.arange(10).reshape(2, 5))
    assert a.tolist() == [[0, 1], [5, 6]]
    assert b.tolist() == [[[2, 3, 4]], [[7, 8, 9]]]


def test_mask_numbers_are_compressed_in_order_shared_over_inputs_and_broadcast() -> None:
    players = Players.from_mask((torch.tensor([9, 4]), torch.tensor([[4], [30]])), [(2,), (2, 3)])
    assert players.count == 3
    assert players.names == ("player 4", "player 9", "player 30")
    assert players.labels[0].tolist() == [1, 0]
    assert players.labels[1].tolist() == [[0, 0, 0], [2, 2, 2]]
    spread = players.spread(torch.tensor([[0.1, 0.2, 0.3]]))
    assert spread[1][0, 1].tolist() == pytest.approx([0.3] * 3)


def test_mask_may_have_a_leading_axis_of_one() -> None:
    assert Players.from_mask(torch.tensor([[1, 0, 1]]), [(3,)]).labels[0].tolist() == [1, 0, 1]


def test_grid_takes_channels_together_and_allows_partial_patches() -> None:
    players = dasp.players.grid(2, 2).build([(2, 3, 5)])
    assert players.count == 6
    assert players.labels[0].tolist() == [[[0, 0, 1, 1, 2], [0, 0, 1, 1, 2], [3, 3, 4, 4, 5]]] * 2
    assert players.names == ("patch 0,0", "patch 0,1", "patch 0,2", "patch 1,0", "patch 1,1", "patch 1,2")


def test_pixels_channels_and_tokens() -> None:
    assert dasp.players.pixels().build([(2, 1, 3)]).labels[0].tolist() == [[[0, 1, 2]]] * 2
    assert dasp.players.channels().build([(2, 3)]).labels[0].tolist() == [[0, 0, 0], [1, 1, 1]]
    assert dasp.players.tokens(-1).build([(2, 3)]).labels[0].tolist() == [[0, 1, 2]] * 2
    both = dasp.players.tokens().build([(2, 3), (2,)])
    assert both.count == 4
    assert both.labels[1].tolist() == [2, 3]
    assert both.names == ("input 0 token 0", "input 0 token 1", "input 1 token 0", "input 1 token 1")


def test_features_are_elements_with_names() -> None:
    players = dasp.players.features(["age", "sex"]).build([(2,)])
    assert not players.grouped
    assert players.names == ("age", "sex")


OUTPUTS = torch.arange(24.0).reshape(2, 3, 4)


def pick(target: object, outputs: Tensor = OUTPUTS, rows: Tensor | None = None) -> list[list[float]]:
    targets = Targets.of(target, outputs.shape[0], outputs.shape[1:], CPU)
    rows = torch.arange(outputs.shape[0]) if rows is None else rows
    picked: list[list[float]] = targets.select(outputs, rows).tolist()
    return picked


def test_targets_pick_the_outputs_they_name() -> None:
    scores = OUTPUTS[:, 0]  # 0..3 and 12..15
    assert pick(2, scores) == [[2.0], [14.0]]
    assert pick([3, 0], scores) == [[3.0, 0.0], [15.0, 12.0]]
    assert pick(torch.tensor([1, 3]), scores) == [[1.0], [15.0]]
    assert pick(torch.tensor(1), scores) == [[1.0], [13.0]]
    assert pick((2, 1)) == [[9.0], [21.0]]
    assert pick([(2, 1), (0, 3)]) == [[9.0, 3.0], [21.0, 15.0]]
    assert pick(torch.tensor([[0, 1], [2, 3]])) == [[1.0], [23.0]]
    assert pick(None, OUTPUTS[:, 0, 0]) == [[0.0], [12.0]]
    assert pick(None, OUTPUTS[:, 0, :1]) == [[0.0], [12.0]]
    assert Targets.of([1], 2, (3,), CPU).several
    assert not Targets.of(1, 2, (3,), CPU).several


def test_a_target_per_row_follows_the_row() -> None:
    targets = Targets.of(torch.tensor([1, 3]), 2, (4,), CPU)
    assert targets.select(OUTPUTS[:, 0][[1, 1, 0]], torch.tensor([1, 1, 0])).tolist() == [[15.0], [15.0], [1.0]]


def test_selecting_a_target_lets_gradients_flow() -> None:
    outputs = OUTPUTS[:, 0].clone().requires_grad_()
    Targets.of(torch.tensor([1, 3]), 2, (4,), CPU).select(outputs, torch.arange(2)).sum().backward()
    assert outputs.grad is not None
    assert outputs.grad.tolist() == [[0, 1, 0, 0], [0, 0, 0, 1]]


def test_peak_bytes_counts_what_is_alive_at_one_time_and_no_weights() -> None:
    weight = torch.zeros(1000, 1000)
    x = torch.zeros(1000)

    def chain() -> Tensor:
        y = weight @ x  # 4,000 bytes
        z = torch.cat((y, y))  # 8,000 bytes; y dies next
        del y
        return z.sum()

    assert 12_000 <= peak_bytes(chain) < 12_100


# Rows must not depend on each other, and the model must not be random


class Made(nn.Module):
    """Rows through a small network, and then a function of them."""

    def __init__(self, after: Callable[[Tensor], Tensor], before: Callable[[Tensor], Tensor] = lambda x: x) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
        self.before, self.after = before, after

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.net(self.before(x)))


ROWS = torch.randn(5, 4, generator=torch.Generator().manual_seed(3))
ESTIMATORS = [dasp.Exact(), dasp.PermutationSampling(permutations=4), dasp.Propagation()]


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("method", ESTIMATORS, ids=lambda method: type(method).__name__)
@pytest.mark.parametrize(
    "model",
    [
        Made(lambda h: h - h.mean(0)),
        Made(lambda h: h - h.mean(0) + 100),
        Made(lambda h: h, before=lambda x: x - x.mean(0)),
        Made(lambda h: h.softmax(0)),
        Made(lambda h: h.cumsum(0)),
        Made(lambda h: h.roll(1, 0)),
        Made(lambda h: h + h.amax(0)),
        Made(lambda h: nn.functional.batch_norm(h, None, None, training=True)),
    ],
    ids=["mean", "mean and offset", "mean of inputs", "softmax", "cumsum", "roll", "maximum", "batch norm"],
)
def test_rows_that_depend_on_each_other_are_refused(model: nn.Module, method: dasp.Estimator, count: int) -> None:
    with pytest.raises(dasp.InputError, match=r"the rows of the model Made depend on each other.*over the batch axis"):
        dasp.Explainer(model, 0.0, method=method)(ROWS[:count], 1)


@pytest.mark.parametrize("method", ESTIMATORS[:2], ids=lambda method: type(method).__name__)
@pytest.mark.parametrize(
    "model",
    [
        Made(nn.functional.dropout),
        Made(lambda h: h + 0.05 * torch.randn_like(h)),
        Made(lambda h: torch.bernoulli(h.sigmoid())),
    ],
    ids=["dropout", "noise", "samples"],
)
def test_random_models_are_refused(model: Made, method: dasp.Estimator) -> None:
    torch.manual_seed(0)
    with pytest.raises(dasp.InputError, match=r"the model Made is random.*training=self.training"):
        dasp.Explainer(model, 0.0, method=method)(ROWS.repeat(4, 1), 1)


def test_a_model_that_is_random_only_between_saturated_ends_is_refused() -> None:
    class Saturated(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x.sum(1) + 0.1 * torch.randn(len(x))).clamp(0, 4)

    x = torch.full((1, 8), 1.5)
    for method in (dasp.Exact(), dasp.Regression(budget=40), dasp.Refine(prior=None)):
        with pytest.raises(dasp.InputError, match="the model Saturated is random"):
            dasp.Explainer(Saturated(), -1.0, method=method)(x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_rounding_is_not_taken_for_dependence(dtype: torch.dtype, offset: float) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(300, 500), nn.ReLU(), *(nn.Linear(500, 500) for _ in range(4)), nn.Linear(500, 40))
    model = nn.Sequential(net, Added(offset)).to(dtype)
    for x in (torch.randn(33, 300), 1e-4 * torch.randn(1, 300), 1e3 * torch.randn(7, 300)):
        for base in (0.0, x[0].to(dtype)):
            explainer = dasp.Explainer(
                model, base, method=dasp.PermutationSampling(permutations=2), players=torch.arange(300) // 100
            )
            explainer(x.to(dtype), list(range(40)))


class Added(nn.Module):
    def __init__(self, offset: float) -> None:
        super().__init__()
        self.offset = offset

    def forward(self, x: Tensor) -> Tensor:
        return x + self.offset


def test_an_extra_tensor_with_as_many_entries_as_rows_is_named() -> None:
    class Projected(nn.Module):
        def forward(self, x: Tensor, direction: Tensor) -> Tensor:
            return (x * direction).sum(-1) if direction.ndim == 1 else (x @ direction).sum(-1)

    named = r"additional_forward_args\[0\] of shape \({}\) went along with the rows.*rows \({}\).*a buffer of a module"
    explainer = dasp.Explainer(Projected(), 0.0, method=dasp.Exact())
    weights = torch.arange(1.0, 5.0)
    assert torch.allclose(explainer(ROWS, additional_forward_args=weights).per_player[:, 0], ROWS * weights)
    with pytest.raises(dasp.InputError, match="fails on .*" + named.format("4,", 4)):
        explainer(ROWS[:4], additional_forward_args=weights)
    # Two rows pass as they are, and go wrong in other company only.
    matrix = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    with pytest.raises(dasp.InputError, match="depend on each other.*" + named.format("2, 2", 2)):
        explainer(ROWS[:2, :2], additional_forward_args=matrix)


@pytest.mark.parametrize("layout", [None, dasp.players.grid(1, 2), dasp.players.tokens(), dasp.players.pixels()])
def test_the_default_device_does_not_matter(layout: dasp.players.Layout | None) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    x = ROWS.reshape(5, 2, 2)
    for method in ESTIMATORS[:2]:
        explainer = dasp.Explainer(model, 0.0, method=method, players=layout)
        plain = explainer(x, [0, 1])
        with torch.device("meta"):
            found = explainer(x, [0, 1])
            audited = found.audit(200)
            assert found.player_names == plain.player_names
        assert found.per_player.device == torch.device("cpu")
        assert torch.equal(found.per_player, plain.per_player)
        assert torch.equal(audited.high, plain.audit(200).high)
