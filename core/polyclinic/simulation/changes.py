"""Hospitals that join, leave or withdraw in the middle of a simulated run."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from polyclinic.errors import ConfigError
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
        for change in self.changes:
            if change.site not in self.nodes:
                known = ", ".join(sorted(self.nodes))
                raise ConfigError(f"changes: there is no hospital '{change.site}'. Known: {known}.")
            if change.action not in ACTIONS or change.count < 1:
                raise ConfigError(
                    f"changes: {change.site} is to '{change.action}' after {change.count} events: "
                    f"the action is one of {', '.join(ACTIONS)}, the count at least 1."
                )
        for site in away_at_start(self.changes):
            self.nodes[site].leave()

    def handle(self, kind: str, strategy: str) -> None:
        """Do what is to be done after an event."""
        for name in {"", strategy}:
            self._seen[kind, name] += 1
            for change in self.changes:
                moment = (change.after, change.strategy, change.count)
                if moment == (kind, name, self._seen[kind, name]):
                    self._do(change)

    def _do(self, change: Change) -> None:
        if change.action == "join":
            self.nodes[change.site].come_back()
        elif change.action == "leave":
            self.nodes[change.site].leave()
        else:
            with Ledger.open(self.ledger, create=False) as ledger:
                ledger.withdraw(change.site, "withdrawn in a simulation")
