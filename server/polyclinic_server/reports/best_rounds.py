"""Which round of each strategy validated best, and how far the last one is from it."""

from collections import defaultdict
from dataclasses import dataclass

from polyclinic.reporting.best_round import find_best
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
    """Find the best round of every strategy with rounds, by the rule of `reporting.best_round`."""
    scores: dict[str, dict[int, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for metric in results.metrics:
        if metric.phase == "validate" and metric.score is not None and metric.round:
            scores[metric.arm][metric.round][metric.site] = metric.score
    found = []
    for arm in results.arms:
        pair = find_best(scores.get(arm.name, {})) if arm.has_rounds else None
        if pair is not None:
            best, last = pair
            found.append(BestOfArm(arm.title, best.round, best.score, last.round, last.score))
    return found
