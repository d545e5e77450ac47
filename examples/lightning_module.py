"""A LightningModule: it is a torch module, so it is given as it is; dasp calls its `forward`.

Loggers, optimizers and `training_step` take no part. Lightning is `pip install pytorch-lightning`.
"""

from __future__ import annotations

import logging
import warnings

import pytorch_lightning as lightning
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import dasp


class Regressor(lightning.LightningModule):
    """Ten inputs, one output."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(10, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(rows, 10) to (rows, 1)."""
        result: Tensor = self.layers(x)
        return result

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        """Mean squared error of a batch."""
        x, y = batch
        return nn.functional.mse_loss(self(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.parameters(), lr=0.01)


def main() -> None:
    torch.set_num_threads(1)
    lightning.seed_everything(0, verbose=False)
    x = torch.rand(800, 10) * 2 - 1
    y = x[:, :1] * x[:, 1:2] + x[:, 2:3].relu() - x[:, 3:4] ** 2 + 0.5 * x[:, 4:5]
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    trainer = lightning.Trainer(
        max_epochs=15, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    model = Regressor()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning asks for more workers, and uses what torch has deprecated
        trainer.fit(model, DataLoader(TensorDataset(x, y), batch_size=64, shuffle=True))

    rows = x[:20]
    result = dasp.Explainer(model, 0.0)(rows)
    print("the first row:", " ".join(f"{value:+.2f}" for value in result.values[0].tolist()))
    truth = dasp.Explainer(model, 0.0, method=dasp.Exact())(rows)
    error = (result.values - truth.values).norm(dim=1) / truth.values.norm(dim=1)
    print(f"relative error against all coalitions, mean of {len(rows)} rows: {error.mean():.3f}")


if __name__ == "__main__":
    main()
