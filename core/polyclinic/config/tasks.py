"""The kinds of tasks, as settings and data folders name them (`data.task`).

What a network's output means, and how answers are scored, is in `polyclinic.learning.tasks`. Here
is what can be said without a network: how many labels there are, which losses fit, and what the
score is called.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

TaskName = Literal["segmentation", "regions", "classification", "multilabel", "regression"]
OURS = "polyclinic.learning.losses."


@dataclass(frozen=True)
class TaskKind:
    """One kind of task.

    Attributes:
        name: Value of `data.task`.
        title: In sentences.
        score_name: What the score is called.
        meaning: What the score means, for a reader of a report.
        per_voxel: Whether an answer has a value for each voxel.
        background: Whether the first label is the background, which has no score of its own.
        least_labels: Least number of `data.labels`.
        losses: Beginnings of the names of losses that fit.
        trainings: Names in conf/training that fit, the usual one first.
        labelled_by: What a case's label is in a dataset.json.
    """

    name: str
    title: str
    score_name: str
    meaning: str
    per_voxel: bool
    background: bool
    least_labels: int
    losses: tuple[str, ...]
    trainings: tuple[str, ...]
    labelled_by: str

    def scored(self, labels: Sequence[str]) -> tuple[str, ...]:
        """Return the labels that have a score of their own."""
        return tuple(labels[1:] if self.background else labels)

    def drawn(self, labels: Sequence[str]) -> tuple[str, ...]:
        """Return the names of 0, 1, ... in a label map that is drawn; the first is the background.

        Of a task without label maps there are none.
        """
        if not self.per_voxel:
            return ()
        return tuple(labels) if self.background else ("background", *labels)

    def output_shape(self, outputs: int, patch: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of a network's output of one patch, BCHWD."""
        return (1, outputs, *patch) if self.per_voxel else (1, outputs)


DICE = (
    "Dice is the overlap between the model's outlines and the reference outlines: 0 is no overlap, "
    "1 is perfect."
)
KINDS: dict[str, TaskKind] = {
    each.name: each
    for each in (
        TaskKind(
            name="segmentation",
            title="segmentation",
            score_name="Dice",
            meaning=DICE,
            per_voxel=True,
            background=True,
            least_labels=2,
            losses=("monai.losses.", f"{OURS}SegmentationLoss"),
            trainings=("default", "nnunet"),
            labelled_by="the file of a label map",
        ),
        TaskKind(
            name="regions",
            title="segmentation of overlapping regions",
            score_name="Dice",
            meaning=DICE,
            per_voxel=True,
            background=False,
            least_labels=1,
            losses=(f"{OURS}SegmentationLoss",),
            trainings=("regions", "nnunet"),
            labelled_by="the file of a label map, whose numbers 'labels' joins to regions",
        ),
        TaskKind(
            name="classification",
            title="classification",
            score_name="balanced accuracy",
            meaning=(
                "Balanced accuracy is the share of images recognised correctly, averaged over the "
                "classes. A rare class counts as much as a common one. 1 is perfect."
            ),
            per_voxel=False,
            background=False,
            least_labels=2,
            losses=("torch.nn.",),
            trainings=("classification", "fine_tuning"),
            labelled_by="the number of its class",
        ),
        TaskKind(
            name="multilabel",
            title="multi-label classification",
            score_name="mean AUROC",
            meaning=(
                "AUROC is the chance that an image with a finding gets a higher probability than "
                "one without it, averaged over the findings: 0.5 is guessing, 1 is perfect."
            ),
            per_voxel=False,
            background=False,
            least_labels=1,
            losses=(f"{OURS}MultiLabelLoss",),
            trainings=("multilabel",),
            labelled_by="the list of its findings",
        ),
        TaskKind(
            name="regression",
            title="regression",
            score_name="1 - MAE / range",
            meaning=(
                "The score is 1 minus the mean absolute error, as a share of the range in "
                "data.ranges: 1 is perfect, and always saying the middle of the range is at least "
                "0.5. The error itself, in its unit, is among the measures."
            ),
            per_voxel=False,
            background=False,
            least_labels=1,
            losses=(f"{OURS}RegressionLoss",),
            trainings=("regression",),
            labelled_by="its number",
        ),
        TaskKind(
            name="own",
            title="tasks of their own",
            score_name="score",
            meaning=(
                "The score of a segmentation is Dice, the overlap with the reference outlines. The "
                "score of a classification is balanced accuracy. 1 is perfect."
            ),
            per_voxel=False,
            background=False,
            least_labels=0,
            losses=(),
            trainings=(),
            labelled_by="as its task needs it",
        ),
    )
}
MEANINGS = {kind.score_name: kind.meaning for kind in KINDS.values()}


def kinds_of_loss(target: str) -> set[str]:
    """Return the names of the tasks that a loss fits; none if it is not known."""
    return {kind.name for kind in KINDS.values() if target.startswith(kind.losses)}
