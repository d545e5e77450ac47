"""Data files of the experiments: found or downloaded, always checked; and files written whole or not at all."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dasp.errors import DataFileError, OutputFileError
from dasp.experiments import data, files
from dasp.experiments.files import IMAGES, LABELS, PARKINSON, DataFolder, Source

CONTENT = bytes(range(256)) * 2000  # longer than one chunk of a download


def sum_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A web server on this machine, and the folder it serves."""
    folder = tmp_path_factory.mktemp("site")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", folder
        server.shutdown()
        thread.join()


@pytest.fixture
def source(site: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> Source:
    address, folder = site
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv("DASP_DATA", raising=False)
    (folder / "rows.gz").write_bytes(gzip.compress(CONTENT))
    return Source("rows.gz", f"{address}/rows.gz", sum_of(CONTENT), "https://example.org/rows", "somebody, CC0")


@pytest.fixture
def zipped(source: Source, site: tuple[str, Path]) -> Source:
    address, folder = site
    with zipfile.ZipFile(folder / "all.zip", "w") as archive:
        archive.writestr("readme", b"nothing")
        archive.writestr("rows.data", CONTENT)
    return replace(source, name="rows.csv", url=f"{address}/all.zip", member="rows.data")


def cached(folder: Path) -> DataFolder:
    return DataFolder.find(None, folder, progress=False)


def test_a_download_is_unpacked_and_kept(source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cached(tmp_path / "cache").read(source) == CONTENT
    monkeypatch.setattr(files, "_download", None)  # from now on the copy must do
    assert cached(tmp_path / "cache").read(source) == CONTENT
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["rows.gz"]


def test_a_member_of_a_zip_archive_is_taken_out(zipped: Source, tmp_path: Path) -> None:
    assert cached(tmp_path).read(zipped) == CONTENT
    assert (tmp_path / "rows.csv").read_bytes() == CONTENT
    with pytest.raises(DataFileError, match="no zip archive that holds other"):
        cached(tmp_path / "other").read(replace(zipped, member="other.data", sha256="0"))


@pytest.mark.parametrize("fault", ["other", "damaged", "cut"])
def test_a_wrong_download_is_named_and_not_kept(
    fault: str, source: Source, site: tuple[str, Path], tmp_path: Path
) -> None:
    packed = gzip.compress(CONTENT)
    served = {
        "other": gzip.compress(b"other"),
        "damaged": packed[:200] + bytes(100) + packed[300:],
        "cut": packed[: len(packed) // 2],
    }
    (site[1] / "rows.gz").write_bytes(served[fault])
    with pytest.raises(DataFileError) as caught:
        cached(tmp_path / "cache").read(source)
    message = str(caught.value)
    assert "rows.gz" in message
    assert "https://example.org/rows" in message
    assert "--data" in message
    if fault == "other":
        assert sum_of(b"other") in message
        assert sum_of(CONTENT) in message
    assert not (tmp_path / "cache").exists()


def test_a_damaged_copy_is_fetched_anew(source: Source, tmp_path: Path) -> None:
    (tmp_path / "rows.gz").write_bytes(b"half")
    assert cached(tmp_path).read(source) == CONTENT
    assert gzip.decompress((tmp_path / "rows.gz").read_bytes()) == CONTENT


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/rows.gz", "http://name.invalid/rows.gz", "{site}/missing.gz"])
def test_without_a_network_the_error_says_how_to_do_without(
    url: str, source: Source, site: tuple[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(DataFileError) as caught:
        cached(tmp_path / "cache").read(replace(source, url=url.format(site=site[0])))
    message = str(caught.value)
    for part in ("rows.gz: cannot be downloaded", "https://example.org/rows", "--data FOLDER", "DASP_DATA"):
        assert part in message
    assert not (tmp_path / "cache").exists()


def test_a_full_disk_leaves_no_half_download(source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_up(monkeypatch)
    with pytest.raises(OutputFileError, match="No space left"):
        cached(tmp_path).read(source)
    assert list(tmp_path.iterdir()) == []


def fill_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on a file takes its first hundred bytes, and no more."""

    def write(self: Path, content: bytes) -> int:
        with self.open("wb") as file:
            file.write(content[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", write)


def test_a_named_folder_is_used_and_checked(zipped: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named, cache = tmp_path / "data", tmp_path / "cache"
    monkeypatch.setattr(files, "_download", None)
    with pytest.raises(DataFileError, match="no such folder \\(--data names it\\)"):
        DataFolder.find(named, cache)
    monkeypatch.setenv("DASP_DATA", str(named))
    with pytest.raises(DataFileError, match="the environment variable DASP_DATA names it"):
        DataFolder.find(None, cache)
    named.mkdir()
    folder = DataFolder.find(None, cache)
    with pytest.raises(DataFileError, match=r"rows.csv or rows.data is not in .*data\. Get it from https://example.org/rows"):
        folder.read(zipped)
    (named / "rows.data").write_bytes(CONTENT)  # as the archive calls it
    assert folder.read(zipped) == CONTENT
    (named / "rows.csv").write_bytes(CONTENT + b"\n")
    with pytest.raises(DataFileError) as caught:
        folder.read(zipped)
    for part in (str(named / "rows.csv"), sum_of(CONTENT + b"\n"), f"expected {sum_of(CONTENT)}", zipped.page, "--data"):
        assert part in str(caught.value)
    assert not cache.exists()


def test_packing_a_file_anew_changes_nothing(source: Source, tmp_path: Path) -> None:
    (tmp_path / "rows.gz").write_bytes(gzip.compress(CONTENT, compresslevel=1))
    assert DataFolder.find(tmp_path, tmp_path / "cache").read(source) == CONTENT


def test_writing_leaves_the_old_file_or_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "result.npz"
    files.write_arrays(path, {"values": np.arange(3)})
    with monkeypatch.context() as patch:
        fill_up(patch)
        with pytest.raises(OutputFileError, match=r"result\.npz: cannot be written \(No space left on device\)") as caught:
            files.write_arrays(path, {"values": np.arange(4000)})
        assert "run the same command again" in str(caught.value)
        with pytest.raises(OutputFileError):
            files.write_weights(path.with_name("weights.pt"), torch.nn.Linear(50, 50))

    def interrupted(partial: Path) -> None:
        partial.write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        files.replace_file(path, interrupted)
    assert [found.name for found in path.parent.iterdir()] == ["result.npz"]
    with np.load(path) as stored:
        assert stored["values"].tolist() == [0, 1, 2]


def test_weights_come_back(tmp_path: Path) -> None:
    layer = torch.nn.Linear(3, 2)
    files.write_weights(tmp_path / "weights.pt", layer)
    found = torch.load(io.BytesIO((tmp_path / "weights.pt").read_bytes()), weights_only=True)
    assert (found["weight"] == layer.weight).all()


def test_labels_have_names_of_their_own() -> None:
    labels = ("rank 64", "rank-64", "Rank 64", "a" * 100, "a" * 101, "±", "")
    found = [files.slug(label) for label in labels]
    assert len(set(found)) == len(labels)
    assert all(len(one) < 80 and one == one.lower() and "/" not in one for one in found)
    assert files.slug("rank 64") == found[0]


def test_the_data_sets_of_the_paper_are_as_described(paper_data: Path, tmp_path: Path) -> None:
    folder = DataFolder.find(paper_data, tmp_path)
    voices, digits = data.parkinson(folder), data.mnist(folder)
    assert voices.train_inputs.shape == (4995, 18)
    assert voices.test_inputs.shape == (880, 18)
    assert voices.names is not None
    assert voices.names[:3] == ("age", "sex", "Jitter(%)")
    everyone = torch.cat([voices.train_inputs, voices.test_inputs])
    assert everyone.amin(dim=0).tolist() == [-1.0] * 18
    assert everyone.amax(dim=0).tolist() == [1.0] * 18
    scores = torch.cat([voices.train_targets, voices.test_targets])
    assert (float(scores.min()), float(scores.max())) == (7.0, pytest.approx(54.992))
    assert digits.train_inputs.shape == (9000, 1, 28, 28)
    assert (float(digits.test_inputs.min()), float(digits.test_inputs.max())) == (-1.0, 1.0)
    counts = torch.cat([digits.train_targets, digits.test_targets]).bincount().tolist()
    assert counts == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]  # of the test digits, as published
    assert {one.name for one in (PARKINSON, IMAGES, LABELS)} <= {path.name for path in paper_data.iterdir()}
