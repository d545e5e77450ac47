"""A result, its figure and its explainer as artifacts of an MLflow run, in a local store: python examples/mlflow_run.py"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import torch

import dasp

os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # mlflow-skinny has no other store without a server
import mlflow


def main(store: Path) -> Path:
    store = store.resolve()
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
    explainer = dasp.Explainer(model, 0.0, feature_names=["age", "dose", "weight", "height", "pulse"])
    result = explainer(torch.randn(20, 5))

    store.mkdir(parents=True, exist_ok=True)
    mlflow.set_tracking_uri(store.as_uri())
    experiment = mlflow.create_experiment("explanations", artifact_location=(store / "artifacts").as_uri())
    with mlflow.start_run(experiment_id=experiment) as run, tempfile.TemporaryDirectory() as folder:
        mlflow.log_artifact(str(result.save(Path(folder) / "values")))
        mlflow.log_figure(dasp.plots.bar(result).figure, "values.png")
        mlflow.log_artifact(str(explainer.save_pretrained(Path(folder) / "explainer")))
    return store / "artifacts" / run.info.run_id / "artifacts"


if __name__ == "__main__":
    print(main(Path(sys.argv[1] if len(sys.argv) > 1 else "mlruns")))
