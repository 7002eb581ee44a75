"""Candidates that the hospitals score, and the choice of the best."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean

from torch import Tensor

from polyclinic.federation.events import Answered
from polyclinic.learning.state_dict import StateDict
from polyclinic_strategies.merging.arithmetic.layer import Rule


@dataclass(eq=False)
class Trial:
    """A model that the hospitals score.

    Attributes:
        rule: Rule that made the model.
        weights: Packed weights, as they travel.
        state: The same weights by name.
        number: Number of the publication; 0 while the model is only a candidate.
        figures: Answers of the hospitals, by site.
    """

    rule: Rule
    weights: Tensor
    state: StateDict
    number: int = 0
    figures: dict[str, Answered] = field(default_factory=dict)

    def score(self, site: str) -> float:
        """Return a hospital's score; NaN if the hospital could not score the model."""
        score = self.figures[site].score
        return math.nan if score is None else score


def judges_of(trials: Sequence[Trial]) -> set[str]:
    """Return the sites that could score every trial; there must be a trial."""
    return set.intersection(
        *({site for site in trial.figures if not math.isnan(trial.score(site))} for trial in trials)
    )


def best_of(trials: Sequence[Trial], judges: set[str]) -> Trial:
    """Return the trial with the highest mean score over some sites, at least one."""
    return max(trials, key=lambda trial: fmean(trial.score(site) for site in judges))
