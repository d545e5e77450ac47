"""Keras 3 on the torch backend: every common layer against enumeration, files of any backend, and what is refused.

tests/data/jax.keras was saved by Keras 3.15.1 on jax 0.7.0: 6 steps of 3, LSTM(5), LayerNormalization,
MultiHeadAttention(2, 3), GlobalAveragePooling1D, BatchNormalization with random moving statistics, Dropout, Dense(2).
"""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from torch import Tensor, nn

import dasp
from dasp.cli import cli

os.environ["KERAS_BACKEND"] = "torch"  # keras reads it once, when it is imported
keras = pytest.importorskip("keras")
if keras.backend.backend() != "torch":
    pytest.skip(f"keras was imported on {keras.backend.backend()}", allow_module_level=True)
L = keras.layers
# Of keras.ops.convert_to_numpy on torch, with numpy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

FROM_JAX = Path(__file__).parent / "data" / "jax.keras"
JAX_OUTPUT = [[1.8163524, -0.7745471], [1.8463954, -0.96476376]]  # of sin(0), sin(1), ... in shape (2, 6, 3), by jax
TOKENS = dasp.players.tokens()


def trained(model: Any, seed: int = 0) -> Any:
    """Weights as training leaves them: larger than Keras starts with, moving statistics that are not 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    for variable in model.variables:
        if variable.path.endswith("seed_generator_state"):
            continue
        spread = torch.rand(tuple(variable.shape), generator=generator)
        if variable.path.endswith(("moving_variance", "gamma")):
            variable.assign(0.5 + spread)
        elif variable.path.endswith(("moving_mean", "beta", "bias")):
            variable.assign(spread - 0.5)
        else:
            inner = variable.shape[0] if len(variable.shape) < 4 else spread[..., 0].numel()
            scale = 1.0 if variable.path.endswith("embeddings") else 1.5 / inner**0.5
            variable.assign(scale * torch.randn(tuple(variable.shape), generator=generator))
    return model


def sequential(shape: tuple[int, ...], *layers: Any, **options: Any) -> Any:
    return trained(keras.Sequential([L.Input(shape, **options), *layers]))


def attention_and_lstm() -> Any:
    inputs = L.Input((10, 6))
    x = L.LayerNormalization()(inputs + L.MultiHeadAttention(2, 4)(inputs, inputs))
    return trained(keras.Model(inputs, L.Dense(1)(L.LSTM(8)(x))))


def embedded_attention() -> Any:
    inputs = L.Input((9,), dtype="int32")
    x = L.Embedding(12, 8)(inputs)
    x = L.LayerNormalization()(x + L.MultiHeadAttention(2, 4)(x, x))
    return trained(keras.Model(inputs, L.Dense(2)(L.GlobalAveragePooling1D()(x))))


def two_inputs() -> Any:
    one, two = L.Input((6,), name="z"), L.Input((4,), name="a")  # not in the order of their names
    x = L.Concatenate()([L.Dense(8, activation="relu")(one), two])
    return trained(keras.Model([one, two], L.Dense(1)(L.Dense(8, activation="tanh")(x))))


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def ids(*shape: int) -> Tensor:
    return torch.randint(1, 12, shape, generator=torch.Generator().manual_seed(2))


PATCHES = (torch.arange(12).reshape(3, 4).repeat_interleave(3, 0).repeat_interleave(2, 1)[..., None]).expand(9, 8, 2)

# Model, inputs, players, target, and the bound: the measured mean relative error, and half as much again.
CASES: dict[str, tuple[Callable[[], Any], Any, Any, Any, float]] = {
    "Dense, BatchNormalization, gelu, Dropout": (
        lambda: sequential((10,), L.Dense(16, activation="gelu"), L.BatchNormalization(), L.Dropout(0.5), L.Dense(8),
                           L.Activation("relu"), L.Dense(1)),
        normal(8, 10), None, None, 0.084,
    ),
    "softmax output": (
        lambda: sequential((10,), L.Dense(16, activation="relu"), L.Dense(3, activation="softmax")),
        normal(8, 10), None, 1, 0.038,
    ),
    "Conv2D, BatchNormalization, MaxPooling2D": (
        lambda: sequential((9, 8, 2), L.Conv2D(6, 3, padding="same"), L.BatchNormalization(), L.ReLU(), L.MaxPooling2D(),
                           L.Conv2D(8, 3, activation="silu"), L.Flatten(), L.Dense(3)),
        normal(4, 9, 8, 2), PATCHES, 2, 0.094,
    ),
    "SeparableConv2D, GlobalAveragePooling2D": (
        lambda: sequential((9, 8, 2), L.SeparableConv2D(6, 3, activation="elu"), L.GlobalAveragePooling2D(), L.Dense(1)),
        normal(4, 9, 8, 2), PATCHES, None, 0.0095,
    ),
    "GRU": (lambda: sequential((10, 3), L.GRU(8), L.Dense(1)), normal(4, 10, 3), TOKENS, None, 0.014),
    "SimpleRNN": (lambda: sequential((10, 3), L.SimpleRNN(8, unroll=True), L.Dense(1)), normal(4, 10, 3), TOKENS, None, 0.081),
    "Bidirectional LSTM": (
        lambda: sequential((9, 3), L.Bidirectional(L.LSTM(4)), L.Dense(1)), normal(4, 9, 3), TOKENS, None, 0.0082,
    ),
    "MultiHeadAttention and LSTM": (attention_and_lstm, normal(20, 10, 6), TOKENS, None, 0.263),
    "Embedding of ids, MultiHeadAttention": (embedded_attention, ids(8, 9), TOKENS, 1, 0.305),
    "two inputs": (two_inputs, (normal(8, 6), normal(8, 4) * 2), None, None, 0.049),
}  # fmt: skip


def relative(found: dasp.Attribution, truth: dasp.Attribution) -> float:
    a, b = found.per_player[:, 0].double(), truth.per_player[:, 0].double()
    return float(((a - b).norm(dim=1) / b.norm(dim=1)).mean())


@pytest.mark.parametrize("name", CASES)
def test_against_enumeration(name: str) -> None:
    make, inputs, players, target, bound = CASES[name]
    model = make()
    found = dasp.Explainer(model, 0.0, players=players)(inputs, target)
    truth = dasp.Explainer(model, 0.0, players=players, method=dasp.Exact())(inputs, target)
    print(f"{name}: {relative(found, truth):.4f}")
    assert found.players.count >= 9  # few players would be enumerated by default
    assert relative(found, truth) < bound
    given = list(inputs) if isinstance(inputs, tuple) else inputs
    with torch.no_grad():
        own = model(given, training=False)
    torch.testing.assert_close(truth.output, own[:, target or 0])
    torch.testing.assert_close(truth.per_player.sum(-1)[:, 0], truth.output - truth.base_value, rtol=1e-3, atol=1e-5)


def state(model: Any) -> dict[str, Any]:
    found: dict[str, Any] = {name: layer.training for name, layer in model.named_modules()}
    found |= {v.path: torch.as_tensor(keras.ops.convert_to_numpy(v)).clone() for v in model.variables}
    found |= {f"{v.path} trainable": v.trainable for v in model.variables}
    return found


@pytest.mark.parametrize("method", [dasp.Propagation(), dasp.Exact()])
@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_found_and_explained_at_inference(method: dasp.Estimator, training: bool) -> None:
    model = CASES["Dense, BatchNormalization, gelu, Dropout"][0]()
    model.train(training)
    model.layers[1].trainable = False
    x, before = normal(3, 10), state(model)
    result = dasp.Explainer(model, 0.0, method=method)(x)
    after = state(model)
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert torch.equal(after[name], value) if isinstance(value, Tensor) else after[name] == value, name
    # Dropout is off, and the moving statistics are used, not the batch's.
    torch.testing.assert_close(result.output, model(x, training=False)[:, 0].detach())


def test_it_can_be_trained_on_and_is_explained_anew() -> None:
    model = sequential((3,), L.Dense(4, activation="relu"), L.Dense(1))
    explainer, x = dasp.Explainer(model, 0.0), normal(2, 3)
    before = explainer(x).values
    model.compile(optimizer="sgd", loss="mse")
    model.fit(x.numpy(), x.sum(1).numpy(), epochs=2, verbose=0)
    after = explainer(x)
    assert not torch.equal(before, after.values)
    torch.testing.assert_close(after.output, model(x)[:, 0].detach())


def test_inputs_go_by_the_order_of_the_model() -> None:
    one, two = L.Input((2,), name="z"), L.Input((3,), name="a")
    linear = trained(keras.Model({"z": one, "a": two}, L.Dense(1)(L.Concatenate()([one, two]))))
    sizes = {"z": 2, "a": 3}
    inputs = tuple(normal(4, sizes[i.name]) for i in linear.inputs)
    result = dasp.Explainer(linear, 0.0)(inputs)
    weight = torch.as_tensor(keras.ops.convert_to_numpy(linear.weights[0]))[:, 0]
    expected = {"z": weight[:2], "a": weight[2:]}
    for given, values, i in zip(inputs, result.values, linear.inputs, strict=True):
        torch.testing.assert_close(values, given * expected[i.name])


def test_a_file_of_another_backend(tmp_path: Path) -> None:
    x = torch.arange(36.0).sin().reshape(2, 6, 3)
    explainer = dasp.Explainer(FROM_JAX, 0.0, players=TOKENS, method=dasp.Exact())
    result = explainer(x, [0, 1])
    torch.testing.assert_close(result.output, torch.tensor(JAX_OUTPUT), rtol=1e-4, atol=1e-5)
    own = keras.saving.load_model(FROM_JAX)
    again = dasp.Explainer(own, 0.0, players=TOKENS, method=dasp.Exact())(x, [0, 1])
    torch.testing.assert_close(result.per_player, again.per_player)
    own.save(tmp_path / "torch.keras")
    saved = dasp.Explainer(str(tmp_path / "torch.keras"), 0.0, players=TOKENS, method=dasp.Exact())(x, [0, 1])
    torch.testing.assert_close(result.per_player, saved.per_player)


def test_files_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x = torch.arange(36.0).sin().reshape(2, 6, 3)
    np.save(tmp_path / "rows.npy", x.numpy())
    out = tmp_path / "values.parquet"
    arguments = ["--baseline", "zeros", "--players", "tokens", "--target", "1", "--out", str(out)]
    cli.main(["explain", str(FROM_JAX), str(tmp_path / "rows.npy"), *arguments], standalone_mode=False)
    expected = dasp.Explainer(FROM_JAX, 0.0, players=TOKENS)(x, 1).values
    written = pandas.read_parquet(out)[[f"token_{i}" for i in range(6)]].to_numpy()
    torch.testing.assert_close(torch.tensor(written).float(), expected)
    cli.main(["check", str(FROM_JAX)], standalone_mode=False)
    assert "0 missing" in capsys.readouterr().out
    with pytest.raises(dasp.InputError, match="does not say what inputs it takes"):
        dasp.Model(nn.Linear(3, 1)).capture((), ())
    with pytest.raises(dasp.InputError, match=r"is open: \(None, 3\)"):
        dasp.Model(sequential((None, 3), L.GRU(2))).capture((), ())


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(dasp.ModelFileError, match="no model file"):
        dasp.Model(tmp_path / "none.keras")
    (tmp_path / "bad.keras").write_text("no archive")
    with pytest.raises(dasp.ModelFileError, match="could not load"):
        dasp.Model(tmp_path / "bad.keras")
    sequential((4,), L.Lambda(lambda x: x * 2), L.Dense(1)).save(tmp_path / "code.keras")
    with pytest.raises(dasp.ModelFileError, match="give the model instead"):
        dasp.Model(tmp_path / "code.keras")
    with pytest.raises(dasp.ModelFileError, match=r"save it again under a name that ends in \.keras"):
        dasp.Model(tmp_path / "old.h5")


def python(code: str, **environment: str) -> str:
    """What a fresh interpreter prints that knows KERAS_BACKEND only from here."""
    clean = {k: v for k, v in os.environ.items() if k != "KERAS_BACKEND"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=clean | environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_keras_is_imported_on_torch_when_nobody_chose() -> None:
    code = f"""
