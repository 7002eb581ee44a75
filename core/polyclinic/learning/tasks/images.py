"""Tasks whose answer is about a whole image: a class, findings, or numbers."""

from collections.abc import Sequence

import torch
from torch import Tensor

from polyclinic.config.schemas import DataConfig
from polyclinic.imaging.datasets import Case
from polyclinic.imaging.headers import Grid
from polyclinic.learning.measures.classification import measure_classification
from polyclinic.learning.measures.estimates import Measures
from polyclinic.learning.measures.findings import SURE, auroc_per_finding, measure_findings
from polyclinic.learning.measures.regression import Numbers, closeness, measure_regression
from polyclinic.learning.metrics import Evaluation, recall_per_class, summarize
from polyclinic.learning.tasks.task import Label, Scored


class ImageTask:
    """What tasks of whole images have in common: no voxel has a label."""

    def prepare_label(self, case: Case, data: DataConfig, native: Grid, grid: Grid) -> Label:  # noqa: ARG002
        """Return the case's label as it is."""
        assert isinstance(case.label, int | tuple)
        return case.label

    def find_foreground(self, label: Label, data: DataConfig) -> tuple[Tensor, ...]:  # noqa: ARG002
        """Find nothing."""
        return ()

    def truth(self, label: Label, data: DataConfig) -> Tensor:  # noqa: ARG002
        """Return the class, or the findings or numbers, float64."""
        return torch.tensor(label, dtype=torch.int64 if isinstance(label, int) else torch.float64)

    def read_truth(self, case: Case, data: DataConfig) -> Tensor:
        """Return the same: no file is read."""
        assert isinstance(case.label, int | tuple)
        return self.truth(case.label, data)

    def answer(self, logits: Tensor, data: DataConfig, grid: Grid, native: Grid) -> Tensor:  # noqa: ARG002
        """Return the answer, which no grid matters to."""
        return self.decide(logits, data).cpu()

    def decide(self, logits: Tensor, data: DataConfig) -> Tensor:
        """Return the answer; each task has its own."""
        raise NotImplementedError

    def draw(self, answer: Tensor) -> None:  # noqa: ARG002
        """Draw nothing."""
        return


class Classification(ImageTask):
    """One class for each image."""

    def target(self, label: Label, data: DataConfig) -> Tensor:
        """Return the class, int64."""
        return self.truth(label, data)

    def decide(self, logits: Tensor, data: DataConfig) -> Tensor:  # noqa: ARG002
        """Return the probability of each class, float32."""
        return logits.softmax(0).float()

    def name(self, answer: Tensor, data: DataConfig) -> str:
        """Name the most probable class."""
        return data.labels[int(answer.argmax())]

    def tally(self, data: DataConfig) -> "ClassTally":
        """Score the share of each class's cases that are recognized."""
        return ClassTally(data)


class MultiLabel(ImageTask):
    """Any number of findings for each image."""

    def target(self, label: Label, data: DataConfig) -> Tensor:
        """Return the findings: 1, 0, or NaN where nobody looked; float32."""
        return self.truth(label, data).float()

    def decide(self, logits: Tensor, data: DataConfig) -> Tensor:  # noqa: ARG002
        """Return the probability of each finding, float32."""
        return logits.float().sigmoid()

    def name(self, answer: Tensor, data: DataConfig) -> str:
        """Name the findings whose probability is at least one half."""
        found = [
            label
            for label, value in zip(data.labels, answer.tolist(), strict=True)
            if value >= SURE
        ]
        return ", ".join(found) or "none"

    def tally(self, data: DataConfig) -> "FindingsTally":
        """Score the AUROC of each finding."""
        return FindingsTally(data)


class Regression(ImageTask):
    """Numbers; -1 and 1 of a network's output are the ends of their ranges."""

    def target(self, label: Label, data: DataConfig) -> Tensor:
        """Return the numbers on the scale of the network's output, float32."""
        middles, halves = _scale(data)
        return ((self.truth(label, data) - middles) / halves).float()

    def decide(self, logits: Tensor, data: DataConfig) -> Tensor:
        """Return the numbers in their unit, float64."""
        middles, halves = _scale(data)
        return logits.double().cpu() * halves + middles

    def name(self, answer: Tensor, data: DataConfig) -> None:  # noqa: ARG002
        """Say nothing: the numbers say all."""
        return

    def tally(self, data: DataConfig) -> "NumbersTally":
        """Score how close the numbers are, as a share of their range."""
        return NumbersTally(data)


