"""Tasks of hospitals: what a hospital declares of its own task, and its job in the federation."""

from dataclasses import dataclass, replace
from typing import Literal, Protocol, runtime_checkable

from polyclinic.config.schemas import DataConfig, JobConfig
from polyclinic.config.tasks import KINDS
from polyclinic.errors import ConfigError
from polyclinic.imaging.datasets import SiteDataset
from polyclinic.imaging.image_files import check_header


@dataclass(frozen=True)
class SiteTask:
    """A hospital's declaration of its task: the number of its classes, and nothing else about them.

    Attributes:
        kind: segmentation or classification.
        classes: Number of classes, at least 2; the background of a segmentation is one of them.
        channels: Number of channels of the hospital's images.
        dimensions: 2 or 3, of the hospital's images; a 2-D network reads volumes slice by slice.
    """

    kind: Literal["segmentation", "classification"]
    classes: int
    channels: int
    dimensions: int

    def __str__(self) -> str:
        channels = "1 channel" if self.channels == 1 else f"{self.channels} channels"
        return f"{self.kind}, {self.classes} classes, {channels}, {self.dimensions}-D"


@runtime_checkable
class SiteHeadNetwork(Protocol):
    """A network whose head belongs to a hospital's task and stays there.

    It names a method alone: from Python 3.12 on, `isinstance` does not see a module's submodules.
    """

    def attach_head(self, task: SiteTask) -> None:
        """Give the network a head for the task, with random weights."""
        ...


def declare_task(dataset: SiteDataset) -> SiteTask:
    """Make a hospital's declaration from its dataset.json and the header of its first image.

    Raises:
        DataError: The image's header cannot be read.
        ConfigError: The task is none that a hospital may have of its own.
    """
    if dataset.task not in ("segmentation", "classification"):
        raise ConfigError(
            f"A {KINDS[dataset.task].title} is no task that a hospital may have of its own: "
            "data.task=own is for segmentation and classification."
        )
    flat = check_header(dataset.cases[0].image[0]).grid.shape[2] == 1
    return SiteTask(dataset.task, len(dataset.labels), len(dataset.modality), 2 if flat else 3)


def site_data(data: DataConfig, dataset: SiteDataset) -> DataConfig:
    """Fill the hospital's kind of task, classes and channels into `task: own`; keep other data."""
    if data.task != "own":
        return data
    return replace(data, task=dataset.task, labels=dataset.labels, channels=len(dataset.modality))


def site_job(job: JobConfig, dataset: SiteDataset) -> JobConfig:
    """Fill the hospital's task into a job, see `site_data`."""
    return replace(job, data=site_data(job.data, dataset))
