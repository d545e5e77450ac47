"""Handwritten digits, end to end: train a CNN, export it, explain 100 images on the command line, measure the errors.

Everything is written to `out/`: the exported network, the rows, the attributions (per pixel) and a figure. The two
tables that are printed compare moment propagation with permutation sampling that was given the time the propagation
took, and with Integrated Gradients in their own time, which is shorter. All are measured in this run: against exact
enumeration of the 2^16 coalitions of 16 patches, and per pixel (64 players), where enumeration
is out of reach, against independent samples.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from captum.attr import IntegratedGradients
from sklearn.datasets import load_digits
from torch import Tensor, nn

import dasp

OUT = Path("out")
IMAGES = 100
AUDIT = 4034  # evaluations an image: 32 antithetic pairs of permutations of 64 pixels


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--picture", type=Path, help="only draw the picture, into this file")
    picture = arguments.parse_args().picture
    OUT.mkdir(exist_ok=True)
    # A network this small gains nothing from a second thread, and times are steadier without.
    torch.set_num_threads(1)
    train_x, train_y, test_x, test_y = digits()
    model = train(train_x, train_y)
    if picture is not None:
        draw(model, test_x, test_y, picture)
        return
    right = (model(test_x).argmax(1) == test_y).float().mean()
    print(f"a CNN of {sum(p.numel() for p in model.parameters()):,} weights reads {right:.1%} of {len(test_x)} "
          "held-out digits")

    program = torch.export.export(model, (test_x[:2],), dynamic_shapes=({0: torch.export.Dim.AUTO},))
    torch.export.save(program, OUT / "digits.pt2")
    rows = test_x[:IMAGES]
    np.save(OUT / "rows.npy", rows.numpy())
    command_line()
    draw(model, test_x, test_y, OUT / "digits.png")
    print(f"figure: {OUT / 'digits.png'}\n")

    target = model(rows).argmax(1)
    against_enumeration(model, rows, target)
    audited(model, rows, target)


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training and held-out images (rows, 1, 8, 8) from 0 to 1, and their labels."""
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(data.target)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    held_out, rest = order[:300], order[300:]
    return images[rest], labels[rest], images[held_out], labels[held_out]


