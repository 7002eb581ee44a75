"""A hospital's fingerprint: means over its patients of histograms, and how many patients they are.

A patient with several cases counts once, as the mean of them. What a fingerprint reveals is how
many patients, of at least as many as the release policy asks for, lie in a bin; never which ones,
and no case's own figures side by side.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from polyclinic.config.release import Release
from polyclinic.config.schemas import DataConfig
from polyclinic.errors import ConfigError, DatasetInvalid
from polyclinic.imaging.dataset_checks import check_grids
from polyclinic.imaging.datasets import Case, SiteDataset
from polyclinic.imaging.grids import axes_order
from polyclinic.imaging.headers import Grid, spacing_of
from polyclinic.imaging.image_files import check_header
from polyclinic.imaging.subjects import number_subjects
from polyclinic.imaging.volumes import read_image
from polyclinic.learning.tasks.registry import task_of
from polyclinic_strategies.planning.bins import (
    EXTENT_EDGES,
    INTENSITY_EDGES,
    SHAPE_EDGES,
    SPACING_EDGES,
    Numbers,
    count_of,
    one_hot,
    shares,
)

NAME = "fingerprint_1"  # of the question; another layout gets another number
AXES = 3
EDGES = {  # histograms along each axis
    "spacing": SPACING_EDGES,
    "shape": SHAPE_EDGES,
    "extent": EXTENT_EDGES,
}
Parts = Mapping[str, Numbers]


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """What a hospital tells of its training cases.

    Attributes:
        subjects: Number of patients.
        parts: Means over patients: for each axis, in the order of `data.orientation`, histograms of
            `spacing` (mm), and of `shape` (voxels) and `extent` (mm) of the box that is not 0;
            for each channel, the histogram of `intensity` within the foreground (all 0 for a case
            without any); `classes`, the share of voxels of each; `box`, the share of voxels in that
            box; `pictures`, 1 for a file that has no voxel size.
    """

    subjects: int
    parts: Parts


def shapes(channels: int, classes: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of every part."""
    along = {name: (AXES, count_of(edges)) for name, edges in EDGES.items()}
    others = {"classes": (classes,), "box": (1,), "pictures": (1,)}
    return {**along, "intensity": (channels, count_of(INTENSITY_EDGES)), **others}


def class_count(data: DataConfig) -> int:
    """Return the number of classes whose shares are told, the background included."""
    return len(data.kind.drawn(data.labels))


def take_fingerprint(
    dataset: SiteDataset,
    data: DataConfig,
    release: Release,
    on_case: Callable[[int, int], None] | None = None,
) -> Fingerprint:
    """Take the fingerprint of a hospital's training cases.

    Args:
        dataset: The hospital's cases.
        data: Classes, channels and orientation.
        release: Least number of patients.
        on_case: Called with the number of cases done and of all cases.

    Raises:
        TooFewSubjects: There are fewer patients than `release` asks for; no image is read then.
        ConfigError: `release` asks for noise, which a fingerprint has not.
        DataError: The typed fault of a file.
    """
    subjects = number_subjects(dataset.training)
    count = len(set(subjects))
    release.check_subjects(count)
    if release.noise_multiplier > 0:
        raise ConfigError(
            "Noise on statistics is demanded, and a fingerprint has none: plan without this "
            "hospital, or do without noise on both sides (privacy.release.noise_multiplier, "
            "`polyclinic-client join --noise`)."
        )
    visits = np.bincount(subjects)
    total = {
        name: np.zeros(shape) for name, shape in shapes(data.channels, class_count(data)).items()
    }
    for number, (case, subject) in enumerate(zip(dataset.training, subjects, strict=True)):
        if on_case is not None:
            on_case(number, len(subjects))
        for name, values in measure_case(case, data).items():
            total[name] += values / (visits[subject] * count)
    return Fingerprint(count, total)


def measure_case(case: Case, data: DataConfig) -> Parts:
    """Measure one case; each part as `Fingerprint` says.

    Raises:
        DataError: The typed fault of a file.
    """
    check_grids(case)
    image = read_image(case.image, data.channels, 2, nan_as_zero=data.nan_as_zero)
    x, y, z = image.shape[1:]
    native = Grid((x, y, z), image.affine.numpy())
    order = axes_order(native, data.orientation, single=z == 1)
    voxels = image.as_tensor()
    spacing = np.array(spacing_of(native.affine))[order]
    box = _box(voxels)[order]
    foreground, classes = _classes(case, voxels, data)
    return {
        "spacing": _along(spacing, SPACING_EDGES),
        "shape": _along(box, SHAPE_EDGES),
        "extent": _along(box * spacing, EXTENT_EDGES),
        "classes": classes,
        "box": np.array([box.prod() / (x * y * z)]),
        "pictures": np.array([float(check_header(case.image[0]).nifti is None)]),
        "intensity": np.stack(
            [shares(channel[foreground].numpy(), INTENSITY_EDGES) for channel in voxels]
        ),
    }


def _along(values: Numbers, edges: Numbers) -> Numbers:
    return np.stack([one_hot(float(value), edges) for value in values])


def _box(voxels: Tensor) -> Numbers:
    """Return the size in voxels, along each axis, of the box of what is not 0; all if all is 0."""
    lit = (voxels != 0).any(0)
    sizes = []
    for axis, length in enumerate(lit.shape):
        found = lit.movedim(axis, 0).flatten(1).any(1).nonzero().flatten()
        sizes.append(int(found[-1] - found[0]) + 1 if len(found) else length)
    return np.array(sizes, dtype=np.float64)


def _classes(case: Case, voxels: Tensor, data: DataConfig) -> tuple[Tensor, Numbers]:
    """Return the foreground, XYZ, and the share of voxels of each class.

    Regions are drawn over each other, and what is outside of all counts as the first class.
    """
    if not isinstance(case.label, Path):
        raise DatasetInvalid(
            case.image[0].parent / "dataset.json",
            "a training case has no label map",
            "A plan is made for segmentation: list a label map for each training case.",
        )
    task = task_of(data)
    label = task.draw(task.read_truth(case, data))
    assert label is not None
    counts = label.flatten().bincount(minlength=class_count(data)).double().numpy()
    found: NDArray[np.float64] = counts / voxels[0].numel()
    return label > 0, found
