"""Damaged files take no more memory than the image that they may hold, and a little."""

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random

import pytest

from polyclinic.errors import DatasetInvalid
from polyclinic.imaging import nifti
from polyclinic.imaging.datasets import read_dataset
from tests.fuzz import images
from tests.fuzz.registry import READERS

SLACK_BYTES = 3 * 2**20  # of what a reader takes besides an image
FILES = 50  # of each kind


@contextmanager
def bounded(limit_bytes: int) -> Iterator[None]:
    """Fail if more memory is taken than that, at any time."""
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= limit_bytes, f"{peak:,} bytes"


@pytest.mark.parametrize("name", [reader.name for reader in images.READERS])
def test_a_damaged_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nifti, "BLOCK", 2**14)
    reader, random, read = READERS[name], Random(2), 0
    reader.read(reader.sound, tmp_path)  # imports are not counted
    for _ in range(FILES):
        content = reader.draw(random)
        with bounded(images.LIMIT_BYTES + SLACK_BYTES), suppress(*reader.errors):
            reader.read(content, tmp_path)
            read += 1
    assert read < FILES


def test_a_deep_and_a_wide_dataset_json(tmp_path: Path) -> None:
    texts = ["[" * 10**5, '{"a":' * 10**5, '{"training": [' + "[]," * 10**5 + "[]]}"]
    for text in texts:
        (tmp_path / "dataset.json").write_text(text)
        with pytest.raises(DatasetInvalid), bounded(2**26):
            read_dataset(tmp_path)
