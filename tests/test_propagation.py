"""The flagship estimator: what must hold for any network, its dials, its bounds, and what it refuses."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import dasp
from dasp.memory import peak_bytes
from dasp.special import lobatto

MODES: dict[str, dict[str, Any]] = {
    "default": {},
    "diagonal": {"rank": 0, "rule": "legendre"},
    "subspace": {"rank": 3, "rule": "legendre"},
    "full": {"rank": "full", "rule": "legendre", "condition": False},
    "conditioned": {"rank": "full", "rule": "legendre", "condition": True},
    "mixture": {"rank": 0, "mixture": 2},
}


def propagation(mode: str) -> dasp.Propagation:
    return dasp.Propagation(**MODES[mode])


def mlp(seed: int, features: int = 6, hidden: int = 10, outputs: int = 1) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, outputs)
    ).double()


class Residual(nn.Module):
    """Convolutions, batch normalisation, a residual add and max pooling."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.second, self.other = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.pool, self.last = nn.MaxPool2d(2), nn.Linear(16, 3)
        self(torch.randn(30, 1, 4, 4) * 2 + 1)
        self.double().eval()

    def forward(self, x: Tensor) -> Any:
        h = self.norm(self.first(x)).relu()
        h = (self.other(self.second(h)) + h).relu()
        return self.last(self.pool(h).flatten(1))


