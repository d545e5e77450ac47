"""Regression that takes off what layers make of windows of the input, against enumeration."""

import pytest
import torch
from torch import Tensor, nn

import dasp
from dasp.errors import CostError, InputError, InputTypeError, MemoryBoundError, NumericsError
from dasp.estimators import reach
from dasp.estimators.reach import coloured
from dasp.memory import peak_bytes

N = 14
BUDGET = 1024
MANY = 80


class Pooled(nn.Module):
    """Convolutions, the mean over positions, a head."""

    def __init__(self, head: nn.Module, width: int = 12) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv1d(3, width, 3), nn.ReLU(), nn.Conv1d(width, width, 2), nn.ReLU())
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x).mean(2))


class Text(nn.Module):
    """Windows of two and of three tokens, the largest of each, side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.two, self.three = nn.Conv1d(4, 8, 2), nn.Conv1d(4, 8, 3)
        self.head = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 2))

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2)
        return self.head(torch.cat([layer(x).relu().amax(2) for layer in (self.two, self.three)], 1))


class Beside(nn.Module):
    """The head reads the input too."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Conv1d(1, 6, 3), nn.Linear(6 * (N - 2) + N, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.head(torch.cat((self.layer(x.unsqueeze(1)).relu().flatten(1), x), 1)))


def deep_head(width: int = 12) -> nn.Module:
    return nn.Sequential(nn.Linear(width, 16), nn.ReLU(), nn.Linear(16, 2))


def seeded(build, *shape, rows=3, dtype=torch.float64):
    torch.manual_seed(0)
    return build().to(dtype).eval(), torch.randn(rows, *shape, dtype=dtype)


def errors(model, x, method, players, target=0):
    exact = dasp.Explainer(model, 0.0, method=dasp.Exact(), players=players)(x, target).per_player
    found = dasp.Explainer(model, 0.0, method=method, players=players)(x, target)
    return (found.per_player - exact).norm(dim=-1) / exact.norm(dim=-1), found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_sum_of_windows_is_known_from_all_coalitions_of_the_colours(dtype):
    model, x = seeded(lambda: Pooled(nn.Linear(12, 2)), 3, N, dtype=dtype)
    error, found = errors(model, x, dasp.Regression(budget=BUDGET, windows=True), dasp.players.tokens(axis=1), [0, 1])
    assert float(error.max()) < (1e-5 if dtype is torch.float32 else 1e-9)
    assert found.settings["layers"] == ["aten.relu.default (layer layers.3)"]
    assert found.settings["colours"] == 4
    assert found.evaluations <= BUDGET


def test_errors_are_two_thirds_of_those_without():
    model, x = seeded(lambda: Pooled(deep_head()), 3, MANY, rows=2)
    players = dasp.players.tokens(axis=1)

    def values(method):
        return dasp.Explainer(model, 0.0, method=method, players=players)(x, 0).per_player[:, 0]

    truth = values(dasp.PermutationSampling(permutations=1000))
    without, error = (
        float(((values(dasp.Regression(budget=16 * MANY, windows=w)) - truth).norm(dim=1) / truth.norm(dim=1)).mean())
        for w in (False, True)
    )
    assert error < 0.65 * without


@pytest.mark.parametrize(
    ("build", "shape", "players", "layers"),
    [
        (Text, (N, 4), dasp.players.tokens(), ["aten.relu.default (layer Text)"] * 2),
        (Beside, (N,), None, ["aten.cat.default (layer Beside)"]),
    ],
    ids=["text", "beside"],
)
def test_layers_beside_each_other_and_inputs_that_are_read_again(build, shape, players, layers):
    model, x = seeded(build, *shape)
    error, found = errors(model, x, dasp.Regression(budget=BUDGET, windows=True), players)
    assert float(error.max()) < 0.03
    assert found.settings["layers"] == layers


def test_standard_errors_say_how_large_errors_are():
    model, x = seeded(lambda: Pooled(deep_head()), 3, N, rows=12)
    exact = dasp.Explainer(model, 0.0, method=dasp.Exact(), players=dasp.players.tokens(axis=1))(x, 0).per_player
    found = dasp.Explainer(
        model, 0.0, method=dasp.Regression(budget=BUDGET, windows=True), players=dasp.players.tokens(axis=1)
    )(x, 0)
    off = ((found.per_player - exact) / found.standard_errors.reshape(exact.shape)).square().mean()
    assert 0.1 < float(off) < 3


def test_images_and_pooling_with_indices():
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 2),
        nn.ReLU(),
        nn.MaxPool2d(2, stride=1),
        nn.Flatten(),
        nn.Linear(4 * 3 * 4, 8),
        nn.Tanh(),
        nn.Linear(8, 2),
    ).eval()
    x = torch.randn(3, 1, 5, 6)
    found = dasp.Explainer(model, 0.0, method=dasp.Regression(budget=4096, windows=True), players=dasp.players.pixels())(x, 0)
    assert found.settings["layers"] == ["aten.flatten.using_ints (layer 3)"]  # what flattens the pooled layer
    audit = found.audit(evaluations=4000, seed=5)
    assert float(audit.high.max()) < 0.2


