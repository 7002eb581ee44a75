"""Files of a folder: every one is looked at, and what is no DICOM object is counted.

A DICOMDIR needs no reading: the files that it lists lie below it, and every file below it is looked
at. An archive is not opened.
"""

import os
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from polyclinic_client.dicom.errors import DicomUnreadable, NothingFound
from polyclinic_client.dicom.reading.instances import Instance, looks_like_dicom, read_instance
from polyclinic_client.dicom.reading.series import Series, group_series

ARCHIVES = {b"PK\x03\x04": "a zip", b"\x1f\x8b": "a gzip", b"7z\xbc\xaf": "a 7z", b"Rar!": "a rar"}
TAR = (257, b"ustar")
DICOMDIR = "DICOMDIR"
THREADS = 4  # they wait for the disk; what is computed in Python, several would do more slowly
HEADER_BYTES = 2**15

OnFile = Callable[[int, int], None]  # files looked at, files


@dataclass(frozen=True, eq=False)
class Findings:
    """What lies in a folder.

    Attributes:
        series: All series, volumes and others.
        damaged: Files that are DICOM and cannot be read, each with the reason.
        archives: Archives, each with its kind.
    """

    series: tuple[Series, ...]
    damaged: tuple[tuple[Path, str], ...] = ()
    archives: tuple[tuple[Path, str], ...] = ()


def find_series(place: Path, on_file: OnFile | None = None) -> Findings:
    """Look at every file below a folder, or at one file.

    Raises:
        NothingFound: There is no such folder, or no DICOM object in it.
    """
    paths = list(_files_below(place))
    found: list[Instance] = []
    damaged: list[tuple[Path, str]] = []
    archives: list[tuple[Path, str]] = []
    with ThreadPoolExecutor(THREADS) as pool:
        for done, (path, _) in enumerate(
            zip(paths, pool.map(_read_ahead, paths), strict=True), start=1
        ):
            result = _look_at(path)
            if isinstance(result, Instance):
                found.append(result)
            elif isinstance(result, DicomUnreadable):
                damaged.append((path, result.problem))
            elif result:
                archives.append((path, result))
            if on_file is not None:
                on_file(done, len(paths))
    if not found and not damaged:
        raise NothingFound(str(place), *_why_nothing(place, paths, archives))
    return Findings(tuple(group_series(found)), tuple(damaged), tuple(archives))


def archive_kind(path: Path) -> str:
    """Return what kind of archive a file is; empty if it is none.

    Raises:
        OSError: It cannot be opened.
    """
    with path.open("rb") as file:
        head = file.read(512)
    if head[128:132] == b"DICM":
        return ""
    if head[TAR[0] : TAR[0] + len(TAR[1])] == TAR[1]:
        return "a tar"
    return next((kind for mark, kind in ARCHIVES.items() if head.startswith(mark)), "")


def _read_ahead(path: Path) -> None:
    """Wait for the disk, so that the thread that computes finds the header in memory."""
    with suppress(OSError), path.open("rb") as file:
        file.read(HEADER_BYTES)


def _look_at(path: Path) -> Instance | DicomUnreadable | str:
    try:
        if kind := archive_kind(path):
            return kind
        if path.name.upper() == DICOMDIR or not looks_like_dicom(path):
            return ""
        return read_instance(path)
    except DicomUnreadable as error:
        return error
    except OSError as error:
        return DicomUnreadable(path, (error.strerror or "cannot be opened").lower())


def _files_below(place: Path) -> Iterator[Path]:
    """Yield regular files, sorted; folders that are links are not entered."""
    if place.is_file():
        yield place
        return
    if not place.is_dir():
        raise NothingFound(str(place), "there is no such folder", "Name the folder of the series.")
    for folder, inside, names in os.walk(place):
        inside[:] = sorted(name for name in inside if not name.startswith("."))
        for name in sorted(names):
            path = Path(folder) / name
            if not name.startswith(".") and _is_regular(path):
                yield path


def _is_regular(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False


def _why_nothing(
    place: Path, paths: list[Path], archives: list[tuple[Path, str]]
) -> tuple[str, str]:
    if archives:
        what = f"{archives[0][1]} archive" if len(archives) == 1 else f"{len(archives)} archives"
        problem = f"it is {what}" if paths == [place] else f"it holds {what}, and no DICOM file"
        return problem, "Unpack it first, and name the folder that this makes."
    if paths == [place]:
        return "it is no DICOM file", "Name the folder that the PACS exported."
    if not paths:
        return "the folder is empty", "Name the folder of the series."
    return (
        f"none of the {len(paths)} files here is DICOM",
        "Name the folder that the PACS exported, or a folder above it.",
    )
