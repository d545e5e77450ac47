"""Vertex gradients: their own expectation by enumeration, honest errors, and a clear word where there is no gradient."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dasp
from dasp.estimators.gradients import _Pairs
from dasp.memory import peak_bytes


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(9, 16), nn.Tanh(), nn.Linear(16, 2)).double()


@pytest.fixture(scope="module")
def x() -> Tensor:
    return 2 * torch.randn(4, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


class Of(nn.Module):
    """A module of a function, with a weight for the dtype."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function
        self.one = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, *inputs: Any) -> Tensor:
        return self.function(*inputs) * self.one


def explain(model: nn.Module, x: Any, target: Any = None, *, baseline: Any = 0.0, **options: Any) -> dasp.Attribution:
    explainer = {key: options.pop(key) for key in ("players", "memory") if key in options}
    extra = options.pop("extra", None)
    method = dasp.VertexGradients(**options)
    return dasp.Explainer(model, baseline, method=method, **explainer)(x, target, additional_forward_args=extra)


def errors_of(result: dasp.Attribution) -> Tensor:
    assert isinstance(result.standard_errors, Tensor)
    return result.standard_errors


def trapezoid(f: Callable[[Tensor], Tensor], x: Tensor, baseline: Tensor, owner: Tensor) -> Tensor:
    """Shapley's sum over all R with (d_i(R) + d_i(R + i)) / 2 for v(R + i) - v(R); x (*shape) and f to one number."""
    n = int(owner.max()) + 1
    slopes = {}
    for present in itertools.product((False, True), repeat=n):
        mask = torch.tensor(present)[owner]
        point = torch.where(mask, x, baseline).requires_grad_()
        (gradient,) = torch.autograd.grad(f(point.unsqueeze(0)).sum(), point)
        along = gradient * (x - baseline)
        slopes[present] = torch.stack([along[owner == i].sum() for i in range(n)])
    total = torch.zeros(n, dtype=torch.float64)
    for present, slope in slopes.items():
        size = sum(present)
        for i in range(n):
            if not present[i]:
                joined = slopes[(*present[:i], True, *present[i + 1 :])][i]
                total[i] += (slope[i] + joined) / 2 / (n * math.comb(n - 1, size))
    return total


def truth(model: nn.Module, x: Tensor) -> Tensor:
    """The expectation for every row and both targets, (B, 2, 9), baseline 0."""
    owner, zero = torch.arange(9), torch.zeros(9, dtype=torch.float64)
    return torch.stack([torch.stack([trapezoid(lambda p: model(p)[:, t], row, zero, owner) for t in (0, 1)]) for row in x])  # noqa: B023


@pytest.fixture(scope="module")
def expectation(model: nn.Module, x: Tensor) -> Tensor:
    return truth(model, x)


def test_with_all_pairs_the_values_are_exact(model: nn.Module, x: Tensor) -> None:
    found = explain(model, x, [0, 1], samples=510)  # 2^9 - 2
    exact = dasp.Explainer(model, method=dasp.Exact())(x, [0, 1])
    assert found.settings["exact"]
    assert torch.allclose(found.per_player, exact.per_player, rtol=0, atol=1e-13)
    assert found.evaluations == exact.evaluations == 512
    assert not errors_of(found).any()
    fewer = explain(model, x, [0, 1], samples=508)
    assert not fewer.settings["exact"]
    assert errors_of(fewer).all()
    assert torch.equal(explain(model, x, [0, 1], samples=10_000).per_player, found.per_player)


def test_kinks_leave_no_error_where_nothing_is_said_of_one() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 1)).double()
    rows = 1.5 * torch.randn(4, 6, dtype=torch.float64)
    exact = dasp.Explainer(net, method=dasp.Exact())(rows).per_player
    found = explain(net, rows)
    assert not errors_of(found).any()
    assert (found.per_player - exact).norm() < 1e-12 * exact.norm()
    drawn = explain(net, rows, samples=60)
    assert errors_of(drawn).all()
    assert (drawn.per_player - exact).norm() > 0.1 * exact.norm()


