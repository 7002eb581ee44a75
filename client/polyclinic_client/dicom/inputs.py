"""Series as inputs of `predict` and `segment`: each becomes a NIfTI file for the time of the work.

The files lie in a folder that only this user can read, and that is removed.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

from polyclinic.errors import DataError
from polyclinic.imaging.image_files import SUFFIXES
from polyclinic_client.dicom.errors import DicomUnreadable, SeriesRefused
from polyclinic_client.dicom.reading.finding import archive_kind, find_series
from polyclinic_client.dicom.reading.instances import looks_like_dicom
from polyclinic_client.dicom.reading.series import Series
from polyclinic_client.dicom.reading.volumes import read_volume, write_volume

Tell = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Inputs:
    """Image files, and which of them stand for a series.

    Attributes:
        files: In the order that was given.
        series: File to the series that it stands for.
        faults: Why a series is not among the files.
    """

    files: list[Path] = field(default_factory=list)
    series: dict[Path, Series] = field(default_factory=dict)
    faults: list[DataError] = field(default_factory=list)


@contextmanager
def nifti_inputs(images: Sequence[Path], tell: Tell) -> Iterator[Inputs]:
    """Yield image files for files and folders, of which some are DICOM.

    Args:
        images: Image files, folders of them, DICOM files, folders of series.
        tell: Told of every series that is left out.

    Raises:
        SeriesRefused: None of the series is a volume.
        NothingFound: A folder of DICOM files has no series.
    """
    found = Inputs()
    with tempfile.TemporaryDirectory(prefix="polyclinic-") as name:
        for image in images:
            if is_dicom(image):
                _add(found, image, Path(name) / str(len(found.files)), tell)
            else:
                found.files.append(image)
        if found.faults and not found.files:
            raise found.faults[0]
        yield found


def is_dicom(image: Path) -> bool:
    """Tell whether an input is DICOM: a file, or a folder without image files of other kinds.

    Raises:
        SeriesRefused: It is an archive.
    """
    try:
        if image.is_dir():
            inside = [each for each in image.iterdir() if not each.name.startswith(".")]
            if any(each.name.lower().endswith(SUFFIXES) for each in inside):
                return False
            return any(_begins_so(each) for each in image.rglob("*") if each.is_file())
        return not image.name.lower().endswith(SUFFIXES) and _begins_so(image)
    except OSError:
        return False


def _begins_so(path: Path) -> bool:
    if kind := archive_kind(path):
        raise SeriesRefused(
            str(path), f"it is {kind} archive", "Unpack it, and name the folder that it makes."
        )
    return looks_like_dicom(path)


def _add(found: Inputs, place: Path, folder: Path, tell: Tell) -> None:
    """Add the volumes of a folder, named after it."""
    findings = find_series(place)
    wanted = []
    for series in findings.series:
        if series.first.kind != "image":
            continue
        if series.is_localizer:
            tell(f"{place}: a localizer is left out")
            continue
        wanted.append(series)
    if not wanted:
        why = findings.damaged[0][1] if findings.damaged else "it holds no CT, MR or PET images"
        found.faults.append(SeriesRefused(str(place), why))
        return
    stem = place.name if place.is_dir() else place.stem
    for number, series in enumerate(wanted, start=1):
        folder.mkdir(mode=0o700, exist_ok=True)
        path = folder / f"{stem if len(wanted) == 1 else f'{stem}-{number}'}.nii.gz"
        try:
            _convert(series, path, f"{place}, series {number} of {len(wanted)}")
        except (DicomUnreadable, SeriesRefused) as error:
            tell(str(error))
            found.faults.append(error)
            continue
        found.files.append(path)
        found.series[path] = series


def _convert(series: Series, path: Path, named: str) -> None:
    """Write a series as NIfTI; a decoder of compressed pixels works in a process of its own."""
    if not any(each.compressed for each in series.instances):
        _write(series, path, named)
        return
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        try:
            problem = pool.submit(_try, series, path, named).result()
        except BrokenProcessPool as error:
            raise SeriesRefused(named, "a decoder failed on it and ended its process") from error
    if problem:
        raise SeriesRefused(named, problem)


def _try(series: Series, path: Path, named: str) -> str:
    """Write a series; return why that is not possible."""
    try:
        _write(series, path, named)
    except (DicomUnreadable, SeriesRefused) as error:
        return error.problem
    return ""


def _write(series: Series, path: Path, named: str) -> None:
    write_volume(path, read_volume(series, named))