import os, sys, dasp
assert "keras" not in sys.modules
model = dasp.Model({str(FROM_JAX)!r})
print(sys.modules["keras"].backend.backend(), model.name, os.environ.get("KERAS_BACKEND"))"""
    assert python(code).split() == ["torch", "Functional", "None"]


def test_another_backend_is_refused_with_what_to_do() -> None:
    # Stands in for keras on jax, which is not installed: what dasp asks of keras is only its backend's name.
    code = f"""
import sys, types, dasp
def told(act):
    try:
        act()
    except dasp.InputError as error:
        print(str(error).replace(chr(10), " "))
told(lambda: dasp.Model({str(FROM_JAX)!r}))
keras = types.ModuleType("keras"); keras.backend = types.SimpleNamespace(backend=lambda: "jax")
sys.modules["keras"] = keras
Functional = type("Functional", (), {{"__module__": "keras.src.models.functional"}})
told(lambda: dasp.Explainer(Functional(), 0.0))
told(lambda: dasp.Model({str(FROM_JAX)!r}))"""
    lines = python(code, KERAS_BACKEND="jax").splitlines()
    assert len(lines) == 3
    for line in lines:
        assert "on jax" in line
        assert "KERAS_BACKEND=torch before keras is imported" in line
    assert "model.save('model.keras')" in lines[1]


def test_without_keras(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "keras", None)
    with pytest.raises(dasp.MissingExtraError, match=r"dasp\[keras\]"):
        dasp.Model(FROM_JAX)


class Detour(L.Layer):  # type: ignore[misc]
    """Leaves torch on its way."""

    def call(self, x: Tensor) -> Tensor:
        return keras.ops.convert_to_tensor(keras.ops.convert_to_numpy(x).round(1)).to(x)


def test_layers_that_cannot_be_captured() -> None:
    model = sequential((10,), Detour(), L.Dense(1))
    with pytest.raises(dasp.CaptureError, match="could not capture Sequential as one graph"):
        dasp.Explainer(model, 0.0)(normal(2, 10))
    dasp.Explainer(model, 0.0, method=dasp.Exact())(normal(2, 10))  # only calls it


def padded(*shape: int) -> Tensor:
    """Ids with padding, 0: at the end, in front, at the end of most, none."""
    found = ids(*shape)
    found[0, 5:], found[1, :2], found[2, 3:] = 0, 0, 0
    return found


def masked_lstm(x: Any, **mask: Any) -> Any:
    return L.Dense(1)(L.LSTM(5, unroll=True)(x, **mask))


def masked_attention(x: Any, **mask: Any) -> Any:
    among = {name: keras.ops.logical_and(m[:, :, None], m[:, None, :]) for name, m in mask.items()}
    x = L.MultiHeadAttention(2, 4)(x, x, attention_mask=among.get("mask"))
    return L.Dense(1)(L.GlobalAveragePooling1D()(x, **mask))


MASKED = {"LSTM": (masked_lstm, 0.02), "MultiHeadAttention": (masked_attention, 0.195)}
"""What comes after an embedding, given its result alone, or also a mask; with the bound for the propagation."""


def with_own_mask(after: Any) -> Any:
    inputs = L.Input((7,), dtype="int32")
    return trained(keras.Model(inputs, after(L.Embedding(12, 8, mask_zero=True)(inputs))))


def with_given_mask(after: Any, model: Any) -> Any:
    """The same model with its mask as an argument."""
    inputs, mask = L.Input((7,), dtype="int32"), L.Input((7,), dtype="bool")
    other = keras.Model([inputs, mask], after(L.Embedding(12, 8)(inputs), mask=mask))
    other.set_weights(model.get_weights())
    return other


@pytest.mark.parametrize("name", MASKED)
def test_masks_stay_those_of_the_explained_text(name: str, tmp_path: Path) -> None:
    after, bound = MASKED[name]
    model, x = with_own_mask(after), padded(4, 7)
    given, once = dasp.Model(with_given_mask(after, model)), dasp.Model(model)
    model.save(tmp_path / "masked.keras")
    for baseline in (0, 7):
        truth = dasp.Explainer(given, baseline, players=TOKENS, method=dasp.Exact())((x,), additional_forward_args=x != 0)
        for source in (tmp_path / "masked.keras", once):
            kept = dasp.Explainer(source, baseline, players=TOKENS, method=dasp.Exact())(x, additional_forward_args=x)
            torch.testing.assert_close(kept.per_player, truth.per_player, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(kept.output, model(x, training=False)[:, 0].detach())
        explainer = dasp.Explainer(once, baseline, players=TOKENS)
        found = explainer(x, additional_forward_args=x)
        print(f"{name}, {baseline}: {relative(found, truth):.4f}")
        assert relative(found, truth) < bound
        for result in (found, truth):
            assert result.per_player[:, 0][x == 0].abs().max() < 1e-12
        alone = explainer(x[1:2], additional_forward_args=x[1:2])
        torch.testing.assert_close(alone.per_player[0], found.per_player[1], rtol=1e-4, atol=1e-6)


def test_masks_of_numbers_stay_too() -> None:
    model = sequential((7, 3), L.Masking(), L.LSTM(5, unroll=True), L.Dense(1))
    inputs, mask = L.Input((7, 3)), L.Input((7,), dtype="bool")
    given = keras.Model([inputs, mask], L.Dense(1)(L.LSTM(5, unroll=True)(inputs, mask=mask)))
    given.set_weights(model.get_weights())
    x = normal(4, 7, 3) * (padded(4, 7) != 0).unsqueeze(-1)
    truth = dasp.Explainer(given, 0.0, players=TOKENS, method=dasp.Exact())((x,), additional_forward_args=padded(4, 7) != 0)
    moving = dasp.Explainer(model, 0.0, players=TOKENS, method=dasp.Exact())(x)
    assert relative(moving, truth) > 0.1  # masks that follow the coalition make another game
    once = dasp.Model(model)
    kept = dasp.Explainer(once, 0.0, players=TOKENS, method=dasp.Exact())(x, additional_forward_args=x)
    torch.testing.assert_close(kept.per_player, truth.per_player)
    found = dasp.Explainer(once, 0.0, players=TOKENS)(x, additional_forward_args=x)
    assert relative(found, truth) < 0.01
    with pytest.raises(dasp.CaptureError, match=r"the Keras layer masking.* makes a mask from its input"):
        dasp.Explainer(model, 0.0, players=TOKENS)(x)


def test_masks_of_several_inputs_are_kept_by_all_of_them() -> None:
    first, second = L.Input((5,), dtype="int32", name="z"), L.Input((4,), dtype="int32", name="a")
    embedding, layer = L.Embedding(12, 6, mask_zero=True), L.GlobalAveragePooling1D()  # shared by both
    both = [L.Dense(5, activation="gelu")(layer(embedding(part))) for part in (first, second)]
    both = L.Concatenate()(both)
    model = trained(keras.Model({"z": first, "a": second}, L.Dense(1)(both)))
    x = {"z": padded(4, 9)[:, :5], "a": padded(4, 9)[:, 2:6]}
    inputs = tuple(x[i.name] for i in model.inputs)
    kept = (inputs[0] != 0).any(1) & (inputs[1] != 0).any(1)
    inputs = (inputs[0][kept], inputs[1][kept])  # an average over nothing is NaN
    truth = dasp.Explainer(model, 3, players=TOKENS, method=dasp.Exact())(inputs, additional_forward_args=inputs)
    found = dasp.Explainer(model, 3, players=TOKENS)(inputs, additional_forward_args=inputs)
    assert relative(found, truth) < 0.08
    assert truth.per_player[:, 0][torch.cat(inputs, 1) == 0].abs().max() < 1e-12
    with pytest.raises(dasp.InputError, match=r"takes 2 inputs, or 4: again those whose masks are kept; got 3"):
        dasp.Explainer(model, 3, players=TOKENS)(inputs, additional_forward_args=inputs[0])
    with pytest.raises(dasp.InputError, match=r"takes 2 inputs; got 3"):
        dasp.Explainer(two_inputs(), 0.0)((normal(2, 6), normal(2, 4)), additional_forward_args=normal(2, 4))


@pytest.mark.parametrize("name", MASKED)
def test_masks_that_absent_tokens_change_are_refused(name: str) -> None:
    model = with_own_mask(MASKED[name][0])
    with pytest.raises(dasp.CaptureError, match=r"embedding.* makes a mask(.|\n)*additional_forward_args=x\)"):
        dasp.Explainer(model, 3, players=TOKENS)(padded(4, 7))
    touched = [layer.name for layer in model._flatten_layers() if {"call", "compute_mask"} & layer.__dict__.keys()]
    assert touched == []  # nothing is left behind in its layers


@pytest.mark.filterwarnings("ignore:Layer 'conv1d:UserWarning")
def test_masks_that_nobody_reads_do_not_matter() -> None:
    model = sequential(
        (7,), L.Embedding(12, 8, mask_zero=True), L.Conv1D(5, 3, activation="relu"), L.Flatten(), L.Dense(1), dtype="int32"
    )
    x = padded(4, 7)
    found, truth = (dasp.Explainer(model, 3, players=TOKENS, method=m)(x) for m in (dasp.Propagation(), dasp.Exact()))
    assert relative(found, truth) < 0.035
    kept = dasp.Explainer(model, 3, players=TOKENS)(x, additional_forward_args=x)
    torch.testing.assert_close(kept.per_player, found.per_player)


class Cell(L.Layer):  # type: ignore[misc]
    """A cell of someone's own."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.units = self.state_size = units

    def build(self, shape: tuple[int, ...]) -> None:
        self.inner = self.add_weight(shape=(shape[-1], self.units), name="inner")
        self.outer = self.add_weight(shape=(self.units, self.units), name="outer")

    def call(self, x: Any, states: Any) -> Any:
        result = keras.ops.tanh(x @ self.inner + states[0] @ self.outer)
        return result, [result]


