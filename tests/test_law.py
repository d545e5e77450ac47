"""Moments of random coalitions where players meet, against enumeration of all coalitions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dasp
from dasp.gaussian import Gaussian, LinearMap, Owned
from dasp.law import CoalitionLaw
from dasp.rules.linear import dense

aten = torch.ops.aten

N, ELEMENTS, OUT, ROWS = 6, 9, 4, 2
NODES = torch.tensor([0.2, 0.5, 0.85], dtype=torch.float64)
LABELS = torch.tensor([1, 2, 2, 0, 3, 4, 4, 6, 5])  # 0: nobody's


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


STEP, DIRECTION = 1e-5, draw(ROWS, N, seed=5)
WEIGHT, BIAS = draw(OUT, ELEMENTS, seed=1), draw(OUT, seed=2)
OFF, ON = draw(ROWS, ELEMENTS, seed=3), draw(ROWS, ELEMENTS, seed=4)
ZERO = torch.zeros(ROWS, N, dtype=torch.float64)


def elementwise_labels() -> Tensor:
    return torch.arange(1, ELEMENTS + 1)


def linear_map() -> LinearMap:
    return dense(aten.linear.default, 0, (None, WEIGHT, BIAS))


def owned(labels: Tensor = LABELS) -> Owned:
    """Values as they enter: the same at every node, nobody's elements the same in both states."""
    on = torch.where(labels > 0, ON, OFF)
    return Owned(OFF.repeat(len(NODES), 1), on.repeat(len(NODES), 1), labels, 0)


def law(
    rank: Any, *, grouped: bool = True, players: int = N, shift: Tensor | None = None, memory: int = 2**20
) -> CoalitionLaw:
    shift = torch.zeros(ROWS, players, dtype=torch.float64) if shift is None else shift
    return CoalitionLaw(NODES, shift, grouped=grouped, rank=rank, conditioned=False, memory=memory)


def enumerated(shift: Tensor, f: Callable[[Tensor], Tensor], labels: Tensor = LABELS) -> tuple[Tensor, Tensor]:
    """Mean (K * B, out) and covariance (K * B, out, out) of `f` of the coalition, over all coalitions."""
    players = shift.shape[1]
    coalitions = (torch.arange(2**players).unsqueeze(1) >> torch.arange(players) & 1).double()
    means, covariances = [], []
    for q in NODES:
        for b in range(ROWS):
            p = q + shift[b]
            weights = torch.where(coalitions.bool(), p, 1 - p).prod(1)
            z = nn.functional.pad(coalitions, (1, 0))[:, labels]
            y = f(OFF[b] + z * (ON[b] - OFF[b]))
            mean = (weights.unsqueeze(1) * y).sum(0)
            centred = y - mean
            means.append(mean)
            covariances.append(torch.einsum("s,si,sj->ij", weights, centred, centred))
    return torch.stack(means), torch.stack(covariances)


def mixed(x: Tensor) -> Tensor:
    return x @ WEIGHT.T + BIAS


def close(found: Tensor, wanted: Tensor, tolerance: float = 1e-12) -> None:
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() <= tolerance


def covariance(value: Gaussian) -> Tensor:
    """Full covariance (rows, out, out)."""
    shared = 0 if value.factors is None else torch.einsum("rbi,rbj->bij", value.factors, value.factors)
    return shared + torch.diag_embed(value.rest)


def unit_directions(players: int, rank: int) -> Tensor:
    return torch.linalg.qr(draw(ROWS, players, rank, seed=7))[0]


@pytest.mark.parametrize("memory", [1, 2**30])
def test_full_rank_has_the_exact_mean_and_covariance(memory: int) -> None:
    value = law("full", memory=memory).meet(owned(), linear_map(), 0)
    mean, cov = enumerated(ZERO, mixed)
    close(value.mean, mean)
    close(covariance(value), cov)


