"""The coordinator's event loop of a stage: that of merging, without publications on arrival."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from flwr.serverapp import Grid

from polyclinic.federation.attendance import Listener
from polyclinic.store.contribution import TensorFile
from polyclinic.store.ledger import Entry, Ledger
from polyclinic.store.refusals import ContributionRefused, StatisticRefused
from polyclinic_strategies.merging.event_loop import EventLoop
from polyclinic_strategies.merging.events import Withdrawn
from polyclinic_strategies.merging.intake.statistics import LARGEST_SQUARE, fault_of_moments
from polyclinic_strategies.merging.mailbox import Members
from polyclinic_strategies.merging.messages import Assignment
from polyclinic_strategies.merging.strategy import Merging
from polyclinic_strategies.universal.exchange import EMBEDDING, layout_of, read_declaration
from polyclinic_strategies.universal.teaching.teachers import COVARIANCE, MEAN

LARGEST_MEAN = math.sqrt(LARGEST_SQUARE)  # of an embedding


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        number: Number of the stage, from 1.
        expected: Number of contributions that end the stage, if the strategy names no other end;
            0: the stage does not end by their number.
        rank: Rank of the updates that travel; 0: updates of all weights.
        numbers: Number of entries in an embedding.
    """

    number: int
    expected: int
    rank: int
    numbers: int


class UniversalLoop(EventLoop):
    """The coordinator's side of one stage.

    Args:
        merging: How hospitals contribute.
        grid: Flower's grid.
        members: Hospitals that take part.
        ledger: Ledger of contributions; its current base is the stage's.
        assignment: What every hospital is asked to contribute.
        names: Names of the encoder's tensors in the network's order.
        stage: The stage.
        on_event: Called with every event.
    """

    def __init__(
        self,
        merging: Merging,
        grid: Grid,
        members: Members,
        ledger: Ledger,
        assignment: Assignment,
        names: Sequence[str],
        stage: Stage,
        on_event: Listener,
    ) -> None:
        expected = stage.expected
        super().__init__(merging, grid, members, ledger, assignment, names, expected, on_event)
        self._stage = stage
        layout = layout_of(self.base, stage.rank)
        self.requirements = replace(self.requirements, layout=layout)
        self.publisher.layout = layout
        self._contributors: set[str] = set()

    def gather(self) -> list[Entry]:
        """Collect contributions until the stage is over, and return those that count."""
        self.run()
        return self.publisher.entries()

    def on_change(self, why: str) -> None:
        """Record withdrawals; nothing is published before the stage is over.

        Args:
            why: arrival or withdrawal.
        """
        entries = self.publisher.entries()
        gone = self._contributors - {entry.site for entry in entries}
        self._contributors = {entry.site for entry in entries}
        self.merged = {entry.digest for entry in entries}
        for site in sorted(gone) if why == "withdrawal" else ():
            self.on_event(Withdrawn(site=site))

    def inspect(self, file: TensorFile, site: str) -> None:
        """Check the declaration of the task, and the statistics of the embeddings.

        Raises:
            ContributionRefused: One of them is missing or wrong.
        """
        if read_declaration(file.contribution.metrics) is None:
            raise ContributionRefused(
                f"{site}: the contribution does not say what kind of task it was trained for"
            )
        wanted = {MEAN: (self._stage.numbers,), COVARIANCE: (self._stage.numbers,) * 2}
        found = {name: file.statistic_shape(name) for name in file.statistics}
        if found != (wanted if EMBEDDING in self.assignment.statistics else {}):
            raise ContributionRefused(
                f"{site}: the contribution's statistics are not those that were asked for"
            )
        if COVARIANCE in found and (problem := fault_of_moments(file.statistic(COVARIANCE))):
            raise StatisticRefused(site, COVARIANCE, problem)
        if MEAN in found and float(file.statistic(MEAN).abs().max()) > LARGEST_MEAN:
            raise StatisticRefused(site, MEAN, f"has values beyond {LARGEST_MEAN:g}")
