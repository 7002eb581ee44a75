"""The worst hospital of each strategy, and how far it is from the best one."""

from dataclasses import dataclass
from statistics import fmean

from polyclinic.learning.measures.estimates import FEW, Estimate, close, overall
from polyclinic.reporting.results import Arm, Results
from polyclinic.reporting.scores import latest, source_of


@dataclass(frozen=True)
class Standing:
    """Where the hospitals stand with one strategy's model.

    Attributes:
        arm: The strategy.
        worst: Hospital with the lowest score.
        score: Its score.
        cases: Number of cases behind it; None if it is not known.
        figure: The score with its interval and support; None if the hospital did not tell it.
        best: Hospital with the highest score.
        best_score: Its score.
        mean: Mean over hospitals, each of equal weight.
        hospitals: Number of hospitals with a score.
    """

    arm: Arm
    worst: str
    score: float
    cases: int | None
    figure: Estimate | None
    best: str
    best_score: float
    mean: float
    hospitals: int

    @property
    def gap(self) -> float | None:
        """How far the worst hospital is below the best one; None of one hospital."""
        return self.best_score - self.score if self.hospitals > 1 else None

    @property
    def descriptive(self) -> bool:
        """Whether so few cases are behind the score that it only describes them."""
        if self.figure is not None:
            return self.figure.descriptive
        return self.cases is not None and self.cases < FEW


def find_standings(results: Results) -> tuple[Standing, ...]:
    """Find the worst hospital of every strategy that has scores."""
    metrics = latest(results, source_of(results))
    found = []
    for arm in results.arms:
        scores = {
            site: (metric.score, metric)
            for (name, site), metric in metrics.items()
            if name == arm.name and metric.score is not None
        }
        if not scores:
            continue
        worst = min(scores, key=lambda site: (scores[site][0], site))
        best = max(scores, key=lambda site: (scores[site][0], site))
        score, metric = scores[worst]
        whole = overall(metric.measures)
        found.append(
            Standing(
                arm=arm,
                worst=worst,
                score=score,
                cases=metric.num_examples,
                figure=whole if whole is not None and close(whole.value, score) else None,
                best=best,
                best_score=scores[best][0],
                mean=fmean(score for score, _ in scores.values()),
                hospitals=len(scores),
            )
        )
    return tuple(found)
