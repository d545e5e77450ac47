"""What no rule can cover is refused before anything is computed: all of it at once, each with its layer and what to do."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dasp
from dasp.propagate import Support
from dasp.remedies import BRANCH, CHOICE, NUMBER, ORDERED, PLACES, POSITIONS, RANDOM, SHAPE, USUAL, instead, refusal

PLAYERS = 8
Part = Callable[[Tensor], Tensor]


class Between(nn.Module):
    """A part between two linear layers, so that it meets values on which every player has a say."""

    def __init__(self, part: Part) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(PLAYERS, PLAYERS), nn.LazyLinear(1)
        self.part = part
        with torch.no_grad():
            self(rows())

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.part(self.first(x)).to(x.dtype).flatten(1))


class Sum(nn.Module):
    """For parts that mix the rows."""

    def __init__(self, part: Part) -> None:
        super().__init__()
        self.first, self.part = nn.Linear(PLAYERS, PLAYERS), part

    def forward(self, x: Tensor) -> Tensor:
        return x.sum(1, keepdim=True) + self.part(self.first(x)).sum()


def rows(count: int = 3) -> Tensor:
    return torch.randn(count, PLAYERS, generator=torch.Generator().manual_seed(1))


# What is written, the operations that are named, and the advice of the first.
HANGING_ON_VALUES: dict[str, tuple[Part, list[str], str]] = {
    "comparison": (lambda h: h * (h > 0), ["gt.Scalar"], BRANCH),
    "comparison of two": (lambda h: h >= h.flip(1), ["ge.Tensor"], BRANCH),
    "equality": (lambda h: h == 0, ["eq.Scalar"], BRANCH),
    "two conditions": (lambda h: (h > 0) & (h < 1), ["gt.Scalar", "lt.Scalar", "bitwise_and.Tensor"], BRANCH),
    "negation": (lambda h: ~(h <= 1), ["le.Scalar", "bitwise_not.default"], BRANCH),
    "any": (lambda h: (h != 0).any(1, keepdim=True), ["ne.Scalar", "any.dim"], BRANCH),
    "where": (lambda h: torch.where(h > 0, h, -h), ["gt.Scalar", "where.self"], BRANCH),
    "masked_fill": (lambda h: h.masked_fill(h < 0, 0.5), ["lt.Scalar", "masked_fill.Scalar"], BRANCH),
    "argmax": (lambda h: h.argmax(1, keepdim=True), ["argmax.default"], CHOICE),
    "argmin": (lambda h: h.argmin(1, keepdim=True), ["argmin.default"], CHOICE),
    "a class as one-hot": (lambda h: F.one_hot(h.argmax(1), 8), ["argmax.default", "eq.Tensor", "_to_copy.default"], CHOICE),
    "integers": (lambda h: h.long(), ["_to_copy.default"], CHOICE),
    "rounding": (torch.round, ["round.default"], CHOICE),
    "sort": (lambda h: h.sort(1).values, ["sort.default"], ORDERED),
    "argsort": (lambda h: h.argsort(1), ["sort.default"], ORDERED),
    "topk": (lambda h: h.topk(3, 1).values, ["topk.default"], ORDERED),
    "topk places": (lambda h: h.topk(3, 1).indices, ["topk.default"], ORDERED),
    "kthvalue": (lambda h: h.kthvalue(2, 1, keepdim=True).values, ["kthvalue.default"], ORDERED),
    "median": (lambda h: h.median(1, keepdim=True).values, ["median.dim"], ORDERED),
    "place of a maximum": (lambda h: h.max(1, keepdim=True).indices, ["max.dim (indices)"], POSITIONS),
    "pool 1d": (lambda h: F.max_pool1d(h.unsqueeze(1), 2, return_indices=True)[1],
                ["max_pool1d_with_indices.default (indices)"], POSITIONS),
    "pool 2d": (lambda h: F.max_pool2d(h.reshape(-1, 1, 2, 4), 2, return_indices=True)[1],
                ["max_pool2d_with_indices.default (indices)"], POSITIONS),
    "adaptive pool": (lambda h: F.adaptive_max_pool1d(h.unsqueeze(1), 2, return_indices=True)[1],
                      ["adaptive_max_pool1d.default (indices)"], POSITIONS),
    "unpooled": (lambda h: F.max_unpool1d(*F.max_pool1d(h.unsqueeze(1), 2, return_indices=True), 2),
                 ["max_pool1d_with_indices.default (indices)", "index_put.default"], POSITIONS),
    "gather": (lambda h: h.gather(1, h.argmax(1, keepdim=True)), ["argmax.default", "gather.default"], CHOICE),
}  # fmt: skip

# The rows or the draws of these differ, which is noticed before there is a graph; `check` names the operations.
SHAPES_AND_NOISE: dict[str, tuple[type[nn.Module], Part, list[str], str, str]] = {
    "nonzero": (Sum, lambda h: h.nonzero().float(), ["nonzero.default"], SHAPE, "depend on each other"),
    "masked_select": (Sum, lambda h: h[h > 0], ["gt.Scalar", "index.Tensor"], BRANCH, "depend on each other"),
    "unique": (Sum, torch.unique, ["_unique2.default"], SHAPE, "depend on each other"),
    "after a mask": (Sum, lambda h: h[h > 0].cumprod(0), ["gt.Scalar", "index.Tensor", "cumprod.default"], BRANCH,
                     "depend on each other"),
    "a number": (Sum, lambda h: h * h.sum().item(), ["_local_scalar_dense.default"], NUMBER, "depend on each other"),
    "bernoulli": (Between, lambda h: torch.bernoulli(h.sigmoid()), ["rand.default", "lt.Tensor"], RANDOM, "is random"),
    "multinomial": (Between, lambda h: torch.multinomial(h.softmax(1), 2), ["multinomial.default"], RANDOM, "is random"),
    "dropout": (Between, lambda h: F.dropout(h, 0.5, training=True), ["native_dropout.default"], RANDOM, "is random"),
    "alpha dropout": (Between, lambda h: F.alpha_dropout(h, 0.5, training=True), ["bernoulli.p"], RANDOM, "is random"),
    "random leaky ReLU": (Between, lambda h: F.rrelu(h, training=True), ["rrelu.default"], RANDOM, "is random"),
    "noise of a shape": (Between, lambda h: h + torch.randn_like(h), ["randn_like.default"], RANDOM, "is random"),
    "noise": (Between, lambda h: h + torch.randn(8), ["randn.default"], RANDOM, "is random"),
    "normal": (Between, lambda h: torch.normal(h, 1.0), ["normal.Tensor_float"], RANDOM, "is random"),
    "Gumbel softmax": (Between, lambda h: F.gumbel_softmax(h), ["exponential.default"], RANDOM, "is random"),
}  # fmt: skip


@pytest.fixture(autouse=True)
def nothing_propagates(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: Any, **options: Any) -> Any:
        raise AssertionError("propagated before the rules were checked")

    for place in ("propagation", "dasp", "preparation"):
        monkeypatch.setattr(f"dasp.estimators.{place}.propagate", never)


def missing(model: Any) -> list[str]:
    """Operations that `check` names, without `aten.`, in order."""
    found = dasp.Explainer(model, 0.0).check(rows())
    return [one.op.removeprefix("aten.") for one in found if one.support is Support.MISSING]


@pytest.mark.parametrize("name", HANGING_ON_VALUES)
def test_what_hangs_on_values_is_refused(name: str) -> None:
    part, ops, advice = HANGING_ON_VALUES[name]
    explainer = dasp.Explainer(Between(part), 0.0)
    found = explainer.check(rows())
    assert [one.op.removeprefix("aten.") for one in found if one.support is Support.MISSING] == ops
    with pytest.raises(dasp.MissingRuleError) as caught:
        explainer(rows())
    lines = str(caught.value).splitlines()
    for op in ops:
        assert f"  aten.{op} (layer Between)" in lines
    assert instead(f"aten.{ops[0]}") == advice
    assert f"    {advice}" in lines


@pytest.mark.parametrize("name", SHAPES_AND_NOISE)
def test_shapes_that_hang_on_values_and_noise_are_refused_and_named(name: str) -> None:
    kind, part, ops, advice, said = SHAPES_AND_NOISE[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of shapes that it does not know
        program = torch.export.export(
            kind(part).eval(), (rows(),), dynamic_shapes=({0: torch.export.Dim("batch")},), strict=False
        )
    assert missing(program) == ops
    assert instead(f"aten.{ops[0]}") == advice
    with pytest.raises(dasp.InputError, match=said):
        dasp.Explainer(program, 0.0)(rows())


class Every(nn.Module):
    """One operation of every kind that is refused; the noise has no effect, so that only the graph can tell."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(PLAYERS, PLAYERS)
        self.ranks, self.more = Ranks(), Ranks()
        self.noise, self.places, self.last = Noise(), Places(), nn.Linear(PLAYERS, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.more(self.ranks(self.first(x)))
        return self.last(self.places(self.noise(torch.where(h > 0, h, -h))) * torch.special.i0(h))


class Ranks(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sort(1).values


class Noise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 0 * torch.rand(PLAYERS)


class Places(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.gather(1, x.argmax(1, keepdim=True))


@pytest.mark.parametrize("method", [dasp.Propagation(), dasp.DASP(sizes=2)], ids=lambda one: type(one).__name__)
def test_everything_is_refused_at_once_equal_advice_together(method: dasp.Estimator) -> None:
    with pytest.raises(dasp.MissingRuleError) as caught:
        dasp.Explainer(Every(), 0.0, method=method)(rows())
    assert str(caught.value) == "\n".join([
        "no moment rule for these operations on random values; nothing was computed:",
        "  aten.sort.default (layer ranks)",
        "  aten.sort.default (layer more)",
        f"    {ORDERED}",
        "  aten.gt.Scalar (layer Every)",
        "  aten.where.self (layer Every)",
        f"    {BRANCH}",
        "  aten.rand.default (layer noise)",
        f"    {RANDOM}",
        "  aten.argmax.default (layer places)",
        f"    {CHOICE}",
        "  aten.gather.default (layer places)",
        f"    {PLACES}",
        "  aten.i0.default (layer Every)",
        "  For any of them, add a rule (CONTRIBUTING.md and docs/rules.md show how), or explain this model with",
        "  dasp.PermutationSampling() or dasp.Exact(), which need no rules.",
    ])  # fmt: skip


def test_what_comes_twice_is_named_once() -> None:
    text = refusal([("aten.i0.default", "a"), ("aten.sort.default", "a"), ("aten.i0.default", "a"), ("aten.i0.default", "b")])
    assert text.count("aten.i0.default") == 2
    assert text.index("sort") < text.index("i0")  # what only the usual advice is left for comes last, before that advice
    assert instead("aten.i0.default") == USUAL


def test_a_part_that_a_rule_does_not_cover_is_refused_with_the_others() -> None:
    """Softplus with a jump has a rule for other thresholds only."""
    assert missing(Between(lambda h: F.softplus(h, 1.0, 2.0))) == ["softplus.default"]
    assert missing(Between(lambda h: F.softplus(h, 1.0, 15.0))) == []


class Pooled(nn.Module):
    """A quarter of the image is one player, and every window lies in one."""

    def __init__(self) -> None:
        super().__init__()
        self.pool, self.last = nn.MaxPool2d(2, return_indices=True), nn.Linear(16, 1)

    def forward(self, x: Tensor) -> Tensor:
        values, places = self.pool(x)
        return self.last((values * places.to(x.dtype).cos()).flatten(1)).tanh()


def test_places_of_maxima_are_known_while_one_player_owns_a_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    torch.manual_seed(0)
    model, x, players = Pooled(), torch.randn(2, 1, 8, 8), dasp.players.grid(2, 2)
    truth = dasp.Explainer(model, 0.0, players=players, method=dasp.Exact())(x).per_player
    found = dasp.Explainer(model, 0.0, players=players, method=dasp.Propagation(rank="full"))(x).per_player
    assert (found - truth).norm() < 0.01 * truth.norm()


class FromIds(nn.Module):
    """Attention that leaves out padding, found from the token ids themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 8)

    def forward(self, ids: Tensor) -> Any:
        x = self.embedding(ids)
        kept = (ids != 0)[:, None, None, :]
        x = nn.functional.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None], attn_mask=kept)
        return x.mean((1, 2))[:, :1]


def test_a_mask_that_hangs_on_the_players_is_named() -> None:
    explainer = dasp.Explainer(FromIds(), 1, players=dasp.players.tokens())
    with pytest.raises(dasp.MissingRuleError, match=r"(?s)scaled_dot_product_attention.*its mask hangs on the players"):
        explainer(torch.tensor([[3, 4, 5, 0, 0]]))


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_script_modules_are_named() -> None:
    scripted = torch.jit.trace(nn.Sequential(nn.Linear(8, 1), nn.Tanh()), torch.randn(2, 8), check_trace=False)
    with pytest.raises(dasp.DaspError, match=r"give the module that they were made of"):
        dasp.Explainer(scripted, 0.0, method=dasp.Propagation())(torch.randn(2, 8))