STEPS, IMAGES = normal(3, 7, 3), normal(3, 7, 3, 3, 1)
# Layers that loop over their steps, inputs, and the bound: the measured mean relative error, and half as much again.
LOOPS: dict[str, tuple[Callable[[], Any], Tensor, float]] = {
    "SimpleRNN": (lambda: L.SimpleRNN(6), STEPS, 0.06),
    "GRU, reset before": (lambda: L.GRU(6, reset_after=False), STEPS, 0.012),
    "LSTM with recurrent dropout": (lambda: L.LSTM(6, recurrent_dropout=0.2), STEPS, 0.011),
    "Bidirectional SimpleRNN": (lambda: L.Bidirectional(L.SimpleRNN(4)), STEPS, 0.08),
    "a cell of one's own": (lambda: L.RNN(Cell(5)), STEPS, 0.24),
    "stacked cells": (lambda: L.RNN([L.LSTMCell(4), L.GRUCell(4)]), STEPS, 0.011),
    "ConvLSTM2D": (lambda: L.ConvLSTM2D(2, 2), IMAGES, 0.0085),
    "a model inside": (lambda: keras.Sequential([L.Input((7, 3)), L.SimpleRNN(5)]), STEPS, 0.14),
}  # fmt: skip
LONG = {"LSTM with recurrent dropout", "stacked cells", "ConvLSTM2D"}


