"""Which pairs of coalitions the regression evaluates: against the choice that looks at every pair each time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dasp.estimators import designs
from dasp.estimators.designs import choose_pairs
from dasp.estimators.odd_games import OddProcess, draw_pairs, every_pair

CPU = torch.device("cpu")


def unknown(members: Tensor, power: float = 3.0) -> float:
    """Trace of the values' covariance once everybody and these coalitions are known, by its definition."""
    process = OddProcess.of(members.shape[1], power, CPU)
    signs = torch.cat((2 * members.double() - 1, torch.ones(1, members.shape[1], dtype=torch.float64)))
    reach = process.values(signs)
    covariance = process.differences(signs, signs) + 1e-9 * torch.eye(len(signs), dtype=torch.float64)
    return float((process.prior() - reach @ torch.linalg.solve(covariance, reach.T)).trace())


def one_after_the_other(n: int, count: int) -> Tensor:
    pool, taken = every_pair(n, CPU), []
    for _ in range(count):
        left = [k for k in range(len(pool)) if k not in taken]
        taken.append(min(left, key=lambda k: unknown(pool[[*taken, k]])))
    return pool[taken]


def drawn(n: int, count: int, seed: int = 0) -> Tensor:
    return draw_pairs(n, count, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("n", "count"), [(4, 3), (6, 9), (7, 16)])
def test_as_good_as_looking_at_every_pair_each_time(n: int, count: int) -> None:
    assert unknown(choose_pairs(n, count, 0)) < 1.05 * unknown(one_after_the_other(n, count))


@pytest.mark.parametrize(("n", "count", "part"), [(12, 47, 0.5), (12, 383, 0.5), (18, 143, 0.7), (40, 300, 0.8)])
@pytest.mark.parametrize("power", [2.0, 4.0, 6.0])
def test_more_is_known_than_after_as_many_drawn_pairs(n: int, count: int, part: float, power: float) -> None:
    bound = part if power > 2 else 0.5 + part / 2
    assert unknown(choose_pairs(n, count, 0), power) < bound * unknown(drawn(n, count), power)


@pytest.mark.parametrize(("n", "count", "most"), [(5, 14, 99), (9, 254, 99), (10, 300, 100), (15, 500, 20), (70, 200, 99)])
def test_every_pair_is_taken_once(n: int, count: int, most: int) -> None:
    members = choose_pairs(n, count, 3, most=most)
    assert members.shape == (count, n)
    assert len((members ^ ~members[:, :1]).unique(dim=0)) == count
    assert members.any(1).all()
    assert not members.all(1).any()


def test_a_seed_chooses_the_same_pairs_and_another_one_others() -> None:
    first = choose_pairs(14, 60, 1)
    choose_pairs.cache_clear()
    assert torch.equal(first, choose_pairs(14, 60, 1))
    assert not torch.equal(first, choose_pairs(14, 60, 2))


def test_the_pairs_drawn_beside_those_chosen_treat_players_alike() -> None:
    present = torch.zeros(9)
    for seed in range(100):
        members = choose_pairs(9, 100, seed, most=20)[:80]
        present += torch.where(members.sum(1, keepdim=True) <= 4, members, ~members).sum(0)
    mean = present.mean()
    assert ((present - mean).abs() < 4.5 * mean.sqrt()).all()


def test_blocks_are_as_good_as_single_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    in_blocks = unknown(choose_pairs(13, 200, 5))
    choose_pairs.cache_clear()
    monkeypatch.setattr(designs, "BLOCK", 1)
    assert in_blocks < 1.03 * unknown(choose_pairs(13, 200, 5))
    choose_pairs.cache_clear()
