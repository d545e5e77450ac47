"""A network trained by skorch: its fitted module is in `net.module_`."""

from __future__ import annotations

import torch
from skorch import NeuralNetRegressor
from torch import nn

import dasp


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x = torch.rand(800, 10) * 2 - 1
    y = (x[:, :1] * x[:, 1:2] + x[:, 2:3].relu() - x[:, 3:4] ** 2 + 0.5 * x[:, 4:5])
    net = NeuralNetRegressor(
        nn.Sequential(nn.Linear(10, 64), nn.SiLU(), nn.Linear(64, 1)),
        optimizer=torch.optim.Adam, lr=0.01, max_epochs=40, batch_size=64, verbose=0,
    )  # fmt: skip
    net.fit(x.numpy(), y.numpy())
    print(f"trained to an R2 of {net.score(x.numpy(), y.numpy()):.3f}")

    rows = x[:20]
    result = dasp.Explainer(net.module_, 0.0)(rows)
    print("the first row:", " ".join(f"{value:+.2f}" for value in result.values[0].tolist()))
    truth = dasp.Explainer(net.module_, 0.0, method=dasp.Exact())(rows)
    error = (result.values - truth.values).norm(dim=1) / truth.values.norm(dim=1)
    print(f"relative error against all coalitions, mean of {len(rows)} rows: {error.mean():.3f}")


if __name__ == "__main__":
    main()
