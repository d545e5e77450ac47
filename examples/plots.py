"""Every plot once, on networks that train in seconds: the pictures of docs/plots.md.

    python examples/plots.py [--out docs/plots] [--dark]
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from matplotlib import pyplot
from PIL import Image
from sklearn.datasets import load_breast_cancer
from torch import Tensor, nn

import dasp
from dasp import plots
from digits import digits, train

SENTENCE = "The cast is wonderful and the story moves along well but the ending is not good and far too long"
TEXT = SENTENCE.split()
WORDS = {"wonderful": 2.0, "well": 0.8, "good": 1.2, "long": -0.6, "not": -0.9, "too": -0.7}
MOTIF = "GATAAG"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--out", type=Path, default=Path("docs/plots"), help="folder of the pictures")
    arguments.add_argument("--dark", action="store_true", help="on a dark page")
    asked = arguments.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    asked.out.mkdir(parents=True, exist_ok=True)
    with pyplot.style.context("dark_background" if asked.dark else "default"):
        for draw in (table, pairs, images, dna, text, series, methods):
            for name, figure in draw().items():
                save(figure, asked.out / f"{name}.png")
                pyplot.close(figure)


def save(figure: pyplot.Figure, path: Path) -> None:
    """A picture of 160 colours, a third as large as one of all."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110)
    Image.open(buffer).convert("RGB").quantize(160, dither=Image.Dither.NONE).save(path, optimize=True)


def fitted(model: nn.Module, x: Tensor, y: Tensor, steps: int = 300) -> nn.Module:
    """`model`, trained on whole batches: classes by cross-entropy, numbers by least squares."""
    loss: Callable[[Tensor, Tensor], Tensor] = nn.functional.mse_loss if y.is_floating_point() else nn.functional.cross_entropy
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model(x), y).backward()
        optimizer.step()
    return model.eval().requires_grad_(False)


def tumours() -> tuple[nn.Module, Tensor, list[str]]:
    """A network that tells tumours apart by ten measures, the measures, standardized, and their names."""
    data = load_breast_cancer()
    x = torch.tensor(data.data[:, :10], dtype=torch.float32)
    x = (x - x.mean(0)) / x.std(0)
    y = 1 - torch.tensor(data.target)
    model = fitted(nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 2)), x, y)
    return model, x, [name.removeprefix("mean ") for name in data.feature_names[:10]]


def table() -> dict[str, pyplot.Figure]:
    model, x, names = tumours()
    result = dasp.Explainer(model, 0.0, method=dasp.Exact(), feature_names=names)(x[:120], 1)
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained")
    plots.waterfall(result, 0, ax=axes[0], max_display=8)
    plots.bar(result, ax=axes[1], max_display=8)
    swarm, axes = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained")
    plots.beeswarm(result, ax=axes[0], max_display=8)
    plots.heatmap(result, ax=axes[1], max_display=8)
    return {"waterfall_bar": figure, "beeswarm_heatmap": swarm}


def pairs() -> dict[str, pyplot.Figure]:
    model, x, names = tumours()
    found = dasp.Explainer(model, 0.0, method=dasp.Exact(), feature_names=names).interactions(x[:20], 1)
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    plots.interactions(found, 0, max_display=8, ax=axes[0])
    plots.interaction_network(found, 0, max_display=8, ax=axes[1])
    return {"interactions": figure}


def images() -> dict[str, pyplot.Figure]:
    train_x, train_y, test_x, _ = digits()
    model = train(train_x, train_y)
    classes = dasp.Explainer(model, 0.0)(test_x[3:4], list(range(10)))
    row, target = test_x[:20], model(test_x[:20]).argmax(1)
    results = {
        "propagation": dasp.Explainer(model, 0.0)(row, target),
        "one permutation": dasp.Explainer(model, 0.0, method=dasp.PermutationSampling(permutations=2))(row, target),
    }
    axes = plots.image_per_class(classes)
    single = plots.image(results["propagation"], 3)
    return {"image_per_class": axes[0].figure, "image": single.figure, "removal": plots.removal(results, model).figure}


def dna() -> dict[str, pyplot.Figure]:
    """A filter that looks for a motif, on a sequence that holds it once whole and once with a letter changed."""
    generator = np.random.default_rng(1)
    letters = list("".join(generator.choice(list("ACGT"), 60)))
    letters[12:18], letters[40:46] = MOTIF, "GATCAG"
    x = nn.functional.one_hot(torch.tensor(["ACGT".index(one) for one in letters]), 4).T.unsqueeze(0).float()
    search = nn.Conv1d(4, 1, len(MOTIF))
    weight = torch.full((1, 4, len(MOTIF)), -0.5)
    weight[0, ["ACGT".index(one) for one in MOTIF], range(len(MOTIF))] = 1.0
    search.weight.data, search.bias.data = weight, torch.tensor([-1.0])
    model = nn.Sequential(search, nn.ReLU(), nn.Flatten(), nn.Linear(55, 1, bias=False)).requires_grad_(False)
    model[3].weight.data.fill_(1.0)
    players = dasp.players.tokens(axis=1)
    method = dasp.PermutationSampling(permutations=200)
    result = dasp.Explainer(model, 0.0, players=players, method=method)(x)
    return {"sequence": plots.sequence(result).figure}


