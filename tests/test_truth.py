"""True values of the experiments: enumeration against numbers by hand, sampling against enumeration, resumed to the bit."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dasp.errors import InputError
from dasp.experiments import truth
from dasp.experiments.dna import network
from dasp.experiments.files import fingerprint, weights_key
from dasp.experiments.truth import exact_truth, sampled_truth
from dasp.experiments.windows import Arrivals

COLUMNS = torch.arange(8).expand(3, 8)  # a player is a column of 3


class Products(nn.Module):
    """x0 x1 + 2 x2, and x0 x1 x2."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([x[:, 0] * x[:, 1] + 2 * x[:, 2], x[:, 0] * x[:, 1] * x[:, 2]], dim=1)


def conv(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv1d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2)
    ).eval()  # fmt: skip


def rows(count: int = 4) -> Tensor:
    return 2 * torch.randn(count, 3, 8, generator=torch.Generator().manual_seed(1))


def test_enumeration_gives_the_numbers_found_by_hand(tmp_path: Path) -> None:
    inputs = torch.tensor([[2.0, 3.0, 5.0], [2.0, 3.0, 5.0]])
    found = exact_truth(Products(), inputs, torch.tensor([0, 1]), cache=tmp_path, name="hand")
    # A product's contribution is shared equally by its factors.
    np.testing.assert_allclose(found.values, [[3, 3, 10], [10, 10, 10]], rtol=1e-12)
    assert found.error.tolist() == [0, 0]
    assert found.evaluations == 8
    together = torch.tensor([0, 0, 1])  # x0 and x1 come together, and share with x2 what needs all
    found = exact_truth(Products(), inputs, torch.tensor([0, 1]), cache=tmp_path, name="hand", players=together)
    np.testing.assert_allclose(found.values, [[6, 10], [15, 15]], rtol=1e-12)


def test_enumeration_is_the_mean_over_all_orders_of_arrival(tmp_path: Path) -> None:
    model, entry = conv().double(), rows(1)[0].double()
    players = torch.tensor([0, 0, 1, 2, 3, 3, 3, 1]).expand(3, 8)
    expected = np.zeros(4)
    for order in itertools.permutations(range(4)):
        mask = torch.zeros(3, 8, dtype=torch.float64)
        before = model((mask * entry)[None])[0, 1].item()
        for player in order:
            mask = mask + (players == player)
            after = model((mask * entry)[None])[0, 1].item()
            expected[player] += (after - before) / 24
            before = after
    found = exact_truth(conv(), rows(1), torch.tensor([1]), cache=tmp_path, name="orders", players=players)
    np.testing.assert_allclose(found.values[0], expected, rtol=1e-10)


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """Sampled and exact truth of 12 inputs, columns as players, one of them holding the baseline."""
    cache, inputs, targets = tmp_path_factory.mktemp("cache"), rows(12), torch.arange(12) % 2
    inputs[:, :, 2] = 0
    exact = exact_truth(conv(), inputs, targets, cache=cache, name="exact", players=COLUMNS)
    sampled = sampled_truth(
        conv(), inputs, targets, cache=cache, name="sampled", players=COLUMNS, tolerance=0.05, progress=False
    )
    return sampled, exact


def test_sampling_comes_as_near_as_it_says(compared: tuple[Any, Any]) -> None:
    sampled, exact = compared
    errors = np.linalg.norm(sampled.values - exact.values, axis=1) / np.linalg.norm(exact.values, axis=1)
    assert (sampled.error <= 0.05).all()
    assert (errors < 3 * sampled.error).all()
    # Squared errors average to what is measured: 12 inputs of 7 players give this ratio within a third.
    assert 0.6 < np.sqrt((errors**2).mean() / (sampled.error**2).mean()) < 1.4


def test_who_holds_the_baseline_gets_exactly_nothing(compared: tuple[Any, Any]) -> None:
    sampled, exact = compared
    assert (sampled.values[:, 2] == 0).all()
    assert abs(exact.values[:, 2]).max() < 1e-15
    assert (abs(sampled.values).sum(axis=0) > 0).sum() == 7


def test_a_sampled_row_adds_up(compared: tuple[Any, Any]) -> None:
    sampled, exact = compared
    np.testing.assert_allclose(sampled.values.sum(axis=1), exact.values.sum(axis=1), atol=1e-5)


