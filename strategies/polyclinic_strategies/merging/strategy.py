"""Settings of asynchronous task-vector merging.

Task vectors: Ilharco et al. 2023, https://arxiv.org/abs/2212.04089. Task vectors of hospitals: Tian
et al. 2024, https://arxiv.org/abs/2408.13038.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from polyclinic.config.schemas import DeploymentConfig, Part
from polyclinic.errors import ConfigError
from polyclinic.federation.assignment import MOST_RANK
from polyclinic.learning.state_dict import StateDict, longest_update
from polyclinic.store.requirements import Requirements
from polyclinic_strategies.merging.arithmetic.configured import rules_of
from polyclinic_strategies.merging.arithmetic.layer import Rule, is_normalization_statistic
from polyclinic_strategies.merging.asking.starts import BASE, STARTS
from polyclinic_strategies.merging.publisher import Publisher

AUTO = "auto"
RESTORATIONS = (AUTO, "none", "statistics", "steps")


@dataclass(frozen=True)
class End:
    """Conditions that end a run; the first that holds ends it, and without any it never ends."""

    sites: tuple[str, ...] = ()  # all of these sites have contributed
    contributions: int = 0  # this many sites have contributed; 0: no such condition
    seconds: float = 0.0  # this much time has passed since the start; 0: no such condition


@dataclass(frozen=True)
class Merging:
    """Settings of a merging run, as a node of `conf/strategy/merging/` describes them.

    Args:
        title: Name in tables.
        rule: A node that names one of `rules/`, with its parameters.
        candidates: Parameter of the rule to values, which the hospitals score on their validation
            cases; the best is published.
        alternatives: Names of `conf/strategy/merging/` to candidates, which are scored beside these
            (none: those of the file).
        statistics: Statistics that hospitals send with the task vector: gram, fisher.
        restoration: How a hospital adapts a merged model before it scores it: none, statistics
            (normalization statistics from its own unlabelled images), steps (a few labelled steps),
            or auto (statistics where the network has any).
        restoration_steps: Number of these steps.
        start: Model that a hospital starts from: base, newest (the newest published model when it
            is asked first), or in_turn (likewise, one hospital after another).
        rank: Of the factors that hospitals train and hand over instead of a layer; 0: whole.
        ledger: Folder of the ledger; None keeps one in the run's folder.
        sites: Names of the hospitals that may contribute; empty for all.
        max_staleness: Contributions to this many bases before the current one still count.
        staleness_discount: Factor for each base that a contribution is behind.
        max_norm_ratio: A task vector longer than this many medians of the others is refused; 0
            accepts any.
        max_mb: A larger contribution is refused.
        poll_s: Longest time between two questions to a hospital; with many hospitals it is
            longer.
        end: Conditions that end the run: sites, contributions (None: as many as the deployment has
            hospitals), seconds.
        compare: Other names of `conf/strategy/merging/`, merged from the same contributions at the
            end.
        controls: At the end, also test single hospitals and a random vector, with and without
            restoration.
    """

    title: str
    rule: Part
    candidates: Mapping[str, Sequence[float]] = field(default_factory=dict)
    alternatives: Mapping[str, Mapping[str, Sequence[float]]] = field(default_factory=dict)
    statistics: Sequence[str] = ()
    restoration: str = AUTO
    restoration_steps: int = 0
    start: str = BASE
    rank: int = 0
    ledger: str | None = None
    sites: Sequence[str] = ()
    max_staleness: int = 0
    staleness_discount: float = 0.5
    max_norm_ratio: float = 10.0
    max_mb: float = 4096.0
    poll_s: float = 5.0
    end: Mapping[str, Any] = field(default_factory=dict)
    compare: Sequence[str] = ()
    controls: bool = False

    def __post_init__(self) -> None:
        if self.restoration not in RESTORATIONS:
            raise ConfigError(
                f"strategy.restoration={self.restoration}: one of {', '.join(RESTORATIONS)}."
            )
        if self.start not in STARTS:
            raise ConfigError(f"strategy.start={self.start}: one of {', '.join(STARTS)}.")
        if not 0 <= self.rank <= MOST_RANK:
            raise ConfigError(f"strategy.rank={self.rank}: from 0 to {MOST_RANK}.")
        if not 0.0 <= self.staleness_discount <= 1.0:
            raise ConfigError(
                f"strategy.staleness_discount={self.staleness_discount}: from 0 to 1."
            )
        if unknown := set(self.statistics) - {"gram", "fisher"}:
            raise ConfigError(f"strategy.statistics={sorted(unknown)}: only gram and fisher exist.")
        self.rules()

    def for_network(self, names: Collection[str]) -> "Merging":
        """Return the settings with the restoration that suits a network's tensors."""
        if self.restoration != AUTO:
            return self
        normalized = any(map(is_normalization_statistic, names))
        return replace(self, restoration="statistics" if normalized else "none")

    def rules(self) -> list[Rule]:
        """Return what the hospitals score: the configured rule first."""
        return rules_of(
            {"rule": self.rule, "candidates": self.candidates, "alternatives": self.alternatives}
        )

    def make_end(self, expected: int) -> End:
        """Return the conditions that end a run, where `expected` sites contribute."""
        contributions = self.end.get("contributions")
        sites = tuple(self.end.get("sites") or ())
        return End(
            sites,
            expected if contributions is None else int(contributions),
            float(self.end.get("seconds") or 0.0),
        )

    def expected_contributions(self, deployment: DeploymentConfig) -> int:
        """Return the number of contributions after which the first phase is over."""
        return self.make_end(max(deployment.hospitals, deployment.min_hospitals)).contributions

    def ledger_folder(self, run: Path) -> Path:
        """Return the configured ledger, or the run's own."""
        return Path(self.ledger) if self.ledger else run / "ledger"

    def requirements(
        self, publisher: Publisher, base: StateDict, task: str, statistics: Collection[str] = ()
    ) -> Requirements:
        """Return what a contribution must fulfil to be accepted.

        Args:
            publisher: Knows the bases.
            base: The newest of them.
            task: What contributions are for.
            statistics: What is asked for besides the task vector.
        """
        return Requirements(
            base=publisher.ledger.bases()[-1],
            layout={name: tuple(tensor.shape) for name, tensor in base.items()},
            task=task,
            sites=frozenset(self.sites) or None,
            max_bytes=int(self.max_mb * 2**20),
            max_norm_ratio=self.max_norm_ratio,
            older_bases=publisher.older_bases(),
            max_staleness=self.max_staleness,
            statistics=frozenset(statistics),
            max_norm=longest_update(_norm(base), sum(each.numel() for each in base.values())),
        )


def _norm(state: StateDict) -> float:
    squares = (float(each.double().square().sum()) for each in state.values())
    return math.sqrt(math.fsum(squares))
