"""Scans that can be chosen on the page: those in folders that were named, and no others."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from polyclinic.errors import DataError
from polyclinic.imaging.datasets import read_dataset

ENDINGS = (".nii.gz", ".nii")
MOST_SCANS = 1000  # that can be chosen from
MOST_LOOKED = 50_000  # files and folders of one folder that are looked at


@dataclass(frozen=True)
class Scan:
    """A scan.

    Attributes:
        folder: The folder that was named.
        name: What it is called there.
        path: Its file.
    """

    folder: Path
    name: str
    path: Path


def find_scans(data: Path | None, folders: Sequence[Path]) -> dict[str, Scan]:
    """Return the scans that can be chosen, by what a browser names them by: their paths.

    Args:
        data: Folder with dataset.json, whose cases can be chosen.
        folders: Folders of other scans, with all folders inside them.
    """
    found = [*_cases_of(data), *(each for folder in folders for each in _files_in(folder))]
    return {str(each.path): each for each in found[:MOST_SCANS]}


def _cases_of(data: Path | None) -> list[Scan]:
    """Return the cases of a data set that are one NIfTI file each; none if it cannot be read."""
    try:
        cases = read_dataset(data, labelled=False).cases if data is not None else ()
    except DataError:  # the page's part about the data says why
        return []
    return [
        Scan(case.image[0].parent, case.name, case.image[0])
        for case in cases
        if len(case.image) == 1 and _is_scan(case.image[0].name)
    ]


def _files_in(folder: Path) -> list[Scan]:
    home = folder.resolve()
    paths = sorted(islice(_walk(home), MOST_LOOKED))
    return [
        Scan(folder, str(path.relative_to(home)), path)
        for path in paths
        if _is_scan(path.name) and path.is_file() and path.resolve().is_relative_to(home)
    ]


def _walk(folder: Path) -> Iterator[Path]:
    """Yield all files inside a folder; neither hidden ones, nor through links to other folders."""
    for place, inside, files in os.walk(folder):
        inside[:] = sorted(name for name in inside if not name.startswith("."))
        yield from (Path(place) / name for name in files if not name.startswith("."))


def _is_scan(name: str) -> bool:
    return name.lower().endswith(ENDINGS)
