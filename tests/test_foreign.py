"""scikit-learn's perceptrons as modules, to rounding; what other libraries' models and files are told; the examples."""

from __future__ import annotations

import runpy
import sys
import types
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import dasp

pytest.importorskip("sklearn")
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_selection import SelectKBest, VarianceThreshold
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, Normalizer, RobustScaler, StandardScaler

EXAMPLES = Path(__file__).parents[1] / "examples"
# Measured 0.012, 0.001, 0.010, 0.006; training differs a little from machine to machine.
BOUNDS = {"sklearn_mlp": 0.03, "skorch_net": 0.01, "lightning_module": 0.03, "keras_model": 0.03}
ACTIVATIONS = ("identity", "logistic", "tanh", "relu")

random = np.random.default_rng(0)
ROWS = random.normal(size=(80, 10)) * np.linspace(0.1, 30, 10) + np.linspace(-4, 4, 10)
LATER = ROWS[:25] * 1.7 + 0.3  # beyond the range that scalers saw
SCORE = (ROWS - ROWS.mean(0)) / ROWS.std(0)
YES = (SCORE[:, 0] * SCORE[:, 1] + SCORE[:, 2] > 0).astype(int)
THREE = np.digitize(SCORE[:, 0] - SCORE[:, 3] * SCORE[:, 1], [-0.5, 0.5])
LABELS = np.stack([YES, SCORE[:, 4] > 0, SCORE[:, 5] > SCORE[:, 6]], 1).astype(int)


def fitted(estimator: Any, y: np.ndarray[Any, Any], x: np.ndarray[Any, Any] = SCORE) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a few steps are as good as many here
        return estimator.fit(x, y)


def classifier(activation: str = "relu", hidden: tuple[int, ...] = (12, 7)) -> MLPClassifier:
    return MLPClassifier(hidden, activation=activation, max_iter=60, learning_rate_init=0.02, random_state=0)


def regressor(activation: str = "relu", **options: Any) -> MLPRegressor:
    options |= {"hidden_layer_sizes": (12,), "max_iter": 60, "learning_rate_init": 0.02, "random_state": 0}
    return MLPRegressor(activation=activation, **options)


