"""Estimators of captum, each fed what it treats rightly: players as `feature_mask`, the zero baseline, one target a row."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from ..problem import Array
from .counted import ROWS, Counted, Peer, Task, library
from .modules import has_rule, require_rescale
from .reveal_cancel import chain


def input_x_gradient() -> Peer:
    """The gradient times the input (Shrikumar et al. 2016)."""

    def estimate(task: Task) -> Array:
        return task.problem.per_player(_attr("InputXGradient", task).attribute(_leaf(task), task.problem.targets))

    return Peer("captum InputXGradient", "captum InputXGradient", estimate)


def integrated_gradients(steps: int) -> Peer:
    """IntegratedGradients (Sundararajan, Taly, Yan 2017), Gauss-Legendre."""

    def estimate(task: Task) -> Array:
        inputs = task.problem.inputs
        found = _attr("IntegratedGradients", task).attribute(
            inputs, 0, task.problem.targets, n_steps=steps, internal_batch_size=max(len(inputs), ROWS)
        )
        return task.problem.per_player(found)

    return Peer("captum IntegratedGradients", f"captum IntegratedGradients, {steps} steps", estimate)


class _Copy(nn.Module):
    """The same values in a tensor of its own."""

    def forward(self, value: Tensor) -> Tensor:
        return value.clone()


def deep_lift() -> Peer:
    """DeepLift, Rescale (Shrikumar, Greenside, Kundaje 2017).

    Where one module with a rule follows another, as MaxPool follows ReLU, captum loses the rule of the second: both hang their
    hooks on the tensor between them, and the first reads its multipliers before the second has written them. A copy between
    the two gives each a tensor of its own; shap then agrees.
    """

    def estimate(task: Task) -> Array:
        require_rescale(task.problem.model, "captum's DeepLift")
        chained = [layer for _, layer in chain(task.network.network)]
        layers = [part for layer in chained for part in ((layer, _Copy()) if has_rule(layer) else (layer,))]
        network = Counted(nn.Sequential(*layers))
        method = library("captum.attr").DeepLift(network)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Setting forward, backward hooks")
            found = method.attribute(_leaf(task), 0, task.problem.targets)
        task.network.rows += network.rows
        return task.problem.per_player(found)

    return Peer("captum DeepLift", "captum DeepLift", estimate)


def occlusion() -> Peer:
    """FeatureAblation: what the output loses when one player is set to zero (Zeiler and Fergus 2014)."""

    def estimate(task: Task) -> Array:
        found = _attr("FeatureAblation", task).attribute(
            task.problem.inputs, 0, task.problem.targets, feature_mask=task.mask, perturbations_per_eval=_together(task)
        )
        return task.of_players(found)

    return Peer("captum FeatureAblation (occlusion)", "captum FeatureAblation (occlusion)", estimate)


def gradient_shap(samples: int) -> Peer:
    """GradientShap (Lundberg and Lee 2017): gradients at random points between the baseline and the input, no noise.

    With one baseline shap's GradientExplainer is the same estimator, so it has no row of its own.
    """

    def estimate(task: Task) -> Array:
        method = _attr("GradientShap", task)
        problem = task.problem
        step = max(1, ROWS // samples)
        parts = [
            method.attribute(inputs, torch.zeros_like(inputs[:1]), n_samples=samples, stdevs=0.0, target=targets)
            for inputs, targets in zip(problem.inputs.split(step), problem.targets.split(step), strict=True)
        ]
        return problem.per_player(torch.cat(parts))

    return Peer("captum GradientShap", f"captum GradientShap, {samples:,} samples", estimate)


def sampling(samples: int) -> Peer:
    """ShapleyValueSampling (Castro, Gomez, Tejada 2009): permutations, none of them reversed."""

    def estimate(task: Task) -> Array:
        found = _attr("ShapleyValueSampling", task).attribute(
            task.problem.inputs, 0, task.problem.targets, feature_mask=task.mask, n_samples=samples,
            perturbations_per_eval=_together(task),
        )  # fmt: skip
        return task.of_players(found)

    return Peer("captum ShapleyValueSampling", f"captum ShapleyValueSampling, {samples:,} samples", estimate)


def kernel(samples: int) -> Peer:
    """KernelShap (Lundberg and Lee 2017), one input at a time as captum asks."""

    def estimate(task: Task) -> Array:
        library("sklearn")
        method = _attr("KernelShap", task)
        found = [
            method.attribute(entry, 0, target, feature_mask=task.mask, n_samples=samples, perturbations_per_eval=ROWS)
            for entry, target in task.rows
        ]
        return task.of_players(torch.cat(found))

    return Peer("captum KernelShap", f"captum KernelShap, {samples:,} samples", estimate)


def _attr(name: str, task: Task) -> Any:
    """One of captum's methods on the network."""
    return getattr(library("captum.attr"), name)(task.network)


def _leaf(task: Task) -> Tensor:
    """The inputs, ready for gradients: captum warns where it has to make them so."""
    return task.problem.inputs.clone().requires_grad_()


def _together(task: Task) -> int:
    """Perturbations of all inputs in one pass."""
    return max(1, min(task.problem.count, ROWS // len(task.problem.inputs)))
