"""A Keras 3 model on torch, trained, saved to a file, and explained from the file: which steps of a series it goes by."""

from __future__ import annotations

import os

os.environ["KERAS_BACKEND"] = "torch"  # before keras is imported

import keras
import torch
from keras import layers

import dasp


def main() -> None:
    torch.set_num_threads(1)
    keras.utils.set_random_seed(0)
    steps = torch.randn(400, 10, 3)
    score = (steps[:, :5, 0].mean(1) * steps[:, 5:, 1].mean(1) + steps[:, -1, 2].tanh())[:, None]
    inputs = keras.Input((10, 3))
    x = layers.Dense(12)(inputs)
    x = layers.LayerNormalization()(x + layers.MultiHeadAttention(2, 6)(x, x))
    model = keras.Model(inputs, layers.Dense(1)(layers.LSTM(16)(x)))
    model.compile(optimizer=keras.optimizers.Adam(0.01), loss="mse")
    model.fit(steps.numpy(), score.numpy(), epochs=4, verbose=0)
    model.save("series.keras")

    rows = steps[:8]
    result = dasp.Explainer("series.keras", 0.0, players=dasp.players.tokens())(rows)  # or the model itself
    print("the first row:", " ".join(f"{value:+.2f}" for value in result.values[0].tolist()))
    truth = dasp.Explainer(model, 0.0, players=dasp.players.tokens(), method=dasp.Exact())(rows)
    error = (result.values - truth.values).norm(dim=1) / truth.values.norm(dim=1)
    print(f"relative error against all coalitions, mean of {len(rows)} rows: {error.mean():.3f}")


if __name__ == "__main__":
    main()
