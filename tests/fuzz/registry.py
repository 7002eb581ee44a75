"""Every reader of what comes in from the other side, or lies in a file.

A new reader gets its line in one of these modules: both the tests and `make fuzz` take it from
here.
"""

from pathlib import Path

from tests.fuzz import (
    bundles,
    coordinator_files,
    dicom,
    frames,
    hospital_files,
    images,
    ledger,
    messages,
    models,
    pages,
    plans,
    segmentation,
    sums,
    texts,
    training_files,
)
from tests.fuzz.reader import Reader

MODULES = (
    messages,
    frames,
    segmentation,
    hospital_files,
    coordinator_files,
    ledger,
    texts,
    images,
    models,
    plans,
    bundles,
    training_files,
    sums,
    dicom,
    pages,
)
READERS: dict[str, Reader] = {
    reader.name: reader for module in MODULES for reader in module.READERS
}
KEPT = Path(__file__).parent / "kept"  # READER/*: inputs that went wrong once


def kept_inputs() -> list[tuple[str, Path]]:
    """Return the inputs that went wrong once, each with its reader's name."""
    return [(path.parent.name, path) for path in sorted(KEPT.glob("*/*"))]
