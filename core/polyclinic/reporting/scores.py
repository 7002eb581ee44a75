"""Tables of scores: hospitals by strategies, with means that compare the same hospitals."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from polyclinic.federation.metrics import Metric, Phase
from polyclinic.reporting.formats import subtract
from polyclinic.reporting.results import LOCAL, Arm, Results, unseen


@dataclass(frozen=True)
class Cell:
    """A score.

    Attributes:
        score: None where there is none.
        difference: How far it is from that of the model which the hospital trained alone, of the
            three decimals that are shown.
        best: Whether it is the best federated one of its row.
    """

    score: float | None = None
    difference: float | None = None
    best: bool = False


@dataclass(frozen=True)
class ScoreTable:
    """Scores of hospitals (rows) by arm.

    Attributes:
        source: Phase that the scores are of.
        rows: Cells of every hospital.
        mean: Cells of the mean row.
        averaged: Hospitals in the mean row: those with a score in every arm that has any.
    """

    source: Phase
    rows: Mapping[str, Mapping[str, Cell]]
    mean: Mapping[str, Cell]
    averaged: tuple[str, ...]

    def score(self, site: str, arm: str) -> float | None:
        """Return a hospital's score in an arm; None where there is none."""
        cell = self.rows[site].get(arm)
        return cell.score if cell else None

    def mean_score(self, arm: str) -> float | None:
        """Return an arm's mean; None where there is none."""
        cell = self.mean.get(arm)
        return cell.score if cell else None


def headline(results: Results) -> ScoreTable:
    """Make the table of mean scores, of the last validation while no test is in."""
    return score_table(results, None)


def by_label(results: Results, averaged: Collection[str] | None = None) -> dict[str, ScoreTable]:
    """Make the same table for every tissue (segmentation) or class (classification)."""
    metrics = latest(results, source_of(results)).values()
    found = [label for metric in metrics for label in metric.scores]
    ordered = [label for label in results.run.labels if label in found]
    return {
        label: score_table(results, label, averaged)
        for label in [*ordered, *unseen(found, ordered)]
    }


def score_table(
    results: Results, label: str | None, averaged: Collection[str] | None = None
) -> ScoreTable:
    """Make the table of one label's scores, or of the mean scores where `label` is None.

    Args:
        results: The run's.
        label: Tissue or class.
        averaged: Hospitals that the mean may be over; those that trained by default.
    """
    source = source_of(results)
    scores: dict[str, dict[str, float]] = {hospital.name: {} for hospital in results.hospitals}
    for (arm, site), metric in latest(results, source).items():
        value = metric.score if label is None else metric.scores.get(label)
        if value is not None:
            scores[site][arm] = value
    allowed = results.trained if averaged is None else averaged
    wanted = {site: row for site, row in scores.items() if site in allowed}
    scored = {arm for row in wanted.values() for arm in row}
    same = tuple(site for site, row in wanted.items() if scored and scored == set(row))
    means = {arm: fmean(scores[site][arm] for site in same) for arm in scored} if same else {}
    rows = {site: _row(row, results.arms) for site, row in scores.items()}
    return ScoreTable(source, rows, _row(means, results.arms), same)


def _row(scores: Mapping[str, float], arms: Sequence[Arm]) -> dict[str, Cell]:
    shown = {arm: round(score, 3) for arm, score in scores.items()}
    top = max(
        (shown[arm.name] for arm in arms if arm.federated and arm.name in shown), default=None
    )
    alone = scores.get(LOCAL)
    cells = {}
    for arm in arms:
        score = scores.get(arm.name)
        compared = score is not None and alone is not None and arm.name != LOCAL
        difference = subtract(score, alone) if compared else None  # type: ignore[arg-type]
        best = score is not None and arm.federated and shown[arm.name] == top
        cells[arm.name] = Cell(score, difference, best)
    return cells


def source_of(results: Results) -> Phase:
    """Return the phase that scores are of: the test, or validation while no test is in."""
    tested = any(m.phase == "test" and m.score is not None for m in results.metrics)
    return "test" if tested else "validate"


def latest(results: Results, phase: Phase) -> dict[tuple[str, str], Metric]:
    """Return the phase's scored figures of the highest round, by arm and site."""
    scored = [m for m in results.metrics if m.phase == phase and m.score is not None]
    return {(m.arm, m.site): m for m in sorted(scored, key=lambda m: m.round)}
