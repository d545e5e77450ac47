"""A report page about a network that tells tumours apart: 30 named features, audited, one HTML file.

`--picture FILE` also draws what a browser shows of it; this needs `pip install -e '.[browser]'` and Chromium.
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path

import torch
from sklearn.datasets import load_breast_cancer
from torch import nn

import dasp

OUT = Path("out")
SIZE = {"width": 1280, "height": 1180}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--picture", type=Path, help="also draw the page into this file")
    picture = arguments.parse_args().picture
    OUT.mkdir(exist_ok=True)
    torch.set_num_threads(1)
    data = load_breast_cancer()
    rows = torch.tensor(data.data, dtype=torch.float32)
    rows = (rows - rows.mean(0)) / rows.std(0)
    model = train(rows, torch.tensor(data.target, dtype=torch.float32))
    explainer = dasp.Explainer(model, 0.0, feature_names=[str(name) for name in data.feature_names])
    result = explainer(rows[:300])
    audit = result.audit(500)
    print(audit)
    print(dasp.report.write(result, OUT / "report.html", audit=audit, title="Tumours: is it benign?"))
    if picture is not None:
        draw(OUT / "report.html", picture)


def train(rows: torch.Tensor, labels: torch.Tensor) -> nn.Module:
    """A small network whose output is a logit, the same on every run."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(30, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3, weight_decay=1e-3)
    for _ in range(60):
        for batch in torch.randperm(len(rows)).split(64):
            optimizer.zero_grad()
            nn.functional.binary_cross_entropy_with_logits(model(rows[batch])[:, 0], labels[batch]).backward()
            optimizer.step()
    return model.eval().requires_grad_(False)


def draw(page: Path, picture: Path) -> None:
    """The page with one row open, as Chromium shows it."""
    from PIL import Image
    from playwright.sync_api import sync_playwright

    found = [os.environ.get("DASP_CHROMIUM"), *map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))]
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=next(filter(None, found), None), args=["--no-sandbox"])
        view = browser.new_page(viewport=SIZE)
        view.goto(page.resolve().as_uri())
        view.wait_for_selector("#table .tabulator-row")
        view.wait_for_timeout(500)  # until the importance is drawn
        view.screenshot(path=picture, full_page=True)
        browser.close()
    Image.open(picture).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(picture, optimize=True)


if __name__ == "__main__":
    main()