def test_interrupted_sampling_goes_on_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, targets = rows(2), torch.tensor([0, 1])
    how: dict[str, Any] = {"name": "some", "players": COLUMNS, "tolerance": 0.02, "block": 8, "progress": False}
    whole = sampled_truth(conv(), inputs, targets, cache=tmp_path / "whole", **how)
    assert whole.evaluations > 40 * 18  # several blocks of eight pairs
    written, kept = 0, truth.write_arrays

    def interrupting(path: Path, arrays: Any) -> None:
        nonlocal written
        kept(path, arrays)
        written += 1
        if written in (2, 3, 9):
            raise KeyboardInterrupt

    monkeypatch.setattr(truth, "write_arrays", interrupting)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            sampled_truth(conv(), inputs, targets, cache=tmp_path / "parts", **how)
    resumed = sampled_truth(conv(), inputs, targets, cache=tmp_path / "parts", **how)
    assert (resumed.values == whole.values).all()
    assert (resumed.error == whole.error).all()
    assert resumed.evaluations == whole.evaluations
    monkeypatch.setattr(truth, "_pair", None)  # nothing is sampled when the truth is there
    again = sampled_truth(conv(), inputs, targets, cache=tmp_path / "parts", **how)
    assert (again.values == whole.values).all()


def test_interrupted_in_the_middle_of_a_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, targets = rows(1), torch.tensor([0])
    how: dict[str, Any] = {"name": "some", "players": COLUMNS, "tolerance": 0.05, "block": 16, "progress": False}
    whole = sampled_truth(conv(), inputs, targets, cache=tmp_path / "whole", **how)
    calls, pair = 0, truth._pair

    def interrupting(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 24:
            raise KeyboardInterrupt
        return pair(*arguments)

    monkeypatch.setattr(truth, "_pair", interrupting)
    with pytest.raises(KeyboardInterrupt):
        sampled_truth(conv(), inputs, targets, cache=tmp_path / "parts", **how)
    resumed = sampled_truth(conv(), inputs, targets, cache=tmp_path / "parts", **how)
    assert (resumed.values == whole.values).all()


def test_enumeration_goes_on_input_by_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, targets = rows(3), torch.zeros(3, dtype=torch.long)
    first = exact_truth(conv(), inputs[:2], targets[:2], cache=tmp_path, name="some", players=COLUMNS)
    kept: list[Path] = []
    monkeypatch.setattr(truth, "write_arrays", lambda path, arrays: kept.append(path) or np.savez(path, **arrays))
    more = exact_truth(conv(), inputs, targets, cache=tmp_path, name="some", players=COLUMNS)
    assert len(kept) == 1
    assert (more.values[:2] == first.values).all()


def test_files_are_named_by_all_that_the_truth_depends_on(tmp_path: Path) -> None:
    entry = rows(1)
    paths = {
        truth._path(tmp_path, "mnist", model, one, target, players)
        for model in (conv(0), conv(1))
        for one in (entry[0], entry[0] + 1)
        for target in (0, 1)
        for players in (None, COLUMNS, COLUMNS // 2)
    }
    assert len(paths) == 24
    expected = f"truth-mnist-{fingerprint(entry[0], torch.tensor(1))}-{weights_key(conv())}.npz"
    assert truth._path(tmp_path, "mnist", conv(), entry[0], 1, None).name == expected


def test_a_file_with_sums_in_two_halves_is_gone_on_from(tmp_path: Path) -> None:
    inputs, targets = rows(1), torch.tensor([0])
    how: dict[str, Any] = {"cache": tmp_path, "name": "some", "players": COLUMNS, "progress": False}
    whole = sampled_truth(conv(), inputs, targets, tolerance=0.05, **how)
    (path,) = tmp_path.iterdir()
    with np.load(path) as stored:
        arrays = dict(stored)
    arrays["halves"] = np.concatenate([0.25 * arrays["halves"], 0.75 * arrays["halves"]])
    np.savez(path, **arrays)
    again = sampled_truth(conv(), inputs, targets, tolerance=0.05, **how)
    np.testing.assert_allclose(again.values, whole.values, rtol=1e-12)


@pytest.mark.parametrize("absent", [False, True])
def test_arrivals_of_letters_give_what_the_network_gives(absent: bool) -> None:
    torch.manual_seed(2)
    model = network().eval()
    entry = torch.zeros(4, 60)
    entry[torch.randint(4, (60,)), torch.arange(60)] = 1
    rank = torch.randperm(60).expand(4, 60)
    if absent:  # a place without a letter takes no part
        entry[:, rank[0] >= 58] = 0
    with torch.inference_mode():
        expected = truth._Masked(model)(entry, rank)[: 59 if absent else 61]
        found = Arrivals(model)(entry, rank)
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=1e-5)
    assert (found[1:] - found[:-1]).abs().max() > 1e-4


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Conv1d(4, 2, 3), nn.Flatten()),
        nn.Sequential(nn.Conv1d(4, 2, 3, padding=1), nn.AdaptiveAvgPool1d(1), nn.Flatten()),
        nn.Sequential(nn.MaxPool1d(2), nn.AdaptiveAvgPool1d(1), nn.Flatten()),
        nn.Sequential(nn.Conv1d(4, 2, 3), nn.AdaptiveAvgPool1d(2), nn.Flatten()),
    ],
)
def test_arrivals_refuse_other_networks(model: nn.Sequential) -> None:
    with pytest.raises(InputError, match="arrivals need"):
        Arrivals(model)