def test_the_expectation_is_not_shapley_and_the_gap_says_so(model: nn.Module, x: Tensor, expectation: Tensor) -> None:
    exact = dasp.Explainer(model, method=dasp.Exact())(x, [0, 1])
    distance = (expectation - exact.per_player).norm() / exact.per_player.norm()
    assert 0.01 < distance < 0.2
    found = explain(model, x, [0, 1], samples=508)
    missing = found.per_player.sum(-1) - (found.output - found.base_value)
    assert torch.allclose(found.gap, missing / found.per_player.abs().sum(-1))
    assert found.gap.abs().max() > 0.01


@pytest.mark.parametrize(("samples", "most"), [(8, 0.3), (60, 0.05)])
def test_the_mean_over_seeds_is_the_expectation(
    model: nn.Module, x: Tensor, expectation: Tensor, samples: int, most: float
) -> None:
    # Of a ratio, that is: its bias falls as 1 / samples, and is small beside the spread of one estimate.
    found = torch.stack([explain(model, x, [0, 1], samples=samples, seed=seed).per_player for seed in range(100)])
    spread, bias = found.std(0), found.mean(0) - expectation
    assert (bias.abs() < (4.5 / math.sqrt(100) + most) * spread).all()
    assert bias.norm() < (1.3 / math.sqrt(100) + most / 2) * spread.norm()


def test_errors_are_as_large_as_the_standard_errors_say(model: nn.Module, x: Tensor, expectation: Tensor) -> None:
    scores = []
    for seed in range(100):
        found = explain(model, x, [0, 1], samples=128, seed=seed)
        scores.append((found.per_player - expectation) / errors_of(found))
    score = torch.stack(scores)  # (100 seeds, 4, 2, 9)
    assert score.mean(0).abs().max() < 0.5
    assert score.square().mean().item() == pytest.approx(1, abs=0.15)
    assert (score.abs() < 1.96).double().mean().item() == pytest.approx(0.95, abs=0.025)


def test_values_and_errors_are_those_of_leaving_out_each_pair(model: nn.Module, x: Tensor) -> None:
    coalitions, weights, _ = next(iter(_Pairs(9, 5, 3).chunks(5)))

    def means(coalition: Tensor) -> Tensor:
        points = torch.stack((coalition, ~coalition)).double() * x[0]
        (gradient,) = torch.autograd.grad(model(points.requires_grad_())[:, 0].sum(), points)
        return (gradient * x[0]).mean(0)

    ends = means(torch.ones(9, dtype=torch.bool))
    found = torch.stack([means(coalition) for coalition in coalitions])

    def estimate(some: list[int]) -> Tensor:
        return ends / 9 + 8 / 9 * (weights[some] * found[some]).sum(0) / weights[some].sum(0)

    every = list(range(5))
    without = torch.stack([estimate([j for j in every if j != k]) for k in every])
    result = explain(model, x, 0, samples=10, seed=3)
    assert torch.allclose(result.per_player[0, 0], estimate(every), rtol=0, atol=1e-14)
    expected = (4 / 5 * (without - estimate(every)).square().sum(0)).sqrt()
    assert torch.allclose(errors_of(result)[0], expected, rtol=1e-8, atol=0)


def test_standard_errors_are_not_small_where_the_sizes_decide() -> None:
    # Strata of sizes take away what the jackknife counts: the errors are on the large side, never below.
    game, row = Of(lambda p: p.sum(1) ** 4 / 1000), torch.ones(1, 10, dtype=torch.float64)
    limit = trapezoid(game, row[0], 0 * row[0], torch.arange(10))
    scores = []
    for seed in range(60):
        found = explain(game, row, samples=256, seed=seed)
        scores.append((found.per_player[0, 0] - limit) / errors_of(found)[0])
    assert 0.2 < torch.stack(scores).square().mean() < 1.05