def train(images: Tensor, labels: Tensor) -> nn.Module:
    """A small CNN, the same on every run."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10),
    )  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(40):
        for batch in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
    return model.eval().requires_grad_(False)


def command_line() -> None:
    """Explain the rows with the installed command, as a user would."""
    command = [
        "dasp", "explain", str(OUT / "digits.pt2"), str(OUT / "rows.npy"), "--baseline", "zeros", "--target", "argmax",
        "--out", str(OUT / "attributions.parquet"),
    ]  # fmt: skip
    print("$", " ".join(command), flush=True)
    subprocess.run([Path(sys.executable).with_name("dasp"), *command[1:]], check=True)


def draw(model: nn.Module, images: Tensor, labels: Tensor, path: Path) -> None:
    """One well-read digit of each of six kinds, with what speaks for (red) and against (blue) the class chosen."""
    from matplotlib import pyplot

    read = model(images).argmax(1)
    chosen = torch.stack([((labels == digit) & (read == digit)).nonzero()[0, 0] for digit in (0, 2, 3, 5, 7, 8)])
    target = read[chosen]
    result = dasp.Explainer(model, 0.0)(images[chosen], target)
    limit = float(result.per_player.abs().quantile(0.99))
    figure, axes = pyplot.subplots(1, len(chosen), figsize=(10, 2.3), layout="constrained")
    for index, ax in enumerate(axes):
        title = f"“{target[index]}”: {result.base_value[index]:.1f} → {result.output[index]:.1f}"
        dasp.plots.image(result, index, limit=limit, colorbar=index == len(axes) - 1, title=title, ax=ax)
    figure.axes[-1].set_ylabel("contribution")
    figure.savefig(path, dpi=160)
    pyplot.close(figure)


@dataclass(frozen=True)
class Line:
    """One row of a table."""

    method: str
    error: str
    seconds: float


def against_enumeration(model: nn.Module, rows: Tensor, target: Tensor) -> None:
    """Relative errors of 16 patches against exact values."""
    players = dasp.players.grid(2, 2)
    exact = dasp.Explainer(model, 0.0, players=players, method=dasp.Exact())
    truth, seconds = timed(lambda: exact(rows, target, progress=True).values, repeats=1)
    lines = []
    for method, values, spent in rivals(model, rows, target, players):
        error = (values - truth).norm(dim=1) / truth.norm(dim=1)
        lines.append(Line(method, f"{error.mean():.1%}", spent))
    lines.append(Line("exact enumeration, 65,536 evaluations", "0", seconds))
    show(f"16 patches of 2x2 pixels, {len(rows)} images, against exact enumeration", lines, len(rows))


def audited(model: nn.Module, rows: Tensor, target: Tensor) -> None:
    """Relative errors of 64 pixels, measured with independent samples."""
    result = dasp.Explainer(model, 0.0)(rows, target)
    lines = []
    for method, values, spent in rivals(model, rows, target, None):
        audit = replace(result, values=values.reshape(rows.shape)).audit(AUDIT)
        low, high = audit.low.mean(), audit.high.mean()
        lines.append(Line(method, f"{audit.relative_error.mean():.1%} ({low:.1%} to {high:.1%})", spent))
    show(f"64 pixels, {len(rows)} images, audited with {AUDIT:,} evaluations an image", lines, len(rows))
    print("  in brackets the ends of the images' 95 % intervals, averaged")
    print("\npermutation sampling was given about the time of the propagation, Integrated Gradients the time of 64 steps")


def rivals(
    model: nn.Module, rows: Tensor, target: Tensor, players: dasp.players.Layout | None
) -> list[tuple[str, Tensor, float]]:
    """Name, values (rows, players) and seconds of propagation, permutation sampling and Integrated Gradients."""
    propagation = dasp.Explainer(model, 0.0, players=players)
    values, budget = timed(lambda: propagation(rows, target).per_player[:, 0])
    found = [("dasp.Propagation, defaults", values, budget)]

    def sampled(permutations: int) -> Tensor:
        method = dasp.PermutationSampling(permutations=permutations)
        return dasp.Explainer(model, 0.0, players=players, method=method)(rows, target).per_player[:, 0]

    permutations = nearer = 16
    for _ in range(8):
        permutations = nearer
        values, seconds = timed(lambda count=permutations: sampled(count))
        nearer = max(2, 2 * round(permutations * budget / seconds / 2))
        if nearer == permutations or abs(seconds / budget - 1) < 0.1:
            break
    found.append((f"permutation sampling, {permutations} permutations", values, seconds))

    def integrated() -> Tensor:
        return IntegratedGradients(model).attribute(rows, target=target, n_steps=64).detach()

    per_pixel, seconds = timed(integrated)
    owner = propagation(rows[:1], target[:1]).players.labels[0].flatten()
    grouped = torch.zeros(len(rows), int(owner.max()) + 1).index_add(1, owner, per_pixel.flatten(1).float())
    found.append(("Integrated Gradients (captum), 64 steps", grouped, seconds))
    return found


def timed(work: Callable[[], Tensor], repeats: int = 5) -> tuple[Tensor, float]:
    """What `work` gives and the seconds of its fastest run; with several repeats the first warms up."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - start)
    return result, min(seconds)


def show(title: str, lines: list[Line], images: int) -> None:
    print(f"\n{title}, one thread\n  {'method':<42}{'relative error':<26}ms an image")
    for line in lines:
        print(f"  {line.method:<42}{line.error:<26}{1000 * line.seconds / images:.2f}")


if __name__ == "__main__":
    main()