class Reader(nn.Module):
    """Adds up words; after "not" a word counts the other way round."""

    def forward(self, x: Tensor) -> Tensor:
        """Scores (rows,) of x (rows, words, 1), which is 1 where the word is there."""
        score = x[..., 0] * torch.tensor([WORDS.get(word, 0.0) for word in TEXT])
        negated = [i for i, word in enumerate(TEXT) if i and TEXT[i - 1] == "not"]
        turned = [2 * score[:, i] * x[:, i - 1, 0] for i in negated]
        return score.sum(1) - torch.stack(turned).sum(0)


def text() -> dict[str, pyplot.Figure]:
    method = dasp.PermutationSampling(permutations=200)
    result = dasp.Explainer(Reader(), 0.0, players=dasp.players.tokens(), method=method)(torch.ones(1, len(TEXT), 1))
    return {"tokens": plots.tokens(result, texts=TEXT, width=52).figure}


def series() -> dict[str, pyplot.Figure]:
    """A network that finds a bump in the first of three noisy channels, which the second one cancels."""
    time = torch.linspace(0, 1, 96)
    place = torch.rand(400, 1, generator=torch.Generator().manual_seed(0))
    bump = torch.exp(-(((time - 0.15 - 0.7 * place) / 0.04) ** 2))
    kind = torch.arange(400) % 4  # 0 nothing, 1 in the first, 2 in the second, 3 in both
    noise = 0.15 * torch.randn(400, 3, 96, generator=torch.Generator().manual_seed(1))
    x = noise + torch.stack([bump * (kind % 2)[:, None], bump * (kind // 2)[:, None], 0 * bump], 1)
    model = nn.Sequential(
        nn.Conv1d(3, 8, 9, padding=4), nn.ReLU(), nn.AvgPool1d(8), nn.Conv1d(8, 8, 3, padding=1), nn.ReLU(), nn.Flatten(),
        nn.Linear(96, 1), nn.Flatten(0),
    )  # fmt: skip
    fitted(model, x, (kind == 1).float() - (kind == 3).float(), 150)
    result = dasp.Explainer(model, 0.0)(x[4:8])
    figure, axes = pyplot.subplots(2, 1, figsize=(8, 4.6), layout="constrained", height_ratios=(2, 1))
    plots.time_series(result, 3, times=time, channels=["pulse", "canceller", "noise"], ax=axes[0])
    one = dasp.Explainer(nn.Sequential(nn.Unflatten(1, (1, 96)), Padded(model)), 0.0)(x[5:6, 0])
    plots.time_series(one, times=time, channels=["pulse alone"], ax=axes[1])
    return {"time_series": figure}


class Padded(nn.Module):
    """A network of three channels on the first alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """The network's output of x (rows, 1, points)."""
        return self.model(nn.functional.pad(x, (0, 0, 0, 2)))


def methods() -> dict[str, pyplot.Figure]:
    model, x, names = tumours()
    rows = x[:40]

    def explained(method: dasp.Estimator) -> dasp.Attribution:
        return dasp.Explainer(model, 0.0, method=method, feature_names=names)(rows, 1)

    truth = explained(dasp.Exact())
    results = {"exact": truth, "propagation": explained(dasp.Propagation()),
               "4 permutations": explained(dasp.PermutationSampling(permutations=4))}  # fmt: skip

    def point(method: dasp.Estimator) -> tuple[float, float]:
        found = explained(method)
        error = (found.per_player - truth.per_player).norm(dim=2) / truth.per_player.norm(dim=2)
        return found.evaluations + found.propagations, float(error.mean())

    costs = {
        "propagation": [point(dasp.Propagation(nodes=k, rule="legendre")) for k in (1, 2, 4)],
        "permutations": [point(dasp.PermutationSampling(permutations=k)) for k in (2, 4, 8, 16, 32, 64)],
        "regression": [point(dasp.Regression(budget=b)) for b in (24, 48, 96, 192, 384)],
    }
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained")
    plots.compare(results, 0, max_display=8, ax=axes[0])
    plots.frontier(costs, cost="evaluations and propagated passes an input", ax=axes[1])
    return {"compare_frontier": figure}


if __name__ == "__main__":
    main()
