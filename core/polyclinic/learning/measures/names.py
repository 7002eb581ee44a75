"""The measures by name: what a report calls them, their bounds, and how they are pooled."""

from dataclasses import dataclass
from typing import Literal

CONFIDENCE = 0.95  # of every interval
FIXED = 0.95  # specificity at which sensitivity is measured, and the reverse
LONGEST_MM = 1e5
LARGEST = 1e9
OVERALL = ""  # label of what is measured over all classes
SCORES = ("mean_dice", "balanced_accuracy", "mean_auroc", "within_range")  # measures of `OVERALL`
AGREEMENT = 1.96  # standard deviations of differences between bias and limit of agreement


@dataclass(frozen=True)
class Measure:
    """One measure.

    Attributes:
        name: In files and messages.
        title: In reports.
        better: Which values are better: high, low, or near zero.
        lowest: Least possible value.
        highest: Largest possible value.
        sums: Whether hospitals' sums give the pooled value exactly. If not, the federated value is
            the mean over hospitals, weighted by their numbers of cases.
        both: Whether it needs cases with the class and cases without it.
        digits: Number of decimals in reports.
    """

    name: str
    title: str
    better: Literal["high", "low", "zero"] = "high"
    lowest: float = 0.0
    highest: float = 1.0
    sums: bool = True
    both: bool = False
    digits: int = 3


MEASURES: dict[str, Measure] = {
    each.name: each
    for each in (
        Measure("mean_dice", "Mean Dice", sums=False),
        Measure("dice", "Dice"),
        Measure("surface_dice", "Surface Dice"),
        Measure("hausdorff95_mm", "Hausdorff 95 (mm)", "low", highest=LONGEST_MM, digits=1),
        Measure("volume_error", "Volume error", "low", highest=LARGEST),
        Measure("volume_bias", "Volume bias", "zero", lowest=-1.0, highest=LARGEST),
        Measure("lesion_sensitivity", "Lesion sensitivity"),
        Measure("lesion_false_positives", "False lesions per case", "low", highest=LARGEST),
        Measure("correctly_empty", "Correctly empty"),
        Measure("balanced_accuracy", "Balanced accuracy", sums=False),
        Measure("recall", "Recall"),
        Measure("auroc", "AUROC", sums=False, both=True),
        Measure("auprc", "AUPRC", sums=False, both=True),
        Measure("sensitivity", "Sensitivity at 95 % specificity", sums=False, both=True),
        Measure("specificity", "Specificity at 95 % sensitivity", sums=False, both=True),
        Measure("brier", "Brier score", "low", highest=2.0),
        Measure("calibration_error", "Calibration error", "low", sums=False),
        Measure("mean_auroc", "Mean AUROC", sums=False),
        Measure("within_range", "1 - MAE / range"),
        Measure("mae", "Mean absolute error", "low", highest=LARGEST),
        Measure("bias", "Bias", "zero", lowest=-LARGEST, highest=LARGEST),
        Measure("lower_limit", "Lower limit of agreement", "zero", -LARGEST, LARGEST, sums=False),
        Measure("upper_limit", "Upper limit of agreement", "zero", -LARGEST, LARGEST, sums=False),
        Measure("squared_error", "Mean squared error", "low", highest=LARGEST**2),
        Measure("r2", "R2", lowest=-LARGEST, sums=False),
        Measure("score_difference", "Difference of scores", "zero", lowest=-1.0),
    )
}
