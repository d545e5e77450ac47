"""What several tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

BESIDE_THE_CLONE = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def paper_data() -> Path:
    """Folder with the data sets of the paper: DASP_DATA, else ../shared/data beside the clone."""
    folder = Path(os.environ.get("DASP_DATA", BESIDE_THE_CLONE))
    if not folder.is_dir():
        pytest.skip(f"needs the paper's data sets, and {folder} does not exist; set DASP_DATA (see CONTRIBUTING.md)")
    return folder