@pytest.mark.parametrize("rank", [None, 1, 3, N])
def test_reduced_rank_has_the_exact_mean_and_variance(rank: int | None) -> None:
    directions = None if rank is None else unit_directions(N, rank)
    value = law(directions).meet(owned(), linear_map(), 0)
    mean, cov = enumerated(ZERO, mixed)
    close(value.mean, mean)
    close(value.var, cov.diagonal(dim1=1, dim2=2))
    assert (value.factors is None) == (rank is None)
    if rank == N:  # a full basis explains everything
        close(value.rest, torch.zeros_like(value.rest))
        close(covariance(value), cov)


@pytest.mark.parametrize("rank", ["full", "none", "two"])
def test_elements_that_are_players_themselves_are_groups_of_one(rank: str) -> None:
    labels = elementwise_labels()
    kinds = {"full": "full", "none": None, "two": unit_directions(ELEMENTS, 2)}
    mean, cov = enumerated(torch.zeros(ROWS, ELEMENTS, dtype=torch.float64), mixed, labels)
    for grouped in (False, True):
        value = law(kinds[rank], grouped=grouped, players=ELEMENTS).meet(owned(labels), linear_map(), 0)
        close(value.mean, mean)
        close(value.var, cov.diagonal(dim1=1, dim2=2))


def test_directions_load_as_the_projected_noise_of_the_players() -> None:
    u = unit_directions(N, 2)
    value = law(u).meet(owned(), linear_map(), 0)
    full = law("full").meet(owned(), linear_map(), 0)
    assert full.factors is not None
    assert value.factors is not None
    close(value.factors, torch.einsum("nbo,bnr->rbo", full.factors, u.repeat(len(NODES), 1, 1)))


@pytest.mark.parametrize("rank", ["full", "none", "two"])
def test_moments_of_owned_elements(rank: str) -> None:
    value = law({"full": "full", "none": None, "two": unit_directions(N, 2)}[rank]).moments(owned())
    mean, cov = enumerated(ZERO, lambda x: x)
    close(value.mean, mean)
    close(value.var, cov.diagonal(dim1=1, dim2=2))
    if rank == "full":
        close(covariance(value), cov)
    assert not value.var[:, LABELS == 0].any()


@pytest.mark.parametrize("rank", ["full", "none", "two"])
@pytest.mark.parametrize("entry", ["meet", "moments"])
def test_derivatives_by_presence(rank: str, entry: str) -> None:
    kind = {"full": "full", "none": None, "two": unit_directions(N, 2)}[rank]
    f = mixed if entry == "meet" else (lambda x: x)
    up, down = enumerated(STEP * DIRECTION, f), enumerated(-STEP * DIRECTION, f)
    wanted = [u - d for u, d in zip(up, down, strict=True)]
    wanted[1] = wanted[1].diagonal(dim1=1, dim2=2)
    shift = ZERO.clone().requires_grad_()
    chosen = law(kind, shift=shift)
    value = chosen.meet(owned(), linear_map(), 0) if entry == "meet" else chosen.moments(owned())
    for found, change in zip((value.mean, value.var), wanted, strict=True):
        check_slope(found, shift, change / (2 * STEP))


def check_slope(found: Tensor, shift: Tensor, wanted: Tensor) -> None:
    """The slope of `found` along DIRECTION, weighted at random over its elements."""
    weights = draw(*found.shape, seed=6)
    (gradient,) = torch.autograd.grad((weights * found).sum(), shift, retain_graph=True)
    close((gradient * DIRECTION).sum(), (weights * wanted).sum(), 1e-7)


def test_derivatives_of_the_loadings_by_presence() -> None:
    shift = ZERO.clone().requires_grad_()
    found = covariance(law("full", shift=shift).meet(owned(), linear_map(), 0))
    change = enumerated(STEP * DIRECTION, mixed)[1] - enumerated(-STEP * DIRECTION, mixed)[1]
    check_slope(found, shift, change / (2 * STEP))


def test_batch_axis_may_be_anywhere() -> None:
    straight = law("full").meet(owned(), linear_map(), 0)
    value = owned()
    turned = Owned(value.off.T, value.on.T, value.labels, 1)
    transposed = LinearMap(
        affine=lambda x: (WEIGHT @ x) + BIAS.unsqueeze(1), homogeneous=lambda x: WEIGHT @ x,
        squared=lambda v: WEIGHT.square() @ v, reach=lambda x: torch.ones_like(WEIGHT) @ x,
    )  # fmt: skip
    for rank in ("full", None, unit_directions(N, 2)):
        straight, other = law(rank).meet(owned(), linear_map(), 0), law(rank).meet(turned, transposed, 1)
        close(other.mean.T, straight.mean)
        close(other.var.T, straight.var)


