"""Small experiments, run as `dasp reproduce` runs them, for the tests of the figures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import dasp
from dasp.experiments import figures, report, run
from dasp.experiments.dna import one_hot
from dasp.experiments.figures.found import Found
from dasp.experiments.problem import Method, Outcome, Problem, Unsupported
from dasp.experiments.speed import DEFAULT

FAMILIES = 6  # of `methods` that find something
OCCLUSION = "captum Occlusion"
FEATURES = ("age", "sex", "jitter", "shimmer", "pitch", "noise")
TEXT = ("ACGTTGATAAGCATGCCAGATGGTACCTGATTACAGGTTT", "TTTGGACATTAGACCAGATGTTGCACGATAAGGTCCAACA")


def problem(name: str, model: nn.Sequential, inputs: torch.Tensor, players: torch.Tensor | None, **options: Any) -> Problem:
    """A problem with true values from 64 permutations."""
    targets = torch.arange(len(inputs)) % model(inputs).shape[1]
    explainer = dasp.Explainer(model, 0.0, method=dasp.PermutationSampling(permutations=64), players=players)
    truth = explainer(inputs, targets).per_player[:, 0].double().numpy()
    given = {"title": name.upper(), "score": "fine", "truth_error": np.full(len(inputs), 0.02), **options}
    return Problem(name=name, model=model.eval(), inputs=inputs, targets=targets, players=players, truth=truth, **given)


def methods(one: Problem) -> list[Method]:
    """Propagation as it is by default, values that are off by a known share at several budgets, and two that give none."""
    explainer = dasp.Explainer(one.model, 0.0, method=dasp.Propagation(), players=one.players)

    def ours() -> Outcome:
        result = explainer(one.inputs, one.targets)
        return Outcome(result.per_player[:, 0].double().numpy(), result.evaluations, result.propagations)

    def off(share: float, evaluations: float) -> Callable[[], Outcome]:
        noise = np.random.default_rng(int(evaluations)).normal(size=one.truth.shape) * np.abs(one.truth).max(
            axis=1, keepdims=True
        )
        return lambda: Outcome(one.truth + share * noise, evaluations)

    def cannot() -> Outcome:
        raise Unsupported("no rule for this network")

    def breaks() -> Outcome:
        raise ValueError("broken")

    n = one.count
    return [
        Method(DEFAULT, "default", ours),
        Method("dasp.PermutationSampling", "sampling, many", off(0.02, 64.0 * n)),
        Method("dasp.PermutationSampling", "sampling, few", off(0.2, 4.0 * n)),
        Method("dasp.PermutationSampling", "sampling, some", off(0.08, 20.0 * n)),
        Method("shap PermutationExplainer", "shap PermutationExplainer, 8", off(0.1, 8.0 * n)),
        Method("shap PermutationExplainer", "shap PermutationExplainer, 90", off(0.05, 90.0 * n)),
        Method(OCCLUSION, OCCLUSION, off(0.5, n)),
        Method("captum DeepLift", "captum DeepLift", off(0.4, 2.0)),
        Method("captum IntegratedGradients", "captum IntegratedGradients", off(0.3, 64.0)),
        Method("captum KernelShap", "captum KernelShap", cannot),
        Method("captum Broken", "captum Broken", breaks),
    ]


def measured(one: Problem, folder: Path) -> Found:
    """The problem run as `dasp reproduce` runs it, and read as `draw` reads it."""
    run.keep_problem(one, folder)
    rows = run.measure_all(one, methods(one), folder, run.Log(folder / "run.log"), quick=True, progress=False).rows
    result = report.result(one, rows, {})
    report.write(result, folder)
    figures.keep(one, rows, folder)
    return Found.read(folder, json.loads((folder / "result.json").read_text()))


def table_run(folder: Path) -> Found:
    """5 rows of 6 features."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 1))
        inputs = torch.randn(5, 6)
    one = problem("parkinson", model, inputs, None, names=FEATURES)
    return measured(one, folder)


def image_run(folder: Path) -> Found:
    """3 images of 6 x 6."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
        inputs = torch.rand(3, 1, 6, 6) * 2 - 1
    return measured(problem("mnist", model, inputs, None), folder)


def dna_problem() -> Problem:
    """2 sequences of 40 letters; a player is a position."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv1d(4, 8, 5), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 3))
    return problem("dna", model, one_hot(TEXT), torch.arange(40).expand(4, 40).contiguous())
