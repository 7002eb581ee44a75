"""The coordinator's side of a stage: the event loop of merging takes contributions into the ledger, and publishes nothing on arrival."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from flwr.serverapp import Grid

from polyclinic.store.contribution import TensorFile
from polyclinic.store.ledger import Entry, Ledger
from polyclinic.store.refusals import ContributionDamaged, ContributionRefused
from polyclinic_strategies.merging.correspondence import Roster
from polyclinic_strategies.merging.event_loop import EventLoop, Tell
from polyclinic_strategies.merging.events import Withdrawn
from polyclinic_strategies.merging.messages import Assignment
from polyclinic_strategies.merging.strategy import Merging
from polyclinic_strategies.universal.exchange import EMBEDDING, layout_of, read_declaration
from polyclinic_strategies.universal.teaching.teachers import COVARIANCE, MEAN


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        number: From 1.
        expected: Contributions after which it is over, if the strategy names no other end; 0: never.
        rank: Of the updates that travel; 0: the whole encoder's.
        numbers: Of an embedding.
    """

    number: int
    expected: int
    rank: int
    numbers: int


class UniversalLoop(EventLoop):
    """See the module.

    Args:
        merging: How hospitals contribute.
        grid: Flower's grid.
        roster: Who takes part.
        ledger: What is known for good; its current base is the stage's.
        assignment: What every hospital is asked for.
        names: The encoder's tensors in the network's order.
        stage: Which, and what it expects.
        tell: Told what happens.
    """

    def __init__(
        self, merging: Merging, grid: Grid, roster: Roster, ledger: Ledger, assignment: Assignment, names: Sequence[str], stage: Stage,
        tell: Tell,
    ) -> None:  # fmt: skip
        super().__init__(merging, grid, roster, ledger, assignment, names, stage.expected, tell)
        self._stage = stage
        self.requirements = replace(self.requirements, layout=layout_of(self.base, stage.rank))
        self._contributors: set[str] = set()

    def gather(self) -> list[Entry]:
        """Ask and take in until the stage is over; returns what counts."""
        self.run()
        return self.publisher.entries()

    def on_change(self, why: str) -> None:
        """Nothing: the next encoder is made once the stage is over. A withdrawal is told."""
        entries = self.publisher.entries()
        gone = self._contributors - {entry.site for entry in entries}
        self._contributors = {entry.site for entry in entries}
        self.merged = {entry.digest for entry in entries}
        for site in sorted(gone) if why == "withdrawal" else ():
            self.tell(Withdrawn(site=site))

    def check_contribution(self, path: Path, site: str) -> None:
        """Statistics and declaration, without which nobody could teach."""
        try:
            opened = TensorFile(path)
        except ContributionDamaged:
            return  # the ledger refuses it, and keeps why
        with opened as file:
            if read_declaration(file.contribution.metrics) is None:
                raise ContributionRefused(
                    f"{site}: the contribution does not say what kind of task it was trained for"
                )
            wanted = {MEAN: (self._stage.numbers,), COVARIANCE: (self._stage.numbers,) * 2}
            found = {name: tuple(file.statistic(name).shape) for name in file.statistics}
            if found != (wanted if EMBEDDING in self.assignment.statistics else {}):
                raise ContributionRefused(
                    f"{site}: the contribution's statistics are not those that were asked for"
                )
