"""Hospitals that join, leave or withdraw in the middle of a simulated run."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from polyclinic.errors import ConfigError
from polyclinic.federation.events import Event
from polyclinic.simulation.grid import MemoryNode
from polyclinic.store.ledger import Ledger

Action = Literal["join", "leave", "withdraw"]
ACTIONS: tuple[Action, ...] = ("join", "leave", "withdraw")


@dataclass(frozen=True)
class Change:
    """One hospital's part in the run begins or ends.

    Example:
        ```python
        # a hospital that comes after round 2 and one that leaves after round 3
        changes = [
            Change("st-john", "join", after="round_end", count=2),
            Change("general", "leave", after="round_end", count=3),
        ]
        ```

    Attributes:
        site: The hospital.
        action: "join": it comes, and is away before; "leave": it goes offline, and may join again;
            "withdraw": its contributions are withdrawn from the run's ledger.
        after: Kind of the event after which it happens, as events.jsonl names it: "round_end",
            "contribution", "published", "delivered" ...
        count: How often that must have happened, counted over the run.
        strategy: Name of the strategy whose events count; empty: of all.
    """

    site: str
    action: Action
    after: str = "round_end"
    count: int = 1
    strategy: str = ""


def check_changes(changes: Sequence[Change], sites: Collection[str]) -> None:
    """Refuse changes that cannot happen.

    Raises:
        ConfigError: A hospital or an action does not exist, or a count is below 1.
    """
    for change in changes:
        if change.site not in sites:
            known = ", ".join(sorted(sites))
            raise ConfigError(f"changes: there is no hospital '{change.site}'. Known: {known}.")
        if change.action not in ACTIONS or change.count < 1:
            raise ConfigError(
                f"changes: {change.site} is to '{change.action}' after {change.count} events: "
                f"the action is one of {', '.join(ACTIONS)}, the count at least 1."
            )


def away_at_start(changes: Sequence[Change]) -> set[str]:
    """Name the hospitals of which the first that is said is that they join."""
    first: dict[str, Action] = {}
    for change in changes:
        first.setdefault(change.site, change.action)
    return {site for site, action in first.items() if action == "join"}


@dataclass
class Schedule:
    """The changes of a run, each done once its moment has come.

    Attributes:
        changes: What is to happen.
        nodes: The hospitals by name.
        ledger: Folder of the run's ledger, for withdrawals.
    """

    changes: Sequence[Change]
    nodes: Mapping[str, MemoryNode]
    ledger: Path
    _seen: Counter[tuple[str, str]] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        for site in away_at_start(self.changes):
            self.nodes[site].leave()

    def replay(self, events: Iterable[Event]) -> None:
        """Put hospitals where they were when an earlier attempt ended; withdraw nothing again."""
        for event in events:
            for change in self._due(event.kind, event.arm):
                self._move(change)

    def handle(self, kind: str, strategy: str) -> None:
        """Do what is to be done after an event."""
        for change in self._due(kind, strategy):
            self._move(change)
            if change.action == "withdraw":
                with Ledger.open(self.ledger, create=False) as ledger:
                    ledger.withdraw(change.site, "withdrawn in a simulation")

    def _due(self, kind: str, strategy: str) -> list[Change]:
        """Count an event, and find the changes whose moment it is."""
        names = {"", strategy}
        for name in names:
            self._seen[kind, name] += 1
        return [
            change
            for change in self.changes
            if (change.after, change.count) == (kind, self._seen[kind, change.strategy])
            and change.strategy in names
        ]

    def _move(self, change: Change) -> None:
        if change.action == "join":
            self.nodes[change.site].come_back()
        elif change.action == "leave":
            self.nodes[change.site].leave()
