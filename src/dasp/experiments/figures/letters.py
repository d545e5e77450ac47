"""A DNA sequence whose letters are as tall as their attributions."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import DataFileError, InputError
from ...plots._letters import unit_outline
from ..dna import ALPHABET, Sequences
from ..files import write_text
from ..problem import Array, Problem
from .found import Found
from .style import BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILION, named_with_cost, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SITES = "sites.json"
_COLOURS = {"A": GREEN, "C": BLUE, "G": ORANGE, "T": VERMILION}
_MOTIF_COLOURS = (SKY, PURPLE)
_WINDOW = 60  # letters that are shown large
_EDGE = 12  # letters at either end of them that count less
_WIDTH = 0.92  # of a letter; the distance of two positions is 1
_ROOM = 1.3  # height of the frame, in largest true values above and below 0


def figure(found: Found) -> Figure | None:
    """True values of one sequence as letters, whole; then the stretch of 60 letters where most of them lies, for the truth and
    one budget of each family, the best first. None where inputs are no DNA.

    Positive letters stand up, negative ones hang upside down. All rows of the stretch have one scale, set by the truth: what is
    taller is cut off at the frame. Places where motifs were embedded are shaded where sites.json in the folder tells them: for
    each input a list of {"motif": name, "start": first letter, "stop": one after the last}, counted from 0.
    """
    if found.inputs.ndim != 3 or found.inputs.shape[1] != len(ALPHABET):
        return None
    index = int(np.argmin(found.targets))  # the first task needs both motifs
    letters = "".join(ALPHABET[channel] for channel in found.inputs[index].argmax(axis=0))
    truth = on_letters(found, found.truth[index])
    start = busiest(truth, _WINDOW)
    stop = min(start + _WINDOW, len(letters))
    sites = _sites(found)[index]
    rows = found.representatives
    tracks = [("true values", truth)]
    tracks += [
        (f"{named_with_cost(row)}: relative error {row['errors'][index]:.2f}", values)
        for row, values in ((row, on_letters(found, found.values(row)[index])) for row in rows)
    ]
    drawn = new_figure(8.5, 1.9 + 0.62 * len(tracks))
    axes = drawn.subplots(1 + len(tracks), 1, height_ratios=[1.6] + [1.0] * len(tracks))
    low, high = limits(truth)
    whole, *zoomed = axes
    draw_letters(whole, letters, truth, 0)
    whole.set(xlim=(0.5, len(letters) + 0.5), ylim=(low, high))
    whole.axvspan(start + 0.5, stop + 0.5, fill=False, edgecolor="0.4", linewidth=0.8, linestyle=":")
    whole.set_title("true values, whole sequence; the dotted stretch is shown below", loc="left", fontsize=8)
    for ax, (name, values) in zip(zoomed, tracks, strict=True):
        draw_letters(ax, letters[start:stop], values[start:stop], start)
        ax.set(xlim=(start + 0.5, stop + 0.5), ylim=(low, high))
        ax.set_title(name, loc="left", fontsize=7.5, pad=2)
        ax.tick_params(labelbottom=ax is zoomed[-1], bottom=ax is zoomed[-1])
    for ax in axes:
        _shade(ax, sites, named=ax is whole)
        ax.axhline(0, color="black", linewidth=0.5)
        ax.tick_params(axis="y", labelsize=6)
    zoomed[-1].set_xlabel("position in the sequence")
    drawn.supylabel(f"contribution to output {found.targets[index]} (logit)", fontsize=9)
    return drawn


def keep_sites(problem: Problem, sequences: Sequences, folder: Path) -> Path:
    """Write sites.json in `folder`: where motifs were embedded in the inputs of `problem`, which are among `sequences`.

    Raises:
        InputError: an input is none of the sequences.
        OutputFileError: the file cannot be written.
    """
    sites = dict(zip(sequences.letters, sequences.sites, strict=True))
    found = []
    for index, channels in enumerate(problem.inputs.argmax(dim=1).tolist()):
        letters = "".join(ALPHABET[channel] for channel in channels)
        if letters not in sites:
            raise InputError(f"input {index} is none of the {len(sites)} sequences; give those it was chosen from.")
        found.append([asdict(site) for site in sites[letters]])
    path = folder / SITES
    write_text(path, json.dumps(found) + "\n")
    return path


def on_letters(found: Found, values: Array) -> Array:
    """Values of the players (n,) summed at each position of the sequence, (length,).

    A position that is one player carries its value; where each channel is a player, the channels are summed.
    """
    length = found.inputs.shape[2]
    if found.players is None:
        summed: Array = values.reshape(-1, length).sum(axis=0)
        return summed
    owned: Array = values[found.players[0]]
    return owned


def busiest(values: Array, width: int) -> int:
    """Where the stretch of `width` positions begins that holds the largest sum of magnitudes; those near its ends count less,
    so that it does not end in the midst of a motif.
    """
    place = np.arange(min(width, len(values)))
    weight = np.minimum(np.minimum(place + 1, place[::-1] + 1) / _EDGE, 1)
    sums = np.convolve(np.abs(values), weight, mode="valid")
    return int(sums.argmax())


def limits(truth: Array) -> tuple[float, float]:
    """Ends of the vertical axis: some room beyond the true values, and at least a third of it on either side."""
    low, high = float(min(truth.min(), 0.0)), float(max(truth.max(), 0.0))
    span = max(high, -low) or 1.0
    return _ROOM * min(low, -span / 3), _ROOM * max(high, span / 3)


def draw_letters(ax: Axes, letters: str, values: Array, start: int) -> None:
    """Letter i centred on position `start` + i + 1, as tall as its value: one patch for each of A, C, G and T."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Outline

    for letter in ALPHABET:
        places = [place for place, one in enumerate(letters) if one == letter and values[place]]
        if not places:
            continue
        outline = unit_outline(letter)
        parts = [
            Outline(
                np.asarray(outline.vertices) * (_WIDTH, values[place]) + (start + place + 1 - _WIDTH / 2, 0.0), outline.codes
            )
            for place in places
        ]
        patch = PathPatch(Outline.make_compound_path(*parts), facecolor=_COLOURS[letter], linewidth=0, label=letter)
        ax.add_patch(patch)


def _sites(found: Found) -> list[list[dict[str, Any]]]:
    """Embedded motifs of every input; empty lists where nothing is known."""
    path = found.folder / SITES
    if not path.is_file():
        return [[] for _ in found.inputs]
    try:
        known: list[list[dict[str, Any]]] = json.loads(path.read_text())
        if [len(one) for one in known] and len(known) == len(found.inputs):
            return known
    except (OSError, ValueError, TypeError) as error:
        raise DataFileError(f"{path}: cannot be read ({error}). Run the experiment again to make it anew.") from error
    raise DataFileError(f"{path}: holds sites of {len(known)} inputs, expected {len(found.inputs)}. Run the experiment again.")


def _shade(ax: Axes, sites: list[dict[str, Any]], *, named: bool) -> None:
    motifs = sorted({site["motif"] for site in sites})
    for site in sites:
        colour = _MOTIF_COLOURS[motifs.index(site["motif"]) % len(_MOTIF_COLOURS)]
        ax.axvspan(site["start"] + 0.5, site["stop"] + 0.5, color=colour, alpha=0.25, linewidth=0, zorder=0)
        if named:
            middle = (site["start"] + site["stop"] + 1) / 2
            ax.text(middle, 0.98, site["motif"], transform=ax.get_xaxis_transform(), ha="center", va="top", fontsize=7)
