"""Candidates that the hospitals score, and the choice of the best."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from torch import Tensor

from polyclinic.errors import ConfigError, ModelInvalid
from polyclinic.federation.answers import Figures
from polyclinic.federation.attendance import Listener
from polyclinic.federation.events import Answered, Note
from polyclinic.learning.state_dict import StateDict, pack, unpack
from polyclinic.store.ledger import Publication
from polyclinic_strategies.merging.arithmetic.layer import Rule
from polyclinic_strategies.merging.events import Published, SetAside
from polyclinic_strategies.merging.intake.unusual import Unusual
from polyclinic_strategies.merging.publisher import Publisher, last_choice


@dataclass(eq=False)
class Trial:
    """A model that the hospitals score.

    Attributes:
        rule: Rule that made the model.
        weights: Packed weights, as they travel.
        number: Number of the publication; 0 while the model is only a candidate.
        figures: Answers of the hospitals, by site.
    """

    rule: Rule
    weights: Tensor
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


class Candidates:
    """The models of the configured rules: one is published, and hospitals' scores may change it.

    Args:
        publisher: Merges and publishes.
        rules: The candidates.
        names: Names of the base's tensors in the network's order.
        on_event: Told of publications, scores, and what is set aside.

    Attributes:
        trials: The models that the hospitals score; the published one comes first.
        chosen: Rule of the published model.
        published: The newest publication of this run.
    """

    def __init__(
        self,
        publisher: Publisher,
        rules: Sequence[Rule],
        names: Sequence[str],
        on_event: Listener,
    ) -> None:
        self._publisher, self._rules, self._names = publisher, rules, names
        self._on_event = on_event
        self._aside: set[str] = set()  # digests of what was set aside and told
        self._unusual = Unusual(publisher.ledger, names)
        self.chosen = last_choice(rules, publisher.ledger.publications())
        self._like: StateDict = {}  # shapes and types of the model's tensors, without their numbers
        self.trials: list[Trial] = []
        self.published: Publication | None = None

    def merge(self, why: str) -> None:
        """Merge what counts now by every rule, and publish the model of the chosen one.

        Args:
            why: arrival or withdrawal.
        """
        self.trials = []
        self._tell_set_aside(None)
        if not self._publisher.entries():
            return
        try:
            for rule in [self.chosen, *(rule for rule in self._rules if rule != self.chosen)]:
                state = self._publisher.merge(rule)
                self._like = {name: tensor.to("meta") for name, tensor in state.items()}
                self.trials.append(Trial(rule, pack(state, self._names)))
                self._tell_set_aside(rule)
        except (ConfigError, ModelInvalid) as error:  # the rule needs more hospitals, as Krum does
            self._on_event(Note(text=f"nothing is published yet: {error}"))
            return
        self._publish(self.trials[0], why)
        for sentence in self._unusual.tell(self._publisher.entries()):
            self._on_event(Note(text=sentence))

    def unscored(self, site: str) -> Trial | None:
        """Return a model that a site has not scored yet."""
        return next((trial for trial in self.trials if site not in trial.figures), None)

    def owing(self, sites: Collection[str]) -> set[str]:
        """Return those of some sites that owe a score."""
        return {site for site in sites if self.unscored(site)}

    def take_score(self, site: str, trial: Trial, figures: Figures) -> None:
        """Take a site's score of a model; those of a published model are figures of the run."""
        trial.figures[site] = Answered(phase="evaluate", site=site, **figures.told())
        if trial.number:
            self._record_score(trial, site)

    def choose(self, sites: Collection[str]) -> None:
        """Publish the best model once all sites, which are online, have scored all of them.

        The best has the highest mean score over the sites that could score every model.
        """
        if len(self.trials) < 2 or not sites or self.owing(sites):
            return
        judges = judges_of(self.trials)
        if not judges:
            return
        best = best_of(self.trials, judges)
        if best.rule == self.chosen:
            return
        self.chosen = best.rule
        self._publish(best, "parameters")
        for site in sorted(judges):
            self._record_score(best, site)

    def _tell_set_aside(self, rule: Rule | None) -> None:
        """Tell, once, which contributions do not count any more."""
        sites = {entry.digest: entry.site for entry in self._publisher.received()}
        for digest, reason in self._publisher.set_aside(rule).items():
            if digest not in self._aside:
                self._aside.add(digest)
                self._on_event(SetAside(site=sites[digest], digest=digest, reason=reason))

    def _publish(self, trial: Trial, why: str) -> None:
        state = unpack(trial.weights, self._like, self._names)
        publication = self._publisher.publish(trial.rule, state)
        trial.number = publication.number
        if self.published is not None and publication.number == self.published.number:
            return
        self.published = publication
        self._on_event(
            Published(
                number=publication.number,
                digest=publication.digest,
                sites=tuple(entry.site for entry in self._publisher.entries(trial.rule)),
                why=why,
                rule=str(publication.recipe.get("rule", "")),
                parameters=publication.recipe.get("parameters", {}),
            )
        )

    def _record_score(self, trial: Trial, site: str) -> None:
        self._on_event(trial.figures[site].model_copy(update={"round": trial.number}))
