"""Estimators of this library, and those that had to be written for the comparison."""

from __future__ import annotations

import copy
from typing import Any

from ...errors import CaptureError, MissingRuleError
from ...estimators import DASP, Estimator, Exact, PermutationSampling, Propagation, VertexGradients
from ...estimators.directions import SAMPLES_PER_DIRECTION
from ...explainer import Explainer
from ...model import Model
from ..problem import Method, Outcome, Problem, Unsupported
from ..speed import DEFAULT, SAMPLING
from .reveal_cancel import RESCALE, REVEAL_CANCEL, deep_lift

PUBLISHED = "DASP 2019"
_REVEALED = 5.0  # rows: forward at the input and the baseline and with |W|, back with W and with |W|


class Ours:
    """Makes methods of this library's estimators; they share one capture of the problem's network."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self._model = Model(problem.model)

    def method(self, family: str, label: str, estimator: Estimator) -> Method:
        """One estimator.

        A gradient counts as two evaluations, as everywhere in the comparison: those of vertex gradients, and those in which a
        rank's directions are found.
        """
        problem = self.problem
        explainer = Explainer(self._model, 0.0, method=estimator, players=problem.players)

        def run() -> Outcome:
            try:
                result = explainer(problem.inputs, problem.targets)
            except (CaptureError, MissingRuleError) as error:
                raise Unsupported(" ".join(str(error).split())) from error
            values = result.per_player[:, 0].double().numpy()
            ranks = [some.get("rank", 0) for some in (result.settings, result.settings.get("prior") or {})]
            gradients: float = sum(SAMPLES_PER_DIRECTION * rank for rank in ranks if isinstance(rank, int))  # counted once
            if isinstance(estimator, VertexGradients) and not result.settings["exact"]:
                gradients = result.evaluations
            evaluations = result.evaluations + gradients
            return Outcome(values, evaluations, result.propagations, float(result.gap.abs().median()))

        return Method(family, label, run)

    def default(self) -> Method:
        """Propagation as it comes."""
        return self.method(DEFAULT, "default", Propagation())

    def propagation(self, setting: str, detail: str, **options: Any) -> Method:
        """Propagation at chosen settings; `setting` names a line of a figure, `detail` a point on it."""
        return self.method(f"dasp.Propagation, {setting}", f"{setting}, {detail}", Propagation(**options))

    def permutations(self, count: int) -> Method:
        """Antithetic permutation sampling."""
        return self.method(SAMPLING, f"permutations={count}", PermutationSampling(permutations=count))

    def exact(self) -> Method:
        """All coalitions."""
        return self.method("dasp.Exact", "exact", Exact())

    def published(self, sizes: int) -> Method:
        """DASP as it was published, at some coalition sizes."""
        return self.method(PUBLISHED, f"{PUBLISHED}, {sizes} sizes", DASP(sizes=sizes))

    def with_factors(self, sizes: int, rank: int | str) -> Method:
        """The published algorithm, with covariance carried by factors."""
        family = "dasp.DASP, " + ("full rank" if rank == "full" else f"rank {rank}")
        return self.method(family, f"{family}, {sizes} sizes", DASP(sizes=sizes, rank=rank))


def reveal_cancel(problem: Problem, *, conv: str = REVEAL_CANCEL) -> Method:
    """DeepLIFT with RevealCancel, everywhere or with Rescale on what follows convolutions."""
    name = "DeepLIFT RevealCancel" + (", Rescale on convolutions" if conv == RESCALE else "")
    model = copy.deepcopy(problem.model).eval()

    def run() -> Outcome:
        found = deep_lift(model, problem.inputs, problem.targets, conv=conv)
        return Outcome(problem.per_player(found), _REVEALED)

    return Method(name, name, run)
