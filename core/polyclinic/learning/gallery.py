"""Pictures of a model's answers, for the people at the hospital; they stay in its own folder."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from polyclinic.config.schemas import DataConfig
from polyclinic.imaging.datasets import Case
from polyclinic.imaging.pictures import write_slice_pictures
from polyclinic.imaging.volumes import read_image, read_label

OnCase = Callable[[Case, NDArray[np.uint8] | int], None]


def draw_first(folder: Path, data: DataConfig, name: str) -> OnCase:
    """Make what draws image, truth and prediction of the first segmented case.

    `evaluate_natively` calls it with each case.

    Args:
        folder: Gets `image.png`, `truth.png` and `<name>.png`.
        data: What the network was trained on.
        name: Name of the model.
    """
    drawn = False

    def draw(case: Case, predicted: NDArray[np.uint8] | int) -> None:
        nonlocal drawn
        if drawn or isinstance(predicted, int) or not isinstance(case.label, Path):
            return
        drawn = True
        image = read_image(
            case.image, data.channels, data.spatial_dims, nan_as_zero=data.nan_as_zero
        )
        truth = read_label(case.label, values=case.label_values).numpy()[0]
        write_slice_pictures(
            folder,
            image.as_tensor(),
            np.asarray(image.affine),
            truth,
            {name: predicted.reshape(truth.shape)},
        )

    return draw
