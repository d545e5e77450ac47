"""The estimators of captum and shap behind one call, with their network evaluations counted."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Estimate = Callable[[nn.Module, Tensor, Tensor], Tensor]


class Counted(nn.Module):
    """A network that counts the rows it evaluates."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.rows = 0

    def forward(self, inputs: Tensor) -> Tensor:
        """The network's output; its rows are added to the count."""
        self.rows += len(inputs)
        return self.network(inputs)


def integrated_gradients(steps: int) -> Estimate:
    """captum's IntegratedGradients (Sundararajan et al. 2017), Gauss-Legendre."""

    def estimate(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        from captum.attr import IntegratedGradients

        return IntegratedGradients(model).attribute(inputs, baselines=0, target=targets, n_steps=steps)

    return estimate


def deep_lift() -> Estimate:
    """captum's DeepLift, rescale rule (Shrikumar et al. 2017); it reads modules, so it gets the network itself."""

    def estimate(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        from captum.attr import DeepLift

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Setting forward, backward hooks")
            return DeepLift(model).attribute(inputs, baselines=0, target=targets).detach()

    return estimate


def sampling(samples: int, *, seed: int = 0, together: int = 784) -> Estimate:
    """captum's ShapleyValueSampling (Castro et al. 2009), `together` perturbations in one evaluation."""

    def estimate(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        from captum.attr import ShapleyValueSampling

        torch.manual_seed(seed)
        perturbations = max(1, min(inputs[0].numel(), together // len(inputs)))
        return ShapleyValueSampling(model).attribute(
            inputs, baselines=0, target=targets, n_samples=samples, perturbations_per_eval=perturbations
        )

    return estimate


def kernel(samples: int, *, seed: int = 0, together: int = 256) -> Estimate:
    """captum's KernelShap (Lundberg and Lee 2017), one input at a time as captum asks."""

    def estimate(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        from captum.attr import KernelShap

        torch.manual_seed(seed)
        np.random.seed(seed)
        method = KernelShap(model)
        settings = {"baselines": 0, "n_samples": samples, "perturbations_per_eval": together}
        pairs = zip(inputs, targets.tolist(), strict=True)
        return torch.cat([method.attribute(entry[None], target=target, **settings) for entry, target in pairs])

    return estimate


def permutation(evaluations: int, *, seed: int = 0, together: int = 784) -> Estimate:
    """shap's PermutationExplainer (antithetic permutations) with a budget of `evaluations` a row."""

    def estimate(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        import shap

        rows = []
        for entry, target in zip(inputs, targets.tolist(), strict=True):

            def outputs(flat: Any, target: int = target, shape: torch.Size = entry.shape) -> np.ndarray:
                rows = torch.from_numpy(np.asarray(flat, dtype=np.float32)).view(-1, *shape)
                with torch.inference_mode():
                    return model(rows)[:, target].numpy()

            flat = entry.flatten()[None].numpy()
            explainer = shap.PermutationExplainer(outputs, np.zeros_like(flat), seed=seed)
            rows.append(explainer(flat, max_evals=evaluations, batch_size=together, silent=True).values)
        return torch.from_numpy(np.concatenate(rows)).view(inputs.shape)

    return estimate
