"""Hospitals whose task is their own: what each declares, and the job that it makes of the federation's."""

from dataclasses import replace

from polyclinic.config.schemas import DataConfig, JobConfig
from polyclinic.imaging.datasets import SiteDataset
from polyclinic.imaging.headers import check_header
from polyclinic.learning.networks.universal import Task


def declare(dataset: SiteDataset) -> Task:
    """What a hospital says of its task, from its dataset.json and the header of its first image.

    Raises:
        DataError: The image's header cannot be read.
    """
    flat = check_header(dataset.cases[0].image[0]).grid.shape[2] == 1
    return Task(dataset.task, len(dataset.labels), len(dataset.modality), 2 if flat else 3)


def own_data(data: DataConfig, dataset: SiteDataset) -> DataConfig:
    """A federation's `task: own` with a hospital's kind of task, classes and channels; any other stays as it is."""
    if data.task != "own":
        return data
    return replace(data, task=dataset.task, labels=dataset.labels, channels=len(dataset.modality))


def own_job(job: JobConfig, dataset: SiteDataset) -> JobConfig:
    """The same of a whole job."""
    return replace(job, data=own_data(job.data, dataset))
