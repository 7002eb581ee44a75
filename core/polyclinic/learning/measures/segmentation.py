"""Measures of label maps: of one case, then of all cases of a hospital."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from polyclinic.learning.measures.bootstrap import MeanOfMeans, of_chosen, ratio, single
from polyclinic.learning.measures.estimates import Estimate, leave_out_none
from polyclinic.learning.measures.lesions import Lesions, count_lesions
from polyclinic.learning.measures.names import OVERALL
from polyclinic.learning.measures.surfaces import measure_surfaces

TOLERANCE_MM = 2.0
Box = tuple[slice, ...]


@dataclass(frozen=True)
class StructureFigures:
    """One structure of one case; figures are NaN where the reference lacks the structure.

    Attributes:
        present: Whether the reference has the structure.
        predicted: Whether the prediction has it.
        dice: Overlap, 0 to 1.
        surface_dice: Normalized surface Dice, 0 to 1; 0 if the prediction lacks the structure.
        hausdorff95_mm: Hausdorff 95; the image's diagonal if the prediction lacks the structure.
        volume_bias: (predicted - true volume) / true volume.
        lesions: Lesions, found and false ones.
    """

    present: bool
    predicted: bool
    dice: float
    surface_dice: float
    hausdorff95_mm: float
    volume_bias: float
    lesions: Lesions


def measure_case(
    prediction: NDArray[Any],
    truth: NDArray[Any],
    spacing_mm: Sequence[float],
    classes: int,
    tolerance_mm: float = TOLERANCE_MM,
) -> list[StructureFigures]:
    """Measure every foreground class of one case on the image's own grid.

    Each structure is cut out with its prediction, so that the work is in proportion to it.

    Args:
        prediction: Label map, XY or XYZ, whole numbers; an axis of one voxel does not count.
        truth: The same shape.
        spacing_mm: Size of a voxel, one number for each axis.
        classes: Number of classes, the background included.
        tolerance_mm: Of surface Dice.

    Returns:
        Figures of the classes 1, 2, ...

    Raises:
        ValueError: The shapes differ.
    """
    if prediction.shape != truth.shape or len(spacing_mm) != truth.ndim:
        raise ValueError(
            f"prediction {prediction.shape}, truth {truth.shape} and spacing {tuple(spacing_mm)} "
            "differ in shape"
        )
    if truth.ndim == 3 and truth.shape[2] == 1:
        prediction, truth, spacing_mm = prediction[..., 0], truth[..., 0], spacing_mm[:2]
    spacing = tuple(map(float, spacing_mm))
    diagonal_mm = float(np.linalg.norm(np.asarray(truth.shape) * spacing))
    boxes = [_boxes(each, classes) for each in (prediction, truth)]
    figures = []
    for number in range(1, classes):
        box = _union(boxes[0][number - 1], boxes[1][number - 1])
        if box is None:
            figures.append(_empty(0))
            continue
        one, other = prediction[box] == number, truth[box] == number
        figures.append(_measure(one, other, spacing, tolerance_mm, diagonal_mm))
    return figures


def measure_regions(
    prediction: NDArray[Any],
    truth: NDArray[Any],
    spacing_mm: Sequence[float],
    tolerance_mm: float = TOLERANCE_MM,
) -> list[StructureFigures]:
    """Measure every region of one case; regions may overlap.

    Args:
        prediction: Boolean, shape (regions, X, Y, Z).
        truth: The same shape.
        spacing_mm: Size of a voxel, one number for each axis.
        tolerance_mm: Of surface Dice.

    Raises:
        ValueError: The shapes differ.
    """
    return [
        measure_case(one.astype(np.uint8), other.astype(np.uint8), spacing_mm, 2, tolerance_mm)[0]
        for one, other in zip(prediction, truth, strict=True)
    ]


def measure_segmentation(
    cases: Sequence[Sequence[StructureFigures]],
    rows: NDArray[Any],
    subjects: Sequence[int],
    labels: Sequence[str],
) -> dict[str, dict[str, Estimate]]:
    """Compute a hospital's figures.

    Args:
        cases: Of each case, the figures of each foreground class.
        rows: Dice as the model's score takes it, shape (cases, foreground classes), NaN where a
            class is in neither map.
        subjects: Number of each case's subject, from 0.
        labels: Names of the foreground classes.

    Returns:
        Measures by label; `OVERALL` has the mean Dice, which is the score.
    """
    if not cases:
        return {}
    found: dict[str, dict[str, Estimate | None]] = {
        OVERALL: {"mean_dice": single(MeanOfMeans(rows), subjects, positives=None,
                                      least=len(set(subjects)))}
    }  # fmt: skip
    for number, label in enumerate(labels):
        found[label] = _measure_structure([case[number] for case in cases], subjects)
    return leave_out_none(found)


def _measure_structure(
    figures: Sequence[StructureFigures], subjects: Sequence[int]
) -> dict[str, Estimate | None]:
    """Compute the figures of one structure; cases without it are counted apart."""
    present = np.array([each.present for each in figures])
    having = len(set(of_chosen(subjects, present)))
    everybody = len(set(subjects))

    def mean(values: Sequence[float]) -> Estimate | None:
        totals = np.where(present, np.asarray(values, np.float64), 0.0)
        n = int(present.sum())
        return ratio(totals, present, subjects, n=n, positives=n, least=having)

    absent, empty = ~present, np.array([not each.predicted for each in figures])
    numbers = [each.lesions.number for each in figures]
    false = [each.lesions.false_positives for each in figures]
    with_structure, without = int(present.sum()), int(absent.sum())
    return {
        "dice": mean([each.dice for each in figures]),
        "surface_dice": mean([each.surface_dice for each in figures]),
        "hausdorff95_mm": mean([each.hausdorff95_mm for each in figures]),
        "volume_error": mean([abs(each.volume_bias) for each in figures]),
        "volume_bias": mean([each.volume_bias for each in figures]),
        "lesion_sensitivity": ratio(
            [each.lesions.found for each in figures], numbers, subjects,
            n=with_structure, positives=with_structure, least=having,
        ),
        "lesion_false_positives": ratio(
            false, np.ones(len(figures)), subjects,
            n=len(figures), positives=None, least=everybody,
        ),
        "correctly_empty": ratio(
            empty & absent, absent, subjects,
            n=without, positives=None, least=len(set(of_chosen(subjects, absent))),
        ),
    }  # fmt: skip


def _measure(
    prediction: NDArray[Any],
    truth: NDArray[Any],
    spacing_mm: tuple[float, ...],
    tolerance_mm: float,
    diagonal_mm: float,
) -> StructureFigures:
    """Measure one structure inside its box."""
    lesions = count_lesions(prediction, truth)
    volumes = int(prediction.sum()), int(truth.sum())
    if not volumes[1]:
        return _empty(lesions.false_positives)
    bias = (volumes[0] - volumes[1]) / volumes[1]
    if not volumes[0]:
        return StructureFigures(True, False, 0.0, 0.0, diagonal_mm, bias, lesions)
    dice = 2 * int((prediction & truth).sum()) / sum(volumes)
    surface_dice, hausdorff = measure_surfaces(prediction, truth, spacing_mm, tolerance_mm)
    return StructureFigures(True, True, dice, surface_dice, hausdorff, bias, lesions)


def _empty(false_positives: int) -> StructureFigures:
    """Return the figures of a case whose reference lacks the structure."""
    nan, lesions = float("nan"), Lesions(0, 0, false_positives)
    return StructureFigures(False, false_positives > 0, nan, nan, nan, nan, lesions)


def _boxes(labels: NDArray[Any], classes: int) -> list[Box | None]:
    found = ndimage.find_objects(labels.astype(np.int32, copy=False), max_label=classes - 1)
    return list(found)


def _union(one: Box | None, other: Box | None) -> Box | None:
    if one is None or other is None:
        return one or other
    pairs = zip(one, other, strict=True)
    return tuple(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in pairs)
