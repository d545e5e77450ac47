"""Every estimator that is compared, at the budgets it is shown with.

`ours` holds those of this library, `reveal_cancel` the one that had to be written, the others those of captum, shap and shapiq.
All are deterministic, and leave random states and the problem's network as they were.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from ...errors import InputError
from ..problem import Method, Problem
from . import captum_methods, shap_methods, shapiq_methods
from .counted import Peer
from .ours import Ours, reveal_cancel
from .reveal_cancel import RESCALE, chain

_FULL = "full"
_ENUMERABLE = 18  # players up to which all coalitions are evaluated


@dataclass(frozen=True, kw_only=True)
class Budgets:
    """How much of everything; each entry is one row of the table."""

    steps: tuple[int, ...]  # IntegratedGradients
    gradients: tuple[int, ...]  # GradientShap
    orders: tuple[int, ...]  # permutations of ShapleyValueSampling
    captum_kernel: tuple[int, ...]  # evaluations
    rounds: tuple[int, ...]  # PermutationExplainer: permutations with their reverses
    shap_kernel: tuple[int, ...]  # evaluations
    shapiq_kernel: tuple[int, ...]  # evaluations
    shapiq_even: tuple[int, ...]  # evaluations; KernelSHAP with coalition sizes drawn evenly
    shapiq_permutation: tuple[int, ...]  # evaluations
    additive: tuple[tuple[int, int], ...]  # kADDSHAP: order and evaluations
    permutations: tuple[int, ...]  # PermutationSampling: reverses counted
    sizes: tuple[int, ...]  # DASP; 0 stands for every size
    factored: tuple[tuple[int, int | str], ...]  # DASP: sizes and rank


_PARKINSON = Budgets(
    steps=(4, 16, 64, 256),
    gradients=(4, 16, 64, 256),
    orders=(5, 25, 100, 400),
    captum_kernel=(100, 500, 2_000),
    rounds=(3, 10, 40, 160),
    shap_kernel=(72, 500, 2_000, 8_000),
    shapiq_kernel=(72, 288, 1_153, 4_609),
    shapiq_even=(),
    shapiq_permutation=(),
    additive=((2, 288), (2, 1_153), (2, 4_609), (3, 4_609), (3, 16_385)),
    permutations=(4, 16, 64, 128, 256, 1_024),
    sizes=(2, 4, 8, 0),
    factored=((2, _FULL), (4, _FULL), (8, _FULL), (0, _FULL)),
)
_PARKINSON_QUICK = Budgets(
    steps=(64,),
    gradients=(16,),
    orders=(5, 25),
    captum_kernel=(100,),
    rounds=(3,),
    shap_kernel=(72,),
    shapiq_kernel=(72, 288),
    shapiq_even=(),
    shapiq_permutation=(),
    additive=((2, 288),),
    permutations=(4, 16, 64),
    sizes=(4, 0),
    factored=((4, _FULL),),
)
_MNIST = Budgets(
    steps=(4, 16, 64, 256),
    gradients=(4, 16, 64, 256),
    orders=(1, 5, 25, 100),
    captum_kernel=(2_000, 8_000),
    rounds=(1, 4, 10, 40),
    shap_kernel=(2_000, 8_000),
    shapiq_kernel=(3_137, 6_273, 25_089),
    shapiq_even=(3_137, 6_273, 25_089),
    shapiq_permutation=(1_569, 6_273, 25_089),
    additive=(),
    permutations=(2, 8, 16, 32, 64, 128),
    sizes=(2, 4, 8),
    factored=(),
)
_MNIST_QUICK = Budgets(
    steps=(64,),
    gradients=(16,),
    orders=(1,),
    captum_kernel=(1_000,),
    rounds=(1,),
    shap_kernel=(2_000,),
    shapiq_kernel=(3_137,),
    shapiq_even=(3_137,),
    shapiq_permutation=(1_569,),
    additive=(),
    permutations=(2, 8),
    sizes=(2,),
    factored=(),
)
_DNA = Budgets(
    steps=(4, 16, 64, 256),
    gradients=(4, 16, 64, 256),
    orders=(1, 5, 25, 100),
    captum_kernel=(2_000, 8_000),
    rounds=(1, 4, 10, 40),
    shap_kernel=(2_000, 8_000),
    shapiq_kernel=(801, 3_201, 12_801),
    shapiq_even=(801, 3_201, 12_801),
    shapiq_permutation=(801, 3_201, 12_801),
    additive=(),
    permutations=(2, 8, 32, 64, 128),
    sizes=(2, 4, 8),
    factored=((2, 16), (4, 16), (8, 16)),
)
_DNA_QUICK = Budgets(
    steps=(64,),
    gradients=(16,),
    orders=(1,),
    captum_kernel=(500,),
    rounds=(1,),
    shap_kernel=(500,),
    shapiq_kernel=(801,),
    shapiq_even=(801,),
    shapiq_permutation=(801,),
    additive=(),
    permutations=(2, 8),
    sizes=(2,),
    factored=(),
)
_BUDGETS = {
    "parkinson": (_PARKINSON, _PARKINSON_QUICK),
    "mnist": (_MNIST, _MNIST_QUICK),
    "dna": (_DNA, _DNA_QUICK),
}


def chosen(problem: Problem, *, quick: bool) -> list[Method]:
    """The methods that `problem` is explained with, the library's own first; `quick` takes a few small budgets.

    A method that cannot treat the network is among them, and raises `Unsupported` when it runs.

    Raises:
        InputError: there are no budgets for a problem of this name.
    """
    if problem.name not in _BUDGETS:
        raise InputError(f"methods are chosen for the problems {', '.join(_BUDGETS)}, not for {problem.name!r}")
    budgets = _BUDGETS[problem.name][quick]
    propagations = {"parkinson": _parkinson, "mnist": _mnist, "dna": _dna}[problem.name]
    ours = Ours(problem)
    own = [ours.default(), *propagations(ours, quick), *_others(ours, budgets, quick)]
    return [*own, *(peer.on(problem) for peer in _peers(problem.count, budgets))]


def _parkinson(ours: Ours, quick: bool) -> list[Method]:
    """Full rank and exact ends are affordable."""
    legendre: dict[str, Any] = {"rule": "legendre"}
    ends: dict[str, Any] = {"rule": "lobatto", "rank": _FULL, "nodes": 5}
    methods = []
    for setting, options in (
        ("diagonal", {"rank": 0, "condition": False}),
        ("full rank", {"rank": _FULL, "condition": False}),
        ("full rank, conditioned", {"rank": _FULL, "condition": True}),
    ):
        methods += [ours.propagation(setting, f"{k} nodes", nodes=k, **legendre, **options) for k in (2, 4, 8)]
    methods.append(ours.propagation("full rank, exact ends", "5 nodes", condition=False, **ends))
    methods += [
        ours.propagation("full rank, conditioned, exact ends", f"5 nodes, mixture {h}", mixture=h, condition=True, **ends)
        for h in ((0, 2) if quick else (0, 1, 2, 4, 6))
        if h <= ours.problem.count
    ]
    return methods


def _mnist(ours: Ours, quick: bool) -> list[Method]:
    """A subspace of the covariance of 784 players."""
    plain: dict[str, Any] = {"rule": "legendre", "condition": False}
    methods = [ours.propagation("diagonal", f"{k} nodes", nodes=k, rank=0, **plain) for k in (1, 2, 4, 8)]
    methods += _ranked(ours, (16,) if quick else (16, 32, 64, 128), nodes=4)
    if not quick:
        methods.append(ours.propagation("full rank", "4 nodes", nodes=4, rank=_FULL, **plain))
    return methods


def _dna(ours: Ours, quick: bool) -> list[Method]:
    """The output changes most where few players are present, which asks for many nodes."""
    plain: dict[str, Any] = {"rule": "legendre", "condition": False}
    full: dict[str, Any] = {"rule": "legendre", "rank": _FULL}
    methods = [
        ours.propagation("diagonal", f"{k} nodes", nodes=k, rank=0, **plain) for k in ((4,) if quick else (2, 4, 8, 16, 32))
    ]
    methods += _ranked(ours, (16,) if quick else (16, 64, 128), nodes=4)
    if not quick:
        methods += _ranked(ours, (16, 64, 128), nodes=16)
    for setting, condition in (("full rank", False), ("full rank, conditioned", True)):
        for nodes in (4,) if quick else (4, 8, 16):
            detail = f"{nodes} nodes"
            methods.append(ours.propagation(setting, detail, nodes=nodes, condition=condition, **full))
    return methods


def _ranked(ours: Ours, ranks: tuple[int, ...], *, nodes: int) -> list[Method]:
    options: dict[str, Any] = {"nodes": nodes, "rule": "legendre", "condition": False}
    return [ours.propagation(f"rank ({nodes} nodes)", f"rank {rank}", rank=rank, **options) for rank in ranks]


def _others(ours: Ours, budgets: Budgets, quick: bool) -> list[Method]:
    """What else is written here: sampling, the published algorithm, DeepLIFT RevealCancel, exact values."""
    problem = ours.problem
    n = problem.count
    methods = [ours.permutations(count) for count in budgets.permutations]
    sizes = [size or n for size in budgets.sizes if size <= n]
    methods += [ours.published(size) for size in dict.fromkeys(sizes)]
    factored = [(size or n, rank) for size, rank in budgets.factored if size <= n]
    methods += [ours.with_factors(size, rank) for size, rank in dict.fromkeys(factored)]
    methods.append(reveal_cancel(problem))
    if any(isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d) for _, layer in chain(problem.model)):
        methods.append(reveal_cancel(problem, conv=RESCALE))
    if n <= _ENUMERABLE and not quick:
        methods.append(ours.exact())
    return methods


def _peers(n: int, budgets: Budgets) -> list[Peer]:
    """The methods of captum, shap and shapiq for n players."""

    def affordable(counts: tuple[int, ...]) -> list[int]:
        """No more evaluations than there are coalitions."""
        return list(dict.fromkeys(min(count, 2**n) for count in counts))

    additive = dict.fromkeys((min(order, n), min(count, 2**n)) for order, count in budgets.additive)
    return [
        captum_methods.input_x_gradient(),
        *(captum_methods.integrated_gradients(steps) for steps in budgets.steps),
        captum_methods.deep_lift(),
        captum_methods.occlusion(),
        *(captum_methods.gradient_shap(samples) for samples in budgets.gradients),
        *(captum_methods.sampling(samples) for samples in budgets.orders),
        *(captum_methods.kernel(samples) for samples in budgets.captum_kernel),
        shap_methods.deep(),
        *(shap_methods.permutation(rounds * (2 * n + 1)) for rounds in budgets.rounds),
        *(shap_methods.kernel(samples) for samples in budgets.shap_kernel),
        *(shapiq_methods.kernel(count) for count in affordable(budgets.shapiq_kernel)),
        *(shapiq_methods.kernel(count, evenly=True) for count in affordable(budgets.shapiq_even)),
        *(shapiq_methods.permutation(count) for count in affordable(budgets.shapiq_permutation)),
        *(shapiq_methods.additive(order, count) for order, count in additive),
    ]