# Owners, before players meet ---------------------------------------------------------------------------------------


def owners(linear: LinearMap, labels: list[int]) -> list[int] | None:
    found = linear.owners(torch.tensor([labels, labels]))
    return None if found is None else found[0].tolist()


def test_owners_of_a_linear_map() -> None:
    def dense_map(weight: Tensor) -> LinearMap:
        return dense(aten.linear.default, 0, (None, weight, None))

    assert owners(dense_map(torch.ones(2, 3)), [7, 7, 0]) == [7, 7]
    assert owners(dense_map(torch.ones(2, 3)), [0, 0, 0]) == [0, 0]
    assert owners(dense_map(torch.ones(2, 3)), [7, 8, 7]) is None
    assert owners(dense_map(torch.zeros(1, 2)), [1, 2]) is None  # today's weights do not decide who meets
    large = [150_000, 150_001, *[150_000] * 30]
    assert owners(dense_map(torch.ones(1, 32)), large) is None
    assert owners(dense_map(torch.ones(1, 5_000)), [150_000] * 5_000) == [150_000]


class Additive(nn.Module):
    """A sum of functions of one player each: propagation must be exact whatever the functions are."""

    def __init__(self, embed: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.embed = embed

    def forward(self, x: Tensor) -> Tensor:
        return self.embed(x).flatten(1).sum(1)


def strange(x: Tensor) -> Tensor:
    """Operations without any rule, steps among them."""
    return torch.atan(x).exp() + torch.round(3 * x) + torch.sign(x) * x.abs().sqrt() + (x > 0.2)


def exact_and_propagated(module: nn.Module, x: Any, players: Any = None, **options: Any) -> tuple[Any, Any]:
    method = dasp.Propagation(nodes=2, rule="legendre", **options)
    exact = dasp.Explainer(module.double().eval(), 0.3, method=dasp.Exact(), players=players)(x)
    found = dasp.Explainer(module, 0.3, method=method, players=players)(x)
    return exact.per_player, found.per_player


def patch_embedding() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 5, 2, stride=2), nn.Softsign(), nn.Flatten(2), nn.LogSigmoid(), nn.PReLU())


def token_embedding() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Softmin(-1), nn.Linear(4, 2), nn.LogSoftmax(-1))


@pytest.mark.parametrize("rank", ["full", 0, 2])
@pytest.mark.parametrize(
    ("embed", "shape", "players"),
    [
        (lambda: strange, (5,), None),
        (patch_embedding, (1, 4, 6), dasp.players.grid(2, 2)),
        (patch_embedding, (1, 5, 5), dasp.players.grid(2, 2)),
        (token_embedding, (4, 3), dasp.players.tokens()),
        (lambda: nn.MaxPool1d(2), (1, 8), torch.arange(4).repeat_interleave(2).unsqueeze(0)),
        (lambda: nn.AvgPool1d(2), (2, 6), dasp.players.tokens(1)),
    ],
    ids=["pointwise", "patches", "patches with an edge", "tokens", "max pool", "mixing"],
)
def test_what_one_player_owns_stays_exact(
    embed: Callable[[], Any], shape: tuple[int, ...], players: Any, rank: Any
) -> None:
    torch.manual_seed(0)
    x = draw(2, *shape, seed=8)
    exact, found = exact_and_propagated(Additive(embed()), x, players, rank=rank)
    assert (found - exact).abs().max() <= 1e-9 * exact.abs().max()


def test_padding_and_known_tensors_belong_to_nobody() -> None:
    def padded(x: Tensor) -> Tensor:
        wide = nn.functional.pad(x, (1, 2), value=0.7)
        return strange(torch.cat([wide, x.new_ones(x.shape[0], 2) * 3], 1))

    exact, found = exact_and_propagated(Additive(padded), draw(2, 4, seed=9), rank="full")
    close(found, exact, 1e-10)


