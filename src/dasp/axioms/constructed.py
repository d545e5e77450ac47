"""The axioms measured on constructed networks: a table of methods by axioms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..errors import DaspError, InputError, InputTypeError
from ..estimators import Estimator
from ..explainer import Explainer
from ..model import Model
from .cases import BY_AXIOM, Case, Library
from .external import Attribute, as_estimator
from .measurement import Measurement, Table, asked_axioms


def table(
    methods: Mapping[str, Estimator | Attribute], *, axioms: Iterable[str] | None = None, progress: bool = False
) -> Table:
    """Measure the violation of every axiom by every method, on networks constructed for it.

    The violations are defined in `dasp.axioms`. The networks have 1 to 12 players, so that `dasp.Exact()` treats all of
    them; its violations are rounding. A method that cannot treat a network has its reason in the table.

    Args:
        methods: by name, estimators of this library, or functions (model, inputs, baseline, target) -> attributions with
            tensors (1, *shape) in and out; see `dasp.axioms.External`.
        axioms: those of `dasp.axioms.AXIOMS` to measure; all by default.
        progress: show a progress bar.

    Raises:
        InputTypeError, InputError: methods is no mapping or empty, a method is neither, or an axiom is unknown.

    >>> import dasp
    >>> def gradient_times_input(model, inputs, baseline, target):
    ...     x = inputs.clone().requires_grad_()
    ...     model(x)[:, target].sum().backward()
    ...     return x.grad * (inputs - baseline)
    >>> methods = {"exact": dasp.Exact(), "gradient x input": gradient_times_input}
    >>> print(dasp.axioms.table(methods, axioms=["continuity"]))
    | method | continuity |
    | --- | ---: |
    | exact | 0 |
    | gradient x input | 1 |
    """
    asked, estimators = asked_axioms(axioms), _estimators(methods)
    with torch.inference_mode(False):
        library = Library()
        cases = [case for axiom in asked for case in BY_AXIOM[axiom](library)]
        rows = []
        with tqdm(total=len(cases) * len(estimators), unit="network", disable=not progress) as bar:
            for name, estimator in estimators.items():
                for case in cases:
                    rows.append(_measured(name, estimator, case))
                    bar.update()
    return Table(tuple(rows))


def _estimators(methods: Mapping[str, Estimator | Attribute]) -> dict[str, Estimator]:
    if not isinstance(methods, Mapping):
        raise InputTypeError(f"methods: expected a mapping of names to methods, got {type(methods).__name__}.")
    if not methods:
        raise InputError('methods: the mapping is empty. Name at least one, as {"exact": dasp.Exact()}.')
    for name in methods:
        if not isinstance(name, str):
            raise InputTypeError(f"methods: names must be strings, got {name!r}.")
    return {name: as_estimator(method, f"methods[{name!r}]") for name, method in methods.items()}


def _measured(name: str, estimator: Estimator, case: Case) -> Measurement:
    def explain(model: Model, x: Tensor, baseline: Tensor) -> Tensor:
        return Explainer(model, baseline, method=estimator)(x, 0).per_player[:, 0].double()

    made = Measurement(name, case.axiom, case.network, ())
    try:
        return replace(made, violations=(float(case.measure(explain).max()),))
    except DaspError as error:
        return replace(made, refused=" ".join(str(error).split()))