def run(module: nn.Module, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    result = module(torch.from_numpy(x))
    assert result.dtype is torch.float64
    return np.asarray(result.detach().numpy())


def near(found: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> None:
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_classifiers(activation: str) -> None:
    for y in (YES, THREE, LABELS):
        mlp = fitted(classifier(activation), y)
        logits = run(dasp.from_sklearn(mlp), SCORE)
        probabilities = run(dasp.from_sklearn(mlp, probabilities=True), SCORE)
        expected = mlp.predict_proba(SCORE)
        near(probabilities, expected)
        if y is THREE:
            assert logits.shape == (80, 3)
            near(logits - logits[:, :1], np.log(expected) - np.log(expected[:, :1]))
            assert (mlp.classes_[logits.argmax(1)] == mlp.predict(SCORE)).all()
        else:
            yes = expected[:, 1:] if y is YES else expected
            assert logits.shape == yes.shape
            near(1 / (1 + np.exp(-logits)), yes)
            assert ((logits > 0).astype(int).reshape(y.shape) == mlp.predict(SCORE)).all()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_regressors(activation: str) -> None:
    one = fitted(regressor(activation), SCORE[:, 0] * SCORE[:, 1])
    near(run(dasp.from_sklearn(one), SCORE)[:, 0], one.predict(SCORE))
    two = fitted(regressor(activation), SCORE[:, :2] ** 2)
    near(run(dasp.from_sklearn(two), SCORE), two.predict(SCORE))


def test_a_regressor_of_counts() -> None:
    try:
        mlp = regressor("tanh", loss="poisson")
    except TypeError:
        pytest.skip("this scikit-learn has no loss='poisson'")
    mlp = fitted(mlp, np.abs(SCORE[:, 0]))
    near(run(dasp.from_sklearn(mlp), SCORE)[:, 0], mlp.predict(SCORE))


def test_no_hidden_layer_and_single_precision() -> None:
    mlp = fitted(classifier(hidden=()), THREE)
    near(run(dasp.from_sklearn(mlp, probabilities=True), SCORE), mlp.predict_proba(SCORE))
    single = fitted(classifier(), YES, SCORE.astype(np.float32))
    found = run(dasp.from_sklearn(single, probabilities=True), SCORE)
    np.testing.assert_allclose(found, single.predict_proba(SCORE), rtol=1e-4)


@pytest.mark.parametrize(
    "steps",
    [
        (StandardScaler(),),
        (StandardScaler(with_mean=False),),
        (StandardScaler(with_std=False), StandardScaler()),
        (MinMaxScaler(),),
        (MinMaxScaler((-1, 2), clip=True),),
        (MaxAbsScaler(),),
        (RobustScaler(),),
        (RobustScaler(with_centering=False), RobustScaler(with_scaling=False), "passthrough"),
        (StandardScaler(), PCA(6)),
        (StandardScaler(), PCA(6, whiten=True)),
        (StandardScaler(), TruncatedSVD(5, random_state=0)),
        (VarianceThreshold(1.0), MinMaxScaler(), SelectKBest(k=4)),
        (make_pipeline(StandardScaler(), "passthrough"),),
    ],
    ids=str,
)
def test_pipelines(steps: tuple[Any, ...]) -> None:
    pipeline = fitted(make_pipeline(*steps, classifier("tanh")), YES, ROWS)
    module = dasp.from_sklearn(pipeline, probabilities=True)
    near(run(module, LATER), pipeline.predict_proba(LATER))


def test_a_pipeline_is_explained_in_its_own_columns() -> None:
    steps = (StandardScaler(), PCA(7, whiten=True), MinMaxScaler((-2, 2), clip=True), SelectKBest(k=5), classifier("tanh"))
    module = dasp.from_sklearn(fitted(make_pipeline(*steps), YES, ROWS))
    found = dasp.Explainer(module, ROWS.mean(0))(LATER[:2])
    truth = dasp.Explainer(module, ROWS.mean(0), method=dasp.Exact())(LATER[:2])
    assert isinstance(found.values, Tensor)
    error = float((found.values - truth.values).norm() / truth.values.norm())
    print(f"pipeline: {error:.4f}")
    assert error < 0.13  # measured 0.083


def test_the_module_keeps_its_weights_when_the_estimator_is_fitted_again() -> None:
    mlp = fitted(classifier(), YES)
    module = dasp.from_sklearn(mlp)
    before = run(module, SCORE)
    fitted(mlp, 1 - YES)
    near(run(module, SCORE), before)


class Doubled(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    def fit(self, x: Any, y: Any = None) -> Doubled:
        self.fitted_ = True
        return self

    def transform(self, x: Any) -> Any:
        return 2 * x


class StandardScalerOfMine(StandardScaler):  # type: ignore[misc]
    def transform(self, x: Any, copy: Any = None) -> Any:
        return super().transform(x) + 1


@pytest.mark.parametrize("step", [Doubled(), Normalizer(), StandardScalerOfMine()])
def test_other_steps_are_refused_by_name(step: Any) -> None:
    pipeline = fitted(Pipeline([("scale", StandardScaler()), ("mine", step), ("mlp", classifier())]), YES, ROWS)
    with pytest.raises(dasp.InputError, match=rf"step 'mine', {type(step).__name__}, has no exact module.*pipeline\[i:\]"):
        dasp.from_sklearn(pipeline)
    rest = dasp.from_sklearn(pipeline[2:], probabilities=True)  # as the message says
    near(run(rest, pipeline[:2].transform(LATER)), pipeline.predict_proba(LATER))


def test_what_cannot_be_converted() -> None:
    with pytest.raises(dasp.InputError, match="MLPClassifier is not fitted"):
        dasp.from_sklearn(classifier())
    with pytest.raises(dasp.InputError, match="StandardScaler is not fitted"):
        dasp.from_sklearn(make_pipeline(StandardScaler(), fitted(classifier(), YES)))
    with pytest.raises(dasp.InputTypeError, match="got LogisticRegression; only MLPClassifier"):
        dasp.from_sklearn(LogisticRegression().fit(SCORE, YES))
    with pytest.raises(dasp.InputTypeError, match="last step 'standardscaler' is StandardScaler"):
        dasp.from_sklearn(make_pipeline(StandardScaler()))
    with pytest.raises(dasp.InputTypeError, match=r"got MLPClassifier \(a class"):
        dasp.from_sklearn(MLPClassifier)
    with pytest.raises(dasp.InputError, match="a regressor has none"):
        dasp.from_sklearn(fitted(regressor(), SCORE[:, 0]), probabilities=True)


def test_estimators_given_as_models_are_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(dasp.InputTypeError, match=r"Explainer\(dasp\.from_sklearn\(estimator\)"):
        dasp.Explainer(fitted(classifier(), YES))
    for module, text in (("skorch.classifier", r"net\.module_"), ("onnx.onnx_ml_pb2", "reads no ONNX")):
        given = type("Given", (), {"__module__": module})()
        with pytest.raises(dasp.InputTypeError, match=text):
            dasp.Explainer(given)
    with pytest.raises(dasp.InputTypeError, match="Module, an ExportedProgram"):
        dasp.Explainer(types.SimpleNamespace())  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "sklearn.neural_network", None)
    with pytest.raises(dasp.MissingExtraError, match=r"dasp\[sklearn\]"):
        dasp.from_sklearn(object())


def test_files_of_other_kinds(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"\x08\x07")
    with pytest.raises(dasp.ModelFileError, match=r"net\.onnx: dasp reads no ONNX.*torch\.export\.export"):
        dasp.Explainer(tmp_path / "net.onnx")


@pytest.mark.parametrize(
    ("name", "needs", "says"),
    [
        ("sklearn_mlp", "sklearn", "relative error"),
        ("skorch_net", "skorch", "relative error"),
        ("lightning_module", "pytorch_lightning", "relative error"),
        ("keras_model", "keras", "relative error"),
        pytest.param("transformer_text", "transformers", "[CLS]", marks=pytest.mark.long),
    ],
)
def test_examples_run(
    name: str, needs: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    monkeypatch.chdir(tmp_path)
    pytest.importorskip(needs)
    threads = torch.get_num_threads()
    try:
        with torch.random.fork_rng(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what training in other libraries warns of is theirs
            runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    finally:
        torch.set_num_threads(threads)
    shown = capsys.readouterr().out
    assert says in shown
    if "relative error" in shown:
        assert float(shown.split()[-1]) < BOUNDS[name]
    print(shown)