def test_the_same_alone_as_in_a_batch_and_players_at_the_baseline_are_zero():
    model, x = seeded(lambda: Pooled(deep_head()), 3, N)
    x[1, :, 4] = 0
    explainer = dasp.Explainer(
        model, 0.0, method=dasp.Regression(budget=BUDGET, windows=True), players=dasp.players.tokens(axis=1)
    )
    together = explainer(x, [0, 1]).per_player
    for row in range(3):
        torch.testing.assert_close(explainer(x[row : row + 1], [0, 1]).per_player[0], together[row], rtol=1e-7, atol=1e-9)
    assert bool((together[1, :, 4] == 0).all())
    torch.testing.assert_close(explainer(x, 1).per_player[:, 0], together[:, 1], rtol=1e-6, atol=1e-8)


def test_priors_and_a_budget_for_all_coalitions():
    model, x = seeded(lambda: Pooled(deep_head()), 3, N)
    players = dasp.players.tokens(axis=1)
    with_prior, _ = errors(model, x, dasp.Regression(budget=600, windows=True, prior=dasp.Propagation()), players)
    assert float(with_prior.max()) < 0.05
    error, found = errors(model, x, dasp.Regression(budget=2**N, windows=True), players)
    assert float(error.max()) < 1e-10
    assert "layers" not in found.settings  # all coalitions were evaluated, and no windows looked for


class Hidden(nn.Module):
    """A layer whose elements depend on all players, which NaN does not show."""

    def forward(self, x: Tensor) -> Tensor:
        mean = torch.nan_to_num(x.mean(1, keepdim=True))
        return ((x[:, 1:] * x[:, :-1]).tanh() * (1 + mean)).sum(1, keepdim=True).exp()


class Compared(nn.Module):
    """Half of the layers come after a comparison, which NaN does not pass."""

    def forward(self, x: Tensor) -> Tensor:
        pairs = x[:, 1:] * x[:, :-1]
        return torch.where(x.mean(1, keepdim=True) > 0, pairs, -pairs).sum(1, keepdim=True)


def test_what_a_comparison_hides_counts_as_everybody():
    model, x = seeded(Compared, N)
    error, found = errors(model, x, dasp.Regression(budget=BUDGET, windows=True), None)
    # What is compared, and both of what is chosen from.
    assert found.settings["layers"] == ["x", "aten.mul.Tensor (layer Compared)", "aten.neg.default (layer Compared)"]
    assert float(error.max()) < 0.5


@pytest.mark.parametrize(
    ("build", "options", "fault", "message"),
    [
        (lambda: nn.Sequential(nn.Linear(N, 8), nn.ReLU(), nn.Linear(8, 1)), {}, InputError, "no layer of Sequential"),
        (Beside, {"budget": 150}, CostError, "beside those of windows"),
    ],
    ids=["dense", "budget"],
)
def test_refused(build, options, fault, message):
    model, x = seeded(build, N)
    with pytest.raises(fault, match=message):
        dasp.Explainer(model, 0.0, method=dasp.Regression(**{"budget": BUDGET, "windows": True} | options))(x, 0)


def test_what_hides_nan_is_not_followed_and_would_be_noticed(monkeypatch):
    model, x = seeded(Hidden, N)
    error, found = errors(model, x, dasp.Regression(budget=2048, windows=True), None)
    assert float(error.max()) < 0.05
    assert found.settings["layers"][0] == "x"
    monkeypatch.setattr(reach, "LOSES_NAN", set())
    with pytest.raises(InputError, match="do not seem to read"):
        errors(model, x, dasp.Regression(budget=2048, windows=True), None)


class Ordered(nn.Module):
    """Windows of tokens in an order that each row brings along."""

    def __init__(self):
        super().__init__()
        self.layers = Pooled(deep_head())

    def forward(self, x, order):
        return self.layers(x.gather(2, order.unsqueeze(1).expand(-1, 3, -1)))


def test_arguments_that_go_along_with_the_rows_may_change_who_depends_on_whom():
    torch.manual_seed(0)
    model, x = Ordered().double().eval(), torch.randn(20, 3, N).double()
    order = torch.arange(N).expand(20, -1).clone()
    order[16:] = torch.randperm(N)
    explainer = dasp.Explainer(
        model, 0.0, method=dasp.Regression(budget=BUDGET, windows=True), players=dasp.players.tokens(axis=1)
    )
    with pytest.raises(InputError, match=r"Not followed: aten\.gather"):
        explainer(x, 0, additional_forward_args=order)


class Scales(nn.Module):
    """Large elements beside small ones that hide whom they depend on."""

    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.Conv1d(1, 8, 3), nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, x):
        y = self.layer(x.unsqueeze(1))
        return self.head(torch.cat(((1e4 * y).mean(2) * 1e-4, torch.fmax(y, y.flip(2)).tanh().mean(2)), 1))