@pytest.mark.parametrize("name", [pytest.param(one, marks=pytest.mark.long) if one in LONG else one for one in LOOPS])
def test_loops_over_steps_must_be_unrolled(name: str) -> None:
    make, x, bound = LOOPS[name]
    model = sequential(tuple(x.shape[1:]), make(), L.Flatten(), L.Dense(1))
    looping = [layer for layer in model._flatten_layers() if getattr(layer, "unroll", True) is False]
    explainer = dasp.Explainer(model, 0.0, players=TOKENS)
    with pytest.raises(dasp.CaptureError, match=rf"unroll=True, or layer\.unroll = True later, on {looping[0].name}"):
        explainer(x)
    truth = dasp.Explainer(model, 0.0, players=TOKENS, method=dasp.Exact())(x)  # only calls it
    for layer in looping:
        layer.unroll = True  # as the message says
    found = explainer(x)
    print(f"{name}: {relative(found, truth):.4f}")
    assert relative(found, truth) < bound


@pytest.mark.parametrize(
    ("make", "x"),
    [
        (lambda: [L.Bidirectional(L.LSTM(4, return_sequences=True)), L.Bidirectional(L.GRU(4)), L.Dense(1)], STEPS),
        (lambda: [L.TimeDistributed(L.Dense(4, activation="gelu")), L.GRU(4), L.Dense(1)], STEPS),
        (lambda: [L.TimeDistributed(L.Conv2D(3, 2, activation="relu")), L.TimeDistributed(L.Flatten()), L.LSTM(4), L.Dense(1)],
         IMAGES),
        (lambda: [L.LSTM(4, go_backwards=True, activation="relu", recurrent_activation="hard_sigmoid"), L.Dense(1)], STEPS),
    ],
    ids=["Bidirectional", "TimeDistributed", "TimeDistributed convolution", "LSTM backwards"],
)  # fmt: skip
def test_layers_over_steps_that_need_no_unrolling(make: Callable[[], list[Any]], x: Tensor) -> None:
    model = sequential(tuple(x.shape[1:]), *make())
    found = dasp.Explainer(model, 0.0, players=TOKENS)(x)
    truth = dasp.Explainer(model, 0.0, players=TOKENS, method=dasp.Exact())(x)
    print(f"{relative(found, truth):.4f}")
    assert relative(found, truth) < 0.05