class ImageTally:
    """Answers and truths of images, all of which are kept.

    Args:
        data: Labels and ranges.
    """

    def __init__(self, data: DataConfig) -> None:
        self.data = data
        self.answers: list[Tensor] = []
        self.truths: list[Tensor] = []

    def add(self, answer: Tensor, truth: Tensor) -> Scored:
        """Keep and score a case."""
        self.answers.append(answer.detach().cpu())
        self.truths.append(truth.cpu())
        table = dict(zip(self.data.labels, self.answers[-1].tolist(), strict=True))
        return Scored(table, self.score(self.answers[-1], self.truths[-1]))

    def score(self, answer: Tensor, truth: Tensor) -> float:
        """Score one case; each task has its own score."""
        raise NotImplementedError

    def measure(self, answer: Tensor, truth: Tensor, spacing_mm: Sequence[float]) -> None:
        """Do nothing: measures follow from the answers."""

    def arrays(self) -> tuple[Numbers, Numbers]:
        """Return answers, float64, shape (cases, labels), and truths."""
        answers = torch.stack(self.answers).double().numpy()
        return answers, torch.stack(self.truths).numpy()


class ClassTally(ImageTally):
    """A case is right or wrong; recalls by class."""

    def score(self, answer: Tensor, truth: Tensor) -> float:
        """Return 1 if the most probable class is right, else 0."""
        return float(int(answer.argmax()) == int(truth))

    def evaluation(self, loss: float | None) -> Evaluation:
        """Compute the recall of each class, and the balanced accuracy."""
        labels = self.data.labels
        predicted = torch.tensor([int(answer.argmax()) for answer in self.answers])
        truths = torch.tensor([int(truth) for truth in self.truths])
        recalls = recall_per_class(predicted, truths, len(labels))
        return summarize([recalls], labels, loss, len(truths))

    def measures(self, subjects: Sequence[int]) -> Measures:
        """Compute the measures of all cases."""
        if not self.truths:
            return {}
        answers, truths = self.arrays()
        return measure_classification(answers, truths.tolist(), subjects, self.data.labels)


class FindingsTally(ImageTally):
    """A case scores 1 minus the mean squared error of its probabilities; AUROC by finding."""

    def score(self, answer: Tensor, truth: Tensor) -> float:
        """Return 1 minus the mean squared error of the known findings' probabilities."""
        return float(1 - ((answer.double() - truth) ** 2).nanmean())

    def evaluation(self, loss: float | None) -> Evaluation:
        """Compute the AUROC of each finding, and their mean."""
        labels, count = self.data.labels, len(self.truths)
        rows = [torch.from_numpy(auroc_per_finding(*self.arrays()))] if count else []
        return summarize(rows, labels, loss, count)

    def measures(self, subjects: Sequence[int]) -> Measures:
        """Compute the measures of all cases."""
        if not self.truths:
            return {}
        return measure_findings(*self.arrays(), subjects, self.data.labels)


class NumbersTally(ImageTally):
    """A case scores 1 - |error| / range, the mean over its numbers."""

    def score(self, answer: Tensor, truth: Tensor) -> float:
        """Return the mean closeness of the known numbers."""
        return float(torch.from_numpy(self._close(answer, truth)).nanmean())

    def evaluation(self, loss: float | None) -> Evaluation:
        """Compute the mean closeness of each number, and their mean."""
        pairs = zip(self.answers, self.truths, strict=True)
        rows = [torch.from_numpy(self._close(answer, truth)) for answer, truth in pairs]
        return summarize(rows, self.data.labels, loss, len(rows))

    def measures(self, subjects: Sequence[int]) -> Measures:
        """Compute the measures of all cases."""
        if not self.truths:
            return {}
        data = self.data
        return measure_regression(*self.arrays(), subjects, data.labels, data.ranges)

    def _close(self, answer: Tensor, truth: Tensor) -> Numbers:
        return closeness(answer.double().numpy(), truth.double().numpy(), self.data.ranges)


def _scale(data: DataConfig) -> tuple[Tensor, Tensor]:
    """Return middle and half of each number's range, float64."""
    ends = torch.tensor(data.ranges, dtype=torch.float64).view(-1, 2)
    return ends.mean(1), (ends[:, 1] - ends[:, 0]) / 2