def test_large_elements_do_not_hide_what_small_ones_do(monkeypatch):
    model, x = seeded(Scales, N, dtype=torch.float32)
    monkeypatch.setattr(reach, "LOSES_NAN", set())
    with pytest.raises(InputError, match="do not seem to read"):
        dasp.Explainer(model, 0.0, method=dasp.Regression(budget=BUDGET, windows=True))(x, 0)


class Logarithm(nn.Module):
    """Elements that are infinite where they are absent, and an output that is not."""

    def forward(self, x):
        return (x[:, 1:] * x[:, :-1]).relu().log().logsumexp(1, keepdim=True).exp()


def test_infinite_elements_are_refused():
    model, x = seeded(Logarithm, N)
    with pytest.raises(NumericsError, match="infinite or NaN at some coalition"):
        dasp.Explainer(model, 0.0, method=dasp.Regression(budget=BUDGET, windows=True))(x.abs() + 1, 0)


class Roots(nn.Module):
    """Gradients of what follows the windows are NaN where nobody is present."""

    def forward(self, x):
        return (x[:, 1:] * x[:, :-1]).relu().square().sum(1, keepdim=True).sqrt()


def test_gradients_that_are_not_finite_do_no_harm():
    model, x = seeded(Roots, N)
    error, _ = errors(model, x, dasp.Regression(budget=2048, windows=True), None)
    assert float(error.max()) < 0.02


def test_memory_stays_within_its_bound():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(16), nn.Tanh(), nn.Linear(16, 4)).eval()
    x = torch.randn(6, 1, 20, 20)
    model(x)
    method, players = dasp.Regression(budget=2000, windows=True), dasp.players.pixels()
    explainer = dasp.Explainer(model, 0.0, method=method, players=players, memory=192 * 2**20)
    explainer(x[:1], 0)  # captures the network
    assert peak_bytes(lambda: explainer(x, [0, 1, 2, 3])) < 192 * 2**20
    with pytest.raises(MemoryBoundError):
        dasp.Explainer(model, 0.0, method=method, players=players, memory=16 * 2**20)(x, [0, 1, 2, 3])


def test_few_players_are_enumerated_for_the_least_budget():
    model, x = seeded(lambda: nn.Sequential(nn.Unflatten(1, (1, -1)), nn.Conv1d(1, 3, 2), nn.Flatten(), nn.Linear(18, 1)), 7)
    with pytest.raises(CostError, match="budget=128 or more"):
        dasp.Explainer(model, 0.0, method=dasp.Regression(budget=127, windows=True))(x, 0)


def test_the_least_budget_that_an_error_names_works():
    model, x = seeded(Beside, N)
    with pytest.raises(CostError) as caught:
        dasp.Explainer(model, 0.0, method=dasp.Regression(budget=100, windows=True))(x, 0)
    least = int(str(caught.value).split("budget=")[1].split()[0])
    found = dasp.Explainer(model, 0.0, method=dasp.Regression(budget=least, windows=True))(x, 0)
    assert found.evaluations <= least
    with pytest.raises(CostError):
        dasp.Explainer(model, 0.0, method=dasp.Regression(budget=least - 1, windows=True))(x, 0)


def test_backgrounds_whole_numbers_and_other_types_are_refused():
    model, x = seeded(Beside, N)
    with pytest.raises(InputError, match="one baseline"):
        dasp.Explainer(model, torch.randn(5, N).double(), method=dasp.Regression(budget=BUDGET, windows=True))(x, 0)
    with pytest.raises(InputTypeError, match="windows must be True or False"):
        dasp.Regression(windows="yes")
    ids = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(4 * N, 1)).eval()
    with pytest.raises(InputError, match="int64"):
        explainer = dasp.Explainer(
            ids, torch.zeros(1, N, dtype=torch.long), method=dasp.Regression(budget=BUDGET, windows=True)
        )
        explainer(torch.randint(1, 9, (2, N)), 0)


def test_the_model_is_left_as_it_was():
    model, x = seeded(lambda: Pooled(deep_head()), 3, N)
    model.train()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    dasp.Explainer(model, 0.0, method=dasp.Regression(budget=BUDGET, windows=True), players=dasp.players.tokens(axis=1))(x, 0)
    assert model.training
    assert all(weight.grad is None for weight in model.parameters())
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())


def test_no_set_has_two_players_of_a_colour():
    generator = torch.Generator().manual_seed(0)
    sets = torch.rand(40, 30, generator=generator) < 0.15
    colours = coloured(sets)
    for some in sets:
        own = colours[some]
        assert len(own.unique()) == len(own)
    windows = torch.stack([torch.arange(30).sub(k).ge(0) & torch.arange(30).sub(k).lt(7) for k in range(24)])
    assert int(coloured(windows).max()) == 6