class Attention(nn.Module):
    """Tokens that attend to each other."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(4, 12), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Any:
        return self.last(nn.functional.scaled_dot_product_attention(*self.first(x).chunk(3, -1)).mean(1))


@pytest.fixture(scope="module")
def cnn() -> dasp.Model:
    """One captured network for many tests."""
    return dasp.Model(Residual())


def images(count: int = 3) -> Tensor:
    return torch.randn(count, 1, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def vectors(count: int = 4, features: int = 6, seed: int = 2) -> Tensor:
    return torch.randn(count, features, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def explained(model: Any, x: Tensor, target: Any = None, baseline: Any = 0.0, **options: Any) -> Tensor:
    """Values (B, ...); `options` are of the explainer, or of the estimator."""
    own = {name: options.pop(name) for name in ("players", "memory") if name in options}
    method = options.pop("method", None) or dasp.Propagation(**options)
    values = dasp.Explainer(model, baseline, method=method, **own)(x, target).values
    assert isinstance(values, Tensor)
    return values


def error(found: Tensor, truth: Tensor) -> float:
    return float(((found - truth).flatten(1).norm(dim=1) / truth.flatten(1).norm(dim=1)).mean())


# What holds for any network


# A failing seed needs no smaller one, and shrinking takes minutes.
EXAMPLES = settings(max_examples=6, deadline=None, derandomize=True, phases=(Phase.explicit, Phase.generate))


@settings(EXAMPLES)
@given(seed=st.integers(0, 10**6), rank=st.sampled_from([0, 3, "full"]))
def test_values_add_up_with_enough_nodes(seed: int, rank: Any) -> None:
    result = dasp.Explainer(mlp(seed), method=dasp.Propagation(nodes=16, rule="legendre", rank=rank))(vectors(seed=seed))
    assert result.gap.abs().median() < 0.01


@settings(EXAMPLES)
@given(seed=st.integers(0, 10**6), mode=st.sampled_from(sorted(MODES)))
def test_null_players(seed: int, mode: str) -> None:
    model, x = mlp(seed), vectors(seed=seed)
    with torch.no_grad():
        model[0].weight[:, 0] = 0  # the network does not see player 0
    x[0, 3] = 0  # row 0 has player 3 at the baseline
    values = explained(model, x, method=propagation(mode))
    # Plain evaluations at the exact ends round; the propagated part does not see player 0 at all.
    assert values[:, 0].abs().max() <= (1e-14 * values.abs().max() if mode in ("default", "mixture") else 0)
    assert values[0, 3] == 0


@cache
def twins(seed: int) -> dasp.Model:
    """A captured network to which players 1 and 2 are the same."""
    model = mlp(seed)
    with torch.no_grad():
        model[0].weight[:, 2] = model[0].weight[:, 1]
    return dasp.Model(model)


@pytest.mark.parametrize("mode", ["diagonal", "subspace", "full", "conditioned", "default"])
@pytest.mark.parametrize("seed", [0, 1, 5])
def test_equal_players(seed: int, mode: str) -> None:
    x = vectors(seed=seed)
    x[:, 2] = x[:, 1]
    values = explained(twins(seed), x, method=propagation(mode))
    torch.testing.assert_close(values[:, 2], values[:, 1], rtol=1e-8, atol=1e-12)


@settings(EXAMPLES)
@given(seed=st.integers(0, 10**6), mode=st.sampled_from(["default", "diagonal", "full", "conditioned"]))
def test_linear_in_the_output_layer(seed: int, mode: str) -> None:
    model, x = mlp(seed, outputs=3), vectors(seed=seed)
    with torch.no_grad():
        model[4].weight[2] = 2 * model[4].weight[0] - 3 * model[4].weight[1]
    values = explained(model, x, [0, 1, 2], method=propagation(mode))
    torch.testing.assert_close(values[:, 2], 2 * values[:, 0] - 3 * values[:, 1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_additive_models_are_exact(mode: str) -> None:
    class Additive(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.relu().sum(1) + x[:, 0].sin() + (x[:, 1:3] ** 3).sum(1)

    x, baseline = vectors(), torch.full((6,), 0.3, dtype=torch.float64)
    parts = x.relu() - baseline.relu()
    parts[:, 0] += x[:, 0].sin() - baseline[0].sin()
    parts[:, 1:3] += x[:, 1:3] ** 3 - baseline[1:3] ** 3
    torch.testing.assert_close(explained(Additive(), x, baseline=baseline, method=propagation(mode)), parts)


def test_with_every_player_enumerated_it_is_exact() -> None:
    model, x = dasp.Model(mlp(1)), vectors()
    truth = explained(model, x, method=dasp.Exact())
    torch.testing.assert_close(explained(model, x, mixture=6, nodes=6, rule="legendre"), truth, rtol=1e-9, atol=1e-10)
    errors = [error(explained(model, x, mixture=h, rank=0, nodes=6, rule="legendre"), truth) for h in (0, 3, 5, 6)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0.01


@pytest.mark.parametrize(("mode", "bound"), [("default", 0.12), ("full", 0.16), ("diagonal", 0.2), ("subspace", 0.16)])
def test_near_the_truth_on_a_residual_network(mode: str, bound: float, cnn: dasp.Model) -> None:
    truth = explained(cnn, images(), 1, method=dasp.Exact())
    assert error(explained(cnn, images(), 1, method=propagation(mode)), truth) < bound


def test_two_lobatto_nodes_are_the_mean_of_first_and_last_contribution() -> None:
    model, x = mlp(3), vectors(1)
    assert lobatto(2).weights == pytest.approx([0.5, 0.5])
    value = model(torch.cat((torch.zeros(1, 6), torch.diag(x[0]), x - torch.diag(x[0]), x))).detach()[:, 0]
    expected = 0.5 * (value[1:7] - value[0]) + 0.5 * (value[13] - value[7:13])
    torch.testing.assert_close(explained(model, x, nodes=2, rule="lobatto")[0], expected)


# The dials


def test_a_subspace_of_all_directions_is_the_full_covariance(cnn: dasp.Model) -> None:
    full = explained(cnn, images(), 1, rank="full", condition=False, nodes=4, mixture=0)
    torch.testing.assert_close(explained(cnn, images(), 1, rank=16, nodes=4), full, rtol=1e-8, atol=1e-12)
    assert (explained(cnn, images(), 1, rank=2, nodes=4) - full).abs().max() > 1e-6


def test_deterministic_and_the_seed_matters_only_to_the_subspace(cnn: dasp.Model) -> None:
    for options in MODES.values():
        assert torch.equal(explained(cnn, images(), 1, **options), explained(cnn, images(), 1, **options))
        same = torch.equal(explained(cnn, images(), 1, **options, seed=5), explained(cnn, images(), 1, **options))
        assert same == (options.get("rank") != 3)


def test_settings_record_every_choice(cnn: dasp.Model) -> None:
    result = dasp.Explainer(cnn)(images(), 1)
    assert json.loads(json.dumps(result.settings)) == result.settings
    assert {name: result.settings[name] for name in ("nodes", "rule", "rank", "mixture", "condition", "seed")} == {
        "nodes": 4, "rule": "lobatto", "rank": "full", "mixture": 1, "condition": True, "seed": 0
    }  # fmt: skip
    assert result.propagations == 4
    assert result.evaluations == 2 * 16 + 2
    again = dasp.Propagation(**{k: v for k, v in result.settings.items() if k not in ("rows_at_once", "nodes_at_once")})
    torch.testing.assert_close(explained(cnn, images(), 1, method=again), result.values, rtol=0, atol=0)
    many = dasp.Explainer(nn.Sequential(nn.Linear(100, 3), nn.ReLU(), nn.Linear(3, 1)))(torch.randn(1, 100)).settings
    smooth = dasp.Explainer(nn.Sequential(nn.Linear(9, 3), nn.Tanh(), nn.Linear(3, 1)))(torch.randn(1, 9)).settings
    assert (smooth["nodes"], smooth["mixture"]) == (4, 1)
    attention = dasp.Explainer(Attention(), players=dasp.players.tokens())(torch.randn(2, 7, 4)).settings
    assert (attention["nodes"], attention["mixture"]) == (3, 1)
    wide = dasp.Explainer(nn.Sequential(nn.Linear(33, 3), nn.Tanh(), nn.Linear(3, 1)))(torch.randn(1, 33)).settings
    assert (wide["nodes"], wide["mixture"]) == (5, 0)
    assert (many["rule"], many["nodes"], many["rank"], many["condition"]) == ("legendre", 4, 64, False)


@pytest.mark.parametrize(
    "options",
    [
        {"nodes": 0}, {"nodes": 1, "rule": "lobatto"}, {"nodes": 2.5}, {"nodes": "4"}, {"nodes": True}, {"nodes": 10**6},
        {"rule": "gauss"}, {"rule": 3}, {"rank": -1}, {"rank": "half"}, {"rank": 2.0}, {"rank": True}, {"mixture": -1},
        {"mixture": 1.5}, {"mixture": "all"}, {"condition": "yes"}, {"condition": True, "rank": 3}, {"seed": -1},
        {"seed": "a"}, {"seed": 2**80},
    ],
    ids=str,
)  # fmt: skip
def test_bad_options(options: dict[str, Any]) -> None:
    with pytest.raises((dasp.InputError, dasp.InputTypeError), match=next(iter(options)) + "|rank"):
        dasp.Propagation(**options)


def test_options_that_do_not_fit_the_game(cnn: dasp.Model) -> None:
    with pytest.raises(dasp.InputError, match="only 16 players"):
        explained(cnn, images(), 1, mixture=17)
    with pytest.raises(dasp.MemoryBoundError, match="mixture"):
        explained(cnn, images(), 1, mixture=16, memory=2**20)


# Memory, batches, targets, players


@pytest.mark.parametrize("mode", MODES)
def test_little_memory_gives_the_same_values(mode: str, cnn: dasp.Model) -> None:
    x = images(9)
    large = dasp.Explainer(cnn, method=propagation(mode))(x, 1)
    assert large.settings["rows_at_once"] >= 9
    options = {**MODES[mode], "rank": large.settings["rank"], "condition": large.settings["condition"]}
    options |= {"mixture": large.settings["mixture"], "nodes": large.settings["nodes"]}
    small = dasp.Explainer(cnn, method=dasp.Propagation(**options), memory=440_000 if mode == "default" else 220_000)(x, 1)
    assert small.settings["rows_at_once"] < 9
    assert small.settings["nodes_at_once"] <= large.settings["nodes_at_once"]
    torch.testing.assert_close(small.values, large.values, rtol=1e-9, atol=1e-13)


def test_less_memory_than_one_row_takes(cnn: dasp.Model) -> None:
    with pytest.raises(dasp.MemoryBoundError, match="Raise memory="):
        explained(cnn, images(), 1, rank="full", memory=20_000)
    with pytest.raises(dasp.InputError, match="raise memory="):
        explained(cnn, images(), 1, condition=True, memory=25_000)
    lower = dasp.Explainer(cnn, memory=25_000)(images(), 1).settings  # a rank that fits is chosen, and said
    assert 0 <= lower["rank"] < 16
    assert lower["condition"] is False


@pytest.mark.parametrize("mode", ["diagonal", "subspace", "full"])
def test_the_memory_bound_is_kept(mode: str, cnn: dasp.Model) -> None:
    explainer = dasp.Explainer(cnn, method=propagation(mode), memory=2 * 2**20)
    explainer(images(2), 1)  # measured once, outside the bound
    x = images(200)
    assert peak_bytes(lambda: explainer(x, 1)) < 1.5 * 2 * 2**20


@pytest.mark.parametrize("mode", MODES)
def test_the_same_alone_as_in_a_batch(mode: str, cnn: dasp.Model) -> None:
    x = images()
    x[1, :, :2] = 0
    together = explained(cnn, x, 1, method=propagation(mode))
    alone = torch.cat([explained(cnn, x[i : i + 1], 1, method=propagation(mode)) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("mode", ["default", "diagonal", "full", "mixture"])
def test_several_targets_are_each_as_alone(mode: str, cnn: dasp.Model) -> None:
    several = explained(cnn, images(), [2, 0], method=propagation(mode))
    assert several.shape == (3, 2, 1, 4, 4)
    if mode == "mixture":  # the players that are enumerated are chosen for all targets together
        truth = explained(cnn, images(), [2, 0], method=dasp.Exact())
        assert error(several, truth) < 0.3
        return
    for place, target in enumerate((2, 0)):
        one = explained(cnn, images(), target, method=propagation(mode))
        torch.testing.assert_close(several[:, place], one, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("mode", MODES)
def test_a_target_for_every_row(mode: str, cnn: dasp.Model) -> None:
    values = explained(cnn, images(), torch.tensor([2, 0, 1]), method=propagation(mode))
    for row, target in enumerate((2, 0, 1)):
        one = explained(cnn, images()[row : row + 1], target, method=propagation(mode))
        torch.testing.assert_close(values[row : row + 1], one, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize(("mode", "bound"), [("default", 0.2), ("full", 0.16), ("diagonal", 0.3), ("subspace", 0.18)])
def test_groups_of_elements(mode: str, bound: float, cnn: dasp.Model) -> None:
    baseline = torch.full((1, 4, 4), 0.2, dtype=torch.float64)
    options: dict[str, Any] = {"players": dasp.players.grid(2, 2), "baseline": baseline}
    values = explained(cnn, images(), 1, method=propagation(mode), **options)
    assert values.shape == (3, 4)
    assert error(values, explained(cnn, images(), 1, method=dasp.Exact(), **options)) < bound
    # Groups of one element are elements.
    single = explained(cnn, images(), 1, method=propagation(mode), players=dasp.players.grid(1, 1), baseline=baseline)
    each = explained(cnn, images(), 1, method=propagation(mode), baseline=baseline)
    torch.testing.assert_close(single.reshape(each.shape), each, rtol=1e-8, atol=1e-12)


def test_a_baseline_for_every_row(cnn: dasp.Model) -> None:
    baselines = images(6)[3:]
    values = explained(cnn, images(), 1, baseline=dasp.PerRow(baselines))
    for row in range(3):
        one = explained(cnn, images()[row : row + 1], 1, baseline=baselines[row])
        torch.testing.assert_close(values[row : row + 1], one, rtol=1e-10, atol=1e-13)


# Inputs at the edge


@pytest.mark.parametrize("mode", MODES)
def test_no_difference_to_the_baseline_gives_zeros(mode: str, cnn: dasp.Model) -> None:
    x = images(4)
    x[0] = 0  # nobody differs
    x[1, :, :3] = 0  # most do not, as in the background of a picture
    x[2] = torch.zeros(1, 4, 4).index_fill(2, torch.tensor([1]), 1.0) * torch.eye(4)  # one player alone
    result = dasp.Explainer(cnn, method=propagation(mode))(x, 1)
    assert isinstance(result.values, Tensor)
    assert result.values.isfinite().all()
    assert result.values[0].abs().max() == 0
    assert result.gap[0] == 0
    assert result.values[1, :, :3].abs().max() == 0
    assert result.values[1, :, 3].abs().min() > 0
    alone = result.values[2].flatten()
    assert int((alone != 0).sum()) == 1
    if mode == "conditioned":  # alone, a player is conditioned on, so nothing is approximated but the integral
        torch.testing.assert_close(alone.sum(), result.output[2] - result.base_value[2], rtol=0.15, atol=0)


@pytest.mark.parametrize("mode", MODES)
def test_single_precision_follows_double(mode: str) -> None:
    model, x = mlp(5), vectors()
    double = explained(model, x, method=propagation(mode))
    single = explained(model.float(), x.float(), method=propagation(mode))
    assert single.dtype is torch.float32
    torch.testing.assert_close(single.double(), double, rtol=1e-3, atol=1e-4 * float(double.abs().max()))


@pytest.mark.parametrize("form", ["with gradients", "not contiguous", "channels last", "expanded"])
def test_forms_of_inputs(form: str, cnn: dasp.Model) -> None:
    x = images()
    given_x = {
        "with gradients": x.clone().requires_grad_(),
        "not contiguous": x.mT.contiguous().mT,
        "channels last": x.expand(-1, 1, -1, -1).contiguous(memory_format=torch.channels_last),
        "expanded": x[:1].expand(3, -1, -1, -1),
    }[form]
    plain = given_x.detach().clone(memory_format=torch.contiguous_format)
    for mode in ("default", "subspace"):
        found = explained(cnn, given_x, 1, method=propagation(mode))
        torch.testing.assert_close(found, explained(cnn, plain, 1, method=propagation(mode)), rtol=1e-10, atol=1e-13)
    assert given_x.grad is None


class Window(nn.Module):
    """A pooling window of players, two of them interchangeable: on a diagonal, or first and last along a line."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size, self.first, self.second = size, 0, size[0] * size[1] - 1

    def forward(self, x: Tensor) -> Any:
        return torch.nn.functional.max_pool2d(x.unflatten(1, (1, *self.size)), self.size).flatten(1)


