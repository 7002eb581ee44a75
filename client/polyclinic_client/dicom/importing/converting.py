"""One case of a data folder, made of its series: in a process of its own, beside others.

A decoder that dies takes its process with it, and not the import.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from polyclinic.errors import DataError
from polyclinic.imaging.headers import Grid
from polyclinic.system.machine import given_memory, limit_memory
from polyclinic_client.dicom.errors import DicomUnreadable, LabelsRefused, SeriesRefused
from polyclinic_client.dicom.importing.planning import PlannedCase
from polyclinic_client.dicom.labels.maps import read_labels
from polyclinic_client.dicom.mapping import Label
from polyclinic_client.dicom.reading.volumes import Volume, read_volume, write_nifti, write_volume

IMAGES, LABELS = "images", "labels"
ENDING = ".nii.gz"


@dataclass(frozen=True)
class Outcome:
    """What became of a case: why there is none, or what is worth a note."""

    case: str
    problem: str = ""
    resampled: int = 0
    overlapping: int = 0


@dataclass(frozen=True, eq=False)
class Conversion:
    """A case to be made in a folder."""

    case: PlannedCase
    labels: tuple[Label, ...]
    data: Path


def image_files(name: str, channels: int) -> list[str]:
    """Return the files of a case's channels, relative to the data folder."""
    if channels == 1:
        return [f"{IMAGES}/{name}{ENDING}"]
    return [f"{IMAGES}/{name}_{number:04}{ENDING}" for number in range(channels)]


def label_file(name: str) -> str:
    """Return the file of a case's label map, relative to the data folder."""
    return f"{LABELS}/{name}{ENDING}"


def convert(work: Conversion) -> Outcome:
    """Write a case's image files and its label map."""
    case = work.case
    try:
        volumes = [read_volume(each, "series") for each in case.channels]
        grid = volumes[case.base].grid
        files = image_files(case.name, len(volumes))
        resampled = 0
        label_map = read_labels([(one, "labels") for one in case.labels], work.labels, grid)
        for series, volume, file in zip(case.channels, volumes, files, strict=True):
            lying = volume
            if not volume.grid.matches(grid):
                same = case.channels[case.base].first.frame_of_reference
                if not same or series.first.frame_of_reference != same:
                    raise SeriesRefused("series", "its channels do not share one coordinate system")
                resampled += 1
                lying = onto(volume, grid)
            write_volume(work.data / file, lying)
        if case.labels:
            write_nifti(work.data / label_file(case.name), label_map.voxels, grid)
        return Outcome(case.name, "", resampled, label_map.overlapping)
    except (DicomUnreadable, SeriesRefused, LabelsRefused) as error:
        return Outcome(case.name, error.problem)
    except DataError as error:
        return Outcome(case.name, type(error).__name__)
    except MemoryError:
        return Outcome(case.name, "it needs more memory than there is")


def onto(volume: Volume, grid: Grid) -> Volume:
    """Interpolate a volume linearly onto another grid; beyond its border lies its least value."""
    step = np.linalg.inv(volume.grid.affine) @ grid.affine
    voxels: NDArray[np.float32] = ndimage.affine_transform(
        volume.voxels.astype(np.float32),
        step[:3, :3],
        step[:3, 3],
        grid.shape,
        order=1,
        mode="constant",
        cval=float(volume.voxels.min()),
    )
    return Volume(voxels, grid)


def convert_all(
    works: Sequence[Conversion], at_once: int, run: Callable[[Conversion], Outcome] = convert
) -> Iterator[Outcome]:
    """Convert several cases at a time, and yield what became of each.

    A process that dies ends the work of those beside it: they are done again, one at a time, so
    that only the case that kills its process is lost.
    """
    left = list(works)
    for outcome in _in_pool(left, at_once, run):
        left = [work for work in left if work.case.name != outcome.case]
        yield outcome
    for work in left:
        found = list(_in_pool([work], 1, run))
        yield (
            found[0]
            if found
            else Outcome(work.case.name, "a decoder failed on it and ended its process")
        )


def _in_pool(
    works: Sequence[Conversion], at_once: int, run: Callable[[Conversion], Outcome]
) -> Iterator[Outcome]:
    """Yield outcomes until all are there, or a process has died."""
    if not works:
        return
    count = max(1, min(at_once, len(works)))
    pool = ProcessPoolExecutor(
        count, get_context("spawn"), initializer=limit_memory, initargs=(given_memory() / count,)
    )
    try:
        futures: list[Future[Outcome]] = [pool.submit(run, work) for work in works]
        for future in as_completed(futures):
            yield future.result()
    except BrokenProcessPool:
        return
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