def test_a_masked_loop_says_to_unroll() -> None:
    model = sequential((7,), L.Embedding(12, 8, mask_zero=True), L.LSTM(4), L.Dense(1), dtype="int32")
    x = padded(4, 7)
    explainer = dasp.Explainer(model, 0, players=TOKENS)
    with pytest.raises(dasp.CaptureError, match=r"layer\.unroll = True later, on lstm"):
        explainer(x, additional_forward_args=x)
    model.layers[1].unroll = True
    truth = dasp.Explainer(model, 0, players=TOKENS, method=dasp.Exact())(x, additional_forward_args=x)
    assert relative(explainer(x, additional_forward_args=x), truth) < 0.05


@pytest.mark.long
def test_the_example_with_padding_runs(capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    try:
        with torch.random.fork_rng(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what training in Keras warns of is its own
            runpy.run_path(str(Path(__file__).parents[1] / "examples" / "keras_text.py"), run_name="__main__")
    finally:
        torch.set_num_threads(threads)
    shown = capsys.readouterr().out.split()
    words = [word for word in shown if ":" in word]
    assert len(words) == 36
    assert [word for word in words if word.startswith("0:")] == ["0:+0.00"] * sum(word.startswith("0:") for word in words)
    assert any(word.startswith("3:+0.") for word in words)  # it is looked for


def test_models_of_several_outputs_are_refused() -> None:
    inputs = L.Input((3,))
    model = keras.Model(inputs, [L.Dense(1)(inputs), L.Dense(2)(inputs)])
    with pytest.raises(dasp.InputTypeError, match="returns list"):
        dasp.Explainer(model, 0.0)(normal(2, 3))
    assert isinstance(model, nn.Module)
