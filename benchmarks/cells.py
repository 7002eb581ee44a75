"""What benchmarks of training share: cells that are kept, hospitals' folders, and their plan."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from polyclinic.imaging.dataset_files import ELSEWHERE
from polyclinic.imaging.datasets import read_dataset

FILE = "cell.json"
Entries = list[dict[str, str]]


def is_kept(folder: Path) -> bool:
    """Tell whether a cell was made before."""
    return (folder / FILE).exists()


def keep_cell(folder: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Make a cell and keep it with its seconds, or read what it came to before."""
    if is_kept(folder):
        found: dict[str, Any] = json.loads((folder / FILE).read_text())
        return found
    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    made = make()
    result = {**made, "seconds": time.monotonic() - started}
    (folder / FILE).write_text(json.dumps(result))
    return result


def absolute(site: Path, entry: Mapping[str, str]) -> dict[str, str]:
    """Return a case with whole paths."""
    return {key: str((site / entry[key]).resolve()) for key in ("image", "label")}


def write_site(folder: Path, listed: Mapping[str, Any], split: Mapping[str, Entries]) -> Path:
    """Write a hospital's folder, whose cases lie elsewhere; modality and labels are as listed."""
    folder.mkdir(parents=True, exist_ok=True)
    described = {"name": folder.name, "modality": listed["modality"], "labels": listed["labels"]}
    (folder / "dataset.json").write_text(json.dumps({**described, **split}))
    return folder


def make_plan(folder: Path, sites: Sequence[Path], images: Path, *options: str) -> Path:
    """Plan from hospitals' training cases by `polyclinic-server plan --data`; once for a folder.

    Args:
        folder: Where plan.yaml is written.
        sites: Folders with dataset.json.
        images: Folder above all images.
        options: More of the command's.
    """
    plan = folder / "plan.yaml"
    if plan.exists():
        return plan
    folder.mkdir(parents=True, exist_ok=True)
    labels = ",".join(read_dataset(sites[0]).labels)
    command = [sys.executable, "-m", "polyclinic_server.cli.main", "plan", "data=segmentation"]
    command += [f"data.labels=[{labels}]", "--out", str(plan), *options]
    for site in sites:
        command += ["--data", str(site)]
    subprocess.run(command, check=True, env={**os.environ, ELSEWHERE: str(images.resolve())})
    return plan
