"""Every estimator of the comparison, at the budgets it is shown with, behind one call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

import dasp
import peers
import published
from problems import Problem

PUBLISHED = "DASP 2019"
SAMPLING = "dasp.PermutationSampling"
ENDS = "full rank, conditioned, exact ends"
GRADIENTS = "captum IntegratedGradients"


@dataclass(frozen=True)
class Outcome:
    """Attributions (B, n), and what they cost: plain evaluations and propagated passes, both per input."""

    values: np.ndarray
    evaluations: float
    propagations: float = 0.0
    gap: float | None = None


@dataclass(frozen=True)
class Method:
    """One estimator at one budget. `family` is one line of the figure, `label` one row of the table."""

    family: str
    label: str
    run: Callable[[], Outcome]


def ours(problem: Problem, family: str, label: str, estimator: dasp.Estimator) -> Method:
    """An estimator of this library; the network is captured at the first call and kept."""
    explainer = dasp.Explainer(problem.model, 0.0, method=estimator)

    def run() -> Outcome:
        result = explainer(problem.inputs, problem.targets if problem.name == "mnist" else None)
        values = result.per_player[:, 0].double().numpy()
        return Outcome(values, result.evaluations, result.propagations, float(result.gap.abs().median()))

    return Method(family, label, run)


def peer(problem: Problem, family: str, label: str, estimate: peers.Estimate) -> Method:
    """An estimator of another library, with its evaluations counted."""

    def run() -> Outcome:
        counted = peers.Counted(problem.model)
        values = estimate(counted, problem.inputs, problem.targets)
        return Outcome(values.flatten(1).double().numpy(), counted.rows / len(problem.inputs))

    return Method(family, label, run)


def reference(problem: Problem, sizes: int) -> Method:
    """DASP as published, at some coalition sizes: two propagated passes per player and size."""

    def run() -> Outcome:
        values = published.dasp(problem.model, problem.inputs, problem.targets, sizes=sizes)
        return Outcome(values.double().numpy(), 0.0, 2.0 * problem.players * sizes)

    return Method(PUBLISHED, f"DASP 2019, {sizes} sizes", run)


def _propagation(problem: Problem, family: str, label: str, **options: object) -> Method:
    return ours(problem, f"dasp.Propagation, {family}", f"{family}, {label}", dasp.Propagation(**options))


def _permutations(problem: Problem, counts: tuple[int, ...]) -> list[Method]:
    return [ours(problem, SAMPLING, f"permutations={c}", dasp.PermutationSampling(permutations=c)) for c in counts]


def parkinson(problem: Problem, *, quick: bool) -> list[Method]:
    """18 players: full rank and exact ends are affordable."""
    conditioned: dict[str, object] = {"nodes": 5, "rule": "lobatto", "rank": "full", "condition": True}
    diagonal: dict[str, object] = {"rule": "legendre", "rank": 0, "condition": False}
    full: dict[str, object] = {"rule": "legendre", "rank": "full"}
    methods = [
        ours(problem, "dasp.Propagation, default", "default", dasp.Propagation()),
        *(_propagation(problem, "diagonal", f"{k} nodes", nodes=k, **diagonal) for k in (2, 4, 8)),
        *(_propagation(problem, "full rank", f"{k} nodes", nodes=k, condition=False, **full) for k in (2, 4, 8)),
        *(
            _propagation(problem, "full rank, conditioned", f"{k} nodes", nodes=k, condition=True, **full)
            for k in (2, 4, 8)
        ),
        _propagation(problem, "full rank, exact ends", "5 nodes", **{**conditioned, "condition": False}),
        *(
            _propagation(problem, ENDS, f"5 nodes, mixture {h}", mixture=h, **conditioned)
            for h in ((0, 2) if quick else (0, 1, 2, 4, 6))
        ),
        *_permutations(problem, (4, 16, 64) if quick else (4, 16, 64, 128, 256, 1024)),
        *(reference(problem, sizes) for sizes in ((4, 18) if quick else (2, 4, 8, 18))),
        peer(problem, GRADIENTS, f"{GRADIENTS}, 64 steps", peers.integrated_gradients(64)),
        peer(problem, "captum DeepLift", "captum DeepLift", peers.deep_lift()),
    ]
    for samples in (5, 25) if quick else (5, 25, 100, 400):
        label = f"captum ShapleyValueSampling, {samples} samples"
        methods.append(peer(problem, "captum ShapleyValueSampling", label, peers.sampling(samples)))
    for samples in (100,) if quick else (100, 500, 2000):
        label = f"captum KernelShap, {samples} samples"
        methods.append(peer(problem, "captum KernelShap", label, peers.kernel(samples)))
    for budget in (111,) if quick else (111, 370, 1480, 5920):
        label = f"shap PermutationExplainer, {budget:,} evaluations"
        methods.append(peer(problem, "shap PermutationExplainer", label, peers.permutation(budget)))
    if not quick:
        methods.append(ours(problem, "dasp.Exact", "exact", dasp.Exact()))
    return methods


def mnist(problem: Problem, *, quick: bool) -> list[Method]:
    """784 players: a subspace of their covariance."""
    diagonal: dict[str, object] = {"rule": "legendre", "rank": 0, "condition": False}
    ranked: dict[str, object] = {"rule": "legendre", "nodes": 4, "condition": False}
    methods = [
        ours(problem, "dasp.Propagation, default", "default", dasp.Propagation()),
        *(_propagation(problem, "diagonal", f"{k} nodes", nodes=k, **diagonal) for k in (1, 2, 4, 8)),
        *(
            _propagation(problem, "rank (4 nodes)", f"rank {rank}", rank=rank, **ranked)
            for rank in ((16,) if quick else (16, 32, 64, 128))
        ),
    ]
    if not quick:
        methods.append(_propagation(problem, "full rank", "4 nodes", rank="full", **ranked))
    methods += [
        *_permutations(problem, (2, 8) if quick else (2, 8, 16, 32, 64, 128)),
        *(reference(problem, sizes) for sizes in ((2,) if quick else (2, 4, 8))),
        peer(problem, GRADIENTS, f"{GRADIENTS}, 64 steps", peers.integrated_gradients(64)),
        peer(problem, "captum DeepLift", "captum DeepLift", peers.deep_lift()),
    ]
    for samples in (1,) if quick else (1, 5, 25, 100):
        label = f"captum ShapleyValueSampling, {samples} samples"
        methods.append(peer(problem, "captum ShapleyValueSampling", label, peers.sampling(samples)))
    for samples in () if quick else (2000, 8000):
        label = f"captum KernelShap, {samples:,} samples"
        methods.append(peer(problem, "captum KernelShap", label, peers.kernel(samples)))
    for budget in (1569,) if quick else (1569, 6276, 15690, 62760):
        label = f"shap PermutationExplainer, {budget:,} evaluations"
        methods.append(peer(problem, "shap PermutationExplainer", label, peers.permutation(budget)))
    return methods


CHOSEN = {"parkinson": parkinson, "mnist": mnist}


def settle() -> None:
    """Make runs repeatable: one seed for whatever draws from the global generators."""
    torch.manual_seed(0)
    np.random.seed(0)
