"""Masked scores: nothing is left of them, whatever number masks them, and a row masked as a whole stays finite."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dasp.gaussian import Gaussian
from dasp.rules import RULES, Context

from .test_rules import Plain

aten = torch.ops.aten
LOWEST = torch.finfo(torch.float32).min
SEEN = torch.tensor([[True, True, False, True], [False, False, False, False], [False, False, True, False]])
PRESENCE = torch.tensor([[0.3, 0.6], [0.5, 0.2], [0.8, 0.4]])


def scores(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Gaussian:
    g = torch.Generator().manual_seed(seed)
    mean, factors, rest = (torch.randn(s, generator=g, dtype=torch.float64) for s in (shape, (3, *shape), shape))
    return Gaussian(mean.to(dtype), factors.to(dtype), rest.square().to(dtype))


def apply(op: Any, *args: Any, conditioned: bool = False, **kwargs: Any) -> Gaussian:
    rule = RULES.find(op)
    assert rule is not None
    law = Plain(True, PRESENCE) if conditioned else Plain()
    result: Gaussian = rule.apply(Context(law, 0), *args, **kwargs)
    return result


def masked(value: Gaussian, seen: Tensor, number: float) -> Gaussian:
    """Scores as `scores + mask` leaves them: the factors stay."""
    mask = torch.zeros(seen.shape, dtype=value.mean.dtype).masked_fill(~seen, number)
    return Gaussian(value.mean + mask, value.factors, value.rest)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("number", [-torch.inf, LOWEST, -1e9, -1e5])
@pytest.mark.parametrize("op", [aten.softmax.int, aten.log_softmax.int, aten.logsumexp.default])
def test_masked_scores_are_as_good_as_absent(op: Any, number: float, dtype: torch.dtype) -> None:
    seen = torch.tensor([True, False, True, True, False])
    value = scores(2, 5, dtype=dtype)
    some = Gaussian(value.mean[:, seen], torch.as_tensor(value.factors)[..., seen], value.rest[:, seen])
    axes: Any = [1] if op is aten.logsumexp.default else 1
    for conditioned in (False, True):
        found = apply(op, masked(value, seen, number), axes, conditioned=conditioned)
        wanted = apply(op, some, axes, conditioned=conditioned)
        if op is not aten.logsumexp.default:
            assert (found.mean[:, ~seen] == (0 if op is aten.softmax.int else found.mean[:, ~seen].clamp(max=-9e4))).all()
            found = Gaussian(found.mean[:, seen], torch.as_tensor(found.factors)[..., seen], found.rest[:, seen])
        # how scores are paired differs, and matters a little
        torch.testing.assert_close(found.mean, wanted.mean, rtol=0, atol=0.03)
        torch.testing.assert_close(found.var, wanted.var, rtol=0.08, atol=0.06)


@pytest.mark.parametrize("number", [-torch.inf, LOWEST])
@pytest.mark.parametrize("conditioned", [False, True])
def test_a_row_that_is_masked_as_a_whole(number: float, conditioned: bool) -> None:
    value = scores(2, 3, 4, dtype=torch.float32)
    leaves = [p.clone().requires_grad_() for p in (value.mean, torch.as_tensor(value.factors), value.rest)]
    result = apply(aten.softmax.int, masked(Gaussian(*leaves), SEEN, number), -1, conditioned=conditioned)
    assert torch.equal(result.mean[:, 1], torch.full_like(result.mean[:, 1], 0.0 if number == -torch.inf else 0.25))
    assert not result.var[:, 1].any()
    torch.testing.assert_close(result.mean[:, 2], torch.tensor([0.0, 0.0, 1.0, 0.0]).expand(2, 4))
    for gradient in torch.autograd.grad(result.mean.square().sum() + result.var.sum(), leaves):
        assert gradient.isfinite().all()


def test_no_score_at_all_has_no_sum() -> None:
    value = masked(scores(2, 3, 4), SEEN, -torch.inf)
    assert apply(aten.logsumexp.default, value, [-1]).mean[:, 1].isneginf().all()


@pytest.mark.parametrize("conditioned", [False, True])
def test_shares_add_up_to_one(conditioned: bool) -> None:
    value = scores(2, 3, 7, seed=3)
    result = apply(aten.softmax.int, Gaussian(3 * value.mean, 2 * torch.as_tensor(value.factors), value.rest), 2,
                   conditioned=conditioned)  # fmt: skip
    torch.testing.assert_close(result.mean.sum(-1), torch.ones(2, 3, dtype=torch.float64))
    torch.testing.assert_close(torch.as_tensor(result.factors).sum(-1), torch.zeros(3, 2, 3, dtype=torch.float64))


def fixed(value: Gaussian) -> Gaussian:
    return Gaussian(value.mean, 0 * torch.as_tensor(value.factors), 0 * value.rest)


@pytest.mark.parametrize(
    "options",
    [
        {"attn_mask": SEEN},
        {"attn_mask": torch.zeros(3, 4).masked_fill(~SEEN, -torch.inf)},
        {"attn_mask": torch.zeros(3, 4).masked_fill(~SEEN, LOWEST)},
        {"attn_mask": SEEN.expand(2, 1, 3, 4)},
        {"is_causal": True},
        {"scale": 0.7, "attn_mask": torch.linspace(-1, 1, 12).reshape(3, 4)},
    ],
    ids=["bool", "infinite", "lowest", "for each head", "causal", "bias and scale"],
)
def test_attention_without_variance_is_that_of_torch_also_where_nothing_is_seen(options: dict[str, Any]) -> None:
    q, k, v = scores(2, 2, 3, 5), scores(2, 2, 4, 5, seed=1), scores(2, 2, 4, 6, seed=2)
    options = {n: o.double() if isinstance(o, Tensor) and o.is_floating_point() else o for n, o in options.items()}
    wanted = F.scaled_dot_product_attention(q.mean, k.mean, v.mean, **options)
    for parts in ((q, k, v), (q, k.mean, v.mean), (q.mean, k, v), (q.mean, k.mean, v)):
        for conditioned in (False, True):
            given = [fixed(part) if isinstance(part, Gaussian) else part for part in parts]
            result = apply(aten.scaled_dot_product_attention.default, *given, conditioned=conditioned, **options)
            torch.testing.assert_close(result.mean, wanted)
            assert result.var.abs().max() < 1e-12


def test_attention_is_its_parts() -> None:
    """Matrix product, mask, softmax and matrix product, as in code that writes attention out."""
    q, k, v = scores(2, 3, 5), scores(2, 4, 5, seed=1), scores(2, 4, 6, seed=2)
    whole = apply(aten.scaled_dot_product_attention.default, q, k, v, SEEN)
    turned = apply(aten.transpose.int, k, 1, 2)
    products = apply(aten.div.Tensor, apply(aten.bmm.default, q, turned), 5**0.5)
    filled = apply(aten.masked_fill.Scalar, products, ~SEEN, -torch.inf)
    by_parts = apply(aten.bmm.default, apply(aten.softmax.int, filled, -1), v)
    for part in ("mean", "factors", "rest"):
        torch.testing.assert_close(getattr(whole, part), getattr(by_parts, part))


def test_dropout_in_attention_is_refused() -> None:
    rule = RULES.find(aten.scaled_dot_product_attention.default)
    assert rule is not None
    assert rule.accepts([0, 1, 2], (None, None, None, None, 0.0), {})
    assert not rule.accepts([0, 1, 2], (None, None, None, None, 0.1), {})
    assert not rule.accepts([0, 3], (None, None, None, None), {})  # a mask that is random
