"""Find the task that settings name."""

from polyclinic.config.schemas import DataConfig
from polyclinic.errors import ConfigError
from polyclinic.learning.tasks.images import Classification, MultiLabel, Regression
from polyclinic.learning.tasks.task import Task
from polyclinic.learning.tasks.voxels import Regions, Segmentation

TASKS: dict[str, Task] = {
    "segmentation": Segmentation(),
    "regions": Regions(),
    "classification": Classification(),
    "multilabel": MultiLabel(),
    "regression": Regression(),
}


def task_of(data: DataConfig) -> Task:
    """Return the task of `data.task`.

    Raises:
        ConfigError: Every hospital has its own, and which one is not known here.
    """
    if data.task not in TASKS:
        raise ConfigError(
            f"data.task={data.task}: every hospital has a task of its own, which is not known here."
        )
    return TASKS[data.task]
