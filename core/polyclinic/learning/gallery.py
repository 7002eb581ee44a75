"""Pictures of a model's answers, for the people at the hospital; they stay in its own folder."""

from pathlib import Path

import numpy as np
from torch import Tensor

from polyclinic.config.schemas import DataConfig
from polyclinic.imaging.datasets import Case
from polyclinic.imaging.pictures import write_slice_pictures
from polyclinic.imaging.volumes import read_image
from polyclinic.learning.prediction import OnCase
from polyclinic.learning.tasks.registry import task_of


def draw_first(folder: Path, data: DataConfig, name: str) -> OnCase:
    """Make what draws image, truth and prediction of the first segmented case.

    `evaluate_natively` calls it with each case.

    Args:
        folder: Gets `image.png`, `truth.png` and `<name>.png`.
        data: What the network was trained on.
        name: Name of the model.
    """
    drawn, task = False, task_of(data)

    def draw(case: Case, answer: Tensor, truth: Tensor) -> None:
        nonlocal drawn
        if drawn:
            return
        found, reference = task.draw(answer), task.draw(truth)
        if found is None or reference is None:
            return
        drawn = True
        image = read_image(
            case.image, data.channels, data.spatial_dims, nan_as_zero=data.nan_as_zero
        )
        write_slice_pictures(
            folder,
            image.as_tensor(),
            np.asarray(image.affine),
            reference.numpy(),
            {name: found.numpy().reshape(reference.shape)},
        )

    return draw
