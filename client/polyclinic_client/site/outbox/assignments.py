"""What runs want of a hospital: the newest assignment of each strategy of each run."""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field

from polyclinic.system.durable import DIGEST
from polyclinic.system.text import json_digest
from polyclinic_client.site.outbox.files import read_values, write_values

EARLIER = "assignment.json"  # where versions before 0.2.0 kept the one that they knew
MOST = 50  # that are kept; those of runs that asked last stay
RECENT_S = 900.0  # a run that asks goes before one that has not asked for so long
FORGOTTEN_S = 30 * 86_400.0  # before the newest question: that run is over


class _Order(BaseModel):
    """What the outbox itself needs of an order."""

    run: str = ""
    arm: str = ""


class _Wanted(BaseModel):
    """What the outbox itself needs of an assignment; its worker reads all of it.

    `polyclinic.federation.assignment` would import torch, which the supervisor does without.
    """

    order: dict[str, Any]
    base: Annotated[str, Field(pattern=f"^{DIGEST.pattern}$")]
    ledger: Annotated[str, Field(pattern=f"^{DIGEST.pattern}$")]


@dataclass(frozen=True)
class Wanted:
    """An assignment.

    Attributes:
        name: Names run and strategy.
        values: The assignment.
        asked: When the run last asked, in seconds since 1970.
    """

    name: str
    values: dict[str, Any]
    asked: float

    @property
    def ledger(self) -> str:
        """Identity of the ledger that keeps contributions."""
        return str(self.values["ledger"])


class Assignments:
    """The assignments in a hospital's state folder.

    Args:
        state: The folder.
    """

    def __init__(self, state: Path) -> None:
        self._folder, self._earlier = state / "assignments", state / EARLIER

    def keep(self, values: dict[str, Any]) -> tuple[Wanted, list[str]]:
        """Keep what a run wants, and when it last said so.

        Returns:
            The assignment, and names of those that were forgotten: their runs are over.
        """
        name = name_of(values)
        path = self._folder / f"{name}.json"
        if read_values(path) != values:
            write_values(path, values)
        os.utime(path)
        if name_of(read_values(self._earlier)) == name:
            self._earlier.unlink(missing_ok=True)
        return Wanted(name, values, path.stat().st_mtime), self._forget()

    def all(self) -> list[Wanted]:
        """Return all assignments, those of runs that asked last first; damaged files are none."""
        found = {}
        for path in (self._earlier, *self._folder.glob("*.json")):
            values = read_values(path)
            with suppress(ValueError, OSError):
                _Wanted.model_validate(values)
                name = name_of(values)
                found[name] = Wanted(name, values, path.stat().st_mtime)
        return sorted(found.values(), key=lambda each: (-each.asked, each.name))

    def newest(self) -> Wanted | None:
        """Return the assignment of the run that asked last."""
        return next(iter(self.all()), None)

    def in_turn(self, worked: dict[str, float]) -> list[Wanted]:
        """Return the assignments in the order of work: runs that still ask first, by turns.

        Args:
            worked: When work was last done for an assignment, by its name.
        """
        known = self.all()
        newest = known[0].asked if known else 0.0
        return sorted(
            known,
            key=lambda each: (
                newest - each.asked > RECENT_S,
                worked.get(each.name, 0.0),
                each.name,
            ),
        )

    def _forget(self) -> list[str]:
        known = self.all()
        over = [
            each
            for place, each in enumerate(known)
            if place >= MOST or known[0].asked - each.asked > FORGOTTEN_S
        ]
        for each in over:
            (self._folder / f"{each.name}.json").unlink(missing_ok=True)
            if name_of(read_values(self._earlier)) == each.name:
                self._earlier.unlink(missing_ok=True)
        return [each.name for each in over]


def name_of(values: dict[str, Any]) -> str:
    """Return the name of an assignment: one for each strategy of each run."""
    try:
        order = _Order.model_validate(values.get("order"))
    except ValueError:
        return ""
    return json_digest([order.run, order.arm])[:32]