def test_players_may_be_shared_by_several_inputs() -> None:
    class Pair(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return strange(x).sum(1) + (strange(y) * x[:, :2]).sum(1)

    players = (torch.tensor([0, 1, 2]), torch.tensor([0, 1]))
    x, y = draw(2, 3, seed=10), draw(2, 2, seed=11)
    exact, found = exact_and_propagated(Pair(), (x, y), players, rank="full")
    close(found, exact, 1e-10)
    assert exact.shape[-1] == 3


# Further arguments that go along with their rows -------------------------------------------------------------------


class Masked(nn.Module):
    def __init__(self, use: Callable[[Tensor, Tensor], Tensor], *, mix: bool) -> None:
        super().__init__()
        self.mix = nn.Linear(4, 4) if mix else nn.Identity()
        self.use = use
        self.head = nn.Sequential(nn.Tanh(), nn.LazyLinear(1))

    def forward(self, x: Tensor, extra: Tensor) -> Tensor:
        result: Tensor = self.head(self.use(self.mix(x), extra))
        return result


HALF = torch.tensor([[1.0, 0, 1, 1], [0, 1, 1, 0], [1, 1, 0, 0]], dtype=torch.float64)
CHOSEN = torch.tensor([[0, 2, 2], [1, 1, 3], [3, 0, 1]])
PER_ROW = [
    pytest.param(lambda x, m: x * m, HALF, id="product"),
    pytest.param(lambda x, m: x.masked_fill(m > 0.5, 0.2), HALF, id="masked fill"),
    pytest.param(lambda x, m: torch.where(m > 0.5, x, x.square()), HALF, id="where"),
    pytest.param(lambda x, i: x.gather(1, i), CHOSEN, id="gather"),
    pytest.param(lambda x, c: x + c, HALF, id="sum"),
    pytest.param(lambda x, a: torch.bmm(x.unsqueeze(1), a).squeeze(1), draw(3, 4, 2, seed=12), id="matrix"),
]


@pytest.mark.parametrize("mix", [False, True], ids=["first", "later"])
@pytest.mark.parametrize(("use", "extra"), PER_ROW)
def test_per_row_arguments_give_a_row_the_same_values_alone(
    use: Any, extra: Tensor, mix: bool
) -> None:
    torch.manual_seed(0)
    module, x = Masked(use, mix=mix).double(), draw(3, 4, seed=13)
    module(x, extra)
    method = dasp.Propagation(nodes=4, rule="legendre", rank="full")
    explainer = dasp.Explainer(module.eval(), 0.1, method=method)
    together = explainer(x, additional_forward_args=extra).per_player
    exact = dasp.Explainer(module, 0.1, method=dasp.Exact())(x, additional_forward_args=extra).per_player
    assert (together - exact).norm() <= 0.05 * exact.norm()
    for b in range(3):
        alone = explainer(x[b : b + 1], additional_forward_args=extra[b : b + 1]).per_player
        close(alone[0], together[b], 1e-12)




class Applied(nn.Module):
    def __init__(self, use: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.use = use

    def forward(self, x: Tensor) -> Tensor:
        return self.use(x)


ODD = {
    "squeeze takes the batch axis of one row": lambda x: x.unsqueeze(2).squeeze().exp().sum(1),
    "booleans meet": lambda x: (x > 0).sum(1).double(),
    "minus infinity in both states": lambda x: x.masked_fill(torch.arange(4) > 2, -torch.inf).softmax(1)[:, 0],
}


@pytest.mark.parametrize("name", ODD)
def test_odd_prefixes(name: str) -> None:
    module, x = Applied(ODD[name]), draw(1, 4, seed=14)
    exact = dasp.Explainer(module, 0.3, method=dasp.Exact())(x).per_player
    method = dasp.Propagation(nodes=1, rule="legendre", rank="full")
    found = dasp.Explainer(module, 0.3, method=method)(x).per_player
    assert (found - exact).norm() <= 0.1 * exact.norm()