class Scored(nn.Module):
    """Players 0 and 1 raise one score each, of the five that a softmax shares out."""

    def forward(self, x: Tensor) -> Any:
        return torch.stack((x[:, 0], x[:, 2], x[:, 1], x[:, 3:].sum(1), x[:, 4]), 1).log_softmax(1)[:, 1]


LARGE = pytest.mark.xfail(strict=True, reason="of larger windows not every order of maxima is averaged")


@pytest.mark.parametrize("size", [(2, 2), (3, 1), (1, 4), pytest.param((3, 3), marks=LARGE)], ids=str)
def test_equal_players_in_a_pooling_window(size: tuple[int, int]) -> None:
    model = Window(size)
    once = dasp.Model(model)
    x = torch.linspace(-0.5, 0.9, size[0] * size[1], dtype=torch.float64)[None]
    x[0, [model.first, model.second]] = 1.0
    for mode in MODES:
        values = explained(once, x, method=propagation(mode))
        torch.testing.assert_close(values[:, model.first], values[:, model.second], rtol=1e-8, atol=1e-12)


@pytest.mark.xfail(strict=True, reason="sums of more than three exponentials are built from pairs, in a fixed order")
def test_equal_players_behind_many_scores() -> None:
    x = torch.tensor([[1.0, 1.0, 0.7, -0.4, 0.6, 0.2, -0.3]], dtype=torch.float64)
    values = explained(Scored(), x)
    torch.testing.assert_close(values[:, 0], values[:, 1], rtol=1e-8, atol=1e-12)
