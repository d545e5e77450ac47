"""A Keras 3 model of token ids that masks its padding, on torch: which tokens it goes by, with the padding kept as padding."""

from __future__ import annotations

import os

os.environ["KERAS_BACKEND"] = "torch"  # before keras is imported

import keras
import torch
from keras import layers

import dasp

WORDS, STEPS, ABSENT = 12, 9, 12
"""Ids 1 to 11 are words, 0 is padding; the id after them stands for an absent token."""


def main() -> None:
    torch.set_num_threads(1)
    keras.utils.set_random_seed(0)
    lengths = torch.randint(4, STEPS + 1, (600, 1))
    ids = torch.randint(1, WORDS, (600, STEPS)) * (torch.arange(STEPS) < lengths)
    score = ((ids == 3).any(1) & (ids != 5).all(1)).float()[:, None]  # a 3, and no 5

    inputs = keras.Input((STEPS,), dtype="int32")
    x = layers.Embedding(WORDS + 1, 8, mask_zero=True)(inputs)
    model = keras.Model(inputs, layers.Dense(1)(layers.LSTM(12, unroll=True)(x)))  # a loop with a mask must be unrolled
    model.compile(optimizer=keras.optimizers.Adam(0.02), loss="mse")
    model.fit(ids.numpy(), score.numpy(), epochs=6, verbose=0)

    # The rows once more, as a further argument: their own masks stay, whatever is absent.
    rows = ids[:4]
    explainer = dasp.Explainer(model, ABSENT, players=dasp.players.tokens())
    result = explainer(rows, additional_forward_args=rows)
    for row, values, output in zip(rows.tolist(), result.values.tolist(), result.output.tolist(), strict=True):
        print(" ".join(f"{word}:{value:+.2f}" for word, value in zip(row, values, strict=True)), f"-> {output:.2f}")


if __name__ == "__main__":
    main()
