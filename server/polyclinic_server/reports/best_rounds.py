"""Which round of each strategy validated best, and how far the last one is from it."""

from collections import defaultdict
from dataclasses import dataclass
from statistics import fmean

from polyclinic.reporting.results import Results


@dataclass(frozen=True)
class BestOfArm:
    """The best round of one strategy.

    Attributes:
        title: The strategy's.
        round: Number of the round.
        score: Mean over hospitals.
        last: Number of the last round that was scored.
        last_score: Its mean.
    """

    title: str
    round: int
    score: float
    last: int
    last_score: float


def find_best_rounds(results: Results) -> list[BestOfArm]:
    """Find the best round of every strategy with rounds, by the mean validation score.

    Only rounds that most hospitals scored are compared: a mean over others is another figure.
    """
    scores: dict[str, dict[int, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for metric in results.metrics:
        if metric.phase == "validate" and metric.score is not None and metric.round:
            scores[metric.arm][metric.round][metric.site] = metric.score
    found = []
    for arm in results.arms:
        rounds = scores.get(arm.name)
        if not arm.has_rounds or not rounds:
            continue
        most = max(map(len, rounds.values()))
        means = {
            number: fmean(each.values()) for number, each in rounds.items() if len(each) == most
        }
        best = max(sorted(means), key=lambda number: means[number])
        found.append(BestOfArm(arm.title, best, means[best], max(means), means[max(means)]))
    return found