def test_more_samples_come_nearer(model: nn.Module, x: Tensor, expectation: Tensor) -> None:
    def far(samples: int) -> float:
        found = [explain(model, x, [0, 1], samples=samples, seed=seed).per_player for seed in range(12)]
        return float((torch.stack(found) - expectation).square().mean().sqrt())

    assert far(400) / far(40) == pytest.approx(math.sqrt(1 / 10), rel=0.25)


def quadratic(p: Tensor) -> Tensor:
    weights = torch.linspace(-1, 2, 49, dtype=torch.float64).reshape(7, 7)
    return ((p @ weights) * p).sum(1) + p @ weights[2] + 3


@pytest.mark.parametrize("samples", [4, 6, 50])
def test_quadratic_functions_are_exact_from_the_fewest_samples(samples: int) -> None:
    rows = torch.randn(2, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    exact = dasp.Explainer(Of(quadratic), 0.5, method=dasp.Exact())(rows).values
    found = explain(Of(quadratic), rows, baseline=0.5, samples=samples)
    assert isinstance(exact, Tensor)
    assert torch.allclose(found.per_player[:, 0], exact, rtol=0, atol=1e-12)
    assert errors_of(found).max() < 1e-7
    assert found.gap.abs().max() < 1e-13


def test_the_expectation_is_exact_for_functions_quadratic_along_edges() -> None:
    game = Of(lambda p: p[:, 0] ** 2 * p[:, 1] * p[:, 2] - p[:, 3] ** 2 * p[:, 0] * p[:, 4] + p[:, 5] * p[:, 1] ** 2)
    row = torch.tensor([[1.0, -2.0, 0.5, 3.0, 1.5, -1.0]], dtype=torch.float64)
    exact = dasp.Explainer(game, 0.3, method=dasp.Exact())(row).per_player[0, 0]
    limit = trapezoid(game, row[0], torch.full_like(row[0], 0.3), torch.arange(6))
    assert torch.allclose(limit, exact, rtol=0, atol=1e-12)
    found = torch.stack([explain(game, row, baseline=0.3, samples=60, seed=seed).per_player[0, 0] for seed in range(60)])
    assert ((found.mean(0) - exact).abs() < 4.5 * found.std(0) / math.sqrt(60) + 1e-12).all()


def test_one_player_gets_the_difference_even_without_a_gradient() -> None:
    for layer in (nn.Tanh(), Of(torch.round)):
        whole = nn.Sequential(nn.Linear(3, 1), layer).double()
        rows = torch.tensor([[1.0, 2.0, 3.0], [9.0, 9.0, 9.0]], dtype=torch.float64)
        found = explain(whole, rows, players=torch.zeros(3, dtype=torch.long))
        assert torch.equal(found.values[:, 0], found.output - found.base_value)
        assert found.evaluations == 2
        assert not errors_of(found).any()


def test_two_players_take_four_evaluations() -> None:
    found = explain(Of(lambda p: p[:, 0] ** 2 * p[:, 1]), torch.tensor([[2.0, 3.0]], dtype=torch.float64))
    assert found.values.tolist() == [[6.0, 6.0]]
    assert found.evaluations == 4


def test_groups_several_inputs_and_further_arguments() -> None:
    torch.manual_seed(3)
    a, b = torch.randn(3, 2, 2, dtype=torch.float64), torch.randn(3, 3, dtype=torch.float64)
    scale = torch.tensor([1.0, 2.0, -1.0], dtype=torch.float64)
    masks = torch.tensor([[0, 1], [1, 2]]), torch.tensor([3, 0, 4])
    owner = torch.cat([mask.flatten() for mask in masks])
    baseline = torch.full((2, 2), 0.2, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)

    def f(a: Tensor, b: Tensor, scale: Tensor, power: int) -> Tensor:
        return (a.flatten(1).sum(1) * scale + b.sum(1)) ** power + a[:, 0, 0] * b[:, 2]

    found = explain(Of(f), (a, b), baseline=baseline, players=masks, samples=8, extra=(scale, 2))  # as it is quadratic
    assert not found.settings["exact"]
    for i in range(3):

        def flat(p: Tensor, i: int = i) -> Tensor:
            return f(p[:, :4].reshape(-1, 2, 2), p[:, 4:], scale[i], 2)

        expected = trapezoid(
            flat, torch.cat((a[i].flatten(), b[i])), torch.cat([part.flatten() for part in baseline]), owner
        )
        assert torch.allclose(found.values[i], expected, rtol=0, atol=1e-12)


def test_every_target_is_as_alone(model: nn.Module, x: Tensor) -> None:
    both = explain(model, x, [1, 0], samples=16)
    for place, target in enumerate((1, 0)):
        alone = explain(model, x, target, samples=16)
        assert torch.allclose(both.per_player[:, place], alone.per_player[:, 0], rtol=0, atol=1e-14)
        assert torch.allclose(errors_of(both)[:, place], errors_of(alone), rtol=1e-6, atol=1e-12)
    each = explain(model, x, torch.tensor([0, 1, 1, 0]), samples=16)
    assert torch.allclose(each.per_player[1, 0], both.per_player[1, 0], rtol=0, atol=1e-14)
    assert torch.allclose(each.per_player[3, 0], both.per_player[3, 1], rtol=0, atol=1e-14)


@pytest.mark.parametrize("memory", [40_000, 2**30])
def test_a_row_has_the_same_value_alone_as_in_a_batch(model: nn.Module, x: Tensor, memory: int) -> None:
    together = explain(model, x, [0, 1], samples=64)
    for row in range(len(x)):
        alone = explain(model, x[row : row + 1], [0, 1], samples=64, memory=memory)
        assert torch.allclose(alone.per_player[0], together.per_player[row], rtol=0, atol=1e-13)
        assert torch.allclose(errors_of(alone)[0], errors_of(together)[row], rtol=1e-6, atol=0)


def test_a_seed_gives_the_same_values_and_another_one_others(model: nn.Module, x: Tensor) -> None:
    first = explain(model, x, 0, samples=16, seed=3)
    torch.manual_seed(5)
    assert torch.equal(first.per_player, explain(model, x, 0, samples=16, seed=3).per_player)
    assert not torch.allclose(first.per_player, explain(model, x, 0, samples=16, seed=4).per_player)


def test_coalitions_are_the_same_however_they_are_grouped() -> None:
    kept = _Pairs(20, 50, 7, 3)
    kept.keep()
    whole = [torch.cat(part) for part in zip(*_Pairs(20, 50, 7, 3).chunks(1000), strict=True)]
    for again in (_Pairs(20, 50, 7, 3), kept, kept):
        parts = [torch.cat(part) for part in zip(*again.chunks(3), strict=True)]
        assert all(torch.equal(one, other) for one, other in zip(whole, parts, strict=True))
    assert len(whole[0]) == 50


def test_sizes_follow_their_law_and_have_strata() -> None:
    for n in (29, 30):
        coalitions = torch.cat([part for part, _, _ in _Pairs(n, 4000, 0).chunks(512)])
        law = torch.tensor([1 / math.sqrt(s * (n - s)) for s in range(1, n)], dtype=torch.float64)
        folded = law[: n // 2] + law.flip(0)[: n // 2]
        if n % 2 == 0:
            folded[-1] = law[n // 2 - 1]
        counts = torch.bincount(coalitions.sum(1), minlength=n // 2 + 1)[1:]
        assert (counts - 4000 * folded / law.sum()).abs().max() < 2
        share = coalitions.double().mean(0)  # every player is as likely
        assert (share - share.mean()).abs().max() < 4.5 * 0.5 / math.sqrt(4000)


def test_evaluations_are_counted_as_they_are_made(model: nn.Module, x: Tensor) -> None:
    rows = 0

    def counted(p: Tensor) -> Tensor:
        nonlocal rows
        rows += len(p)
        y: Tensor = model(p)
        return y

    found = explain(Of(counted), x, [0, 1], samples=20)
    assert found.evaluations == 22
    # The output's shape and the memory of a forward pass take two rows each, the company of others six; then one row's
    # two ends and one pair for the memory of a gradient; then both ends of each row without a gradient.
    assert rows == 4 * 22 + 10 + 4 + 8


def test_rows_at_their_baseline_get_nothing(model: nn.Module, x: Tensor) -> None:
    rows = x.clone()
    rows[1] = 0.3
    rows[2, 4] = 0.3
    found = explain(model, rows, [0, 1], baseline=0.3, samples=16)
    assert not found.per_player[1].any()
    assert not errors_of(found)[1].any()
    assert not found.per_player[2, :, 4].any()
    assert found.per_player[2].count_nonzero() == 16
    # A player who does not move adds nothing, however steep the function is there.
    root = Of(lambda p: p[:, 0].sqrt() + p[:, 1] * p[:, 2])
    steep = explain(root, torch.tensor([[0.0, 2.0, 3.0]], dtype=torch.float64), samples=4)
    assert steep.values.tolist() == [[0.0, 3.0, 3.0]]


def test_whole_numbers_are_refused_with_a_way_out() -> None:
    torch.manual_seed(0)
    ids = torch.tensor([[1, 2, 3]])
    net = nn.Sequential(nn.Embedding(5, 4), nn.Flatten(), nn.Linear(12, 1))
    with pytest.raises(dasp.InputError, match=r"input 0 holds torch.int64.*PermutationSampling.*embeddings") as caught:
        explain(net, ids, baseline=0, players=torch.arange(3), samples=4)
    assert "additional_forward_args" in str(caught.value)
    exact = dasp.Explainer(net, 0, method=dasp.Exact(), players=torch.arange(3))(ids).values
    assert torch.equal(explain(net, ids, baseline=0, players=torch.arange(3), samples=6).values, exact)  # without gradients
    embedded = explain(net[1:], net[0](ids).detach(), players=torch.arange(3).unsqueeze(1), samples=4)
    assert embedded.gap.abs() < 1e-6  # linear in the embeddings


HIDDEN = {
    "rounded": torch.round,
    "compared": lambda y: (y > 0.1).to(y.dtype),
    "detached": torch.detach,
    "numpy": lambda y: torch.from_numpy(y.detach().numpy()),
    "no_grad": torch.no_grad()(lambda y: y * 2),
    "inference_mode": torch.inference_mode()(lambda y: y * 2),
    "saturated": lambda y: torch.clamp(10 * (y - 1), 0, 1),
}


@pytest.mark.parametrize("name", HIDDEN)
def test_a_network_without_slopes_is_refused(name: str) -> None:
    rows = torch.tensor([[0.0, 0.0, 0.0], [2.0, 2.0, 2.5]], dtype=torch.float64)
    hidden = Of(lambda p: HIDDEN[name](p.sum(1, keepdim=True)))
    bare = nn.Module()
    bare.forward = hidden.function  # type: ignore[method-assign]
    for module in (bare,) if name == "inference_mode" else (bare, hidden):
        with pytest.raises(dasp.InputError, match=r"is 0 at every coalition for row 1 and output 0.*hides.*Permutation"):
            explain(module, rows, [0], samples=4)


def test_a_jump_beside_slopes_shows_in_the_gap() -> None:
    jump, row = Of(lambda p: p.sum(1) + torch.round(p[:, 0])), torch.tensor([[2.0, 3.0, 1.0]], dtype=torch.float64)
    found = explain(jump, row, samples=4)
    assert torch.allclose(found.values, torch.tensor([[2.0, 3.0, 1.0]], dtype=torch.float64))
    assert found.gap.item() == pytest.approx(-2 / 6)


def test_a_constant_network_gives_zeros() -> None:
    for function in (lambda p: torch.full_like(p[:, 0], 3.0), lambda p: p[:, 0].detach() * 0 + 1, lambda p: 0 * p[:, 0]):
        found = explain(Of(function), torch.tensor([[2.0, 3.0, 1.0]], dtype=torch.float64), samples=4)
        assert not found.values.any()
        assert not errors_of(found).any()


def test_a_gradient_that_is_not_finite_is_named() -> None:
    rows = torch.tensor([[0.0, 0.0, 1.0], [2.0, 3.0, 1.0]], dtype=torch.float64)
    with pytest.raises(dasp.NumericsError, match=r"infinite along player 0 for row 1, with 0 of 3 players present, .*root"):
        explain(Of(lambda p: p[:, 0].sqrt() + p[:, 1]), rows, samples=4)
    inside = Of(lambda p: torch.stack((p[:, 1], torch.where(p[:, 0] > 1, (p[:, 0] - 2).abs().sqrt() * p[:, 1], p[:, 0])), 1))
    with pytest.raises(dasp.NumericsError, match=r"NaN along player 0 for row 1 and output 1, with 3 of 3 .*\(0, 1, 2\)"):
        explain(inside, rows, [1], samples=4)


def test_a_value_that_is_not_finite_is_named() -> None:
    hole = Of(lambda p: torch.where((p[:, 0] != 0) & (p[:, 1] == 0), torch.inf, p.sum(1)))
    for samples in (4, 6):
        with pytest.raises(dasp.InputError, match=r"infinity for row 0 with \d of 3 players present"):
            explain(hole, torch.tensor([[2.0, 3.0, 1.0]], dtype=torch.float64), samples=samples)


def test_what_propagation_cannot_run_is_explained(x: Tensor) -> None:
    class Foreign(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(1, 3, batch_first=True)

        def forward(self, p: Tensor) -> Tensor:
            # cuDNN would refuse to differentiate a recurrent layer in evaluation mode.
            assert not (p.requires_grad and torch.backends.cudnn.enabled)
            y, _ = self.lstm(p.unsqueeze(2))
            if float(y.detach().abs().sum()) < 0:
                return p
            return torch.special.erfcx(y.cumsum(1).sort(1).values.sum((1, 2)))

    torch.manual_seed(0)
    foreign = Foreign().double()
    with pytest.raises(dasp.DaspError):
        dasp.Explainer(foreign)(x)
    enabled = torch.backends.cudnn.enabled
    found = explain(foreign, x / 4, samples=200)
    exact = dasp.Explainer(foreign, method=dasp.Exact())(x / 4).per_player
    assert (found.per_player - exact).norm() < 0.1 * exact.norm()
    assert torch.backends.cudnn.enabled == enabled


def test_work_in_place_is_no_matter(x: Tensor) -> None:
    expected = explain(Of(lambda p: (3 * p).sigmoid().sum(1) ** 2), x, samples=16)
    found = explain(Of(lambda p: p.mul_(3).sigmoid_().sum(1) ** 2), x, samples=16)
    assert torch.equal(found.per_player, expected.per_player)
    with pytest.raises(dasp.InputError, match=r"cannot be differentiated by its input: .*in-?place.*PermutationSampling"):
        explain(Of(lambda p: (y := p.exp()).mul_(2).sum(1) + 0 * y.sum(1)), x, samples=16)


class Noted(nn.Module):
    """Dropout and batch statistics: their mode matters."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(9, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Tanh(), nn.Linear(5, 1))

    def forward(self, p: Tensor) -> Tensor:
        y: Tensor = self.layers(p)
        return y


def test_nothing_is_left_behind(x: Tensor) -> None:
    torch.manual_seed(0)
    net, rows = Noted().double(), x.clone().requires_grad_()
    net(rows.detach()).sum().backward()
    net.layers[1].eval()
    net.layers[4].weight.requires_grad_(False)

    def state() -> list[Any]:
        found: list[Any] = [layer.training for layer in net.modules()]
        for tensor in (*net.parameters(), *net.buffers()):
            grad = None if tensor.grad is None else tensor.grad.tolist()
            found.append((tensor.tolist(), tensor._version, tensor.requires_grad, id(tensor.grad), grad))
        return [*found, torch.get_rng_state().tolist(), torch.is_grad_enabled(), torch.is_inference_mode_enabled()]

    before = state()
    for context in (torch.enable_grad(), torch.no_grad(), torch.inference_mode()):
        with context:
            found = explain(net, rows, samples=8)
        assert not found.per_player.requires_grad
        assert state() == before
        assert rows.grad is None
    evaluated = explain(net.eval(), x, samples=8)
    assert torch.equal(evaluated.per_player, found.per_player)


def test_inputs_made_in_inference_mode(model: nn.Module, x: Tensor) -> None:
    expected = explain(model, x, 0, samples=8)
    with torch.inference_mode():
        found = explain(model, x.clone(), 0, samples=8)
    assert torch.equal(found.per_player, expected.per_player)


def test_float32_agrees_with_float64(model: nn.Module, x: Tensor) -> None:
    double = explain(model, x, 0, samples=32)
    single = explain(nn.Sequential(*model.children()).float(), x.float(), 0, samples=32)
    model.double()
    assert single.per_player.dtype == torch.float32
    assert torch.allclose(single.per_player.double(), double.per_player, atol=1e-5)
    assert torch.allclose(errors_of(single).double(), errors_of(double), atol=1e-5)


def test_an_exported_program_has_the_same_values(model: nn.Module, x: Tensor) -> None:
    program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim.AUTO},))
    found = dasp.Explainer(program, method=dasp.VertexGradients(samples=8))(x, 0)
    assert torch.allclose(found.per_player, explain(model, x, 0, samples=8).per_player, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("width", "rows", "bound"), [(200, 40, 2**20), (20, 60, 2**18)])
def test_the_memory_bound_is_kept(width: int, rows: int, bound: int) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(*(layer for _ in range(6) for layer in (nn.Linear(width, width), nn.Tanh())), nn.Linear(width, 3))
    made = dasp.Explainer(net, method=dasp.PermutationSampling(permutations=2), memory=bound)(torch.ones(rows, width), [0, 2])
    assert made.auditor is not None
    game = made.auditor.args[0]  # type: ignore[attr-defined]
    assert peak_bytes(lambda: dasp.VertexGradients(samples=40).estimate(game)) < 1.2 * bound


def test_a_memory_bound_below_one_pair_is_refused(model: nn.Module, x: Tensor) -> None:
    with pytest.raises(dasp.MemoryBoundError, match="memory bound"):
        explain(model, x, 0, memory=1000)


def test_a_progress_bar_counts_the_pairs(model: nn.Module, x: Tensor, capsys: pytest.CaptureFixture[str]) -> None:
    explainer = dasp.Explainer(model, method=dasp.VertexGradients(samples=12))
    explainer(x, 0, progress=True)
    assert "24/24" in capsys.readouterr().err
    explainer(x, 0)
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"samples": 2}, dasp.CostError, "give samples=4 or more"),
        ({"samples": -3}, dasp.CostError, "too few"),
        ({"samples": 7}, dasp.InputError, "must be even"),
        ({"samples": 8.0}, dasp.InputTypeError, "must be an int, got float"),
        ({"samples": True}, dasp.InputTypeError, "got bool"),
        ({"seed": -1}, dasp.InputError, "seed must be from 0"),
        ({"seed": "1"}, dasp.InputTypeError, "got str"),
    ],
)
def test_bad_options(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        dasp.VertexGradients(**options)
