"""What every Shapley value must satisfy, on random networks: sum, symmetry, null player, linearity."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import dasp

ACTIVATIONS = (nn.ReLU, nn.Tanh, nn.GELU, nn.Sigmoid)

# The largest deviation allowed, relative to the sum of |values|: rounding only. Sampling satisfies symmetry in the mean
# over permutations and not for the drawn ones; everything else holds for each permutation.
METHODS = [dasp.Exact(), dasp.PermutationSampling(permutations=6, seed=1)]
ROUNDING = 1e-12

networks = st.builds(
    lambda seed, players, width, activation: (seed, players, width, activation),
    st.integers(0, 10_000),
    st.integers(1, 6),
    st.integers(1, 8),
    st.sampled_from(ACTIVATIONS),
)
Network = tuple[int, int, int, type[nn.Module]]


def build(network: Network) -> tuple[nn.Sequential, Tensor, Tensor]:
    """A network (rows, players) -> (rows, 2), two inputs and a baseline, all float64."""
    seed, players, width, activation = network
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(players, width), activation(), nn.Linear(width, width), activation())
    model.append(nn.Linear(width, 2))
    return model.double(), torch.randn(2, players).double(), torch.randn(players).double()


def explain(model: nn.Module, x: Tensor, b: Tensor, method: dasp.Estimator, target: object = 0) -> Tensor:
    return dasp.Explainer(model, b, method=method)(x, target).per_player


def name_of(method: dasp.Estimator) -> str:
    return type(method).__name__


every_method = pytest.mark.parametrize("method", METHODS, ids=name_of)
few = settings(max_examples=25, deadline=None, derandomize=True)


@every_method
@given(network=networks)
@few
def test_values_add_up_to_the_difference(method: dasp.Estimator, network: Network) -> None:
    model, x, b = build(network)
    found = dasp.Explainer(model, b, method=method)(x, [0, 1])
    with torch.no_grad():
        difference = model(x) - model(b)
    missing = found.per_player.sum(-1) - difference
    assert (missing.abs() <= ROUNDING * (1 + found.per_player.abs().sum(-1))).all()
    assert (found.gap.abs() <= 1e-9).all()


@every_method
@given(network=networks)
@few
def test_a_player_that_changes_nothing_gets_nothing(method: dasp.Estimator, network: Network) -> None:
    model, x, b = build(network)
    with torch.no_grad():
        model[0].weight[:, -1] = 0  # the model does not look at the last player
    x[0, 0] = b[0]  # the first player of row 0 is the same absent and present
    values = explain(model, x, b, method)
    scale = 1 + values.abs().sum()
    assert values[:, 0, -1].abs().max() <= ROUNDING * scale
    assert values[0, 0, 0].abs() <= ROUNDING * scale


@given(network=networks)
@few
def test_players_that_do_the_same_get_the_same(network: Network) -> None:
    model, x, b = build(network)
    with torch.no_grad():
        model[0].weight[:, -1] = model[0].weight[:, 0]
    b[-1] = b[0]
    x[:, -1] = x[:, 0]
    values = explain(model, x, b, dasp.Exact())
    assert (values[..., 0] - values[..., -1]).abs().max() <= ROUNDING * (1 + values.abs().sum())


@given(network=networks)
@settings(max_examples=5, deadline=None, derandomize=True)
def test_sampling_gives_players_that_do_the_same_the_same_within_its_errors(network: Network) -> None:
    model, x, b = build(network)
    with torch.no_grad():
        model[0].weight[:, -1] = model[0].weight[:, 0]
    b[-1] = b[0]
    x[:, -1] = x[:, 0]
    found = dasp.Explainer(model, b, method=dasp.PermutationSampling(permutations=200))(x, 0)
    assert isinstance(found.standard_errors, Tensor)
    values, errors = found.per_player[:, 0], found.standard_errors
    # The two errors may be fully correlated; 5 of them allow for 100 pairs and 10 comparisons.
    allowed = 5 * (errors[:, 0] + errors[:, -1]) + ROUNDING
    assert ((values[:, 0] - values[:, -1]).abs() <= allowed).all()


@every_method
@given(network=networks, scale=st.floats(-3, 3), shift=st.floats(-1e3, 1e3))
@few
def test_values_are_linear_in_the_model(method: dasp.Estimator, network: Network, scale: float, shift: float) -> None:
    model, x, b = build(network)

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.inner(x)
            return y[:, 0] + scale * y[:, 1] + shift

    parts = explain(model, x, b, method, [0, 1])
    mixed = explain(Mixed(), x, b, method, None)
    expected = parts[:, 0] + scale * parts[:, 1]
    assert (mixed[:, 0] - expected).abs().max() <= ROUNDING * (1 + abs(shift) + parts.abs().sum())


@every_method
@given(network=networks)
@few
def test_a_row_has_the_same_value_alone_as_in_a_batch(method: dasp.Estimator, network: Network) -> None:
    model, x, b = build(network)
    together = explain(model, x, b, method)
    alone = torch.cat([explain(model, row.unsqueeze(0), b, method) for row in x])
    assert (together - alone).abs().max() <= ROUNDING * (1 + together.abs().sum())
