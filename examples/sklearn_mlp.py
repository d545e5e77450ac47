"""A perceptron of scikit-learn, with the pipeline that scales its rows, explained exactly as it predicts.

`dasp.from_sklearn` turns the pipeline into a module that computes the same in float64, so the players are the columns as they
are in the table, not the scaled ones.
"""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import dasp


def main() -> None:
    torch.set_num_threads(1)
    data = load_breast_cancer()
    columns = slice(0, 10)  # the mean of each of ten measurements
    x, y, names = data.data[:, columns], data.target, [str(name) for name in data.feature_names[columns]]
    pipeline = make_pipeline(StandardScaler(), MLPClassifier((32, 16), alpha=0.1, max_iter=2000, random_state=0))
    pipeline.fit(x[:400], y[:400])
    print(f"{pipeline.score(x[400:], y[400:]):.1%} of {len(x) - 400} held-out samples are told right")

    module = dasp.from_sklearn(pipeline)  # the logit of "benign"; probabilities=True gives both probabilities
    rows, baseline = x[400:420], x[:400].mean(0)
    result = dasp.Explainer(module, baseline, feature_names=names)(rows)
    for place in np.argsort(-abs(result.values[0].numpy()))[:4]:
        print(f"  {names[place]:<24} {result.values[0, place]:+.3f}")
    truth = dasp.Explainer(module, baseline, method=dasp.Exact())(rows)
    error = (result.values - truth.values).norm(dim=1) / truth.values.norm(dim=1)
    print(f"relative error against all coalitions, mean of {len(rows)} rows: {error.mean():.3f}")


if __name__ == "__main__":
    main()
