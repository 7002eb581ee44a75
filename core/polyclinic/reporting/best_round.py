"""Which round of a strategy validated best: one rule, for the model that is kept and the report.

A mean over other hospitals is another figure. So a round that more hospitals scored counts more
than a higher mean; of equal ones the earlier round.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean


@dataclass(frozen=True)
class RoundScore:
    """The validation of one round.

    Attributes:
        round: Number of the round.
        score: Mean over the hospitals.
        hospitals: Number of hospitals that scored.
    """

    round: int
    score: float
    hospitals: int

    def beats(self, other: "RoundScore | None") -> bool:
        """Tell whether this round is better than an earlier one; any is better than none."""
        return other is None or (self.hospitals, self.score) > (other.hospitals, other.score)


def score_round(number: int, scores: Mapping[str, float]) -> RoundScore | None:
    """Summarize a round's scores by hospital; None if there is none."""
    return RoundScore(number, fmean(scores.values()), len(scores)) if scores else None


def find_best(rounds: Mapping[int, Mapping[str, float]]) -> tuple[RoundScore, RoundScore] | None:
    """Find the best round, and the last one that as many hospitals scored as the best.

    Args:
        rounds: Scores by hospital of each round.

    Returns:
        None if no round was scored.
    """
    found = [one for number in sorted(rounds) if (one := score_round(number, rounds[number]))]
    best: RoundScore | None = None
    for one in found:
        best = one if one.beats(best) else best
    if best is None:
        return None
    return best, max(
        (one for one in found if one.hospitals == best.hospitals), key=lambda one: one.round
    )
