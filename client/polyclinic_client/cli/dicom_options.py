"""DICOM series as inputs of `predict` and `segment`, and DICOM SEG as their results."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from polyclinic.errors import ConfigError
from polyclinic.imaging.volumes import read_label
from polyclinic.system.text import clean_lines
from polyclinic_client.dicom.inputs import Inputs, nifti_inputs
from polyclinic_client.dicom.pacs import Pacs, RemoteSeries
from polyclinic_client.dicom.reading.series import Series

SEG = ".dcm"


@dataclass(frozen=True, eq=False)
class DicomInputs:
    """Image files, some of which stand for series, and what becomes of their results."""

    inputs: Inputs
    pacs: Pacs | None
    console: Console

    @property
    def files(self) -> list[Path]:
        """Image files."""
        return self.inputs.files

    @property
    def names(self) -> dict[Path, str]:
        """Files that stand for a series, and what the series is called."""
        return {path: path.name.removesuffix(".nii.gz") for path in self.inputs.series}

    def write_segmentation(self, image: Path, target: Path, labels: Sequence[str]) -> None:
        """Write a label map of a series as DICOM SEG beside it, and store it if that was asked."""
        series: Series | None = self.inputs.series.get(image)
        if series is None:
            return
        from polyclinic_client.dicom.labels.writing import write_segmentation

        path = target.with_name(target.name.removesuffix(".gz").removesuffix(".nii") + SEG)
        if path.exists():
            return
        voxels = read_label(target, len(labels)).numpy()[0].astype(np.uint8)
        write_segmentation(path, voxels, series, labels, self.names[image])
        if self.pacs is not None:
            try:
                self.pacs.store(path)
            except BaseException:
                path.unlink()  # so that the next call stores it
                raise
            self.console.print(f"{path} stored in the PACS", markup=False)


@contextmanager
def dicom_inputs(
    images: Sequence[Path],
    pacs: str | None,
    series: Sequence[str],
    console: Console,
    *,
    store: bool,
) -> Iterator[DicomInputs]:
    """Yield image files for images and series; a series' fault is raised when all others are done.

    Raises:
        ConfigError: Nothing is named, or options contradict each other.
        DataError: The fault of the first series that is no volume.
        PacsUnreachable, PacsRefused: The PACS does not give a series, or not take a result.
    """
    if (series or store) and pacs is None:
        raise ConfigError("--series and --store need a PACS: --pacs URL.")
    if not images and not series:
        raise ConfigError("Name images, or a series in a PACS: --pacs URL --series STUDY/SERIES.")
    remote = Pacs(pacs) if pacs else None
    with tempfile.TemporaryDirectory(prefix="polyclinic-") as folder:
        fetched = [_fetch(remote, each, Path(folder)) for each in series] if remote else []
        with nifti_inputs([*images, *fetched], _teller(console)) as inputs:
            yield DicomInputs(inputs, remote if store else None, console)
            if inputs.faults:
                raise inputs.faults[0]


def _fetch(pacs: Pacs, which: str, folder: Path) -> Path:
    """Fetch a series into a folder whose name says nothing about the patient."""
    from polyclinic_client.dicom.importing.site_map import SiteMap, default_site_map

    study, _, series = which.partition("/")
    if not series:
        raise ConfigError(f"--series {which}: write StudyInstanceUID/SeriesInstanceUID.")
    target = folder / SiteMap(default_site_map()).name("series", series)
    pacs.fetch(RemoteSeries(study, series), target)
    return target


def _teller(console: Console) -> Callable[[str], None]:
    return lambda text: console.print(clean_lines(text), markup=False)
