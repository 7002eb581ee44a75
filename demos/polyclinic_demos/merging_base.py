"""Base that the hospitals of `demo-merging` start from, made once for a folder of data."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from polyclinic.system.processes import Child, python_module
from polyclinic_demos.cohorts.hospitals import write_cohort
from polyclinic_demos.cohorts.scanner import Scanner
from polyclinic_demos.federation import running
from polyclinic_demos.progress import counting, following

PUBLIC = tuple(  # scanners that take no part; their images stand for public data
    Scanner(f"public-{number}", modality, contrast, 0.2, 0.03, (1.0, 1.0, 1.0), 0.4, 0.03, "RAS")
    for number, (modality, contrast) in enumerate(
        (
            ("T1", (0.25, 0.66, 0.97)),
            ("T2", (0.95, 0.6, 0.4)),
            ("PD", (0.3, 0.9, 0.7)),
            ("T1", (0.1, 0.5, 0.8)),
        ),
        start=1,
    )
)
PASSES, LEARNING_RATE = 40, 0.004


def pretrain_brain(folder: Path, seed: int, console: Console) -> Path:
    """Train on images of scanners that take no part.

    Args:
        folder: Where data and base go.
        seed: Seed of the demo; the public images have another one.
        console: Where progress is shown.

    Returns:
        The file of the weights.

    Raises:
        PolyclinicError: The training failed, with its reason.
    """
    with counting(console, "writing public images for the base") as tell:
        public = write_cohort(
            folder / f"public-seed-{seed}",
            sites=len(PUBLIC),
            subjects=(2, 1, 0),
            seed=seed + 1000,
            scanners=PUBLIC,
            on_progress=tell,
        )
    settings = [
        "experiment=demo_merging",
        f"seed={seed}",
        f"rounds={PASSES}",
        f"training.learning_rate={LEARNING_RATE}",
    ]
    return _make(folder, f"brain-seed-{seed}", public, settings, console)


def pretrain_cells(folder: Path, console: Console) -> Path:
    """Write the weights that a package brings, so that no hospital needs that package.

    Args:
        folder: Where the base goes.
        console: Where progress is shown.

    Returns:
        The file of the weights.

    Raises:
        PolyclinicError: The network cannot be made, with the reason.
    """
    return _make(folder, "cells", [], ["experiment=demo_cells", "model.pretrained=true"], console)


def _make(
    folder: Path, name: str, data: Sequence[Path], settings: Sequence[str], console: Console
) -> Path:
    """Run the pretraining as a process of its own, unless its file is there."""
    out = folder.resolve() / f"base-{name}.safetensors"
    if out.exists():
        return out
    arguments = (str(out), *map(str, data), "--", *settings)
    command = python_module("polyclinic_demos.pretraining", *arguments)
    log = folder / "pretraining.log"
    child = Child("the pretraining", command, log)
    what = "making the base that everybody starts from"
    with following(console, what, log) as look, running([child]):
        while child.wait(0.5) is None:
            look()
        if child.status():
            child.check()
    return out
